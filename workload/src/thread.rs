// SPDX-License-Identifier: Apache-2.0
//! One measuring thread: bursts of spinning, pauses between them.

use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use gaps::accounting::Facts;
use gaps::evidence::Evidence;
use gaps::meter::{Limits, Meter};
use gaps::tally::Recorder;
use gaps::tsc::{clock_ns, ns_to_ticks};
use protocol::cpu_list::CpuSet;
use protocol::duration::as_ns;
use protocol::group::GroupSpec;
use protocol::index::{GroupIndex, Member, ThreadIndex};
use protocol::job::LoadSpec;

use crate::burst_account::{BurstAccount, Moment};
use crate::bursts::{Bursts, Ended};
use crate::hit::{HitPublisher, TraceFiles};
use crate::kernel::accounting::ThreadAccount;
use crate::kernel::{affinity, core_sched, futex};
use crate::kernel::{memory, sched_policy};
use crate::shared_memory::Shared;
use crate::slots::{State, ThreadSlot};
use crate::thread_accounting::{self, KernelAccounting};

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
    /// Cost of one iteration of the meter's loop.
    pub iteration_ticks: u64,
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

/// Measures until the load ends. Errors are those of the preparation.
pub fn run(common: &Common<'_>, index: u32) -> io::Result<()> {
    let slot = prepare(common, index)?;
    let mut accounting = KernelAccounting::of_this_thread(common.tsc_khz);
    let cost = thread_accounting::cost(&mut accounting, common.iteration_ticks);
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
    let Ended { ran_after_ns, asleep_until_ns, missed } = measure(common, slot, index, evidence);
    let cpu_time = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).saturating_sub(cpu_before);
    let unmeasured_ns = account_of(common, slot, index).ran_in_warmup_ns() + ran_after_ns;
    slot.cpu_time_ns.store(cpu_time.saturating_sub(unmeasured_ns), Relaxed);
    let account = ThreadAccount::of_this_thread().since(account_before);
    slot.account.store(account.without_run_ns(ran_after_ns));
    if let Some(missed) = missed {
        missed.account(account_of(common, slot, index));
    }
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

fn measure(
    common: &Common<'_>,
    slot: &ThreadSlot,
    index: u32,
    mut evidence: Evidence<KernelAccounting>,
) -> Ended {
    let control = common.shared.control();
    let (spec, khz) = (common.spec, common.tsc_khz);
    let cells = common.shared.records(index as usize);
    let limits = Limits {
        floor_ticks: ticks(spec.floor, khz),
        threshold_ticks: spec.threshold.map(|time| ticks(time, khz)),
    };
    let (start, end) = span(common);
    let member = common.member(index);
    let account = account_of(common, slot, index);
    let bursts = Bursts {
        group: common.group,
        yielding: common.group.yielding_of(member.thread.index()),
        seed: spec.seed,
        meter: Meter::new(Recorder { tally: &slot.tally, cells, tsc_khz: khz }, limits)
            .counting_from(account.from.tsc),
        account,
        publisher: HitPublisher { control, trace: common.trace.as_ref(), khz, index, member },
        start,
        end,
    };
    bursts.run(&mut evidence)
}

/// What a thread accounts for of its bursts.
fn account_of<'a>(common: &Common<'a>, slot: &'a ThreadSlot, index: u32) -> BurstAccount<'a> {
    let cells = common.shared.records(index as usize);
    let control = common.shared.control();
    let from = counted_from(common);
    let spans = common.shared.spans(index as usize);
    BurstAccount { slot, cells, spans, control, from, khz: common.tsc_khz }
}

/// Ticks; a TSC may wrap, and what is further apart is compared the wrong way round.
const LONG_BEFORE: u64 = 1 << 62;

/// When figures begin: behind the warm-up, and without one before all else. The start is planned on
/// another clock, on which a wake-up of that moment may be some ticks earlier.
fn counted_from(common: &Common<'_>) -> Moment {
    if common.spec.warmup.is_zero() {
        return Moment { ns: 0, tsc: span(common).0.tsc.wrapping_sub(LONG_BEFORE) };
    }
    after(common.spec.warmup, span(common).0, common.tsc_khz)
}

/// When the load begins, and when it ends.
fn span(common: &Common<'_>) -> (Moment, Moment) {
    let gate = &common.shared.control().gate;
    let start = Moment { ns: gate.start_ns.load(Acquire), tsc: gate.start_tsc.load(Acquire) };
    (start, after(common.spec.duration, start, common.tsc_khz))
}

fn after(time: Duration, since: Moment, khz: u64) -> Moment {
    Moment {
        ns: since.ns.saturating_add(as_ns(time)),
        tsc: since.tsc.wrapping_add(ticks(time, khz)),
    }
}

fn ticks(time: Duration, khz: u64) -> u64 {
    ns_to_ticks(as_ns(time), khz)
}
