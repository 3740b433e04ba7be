// SPDX-License-Identifier: Apache-2.0
//! Who ran beside a thread: what the other hyperthreads of its core did while it ran.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::attribution::Context;
use crate::error::FtraceError;
use crate::ring::{Item, Lost, Record};
use crate::sched::{Decoder, Event};
use crate::trace::Trace;

/// Time in which a thread ran, in ticks of the trace clock, by what the siblings of its CPU did.
/// Of several siblings a stranger counts before one that is not known, that before a mate, and a
/// mate before idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoRun {
    /// Ran a thread of the same group.
    pub mate: u64,
    /// Ran anything else: another group's thread, or one of no group.
    pub stranger: u64,
    /// Idled.
    pub idle: u64,
    /// The trace does not tell: it begins later there, or lost events.
    pub unknown: u64,
}

impl CoRun {
    /// Time in which it ran.
    pub fn running(&self) -> u64 {
        [self.mate, self.stranger, self.idle, self.unknown].into_iter().fold(0, u64::saturating_add)
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in [
            (&mut self.mate, other.mate),
            (&mut self.stranger, other.stranger),
            (&mut self.idle, other.idle),
            (&mut self.unknown, other.unknown),
        ] {
            *sum = sum.saturating_add(part);
        }
    }
}

/// State of a CPU.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// The thread that runs, 0 for idle; `None` if the trace does not tell.
    current: Option<i32>,
    /// Its time up to here is accounted for.
    since: u64,
}

/// Follows a trace, and accounts for what lies in this window of it. For each thread that is in a
/// group and ran on a CPU with siblings.
///
/// # Errors
/// [`FtraceError::ReadPages`] and [`FtraceError::TooLarge`].
pub fn co_run(
    trace: &Trace,
    context: &Context,
    window: Range<u64>,
) -> Result<BTreeMap<i32, CoRun>, FtraceError> {
    let Range { start: from, end: until } = window;
    let decoder = Decoder::new(trace.formats());
    let mut cores = Cores { context, from, cpus: Vec::new(), found: BTreeMap::new() };
    let mut events = trace.events()?;
    let mut begin = None;
    // What a CPU of which nothing was lost runs in its first record, it ran before that, too.
    let mut first = Vec::new();
    for head in events.heads() {
        if let Item::Record(record) = head {
            begin = Some(begin.map_or(record.time, |begin: u64| begin.min(record.time)));
            first.extend(trace.formats().pid(record.data).map(|pid| (record.cpu, pid)));
        }
    }
    let mut now = begin.unwrap_or_default().min(until);
    for (cpu, pid) in first {
        cores.run(cpu, now, Some(pid));
    }
    while let Some(item) = events.next()? {
        match item {
            Item::Lost(Lost { after: time, .. }) | Item::Record(Record { time, .. })
                if time > until =>
            {
                // What is on the CPUs then is there until then, at least.
                now = until;
                break;
            }
            Item::Lost(lost) => {
                now = now.max(lost.after);
                cores.run(lost.cpu, now, None);
            }
            Item::Record(record) => {
                now = now.max(record.time);
                cores.take(trace, &decoder, &record, now);
            }
        }
    }
    for cpu in 0..cores.cpus.len() {
        cores.settle(cpu, now);
    }
    Ok(cores.found)
}

struct Cores<'a> {
    context: &'a Context,
    /// What was before is not accounted for.
    from: u64,
    cpus: Vec<Cpu>,
    found: BTreeMap<i32, CoRun>,
}

impl Cores<'_> {
    fn take(&mut self, trace: &Trace, decoder: &Decoder, record: &Record, now: u64) {
        let current = self.cpus.get(record.cpu as usize).and_then(|cpu| cpu.current);
        if current.is_none()
            && let Some(pid) = trace.formats().pid(record.data)
        {
            self.run(record.cpu, now, Some(pid));
        }
        if let Some(Event::Switch(switch)) = decoder.decode(record.data) {
            self.run(record.cpu, now, Some(switch.next_pid));
        }
    }

    /// From now on a CPU runs this thread. What ran on its core until now is accounted for.
    fn run(&mut self, on: u32, now: u64, current: Option<i32>) {
        let index = on as usize;
        if self.cpus.len() <= index {
            self.cpus.resize(index + 1, Cpu::default());
        }
        self.settle(index, now);
        let context = self.context;
        for &sibling in context.topology.siblings(on) {
            self.settle(sibling as usize, now);
        }
        self.cpus[index] = Cpu { current, since: now };
    }

    /// Accounts for the time of the thread on a CPU up to now.
    fn settle(&mut self, index: usize, now: u64) {
        let Some(cpu) = self.cpus.get_mut(index) else { return };
        let ticks = now.saturating_sub(cpu.since.max(self.from));
        cpu.since = now;
        if ticks == 0 {
            return;
        }
        let Some((tid, group)) =
            cpu.current.and_then(|tid| Some((tid, *self.context.groups.get(&tid)?)))
        else {
            return;
        };
        // An index of `cpus` is a CPU's number.
        let siblings =
            u32::try_from(index).map_or(&[][..], |cpu| self.context.topology.siblings(cpu));
        let Some(beside) = siblings
            .iter()
            .map(|sibling| match self.cpus.get(*sibling as usize).and_then(|cpu| cpu.current) {
                None => Beside::Unknown,
                Some(0) => Beside::Idle,
                Some(other) if self.context.groups.get(&other) == Some(&group) => Beside::Mate,
                Some(_) => Beside::Stranger,
            })
            .max()
        else {
            return;
        };
        let found = self.found.entry(tid).or_default();
        let sum = match beside {
            Beside::Idle => &mut found.idle,
            Beside::Mate => &mut found.mate,
            Beside::Unknown => &mut found.unknown,
            Beside::Stranger => &mut found.stranger,
        };
        *sum = sum.saturating_add(ticks);
    }
}

/// What a sibling does; the later ones count before the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Beside {
    Idle,
    Mate,
    Unknown,
    Stranger,
}
