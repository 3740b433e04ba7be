// SPDX-License-Identifier: Apache-2.0
//! The state machine: what runs on each CPU, where each thread of interest is.

use rustc_hash::FxHashMap;

use super::context::Context;
use super::gap_account::{Comm, GapAccount};
use super::initial_state::Start;
use super::place::Place;
use super::{Explanation, Gap, UnknownReason};
use crate::comms::Comms;
use crate::error::FtraceError;
use crate::format::Formats;
use crate::ring::{Item, Lost, Record};
use crate::sched::{Decoder, Event, IrqSource, Migrate, Switch, Wake};
use crate::trace::Trace;

/// Names of interrupts kept, at most.
const MAX_IRQ_NAMES: usize = 1024;

/// A thread of interest.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) group: Option<u32>,
    pub(super) place: Place,
    /// Its time up to here is accounted for.
    pub(super) since: u64,
    /// Somebody began to wake it while it ran; the switch that follows is no sleep.
    pub(super) woken_early: bool,
    /// Its gaps by beginning: places in the accounts.
    pub(super) gaps: Vec<usize>,
    /// Gaps before this one have ended.
    pub(super) first_open: usize,
}

impl Thread {
    fn new(group: Option<u32>) -> Self {
        Self {
            group,
            place: Place::Unknown(UnknownReason::BeforeTrace),
            since: 0,
            woken_early: false,
            gaps: Vec::new(),
            first_open: 0,
        }
    }
}

/// A CPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Cpu {
    /// True if `current` is known.
    pub(super) known: bool,
    pub(super) current: i32,
    pub(super) comm: Comm,
    pub(super) group: Option<u32>,
    /// The interrupt that came first of those that are not over, and how many there are.
    pub(super) hard: Option<IrqSource>,
    hard_depth: u32,
    pub(super) soft: Option<IrqSource>,
    /// Threads of interest that are here.
    pub(super) here: Vec<usize>,
}

impl Cpu {
    /// Runs a thread from now on. No interrupt is on: the kernel does not switch in one.
    fn run(&mut self, tid: i32, group: Option<u32>, name: &[u8]) {
        let length = name.len().min(self.comm.len());
        self.comm = [0; 16];
        self.comm[..length].copy_from_slice(&name[..length]);
        self.known = true;
        self.current = tid;
        self.group = group;
        (self.hard, self.hard_depth, self.soft) = (None, 0, None);
    }
}

/// Facts about a thread of any kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    group: Option<u32>,
    /// Its place among the threads of interest.
    watched: Option<usize>,
}

/// Follows a trace and explains gaps; [`super::explain`] is the short way.
#[derive(Debug)]
pub struct Attributor<'a> {
    pub(super) context: &'a Context,
    decoder: Decoder,
    formats: &'a Formats,
    pub(super) cpus: Vec<Cpu>,
    pub(super) threads: Vec<Thread>,
    known: FxHashMap<i32, Known>,
    pub(super) accounts: Vec<GapAccount>,
    irq_names: FxHashMap<i32, String>,
    /// Latest time of any record; time never goes back.
    pub(super) now: u64,
    trace_begin: Option<u64>,
    last_end: u64,
    /// Until all of it has come to pass.
    start: Option<Start>,
}

impl<'a> Attributor<'a> {
    /// Asks for the causes of `gaps`, and looks into the beginning of the trace for where the
    /// threads are then.
    ///
    /// # Errors
    /// [`FtraceError::ReadPages`] and [`FtraceError::TooLarge`].
    pub fn new(trace: &'a Trace, gaps: &[Gap], context: &'a Context) -> Result<Self, FtraceError> {
        let mut known: FxHashMap<i32, Known> = context
            .groups
            .iter()
            .map(|(&tid, &group)| (tid, Known { group: Some(group), watched: None }))
            .collect();
        let mut threads: Vec<Thread> = Vec::new();
        for (index, gap) in gaps.iter().enumerate() {
            let known = known.entry(gap.tid).or_default();
            let place = *known.watched.get_or_insert_with(|| {
                threads.push(Thread::new(known.group));
                threads.len() - 1
            });
            threads[place].gaps.push(index);
        }
        for thread in &mut threads {
            thread.gaps.sort_by_key(|&index| gaps[index].begin);
        }
        let last_end = gaps.iter().map(|gap| gap.end).max().unwrap_or(0);
        let decoder = Decoder::new(trace.formats());
        let tids: Vec<i32> = gaps.iter().map(|gap| gap.tid).collect();
        Ok(Self {
            start: Some(Start::scout(trace, &decoder, &tids, last_end)?),
            context,
            decoder,
            formats: trace.formats(),
            cpus: Vec::new(),
            threads,
            known,
            accounts: gaps.iter().map(|&gap| GapAccount::new(gap, context.max_segments)).collect(),
            irq_names: FxHashMap::default(),
            now: 0,
            trace_begin: None,
            last_end,
        })
    }

    /// The trace begins: from here on what runs is known of CPUs that have lost nothing.
    fn begin(&mut self, time: u64) {
        self.trace_begin = Some(time);
        self.now = time;
        for thread in 0..self.threads.len() {
            self.settle(thread, time);
            self.threads[thread].place = Place::Unknown(UnknownReason::NotSeen);
        }
        for (cpu, tid) in
            self.start.as_mut().map(|start| std::mem::take(&mut start.current)).unwrap_or_default()
        {
            self.set_current(cpu, tid);
        }
    }

    /// All CPUs are in the trace from here on: what is known of the threads by what they do
    /// first holds since.
    #[cold]
    fn all_cpus_begin(&mut self, start: &Start) {
        self.now = self.now.max(start.all_since);
        for &(tid, place) in &start.places {
            if let Some(thread) = self.watched(tid)
                && matches!(self.threads[thread].place, Place::Unknown(_))
            {
                self.place(thread, place);
            }
        }
    }

    /// True if all gaps are over: later records change nothing.
    pub fn is_done(&self) -> bool {
        self.now >= self.last_end
    }

    /// Takes in the next item of the trace. What goes back in time counts as of now.
    #[inline]
    pub fn take(&mut self, item: &Item) {
        match item {
            Item::Record(record) => self.record(record),
            Item::Lost(lost) => self.lost(lost),
        }
    }

    #[inline]
    fn record(&mut self, record: &Record) {
        if let Some(start) = &self.start {
            let complete = record.time >= start.all_since;
            if self.trace_begin.is_none() {
                self.begin(record.time);
            }
            if complete && let Some(start) = self.start.take() {
                self.all_cpus_begin(&start);
            }
        }
        self.now = self.now.max(record.time);
        if !self.cpus.get(record.cpu as usize).is_some_and(|cpu| cpu.known) {
            self.learn_current(record);
        }
        let Some(event) = self.decoder.decode(record.data) else { return };
        match event {
            Event::Switch(switch) => self.switch(record.cpu, &switch),
            Event::Waking(wake) => self.waking(&wake),
            Event::Wakeup(wake) | Event::WakeupNew(wake) => self.wakeup(&wake),
            Event::Migrate(migrate) => self.migrate(&migrate),
            Event::IrqEntry { source, name } => self.irq_entry(record.cpu, source, name),
            Event::IrqExit(source) => self.irq_exit(record.cpu, source),
        }
    }

    /// Events are missing: what is on that CPU is not known any more.
    fn lost(&mut self, lost: &Lost) {
        self.now = self.now.max(lost.after);
        self.settle_core(lost.cpu);
        let cpu = self.cpu(lost.cpu);
        cpu.known = false;
        for thread in cpu.here.clone() {
            self.place(thread, Place::Unknown(UnknownReason::LostEvents));
        }
    }

    /// The explanations, in the order of the gaps. `comms` names threads whose names no event
    /// told.
    pub fn finish(mut self, comms: &Comms) -> Vec<Explanation> {
        let begin = self.trace_begin;
        for thread in 0..self.threads.len() {
            self.settle(thread, self.now);
            self.threads[thread].place = Place::Unknown(UnknownReason::AfterTrace);
            self.settle(thread, u64::MAX);
        }
        self.accounts
            .into_iter()
            .map(|account| {
                Explanation::from_account(account, self.context, comms, begin, |source| {
                    irq_name(source, &self.irq_names, &self.decoder)
                })
            })
            .collect()
    }

    pub(super) fn cpu(&mut self, cpu: u32) -> &mut Cpu {
        // Below `MAX_CPUS`: the trace has pages of no other, and events name no other.
        let index = cpu as usize;
        if self.cpus.len() <= index {
            self.cpus.resize(index + 1, Cpu::default());
        }
        &mut self.cpus[index]
    }

    pub(super) fn watched(&self, tid: i32) -> Option<usize> {
        self.known.get(&tid)?.watched
    }

    /// What runs on a CPU, from any record of it.
    #[cold]
    fn learn_current(&mut self, record: &Record) {
        if let Some(current) = self.formats.pid(record.data) {
            self.set_current(record.cpu, current);
        }
    }

    fn set_current(&mut self, on: u32, current: i32) {
        self.settle_core(on);
        let known = self.known.get(&current).copied().unwrap_or_default();
        self.cpu(on).run(current, known.group, &[]);
        if let Some(thread) = known.watched {
            self.place(thread, Place::Running(on));
        }
    }

    fn switch(&mut self, on: u32, switch: &Switch) {
        self.settle_core(on);
        let believed = self.cpu(on).current;
        if believed != switch.prev_pid
            && let Some(thread) = self.watched(believed)
            && self.threads[thread].place == Place::Running(on)
        {
            self.place(thread, Place::Unknown(UnknownReason::LostEvents));
        }
        if let Some(thread) = self.watched(switch.prev_pid) {
            let state = switch.blocked_state();
            let early = std::mem::take(&mut self.threads[thread].woken_early);
            self.place(
                thread,
                match state {
                    0 => Place::Queued(on),
                    _ if early => Place::Waking { cpu: on, moved: false },
                    _ => Place::Sleeping { cpu: on, state },
                },
            );
        }
        let known = self.known.get(&switch.next_pid).copied().unwrap_or_default();
        if let Some(thread) = known.watched {
            if matches!(self.threads[thread].place, Place::Sleeping { .. }) {
                self.threads[thread].place = Place::Unknown(UnknownReason::WakeNotSeen);
            }
            self.threads[thread].woken_early = false;
            self.place(thread, Place::Running(on));
        }
        self.cpu(on).run(switch.next_pid, known.group, switch.next_comm);
    }

    fn waking(&mut self, wake: &Wake) {
        let Some(thread) = self.watched(wake.pid) else { return };
        match self.threads[thread].place {
            Place::Running(_) => self.threads[thread].woken_early = true,
            Place::Sleeping { cpu, .. } => self.place(thread, Place::Waking { cpu, moved: false }),
            Place::Unknown(_) => {
                self.place(thread, Place::Waking { cpu: wake.target_cpu, moved: false });
            }
            Place::Queued(_) | Place::Waking { .. } => {}
        }
    }

    fn wakeup(&mut self, wake: &Wake) {
        let Some(thread) = self.watched(wake.pid) else { return };
        self.threads[thread].woken_early = false;
        if matches!(self.threads[thread].place, Place::Running(_)) {
            return;
        }
        self.place(thread, Place::Queued(wake.target_cpu));
    }

    fn migrate(&mut self, migrate: &Migrate) {
        let Some(thread) = self.watched(migrate.pid) else { return };
        let Thread { gaps, first_open, .. } = &self.threads[thread];
        for &gap in &gaps[*first_open..] {
            let account = &mut self.accounts[gap];
            if account.gap.begin > self.now {
                break;
            }
            account.migrations += u64::from(account.gap.end > self.now);
        }
        let cpu = migrate.dest_cpu;
        match self.threads[thread].place {
            Place::Queued(_) => self.place(thread, Place::Queued(cpu)),
            Place::Waking { .. } => self.place(thread, Place::Waking { cpu, moved: true }),
            Place::Sleeping { state, .. } => self.place(thread, Place::Sleeping { cpu, state }),
            Place::Running(_) | Place::Unknown(_) => {}
        }
    }

    fn irq_entry(&mut self, on: u32, source: IrqSource, name: Option<&[u8]>) {
        self.settle_running(on);
        if let (IrqSource::Line(irq), Some(name)) = (source, name)
            && self.irq_names.len() < MAX_IRQ_NAMES
        {
            self.irq_names.entry(irq).or_insert_with(|| {
                String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned()
            });
        }
        let cpu = self.cpu(on);
        if matches!(source, IrqSource::Soft(_)) {
            cpu.soft = Some(source);
        } else {
            cpu.hard.get_or_insert(source);
            cpu.hard_depth = cpu.hard_depth.saturating_add(1);
        }
    }

    fn irq_exit(&mut self, on: u32, source: IrqSource) {
        self.settle_running(on);
        let cpu = self.cpu(on);
        if matches!(source, IrqSource::Soft(_)) {
            cpu.soft = None;
        } else {
            cpu.hard_depth = cpu.hard_depth.saturating_sub(1);
            if cpu.hard_depth == 0 {
                cpu.hard = None;
            }
        }
    }
}

/// An interrupt's name, by the device that its line is known to serve.
fn irq_name(source: IrqSource, irq_names: &FxHashMap<i32, String>, decoder: &Decoder) -> String {
    let device = match source {
        IrqSource::Line(irq) => irq_names.get(&irq).map(String::as_str),
        IrqSource::Vector(_) | IrqSource::Soft(_) => None,
    };
    decoder.irq_name(source, device)
}
