// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench validity`: figures whose answer is known beforehand, measured by the product
//! in the simulated host, where latencies are no noise of this machine.
//!
//! All runs on a kernel share one boot of the host (`cases`); what they leave becomes rows (`rows`).

mod cases;
mod rows;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use self::cases::{CASES, Case};
pub use self::rows::Row;
use testhost::artifacts;
use testhost::host::{Ended, HostRun, Simulated, TestHost};
use testhost::kernel::{self, Variant};

/// The suite in the host, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(40 * 60);
/// A case says its name when it begins; the longest is a boot of a guest.
const SILENCE: Duration = Duration::from_secs(20 * 60);

/// Findings.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The format of this object.
    pub schema: &'static str,
    /// Whether the cases that take longest were left out.
    pub short: bool,
    /// Whether all rows are within their bounds.
    pub ok: bool,
    /// Ticks of the simulated machine's clock that it took.
    pub ticks: Option<u64>,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// Runs the cases on the 6.12 test kernel, and those of a kernel with a known regression on that.
///
/// # Errors
/// The host cannot be had or is lost. What the product fails to measure is a row out of bounds.
pub fn run(short: bool) -> Result<Report> {
    let (mut rows, mut ticks) = (Vec::new(), Some(0u64));
    for variant in [Variant::Test, Variant::YieldRunsAway] {
        let of_kernel = CASES.iter().filter(|case| case.kernel == variant);
        let cases: Vec<&Case> = of_kernel.filter(|case| !(short && case.is_long)).collect();
        if cases.is_empty() {
            continue;
        }
        let out = tempfile::tempdir().context("cannot make a temporary folder")?;
        let kernel = kernel::ensure_variant(kernel::Wanted::default(), variant)?;
        let run = run_in_host(&cases::script(&cases), out.path(), &kernel, TIMEOUT)?;
        rows.extend(cases.iter().flat_map(|case| case.rows(out.path())));
        ticks = ticks.zip(run.ticks).map(|(sum, ticks)| sum + ticks);
    }
    Ok(Report {
        schema: "schedvmm-bench-validity/2",
        short,
        ok: rows.iter().all(|row| row.ok),
        ticks,
        rows,
    })
}

/// Runs a script in the simulated host on this kernel. What it leaves in its working directory goes to
/// `out`; what it says, to stderr.
pub(crate) fn run_in_host(
    script: &str,
    out: &Path,
    kernel: &Path,
    timeout: Duration,
) -> Result<HostRun> {
    let host = TestHost::builder()
        .xtask(std::env::current_exe()?)
        .schedvmm(artifacts::schedvmm()?)
        .kernel(kernel)
        .simulated(Simulated::default())
        .out(out)
        .timeout(timeout)
        .silence(SILENCE)
        .forward_signals();
    let run = host.run(["sh", "-c", script], |_, bytes| {
        eprint!("{}", String::from_utf8_lossy(bytes));
    })?;
    if run.ended != Ended::Exited(0) {
        bail!("the suite ended with status {} in the simulated host", run.ended.code());
    }
    Ok(run)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Row::HEADING)?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        let good = self.rows.iter().filter(|row| row.ok).count();
        write!(f, "{good} of {} rows within their bounds", self.rows.len())?;
        match self.ticks {
            Some(ticks) => write!(f, "; {} million ticks", ticks / 1_000_000),
            None => Ok(()),
        }
    }
}
