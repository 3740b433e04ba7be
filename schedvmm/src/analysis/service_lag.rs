// SPDX-License-Identifier: Apache-2.0
//! How far threads were behind an ideal that divides the CPUs at each instant: from the times in which
//! they wanted to run, and their gaps in these.

use gaps::record::GapRecord;
use gaps::span::Span;
use gaps::stats::service::{
    Behind, Curve, Ideal, Machine, Service, Wanting, Weight, furthest_ticks, quantile_ticks,
};
use gaps::tsc::ns_to_ticks;
use protocol::cpu_list::{CpuSet, MAX_CPUS};
use protocol::group::{Class, GroupSpec};
use protocol::index::Kind;
use protocol::job::LoadSpec;
use protocol::message::CoschedInterface;
use results::clock::Clock;
use results::model::{LagWindow, ServiceLag, Thread};

use super::parted::Parted;
use crate::session::Session;

/// Windows in which it is looked for, those that fit; and the whole run.
const WINDOWS_NS: [u64; 3] = [100_000_000, 1_000_000_000, 10_000_000_000];

/// The times in which a thread wanted to run must come to what it says itself, but for one part in so
/// many.
const TOLERANCE: u64 = 1000;

/// What the lag of all threads is, and how many CPUs they wanted at once, where that is known.
#[derive(Debug, Default)]
pub struct Found {
    /// The lag.
    pub lag: ServiceLag,
    /// So many threads for each CPU, at most, wanted to run at the same time.
    pub threads_per_cpu: Option<u32>,
}

/// Of a run of this length.
pub fn found(
    session: &Session,
    threads: &[Thread],
    parted: &[Parted<'_>],
    run_ns: u64,
    clock: Clock<'_>,
) -> Found {
    of_threads(session, threads, parted, run_ns, clock).unwrap_or_else(|note| Found {
        lag: ServiceLag { note: Some(note), ..ServiceLag::default() },
        threads_per_cpu: None,
    })
}

fn of_threads(
    session: &Session,
    threads: &[Thread],
    parted: &[Parted<'_>],
    run_ns: u64,
    clock: Clock<'_>,
) -> Result<Found, String> {
    let machine = machine(session, clock.load())?;
    let each = threads.iter().zip(parted).zip(&session.demand).enumerate();
    let wanting = each.map(|(index, ((thread, parted), spans))| {
        wanting(thread, parted, spans, clock).map(|wanting| {
            let team = clock.member(index).map_or(0, |member| member.group.index());
            Wanting { team, ..wanting }
        })
    });
    let wanting = wanting.collect::<Result<Vec<_>, String>>()?;
    let ideal =
        Ideal::of(&wanting, &machine).ok_or("threads paused too often to keep all of it")?;
    let curves: Vec<_> =
        (0..wanting.len()).map(|thread| Curve::of(thread, &wanting, &ideal)).collect();
    let windows = WINDOWS_NS.into_iter().filter(|window| *window < run_ns).chain([run_ns]);
    let windows = windows.filter_map(|window_ns| {
        let ticks = ns_to_ticks(window_ns, clock.khz());
        let behind: Vec<_> = curves.iter().map(|curve| curve.within(ticks)).collect();
        worst(&behind, threads, clock).map(|worst| LagWindow { window_ns, ..worst })
    });
    let windows = windows.collect();
    let cpus = (machine.places * machine.width).max(1);
    let threads_per_cpu = u32::try_from(ideal.most_load.div_ceil(cpus)).ok();
    Ok(Found { lag: ServiceLag { windows, note: None }, threads_per_cpu })
}

/// The worst of all threads, and what all of them together were behind by.
fn worst(behind: &[Vec<Behind>], threads: &[Thread], clock: Clock<'_>) -> Option<LagWindow> {
    let each = threads.iter().zip(behind.iter().map(|behind| furthest_ticks(behind)));
    let (thread, ticks) = each.rev().max_by_key(|(_, ticks)| *ticks)?;
    let p99_ticks = quantile_ticks(&behind.concat(), 990_000)?;
    Some(LagWindow {
        window_ns: 0,
        max_ns: clock.ns(ticks),
        p99_ns: clock.ns(p99_ticks),
        who: thread.who,
    })
}

/// What a thread wanted, and got.
fn wanting(
    thread: &Thread,
    parted: &Parted<'_>,
    spans: &[Span],
    clock: Clock<'_>,
) -> Result<Wanting, String> {
    let name = thread.who.name(clock.load().kind);
    if !thread.complete {
        return Err(format!("{name} did not report"));
    }
    if thread.report.gaps != parted.ended.len() as u64 {
        return Err(format!("not all gaps of {name} have a record (--records)"));
    }
    let end = clock.until().tsc().unwrap_or(u64::MAX);
    let cut = spans.iter().map(|span| Span { begin: span.begin.min(end), end: span.end.min(end) });
    let wants: Vec<_> = cut.filter(|span| span.ticks() > 0).collect();
    if spans.len() >= clock.load().spans_per_thread() as usize {
        return Err(format!("{name} paused too often to keep all times in which it wanted to run"));
    }
    let (kept, said) = (wants.iter().map(Span::ticks).sum::<u64>(), thread.report.busy_ticks);
    if kept.abs_diff(said) > said / TOLERANCE {
        return Err(format!("not all times are known in which {name} wanted to run"));
    }
    let mut waits = parted.waits().into_owned();
    waits.sort_by_key(|gap| gap.tsc_begin);
    Ok(Wanting { team: 0, got: got(&wants, &waits), wants })
}

/// It had a CPU whenever it wanted one and had no gap.
fn got(wants: &[Span], waits: &[GapRecord]) -> Vec<Service> {
    let mut got = Vec::with_capacity(wants.len() + waits.len());
    let mut waits = waits.iter().peekable();
    for want in wants {
        let mut since = want.begin;
        while let Some(gap) = waits.next_if(|gap| gap.tsc_begin < want.end) {
            if gap.tsc_begin > since {
                got.push(Span { begin: since, end: gap.tsc_begin });
            }
            since = since.max(gap.tsc_end);
        }
        if since < want.end {
            got.push(Span { begin: since, end: want.end });
        }
    }
    got.into_iter().map(|span| Service { span, ticks: span.ticks() }).collect()
}

/// What the load's threads share, and how; or why there is no ideal for it.
fn machine(session: &Session, load: &LoadSpec) -> Result<Machine, String> {
    let setup = session.setup.as_ref().ok_or("the load did not start")?;
    if load.kind == Kind::Vcpus || setup.meter.is_some() {
        return Err("does not apply: there are no threads that pause and want to run".into());
    }
    if let Some(why) = load.groups.iter().find_map(not_shared) {
        return Err(format!("does not apply: {why}"));
    }
    let all: CpuSet = load.cpus.iter().copied().collect();
    if setup.affinity.iter().any(|cpus| cpus.parse::<CpuSet>().ok().as_ref() != Some(&all)) {
        return Err("does not apply: not all threads may use all of the load's CPUs".into());
    }
    let cookies = setup.cosched != CoschedInterface::None;
    let with_cookie = load.groups.iter().filter(|group| group.cookie).count();
    let (places, width) = if !cookies || with_cookie == 0 {
        (load.cpus.len() as u64, 1)
    } else if with_cookie == load.groups.len() {
        let siblings = session.hello.as_ref().map_or(&[][..], |hello| &hello.siblings);
        cores(&load.cpus, siblings)
            .ok_or("it is not known which of the load's CPUs share a core")?
    } else {
        return Err("does not apply: some groups have a cookie, and others none".into());
    };
    let cgroups = setup.cgroup_weights;
    // Without a cgroup a thread has the nice value that it inherits, which nobody has asked for.
    let names_nice = |group: &&GroupSpec| group.policy.nice.is_some();
    let named = load.groups.iter().filter(names_nice).count();
    if !cgroups && named > 0 && named < load.groups.len() {
        return Err("does not apply: some groups name a nice value, and others inherit one".into());
    }
    let teams = load.groups.iter().map(|group| weight(group, cgroups && group.own_cgroup));
    Ok(Machine { places, width, teams: teams.collect() })
}

/// Why a group's part is not by weight.
fn not_shared(group: &GroupSpec) -> Option<&'static str> {
    if group.policy.class.is_some_and(|class| class.priority().is_some()) {
        Some("a group is of a real-time class")
    } else if group.quota.is_some() {
        Some("a group has a quota")
    } else if !group.yielding.is_zero() {
        Some("a group yields, and runs when it does not want to")
    } else {
        None
    }
}

/// A core of more threads than a list of this length names is none.
const MAX_LIST_BYTES: usize = 256;

/// How many cores the CPUs are, and how many of them each core has; `None` where these are not equally
/// many, or not known.
fn cores(cpus: &[u32], siblings: &[String]) -> Option<(u64, u64)> {
    let named = siblings.iter().take(MAX_CPUS as usize).filter(|list| list.len() <= MAX_LIST_BYTES);
    let known: Vec<CpuSet> = named.filter_map(|list| list.parse().ok()).collect();
    let widths = cpus.iter().map(|cpu| {
        let core = known.iter().find(|core| core.iter().any(|one| one == *cpu))?;
        Some(core.iter().filter(|one| cpus.contains(one)).count() as u64)
    });
    let widths = widths.collect::<Option<Vec<_>>>()?;
    let width = *widths.first()?;
    let even = width > 0 && widths.iter().all(|one| *one == width);
    even.then(|| (cpus.len() as u64 / width, width))
}

fn weight(group: &GroupSpec, own_cgroup: bool) -> Weight {
    let of_nice = weight_of_nice(group.policy.nice.unwrap_or(0));
    match (own_cgroup, group.policy.class) {
        (true, _) => Weight::OfTeam(of_nice),
        (false, Some(Class::Idle)) => Weight::OfThread(IDLE_WEIGHT),
        (false, _) => Weight::OfThread(of_nice),
    }
}

/// kernel/sched/sched.h, WEIGHT_IDLEPRIO.
const IDLE_WEIGHT: u64 = 3;

/// kernel/sched/core.c, `sched_prio_to_weight`.
fn weight_of_nice(nice: i32) -> u64 {
    const WEIGHTS: [u64; 40] = [
        88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100,
        4904, 3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172,
        137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
    ];
    let place = usize::try_from(nice.saturating_add(20)).unwrap_or(0);
    WEIGHTS[place.min(WEIGHTS.len() - 1)]
}

#[cfg(test)]
#[path = "service_lag_tests.rs"]
mod tests;
