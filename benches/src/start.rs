// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench start`: from the start of a process to its guest's first instruction,
//! 4 vCPUs, on this machine's own KVM. The measuring is in `vmm/examples/start_latency.rs`.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;

use testhost::{artifacts, process};

/// A release build from nothing and a second of measuring.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Measures `runs` starts; the example prints them.
///
/// # Errors
/// It could not be built or started.
pub fn run(runs: u32, json: bool) -> Result<ExitStatus> {
    let mut command = artifacts::cargo();
    command.args(["run", "--quiet", "--release", "--package", "vmm", "--example", "start_latency"]);
    command.arg("--").arg(runs.to_string());
    if json {
        command.arg("--json");
    }
    process::run_shown(&mut command, "the start benchmark", DEADLINE, |_| {})
}
