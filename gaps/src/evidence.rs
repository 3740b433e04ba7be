// SPDX-License-Identifier: Apache-2.0
//! Who took the time of a gap: what the kernel knows of the thread, taken at the gap itself.
//!
//! When the thread was off its CPU is told by records that the kernel writes at each switch (if it
//! may be asked for them), and by the accounting that it keeps in any case. That is behind, and is
//! not read at every interruption, so what follows from it is known between two bounds; a class is
//! given only where both bounds give the same. docs/method.md derives the rules.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::accounting::{Facts, Sample};
use crate::tsc::{self, ns_to_ticks};

/// Who took the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum Class {
    /// There is no evidence, or it contradicts itself.
    #[default]
    Unknown = 0,
    /// The scheduler of the kernel that measures: it ran something else, or nothing.
    ScheduledOut = 1,
    /// What that kernel cannot see: the host took the CPU away, or the firmware did.
    Host = 2,
    /// Interrupts, which that kernel served on the thread's CPU meanwhile.
    Irq = 3,
}

impl Class {
    /// All classes, each at the place of its number.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::ScheduledOut, Self::Host, Self::Irq];

    /// The class with this number; unknown for a number that is none.
    pub fn from_number(number: u32) -> Self {
        Self::ALL.get(number as usize).copied().unwrap_or_default()
    }

    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::ScheduledOut => "scheduled-out",
            Self::Host => "host",
            Self::Irq => "irq",
        }
    }
}

/// Says whose doing an interval was.
pub trait GapClassifier {
    /// Intervals from this length on are worth knowing of, in ticks.
    fn notice_ticks(&self) -> u64;
    /// What its own work takes at most, as a rule, in ticks. So much after a question is the
    /// question's, and no interruption.
    fn own_ticks(&self) -> u64;
    /// A burst begins: whatever happened before is no part of it.
    fn begin(&mut self);
    /// The interval between these two readings stood out, and is no gap.
    fn notice(&mut self, begin: u64, end: u64);
    /// The interval between these two readings is a gap.
    fn classify(&mut self, begin: u64, end: u64) -> Class;
}

/// No evidence: every gap is of unknown class.
impl GapClassifier for () {
    fn notice_ticks(&self) -> u64 {
        u64::MAX
    }

    fn own_ticks(&self) -> u64 {
        0
    }

    fn begin(&mut self) {}

    fn notice(&mut self, _begin: u64, _end: u64) {}

    fn classify(&mut self, _begin: u64, _end: u64) -> Class {
        Class::Unknown
    }
}

/// What the kernel's records of switches say of an interval, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// So much of it the thread was off the CPU.
    pub off_ticks: u64,
    /// TSC when it was last switched in.
    pub arrived_tsc: u64,
}

/// Where evidence comes from: the kernel, or a test.
pub trait ThreadAccounting {
    /// Takes in the records of switches up to now, and says what they tell of this interval.
    /// `None` where there are none of it. Later calls ask of later intervals. No system call that
    /// the kernel's scheduler would notice.
    fn switches(&mut self, begin: u64, end: u64) -> Option<Recorded>;
    /// The kernel's accounting of the calling thread, now. One or two system calls that the
    /// kernel's scheduler does not notice.
    fn sample(&mut self) -> Option<Sample>;
}

/// Shorter intervals are not noticed. Being switched out and in again takes longer than this on any
/// machine.
const NOTICE_NS: u64 = 2_000;

/// Half of the usual floor: a sample is no dearer than a few interruptions.
const UNSURE_NS: u64 = 50_000;

/// Interrupts take no longer than this in one piece: softirqs are handed to a thread, which is
/// a switch, after 2 ms or a jiffy (kernel/softirq.c, MAX_SOFTIRQ_TIME), at most 10 ms at 100 Hz.
const LONGEST_IRQ_NS: u64 = 20_000_000;

/// What the meter's own work costs on this machine, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// One iteration of its loop.
    pub iteration_ticks: u64,
    /// One sample of the evidence.
    pub sample_ticks: u64,
}

/// What a sample costs: system calls, which an emulated CPU, or one that has to flush at each,
/// takes some microseconds for. The lower quartile: the first ones find cold caches (in emulation,
/// untranslated code), and some are interrupted.
pub fn sample_ticks(accounting: &mut impl ThreadAccounting) -> u64 {
    /// Some 70 µs in all on a real CPU.
    const SAMPLES: usize = 64;
    let mut costs = [0; SAMPLES];
    for cost in &mut costs {
        let before = tsc::read().tsc;
        accounting.sample();
        *cost = tsc::read().tsc.saturating_sub(before);
    }
    costs.sort_unstable();
    costs[SAMPLES / 4]
}

/// What is known of a length of time: it lies between these two, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    least: u64,
    most: u64,
}

impl Bounds {
    fn exactly(ticks: u64) -> Self {
        Self { least: ticks, most: ticks }
    }

    /// Whether it is half of `whole` or more; `None` if that cannot be told.
    fn is_half_of(self, whole: Self) -> Option<bool> {
        if self.least >= whole.most.div_ceil(2) {
            Some(true)
        } else {
            (self.most < whole.least.div_ceil(2)).then_some(false)
        }
    }
}

/// The last sample, and what happened since that it cannot have seen.
#[derive(Clone, Copy, Debug)]
struct Base {
    sample: Sample,
    /// At this moment the accounting was up to date.
    booked_tsc: u64,
    /// Time in intervals that were noticed since, and in gaps whose own sample was interrupted: the
    /// thread may have run in them or not.
    unsure_ticks: u64,
}

/// Compares what the kernel says now with what it said at the last sample.
#[derive(Debug)]
pub struct Evidence<E> {
    accounting: E,
    facts: Facts,
    khz: u64,
    notice_ticks: u64,
    own_ticks: u64,
    /// Without records of switches, a new sample is taken after so much time that is unsure.
    unsure_ticks: u64,
    tick_ticks: u64,
    longest_irq_ticks: u64,
    base: Option<Base>,
}

impl<E: ThreadAccounting> Evidence<E> {
    /// Of the calling thread.
    pub fn new(accounting: E, khz: u64, cost: Cost, facts: Facts) -> Self {
        /// An iteration takes longer than its median now and then, for reasons of the CPU's own.
        const ITERATIONS: u64 = 16;
        /// So does a sample.
        const SAMPLES: u64 = 4;
        let own_ticks = cost.sample_ticks.saturating_mul(SAMPLES);
        let iterations = cost.iteration_ticks.saturating_mul(ITERATIONS);
        Self {
            accounting,
            facts,
            khz,
            // Above the cost of a sample: what a sample leaves behind (cold caches) is no
            // interruption.
            notice_ticks: at_least_one_tick(NOTICE_NS, khz).max(iterations).max(own_ticks),
            own_ticks,
            unsure_ticks: at_least_one_tick(UNSURE_NS, khz),
            tick_ticks: facts.tick_ns.map_or(u64::MAX, |ns| at_least_one_tick(ns, khz)),
            longest_irq_ticks: at_least_one_tick(LONGEST_IRQ_NS, khz),
            base: None,
        }
    }

    /// How long the thread was off the CPU in a gap of this length, by the accounting.
    fn off_by_accounting(&self, base: &Base, now: &Sample, length: u64) -> Bounds {
        let waited = ns_to_ticks(now.waited_ns.saturating_sub(base.sample.waited_ns), self.khz);
        let least = waited.saturating_sub(base.unsure_ticks).min(length);
        let most = if now.arrivals == base.sample.arrivals {
            0
        } else if now.blocked.is_some() && now.blocked == base.sample.blocked {
            waited.min(length)
        } else {
            // While it was blocked nobody counted, or nobody tells whether it was.
            length
        };
        Bounds { least: least.min(most), most }
    }

    /// How long the kernel believes that the thread ran in a gap, by the accounting.
    fn ran_by_accounting(&self, base: &Base, now: &Sample, booked_tsc: u64, length: u64) -> Bounds {
        let accounted = ns_to_ticks(now.ran_ns.saturating_sub(base.sample.ran_ns), self.khz);
        let elapsed = now.tsc.saturating_sub(base.sample.tsc);
        let outside = elapsed.saturating_sub(length);
        let behind = |tsc: u64, accounted: u64| tsc.saturating_sub(accounted).min(self.tick_ticks);
        // The two clocks run at the same speed to one part in 16 384.
        let slack = elapsed >> 14;
        let late = slack.saturating_add(behind(base.sample.tsc, base.booked_tsc));
        let ahead = slack.saturating_add(behind(now.tsc, booked_tsc));
        let least = accounted.saturating_sub(outside.saturating_add(late));
        let not_outside = outside.saturating_sub(base.unsure_ticks);
        let most = accounted.saturating_add(ahead).saturating_sub(not_outside);
        Bounds { least: least.min(length), most: most.min(length) }
    }

    /// Up to when the accounting tells at the end of this gap what the thread has run.
    fn booked_tsc(
        &self,
        base: &Base,
        recorded: Option<Recorded>,
        off: Bounds,
        gap: Range<u64>,
    ) -> u64 {
        let Range { start: begin, end } = gap;
        let arrived_tsc = recorded.map_or_else(
            // It arrived after it had been off, at the earliest.
            || if off.least > 0 { begin.saturating_add(off.least) } else { 0 },
            |recorded| recorded.arrived_tsc,
        );
        // A tick that was due within came before the thread went on.
        let ticked = off.most == 0 && end.saturating_sub(begin) >= self.tick_ticks;
        if ticked { end } else { base.booked_tsc.max(arrived_tsc).min(end) }
    }

    /// The class of what was not the scheduler's, of which the kernel believes that the thread ran
    /// half or more.
    fn class_of_rest(&self, rest: Bounds, ran: bool) -> Class {
        let Facts { irq_kept_out, steal_known, .. } = self.facts;
        match (ran, irq_kept_out, steal_known) {
            // It does not know what took the time.
            (true, Some(true), _) => Class::Host,
            // No interrupt takes that long.
            (true, ..) if rest.least >= self.longest_irq_ticks => Class::Host,
            // It does not give the time to the thread.
            (false, Some(true), false) => Class::Irq,
            (false, Some(false), true) => Class::Host,
            _ => Class::Unknown,
        }
    }

    fn class(&self, off: Bounds, ran: Bounds, length: u64) -> Class {
        let rest = Bounds { least: length - off.most, most: length - off.least };
        let rest_class = match ran.is_half_of(rest) {
            Some(ran) => self.class_of_rest(rest, ran),
            None => agreed(self.class_of_rest(rest, true), self.class_of_rest(rest, false)),
        };
        match off.is_half_of(Bounds::exactly(length)) {
            Some(true) => Class::ScheduledOut,
            Some(false) => rest_class,
            None => agreed(Class::ScheduledOut, rest_class),
        }
    }

    /// The thread is about to sleep.
    pub fn pause(&mut self) {
        self.sample_again();
    }

    /// It runs again, and its sleep was to end at one of these moments and ended at the other: a
    /// burst begins. The class of what it waited for.
    pub fn wake(&mut self, planned: u64, awake: u64) -> Class {
        let asleep = self.base;
        // What comes after this moment may be a gap, and is asked about then.
        self.begin_at(awake);
        let Some((asleep, now)) = asleep.zip(self.base) else { return Class::Unknown };
        // While it slept nobody counted; the kernel does from the moment it is woken.
        let waited_ns = now.sample.waited_ns.saturating_sub(asleep.sample.waited_ns);
        let waited = Bounds::exactly(ns_to_ticks(waited_ns, self.khz));
        match waited.is_half_of(Bounds::exactly(awake.saturating_sub(planned))) {
            Some(true) => Class::ScheduledOut,
            // It was woken late: by a timer, a CPU that had halted, whoever had stopped it.
            _ => Class::Unknown,
        }
    }

    /// A burst begins at this moment.
    fn begin_at(&mut self, begin: u64) {
        // The accounting is up to date whenever the thread is switched in.
        let arrived_tsc =
            self.accounting.switches(begin, begin).map_or(0, |recorded| recorded.arrived_tsc);
        self.sample_again();
        if let Some(base) = &mut self.base {
            base.booked_tsc = arrived_tsc;
        }
    }

    /// Goes on from a new sample.
    fn sample_again(&mut self) {
        let booked_tsc = self.base.map_or(0, |base| base.booked_tsc);
        self.base =
            self.accounting.sample().map(|sample| Base { sample, booked_tsc, unsure_ticks: 0 });
    }
}

/// What both say.
fn agreed(one: Class, other: Class) -> Class {
    if one == other { one } else { Class::Unknown }
}

fn at_least_one_tick(ns: u64, khz: u64) -> u64 {
    ns_to_ticks(ns, khz).max(1)
}

impl<E: ThreadAccounting> GapClassifier for Evidence<E> {
    fn notice_ticks(&self) -> u64 {
        self.notice_ticks
    }

    fn own_ticks(&self) -> u64 {
        self.own_ticks
    }

    fn begin(&mut self) {
        self.begin_at(tsc::read().tsc);
    }

    fn notice(&mut self, begin: u64, end: u64) {
        let recorded = self.accounting.switches(begin, end);
        let Some(base) = &mut self.base else { return };
        base.unsure_ticks = base.unsure_ticks.saturating_add(end.saturating_sub(begin));
        // With records only what it ran is unsure, and that is so by a tick in any case.
        let bearable = recorded.map_or(self.unsure_ticks, |_| self.tick_ticks);
        if base.unsure_ticks > bearable {
            self.sample_again();
        }
    }

    fn classify(&mut self, begin: u64, end: u64) -> Class {
        let length = end.saturating_sub(begin);
        if length < self.notice_ticks {
            self.notice(begin, end);
            return Class::Unknown;
        }
        let sample = self.accounting.sample();
        let recorded = self.accounting.switches(begin, end);
        let recorded_off = recorded.map(|it| Bounds::exactly(it.off_ticks.min(length)));
        // A sample that was itself interrupted has seen a part of this gap, or all of it.
        let latest = begin.saturating_add(self.own_ticks);
        let base = self.base.filter(|base| base.sample.tsc <= latest);
        let Some((base, now)) = base.zip(sample) else {
            self.sample_again();
            let anything = Bounds { least: 0, most: length };
            return self.class(recorded_off.unwrap_or(anything), anything, length);
        };
        // A sample that took too long was interrupted, perhaps for long, and who knows whether
        // before or after the kernel answered. The meter makes a gap of it, which is then judged by
        // the sample before.
        let since_end = now.tsc.saturating_sub(end);
        let interrupted = since_end > self.own_ticks;
        let more = if interrupted { since_end } else { 0 };
        let unsure_ticks = base.unsure_ticks;
        let base = Base { unsure_ticks: unsure_ticks.saturating_add(more), ..base };
        let off = recorded_off.unwrap_or_else(|| self.off_by_accounting(&base, &now, length));
        let booked_tsc = self.booked_tsc(&base, recorded, off, begin..end);
        let ran = self.ran_by_accounting(&base, &now, booked_tsc, length);
        let off = match recorded {
            // Time that it was not given while it was blocked counts as the scheduler's.
            None if now.blocked != base.sample.blocked => {
                Bounds { least: off.least.max(off.most.saturating_sub(ran.least)), ..off }
            }
            _ => off,
        };
        if interrupted {
            self.base = Some(Base { unsure_ticks: unsure_ticks.saturating_add(length), ..base });
        } else {
            self.base = Some(Base { sample: now, booked_tsc, unsure_ticks: 0 });
        }
        self.class(off, ran, length)
    }
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
