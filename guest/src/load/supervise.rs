// SPDX-License-Identifier: Apache-2.0
//! The supervisor of the load: start, barrier, watch, end, collect.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::{Duration, Instant},
};

use gaps::{
    histogram::Histogram,
    record::GapRecord,
    tsc::{self, Anchor, Choice, Sources, bracket, clock_ns, ns_to_ticks},
};

use super::{
    LoadError, Observer, Outcome, Prepared, Surroundings, futex,
    group::{GROUP_COMMAND, GroupPlan},
    shared::{Shared, State, ThreadSlot},
    thread::as_ns,
};
use crate::{
    cpus::{CpuSet, MAX_CPUS},
    frame::MAX_RECORDS_PER_FRAME,
    job::LoadSpec,
    wire::{Gap, LoadReport, ThreadReport, ThresholdHit, Tick, TscReport},
};

/// For all threads to stand at the barrier. An emulated machine needs seconds for it.
const READY: Duration = Duration::from_secs(60);

/// For all threads to end once they are told to. A thread that the kernel under test starves
/// for longer than this while nobody competes with it will not run again.
const ENDED: Duration = Duration::from_secs(10);

/// Between the release and the first burst: all threads fall asleep again meanwhile, and
/// begin together.
const LEAD: Duration = Duration::from_millis(50);

/// How often the supervisor looks for a request to stop and for dead processes. It is woken
/// for everything else.
const LOOK: Duration = Duration::from_millis(50);

/// Records handed on in one second: 6 MiB on the wire. What is above waits for the next
/// second, or for the end.
const RECORDS_PER_SECOND: usize = 1 << 18;

/// Threads in all; each costs 64 KiB of shared memory without its records.
const MAX_THREADS: u32 = 4096;

/// Runs the load and returns when it has ended.
///
/// An error means that it did not begin. Once it has, what was measured is always returned,
/// with the fault that ended it early.
pub fn run(
    spec: &LoadSpec,
    surroundings: &Surroundings,
    observer: &mut dyn Observer,
) -> Result<Outcome, LoadError> {
    validate(spec, &CpuSet::online()?)?;
    if !tsc::has_rdtscp() {
        return Err(LoadError::NoRdtscp);
    }
    let choice = tsc_frequency(surroundings.tsc)?;
    let file = SharedFile::new(&surroundings.memory);
    let shared = Shared::create(&file.0, spec)?;
    let mut groups = Groups::start(spec, surroundings, &file.0, choice.khz)?;
    observer.processes(&groups.pids());
    wait_until_ready(spec, &shared, &mut groups)?;
    drop(file);
    let prepared = prepared(spec, surroundings, &shared, choice.khz)?;
    observer.prepared(&prepared)?;
    let mut watch = Watch::release(spec, &shared, choice, observer)?;
    let mut fault = watch.until_end(&mut groups, observer).err();
    if let Err(error) = watch.end(&mut groups, observer) {
        fault.get_or_insert(error);
    }
    Ok(Outcome { report: watch.report(surroundings.tsc), fault })
}

fn validate(spec: &LoadSpec, online: &CpuSet) -> Result<(), LoadError> {
    let fail = |text: String| Err(LoadError::Spec(text));
    let threads = spec.groups.checked_mul(spec.threads_per_group);
    if !threads.is_some_and(|threads| (1..=MAX_THREADS).contains(&threads)) {
        let (groups, each) = (spec.groups, spec.threads_per_group);
        return fail(format!(
            "{groups} groups of {each} threads: there must be between 1 and {MAX_THREADS} threads"
        ));
    }
    if spec.cpus.is_empty() {
        return fail("no CPUs for the load; name at least one".into());
    }
    for &cpu in &spec.cpus {
        if cpu >= MAX_CPUS || !online.contains(cpu) {
            return fail(format!("CPU {cpu} is not online; the load must be on some of {online}"));
        }
    }
    if spec.busy.is_zero() || spec.duration.is_zero() {
        return fail("bursts and the whole load must last longer than 0".into());
    }
    Ok(())
}

/// The frequency from what is known, or else measured.
fn tsc_frequency(mut sources: Sources) -> Result<Choice, LoadError> {
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

/// The groups' processes; killed when dropped.
struct Groups(Vec<Child>);

impl Groups {
    fn start(
        spec: &LoadSpec,
        surroundings: &Surroundings,
        shared: &Path,
        tsc_khz: u64,
    ) -> Result<Self, LoadError> {
        let mut groups = Self(Vec::new());
        for group in 0..spec.groups {
            let plan = GroupPlan {
                spec: spec.clone(),
                group,
                parent: process::id(),
                shared: shared.to_owned(),
                tsc_khz,
                cookie: surroundings.cookie,
                cgroups: surroundings.cgroups.get(group as usize).cloned().unwrap_or_default(),
                trace: surroundings.trace.clone(),
            };
            let executable = &surroundings.executable;
            let failed =
                |source| LoadError::Spawn { group, executable: executable.clone(), source };
            let plan = serde_json::to_string(&plan).map_err(|error| failed(error.into()))?;
            let mut command = Command::new(executable);
            command.arg(GROUP_COMMAND).arg(plan).stdin(Stdio::null());
            groups.0.push(command.spawn().map_err(failed)?);
        }
        Ok(groups)
    }

    fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// An error when one has ended while some of its threads had not.
    fn check(&mut self, spec: &LoadSpec, shared: &Shared) -> Result<(), LoadError> {
        let threads = shared.threads().chunks(spec.threads_per_group as usize);
        for ((group, child), threads) in (0..).zip(&mut self.0).zip(threads) {
            let Some(status) = child.try_wait()? else { continue };
            if threads.iter().all(|thread| thread.state() == State::Done) {
                continue;
            }
            let slot = shared.groups().get(group as usize);
            let reason = slot.and_then(|slot| slot.failure.get());
            return Err(LoadError::GroupDied {
                group,
                pid: child.id(),
                status: status.to_string(),
                reason: reason.unwrap_or_else(|| "it gave no reason".into()),
            });
        }
        Ok(())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself, as it should.
            let _ = child.kill();
        }
        let deadline = Instant::now() + ENDED;
        for child in &mut self.0 {
            // Bounded: a process stuck in the kernel must not keep us from reporting it.
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn wait_until_ready(
    spec: &LoadSpec,
    shared: &Shared,
    groups: &mut Groups,
) -> Result<(), LoadError> {
    let deadline = Instant::now() + READY;
    let events = &shared.control().events.0;
    loop {
        let seen = events.load(Acquire);
        let who = those_not(State::Waiting, spec, shared);
        if who.is_empty() {
            return Ok(());
        }
        groups.check(spec, shared)?;
        if Instant::now() >= deadline {
            return Err(LoadError::NotReady { who, deadline: READY });
        }
        futex::wait(events, seen, clock_ns(libc::CLOCK_MONOTONIC) + as_ns(LOOK));
    }
}

/// Names of the threads that are not in this state.
fn those_not(state: State, spec: &LoadSpec, shared: &Shared) -> Vec<String> {
    let threads = shared.threads().iter().enumerate();
    threads
        .filter(|(_, thread)| thread.state() != state)
        .map(|(index, _)| {
            let each = spec.threads_per_group as usize;
            format!("thread {} of group {}", index % each, index / each)
        })
        .collect()
}

fn prepared(
    spec: &LoadSpec,
    surroundings: &Surroundings,
    shared: &Shared,
    tsc_khz: u64,
) -> Result<Prepared, LoadError> {
    let all: Vec<_> = shared.threads().iter().map(|thread| thread.cookie.load(Relaxed)).collect();
    let groups = all.chunks(spec.threads_per_group as usize);
    let cookies: Vec<u64> = groups.clone().filter_map(|group| group.first().copied()).collect();
    if surroundings.cookie {
        check_cookies(groups, &cookies)?;
    }
    let mut notes: Vec<_> = shared.groups().iter().filter_map(|group| group.note.get()).collect();
    // The same for every group, as a rule.
    notes.dedup();
    let affinity = shared.threads().iter().map(ThreadSlot::affinity).collect();
    Ok(Prepared { cookies, affinity, notes, tsc_khz })
}

/// A cookie that is missing, or that two groups share, would make the whole run a lie.
fn check_cookies<'a>(
    groups: impl Iterator<Item = &'a [u64]>,
    cookies: &[u64],
) -> Result<(), LoadError> {
    for (number, group) in groups.enumerate() {
        let cookie = cookies.get(number).copied().unwrap_or(0);
        if group.contains(&0) || group.iter().any(|other| *other != cookie) {
            return Err(LoadError::Cookie(format!(
                "the threads of group {number} have cookies {group:x?}, which must be one and \
                 the same; this kernel does not let threads inherit it"
            )));
        }
        if cookies.iter().filter(|other| **other == cookie).count() > 1 {
            return Err(LoadError::Cookie(format!(
                "group {number} shares cookie {cookie:x} with another group"
            )));
        }
    }
    Ok(())
}

/// The load while it runs.
struct Watch<'a> {
    spec: &'a LoadSpec,
    shared: &'a Shared,
    choice: Choice,
    begin: Anchor,
    start_ns: u64,
    second: u32,
    /// Records handed on so far, by thread.
    shipped: Vec<usize>,
    hit_told: bool,
    tsc_end: u64,
    slope_khz: Option<f64>,
}

impl<'a> Watch<'a> {
    /// Opens the barrier.
    fn release(
        spec: &'a LoadSpec,
        shared: &'a Shared,
        choice: Choice,
        observer: &mut dyn Observer,
    ) -> Result<Self, LoadError> {
        let begin = Anchor::now();
        let (tsc, now_ns) = bracket(libc::CLOCK_MONOTONIC);
        let start_ns = now_ns + as_ns(LEAD);
        let start_tsc = tsc.wrapping_add(ns_to_ticks(as_ns(LEAD), choice.khz));
        let gate = &shared.control().gate.0;
        gate.start_ns.store(start_ns, Relaxed);
        gate.start_tsc.store(start_tsc, Relaxed);
        gate.open.store(1, Release);
        futex::wake_all(&gate.open);
        observer.released(start_tsc)?;
        Ok(Self {
            spec,
            shared,
            choice,
            begin,
            start_ns,
            second: 0,
            shipped: vec![0; shared.threads().len()],
            hit_told: false,
            tsc_end: start_tsc,
            slope_khz: None,
        })
    }

    /// Watches until all threads have ended by themselves, or have been told to.
    fn until_end(
        &mut self,
        groups: &mut Groups,
        observer: &mut dyn Observer,
    ) -> Result<(), LoadError> {
        let control = self.shared.control();
        let deadline_ns = self.start_ns.saturating_add(as_ns(self.spec.duration));
        loop {
            let seen = control.events.0.load(Acquire);
            groups.check(self.spec, self.shared)?;
            let stopped = control.stop.0.load(Relaxed) != 0 || observer.stop_requested();
            let now_ns = clock_ns(libc::CLOCK_MONOTONIC);
            if stopped || now_ns >= deadline_ns {
                return Ok(());
            }
            let next_tick_ns = self.start_ns + u64::from(self.second + 1) * 1_000_000_000;
            if now_ns >= next_tick_ns {
                self.tick(observer)?;
                continue;
            }
            let wake_ns = next_tick_ns.min(deadline_ns).min(now_ns + as_ns(LOOK));
            futex::wait(&control.events.0, seen, wake_ns);
        }
    }

    /// Ends the load, waits for its threads, and hands on what is left.
    fn end(&mut self, groups: &mut Groups, observer: &mut dyn Observer) -> Result<(), LoadError> {
        let control = self.shared.control();
        control.stop();
        let told = self.tell_hit(observer);
        let deadline = Instant::now() + ENDED;
        let ended = loop {
            let seen = control.events.0.load(Acquire);
            let who = those_not(State::Done, self.spec, self.shared);
            if who.is_empty() {
                break Ok(());
            }
            if let Err(error) = groups.check(self.spec, self.shared) {
                break Err(error);
            }
            if Instant::now() >= deadline {
                break Err(LoadError::NotEnded { who, deadline: ENDED });
            }
            futex::wait(&control.events.0, seen, clock_ns(libc::CLOCK_MONOTONIC) + as_ns(LOOK));
        };
        self.tsc_end = tsc::read().tsc;
        self.slope_khz = self.begin.slope_khz(&Anchor::now());
        // Told again: the hit may have been published while the load was ending.
        let told = told.and_then(|()| self.tell_hit(observer));
        let shipped = self.ship(observer, usize::MAX);
        ended.and(told).and(shipped.map_err(LoadError::Observer))
    }

    fn tell_hit(&mut self, observer: &mut dyn Observer) -> Result<(), LoadError> {
        let hit = &self.shared.control().hit.0;
        if self.hit_told || hit.published.load(Acquire) == 0 {
            return Ok(());
        }
        self.hit_told = true;
        let thread = hit.claimed.load(Relaxed).saturating_sub(1);
        let slot = self.shared.threads().get(thread as usize);
        let tid = slot.map_or(0, |slot| slot.tid.load(Relaxed));
        let gap = Gap { thread, record: hit.record.load() };
        Ok(observer.hit(ThresholdHit { tid, gap })?)
    }

    fn tick(&mut self, observer: &mut dyn Observer) -> Result<(), LoadError> {
        self.second += 1;
        let threads = self.shared.threads();
        let online = threads.iter().filter(|thread| thread.state() == State::Running).count();
        let longest = (0..)
            .zip(threads)
            .filter_map(|(thread, slot)| Some(Gap { thread, record: slot.tally.close_window()? }))
            .max_by_key(|gap| gap.record.ticks());
        self.ship(observer, RECORDS_PER_SECOND)?;
        let online = u32::try_from(online).unwrap_or(u32::MAX);
        Ok(observer.tick(Tick { second: self.second, online, longest })?)
    }

    /// Hands on new records of all threads, at most so many.
    fn ship(&mut self, observer: &mut dyn Observer, most: usize) -> io::Result<()> {
        let mut left = most;
        for ((thread, slot), shipped) in (0..).zip(self.shared.threads()).zip(&mut self.shipped) {
            let cells = self.shared.records(thread as usize);
            while left > 0 {
                let room = left.min(MAX_RECORDS_PER_FRAME);
                let records: Vec<GapRecord> =
                    slot.tally.records(cells, *shipped).take(room).collect();
                if records.is_empty() {
                    break;
                }
                observer.gaps(thread, &records)?;
                *shipped += records.len();
                left -= records.len();
            }
        }
        Ok(())
    }

    fn report(&self, known: Sources) -> LoadReport {
        let sources = Sources { slope_khz: self.slope_khz.or(known.slope_khz), ..known };
        let each = self.spec.threads_per_group;
        let threads = (0..).zip(self.shared.threads());
        LoadReport {
            tsc_end: self.tsc_end,
            tsc: TscReport {
                khz: self.choice.khz,
                source: self.choice.source,
                kvm_khz: sources.kvm_khz,
                cpuid_15_khz: sources.cpuid_15_khz,
                cpuid_40000010_khz: sources.cpuid_40000010_khz,
                slope_khz: sources.slope_khz,
                disagreement_ppm: sources.disagreement_ppm(self.choice.khz),
            },
            threads: threads.map(|(index, slot)| report_thread(index / each, slot)).collect(),
        }
    }
}

fn report_thread(group: u32, slot: &ThreadSlot) -> ThreadReport {
    let buckets = |histogram: &Histogram| histogram.buckets().collect();
    ThreadReport {
        group,
        tid: slot.tid.load(Relaxed),
        gaps: slot.tally.gaps(),
        gaps_unrecorded: slot.tally.unrecorded(),
        gap_ticks: slot.tally.gap_ticks(),
        longest: slot.tally.longest(),
        gap_histogram_ns: buckets(slot.tally.histogram_ns()),
        iterations: slot.tally.iterations(),
        busy_ticks: slot.busy_ticks.load(Relaxed),
        bursts: slot.bursts.load(Relaxed),
        backwards: slot.tally.backwards(),
        wakeup_histogram_ns: buckets(&slot.wakeup_ns),
        wakeup_longest_ns: slot.wakeup_longest_ns.load(Relaxed),
        cpu_time_ns: slot.cpu_time_ns.load(Relaxed),
        run_delay_ns: slot.run_delay_ns_plus_1.load(Relaxed).checked_sub(1),
    }
}
