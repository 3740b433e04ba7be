// SPDX-License-Identifier: Apache-2.0
//! One result from all that is known of a run, wherever it was measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guest::job::{CoschedRequest, Job};
use guest::wire::{CoschedInterface, Setup};
use results::clock::Clock;
use results::host_cpus::HostCpus;
use results::model::{
    Answer, CallerFacts, Cosched, Group, KernelFacts, Machine, Phase, Pins, RunFairness, RunResult,
    Schema, Statistics, Target, Thread, Trace,
};

use crate::analysis::expected;
use crate::analysis::forced_idle;
use crate::analysis::parted::{Parted, clock_of, parted};
use crate::analysis::summary::{self, ThreadGaps, of_threads};
use crate::analysis::threads;
use crate::facts;
use crate::session::Session;
use crate::units::show_ns;
use crate::verdict::{End, Verdict, judge};

/// What is known of a run that has ended.
pub struct Account<'a> {
    /// Where it was measured.
    pub target: Target,
    /// When it began.
    pub started_utc: String,
    /// What the threads reported.
    pub session: &'a Session,
    /// What they had been told to do.
    pub job: &'a Job,
    /// The kernel under test.
    pub kernel: KernelFacts,
    /// What it ran on.
    pub machine: Machine,
    /// What schedvmm itself was given to run with.
    pub caller: Option<CallerFacts>,
    /// Whether threads stayed where they were put.
    pub pins: Pins,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// The trace, if there is one.
    pub trace: Trace,
    /// Milliseconds in each phase.
    pub phases_ms: BTreeMap<Phase, u64>,
    /// How much of the time the host may take, as a part of 1.
    pub steal_budget: f64,
    /// What its CPUs are.
    pub host_cpus: HostCpus,
    /// The answer, and whether it is the last one.
    pub verdict: &'a Verdict,
    /// False while the run goes on.
    pub ended: bool,
}

impl<'a> Account<'a> {
    /// Of a run that is over, on this host: its figures, without what it ran on.
    pub fn of_figures(session: &'a Session, job: &'a Job, verdict: &'a Verdict) -> Self {
        Self {
            target: Target::Host,
            started_utc: String::new(),
            session,
            job,
            kernel: KernelFacts::default(),
            machine: Machine::default(),
            caller: None,
            pins: Pins::default(),
            notes: Vec::new(),
            trace: Trace::default(),
            phases_ms: BTreeMap::new(),
            steal_budget: 1.0,
            host_cpus: HostCpus::default(),
            verdict,
            ended: true,
        }
    }

    /// The result, with every figure that follows from what was measured.
    pub fn result(self) -> RunResult {
        let (session, load) = (self.session, &self.job.load);
        let clock = clock_of(session, load);
        let (setup, report) = (session.setup.as_ref(), session.report.as_ref());
        let cookies = setup.map_or(&[][..], |setup| &setup.cookies);
        let mut parted = parted(session, clock);
        let mut threads = threads::threads(session, &mut parted, clock);
        let mut groups = threads::groups(&threads, cookies);
        let measured_ns = measured_ns(session, clock);
        let mut statistics = statistics(&mut threads, &mut groups, &parted, measured_ns, clock);
        for (group, report) in
            groups.iter_mut().zip(report.into_iter().flat_map(|report| &report.groups))
        {
            (group.throttles, group.throttled_ns) = (report.throttles, report.throttled_ns);
        }
        // Of the time for which the kernel's books were read.
        let books_ns = report.map_or(0, |report| clock.since_start_ns(report.tsc_end));
        let cpu_time_ns = books_ns.saturating_mul(load.cpus.len() as u64);
        let nested = self.job.nested.is_some();
        let mut forced_idle = if nested {
            forced_idle::of_machines()
        } else {
            forced_idle::book(&mut groups, &threads, report, cpu_time_ns)
        };
        let longest = threads::longest(&threads, session, clock);
        let longest_gap_ns = longest.as_ref().map(|gap| gap.length_ns);
        let hit = session
            .hit
            .and_then(|hit| clock.locate(hit.gap.thread as usize, Some(hit.tid), hit.gap.record));
        let after_hit = hit.as_ref().map(|_| threads::after_hit(&parted, clock));
        let after_hit = after_hit.filter(|after| after.gaps > 0);
        // What the host takes is what a meter in place of the load is there to find.
        let meters = self.job.meter.is_some() || nested;
        let budget = if meters { 1.0 } else { self.steal_budget };
        let steal = summary::steal(&statistics, budget);
        let mut fairness = fairness(&threads, &groups, clock);
        let too_short = measured_ns.and_then(|ns| too_short(ns, &threads, clock, meters));
        if too_short.is_some() {
            (fairness, forced_idle.share) = (RunFairness::default(), None);
            forget_shares(&mut statistics, &mut threads, &mut groups);
        }
        // What the setup has to say of the trace was told when the load started.
        let mut trace = self.trace;
        trace.note = trace.note.or_else(|| setup?.trace_note.clone());
        let mut notes = self.notes;
        notes.extend(summary::steal_note(&steal));
        notes.extend(session.degraded().map(|faults| format!("degraded: {faults}")));
        let missing = cookies_are_missing(self.job, setup);
        if let Some(note) = setup.filter(|_| missing).map(|setup| &setup.cosched_note) {
            notes.push(format!(
                "without cookies, for --cosched auto found none: {}; --cosched prctl insists",
                note.as_deref().unwrap_or("no reason is known")
            ));
        }
        notes.extend(goes_on(&threads, session));
        notes.extend(hardly_fits(self.job, self.verdict.answer));
        let scheduler = setup.map(|setup| setup.scheduler.clone()).unwrap_or_default();
        RunResult {
            schema: Schema::V2,
            version: env!("CARGO_PKG_VERSION").into(),
            target: self.target,
            command_line: std::env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            working_directory: std::env::current_dir().ok(),
            started_utc: self.started_utc,
            verdict: self.verdict.answer,
            exit_status: self.ended.then(|| self.verdict.status().code()),
            reason: self.verdict.reason.clone(),
            reason_code: self.verdict.code,
            reason_stage: self.verdict.code.map(|_| session.stage()),
            notes,
            longest_gap_ns,
            longest_gap: longest,
            threshold_hit: hit,
            after_hit,
            measured_ns,
            too_short,
            kernel: KernelFacts { hello: session.hello.clone(), ..self.kernel },
            cosched: Cosched {
                requested: self.job.cosched,
                mechanism: setup.map(|setup| setup.cosched),
                note: setup.and_then(|setup| setup.cosched_note.clone()),
                missing,
                cookies: cookies.to_vec(),
            },
            setup: setup.cloned(),
            job: self.job.clone(),
            statistics,
            fairness,
            forced_idle,
            co_run: None,
            core_figures: self.host_cpus.core_figures(&steal),
            steal,
            expected: if nested {
                expected::of_machines()
            } else {
                expected::expected(load, &scheduler, longest_gap_ns)
            },
            threads,
            groups,
            vms: Vec::new(),
            tsc: session.report.as_ref().map(|report| report.tsc),
            meter: session.report.as_ref().and_then(|report| report.meter.clone()),
            trace,
            explanation: None,
            host: facts::host(),
            machine: self.machine,
            caller: self.caller,
            pins: self.pins,
            phases_ms: self.phases_ms,
        }
    }
}

/// Verdict and phases as they would be if the run ended now.
pub fn so_far(session: &Session, job: &Job, built_ms: u64) -> (Verdict, BTreeMap<Phase, u64>) {
    let verdict = judge(session, job, &End::UnderWay, "");
    (verdict, threads::phases_ms(session, built_ms, Instant::now()))
}

/// Whether the load wants cookies and runs without: nothing is told of core scheduling then.
fn cookies_are_missing(job: &Job, setup: Option<&Setup>) -> bool {
    job.cosched == CoschedRequest::Auto
        && job.load.groups.iter().any(|group| group.cookie)
        && setup.is_some_and(|setup| setup.cosched == CoschedInterface::None)
}

/// The length of the run, as far as its figures go; `None` before it has ended.
fn measured_ns(session: &Session, clock: Clock<'_>) -> Option<u64> {
    session.setup.as_ref()?;
    let end = clock.until().tsc().or(session.report.as_ref().map(|report| report.tsc_end))?;
    Some(clock.since_start_ns(end))
}

/// What all gaps come to; and those of each group and thread.
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
    let of = |wanted: &dyn Fn(&Thread) -> bool| {
        let both = threads.iter().zip(&gaps).filter(|(thread, _)| wanted(thread));
        let (threads, gaps): (Vec<_>, Vec<_>) = both.unzip();
        of_threads(&threads, &gaps, clock)
    };
    let statistics = of(&|_| true);
    for group in groups {
        group.statistics = of(&|thread| thread.who.group == group.group.number());
        group.gap_share = group.statistics.gap_share;
    }
    let each = threads.iter().zip(&gaps);
    let each: Vec<_> = each.map(|(thread, gaps)| of_threads(&[thread], &[gaps], clock)).collect();
    for (thread, statistics) in threads.iter_mut().zip(each) {
        thread.statistics = statistics;
    }
    statistics
}

/// Why there is no share, no fairness and no lag to tell, if it is so: the run must have lasted a
/// second, and each thread must have wanted to run for a whole burst, or for a second.
fn too_short(run_ns: u64, threads: &[Thread], clock: Clock<'_>, meters: bool) -> Option<String> {
    /// A second, less what two clocks may differ by.
    const LEAST: Duration = Duration::from_millis(999);
    let ran = show_ns(run_ns);
    if Duration::from_nanos(run_ns) < LEAST {
        return Some(format!("it lasted {ran}, less than a second"));
    }
    let had_none = |thread: &&Thread| {
        let group = thread.who.member(clock.load().kind).ok();
        let group = group.and_then(|member| clock.load().groups.get(member.group.index()));
        let burst = group.map_or(Duration::ZERO, |group| group.busy - group.busy / 1000);
        let wanted = Duration::from_nanos(clock.ns(thread.report.busy_ticks));
        // A meter has no bursts.
        !meters && thread.complete && wanted < burst.min(LEAST)
    };
    let without: Vec<_> = threads.iter().filter(had_none).collect();
    let first = without.first()?.who.name(clock.load().kind);
    Some(match without.len() - 1 {
        0 => format!("{first} had no whole burst in {ran}"),
        others => format!("{first} and {others} more had no whole burst in {ran}"),
    })
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

/// What is to be said of threads whose figures cannot be told to end at the hit.
fn goes_on(threads: &[Thread], session: &Session) -> Option<String> {
    session.hit?;
    let overflowed = |thread: &&Thread| thread.complete && thread.report.gaps_unrecorded > 0;
    let count = threads.iter().filter(overflowed).count();
    (count > 0).then(|| {
        format!(
            "record memory was full for {count} threads: gaps that ended after the one over the \
             threshold may be among theirs (--records)"
        )
    })
}

/// What is to be said of a pass that hardly anything could have kept from being one.
fn hardly_fits(job: &Job, answer: Answer) -> Option<String> {
    let duration = job.load.duration;
    let threshold = job.load.threshold.filter(|threshold| duration <= *threshold)?;
    (answer == Answer::Pass).then(|| {
        format!(
            "a gap over --threshold {threshold:?} does not fit into --duration {duration:?}: only \
             one that went on beyond it could have been found"
        )
    })
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
    // Of whom a thread did not tell, because it died, is no part of it.
    let got = |wanted: &dyn Fn(&Thread) -> bool| {
        let mut of_it = threads.iter().filter(|thread| wanted(thread));
        let (cpu_ns, busy_ns) = of_it.try_fold((0u64, 0u64), |(cpu, busy), thread| {
            let report = Some(&thread.report).filter(|_| thread.complete)?;
            Some((
                cpu.saturating_add(report.cpu_time_ns),
                busy.saturating_add(clock.ns(report.busy_ticks)),
            ))
        })?;
        Some(parts_per_million(cpu_ns, busy_ns))
    };
    let each = threads.iter().filter_map(|one| got(&|thread| thread.who == one.who));
    let each: Vec<_> = each.collect();
    let of_group = |group: &Group| got(&|thread| thread.who.group == group.group.number());
    let groups: Vec<_> = groups.iter().filter_map(of_group).collect();
    RunFairness { threads: summary::fairness(&each), groups: summary::fairness(&groups) }
}

#[cfg(test)]
#[path = "compose_properties.rs"]
mod properties;

#[cfg(test)]
#[path = "figures_tests.rs"]
pub mod figures;

#[cfg(test)]
mod tests {
    use guest::wire::ThreadReport;
    use results::model::Fairness;

    use super::*;
    use crate::testing::{self, load};

    fn thread(thread: usize, busy_ns: u64, cpu_time_ns: u64) -> Thread {
        // One tick is one nanosecond.
        let report = ThreadReport { busy_ticks: busy_ns, cpu_time_ns, ..Default::default() };
        testing::thread(thread, report)
    }

    #[test]
    fn a_pass_of_a_run_shorter_than_a_gap_says_so() {
        let seconds = |s| Duration::from_secs(s);
        let told = |duration, threshold: Option<u64>, answer| {
            let load = guest::job::LoadSpec {
                duration: seconds(duration),
                threshold: threshold.map(seconds),
                ..load(1, 1, 1)
            };
            hardly_fits(&Job::new(load, CoschedRequest::None), answer)
        };
        let note = told(1, Some(20), Answer::Pass).expect("told");
        assert!(note.contains("--threshold 20s") && note.contains("--duration 1s"), "{note}");
        assert!(told(20, Some(20), Answer::Pass).is_some());
        for (duration, threshold, answer) in [
            (21, Some(20), Answer::Pass),
            (1, None, Answer::Measured),
            (1, Some(20), Answer::OverThreshold),
        ] {
            assert_eq!(told(duration, threshold, answer), None);
        }
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
