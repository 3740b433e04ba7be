// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench analyse`: what it takes to make a result of ten million gaps.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use testhost::{artifacts, process};

/// A release build of the tests from nothing, and ten million gaps.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Does what a run does at its end; where it measures is no part of the product.
const TEST: &str = "analysis::many_gaps_tests::a_result_of_many_gaps_has_all_of_them";
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
/// The release build of schedvmm's tests cannot be made or run.
pub fn run() -> Result<Report> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let report = folder.path().join("report.json");
    let mut command = artifacts::cargo();
    command.args(["test", "--quiet", "--release", "--package", "schedvmm", "--bin", "schedvmm"]);
    command.args(["--", "--exact", TEST]);
    command.env("SCHEDVMM_BENCH_RECORDS", RECORDS).env("SCHEDVMM_BENCH_REPORT", &report);
    let (status, text) = process::capture(&mut command, DEADLINE)?;
    ensure!(status.success(), "the test `{TEST}` ended with {status}: {text}");
    let json = fs::read_to_string(&report)
        .with_context(|| format!("the test `{TEST}` wrote no report: {text}"))?;
    let measured = serde_json::from_str(&json)
        .with_context(|| format!("the test `{TEST}` wrote no JSON: {json}"))?;
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
