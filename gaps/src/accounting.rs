// SPDX-License-Identifier: Apache-2.0
//! The kernel's own accounting of the calling thread, read where it costs the schedule nothing.
//!
//! /proc/thread-self/schedstat has them without a lock of the scheduler's and without bringing them
//! up to date. The thread's CPU clock, and every other figure that is right to the nanosecond,
//! takes the lock of the runqueue and calls `update_curr`, which ends the turn of a thread whose
//! slice is used up: a meter that asks so measures itself. docs/method.md has the list of all
//! calls.

use std::arch::x86_64::__cpuid;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::tsc;

/// What the accounting says of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Time on a CPU in nanoseconds, as far as it has been accounted: at each tick of the CPU, and
    /// whenever the thread is switched out.
    pub ran_ns: u64,
    /// Time ready to run and not running, in nanoseconds. Accounted when the thread runs again, so
    /// that of a running thread it is complete.
    pub waited_ns: u64,
    /// How often it was switched in.
    pub arrivals: u64,
    /// How often it was switched out because it could not go on: it slept, or was stopped. `None`
    /// where that is not asked.
    pub blocked: Option<u64>,
    /// TSC when this had been read.
    pub tsc: u64,
}

/// The accounting of the thread that opened them.
#[derive(Debug)]
pub struct Accounting {
    schedstat: Option<File>,
    /// Whether switches are counted as well, for whoever has no records of them.
    usage: bool,
}

impl Accounting {
    /// Of the calling thread. `usage`: count the times it was blocked, too, with another system
    /// call, where that costs the schedule nothing.
    pub fn of_this_thread(usage: bool) -> Self {
        let this = Self {
            schedstat: File::open("/proc/thread-self/schedstat").ok(),
            usage: usage && !ticks_may_stop(),
        };
        // The first read allocates the kernel's buffer.
        this.read();
        this
    }

    /// What they say now; `None` where the kernel keeps none.
    pub fn read(&self) -> Option<Sample> {
        let mut bytes = [0; 80];
        let length = self.schedstat.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let blocked = self.usage.then(blocked);
        parse_schedstat(&bytes[..length]).map(|sample| Sample {
            blocked,
            tsc: tsc::read().tsc,
            ..sample
        })
    }
}

/// Three numbers (Linux Documentation/scheduler/sched-stats.rst). All are 0 where nobody counts,
/// for a thread that can be asked about has arrived once at least: `None`.
pub fn parse_schedstat(schedstat: &[u8]) -> Option<Sample> {
    let mut words = std::str::from_utf8(schedstat).ok()?.split_ascii_whitespace();
    let ran_ns = words.next()?.parse().ok()?;
    let waited_ns = words.next()?.parse().ok()?;
    let arrivals = words.next()?.parse::<u64>().ok()?;
    (arrivals > 0).then_some(Sample { ran_ns, waited_ns, arrivals, ..Sample::default() })
}

/// getrusage(2). On CPUs whose tick may stop it would bring the accounting up to date.
fn blocked() -> u64 {
    // SAFETY: rusage is plain data, for which all bits zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local that the call fills; it cannot fail with these arguments.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    u64::try_from(usage.ru_nvcsw).unwrap_or(0)
}

/// What must be known of the kernel to read its accounting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether it is told of time that its own host steals.
    pub steal_known: bool,
    /// Whether it keeps interrupts out of a thread's time; `None` where that cannot be told.
    pub irq_kept_out: Option<bool>,
    /// So often it accounts for what a thread has run; `None` where it may not do so for long.
    pub tick_ns: Option<u64>,
}

impl Facts {
    /// Of the running kernel, whose ticks are so long. Takes some 100 µs: ask once.
    pub fn of_this_kernel(tick_ns: Option<u64>) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self {
            steal_known: steal_is_known(&stat),
            irq_kept_out: irq_kept_out(&stat),
            tick_ns: tick_ns.filter(|_| !ticks_may_stop()),
        }
    }
}

/// With `nohz_full=` a CPU with one thread has no ticks.
fn ticks_may_stop() -> bool {
    let cpus = fs::read_to_string("/sys/devices/system/cpu/nohz_full").unwrap_or_default();
    cpus.trim().starts_with(|first: char| first.is_ascii_digit())
}

/// `CONFIG_IRQ_TIME_ACCOUNTING`, with a clock that is good enough for it, is the only way in which
/// time of interrupts (the sixth figure of the first line of proc_stat(5)) is ever accounted on x86:
/// a tick that finds the CPU in another interrupt is not served before that has ended.
fn irq_kept_out(stat: &str) -> Option<bool> {
    /// So many interrupts take more than the 10 ms which that figure counts in.
    const TELLING: u64 = 50_000;
    let irq: u64 = cpu_figure(stat, 6)?;
    let count = || stat.lines().find_map(|line| line.strip_prefix("intr "))?.split(' ').next();
    let count: u64 = count()?.parse().ok()?;
    (irq > 0 || count >= TELLING).then_some(irq > 0)
}

/// Whether this kernel is told of the time its host takes: KVM's steal time feature (bit 5 of
/// EAX in leaf 0x40000001, Linux Documentation/virt/kvm/x86/cpuid.rst), or any steal counted so
/// far (the eighth figure) on other hypervisors.
fn steal_is_known(stat: &str) -> bool {
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
    cpu_figure(stat, 8).is_some_and(|steal| steal > 0)
}

/// The n-th figure of the first line of /proc/stat.
fn cpu_figure(stat: &str, nth: usize) -> Option<u64> {
    stat.lines().next()?.split_ascii_whitespace().nth(nth)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers_or_nothing() {
        let expected = Sample { ran_ns: 12, waited_ns: 34, arrivals: 5, ..Sample::default() };
        assert_eq!(parse_schedstat(b"12 34 5\n"), Some(expected));
        for nothing in [&b"0 0 0\n"[..], b"", b"12 34\n", b"a b c", b"\xff"] {
            assert_eq!(parse_schedstat(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn steal_is_the_eighth_figure() {
        let stat = "cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1";
        assert_eq!((cpu_figure(stat, 8), cpu_figure(stat, 6)), (Some(88), Some(6)));
        assert_eq!((cpu_figure("cpu 1 2", 8), cpu_figure("", 8)), (None, None));
    }

    #[test]
    fn interrupts_that_are_booked_are_kept_out() {
        let stat = |irq, interrupts| format!("cpu 1 2 3 4 5 {irq} 7 8\nintr {interrupts} 0 5\n");
        assert_eq!(irq_kept_out(&stat(1, 100)), Some(true));
        assert_eq!(irq_kept_out(&stat(0, 50_000)), Some(false));
        // Too few to have shown.
        assert_eq!(irq_kept_out(&stat(0, 49_999)), None);
        assert_eq!((irq_kept_out("cpu 1 2 3 4 5 0"), irq_kept_out("")), (None, None));
    }

    #[test]
    fn this_kernel_counts_the_switches_of_a_sleep() {
        let accounting = Accounting::of_this_thread(true);
        let Some(before) = accounting.read() else {
            println!("SKIPPED: this kernel keeps no schedstat");
            return;
        };
        std::thread::sleep(std::time::Duration::from_millis(5));
        let after = accounting.read().expect("as before");
        assert!(after.arrivals > before.arrivals, "{before:?} {after:?}");
        assert!(after.blocked > before.blocked || !accounting.usage, "{before:?} {after:?}");
        assert!(after.ran_ns - before.ran_ns < 5_000_000, "{before:?} {after:?}");
        assert!(after.tsc > before.tsc);
    }
}
