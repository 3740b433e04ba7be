// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench spread`: the main job again and again in the simulated host, where nothing but
//! the load's own chance makes one run differ from the next, and how far its figures spread.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use results::metric::{Metric, Quantity};
use results::saved;
use serde::Serialize;
use testhost::kernel;

use crate::median;
use crate::validity::run_in_host;

/// A run and its share of the host's boot, on a busy machine.
const TIMEOUT_OF_RUN: Duration = Duration::from_secs(8 * 60);
/// What a run is asked for beside its seed. Nothing ends it early.
const OPTIONS: &str = "--kernel /bzImage --memory 512M --pin 0,1,2,3 --boot-timeout 120s \
                       --duration 3s --threshold off --noise off --trace off --output r --json";
/// Seconds of the simulated machine's time that a run may take; it takes 25.
const LIMIT_S: u32 = 120;

/// Findings.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The format of this object.
    pub schema: &'static str,
    /// Ticks of the simulated machine's clock that all of it took.
    pub ticks: Option<u64>,
    /// Of each figure that runs have.
    pub figures: Vec<Figure>,
}

/// A figure of all runs.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// Which.
    pub metric: Metric,
    /// Of each run, in their order: run n has seed n. In nanoseconds, or of 1.
    pub values: Vec<f64>,
}

/// Runs it with the seeds 1 to `runs`, all in one boot of the host.
///
/// # Errors
/// The host cannot be had, or a run left no result.
pub fn run(runs: u32) -> Result<Report> {
    let out = tempfile::tempdir().context("cannot make a temporary folder")?;
    let kernel = kernel::ensure(kernel::Wanted::default())?;
    let ended = run_in_host(&script(runs), out.path(), &kernel, TIMEOUT_OF_RUN * (runs + 1))?;
    let runs = (1..=runs).map(|seed| read(out.path(), seed)).collect::<Result<Vec<_>>>()?;
    let figures = Metric::SHOWN.into_iter().filter_map(|metric| {
        let values = runs.iter().map(|run| metric.of(run)).collect::<Option<Vec<f64>>>()?;
        Some(Figure { metric, values })
    });
    Ok(Report { schema: "schedvmm-bench-spread/1", ticks: ended.ticks, figures: figures.collect() })
}

fn script(runs: u32) -> String {
    let mut text = String::new();
    for seed in 1..=runs {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "echo run {seed} of {runs}\ntimeout -s KILL {LIMIT_S} schedvmm {OPTIONS} --seed {seed} \
             > {seed}.json 2> {seed}.err < /dev/null\nrm -rf r\n"
        );
    }
    text + "exit 0\n"
}

fn read(out: &Path, seed: u32) -> Result<results::model::RunResult> {
    let printed = fs::read_to_string(out.join(format!("{seed}.json"))).unwrap_or_default();
    saved::printed(&printed).with_context(|| {
        let said = fs::read_to_string(out.join(format!("{seed}.err"))).unwrap_or_default();
        format!("run {seed} left no result: {}", said.lines().last().unwrap_or("nothing on stderr"))
    })
}

impl Figure {
    /// The least and the greatest, in parts of the median.
    fn spread(&self) -> Option<(f64, f64)> {
        let middle = median(self.values.iter().copied()).filter(|middle| *middle > 0.0)?;
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.values.iter().copied().fold(0.0, f64::max);
        Some((least / middle, most / middle))
    }

    fn show(&self, value: f64) -> String {
        match self.metric.quantity() {
            Quantity::LengthNs => format!("{:.2} ms", value / 1e6),
            Quantity::Share => format!("{:.2} %", 100.0 * value),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>12}{:>12}{:>12}   of the median",
            "figure", "least", "median", "most"
        )?;
        for figure in &self.figures {
            let mut sorted = figure.values.clone();
            sorted.sort_by(f64::total_cmp);
            let show =
                |value: Option<f64>| value.map_or("-".to_owned(), |value| figure.show(value));
            write!(
                f,
                "{:<12}{:>12}{:>12}{:>12}",
                figure.metric.name(),
                show(sorted.first().copied()),
                show(median(sorted.iter().copied())),
                show(sorted.last().copied())
            )?;
            match figure.spread() {
                Some((least, most)) => writeln!(f, "   {least:.3} to {most:.3}")?,
                None => writeln!(f, "   -")?,
            }
        }
        let runs = self.figures.first().map_or(0, |figure| figure.values.len());
        write!(f, "{runs} runs")?;
        match self.ticks {
            Some(ticks) => write!(f, "; {} million ticks", ticks / 1_000_000),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_a_seed_of_its_own_and_a_time_limit() {
        let script = script(3);
        for seed in 1..=3 {
            assert_eq!(script.matches(&format!(" --seed {seed} ")).count(), 1, "{script}");
        }
        assert_eq!(script.matches("timeout -s KILL").count(), 3);
    }

    #[test]
    fn a_spread_is_told_in_parts_of_the_median() {
        let figure = Figure { metric: Metric::Longest, values: vec![40e6, 50e6, 60e6] };
        assert_eq!(figure.spread(), Some((0.8, 1.2)));
        let none = Figure { metric: Metric::ForcedIdle, values: vec![0.0, 0.0] };
        assert_eq!(none.spread(), None);
        let report = Report { schema: "x", ticks: Some(2_000_000), figures: vec![figure, none] };
        let text = report.to_string();
        assert!(text.contains("longest") && text.contains("0.800 to 1.200"), "{text}");
        assert!(text.ends_with("3 runs; 2 million ticks"), "{text}");
    }

    #[test]
    fn a_run_without_a_result_is_named_with_its_last_words() {
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join("2.err"), "a note\nno such kernel\n").unwrap();
        let error = format!("{:#}", read(out.path(), 2).unwrap_err());
        assert!(error.contains("run 2 left no result: no such kernel"), "{error}");
    }
}
