// SPDX-License-Identifier: Apache-2.0
//! An explanation for people: one paragraph, and a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::cause::{Cause, Explanation, Task, UnknownReason};
use super::context::Context;

/// How long a tick of the trace clock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// Ticks in a millisecond: a TSC's kHz, or 1 000 000 for a clock of nanoseconds.
    ticks_per_ms: u64,
}

impl Units {
    /// Of the trace clock `x86-tsc`, at this frequency; 0 counts as 1.
    pub fn tsc(khz: u64) -> Self {
        Self { ticks_per_ms: khz.max(1) }
    }

    /// Of the clocks that count nanoseconds.
    pub fn nanoseconds() -> Self {
        Self { ticks_per_ms: 1_000_000 }
    }

    /// Ticks in milliseconds.
    #[allow(clippy::cast_precision_loss, reason = "53 bits of ticks are a month")]
    pub fn ms(self, ticks: u64) -> f64 {
        ticks as f64 / self.ticks_per_ms as f64
    }

    /// Ticks in nanoseconds, up to what fits.
    pub fn ns(self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000 / u128::from(self.ticks_per_ms);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// For people: milliseconds, or microseconds below a tenth of one.
    fn show(self, ticks: u64) -> String {
        let ms = self.ms(ticks);
        if ms < 0.1 { format!("{:.1} us", ms * 1000.0) } else { format!("{ms:.1} ms") }
    }
}

impl Explanation {
    /// One paragraph, longest cause first: `VM 3 vCPU 1 waited 131.2 ms: 96.0 ms CPU 3 forced
    /// idle while VM 6 ran on CPU 2, 35.2 ms queued behind VM 1 and VM 8.`
    pub fn paragraph(&self, context: &Context, units: Units) -> String {
        let mut sums: Vec<(Phrase, u64)> = Vec::new();
        for part in &self.parts {
            let phrase = Phrase::of(&part.cause, context);
            match sums.iter_mut().find(|(known, _)| known.same_clause(&phrase)) {
                Some((known, ticks)) => {
                    known.add(phrase);
                    *ticks += part.ticks;
                }
                None => sums.push((phrase, part.ticks)),
            }
        }
        sums.sort_by_key(|&(_, ticks)| std::cmp::Reverse(ticks));
        let length = self.gap.end.saturating_sub(self.gap.begin);
        let mut text = format!("{} waited {}", self.title(context), units.show(length));
        for (index, (phrase, ticks)) in sums.iter().enumerate() {
            let separator = if index == 0 { ": " } else { ", " };
            text += &format!("{separator}{} {}", units.show(*ticks), phrase.text());
        }
        text.push('.');
        if let Some(begin) = self.trace_begin {
            let late = begin.min(self.gap.end) - self.gap.begin;
            text += &format!(" The trace starts {} after the gap began.", units.show(late));
        }
        text
    }

    /// A line for each part: time, share, pieces, longest piece, cause.
    pub fn table(&self, context: &Context, units: Units) -> String {
        let length = units.ms(self.gap.end.saturating_sub(self.gap.begin)).max(f64::MIN_POSITIVE);
        let mut text =
            format!("{:>12}{:>8}{:>8}{:>12}  cause\n", "ms", "%", "pieces", "longest ms");
        for part in &self.parts {
            let ms = units.ms(part.ticks);
            let _ = writeln!(
                text,
                "{ms:>12.3}{:>8.1}{:>8}{:>12.3}  {}",
                100.0 * ms / length,
                part.pieces,
                units.ms(part.longest),
                part.cause.describe(context),
            );
        }
        text
    }

    /// The thread's group, where it has one, and name.
    pub(crate) fn title(&self, context: &Context) -> String {
        match self.group {
            Some(group) => format!("{} {}", context.group_name(group), self.name),
            None => format!("{} (tid {})", self.name, self.gap.tid),
        }
    }
}

impl Cause {
    /// In words, with thread and CPU.
    pub fn describe(&self, context: &Context) -> String {
        let task = |task: &Task| match task.group {
            Some(group) => {
                format!("{}, {} (tid {})", context.group_name(group), task.name, task.tid)
            }
            None if task.tid < 0 => "many others".into(),
            None => format!("{} (tid {})", task.name, task.tid),
        };
        match self {
            Self::Queued { cpu, behind } => format!("queued on CPU {cpu} behind {}", task(behind)),
            Self::ForcedIdle { cpu, sibling, by } => {
                format!("CPU {cpu} forced idle: CPU {sibling} ran {}", task(by))
            }
            Self::Throttled { cpu } => format!("throttled on CPU {cpu}"),
            Self::Idle { cpu } => format!("runnable on CPU {cpu}, which was idle"),
            Self::Waking { cpu } => format!("being woken for CPU {cpu}"),
            Self::Migrating { cpu } => format!("migrating, CPU {cpu}"),
            Self::Sleeping { state } => format!("asleep ({state}), no scheduling gap"),
            Self::Irq { cpu, name } => format!("interrupt {name} on CPU {cpu}"),
            Self::Softirq { cpu, name } => format!("softirq {name} on CPU {cpu}"),
            Self::Running { cpu } => {
                format!("running on CPU {cpu} by the trace: {}", context.taker())
            }
            Self::Unknown { reason } => format!("unknown: {}", reason.describe()),
        }
    }
}

impl UnknownReason {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::BeforeTrace => "before the trace",
            Self::AfterTrace => "after the trace",
            Self::LostEvents => "events were lost",
            Self::NotSeen => "the thread is not in the trace yet",
            Self::WakeNotSeen => "it was not traced when the thread was woken",
        }
    }
}

/// A clause of the paragraph, and whose names stand in it, each with where it ran.
struct Phrase {
    clause: String,
    culprits: BTreeMap<String, Option<u32>>,
}

impl Phrase {
    fn of(cause: &Cause, context: &Context) -> Self {
        let culprit = |task: &Task| match task.group {
            Some(group) => context.group_name(group),
            None => task.name.clone(),
        };
        let (clause, culprit) = match cause {
            Cause::Queued { behind, .. } => ("queued behind".into(), Some((culprit(behind), None))),
            Cause::ForcedIdle { cpu, sibling, by } => {
                let clause = format!("CPU {cpu} forced idle while");
                (clause, Some((culprit(by), Some(*sibling))))
            }
            Cause::Throttled { .. } => ("throttled".into(), None),
            Cause::Idle { .. } => ("runnable on an idle CPU".into(), None),
            Cause::Waking { .. } => ("being woken".into(), None),
            Cause::Migrating { .. } => ("migrating".into(), None),
            Cause::Sleeping { .. } => ("asleep".into(), None),
            Cause::Irq { .. } => ("in interrupts".into(), None),
            Cause::Softirq { .. } => ("in softirqs".into(), None),
            Cause::Running { .. } => (format!("running by the trace ({})", context.taker()), None),
            Cause::Unknown { reason } => (format!("unknown ({})", reason.describe()), None),
        };
        Self { clause, culprits: culprit.into_iter().collect() }
    }

    fn same_clause(&self, other: &Self) -> bool {
        self.clause == other.clause && self.place() == other.place()
    }

    fn add(&mut self, other: Self) {
        self.culprits.extend(other.culprits);
    }

    /// Where the culprits ran, if that is to be said.
    fn place(&self) -> Option<u32> {
        self.culprits.values().next().copied().flatten()
    }

    fn text(&self) -> String {
        /// Names in a clause; the table has them all.
        const MOST: usize = 5;
        let mut names: Vec<&str> = self.culprits.keys().map(String::as_str).take(MOST).collect();
        let others = format!("{} others", self.culprits.len() - names.len());
        if self.culprits.len() > MOST {
            names.push(&others);
        }
        let list = match names.split_last() {
            None => return self.clause.clone(),
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
        };
        match self.place() {
            Some(cpu) => format!("{} {list} ran on CPU {cpu}", self.clause),
            None => format!("{} {list}", self.clause),
        }
    }
}
