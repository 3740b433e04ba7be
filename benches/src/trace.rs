// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench trace`: how fast a trace is read and explained, against trace-cmd on the
//! same trace. The measuring is in `ftrace/examples/bench.rs`.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;

use testhost::{artifacts, process};

/// A release build from nothing and a minute of measuring.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Measures on a trace.dat, or on one that it makes; the example prints the figures.
///
/// # Errors
/// It could not be built or started.
pub fn run(trace: Option<&Path>, runs: u32, json: bool) -> Result<ExitStatus> {
    let mut command = artifacts::cargo();
    command.args(["run", "--quiet", "--release", "--package", "ftrace", "--example", "bench"]);
    command.args(["--", "--runs"]).arg(runs.to_string());
    if json {
        command.arg("--json");
    }
    command.args(trace);
    process::run_shown(&mut command, "the trace benchmark", DEADLINE, |_| {})
}
