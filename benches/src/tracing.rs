// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench tracing`: what tracing does to what is measured. The same load with tracing
//! off and on, in turns, on the kernel of this machine: the median gap of each.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use results::saved;
use serde::Serialize;

use super::{as_f64, median};
use testhost::{artifacts, process};

/// Longer than this a run hangs: it measures for [`MEASURED`].
const DEADLINE: Duration = Duration::from_secs(60);
/// Length of one run, as an option: a thousand gaps of each thread.
const MEASURED: &str = "5s";
/// Threads that never pause, so that gaps are the turns of the others and nothing else.
const LOAD: [&str; 4] = ["--preset", "busy", "--threshold", "off"];

/// Finding and its limit.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The format of this object.
    pub schema: &'static str,
    /// Median gap of each run without tracing.
    pub off_ns: Vec<f64>,
    /// Median gap of each run with tracing; each followed or preceded one without.
    pub on_ns: Vec<f64>,
    /// The middle run without tracing.
    pub off_median_ns: f64,
    /// The middle run with tracing.
    pub on_median_ns: f64,
    /// By how much tracing changes the median gap.
    pub change_percent: f64,
    /// How far the middle half of the runs without tracing lie apart: below that, nothing is told.
    pub spread_percent: f64,
    /// Limit of the change, up or down.
    pub limit_percent: f64,
}

/// Measures `pairs` times.
///
/// # Errors
/// schedvmm cannot be built or run, or cannot trace here.
pub fn run(pairs: u32) -> Result<Report> {
    ensure!(pairs > 0, "no runs are no measurement: give --runs 1 or more");
    let schedvmm = artifacts::schedvmm()?;
    let (mut off_ns, mut on_ns) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        // In turns, so that whoever else is on the machine is there for both.
        let order = if pair % 2 == 0 { [false, true] } else { [true, false] };
        for traced in order {
            let ns = median_gap_ns(&schedvmm, traced)?;
            if traced { &mut on_ns } else { &mut off_ns }.push(ns);
        }
    }
    let (off_median_ns, on_median_ns) = (middle(&off_ns)?, middle(&on_ns)?);
    Ok(Report {
        schema: "schedvmm-bench-tracing/1",
        change_percent: 100.0 * (on_median_ns / off_median_ns - 1.0),
        spread_percent: 100.0 * middle_half(&off_ns) / off_median_ns,
        limit_percent: 2.0,
        off_ns,
        on_ns,
        off_median_ns,
        on_median_ns,
    })
}

fn middle(runs: &[f64]) -> Result<f64> {
    median(runs.iter().copied()).context("no runs")
}

/// One run; the median of all its gaps.
fn median_gap_ns(schedvmm: &Path, traced: bool) -> Result<f64> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut command = Command::new(schedvmm);
    command.args(["host", "--json", "--noise", "off", "--duration", MEASURED]).args(LOAD);
    command.args(["--trace", if traced { "on" } else { "off" }]);
    command.arg("--output").arg(folder.path());
    let (status, text) = process::capture(&mut command, DEADLINE)?;
    let line = process::command_line(&command);
    ensure!(status.success(), "`{line}` ended with {status}: {text}");
    let result = saved::printed(&text).context("schedvmm printed no result")?;
    let setup = result.setup.as_ref().context("the result tells of no setup")?;
    let events = setup.trace_events.len();
    if (events > 0) != traced {
        bail!(
            "tracing was asked to be {traced} and {events} events were traced: {}; this needs \
             root and tracefs",
            setup.trace_note.as_deref().unwrap_or("the result does not say why")
        );
    }
    let quantiles = result.statistics.quantiles.as_ref();
    let p50_ns = quantiles.and_then(|quantiles| quantiles.p50_ns).filter(|ns| *ns > 0);
    p50_ns.map(as_f64).with_context(|| format!("no gaps in `{line}`"))
}

/// From the lower quartile to the upper one, both by nearest rank.
fn middle_half(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    at_rank((3 * sorted.len()).div_ceil(4).saturating_sub(1), &sorted)
        - at_rank(sorted.len().div_ceil(4).saturating_sub(1), &sorted)
}

fn at_rank(rank: usize, sorted: &[f64]) -> f64 {
    sorted.get(rank).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.off_ns.len();
        writeln!(f, "median gap, tracing off {:>9.4} ms ({count} runs)", self.off_median_ns / 1e6)?;
        writeln!(f, "median gap, tracing on  {:>9.4} ms ({count} runs)", self.on_median_ns / 1e6)?;
        writeln!(f, "spread of runs without  {:>9.2} %", self.spread_percent)?;
        write!(
            f,
            "change                  {:>+9.2} % (at most {} either way)",
            self.change_percent, self.limit_percent
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_half_leaves_a_quarter_at_each_end() {
        assert_eq!(middle_half(&[]), 0.0);
        assert_eq!(middle_half(&[5.0]), 0.0);
        assert_eq!(middle_half(&[8.0, 1.0, 2.0, 4.0]), 3.0);
    }
}
