// SPDX-License-Identifier: Apache-2.0
//! The supervisor of the load: start, barrier; the rest is `monitor`'s.

use std::path::{Path, PathBuf};
use std::process::{self};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};
use std::{fs, thread};

use gaps::bench;
use gaps::tsc::{self, Anchor, Choice, Sources, clock_ns};
use protocol::cpu_list::MAX_CPUS;
use protocol::duration::as_ns;
use protocol::group;
use protocol::group_process::Size;
use protocol::index::GroupIndex;
use protocol::job::LoadSpec;

use crate::context::WorkloadContext;
use crate::error::LoadError;
use crate::ground::check_cpus;
use crate::group_processes::{Cost, Groups, POLL_INTERVAL, those_not};
use crate::kernel::sched_policy;
use crate::kernel::{affinity, futex};
use crate::monitor::{Accounts, Watch};
use crate::observer::{Observer, Outcome, Prepared};
use crate::placement::Places;
use crate::shared_memory::Shared;
use crate::slots::State;

/// For all threads to stand at the barrier. An emulated machine needs seconds for it.
const READY: Duration = Duration::from_secs(60);

/// Threads in all; each costs 64 KiB of shared memory without its records.
pub const MAX_THREADS: usize = 4096;

/// Runs the load and returns when it has ended.
///
/// An error means that it did not begin. Once it has, what was measured is always returned,
/// with the fault that ended it early.
pub fn run(
    spec: &LoadSpec,
    context: &WorkloadContext,
    observer: &mut dyn Observer,
) -> Result<Outcome, LoadError> {
    validate(spec)?;
    check_cpus(&spec.cpus, &affinity::online().map_err(LoadError::Cpus)?, &context.ground)?;
    for group in &spec.groups {
        sched_policy::try_out(group.policy)?;
    }
    if !tsc::has_rdtscp() {
        return Err(LoadError::NoRdtscp);
    }
    let mut sources = context.tsc;
    let choice = tsc_frequency(&mut sources)?;
    let cost = Cost { tsc_khz: choice.khz, iteration_ticks: bench::iteration_ticks() };
    let file = SharedFile::new(&context.memory);
    let shared = Shared::create(&file.0, Size::of(spec))?;
    let places = Places::of(spec);
    let mut groups = Groups::start(spec, &places.threads, context, &file.0, cost)?;
    observer.processes(&groups.pids());
    wait_until_ready(spec, &shared, &mut groups)?;
    drop(file);
    let mut prepared = prepared(spec, context, &shared, cost)?;
    prepared.notes.extend(places.note);
    observer.prepared(&prepared)?;
    let accounts = Accounts::open(&context.cgroups);
    let mut watch = Watch::release(spec, &shared, choice, accounts, observer)?;
    let mut fault = watch.until_end(&mut groups, observer).err();
    if let Err(error) = watch.end(&mut groups, observer) {
        fault.get_or_insert(error);
    }
    Ok(Outcome { report: watch.report(sources), fault })
}

fn validate(spec: &LoadSpec) -> Result<(), LoadError> {
    let threads = spec.threads();
    if !(1..=MAX_THREADS).contains(&threads) {
        let groups = spec.groups.len();
        return Err(LoadError::Spec(format!(
            "{threads} threads in {groups} groups: there must be between 1 and {MAX_THREADS} \
             threads"
        )));
    }
    if spec.cpus.is_empty() {
        return Err(LoadError::Spec("no CPUs for the load; name at least one".into()));
    }
    if let Some(cpu) = spec.cpus.iter().find(|cpu| **cpu >= MAX_CPUS) {
        return Err(LoadError::Spec(format!(
            "CPU {cpu}: there are CPUs 0 to {} at most",
            MAX_CPUS - 1
        )));
    }
    if spec.duration.is_zero() {
        return Err(LoadError::Spec("the load must last longer than 0".into()));
    }
    for (number, group) in spec.groups.iter().enumerate() {
        if let Some(text) = group::fault(group) {
            return Err(LoadError::Spec(format!("{}: {text}", group_name(number, spec.kind))));
        }
        if let Some(text) = group.arrival.and_then(|arrival| arrival.fault(spec.duration)) {
            return Err(LoadError::Spec(format!("{}: {text}", group_name(number, spec.kind))));
        }
        if let Some(cpu) = group.cpus.iter().find(|cpu| !spec.cpus.contains(cpu)) {
            return Err(LoadError::Spec(format!(
                "{}: CPU {cpu} is none of the load's",
                group_name(number, spec.kind)
            )));
        }
    }
    Ok(())
}

fn group_name(number: usize, kind: protocol::index::Kind) -> String {
    kind.group_name(GroupIndex::new(number))
}

/// The frequency from what is known, or else measured; that is a known source then.
///
/// # Errors
/// Nothing tells it, not even a clock.
pub fn tsc_frequency(sources: &mut Sources) -> Result<Choice, LoadError> {
    /// Long enough for an error well below 0.01 % on a quiet machine.
    const CALIBRATION: Duration = Duration::from_millis(100);
    if let Some(choice) = sources.choose() {
        return Ok(choice);
    }
    let begin = Anchor::now();
    thread::sleep(CALIBRATION);
    sources.slope_khz = begin.slope_khz(&Anchor::now());
    sources.choose().ok_or(LoadError::NoTscFrequency)
}

/// The file of the shared memory, which goes away once everybody has mapped it.
struct SharedFile(PathBuf);

impl SharedFile {
    fn new(directory: &Path) -> Self {
        /// Several loads in one process, as in tests.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        Self(directory.join(format!("schedvmm-load-{}-{number}", process::id())))
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}

fn wait_until_ready(
    spec: &LoadSpec,
    shared: &Shared,
    groups: &mut Groups,
) -> Result<(), LoadError> {
    let deadline = Instant::now() + READY;
    let events = &shared.control().events;
    loop {
        let seen = events.load(Acquire);
        let who = those_not(State::Waiting, spec, shared, &[]);
        if who.is_empty() {
            return Ok(());
        }
        groups.check(spec, shared)?;
        if Instant::now() >= deadline {
            return Err(LoadError::NotReady { who, deadline: READY });
        }
        futex::wait(events, seen, clock_ns(libc::CLOCK_MONOTONIC) + as_ns(POLL_INTERVAL));
    }
}

fn prepared(
    spec: &LoadSpec,
    context: &WorkloadContext,
    shared: &Shared,
    cost: Cost,
) -> Result<Prepared, LoadError> {
    let all: Vec<_> = shared.threads().iter().map(|thread| thread.cookie.load(Relaxed)).collect();
    let of_groups: Vec<u64> = spec
        .members()
        .map(|members| all.get(members).unwrap_or_default())
        .filter_map(|group| group.first().copied())
        .collect();
    if context.cookie {
        check_cookies(
            spec,
            spec.members().map(|members| all.get(members).unwrap_or_default()),
            &of_groups,
        )?;
    }
    let cookies = of_groups;
    let mut notes: Vec<_> = shared.groups().iter().filter_map(|group| group.note.get()).collect();
    // The same for every group, as a rule.
    notes.dedup();
    let affinity = shared.threads().iter().map(|thread| thread.affinity.load()).collect();
    let tids = shared.threads().iter().map(|thread| thread.tid.load(Relaxed)).collect();
    Ok(Prepared {
        cookies,
        tids,
        affinity,
        notes,
        tsc_khz: cost.tsc_khz,
        iteration_ticks: cost.iteration_ticks,
    })
}

/// A cookie that is missing, or that two groups share, would make the whole run a lie.
///
/// # Errors
/// Which group's it is.
pub fn check_cookies<'a>(
    spec: &LoadSpec,
    groups: impl Iterator<Item = &'a [u64]>,
    cookies: &[u64],
) -> Result<(), LoadError> {
    for (number, (group, own)) in groups.zip(&spec.groups).enumerate() {
        let name = spec.kind.group_name(GroupIndex::new(number));
        if !own.cookie {
            if group.iter().any(|cookie| *cookie != 0) {
                return Err(LoadError::Cookie(format!(
                    "{name} is to have no cookie, and has {group:x?} from whoever \
                     started the load"
                )));
            }
            continue;
        }
        let cookie = cookies.get(number).copied().unwrap_or(0);
        if group.contains(&0) || group.iter().any(|other| *other != cookie) {
            return Err(LoadError::Cookie(format!(
                "the threads of {name} have cookies {group:x?}, which must be one and \
                 the same; this kernel does not let threads share it"
            )));
        }
        if cookies.iter().filter(|other| **other == cookie).count() > 1 {
            return Err(LoadError::Cookie(format!(
                "{name} shares cookie {cookie:x} with another group"
            )));
        }
    }
    Ok(())
}
