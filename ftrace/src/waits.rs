// SPDX-License-Identifier: Apache-2.0
//! Who waited for a CPU, and when: the gaps of a trace that nobody measured.
//!
//! A thread waits from the time it could run to the time it is switched in: after it was woken
//! ([`WaitKind::Wakeup`], from `sched_waking`, or `sched_wakeup` where that is all there is), or
//! after it was switched out although it could go on ([`WaitKind::Preemption`]). A wait whose
//! beginning the trace does not have is none; it is counted. So is one that lost events may have
//! cut short or hidden a turn of: where its CPU lost some, or where it was switched in on another
//! CPU than the one it was on its way to, although migrations are traced. (Formats are no sign of
//! what is: `trace-cmd extract` saves all of them.)
//!
//! [`crate::attribution`] says what took the time of each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::attribution::Gap;
use crate::error::FtraceError;
use crate::ring::{Item, LossReason, Lost, Record};
use crate::sched::{Decoder, Event, Migrate, Switch, Wake};
use crate::trace::Trace;

/// Threads that are told apart, at most; a kernel has four million numbers for them, and none has
/// so many at a time.
const MAX_THREADS: usize = 1 << 17;

/// What a thread waited after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// It was woken, or is new.
    Wakeup,
    /// It was switched out, and could have gone on.
    Preemption,
}

/// A time in which a thread could run and did not. Times are of the trace clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The thread.
    pub tid: i32,
    /// When it could run.
    pub begin: u64,
    /// When it ran, or the trace ended.
    pub end: u64,
    /// What it waited after.
    pub kind: WaitKind,
    /// Where it ran then, or where it was waiting.
    pub cpu: u32,
    /// False if the trace ends in it: then it was longer.
    pub ended: bool,
    /// True if it waited for another CPU before, and the trace does not have migrations: then it
    /// is not known from when on it waited for this one.
    pub moved_unseen: bool,
}

impl Wait {
    /// Its length in units of the trace clock.
    pub fn ticks(&self) -> u64 {
        self.end - self.begin
    }

    /// The same as a gap to be explained.
    pub fn gap(&self) -> Gap {
        Gap { tid: self.tid, begin: self.begin, end: self.end }
    }
}

/// The waits of one kind that a thread had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitSum {
    /// How many.
    pub count: u64,
    /// Their lengths together, in units of the trace clock.
    pub ticks: u64,
    /// The longest.
    pub longest: u64,
}

impl WaitSum {
    fn add(&mut self, ticks: u64) {
        self.count += 1;
        self.ticks = self.ticks.saturating_add(ticks);
        self.longest = self.longest.max(ticks);
    }
}

/// A thread that waited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiter {
    /// Its name when it was switched last.
    pub name: String,
    /// After it was woken.
    pub wakeup: WaitSum,
    /// After it was preempted.
    pub preemption: WaitSum,
    /// How often it was switched in and the trace does not say since when it had waited.
    pub unknown: u64,
}

impl Waiter {
    /// The longest of its waits.
    pub fn longest(&self) -> u64 {
        self.wakeup.longest.max(self.preemption.longest)
    }
}

/// What was lost of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Places where events are missing.
    pub places: u64,
    /// Events that the kernel says are missing; it does not say so of each place.
    pub events: u64,
    /// Pages that contradict themselves.
    pub damaged_pages: u64,
    /// CPUs whose data ends within a page.
    pub truncated_cpus: u64,
}

/// Events that explanations need, and whether the trace has any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// `sched_switch`.
    pub switches: bool,
    /// `sched_waking`.
    pub waking: bool,
    /// `sched_wakeup`.
    pub wakeups: bool,
    /// `sched_migrate_task`, or nothing that would have needed it.
    pub migrations: bool,
    /// `irq_handler_entry`, softirqs or the CPUs' own interrupts.
    pub interrupts: bool,
}

/// What waits to look for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Waits that lie in this time, in whole or in part, by the trace clock.
    pub window: Range<u64>,
    /// Waits on these CPUs, where it is not empty.
    pub cpus: Vec<u32>,
    /// Waits of this thread alone: of its number, or of the name that it had then.
    pub thread: Option<String>,
    /// The longest ones to keep.
    pub worst: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { window: 0..u64::MAX, cpus: Vec::new(), thread: None, worst: 10 }
    }
}

/// Who waited in a trace.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// Time of its first record and of its last; `None` without records.
    pub span: Option<(u64, u64)>,
    /// Its records.
    pub records: u64,
    /// What is missing.
    pub losses: Losses,
    /// What it has.
    pub recorded: Recorded,
    /// Every thread that waited, or was switched in after a wait of unknown length.
    pub threads: BTreeMap<i32, Waiter>,
    /// Threads that there was no room for.
    pub threads_left_out: u64,
    /// The longest waits, the longest first.
    pub worst: Vec<Wait>,
}

/// Looks through the whole trace for waits.
///
/// It needs `sched_switch`; `sched_waking`, `sched_wakeup` and `sched_wakeup_new` for waits after
/// wake-ups. Memory is that of [`Trace::events`] and some hundred bytes for each thread, of 131 072
/// at most.
///
/// # Errors
/// [`FtraceError::ReadPages`] and [`FtraceError::TooLarge`].
pub fn waits(trace: &Trace, wanted: &Wanted) -> Result<Waits, FtraceError> {
    let decoder = Decoder::new(trace.formats());
    let mut scan = Scan {
        wanted,
        found: Waits::default(),
        cpus: Vec::new(),
        threads: FxHashMap::default(),
        worst: BinaryHeap::new(),
        now: 0,
        unseen_moves: 0,
    };
    let mut events = trace.events()?;
    while let Some(item) = events.next()? {
        match item {
            Item::Record(record) => {
                let event = scan.record(&record, &decoder);
                if let Some(event) = event {
                    scan.event(record.cpu, &event);
                }
            }
            Item::Lost(lost) => scan.lost(&lost),
        }
    }
    Ok(scan.finish())
}

/// Where a thread is, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Running {
        cpu: u32,
        /// [`Cpu::losses`] then.
        losses: u32,
        /// Somebody began to wake it while it ran; the switch that follows is no sleep.
        woken_early: bool,
    },
    Waiting {
        since: u64,
        kind: WaitKind,
        cpu: u32,
        losses: u32,
    },
    Asleep,
}

/// What is said of a thread that is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Somebody begins to.
    Begun,
    /// It is in a queue.
    Done,
    /// It is new, and in a queue.
    New,
}

#[derive(Debug, Default)]
struct Thread {
    state: State,
    comm: [u8; 16],
    waiter: Waiter,
    /// It had a wait that was wanted: by a name, perhaps, that it has no more.
    is_wanted: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// How often events began or ceased to be missing.
    losses: u32,
    /// Events are missing up to its next record.
    missing: bool,
}

/// A wait in order of length; of equals the first one is the longest.
type Ranked = Reverse<(u64, Reverse<(u64, i32)>, Kept)>;
/// What else is kept of it: kind, CPU, whether it ended, whether it moved unseen.
type Kept = (WaitKind, u32, bool, bool);

struct Scan<'a> {
    wanted: &'a Wanted,
    found: Waits,
    cpus: Vec<Cpu>,
    threads: FxHashMap<i32, Thread>,
    /// The shortest on top.
    worst: BinaryHeap<Ranked>,
    /// Latest time of any record; time never goes back.
    now: u64,
    /// Threads that ran on another CPU than they had waited for, before any migration was seen.
    unseen_moves: u64,
}

impl Scan<'_> {
    #[inline]
    fn record<'a>(&mut self, record: &Record<'a>, decoder: &Decoder) -> Option<Event<'a>> {
        self.now = self.now.max(record.time);
        self.found.records += 1;
        if self.found.span.is_none() {
            self.found.span = Some((record.time, record.time));
        }
        let cpu = self.cpu(record.cpu);
        if cpu.missing {
            cpu.missing = false;
            cpu.losses = cpu.losses.wrapping_add(1);
        }
        decoder.decode(record.data)
    }

    #[inline]
    fn cpu(&mut self, cpu: u32) -> &mut Cpu {
        // Below `MAX_CPUS`: the trace has pages of no other, and events name no other.
        let index = cpu as usize;
        if self.cpus.len() <= index {
            self.cpus.resize(index + 1, Cpu::default());
        }
        &mut self.cpus[index]
    }

    fn event(&mut self, on: u32, event: &Event) {
        match event {
            Event::Switch(switch) => {
                self.found.recorded.switches = true;
                self.switched_out(on, switch);
                self.switched_in(on, switch);
            }
            Event::Waking(wake) => {
                self.found.recorded.waking = true;
                self.woken(wake, How::Begun);
            }
            Event::Wakeup(wake) => {
                self.found.recorded.wakeups = true;
                self.woken(wake, How::Done);
            }
            Event::WakeupNew(wake) => {
                // Its number may have been another thread's.
                if let Some(thread) = self.thread(wake.pid, wake.comm) {
                    thread.state = State::Unknown;
                }
                self.woken(wake, How::New);
            }
            Event::Migrate(migrate) => {
                self.found.recorded.migrations = true;
                self.migrated(migrate);
            }
            Event::IrqEntry { .. } | Event::IrqExit(_) => self.found.recorded.interrupts = true,
        }
    }

    /// A thread with its name; `None` for the idle ones, and where there is no room.
    #[inline]
    fn thread(&mut self, tid: i32, comm: &[u8]) -> Option<&mut Thread> {
        if tid == 0 {
            return None;
        }
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&tid) {
            self.found.threads_left_out += 1;
            return None;
        }
        let thread = self.threads.entry(tid).or_default();
        let length = comm.len().min(thread.comm.len());
        thread.comm[..length].copy_from_slice(&comm[..length]);
        thread.comm[length..].fill(0);
        Some(thread)
    }

    fn switched_out(&mut self, on: u32, switch: &Switch) {
        let (now, losses) = (self.now, self.cpu(on).losses);
        let blocked = switch.blocked_state() != 0;
        let Some(thread) = self.thread(switch.prev_pid, switch.prev_comm) else { return };
        let early = matches!(thread.state, State::Running { woken_early: true, .. });
        let kind = if blocked { WaitKind::Wakeup } else { WaitKind::Preemption };
        thread.state = if blocked && !early {
            State::Asleep
        } else {
            State::Waiting { since: now, kind, cpu: on, losses }
        };
    }

    fn switched_in(&mut self, on: u32, switch: &Switch) {
        let (now, losses) = (self.now, self.cpu(on).losses);
        let checked = self.found.recorded.migrations;
        let Some(thread) = self.thread(switch.next_pid, switch.next_comm) else { return };
        let before = thread.state;
        thread.state = State::Running { cpu: on, losses, woken_early: false };
        let tid = switch.next_pid;
        match before {
            State::Waiting { since, kind, cpu, losses }
                if losses == self.cpu(cpu).losses && (!checked || cpu == on) =>
            {
                let (begin, moved_unseen) = (since, cpu != on);
                self.unseen_moves += u64::from(moved_unseen);
                let end = now;
                self.waited(&Wait { tid, begin, end, kind, cpu: on, ended: true, moved_unseen });
            }
            _ => self.ran_after_the_unknown(tid, on),
        }
    }

    /// A thread was switched in, and nothing says since when it had waited.
    fn ran_after_the_unknown(&mut self, tid: i32, on: u32) {
        if self.wanted.concerns(self.now..self.now, on)
            && let Some(thread) = self.threads.get_mut(&tid)
        {
            thread.waiter.unknown += 1;
        }
    }

    fn woken(&mut self, wake: &Wake, how: How) {
        let (now, target) = (self.now, wake.target_cpu);
        let target_losses = self.cpu(target).losses;
        let before = self.threads.get(&wake.pid).map(|thread| thread.state).unwrap_or_default();
        // Of what is known of a thread by a CPU that has lost events since, nothing is.
        let is_known = match before {
            State::Running { cpu, losses, .. } | State::Waiting { cpu, losses, .. } => {
                self.cpu(cpu).losses == losses
            }
            State::Unknown | State::Asleep => true,
        };
        let begins = how != How::Done || !self.found.recorded.waking;
        let Some(thread) = self.thread(wake.pid, wake.comm) else { return };
        thread.state = match before {
            State::Running { cpu, losses, .. } if is_known => {
                State::Running { cpu, losses, woken_early: how == How::Begun }
            }
            // Where it is put at last is said by the second of the two.
            State::Waiting { since, kind, cpu, .. } if is_known && cpu != target => {
                if how == How::Begun {
                    before
                } else {
                    State::Waiting { since, kind, cpu: target, losses: target_losses }
                }
            }
            State::Waiting { .. } if is_known => before,
            _ if begins => {
                let (kind, losses) = (WaitKind::Wakeup, target_losses);
                State::Waiting { since: now, kind, cpu: target, losses }
            }
            // Its waking is missing, and so is when.
            _ => State::Unknown,
        };
    }

    fn migrated(&mut self, migrate: &Migrate) {
        let losses = self.cpu(migrate.dest_cpu).losses;
        let Some(&Thread { state: State::Waiting { cpu, losses: then, .. }, .. }) =
            self.threads.get(&migrate.pid)
        else {
            return;
        };
        let kept = self.cpu(cpu).losses == then;
        let Some(thread) = self.thread(migrate.pid, migrate.comm) else { return };
        match &mut thread.state {
            State::Waiting { cpu, losses: then, .. } if kept => {
                (*cpu, *then) = (migrate.dest_cpu, losses);
            }
            state => *state = State::Unknown,
        }
    }

    fn lost(&mut self, lost: &Lost) {
        let losses = &mut self.found.losses;
        losses.places += 1;
        losses.events = losses.events.saturating_add(lost.events.unwrap_or(0));
        match lost.reason {
            LossReason::Overwritten => {}
            LossReason::Damaged => losses.damaged_pages += 1,
            LossReason::Truncated => losses.truncated_cpus += 1,
        }
        let cpu = self.cpu(lost.cpu);
        cpu.losses = cpu.losses.wrapping_add(1);
        cpu.missing = true;
    }

    /// Counts a wait, and keeps it while it is one of the longest.
    fn waited(&mut self, wait: &Wait) {
        if !self.wanted.concerns(wait.begin..wait.end, wait.cpu) {
            return;
        }
        let worst = self.wanted.worst;
        let Some(thread) = self.threads.get_mut(&wait.tid) else { return };
        let is_wanted = self.wanted.has(wait.tid, &thread.comm);
        thread.is_wanted |= is_wanted;
        let sum = match wait.kind {
            WaitKind::Wakeup => &mut thread.waiter.wakeup,
            WaitKind::Preemption => &mut thread.waiter.preemption,
        };
        sum.add(wait.ticks());
        if !is_wanted || worst == 0 {
            return;
        }
        let rest = (wait.kind, wait.cpu, wait.ended, wait.moved_unseen);
        let ranked = Reverse((wait.ticks(), Reverse((wait.begin, wait.tid)), rest));
        if self.worst.len() < worst {
            self.worst.push(ranked);
        } else if let Some(mut shortest) = self.worst.peek_mut()
            && shortest.0 < ranked.0
        {
            *shortest = ranked;
        }
    }

    fn finish(mut self) -> Waits {
        let now = self.now;
        if let Some((_, last)) = &mut self.found.span {
            *last = now;
        }
        // Whoever waits still has waited for so long at least.
        let mut open = Vec::new();
        for (&tid, thread) in &self.threads {
            if let State::Waiting { since, kind, cpu, losses } = thread.state
                && self.cpus.get(cpu as usize).is_some_and(|cpu| cpu.losses == losses)
                && since < now
            {
                let (begin, end) = (since, now);
                open.push(Wait { tid, begin, end, kind, cpu, ended: false, moved_unseen: false });
            }
        }
        open.iter().for_each(|wait| self.waited(wait));
        let longest_first = self.worst.into_sorted_vec();
        let mut found = self.found;
        found.recorded.migrations |= self.unseen_moves == 0;
        found.worst =
            longest_first
                .into_iter()
                .map(|Reverse((ticks, Reverse((begin, tid)), (kind, cpu, ended, moved_unseen)))| {
                    Wait { tid, begin, end: begin + ticks, kind, cpu, ended, moved_unseen }
                })
                .collect();
        for (tid, Thread { comm, mut waiter, is_wanted, .. }) in self.threads {
            let waits = waiter.wakeup.count + waiter.preemption.count + waiter.unknown;
            if waits > 0 && (is_wanted || self.wanted.has(tid, &comm)) {
                waiter.name = String::from_utf8_lossy(name(&comm)).into_owned();
                found.threads.insert(tid, waiter);
            }
        }
        found
    }
}

impl Wanted {
    /// Whether what lies in this time on this CPU is wanted.
    fn concerns(&self, time: Range<u64>, cpu: u32) -> bool {
        let is_inside = time.end >= self.window.start && time.start < self.window.end;
        is_inside && (self.cpus.is_empty() || self.cpus.contains(&cpu))
    }

    /// Whether a thread is one of those that are wanted.
    fn has(&self, tid: i32, comm: &[u8]) -> bool {
        let Some(wanted) = &self.thread else { return true };
        name(comm) == wanted.as_bytes() || wanted.parse() == Ok(tid)
    }
}

/// A name up to the first NUL.
fn name(comm: &[u8]) -> &[u8] {
    &comm[..comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len())]
}
