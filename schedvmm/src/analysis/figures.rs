// SPDX-License-Identifier: Apache-2.0
//! All figures of a run.

use std::time::Duration;

use gaps::tally::WarmupTotal;
use protocol::duration::as_ns;
use protocol::job::Job;
use results::clock::Clock;
use results::model::{
    AfterHit, Expected, ForcedIdle, Group, LocatedGap, RunFairness, ServiceLag, Statistics, Steal,
    Thread, Warmup,
};

use super::parted::{Parted, clock_of, parted};
use super::run_delay::Waits;
use super::service_lag::{self, Found};
use super::summary::{self, ThreadGaps, of_threads};
use super::{expected, forced_idle, threads};
use crate::session::Session;
use crate::units::show_ns;

/// What follows from what was measured; docs/formats.md describes each.
pub struct Figures {
    /// Of each thread.
    pub threads: Vec<Thread>,
    /// Of each group.
    pub groups: Vec<Group>,
    /// Of all gaps.
    pub statistics: Statistics,
    /// Of threads and groups.
    pub fairness: RunFairness,
    /// How far threads were behind what they were due.
    pub service_lag: ServiceLag,
    /// The longest gap.
    pub longest: Option<LocatedGap>,
    /// The gap that ended the run.
    pub hit: Option<LocatedGap>,
    /// What ended later.
    pub after_hit: Option<AfterHit>,
    /// The length of the run, as far as its figures go; `None` before it has ended.
    pub measured_ns: Option<u64>,
    /// What the warm-up leaves out; `None` without one.
    pub warmup: Option<Warmup>,
    /// Why there are no shares, no fairness and no lag, if the run was too short for them.
    pub too_short: Option<String>,
    /// The longest gap by design.
    pub expected: Expected,
    /// Time for which cookies kept CPUs idle.
    pub forced_idle: ForcedIdle,
    /// Time that the host took.
    pub steal: Steal,
    /// Gaps of the warm-up, of each thread.
    pub early: Vec<Waits>,
}

impl Figures {
    /// Of a run as far as it has come, of whose time the host may take this part.
    pub fn of(session: &Session, job: &Job, steal_budget: f64) -> Self {
        let clock = clock_of(session, &job.load);
        let setup = session.setup.as_ref();
        let cookies = setup.map_or(&[][..], |setup| &setup.cookies);
        let mut parted = parted(session, clock);
        let mut threads = threads::threads(session, &mut parted, clock);
        let mut groups = threads::groups(&threads, cookies);
        let measured_ns = measured_ns(session, clock);
        let mut statistics = statistics(&mut threads, &mut groups, &parted, measured_ns, clock);
        book_throttling(session, &mut groups);
        let nested = job.nested.is_some();
        let mut forced_idle = if nested {
            forced_idle::of_machines()
        } else {
            book_forced_idle(session, &mut groups, &threads, clock)
        };
        let longest = threads::longest(&threads, session, clock);
        let hit = threads::hit(session, clock);
        let after_hit = hit.map(|_| threads::after_hit(&parted, session, clock));
        let meters = job.meter.is_some() || nested;
        let steal = summary::steal(&threads, budget(steal_budget, job), clock);
        let mut fairness = fairness(&threads, &groups, clock);
        let Found { lag: mut service_lag, threads_per_cpu } =
            service_lag::found(session, &threads, &parted, measured_ns.unwrap_or(0), clock);
        let too_short = measured_ns.and_then(|ns| too_short(ns, &threads, clock, meters));
        if let Some(why) = &too_short {
            service_lag = ServiceLag { note: Some(why.clone()), ..ServiceLag::default() };
            (fairness, forced_idle.share) = (RunFairness::default(), None);
            forget_shares(&mut statistics, &mut threads, &mut groups);
        }
        let scheduler = setup.map(|setup| setup.scheduler.clone()).unwrap_or_default();
        let longest_ns = longest.map(|gap| gap.length_ns);
        Self {
            expected: if nested {
                expected::of_machines()
            } else {
                expected::expected(&job.load, threads_per_cpu, &scheduler, longest_ns)
            },
            warmup: warmup(&threads, clock),
            threads,
            groups,
            statistics,
            fairness,
            service_lag,
            longest,
            hit,
            after_hit: after_hit.filter(|after| after.gaps > 0),
            measured_ns,
            too_short,
            forced_idle,
            steal,
            early: parted.iter().map(|parted| Waits::of(&parted.early, clock)).collect(),
        }
    }
}

/// What the warm-up leaves out, of all threads.
fn warmup(threads: &[Thread], clock: Clock<'_>) -> Option<Warmup> {
    let time = clock.load().warmup;
    if time.is_zero() {
        return None;
    }
    let of = |get: fn(&WarmupTotal) -> u64| threads.iter().map(move |it| get(&it.report.warmup));
    let sum = |get| of(get).fold(0, u64::saturating_add);
    Some(Warmup {
        time_ns: as_ns(time),
        gaps: sum(|it| it.gaps),
        gap_ns: clock.ns(sum(|it| it.gap_ticks)),
        longest_ns: clock.ns(of(|it| it.longest_ticks).max().unwrap_or(0)),
        divided: sum(|it| it.divided),
    })
}

/// What the host took of the time wanted, and nothing else of the figures: for whoever judges a run,
/// and does not need them.
pub fn steal(session: &Session, job: &Job, steal_budget: f64) -> Steal {
    let clock = clock_of(session, &job.load);
    let threads = threads::threads(session, &mut parted(session, clock), clock);
    summary::steal(&threads, budget(steal_budget, job), clock)
}

/// What of the time gaps of class `host` may take. They are what a meter in place of the load is there
/// to find, and what a machine in the guest calls its host is the guest.
fn budget(steal_budget: f64, job: &Job) -> f64 {
    if job.meter.is_some() || job.nested.is_some() { 1.0 } else { steal_budget }
}

/// Throttling of groups by quotas, by the kernel's accounting.
fn book_throttling(session: &Session, groups: &mut [Group]) {
    let reports = session.report.iter().flat_map(|report| &report.groups);
    for (group, report) in groups.iter_mut().zip(reports) {
        (group.throttles, group.throttled_ns) = (report.throttles, report.throttled_ns);
    }
}

/// Forced idle time of groups and the whole run.
fn book_forced_idle(
    session: &Session,
    groups: &mut [Group],
    threads: &[Thread],
    clock: Clock<'_>,
) -> ForcedIdle {
    let report = session.report.as_ref();
    // Of the time for which the kernel's accounting was read.
    let accounted_ns = report.map_or(0, |report| match report.accounted_from_tsc {
        Some(from) => clock.ns(report.tsc_end.saturating_sub(from)),
        None => clock.since_start_ns(report.tsc_end),
    });
    let cpu_time_ns = accounted_ns.saturating_mul(clock.load().cpus.len() as u64);
    forced_idle::fill_in(groups, threads, report, cpu_time_ns)
}

/// The length of the run, as far as its figures go; `None` before it has ended.
fn measured_ns(session: &Session, clock: Clock<'_>) -> Option<u64> {
    session.setup.as_ref()?;
    let end = clock.until().tsc().or(session.report.as_ref().map(|report| report.tsc_end))?;
    Some(clock.counted_ns(end))
}

/// Statistics of all gaps, and of those of each group and thread.
fn statistics(
    threads: &mut [Thread],
    groups: &mut [Group],
    parted: &[Parted<'_>],
    measured_ns: Option<u64>,
    clock: Clock<'_>,
) -> Statistics {
    let run_ns = measured_ns.unwrap_or(0);
    let both = threads.iter().zip(parted);
    let gaps: Vec<_> =
        both.map(|(thread, parted)| ThreadGaps::of(thread, parted, run_ns, clock)).collect();
    let statistics = of_selected(&|_| true, &gaps, &clock, threads);
    for group in groups {
        group.statistics =
            of_selected(&|thread| thread.who.group == group.group.number(), &gaps, &clock, threads);
        group.gap_share = group.statistics.gap_share;
    }
    let each = threads.iter().zip(&gaps);
    let each: Vec<_> = each.map(|(thread, gaps)| of_threads(&[thread], &[gaps], clock)).collect();
    for (thread, statistics) in threads.iter_mut().zip(each) {
        thread.statistics = statistics;
    }
    statistics
}

fn of_selected(
    wanted: &dyn Fn(&Thread) -> bool,
    gaps: &[ThreadGaps],
    clock: &Clock<'_>,
    threads: &[Thread],
) -> Statistics {
    let both = threads.iter().zip(gaps).filter(|(thread, _)| wanted(thread));
    let (threads, gaps): (Vec<_>, Vec<_>) = both.unzip();
    of_threads(&threads, &gaps, *clock)
}

/// A second, less what two clocks may differ by.
const MIN_RUN: Duration = Duration::from_millis(999);

/// Why there is no share, no fairness and no lag to tell, if it is so: the run must have lasted a
/// second, and each thread must have wanted to run for a whole burst, or for a second.
fn too_short(run_ns: u64, threads: &[Thread], clock: Clock<'_>, meters: bool) -> Option<String> {
    let ran = show_ns(run_ns);
    if Duration::from_nanos(run_ns) < MIN_RUN {
        return Some(format!("it lasted {ran}, less than a second"));
    }
    let without: Vec<_> =
        threads.iter().filter(|thread| had_no_burst(thread, &clock, meters)).collect();
    let first = without.first()?.who.name(clock.load().kind);
    Some(match without.len() - 1 {
        0 => format!("{first} had no whole burst in {ran}"),
        others => format!("{first} and {others} more had no whole burst in {ran}"),
    })
}

fn had_no_burst(thread: &&Thread, clock: &Clock<'_>, meters: bool) -> bool {
    let group = thread.who.member(clock.load().kind).ok();
    let group = group.and_then(|member| clock.load().groups.get(member.group.index()));
    let burst = group.map_or(Duration::ZERO, |group| group.busy - group.busy / 1000);
    let wanted = Duration::from_nanos(clock.ns(thread.report.busy_ticks));
    // A meter has no bursts.
    !meters && thread.complete && wanted < burst.min(MIN_RUN)
}

/// Takes away what a run that was too short does not have.
fn forget_shares(all: &mut Statistics, threads: &mut [Thread], groups: &mut [Group]) {
    all.forget_shares();
    threads.iter_mut().for_each(|thread| thread.statistics.forget_shares());
    for group in groups {
        group.statistics.forget_shares();
        (group.gap_share, group.cpu_share, group.force_idle_share) = (None, None, None);
    }
}

/// `part` of `whole` in millionths; 0 without a whole.
fn parts_per_million(part: u64, whole: u64) -> u64 {
    let millionths = u128::from(part) * 1_000_000;
    let share = millionths.checked_div(u128::from(whole)).unwrap_or(0);
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Of the parts that threads, and groups, got of the time they wanted: bursts and pauses differ
/// from thread to thread, and whoever sleeps longer is not treated worse for it.
fn fairness(threads: &[Thread], groups: &[Group], clock: Clock<'_>) -> RunFairness {
    let each = threads
        .iter()
        .filter_map(|one| received_ppm(&|thread| thread.who == one.who, &clock, threads));
    let each: Vec<_> = each.collect();
    let groups: Vec<_> = groups
        .iter()
        .filter_map(|group| {
            received_ppm(&|thread| thread.who.group == group.group.number(), &clock, threads)
        })
        .collect();
    RunFairness { threads: summary::fairness(&each), groups: summary::fairness(&groups) }
}

/// Of whom a thread did not tell, because it died, is no part of it.
fn received_ppm(
    wanted: &dyn Fn(&Thread) -> bool,
    clock: &Clock<'_>,
    threads: &[Thread],
) -> Option<u64> {
    let mut of_it = threads.iter().filter(|thread| wanted(thread));
    let (cpu_ns, busy_ns) = of_it.try_fold((0u64, 0u64), |(cpu, busy), thread| {
        let report = Some(&thread.report).filter(|_| thread.complete)?;
        Some((
            cpu.saturating_add(report.cpu_time_ns),
            busy.saturating_add(clock.ns(report.busy_ticks)),
        ))
    })?;
    Some(parts_per_million(cpu_ns, busy_ns))
}

#[cfg(test)]
mod tests {
    use protocol::report::ThreadReport;
    use results::model::Fairness;

    use super::*;
    use crate::testing::{self, load};

    fn thread(thread: usize, busy_ns: u64, cpu_time_ns: u64) -> Thread {
        // One tick is one nanosecond.
        let report = ThreadReport { busy_ticks: busy_ns, cpu_time_ns, ..Default::default() };
        testing::thread(thread, report)
    }

    #[test]
    fn what_the_warm_up_leaves_out_is_told_of_all_threads() {
        let mut load = load(2, 2, 1);
        let early = |gaps, gap_ticks, longest_ticks, divided| {
            let warmup = WarmupTotal { gaps, gap_ticks, longest_ticks, divided };
            testing::thread(0, ThreadReport { warmup, ..Default::default() })
        };
        let threads = [early(3, 9000, 4000, 0), early(0, 0, 0, 0), early(2, 6000, 7000, 1)];
        // Two ticks are a nanosecond.
        assert_eq!(warmup(&threads, Clock::new(2_000_000, 0, &load)), None);
        load.warmup = Duration::from_millis(5);
        let told = warmup(&threads, Clock::new(2_000_000, 0, &load));
        let expected =
            Warmup { time_ns: 5_000_000, gaps: 5, gap_ns: 7500, longest_ns: 3500, divided: 1 };
        assert_eq!(told, Some(expected));
    }

    #[test]
    fn who_sleeps_longer_is_not_treated_worse() {
        let load = load(2, 2, 1);
        let clock = Clock::new(1_000_000, 0, &load);
        let fair = |threads: &[Thread]| {
            let groups = threads::groups(threads, &[]);
            fairness(threads, &groups, clock)
        };
        let even = fair(&[thread(0, 1000, 500), thread(1, 600, 300)]);
        assert_eq!(even.threads, Fairness { jain: Some(1.0), max_over_min: Some(1.0) });
        let starved = fair(&[thread(0, 1000, 500), thread(1, 1000, 500), thread(2, 1000, 0)]);
        assert_eq!(starved.threads.jain.map(|jain| (jain * 3.0).round()), Some(2.0));
        assert_eq!((starved.groups.jain, starved.groups.max_over_min), (Some(0.5), None));
        // Nobody knows whether who died was treated worse.
        let dead = Thread { complete: false, ..thread(2, 0, 0) };
        let rest = fair(&[thread(0, 1000, 500), thread(1, 1000, 500), dead]);
        assert_eq!((rest.threads.jain, rest.groups.jain), (Some(1.0), Some(1.0)));
    }
}
