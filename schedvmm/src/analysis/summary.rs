// SPDX-License-Identifier: Apache-2.0
//! From gaps to the figures of a thread, a group, and the whole run.
//!
//! Figures come from single records wherever all of them are there. Where the record memory
//! overflowed they come from the histogram, which has every gap, at a resolution of 1.6 %;
//! `source` says which. Nothing is ever computed from a part of the gaps as if it were all.

use gaps::evidence::Class;
use gaps::record::{GapKind, GapRecord};
use gaps::stats::lag::largest_lag_ns;
use gaps::stats::{Distribution, jain, max_over_min, share, share_within};
use protocol::group::GroupSpec;
use protocol::job::LoadSpec;
use protocol::report::ThreadReport;
use results::clock::Clock;
use results::model::{
    ClassShare, Fairness, FigureSource, KindShare, Lag, Statistics, Steal, Thread, WaitExceeds,
};

use super::parted::Parted;

/// A thread that has not run for longer than this counts as starved: the gap that ended the
/// original benchmark.
pub const STARVED_NS: u64 = 100_000_000;
/// Waits for which the probability is given.
const WAITS_NS: [u64; 6] = [100_000, 1_000_000, 4_000_000, 10_000_000, 30_000_000, 100_000_000];
/// Windows in which the lag is looked for.
const LAG_WINDOWS_NS: [u64; 3] = [100_000_000, 1_000_000_000, 10_000_000_000];

/// Share of the time that these threads wanted that the host took.
pub fn steal(threads: &[Thread], budget: f64, clock: Clock<'_>) -> Steal {
    let classes = threads.iter().flat_map(|thread| &thread.report.classes);
    let host = classes.filter(|total| total.class == Class::Host);
    let host_ticks = host.map(|total| total.gap_ticks).fold(0, u64::saturating_add);
    // Of one that did not report nobody knows what it wanted.
    let complete = threads.iter().filter(|thread| thread.complete);
    let wanted_ticks = complete.map(|it| it.report.busy_ticks).fold(0, u64::saturating_add);
    let share = share_within(clock.ns(host_ticks), clock.ns(wanted_ticks));
    Steal { share, budget, contaminated: share.is_some_and(|share| share > budget) }
}

/// What a reader must know, if that is too much.
pub fn steal_note(steal: &Steal) -> Option<String> {
    let share = steal.share.filter(|_| steal.contaminated)?;
    Some(format!(
        "contaminated: the host took {:.2} % of the time, more than --steal-budget {:.2} %; \
         repeat the run on a quieter host",
        100.0 * share,
        100.0 * steal.budget
    ))
}

/// Evenness of these shares.
pub fn fairness(shares: &[u64]) -> Fairness {
    Fairness { jain: jain(shares), max_over_min: max_over_min(shares) }
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
    /// Single gaps by kind, where every gap has a record.
    kinds: Vec<(GapKind, Distribution)>,
    source: FigureSource,
    /// The largest lag in each window that fits into the run.
    lag: Vec<Lag>,
}

impl ThreadGaps {
    /// From a thread's report and the records that arrived. `run_ns` is the length of the run.
    pub fn of(thread: &Thread, parted: &Parted<'_>, run_ns: u64, clock: Clock<'_>) -> Self {
        let report = &thread.report;
        let whole = report.gaps == parted.ended.len() as u64;
        let source = match (thread.complete, whole) {
            (true, true) => FigureSource::Records,
            (true, false) => FigureSource::Histogram,
            (false, _) => FigureSource::Partial,
        };
        let gaps = if source == FigureSource::Histogram {
            Distribution::of_buckets_up_to(&report.gap_histogram_ns, thread.longest_gap_ns)
        } else {
            Distribution::of_records(&parted.ended, clock.khz())
        };
        let open = Distribution::of_records(&parted.open, clock.khz());
        let lag = match (source, fair_share(clock.load())) {
            (FigureSource::Records, Some(fair_share)) => lag(parted, fair_share, run_ns, clock),
            _ => Vec::new(),
        };
        let wakeups = (&report.wakeup_histogram_ns, report.wakeup_longest_ns);
        Self {
            waits: Distribution::merged([&gaps, &open]),
            gaps,
            open_ns: clock.ns(parted.open_ticks()),
            wakeup: Distribution::of_buckets_up_to(wakeups.0, wakeups.1),
            kinds: if source == FigureSource::Histogram {
                Vec::new()
            } else {
                by_kind(&parted.ended, clock.khz())
            },
            source,
            lag,
        }
    }
}

/// The largest lag of a thread with these gaps, in windows that fit into the run.
fn lag(parted: &Parted<'_>, fair_share: f64, run_ns: u64, clock: Clock<'_>) -> Vec<Lag> {
    let windows = LAG_WINDOWS_NS.into_iter().filter(|window| *window <= run_ns);
    let gaps = parted.waits();
    windows
        .map(|window_ns| Lag {
            window_ns,
            lag_ns: largest_lag_ns(&gaps, clock.khz(), window_ns, fair_share),
        })
        .collect()
}

/// Statistics of all of `threads`, whose gaps are `gaps` in the same order.
pub fn of_threads(threads: &[&Thread], gaps: &[&ThreadGaps], clock: Clock<'_>) -> Statistics {
    let all = Distribution::merged(gaps.iter().map(|gaps| &gaps.gaps));
    let wakeup = Distribution::merged(gaps.iter().map(|gaps| &gaps.wakeup));
    // Of one that did not report nobody knows what it wanted: its gaps are in no share.
    let timed: Vec<(&Thread, &ThreadGaps)> = threads
        .iter()
        .copied()
        .zip(gaps.iter().copied())
        .filter(|(thread, _)| thread.complete)
        .collect();
    let waits = Distribution::merged(timed.iter().map(|(_, gaps)| &gaps.waits));
    let wanted_ns = clock.ns(sum(&timed, |report| report.busy_ticks));
    let open_ns = gaps.iter().map(|gaps| gaps.open_ns).fold(0, u64::saturating_add);
    let timed_open_ns = timed.iter().map(|(_, gaps)| gaps.open_ns).fold(0, u64::saturating_add);
    // The exact sum, where lengths may come from a histogram. Rounding makes no more of it than
    // there was.
    let waited_ns = clock.ns(sum(&timed, |report| report.gap_ticks)).saturating_add(timed_open_ns);
    let gap_share = share_within(waited_ns.min(wanted_ns), wanted_ns);
    let starved = Distribution::merged(gaps.iter().map(|gaps| &gaps.waits));
    Statistics {
        source: gaps.iter().map(|gaps| gaps.source).max().unwrap_or_default(),
        wanted_ns,
        open_ns,
        gaps_per_s: share(sum(&timed, |report| report.gaps), wanted_ns).map(|per_ns| per_ns * 1e9),
        time_quantiles: all.time_quantiles(),
        quantiles: all.quantiles(),
        gap_share,
        mean_wait_ns: waits.mean_wait_ns(wanted_ns),
        wait_exceeds: WAITS_NS
            .into_iter()
            .filter_map(|wait_ns| {
                // Whoever waits meets a gap first, and a histogram's lengths are a little too high.
                let probability = waits.wait_exceeds(wait_ns, wanted_ns)?.min(gap_share?);
                Some(WaitExceeds { wait_ns, probability })
            })
            .collect(),
        starvation: starved.starvation(STARVED_NS),
        largest_lag: worst_lag(gaps.iter().map(|gaps| gaps.lag.clone())),
        classes: classes(threads, clock),
        kinds: kinds(gaps),
        wakeup: wakeup.quantiles(),
    }
}

/// A figure of each thread's report, summed.
fn sum(timed: &[(&Thread, &ThreadGaps)], of: fn(&ThreadReport) -> u64) -> u64 {
    timed.iter().map(|(thread, _)| of(&thread.report)).fold(0, u64::saturating_add)
}

/// Lengths of gaps of each kind.
fn by_kind(records: &[GapRecord], khz: u64) -> Vec<(GapKind, Distribution)> {
    let of_kind = |kind| {
        let found: Vec<_> = records.iter().filter(|gap| gap.kind == kind).copied().collect();
        (kind, Distribution::of_records(&found, khz))
    };
    GapKind::ALL.map(of_kind).into()
}

/// All gaps of these threads by kind; none where the records of one are not all there.
fn kinds(threads: &[&ThreadGaps]) -> Vec<KindShare> {
    if threads.iter().any(|thread| thread.kinds.is_empty()) {
        return Vec::new();
    }
    let ns = |gaps: &Distribution| u64::try_from(gaps.total_ns()).unwrap_or(u64::MAX);
    let of_kind = |kind| {
        let each = threads.iter().flat_map(|thread| &thread.kinds);
        let gaps = Distribution::merged(each.filter(|(one, _)| *one == kind).map(|(_, gaps)| gaps));
        (kind, gaps)
    };
    let found = GapKind::ALL.map(of_kind);
    let all_ns = found.iter().map(|(_, gaps)| ns(gaps)).fold(0, u64::saturating_add);
    let share = |(kind, gaps): &(GapKind, Distribution)| KindShare {
        kind: *kind,
        gaps: gaps.count(),
        gap_ns: ns(gaps),
        share: share(ns(gaps), all_ns),
        quantiles: gaps.quantiles(),
    };
    found.iter().map(share).filter(|kind| kind.gaps > 0).collect()
}

/// What a thread is due if all of them want to run; `None` where they are not due the same.
fn fair_share(spec: &LoadSpec) -> Option<f64> {
    if !spec.groups.iter().all(GroupSpec::is_ordinary) {
        return None;
    }
    Some((to_f64(spec.cpus.len()) / to_f64(spec.threads()).max(1.0)).min(1.0))
}

fn to_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The worst of all threads in each window; nothing if one of them does not know.
fn worst_lag(each: impl Iterator<Item = Vec<Lag>>) -> Vec<Lag> {
    each.reduce(|one, other| {
        let pairs = one.into_iter().zip(other);
        pairs.map(|(one, other)| if one.lag_ns >= other.lag_ns { one } else { other }).collect()
    })
    .unwrap_or_default()
}

fn classes(threads: &[&Thread], clock: Clock<'_>) -> Vec<ClassShare> {
    let all = threads
        .iter()
        .flat_map(|thread| &thread.report.classes)
        .map(|total| total.gap_ticks)
        .fold(0, u64::saturating_add);
    Class::ALL
        .into_iter()
        .map(|class| {
            let mut found = ClassShare { class, gaps: 0, gap_ns: 0, share: None };
            let mut ticks = 0u64;
            for total in threads
                .iter()
                .flat_map(|thread| &thread.report.classes)
                .filter(|total| total.class == class)
            {
                found.gaps = found.gaps.saturating_add(total.gaps);
                ticks = ticks.saturating_add(total.gap_ticks);
            }
            (found.gap_ns, found.share) = (clock.ns(ticks), share(ticks, all));
            found
        })
        .filter(|class| class.gaps > 0)
        .collect()
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
