// SPDX-License-Identifier: Apache-2.0
//! From gaps to the figures of a thread, a group, and the whole run.
//!
//! Figures come from single records wherever all of them are there. Where the record memory
//! overflowed they come from the histogram, which has every gap, at a resolution of 1.6 %;
//! `source` says which. Nothing is ever computed from a part of the gaps as if it were all.

use gaps::evidence::Class;
use gaps::stats::lag::largest_lag_ns;
use gaps::stats::{Distribution, Quantiles, Starvation, jain, max_over_min, share, share_within};
use protocol::group::GroupSpec;
use protocol::job::LoadSpec;
use protocol::message::ThreadReport;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::result::Thread;
use crate::until::Parted;

/// A thread that has not run for longer than this counts as starved: the gap that ended the
/// original benchmark.
pub const STARVED_NS: u64 = 100_000_000;
/// Waits for which the probability is given.
const WAITS_NS: [u64; 6] = [100_000, 1_000_000, 4_000_000, 10_000_000, 30_000_000, 100_000_000];
/// Windows in which the lag is looked for.
const LAG_WINDOWS_NS: [u64; 3] = [100_000_000, 1_000_000_000, 10_000_000_000];

/// Where figures come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
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
#[serde(default)]
#[allow(missing_docs)]
pub struct Statistics {
    pub source: Source,
    /// Time in which these threads wanted to run; what the shares below are of.
    pub wanted_ns: u64,
    /// Time they had waited in gaps that were open when the run was ended by another one: part of
    /// `gap_share`, of waits and of lags, and of no gap's length.
    pub open_ns: u64,
    /// Gaps in a second of that time.
    pub gaps_per_s: Option<f64>,
    pub quantiles: Option<Quantiles>,
    pub gap_share: Option<f64>,
    pub mean_wait_ns: Option<f64>,
    /// P(wait > x) for somebody who comes at a random moment.
    pub wait_exceeds: Vec<WaitExceeds>,
    pub starvation: Starvation,
    /// Only where all records are there and all threads are due the same, and of windows that
    /// fit into the run.
    pub largest_lag: Vec<Lag>,
    /// By who took the time; classes without a gap are left out.
    pub classes: Vec<ClassShare>,
    pub wakeup: Option<Quantiles>,
}

/// One point of the curve.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct WaitExceeds {
    pub wait_ns: u64,
    pub probability: f64,
}

/// The most that a thread fell behind its fair share in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Lag {
    pub window_ns: u64,
    pub lag_ns: u64,
}

/// Gaps of one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ClassShare {
    pub class: Class,
    pub gaps: u64,
    pub gap_ns: u64,
    /// Part of the time in all gaps.
    pub share: Option<f64>,
}

/// How evenly the CPU was divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Fairness {
    /// Jain's index: 1 is even, 1/n is all to one.
    pub jain: Option<f64>,
    pub max_over_min: Option<f64>,
}

/// How much of the time wanted the host took, as far as gaps of its class tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Steal {
    pub share: Option<f64>,
    pub budget: f64,
    /// More than the budget: not to be compared with other runs.
    pub contaminated: bool,
}

impl Steal {
    /// Of a run with these figures.
    pub fn of(statistics: &Statistics, budget: f64) -> Self {
        let host = statistics.classes.iter().filter(|class| class.class == Class::Host);
        let host_ns = host.map(|class| class.gap_ns).fold(0, u64::saturating_add);
        let share = share_within(host_ns, statistics.wanted_ns);
        Self { share, budget, contaminated: share.is_some_and(|share| share > budget) }
    }

    /// What a reader must know, if it is too much.
    pub fn note(&self) -> Option<String> {
        let share = self.share.filter(|_| self.contaminated)?;
        Some(format!(
            "contaminated: the host took {:.2} % of the time, more than --steal-budget {:.2} %; \
             repeat the run on a quieter host",
            100.0 * share,
            100.0 * self.budget
        ))
    }
}

impl Fairness {
    /// Of these shares.
    pub fn of(shares: &[u64]) -> Self {
        Self { jain: jain(shares), max_over_min: max_over_min(shares) }
    }
}

/// One thread's gaps, ready to be counted.
pub struct ThreadGaps {
    /// Lengths of gaps.
    pub gaps: Distribution,
    /// The same with the parts of those that were open at the end.
    waits: Distribution,
    open_ns: u64,
    /// Wake-up delays.
    pub wakeup: Distribution,
    source: Source,
    /// The largest lag in each window that fits into the run.
    lag: Vec<Lag>,
}

impl ThreadGaps {
    /// From a thread's report and the records that arrived. `run_ns` is the length of the run.
    pub fn of(thread: &Thread, parted: &Parted<'_>, run_ns: u64, clock: Clock<'_>) -> Self {
        let report = &thread.report;
        let whole = report.gaps == parted.ended.len() as u64;
        let source = match (thread.complete, whole) {
            (true, true) => Source::Records,
            (true, false) => Source::Histogram,
            (false, _) => Source::Partial,
        };
        let gaps = if source == Source::Histogram {
            Distribution::of_buckets_up_to(&report.gap_histogram_ns, thread.longest_gap_ns)
        } else {
            Distribution::of_records(&parted.ended, clock.khz())
        };
        let open = Distribution::of_records(&parted.open, clock.khz());
        let lag = match (source, fair_share(clock.load())) {
            (Source::Records, Some(fair_share)) => lag(parted, fair_share, run_ns, clock),
            _ => Vec::new(),
        };
        let wakeups = (&report.wakeup_histogram_ns, report.wakeup_longest_ns);
        Self {
            waits: Distribution::merged([&gaps, &open]),
            gaps,
            open_ns: clock.ns(parted.open_ticks()),
            wakeup: Distribution::of_buckets_up_to(wakeups.0, wakeups.1),
            source,
            lag,
        }
    }
}

/// The largest lag of a thread with these gaps, in windows that fit into the run.
fn lag(parted: &Parted<'_>, fair_share: f64, run_ns: u64, clock: Clock<'_>) -> Vec<Lag> {
    let windows = LAG_WINDOWS_NS.into_iter().filter(|window| *window <= run_ns);
    let gaps = parted.waits();
    let lag_ns = |window_ns| largest_lag_ns(&gaps, clock.khz(), window_ns, fair_share);
    windows.map(|window_ns| Lag { window_ns, lag_ns: lag_ns(window_ns) }).collect()
}

/// What all of `threads` come to, whose gaps are `gaps` in the same order.
pub fn of_threads(threads: &[&Thread], gaps: &[&ThreadGaps], clock: Clock<'_>) -> Statistics {
    let all = Distribution::merged(gaps.iter().map(|gaps| &gaps.gaps));
    let wakeup = Distribution::merged(gaps.iter().map(|gaps| &gaps.wakeup));
    // Of one that did not report nobody knows what it wanted: its gaps are in no share.
    let timed = || threads.iter().zip(gaps).filter(|(thread, _)| thread.complete);
    let waits = Distribution::merged(timed().map(|(_, gaps)| &gaps.waits));
    let sum = |of: &dyn Fn(&ThreadReport) -> u64| {
        timed().map(|(thread, _)| of(&thread.report)).fold(0, u64::saturating_add)
    };
    let wanted_ns = clock.ns(sum(&|report| report.busy_ticks));
    let open_ns = gaps.iter().map(|gaps| gaps.open_ns).fold(0, u64::saturating_add);
    let timed_open_ns = timed().map(|(_, gaps)| gaps.open_ns).fold(0, u64::saturating_add);
    // The exact sum, where lengths may come from a histogram. Rounding makes no more of it than
    // there was.
    let waited_ns = clock.ns(sum(&|report| report.gap_ticks)).saturating_add(timed_open_ns);
    let gap_share = share_within(waited_ns.min(wanted_ns), wanted_ns);
    let wait = |wait_ns| {
        // Whoever waits meets a gap first, and a histogram's lengths are a little too high.
        let probability = waits.wait_exceeds(wait_ns, wanted_ns)?.min(gap_share?);
        Some(WaitExceeds { wait_ns, probability })
    };
    let starved = Distribution::merged(gaps.iter().map(|gaps| &gaps.waits));
    Statistics {
        source: gaps.iter().map(|gaps| gaps.source).max().unwrap_or_default(),
        wanted_ns,
        open_ns,
        gaps_per_s: share(sum(&|report| report.gaps), wanted_ns).map(|per_ns| per_ns * 1e9),
        quantiles: all.quantiles(),
        gap_share,
        mean_wait_ns: waits.mean_wait_ns(wanted_ns),
        wait_exceeds: WAITS_NS.into_iter().filter_map(wait).collect(),
        starvation: starved.starvation(STARVED_NS),
        largest_lag: worst_lag(gaps.iter().map(|gaps| gaps.lag.clone())),
        classes: classes(threads, clock),
        wakeup: wakeup.quantiles(),
    }
}

impl Statistics {
    /// Without what a run that was too short does not have.
    pub fn forget_shares(&mut self) {
        (self.gap_share, self.mean_wait_ns) = (None, None);
        (self.largest_lag, self.wait_exceeds) = (Vec::new(), Vec::new());
    }
}

/// What a thread is due if all of them want to run; `None` where they are not due the same.
fn fair_share(spec: &LoadSpec) -> Option<f64> {
    if !spec.groups.iter().all(GroupSpec::is_ordinary) {
        return None;
    }
    let real = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    Some((real(spec.cpus.len()) / real(spec.threads()).max(1.0)).min(1.0))
}

/// The worst of all threads in each window; nothing if one of them does not know.
fn worst_lag(each: impl Iterator<Item = Vec<Lag>>) -> Vec<Lag> {
    let worse = |one: Vec<Lag>, other: Vec<Lag>| {
        let pairs = one.into_iter().zip(other);
        pairs.map(|(one, other)| if one.lag_ns >= other.lag_ns { one } else { other }).collect()
    };
    each.reduce(worse).unwrap_or_default()
}

fn classes(threads: &[&Thread], clock: Clock<'_>) -> Vec<ClassShare> {
    let totals = || threads.iter().flat_map(|thread| &thread.report.classes);
    let all = totals().map(|total| total.gap_ticks).fold(0, u64::saturating_add);
    let class = |class| {
        let mut found = ClassShare { class, gaps: 0, gap_ns: 0, share: None };
        let mut ticks = 0u64;
        for total in totals().filter(|total| total.class == class) {
            found.gaps = found.gaps.saturating_add(total.gaps);
            ticks = ticks.saturating_add(total.gap_ticks);
        }
        (found.gap_ns, found.share) = (clock.ns(ticks), share(ticks, all));
        found
    };
    Class::ALL.into_iter().map(class).filter(|class| class.gaps > 0).collect()
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
