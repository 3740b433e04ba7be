// SPDX-License-Identifier: Apache-2.0
//! What the kernel tells the measuring thread of itself: records of its switches, and its
//! accounting.

use gaps::accounting::{Accounting, Facts, Sample};
use gaps::evidence::{Cost, Recorded, ThreadAccounting, sample_ticks};
use gaps::tsc::{self, bracket, clock_ns, ns_to_ticks};

use crate::kernel::scheduler;
use crate::kernel::switches::{Change, Switches};

/// 256 absences, which are taken at each interruption.
const RING_BYTES: usize = 8 << 10;

/// So many absences are kept that ended after the interval they are asked about.
const MAX_KEPT: usize = 64;

/// The kernel, as one thread sees it.
#[derive(Debug)]
pub struct KernelAccounting {
    records: Option<Records>,
    accounting: Accounting,
}

impl KernelAccounting {
    /// Of the calling thread. Switches are recorded where the kernel lets us.
    pub fn of_this_thread(khz: u64) -> Self {
        let since_ns = clock_ns(libc::CLOCK_MONOTONIC_RAW);
        let records = Switches::of(None, RING_BYTES)
            .ok()
            .map(|switches| Records::new(switches, khz, since_ns));
        let accounting = Accounting::of_this_thread(records.is_none());
        Self { records, accounting }
    }

    /// The same without records of switches, as where the kernel does not let us have them.
    pub fn without_records() -> Self {
        Self { records: None, accounting: Accounting::of_this_thread(true) }
    }
}

impl ThreadAccounting for KernelAccounting {
    fn switches(&mut self, begin: u64, end: u64) -> Option<Recorded> {
        self.records.as_mut()?.between(begin, end)
    }

    fn sample(&mut self) -> Option<Sample> {
        self.accounting.read()
    }
}

/// What evidence needs to know of this kernel.
pub fn facts() -> Facts {
    Facts::of_this_kernel(scheduler::tick_ns())
}

/// What the meter's work costs here. An iteration of its loop takes `iteration_ticks`, which is no
/// interruption however long it takes (an emulated CPU is slow).
pub fn cost(accounting: &mut KernelAccounting, iteration_ticks: u64) -> Cost {
    Cost { iteration_ticks, sample_ticks: sample_ticks(accounting) }
}

/// When the calling thread was off its CPU, from its records. Times are TSC readings.
#[derive(Debug)]
struct Records {
    switches: Switches,
    khz: u64,
    /// When this began, on the clock of the records.
    since_ns: u64,
    off_cpu: OffCpu,
}

impl Records {
    fn new(switches: Switches, khz: u64, since_ns: u64) -> Self {
        Self { switches, khz, since_ns, off_cpu: OffCpu::since(tsc::read().tsc) }
    }

    fn between(&mut self, begin: u64, end: u64) -> Option<Recorded> {
        // Both clocks at one moment, once something has been recorded.
        let mut now: Option<(u64, u64)> = None;
        while let Some((change, at_ns)) = self.switches.next_change() {
            let both = now.filter(|(_, now_ns)| at_ns <= *now_ns);
            let (tsc, now_ns) = both.unwrap_or_else(|| bracket(libc::CLOCK_MONOTONIC_RAW));
            now = Some((tsc, now_ns));
            match ago_ns(at_ns, self.since_ns, now_ns) {
                Some(ago_ns) => {
                    let ago_ticks = ns_to_ticks(ago_ns, self.khz);
                    self.off_cpu.note(change, tsc.saturating_sub(ago_ticks));
                }
                None => self.off_cpu.note(Change::Lost, tsc),
            }
        }
        self.off_cpu.between(begin, end)
    }
}

/// For how long a record has been there, on a clock on which all began at `since_ns`. `None` where
/// the clock is not the records' own: in a time namespace with an offset (time_namespaces(7)).
fn ago_ns(at_ns: u64, since_ns: u64, now_ns: u64) -> Option<u64> {
    if at_ns < since_ns { None } else { now_ns.checked_sub(at_ns) }
}

/// Times off the CPU that nobody has asked about.
#[derive(Debug)]
struct OffCpu {
    /// Rising, with an end each.
    kept: Vec<(u64, u64)>,
    left: Option<u64>,
    /// The last end of those that are forgotten.
    arrived_tsc: u64,
    /// Of the time before it something may be missing.
    whole_since: u64,
}

impl OffCpu {
    /// Of a thread that is watched from now on. Nothing is allocated later.
    fn since(tsc: u64) -> Self {
        Self { kept: Vec::with_capacity(MAX_KEPT), left: None, arrived_tsc: 0, whole_since: tsc }
    }

    fn note(&mut self, change: Change, at: u64) {
        match (change, self.left.take()) {
            (Change::Out { .. }, _) => self.left = Some(at),
            (Change::In, Some(left)) => {
                if self.kept.len() == MAX_KEPT {
                    let (_, end) = self.kept.remove(0);
                    self.whole_since = end;
                }
                self.kept.push((left, at));
            }
            (Change::In | Change::Lost, _) => self.whole_since = at,
        }
    }

    /// What was recorded of an interval. Those that ended by then are forgotten.
    fn between(&mut self, begin: u64, end: u64) -> Option<Recorded> {
        let mut off_ticks = 0;
        for &(left, arrived) in &self.kept {
            off_ticks += arrived.min(end).saturating_sub(left.max(begin));
            if arrived <= end {
                self.arrived_tsc = arrived;
            }
        }
        self.kept.retain(|&(_, arrived)| arrived > end);
        let arrived_tsc = self.arrived_tsc;
        (begin >= self.whole_since).then_some(Recorded { off_ticks, arrived_tsc })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Change = Change::Out { preempted: true };

    fn recorded(off_ticks: u64, arrived_tsc: u64) -> Option<Recorded> {
        Some(Recorded { off_ticks, arrived_tsc })
    }

    #[test]
    fn absences_count_where_they_are() {
        let mut off_cpu = OffCpu::since(100);
        for (left, arrived) in [(200, 300), (400, 500), (600, 900)] {
            off_cpu.note(OUT, left);
            off_cpu.note(Change::In, arrived);
        }
        // The last one ends after this interval: it is of the next one.
        assert_eq!(off_cpu.between(190, 650), recorded(250, 500));
        assert_eq!(off_cpu.between(650, 910), recorded(250, 900));
        assert_eq!(off_cpu.between(910, 990), recorded(0, 900));
    }

    #[test]
    fn records_of_another_clock_have_no_place() {
        assert_eq!(ago_ns(150, 100, 170), Some(20));
        assert_eq!(ago_ns(100, 100, 100), Some(0));
        // The clock here is ahead of the records', or behind.
        assert_eq!(ago_ns(99, 100, 170), None);
        assert_eq!(ago_ns(171, 100, 170), None);
    }

    #[test]
    fn what_was_lost_is_not_known() {
        let mut off_cpu = OffCpu::since(100);
        assert_eq!(off_cpu.between(99, 110), None);
        off_cpu.note(OUT, 200);
        off_cpu.note(Change::Lost, 300);
        off_cpu.note(Change::In, 400);
        assert_eq!(off_cpu.between(390, 500), None);
        assert_eq!(off_cpu.between(500, 600), recorded(0, 0));
        for n in 0..100 {
            off_cpu.note(OUT, 1000 + 10 * n);
            off_cpu.note(Change::In, 1005 + 10 * n);
        }
        assert_eq!(off_cpu.between(1000, 1990), None);
        assert_eq!(off_cpu.between(1990, 2000), recorded(5, 1995));
        assert_eq!(off_cpu.kept.capacity(), MAX_KEPT);
    }

    /// The kernel's own records say the same as its accounting, and as the clock.
    #[test]
    fn a_sleep_is_recorded_with_its_length() {
        let khz = crate::supervisor::tsc_frequency(&mut gaps::tsc::Sources::known(None));
        let khz = khz.expect("known").khz;
        let mut accounting = KernelAccounting::of_this_thread(khz);
        if accounting.records.is_none() {
            println!("SKIPPED: {:?}", Switches::of(None, RING_BYTES).map(drop));
            return;
        }
        let begin = tsc::read().tsc;
        std::thread::sleep(std::time::Duration::from_millis(30));
        let end = tsc::read().tsc;
        let recorded = accounting.switches(begin, end).expect("watched");
        let length = end - begin;
        assert!(
            recorded.off_ticks <= length && recorded.off_ticks > length / 10 * 9,
            "{recorded:?}"
        );
        assert!(recorded.arrived_tsc > begin && recorded.arrived_tsc <= end, "{recorded:?}");
        let nothing = accounting.switches(end, end);
        assert_eq!(nothing.map(|it| it.off_ticks), Some(0));
        assert_eq!(KernelAccounting::without_records().switches(begin, end), None);
    }
}
