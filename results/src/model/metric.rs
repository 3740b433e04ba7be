// SPDX-License-Identifier: Apache-2.0
//! Names of the figures by which runs are judged and kernels compared: one number a run, and less is
//! better.

use serde::{Deserialize, Serialize};

/// A figure of a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// 99 % of the time in gaps was in gaps of at most this length, in nanoseconds; waits after
    /// wake-ups are among them (`statistics.time_quantiles.p99_ns`).
    WaitP99,
    /// The same of half of the time (`statistics.time_quantiles.p50_ns`).
    WaitP50,
    /// The same of 90 % (`statistics.time_quantiles.p90_ns`).
    WaitP90,
    /// The same of 99.9 % (`statistics.time_quantiles.p999_ns`).
    WaitP999,
    /// How long a request at a random moment waits, in nanoseconds (`statistics.mean_wait_ns`).
    MeanWait,
    /// Part of the time wanted that was spent in gaps, of 1 (`statistics.gap_share`).
    GapShare,
    /// The longest gap in nanoseconds: a maximum, to be compared between runs of equal length only
    /// (`longest_gap_ns`).
    Longest,
    /// 99 % of wake-ups came at most so late, in nanoseconds (`statistics.wakeup.p99_ns`).
    WakeupP99,
    /// Half of them (`statistics.wakeup.p50_ns`).
    WakeupP50,
    /// 99.9 % of them (`statistics.wakeup.p999_ns`).
    WakeupP999,
    /// The latest one in nanoseconds, one that never came among them (the greatest
    /// `threads[].report.wakeup_longest_ns` or `wakeup_due_ns`).
    WakeupMax,
    /// The most that a thread fell behind its fair share, in nanoseconds, in whatever window that
    /// fits into the run (`statistics.largest_lag`).
    Lag,
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
    /// All, those that are shown first.
    pub const ALL: [Self; 13] = [
        Self::WaitP99,
        Self::WaitP50,
        Self::MeanWait,
        Self::GapShare,
        Self::Longest,
        Self::WakeupP99,
        Self::ForcedIdle,
        Self::WaitP90,
        Self::WaitP999,
        Self::WakeupP50,
        Self::WakeupP999,
        Self::WakeupMax,
        Self::Lag,
    ];
    /// Those that are shown of several trials, and compared beside the one that decides: each one
    /// more makes what is found of the others less certain. The default one is the first.
    pub const SHOWN: [Self; 7] = {
        let [a, b, c, d, e, f, g, ..] = Self::ALL;
        [a, b, c, d, e, f, g]
    };

    /// As in options and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::WaitP99 => "wait-p99",
            Self::WaitP50 => "wait-p50",
            Self::MeanWait => "mean-wait",
            Self::GapShare => "gap-share",
            Self::Longest => "longest",
            Self::WaitP90 => "wait-p90",
            Self::WaitP999 => "wait-p999",
            Self::WakeupP99 => "wakeup-p99",
            Self::WakeupP50 => "wakeup-p50",
            Self::WakeupP999 => "wakeup-p999",
            Self::WakeupMax => "wakeup-max",
            Self::Lag => "lag",
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
            Self::MeanWait => "mean wait of a request at a random moment",
            Self::GapShare => "share of the time wanted that was waited",
            Self::Longest => "longest wait of a run",
            Self::WaitP90 => "time-weighted 90th percentile of waits, wake-ups in it",
            Self::WaitP999 => "time-weighted 99.9th percentile of waits, wake-ups in it",
            Self::WakeupP99 => "99th percentile of wake-up latencies",
            Self::WakeupP50 => "median of wake-up latencies",
            Self::WakeupP999 => "99.9th percentile of wake-up latencies",
            Self::WakeupMax => "longest wake-up latency",
            Self::Lag => "most that a thread fell behind its fair share",
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
}

/// What a run has of a figure with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitFinding {
    /// The figure.
    pub metric: Metric,
    /// It may be this, and no more: nanoseconds, or parts of 1.
    pub bound: f64,
    /// What it is; `None` where the run does not tell.
    pub value: Option<f64>,
    /// The least that it can be without what may be the host's.
    pub least: Option<f64>,
    /// What that comes to.
    pub outcome: LimitOutcome,
}

/// What a figure with a limit comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitOutcome {
    /// It is not over the limit, whatever the host did.
    Kept,
    /// It is over the limit, whatever the host did.
    Exceeded,
    /// It is over the limit, and need not be without what may be the host's.
    Doubtful,
    /// The run does not tell it.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_in_files() {
        for metric in Metric::ALL {
            let written = serde_json::json!(metric);
            assert_eq!(written, metric.name());
            assert_eq!(Metric::named(metric.name()), Some(metric));
        }
        assert_eq!(Metric::named("p99"), None);
    }
}
