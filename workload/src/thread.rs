// SPDX-License-Identifier: Apache-2.0
//! One measuring thread: bursts of spinning, pauses between them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use gaps::accounting::Facts;
use gaps::evidence::{Evidence, GapClassifier};
use gaps::meter::{End, Limits, Meter, Rdtscp};
use gaps::pauses::{Distribution, Pauses};
use gaps::record::GapRecord;
use gaps::tally::Recorder;
use gaps::tsc::{self, clock_ns, earlier, ns_to_ticks, ticks_to_ns};
use protocol::cpu_list::CpuSet;
use protocol::duration::as_ns;
use protocol::group::{GroupSpec, SleepSpec};
use protocol::index::{GroupIndex, Member, ThreadIndex};
use protocol::job::LoadSpec;

use crate::burst_account::{BurstAccount, Wakeup};
use crate::kernel::accounting::ThreadAccount;
use crate::kernel::{affinity, core_sched, futex};
use crate::shared_memory::Shared;
use crate::slots::{Control, State, ThreadSlot};
use crate::thread_accounting::{self, KernelAccounting};
use crate::{memory, sched_policy};

/// How long a thread waits at the barrier; the supervisor's own deadline is shorter (a guest
/// among many stands there until the last of them is up), so this one only ends what has lost
/// its supervisor.
const BARRIER: Duration = Duration::from_secs(3600);

/// What all threads of a group share.
pub struct Common<'a> {
    /// The load.
    pub spec: &'a LoadSpec,
    /// Which group of it this is.
    pub index: GroupIndex,
    /// Place of the group's first thread among those of all groups.
    pub first_thread: u32,
    /// CPUs of each of the group's threads.
    pub places: Vec<CpuSet>,
    /// This group of it.
    pub group: &'a GroupSpec,
    /// The mapping.
    pub shared: &'a Shared,
    /// TSC frequency.
    pub tsc_khz: u64,
    /// Cost of one turn of the meter's loop.
    pub turn_ticks: u64,
    /// What its kernel's accounting is like.
    pub facts: Facts,
    /// The trace to stop at a hit.
    pub trace: Option<TraceFiles>,
    /// The threads' stacks can be locked.
    pub stacks_locked: bool,
}

impl Common<'_> {
    /// What the thread of this group is called that has this place among those of all groups.
    pub fn member(&self, index: u32) -> Member {
        let thread = ThreadIndex::new(index.saturating_sub(self.first_thread) as usize);
        Member { kind: self.spec.kind, group: self.index, thread }
    }
}

/// Files of the tracing file system, opened before the load.
pub struct TraceFiles {
    /// `trace_marker`.
    pub marker: File,
    /// `tracing_on`.
    pub switch: File,
}

/// Measures until the load ends. Errors are those of the preparation.
pub fn run(common: &Common<'_>, index: u32) -> io::Result<()> {
    let slot = prepare(common, index)?;
    let mut accounting = KernelAccounting::of_this_thread(common.tsc_khz);
    let cost = thread_accounting::cost(&mut accounting, common.turn_ticks);
    let evidence = Evidence::new(accounting, common.tsc_khz, cost, common.facts);
    let gate = &common.shared.control().gate;
    slot.set_state(State::Waiting);
    common.shared.control().announce();
    let deadline = clock_ns(libc::CLOCK_MONOTONIC) + as_ns(BARRIER);
    if !futex::wait(&gate.open, 0, deadline) {
        return Err(io::Error::other("the load was never released"));
    }
    let account_before = ThreadAccount::of_this_thread();
    slot.account_before.store(account_before);
    let cpu_before = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    slot.set_state(State::Running);
    let Ended { ran_after_ns, asleep_until_ns } = measure(common, slot, index, evidence);
    let cpu_time = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).saturating_sub(cpu_before);
    slot.cpu_time_ns.store(cpu_time.saturating_sub(ran_after_ns), Relaxed);
    let account = ThreadAccount::of_this_thread().since(account_before);
    slot.account.store(account.without_run_ns(ran_after_ns));
    if let Some(end_ns) = asleep_until_ns {
        // Asleep across the end: live until then, as the others do. The accounting was read before,
        // for all of them wake up at once now, and wait for each other.
        futex::wait(&common.shared.control().stop, 0, end_ns);
    }
    // Others may have moved it meanwhile: tools, a cpuset, a CPU that went offline.
    if let Ok(cpus) = affinity::of_this_thread() {
        slot.affinity_end.store(&cpus);
    }
    slot.set_state(State::Done);
    common.shared.control().announce();
    Ok(())
}

/// Everything that may fail or take long, before the barrier.
fn prepare<'a>(common: &Common<'a>, index: u32) -> io::Result<&'a ThreadSlot> {
    let slot = common.shared.threads().get(index as usize);
    let slot = slot.ok_or_else(|| io::Error::other(format!("there is no thread {index}")))?;
    let member = common.member(index);
    let cpus = common.places.get(member.thread.index());
    let cpus = cpus.ok_or_else(|| io::Error::other(format!("{member} has no place")))?;
    affinity::confine_this_thread(cpus)
        .map_err(|error| context(&format!("cannot be pinned to CPUs {cpus}"), error))?;
    let effective = affinity::of_this_thread().map_err(|error| context("affinity", error))?;
    if effective != *cpus {
        let text = format!("is pinned to CPUs {effective} where {cpus} were asked for");
        return Err(io::Error::other(text));
    }
    slot.affinity.store(&effective);
    sched_policy::check(common.group.policy).map_err(io::Error::other)?;
    let locked = memory::lock_stack();
    if common.stacks_locked {
        // Room was kept for it.
        locked.map_err(|error| context("its stack cannot be locked", error))?;
    }
    slot.tid.store(affinity::this_thread(), Relaxed);
    slot.cookie.store(core_sched::cookie_of_this_thread().unwrap_or(0), Relaxed);
    // The default lets the kernel wake us 50 µs late on purpose, which is no scheduling delay.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
        .map_err(|error| context("its timer slack cannot be set", error.into()))?;
    Ok(slot)
}

fn context(what: &str, error: io::Error) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

/// A moment on both clocks at which a thread is to wake up.
#[derive(Clone, Copy)]
struct Planned {
    ns: u64,
    tsc: u64,
}

/// How a thread came to the end of the load.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    /// For how long it ran after the gap that ended the load.
    ran_after_ns: u64,
    /// It sleeps until the load's end.
    asleep_until_ns: Option<u64>,
}

impl Ended {
    fn after(ran_after_ns: u64) -> Self {
        Self { ran_after_ns, asleep_until_ns: None }
    }
}

fn measure(
    common: &Common<'_>,
    slot: &ThreadSlot,
    index: u32,
    mut evidence: Evidence<KernelAccounting>,
) -> Ended {
    let control = common.shared.control();
    let khz = common.tsc_khz;
    let (spec, group) = (common.spec, common.group);
    let cells = common.shared.records(index as usize);
    let meter = Meter::new(
        Recorder { tally: &slot.tally, cells, tsc_khz: khz },
        Limits {
            floor_ticks: ticks(spec.floor, khz),
            threshold_ticks: spec.threshold.map(|time| ticks(time, khz)),
        },
    );
    let mut pauses = Pauses::new(distribution(group.sleep), spec.seed, index);
    let (start, end) = span(common);
    let mut wake_ns = start.ns;
    if !group.yielding.is_zero() {
        yield_until(control, start.ns, start.tsc.wrapping_add(ticks(group.yielding, khz)));
        wake_ns = clock_ns(libc::CLOCK_MONOTONIC);
    }
    let book = BurstAccount { slot, cells, control, khz };
    while wake_ns < end.ns {
        evidence.pause();
        let stopped = futex::wait(&control.stop, 0, wake_ns);
        let wakeup = Wakeup::now(wake_ns, khz);
        let class = evidence.wake(wakeup.planned_tsc, wakeup.awake.tsc);
        if stopped {
            // Over the threshold or not: the load has ended.
            if let Some(due) = book.due(&wakeup, end.tsc, class) {
                meter.waited(due);
            }
            return Ended::default();
        }
        if let Some(record) = meter.waited(wakeup.gap_until(wakeup.awake.tsc, class)) {
            hit(common, index, record);
            return Ended::after(book.burst(&wakeup, tsc::read().tsc, End::Hit(record)));
        }
        let from = meter.resume(&mut Rdtscp, wakeup.awake, evidence.own_ticks());
        // The burst is counted from the plan: waking up late costs busy time, as it would
        // cost a real machine, and the delay is not hidden by starting over.
        let planned_end = wakeup.planned_tsc.wrapping_add(ticks(group.busy, khz));
        let until = earlier(planned_end, end.tsc);
        let (why, mut last) = meter.burst(&mut Rdtscp, &mut evidence, from, until, &control.stop);
        if let End::Hit(record) = why {
            hit(common, index, record);
            last = tsc::read();
        }
        let ran_after_ns = book.burst(&wakeup, last.tsc, why);
        match why {
            End::Hit(_) | End::Stopped => return Ended::after(ran_after_ns),
            End::Deadline if until == end.tsc => return Ended::after(ran_after_ns),
            End::Deadline => {}
        }
        wake_ns = clock_ns(libc::CLOCK_MONOTONIC).saturating_add(pauses.next_ns());
    }
    Ended { ran_after_ns: 0, asleep_until_ns: Some(end.ns) }
}

/// When the load begins, and when it ends.
fn span(common: &Common<'_>) -> (Planned, Planned) {
    let gate = &common.shared.control().gate;
    let start = Planned { ns: gate.start_ns.load(Acquire), tsc: gate.start_tsc.load(Acquire) };
    let duration_ns = as_ns(common.spec.duration);
    let end = Planned {
        ns: start.ns.saturating_add(duration_ns),
        tsc: start.tsc.wrapping_add(ns_to_ticks(duration_ns, common.tsc_khz)),
    };
    (start, end)
}

fn ticks(time: Duration, khz: u64) -> u64 {
    ns_to_ticks(as_ns(time), khz)
}

/// From the start on, gives the CPU away again and again; unmetered, for a thread that yields
/// does not want to run.
fn yield_until(control: &Control, start_ns: u64, until_tsc: u64) {
    let mut stopped = futex::wait(&control.stop, 0, start_ns);
    while !stopped && earlier(tsc::read().tsc, until_tsc) != until_tsc {
        rustix::thread::sched_yield();
        stopped = control.stop.load(Relaxed) != 0;
    }
}

/// The threshold is passed: mark and stop the trace first, for it overwrites its own
/// beginning with every microsecond that it goes on; then end the load.
fn hit(common: &Common<'_>, index: u32, record: GapRecord) {
    let control = common.shared.control();
    let hit = &control.hit;
    if hit.moment_tsc.compare_exchange(0, record.tsc_end.max(1), AcqRel, Relaxed).is_err() {
        // Another thread was first, and ends the load.
        return;
    }
    hit.thread.store(index, Relaxed);
    if let Some(TraceFiles { marker, switch }) = &common.trace {
        let mut text = Line::default();
        let ns = ticks_to_ns(record.ticks(), common.tsc_khz);
        // A line too long is cut, and a failed write leaves the trace without its marker:
        // neither may keep the trace from being stopped.
        let _ = write!(text, "schedvmm: gap of {ns} ns in {}", common.member(index));
        let (mut marker, mut switch) = (marker, switch);
        let _ = marker.write(text.as_bytes());
        let _ = switch.write(b"0");
    }
    hit.record.store(record);
    hit.published.store(1, Release);
    control.stop();
    control.announce();
}

/// A line on the stack: formatting without allocation.
struct Line {
    bytes: [u8; 96],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 96], length: 0 }
    }
}

impl Line {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

fn distribution(sleep: SleepSpec) -> Distribution {
    match sleep {
        SleepSpec::Uniform { min, max } => {
            Distribution::Uniform { min_ns: as_ns(min), max_ns: as_ns(max) }
        }
        SleepSpec::Fixed(pause) => Distribution::Fixed { ns: as_ns(pause) },
        SleepSpec::Exponential(mean) => Distribution::Exponential { mean_ns: as_ns(mean) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::index::Kind;

    #[test]
    fn the_earlier_of_two_moments_even_across_the_wrap() {
        assert_eq!(earlier(1, 2), 1);
        assert_eq!(earlier(2, 1), 1);
        assert_eq!(earlier(u64::MAX, 3), u64::MAX);
    }

    #[test]
    fn a_line_holds_the_longest_marker_and_cuts_no_further() {
        let mut line = Line::default();
        let last = Member::of_numbers(Kind::Threads, u32::MAX, u32::MAX).unwrap();
        write!(line, "schedvmm: gap of {} ns in {last}", u64::MAX).unwrap();
        assert!(line.as_bytes().ends_with(b"group 4294967295 thread 4294967295"));
        write!(line, "{}", "x".repeat(96)).unwrap_err();
        assert!(line.as_bytes().ends_with(b"4294967295"));
    }
}
