// SPDX-License-Identifier: Apache-2.0
//! What lies in the memory that the load's processes and their supervisor share.
//!
//! All of it consists of atomics and is valid when all zero, so the processes need no further
//! protocol to trust it.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use crossbeam_utils::CachePadded;
use gaps::histogram::Histogram;
use gaps::span::Span;
use gaps::tally::{RecordCell, Tally};
use protocol::cpu_list::{CpuSet, MAX_CPUS};
use protocol::error::Owner;

use crate::kernel::accounting::ThreadAccount;
use crate::kernel::futex;

/// What steers all threads, in cache line pairs of their own: what one writes slows no other down.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    /// Not 0: end now. Read by every turn of every meter, written once.
    pub stop: CachePadded<AtomicU32>,
    /// The start barrier.
    pub gate: CachePadded<Gate>,
    /// Counts what the supervisor wants to wake up for; see [`Control::announce`].
    pub events: CachePadded<AtomicU32>,
    /// The gap that ended the run.
    pub hit: CachePadded<Hit>,
}

/// The start barrier: threads wait on `open`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Gate {
    /// Not 0 when the moments below are set.
    pub open: AtomicU32,
    /// Begin of the first burst, on CLOCK_MONOTONIC.
    pub start_ns: AtomicU64,
    /// The same moment on the TSC.
    pub start_tsc: AtomicU64,
}

/// The gap that passed the threshold.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Hit {
    /// TSC at the end of the gap, at which all figures end; 0 before. Whoever sets it has ended
    /// the load, and it is set before the load is stopped.
    pub moment_tsc: AtomicU64,
    /// Index of the thread.
    pub thread: AtomicU32,
    /// Not 0 when the record is complete, the trace marker written and tracing off.
    pub published: AtomicU32,
    /// The gap.
    pub record: RecordCell,
}

impl Control {
    /// When the gap that ends the load had ended. Whoever has seen the load stopped by it sees
    /// this, too.
    pub fn hit_tsc(&self) -> Option<u64> {
        Some(self.hit.moment_tsc.load(Acquire)).filter(|moment| *moment > 0)
    }

    /// Ends all bursts and all sleeps.
    pub fn stop(&self) {
        self.stop.store(1, Release);
        futex::wake_all(&self.stop);
    }

    /// Wakes the supervisor.
    pub fn announce(&self) {
        self.events.fetch_add(1, Release);
        futex::wake_all(&self.events);
    }
}

/// A short text, written once.
#[derive(Debug)]
#[repr(C)]
pub struct Text {
    length: AtomicU32,
    bytes: [AtomicU8; Text::CAPACITY],
}

impl Default for Text {
    fn default() -> Self {
        Self { length: AtomicU32::new(0), bytes: [const { AtomicU8::new(0) }; Self::CAPACITY] }
    }
}

impl Text {
    const CAPACITY: usize = 508;

    /// Writes the text, or as much of it as there is room for.
    pub fn set(&self, text: &str) {
        let mut length = 0;
        for (cell, byte) in self.bytes.iter().zip(text.bytes()) {
            cell.store(byte, Relaxed);
            length += 1;
        }
        self.length.store(length, Release);
    }

    /// The text, if it was written.
    pub fn get(&self) -> Option<String> {
        let length = self.length.load(Acquire) as usize;
        let bytes: Vec<_> = self.bytes.iter().take(length).map(|byte| byte.load(Relaxed)).collect();
        (length > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// One group's process.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct GroupSlot {
    failure: Text,
    /// Number of the failure's owner, before the text.
    owner: AtomicU32,
    /// What it had to do without.
    pub note: Text,
}

impl GroupSlot {
    /// Tells the supervisor why the process cannot go on.
    pub fn fail(&self, owner: Owner, text: &str) {
        self.owner.store(owner as u32, Relaxed);
        self.failure.set(text);
    }

    /// Why it cannot, and the owner of that, if it has told.
    pub fn failure(&self) -> Option<(Owner, String)> {
        let text = self.failure.get()?;
        Some((Owner::from_number(self.owner.load(Relaxed)).unwrap_or(Owner::Internal), text))
    }
}

/// Where a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Not started.
    Absent = 0,
    /// Prepared, at the barrier.
    Waiting = 1,
    /// In the load.
    Running = 2,
    /// Ended; its results are complete.
    Done = 3,
}

/// One thread.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct ThreadSlot {
    state: AtomicU32,
    /// Thread ID.
    pub tid: AtomicU32,
    /// Cookie as the kernel reports it.
    pub cookie: AtomicU64,
    /// Affinity as the kernel reports it, before the load.
    pub affinity: CpuCells,
    /// The same after it; no CPU before it was read.
    pub affinity_end: CpuCells,
    /// What the meter counts.
    pub tally: Tally,
    /// Wake-up delays in nanoseconds.
    pub wakeup_ns: Histogram,
    /// Longest wake-up delay in nanoseconds.
    pub wakeup_longest_ns: AtomicU64,
    /// For how long a wake-up had been due that had not come when the figures ended.
    pub wakeup_due_ns: AtomicU64,
    /// Time in which it wanted to run, from the planned begin of each burst to its end.
    pub busy_ticks: AtomicU64,
    /// The same of the warm-up, which is in no figure.
    pub warmup_busy_ticks: AtomicU64,
    /// Bursts completed.
    pub bursts: AtomicU64,
    /// CPU time during the load.
    pub cpu_time_ns: AtomicU64,
    /// How many of the times are there in which it wanted to run.
    pub spans: AtomicU32,
    /// The kernel's own figures before the load.
    pub account_before: AccountCells,
    /// The kernel's own figures of the load.
    pub account: AccountCells,
}

/// Room for a [`Span`].
#[derive(Debug, Default)]
#[repr(C)]
pub struct SpanCell {
    begin: AtomicU64,
    end: AtomicU64,
}

impl SpanCell {
    /// Writes it; for one writer.
    pub fn store(&self, span: Span) {
        self.begin.store(span.begin, Relaxed);
        self.end.store(span.end, Relaxed);
    }

    /// What was stored, once the writer has published it in some way.
    pub fn load(&self) -> Span {
        Span { begin: self.begin.load(Relaxed), end: self.end.load(Relaxed) }
    }
}

/// Room for a [`ThreadAccount`].
#[derive(Debug, Default)]
#[repr(C)]
pub struct AccountCells([AtomicU64; 3]);

impl AccountCells {
    /// Each plus 1: 0 is what the kernel does not tell.
    pub fn store(&self, account: ThreadAccount) {
        let ThreadAccount { run_ns, delay_ns, force_idle_ns } = account;
        for (cell, value) in self.0.iter().zip([run_ns, delay_ns, force_idle_ns]) {
            cell.store(value.map_or(0, |value| value.saturating_add(1)), Relaxed);
        }
    }

    /// What was stored.
    pub fn load(&self) -> ThreadAccount {
        let [run_ns, delay_ns, force_idle_ns] =
            self.0.each_ref().map(|cell| cell.load(Relaxed).checked_sub(1));
        ThreadAccount { run_ns, delay_ns, force_idle_ns }
    }
}

impl ThreadSlot {
    /// Where the thread stands.
    pub fn state(&self) -> State {
        match self.state.load(Acquire) {
            1 => State::Waiting,
            2 => State::Running,
            3 => State::Done,
            _ => State::Absent,
        }
    }

    /// Says where the thread stands; all it wrote before is visible to whoever sees it.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, Release);
    }
}

/// Room for a [`CpuSet`].
#[derive(Debug, Default)]
#[repr(C)]
pub struct CpuCells([AtomicU64; (MAX_CPUS / 64) as usize]);

impl CpuCells {
    /// Notes these CPUs, once.
    pub fn store(&self, cpus: &CpuSet) {
        for cpu in cpus.iter() {
            if let Some(word) = self.0.get(cpu as usize / 64) {
                word.fetch_or(1 << (cpu % 64), Relaxed);
            }
        }
    }

    /// What was stored.
    pub fn load(&self) -> CpuSet {
        (0..MAX_CPUS)
            .filter(|&cpu| {
                let word = self.0.get(cpu as usize / 64);
                word.is_some_and(|word| word.load(Relaxed) & (1 << (cpu % 64)) != 0)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut() {
        let text = Text::default();
        text.set(&"x".repeat(Text::CAPACITY + 9));
        assert_eq!(text.get().map(|text| text.len()), Some(Text::CAPACITY));
    }
}
