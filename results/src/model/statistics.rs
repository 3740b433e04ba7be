// SPDX-License-Identifier: Apache-2.0
//! Figures of gaps.

use gaps::evidence::Class;
use gaps::record::GapKind;
use gaps::stats::{Quantiles, Starvation};
use serde::{Deserialize, Serialize};

use super::gap::Numbers;

/// Where figures come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FigureSource {
    /// Every single gap.
    #[default]
    Records,
    /// The histogram, because the record memory was full: lengths are up to 1.6 % too high.
    Histogram,
    /// The records that had arrived when the measurement ended early: gaps are missing.
    Partial,
}

/// What the gaps of some threads come to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// Where they come from.
    pub source: FigureSource,
    /// Time in which these threads wanted to run; what the shares below are of.
    pub wanted_ns: u64,
    /// Time they had waited in gaps that were open when the run was ended by another one: part of
    /// `gap_share`, of waits and of lags, and of no gap's length.
    pub open_ns: u64,
    /// Gaps in a second of that time.
    pub gaps_per_s: Option<f64>,
    /// Of the time in gaps, by their length; `None` without any.
    pub time_quantiles: Option<Quantiles>,
    /// Of the lengths of gaps; `None` without any.
    pub quantiles: Option<Quantiles>,
    /// Part of the time wanted that was spent in gaps.
    pub gap_share: Option<f64>,
    /// How long a request at a random moment waits.
    pub mean_wait_ns: Option<f64>,
    /// P(wait > x) for the same.
    pub wait_exceeds: Vec<WaitExceeds>,
    /// Gaps that are long enough to count as starvation.
    pub starvation: Starvation,
    /// Only where all records are there and all threads are due the same, and of windows that
    /// fit into the run.
    pub largest_lag: Vec<Lag>,
    /// By who took the time; classes without a gap are left out.
    pub classes: Vec<ClassShare>,
    /// By what the threads had done before; kinds without a gap are left out, and all where not
    /// every gap has a record.
    pub kinds: Vec<KindShare>,
    /// Of wake-up delays; `None` where nobody was woken.
    pub wakeup: Option<Quantiles>,
}

/// One point of the curve.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WaitExceeds {
    /// x.
    pub wait_ns: u64,
    /// P(wait > x).
    pub probability: f64,
}

/// The most that a thread fell behind its fair share in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Length of the window.
    pub window_ns: u64,
    /// How far it fell behind.
    pub lag_ns: u64,
}

/// How far threads were behind an ideal that divides the CPUs at each instant, by weight, among those
/// that want to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLag {
    /// Within times of several lengths, rising; the last one is the whole run.
    pub windows: Vec<LagWindow>,
    /// Why there are none.
    pub note: Option<String>,
}

/// How much less than it was due a thread got within such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagWindow {
    /// Length of the time.
    pub window_ns: u64,
    /// The most.
    pub max_ns: u64,
    /// In 99 % of the time in which threads wanted to run it was no more than this.
    pub p99_ns: u64,
    /// Whose the most was.
    #[serde(flatten)]
    pub who: Numbers,
}

impl ServiceLag {
    /// Within a second, or in all of a run that had no more.
    pub fn in_a_second(&self) -> Option<&LagWindow> {
        self.windows.iter().find(|window| window.window_ns >= 1_000_000_000).or(self.windows.last())
    }
}

/// Gaps of one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassShare {
    /// Who took the time.
    pub class: Class,
    /// How many.
    pub gaps: u64,
    /// Time in them.
    pub gap_ns: u64,
    /// Part of the time in all gaps.
    pub share: Option<f64>,
}

/// Gaps of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KindShare {
    /// What the threads had done before.
    pub kind: GapKind,
    /// How many.
    pub gaps: u64,
    /// Time in them.
    pub gap_ns: u64,
    /// Part of the time in all gaps.
    pub share: Option<f64>,
    /// Of their lengths.
    pub quantiles: Option<Quantiles>,
}

/// How evenly the CPU was divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fairness {
    /// Jain's index: 1 is even, 1/n is all to one.
    pub jain: Option<f64>,
    /// The most that one got over the least.
    pub max_over_min: Option<f64>,
}

/// How much of the time wanted the host took, as far as gaps of its class tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steal {
    /// Part of the time wanted.
    pub share: Option<f64>,
    /// What it may be.
    pub budget: f64,
    /// More than the budget: not to be compared with other runs.
    pub contaminated: bool,
}

impl Statistics {
    /// Without what a run that was too short does not have.
    pub fn forget_shares(&mut self) {
        (self.gap_share, self.mean_wait_ns) = (None, None);
        (self.largest_lag, self.wait_exceeds) = (Vec::new(), Vec::new());
    }
}
