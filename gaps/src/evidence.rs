// SPDX-License-Identifier: Apache-2.0
//! Who took the time of a gap: what the kernel knows of the thread, read at the gap itself.
//!
//! Two figures, both the kernel's own: how often the thread was switched out (getrusage) and
//! how much CPU time it has been given (its CPU clock). They are compared with those of the
//! last look, and the last look is never far away: every interval that stands out ends with a
//! new one, whether it is long enough to be a gap or not. So a short interruption before a gap
//! is not taken for its cause. docs/method.md derives the rules.

use std::arch::x86_64::__cpuid;

use serde::{Deserialize, Serialize};

use crate::tsc::{self, clock_ns, ns_to_ticks};

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
pub trait Witness {
    /// Intervals from this length on are worth a look, in ticks.
    fn notice_ticks(&self) -> u64;
    /// What its own work takes at most, as a rule, in ticks. So much after a question is the
    /// question's, and no interruption.
    fn own_ticks(&self) -> u64;
    /// A burst begins: whatever happened before is no part of it.
    fn begin(&mut self);
    /// The interval between these two readings stood out.
    fn judge(&mut self, begin: u64, end: u64) -> Class;
}

/// Nobody: every gap is of unknown class.
impl Witness for () {
    fn notice_ticks(&self) -> u64 {
        u64::MAX
    }

    fn own_ticks(&self) -> u64 {
        0
    }

    fn begin(&mut self) {}

    fn judge(&mut self, _begin: u64, _end: u64) -> Class {
        Class::Unknown
    }
}

/// What the kernel knows of the calling thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// How often it was switched out, for whatever reason.
    pub switches: u64,
    /// CPU time it was given, in nanoseconds.
    pub cpu_ns: u64,
    /// TSC when this was read.
    pub tsc: u64,
}

/// Where sights come from: the kernel, or a test.
pub trait Eye {
    /// The calling thread, now.
    fn look(&mut self) -> Sight;
}

/// The kernel's own account.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelEye;

impl Eye for KernelEye {
    fn look(&mut self) -> Sight {
        // SAFETY: rusage is plain data, for which all bits zero is a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a local that the call fills; it cannot fail with these
        // arguments, and zeros would only make the class unknown.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        let cpu_ns = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let switches = usage.ru_nvcsw.saturating_add(usage.ru_nivcsw);
        Sight { switches: u64::try_from(switches).unwrap_or(0), cpu_ns, tsc: tsc::read().tsc }
    }
}

/// Shorter intervals are not looked at: two system calls would cost as much as they explain.
/// Being switched out and in again takes longer than this on any machine.
const NOTICE_NS: u64 = 2_000;

/// An interval without a switch and shorter than this is an interrupt, as a rule: these tell
/// whether the kernel counts interrupts as CPU time of the thread they interrupt.
const SHORT_NS: u64 = 50_000;

/// So much time must have gone to short interruptions before they tell anything: the clocks
/// that are compared differ by some microseconds in a second.
const TELLING_NS: u64 = 200_000;

/// Interrupts take no longer than this in one piece: softirqs are handed to a thread, which is
/// a switch, after 2 ms or a jiffy (kernel/softirq.c, MAX_SOFTIRQ_TIME), at most 10 ms at 100 Hz.
const LONGEST_IRQ_NS: u64 = 20_000_000;

/// What the meter's own work costs on this machine, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// One turn of its loop.
    pub turn_ticks: u64,
    /// One look of the evidence.
    pub look_ticks: u64,
}

/// What a look of [`KernelEye`] costs: two system calls, which an emulated CPU, or one that
/// has to flush at each, takes some microseconds for. The lower quartile: the first ones find
/// cold caches (in emulation, untranslated code), and some are interrupted.
fn look_ticks() -> u64 {
    /// Some 70 µs in all on a real CPU.
    const LOOKS: usize = 64;
    let mut eye = KernelEye;
    let mut costs = [0; LOOKS];
    for cost in &mut costs {
        let before = tsc::read().tsc;
        *cost = eye.look().tsc.saturating_sub(before);
    }
    costs.sort_unstable();
    costs[LOOKS / 4]
}

/// Compares what the kernel says now with what it said at the last look.
#[derive(Clone, Debug)]
pub struct Evidence<E> {
    eye: E,
    last: Sight,
    khz: u64,
    notice_ticks: u64,
    own_ticks: u64,
    short_ticks: u64,
    telling_ticks: u64,
    longest_irq_ticks: u64,
    /// True if the kernel knows of time that its own host steals.
    steal_known: bool,
    /// Time in short interruptions without a switch, and how much of it the kernel has kept
    /// out of the thread's CPU time.
    short: u64,
    short_kept_out: u64,
}

impl Evidence<KernelEye> {
    /// For the calling thread. `turn_ticks` is the cost of one turn of the meter's loop, which
    /// is no interruption however long it takes (an emulated CPU is slow).
    pub fn of_this_thread(khz: u64, turn_ticks: u64) -> Self {
        Self::new(KernelEye, khz, Cost { turn_ticks, look_ticks: look_ticks() }, steal_is_known())
    }
}

impl<E: Eye> Evidence<E> {
    /// With sights from `eye`.
    pub fn new(eye: E, khz: u64, cost: Cost, steal_known: bool) -> Self {
        /// A turn takes longer than its median now and then, for reasons of the CPU's own.
        const TURNS: u64 = 16;
        /// So does a look.
        const LOOKS: u64 = 4;
        let own_ticks = cost.look_ticks.saturating_mul(LOOKS);
        let turns = cost.turn_ticks.saturating_mul(TURNS);
        Self {
            eye,
            last: Sight::default(),
            khz,
            // Above the cost of a look: else each would be an interval that calls for the next.
            notice_ticks: at_least_one_tick(NOTICE_NS, khz).max(turns).max(own_ticks),
            own_ticks,
            short_ticks: at_least_one_tick(SHORT_NS, khz),
            telling_ticks: at_least_one_tick(TELLING_NS, khz),
            longest_irq_ticks: at_least_one_tick(LONGEST_IRQ_NS, khz),
            steal_known,
            short: 0,
            short_kept_out: 0,
        }
    }

    /// Whether the kernel keeps interrupts out of a thread's CPU time; `None` while too few of
    /// them have been seen.
    fn irq_known(&self) -> Option<bool> {
        (self.short >= self.telling_ticks).then_some(self.short_kept_out >= self.short / 2)
    }

    fn class(&self, switched: bool, ran: u64, length: u64) -> Class {
        let away = ran < length / 2;
        match (switched, away) {
            (true, true) => Class::ScheduledOut,
            // The kernel believes that the thread ran: it does not know what took the time.
            (_, false) if self.irq_known() == Some(true) => Class::Host,
            (_, false) if length >= self.longest_irq_ticks => Class::Host,
            // Interrupts would look the same.
            (_, false) => Class::Unknown,
            // Never switched out, and yet the kernel gave it no CPU time.
            (false, true) => match (self.irq_known(), self.steal_known) {
                (Some(true), false) => Class::Irq,
                (Some(false), true) => Class::Host,
                _ => Class::Unknown,
            },
        }
    }
}

fn at_least_one_tick(ns: u64, khz: u64) -> u64 {
    ns_to_ticks(ns, khz).max(1)
}

impl<E: Eye> Witness for Evidence<E> {
    fn notice_ticks(&self) -> u64 {
        self.notice_ticks
    }

    fn own_ticks(&self) -> u64 {
        self.own_ticks
    }

    fn begin(&mut self) {
        self.last = self.eye.look();
    }

    fn judge(&mut self, begin: u64, end: u64) -> Class {
        let length = end.saturating_sub(begin);
        if length < self.notice_ticks {
            return Class::Unknown;
        }
        let (before, now) = (self.last, self.eye.look());
        self.last = now;
        let elapsed = now.tsc.saturating_sub(before.tsc);
        let cpu = ns_to_ticks(now.cpu_ns.saturating_sub(before.cpu_ns), self.khz);
        let switched = now.switches != before.switches;
        // Outside the interval the thread ran; what else it was given, it got inside.
        let ran = cpu.saturating_sub(elapsed.saturating_sub(length));
        if !switched && length < self.short_ticks {
            self.short = self.short.saturating_add(length);
            self.short_kept_out =
                self.short_kept_out.saturating_add(elapsed.saturating_sub(cpu).min(length));
        }
        self.class(switched, ran, length)
    }
}

/// True if this kernel is told of the time its host takes: KVM's steal time feature (bit 5 of
/// EAX in leaf 0x40000001, Linux Documentation/virt/kvm/x86/cpuid.rst), or any steal counted so
/// far on other hypervisors.
fn steal_is_known() -> bool {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    const KVM: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x0000_004d];
    const STEAL_TIME: u32 = 1 << 5;
    if __cpuid(1).ecx & HYPERVISOR_PRESENT == 0 {
        return false;
    }
    let leaf = __cpuid(0x4000_0000);
    if [leaf.ebx, leaf.ecx, leaf.edx] == KVM {
        return __cpuid(0x4000_0001).eax & STEAL_TIME != 0;
    }
    std::fs::read_to_string("/proc/stat").is_ok_and(|text| steal_in(&text) > 0)
}

/// Steal is the eighth figure of the first line (proc_stat(5)).
fn steal_in(stat: &str) -> u64 {
    let steal = stat.lines().next().and_then(|line| line.split_ascii_whitespace().nth(8));
    steal.and_then(|steal| steal.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
