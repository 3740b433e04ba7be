// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench analyse`: what it takes to make a result of ten million gaps.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{artifacts, process};

/// Longer than this it hangs.
const DEADLINE: Duration = Duration::from_secs(300);
/// Gaps of the run that is made up.
const RECORDS: &str = "10000000";

/// What was found, and what it must not exceed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The format of this object.
    pub schema: &'static str,
    #[serde(flatten)]
    measured: Measured,
    /// See `reported_ms`.
    pub limit_ms: u64,
    /// See `peak_kib`.
    pub limit_kib: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    /// Gaps.
    records: u64,
    /// Until every statistic is there.
    analysed_ms: u64,
    /// Until result.json and gaps.hlog are written, too.
    reported_ms: u64,
    /// CPU time that it took: less than that where others are on the machine.
    cpu_ms: u64,
    /// The most memory the process had until then, the gaps included.
    peak_kib: u64,
    /// To write gaps.csv, which a run does meanwhile, second by second.
    gaps_csv_ms: u64,
}

/// Measures.
///
/// # Errors
/// schedvmm cannot be built or run.
pub fn run() -> Result<Report> {
    let schedvmm = artifacts::schedvmm()?;
    let folder = std::env::temp_dir().join(format!("schedvmm-bench-{}", std::process::id()));
    let mut command = Command::new(schedvmm);
    command.args(["bench-analyse", "--records", RECORDS, "--output"]).arg(&folder);
    let ran = process::capture(&mut command, DEADLINE);
    // It may never have been made.
    let _ = std::fs::remove_dir_all(&folder);
    let (status, text) = ran?;
    ensure!(status.success(), "schedvmm bench-analyse ended with {status}: {text}");
    let measured = serde_json::from_str(&text)
        .with_context(|| format!("schedvmm bench-analyse printed no JSON: {text}"))?;
    let schema = "schedvmm-bench-analyse/1";
    Ok(Report { schema, measured, limit_ms: 2000, limit_kib: 1 << 20 })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { records, analysed_ms, reported_ms, cpu_ms, peak_kib, gaps_csv_ms } =
            &self.measured;
        writeln!(f, "gaps                  {records:>9}")?;
        writeln!(f, "analysed in           {analysed_ms:>9} ms")?;
        writeln!(f, "and reported in       {reported_ms:>9} ms (at most {})", self.limit_ms)?;
        writeln!(f, "CPU time of that      {cpu_ms:>9} ms")?;
        writeln!(
            f,
            "memory at most        {:>9} MiB (at most {})",
            peak_kib >> 10,
            self.limit_kib >> 10
        )?;
        write!(f, "gaps.csv beside that  {gaps_csv_ms:>9} ms")
    }
}
