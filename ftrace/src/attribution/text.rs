// SPDX-License-Identifier: Apache-2.0
//! An explanation for people: one paragraph, and a table.

use std::fmt::Write;

use super::cause::{Cause, Explanation, Task, UnknownReason};
use super::context::Context;
use super::gap_account::{MANY_CPUS, OTHERS};

/// Length of a tick of the trace clock.
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

    /// Nanoseconds in ticks, up to what fits.
    pub fn ticks(self, ns: u64) -> u64 {
        let ticks = u128::from(ns) * u128::from(self.ticks_per_ms) / 1_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// For people: milliseconds, or microseconds below a tenth of one.
    pub(super) fn show(self, ticks: u64) -> String {
        let ms = self.ms(ticks);
        if ms < 0.1 { format!("{:.1} µs", ms * 1000.0) } else { format!("{ms:.1} ms") }
    }
}

impl Explanation {
    /// One paragraph, longest cause first, each with who was in the way and for how long: `VM 3
    /// vCPU 1 waited 131.2 ms: CPU 3 forced idle 96.0 ms: CPU 2 ran VM 6; queued 35.2 ms: behind
    /// python3 20.2 ms (57 %), VM 8 15.0 ms (43 %).`
    pub fn paragraph(&self, context: &Context, units: Units) -> String {
        let length = self.gap.end.saturating_sub(self.gap.begin);
        let mut text = format!("{} waited {}", self.title(context), units.show(length));
        for (index, clause) in self.clauses(context).iter().enumerate() {
            text += if index == 0 { ": " } else { "; " };
            text += &clause.text(units);
        }
        text.push('.');
        if let Some(begin) = self.trace_begin {
            let late = begin.min(self.gap.end).saturating_sub(self.gap.begin);
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
        match self {
            Self::Queued { cpu, behind } => {
                format!("queued on {} behind {}", place(*cpu), task_name(behind, context))
            }
            Self::ForcedIdle { cpu, sibling, by } => {
                format!(
                    "{} forced idle: {} ran {}",
                    place(*cpu),
                    place(*sibling),
                    task_name(by, context)
                )
            }
            Self::Throttled { cpu } => format!("throttled on {}", place(*cpu)),
            Self::Idle { cpu } => format!("runnable on {}, which was idle", place(*cpu)),
            Self::Waking { cpu } => format!("being woken for {}", place(*cpu)),
            Self::Migrating { cpu } => format!("migrating, {}", place(*cpu)),
            Self::Sleeping { state } => format!("asleep ({state}), no scheduling gap"),
            Self::Irq { cpu, name } => format!("interrupt {name} on {}", place(*cpu)),
            Self::Softirq { cpu, name } => format!("softirq {name} on {}", place(*cpu)),
            Self::Running { cpu } => {
                format!("running on {} by the trace: {}", place(*cpu), context.taker())
            }
            Self::Unknown { reason } => format!("unknown: {}", reason.describe()),
        }
    }
}

/// A task with its group or thread ID.
fn task_name(task: &Task, context: &Context) -> String {
    match task.group {
        Some(group) => {
            format!("{}, {} (tid {})", context.group_name(group), task.name, task.tid)
        }
        None if task.tid == OTHERS => "many others".into(),
        None => format!("{} (tid {})", task.name, task.tid),
    }
}

/// A CPU, unless it stands for very many.
pub(super) fn place(cpu: u32) -> String {
    if cpu == MANY_CPUS { "several CPUs".into() } else { format!("CPU {cpu}") }
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
