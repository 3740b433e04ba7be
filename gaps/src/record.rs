// SPDX-License-Identifier: Apache-2.0
//! One scheduling gap, as the meter writes it and as it crosses the result port.

use serde::{Deserialize, Serialize};

use crate::evidence::Class;

/// What the thread had been doing when it began to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapKind {
    /// It ran, and was interrupted.
    #[default]
    Preemption,
    /// It slept, and its sleep was to end: it waits from the planned moment until it runs.
    WakeUp,
}

impl GapKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Preemption, Self::WakeUp];

    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preemption => "preemption",
            Self::WakeUp => "wake-up",
        }
    }
}

/// An interval in which a thread that wanted to run did not run.
///
/// `tsc_begin` is the last reading before the gap, `tsc_end` the first one after it; both
/// are raw TSC values of the machine that measured (equal to the host's TSC inside our own
/// virtual machines). The CPU numbers come from the same RDTSCP instructions. A wake-up begins at
/// the planned moment, and has the CPU of its end twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct GapRecord {
    /// TSC before the gap.
    pub tsc_begin: u64,
    /// TSC after the gap; never below `tsc_begin`.
    pub tsc_end: u64,
    /// CPU that took the reading before the gap.
    pub cpu_begin: u32,
    /// CPU that took the reading after the gap.
    pub cpu_end: u32,
    /// Who took the time.
    #[serde(default)]
    pub class: Class,
    /// What it waited after.
    #[serde(default)]
    pub kind: GapKind,
    /// It was not over when the load ended: it would have been longer.
    #[serde(default)]
    pub unfinished: bool,
    /// It ended before the time that figures are of. What is said of gaps one by one says nothing of
    /// these.
    #[serde(skip)]
    pub warmup: bool,
}

/// Of a word of marks, above the number of the class.
const WAKE_UP: u32 = 1 << 8;
const UNFINISHED: u32 = 1 << 9;
const WARMUP: u32 = 1 << 10;

impl GapRecord {
    /// Whether it can be: no gap ends before it begins. A record that comes from elsewhere is
    /// asked this before it is believed.
    pub fn is_possible(&self) -> bool {
        self.tsc_begin <= self.tsc_end
    }

    /// Class, kind and what else is true of it, in one word.
    pub fn marks(&self) -> u32 {
        let kind = if self.kind == GapKind::WakeUp { WAKE_UP } else { 0 };
        let unfinished = if self.unfinished { UNFINISHED } else { 0 };
        let warmup = if self.warmup { WARMUP } else { 0 };
        self.class as u32 | kind | unfinished | warmup
    }

    /// The same with these marks; what a word says that has no meaning is left out.
    #[must_use]
    pub fn with_marks(self, marks: u32) -> Self {
        let is_wake_up = marks & WAKE_UP != 0;
        Self {
            class: Class::from_number(marks & (WAKE_UP - 1)),
            kind: if is_wake_up { GapKind::WakeUp } else { GapKind::Preemption },
            unfinished: marks & UNFINISHED != 0,
            warmup: marks & WARMUP != 0,
            ..self
        }
    }

    /// Length in TSC ticks.
    pub fn ticks(&self) -> u64 {
        self.tsc_end.saturating_sub(self.tsc_begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back() {
        for class in Class::ALL {
            for kind in GapKind::ALL {
                for (unfinished, warmup) in [(false, false), (true, false), (false, true)] {
                    let marked = GapRecord { class, kind, unfinished, ..GapRecord::default() };
                    let record = GapRecord { warmup, ..marked };
                    assert_eq!(GapRecord::default().with_marks(record.marks()), record);
                }
            }
        }
        let nonsense = GapRecord::default().with_marks(0xffff_f877);
        assert_eq!(nonsense, GapRecord::default());
        assert_eq!(serde_json::to_value(GapKind::WakeUp).unwrap(), GapKind::WakeUp.name());
    }
}
