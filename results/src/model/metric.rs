// SPDX-License-Identifier: Apache-2.0
//! Names of the figures by which runs are judged and kernels compared: one number a run, and less is
//! better.

use std::collections::BTreeMap;

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
    /// The furthest that a thread was behind within a second, in nanoseconds
    /// (`service_lag.windows[].max_ns`).
    LagMax,
    /// In 99 % of the time wanted threads were no more behind, in nanoseconds
    /// (`service_lag.windows[].p99_ns`).
    LagP99,
    /// 90 % of wake-ups came at most so late, in nanoseconds (`statistics.wakeup.p90_ns`).
    WakeupP90,
    /// Half of the gaps were at most so long, in nanoseconds, each counted once
    /// (`statistics.quantiles.p50_ns`).
    GapP50,
    /// The same of 99 % (`statistics.quantiles.p99_ns`).
    GapP99,
    /// P(wait > 10 ms) of a request at a random moment (`statistics.wait_exceeds`).
    #[serde(rename = "wait-over-10ms")]
    WaitOver10Ms,
    /// Part of the time wanted that the host took, by gaps of its class (`steal.share`).
    Steal,
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
    pub const ALL: [Self; 20] = [
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
        Self::LagMax,
        Self::LagP99,
        Self::WakeupP90,
        Self::GapP50,
        Self::GapP99,
        Self::WaitOver10Ms,
        Self::Steal,
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
            Self::LagMax => "lag-max",
            Self::LagP99 => "lag-p99",
            Self::WakeupP90 => "wakeup-p90",
            Self::GapP50 => "gap-p50",
            Self::GapP99 => "gap-p99",
            Self::WaitOver10Ms => "wait-over-10ms",
            Self::Steal => "steal",
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
            Self::LagMax => "furthest that a thread was behind its due within a second",
            Self::LagP99 => "99 % of the time wanted, threads were no more behind within a second",
            Self::WakeupP90 => "90th percentile of wake-up latencies",
            Self::GapP50 => "median length of gaps",
            Self::GapP99 => "99th percentile of lengths of gaps",
            Self::WaitOver10Ms => "probability that a request waits for more than 10 ms",
            Self::Steal => "share of the time wanted that the host took",
        }
    }

    /// What it is a number of.
    pub fn quantity(self) -> Quantity {
        match self {
            Self::GapShare | Self::ForcedIdle | Self::WaitOver10Ms | Self::Steal => Quantity::Share,
            _ => Quantity::LengthNs,
        }
    }
}

/// All of these figures of a run: nanoseconds, and parts of 1; `None` is what it does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Summary(pub BTreeMap<Metric, Option<f64>>);

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
