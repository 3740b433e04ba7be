// SPDX-License-Identifier: Apache-2.0
//! Figures of a run by which kernels are compared: one number a trial, and less is better.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Answer, RunResult};

/// A figure of a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// 99 % of the time in gaps was in gaps of at most this length, in nanoseconds; waits after
    /// wake-ups are among them (`statistics.time_quantiles.p99_ns`).
    WaitP99,
    /// The same of half of the time (`statistics.time_quantiles.p50_ns`).
    WaitP50,
    /// What somebody who comes at a random moment waits, in nanoseconds (`statistics.mean_wait_ns`).
    MeanWait,
    /// Part of the time wanted that was spent in gaps, of 1 (`statistics.gap_share`).
    GapShare,
    /// The longest gap in nanoseconds: a maximum, to be compared between runs of equal length only
    /// (`longest_gap_ns`).
    Longest,
    /// 99 % of wake-ups came at most so late, in nanoseconds (`statistics.wakeup.p99_ns`).
    WakeupP99,
    /// Part of the time for which cookies kept CPUs idle, of 1, where that is a measurement
    /// (`forced_idle.share`).
    ForcedIdle,
}

/// What a figure is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Nanoseconds.
    LengthNs,
    /// Parts of 1.
    Share,
}

impl Metric {
    /// All, the default one first.
    pub const ALL: [Self; 7] = [
        Self::WaitP99,
        Self::WaitP50,
        Self::MeanWait,
        Self::GapShare,
        Self::Longest,
        Self::WakeupP99,
        Self::ForcedIdle,
    ];

    /// As in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitP99 => "wait-p99",
            Self::WaitP50 => "wait-p50",
            Self::MeanWait => "mean-wait",
            Self::GapShare => "gap-share",
            Self::Longest => "longest",
            Self::WakeupP99 => "wakeup-p99",
            Self::ForcedIdle => "forced-idle",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// In words, for who does not know the name.
    pub fn words(self) -> &'static str {
        match self {
            Self::WaitP99 => "time-weighted 99th percentile of waits, wake-ups in it",
            Self::WaitP50 => "time-weighted median of waits, wake-ups in it",
            Self::MeanWait => "mean wait of who comes at a random moment",
            Self::GapShare => "share of the time wanted that was waited",
            Self::Longest => "longest wait of a run",
            Self::WakeupP99 => "99th percentile of wake-up latencies",
            Self::ForcedIdle => "share of forced idle time",
        }
    }

    /// What it is a number of.
    pub fn quantity(self) -> Quantity {
        match self {
            Self::GapShare | Self::ForcedIdle => Quantity::Share,
            _ => Quantity::LengthNs,
        }
    }

    /// All that a run tells.
    pub fn all_of(result: &RunResult) -> BTreeMap<Self, f64> {
        Self::ALL.into_iter().filter_map(|metric| Some((metric, metric.of(result)?))).collect()
    }

    /// It of a run; `None` where the run does not tell.
    pub fn of(self, result: &RunResult) -> Option<f64> {
        let figures = &result.statistics;
        match self {
            // Nothing is the best that there is.
            Self::WaitP99 | Self::WaitP50 | Self::Longest if has_no_gap(result) => Some(0.0),
            Self::WaitP99 => figures.time_quantiles?.p99_ns.map(as_float),
            Self::WaitP50 => figures.time_quantiles?.p50_ns.map(as_float),
            Self::MeanWait => figures.mean_wait_ns,
            Self::GapShare => figures.gap_share,
            Self::Longest => result.longest_gap_ns.map(as_float),
            Self::WakeupP99 => figures.wakeup?.p99_ns.map(as_float),
            Self::ForcedIdle => result.forced_idle.share.filter(|_| result.core_figures.measured),
        }
    }
}

/// It measured to its end, and nobody waited.
fn has_no_gap(result: &RunResult) -> bool {
    let whole = matches!(result.verdict, Answer::Pass | Answer::Measured);
    whole && result.longest_gap_ns.is_none() && result.statistics.time_quantiles.is_none()
}

/// Lengths up to 104 days are exact.
#[allow(clippy::cast_precision_loss)]
fn as_float(ns: u64) -> f64 {
    ns as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn names_are_those_in_files() {
        for metric in Metric::ALL {
            let written = serde_json::json!(metric);
            assert_eq!(written, metric.name());
            assert_eq!(Metric::named(metric.name()), Some(metric));
        }
        assert_eq!(Metric::named("p99"), None);
    }

    #[test]
    fn figures_are_the_results_own() {
        let mut result = testing::result("user");
        let found = Metric::Longest.of(&result).expect("a longest gap");
        assert_eq!(found.to_string(), result.longest_gap_ns.expect("one").to_string());
        let quantiles = result.statistics.time_quantiles.expect("gaps");
        let p50 = quantiles.p50_ns.map(|ns| ns.to_string());
        assert_eq!(Metric::WaitP50.of(&result).map(|ns| ns.to_string()), p50);
        assert_eq!(Metric::GapShare.of(&result), result.statistics.gap_share);
        result.forced_idle.share = Some(0.25);
        result.core_figures.measured = true;
        assert_eq!(Metric::ForcedIdle.of(&result), Some(0.25));
        result.core_figures.measured = false;
        assert_eq!(Metric::ForcedIdle.of(&result), None, "an emulated core has no such figure");
        result.statistics.time_quantiles = None;
        assert_eq!(Metric::WaitP99.of(&result), None);
        // Nobody waited at all; or nobody knows.
        (result.longest_gap_ns, result.verdict) = (None, Answer::Measured);
        assert_eq!(Metric::WaitP99.of(&result), Some(0.0));
        assert_eq!(Metric::Longest.of(&result), Some(0.0));
        result.verdict = Answer::Untestable;
        assert_eq!(Metric::Longest.of(&result), None);
    }
}
