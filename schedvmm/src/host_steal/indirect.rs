// SPDX-License-Identifier: Apache-2.0
//! What the host did to others, or beforehand, and a gap is longer for it: gaps of class `host` of
//! the threads that ran meanwhile, and those of the gap's own thread just before, for which the
//! guest's scheduler charged it.

use std::collections::BTreeMap;

use gaps::evidence::Class;
use gaps::record::{GapKind, GapRecord};

/// A time that the host took on one CPU, from when to when.
type Taken = (u64, u64);

/// Gaps that are the host's, or may be.
#[derive(Debug, Default)]
pub struct HostGaps {
    /// Of each CPU, in order and apart.
    by_cpu: BTreeMap<u32, Vec<Taken>>,
    /// Of each thread, in order: for these the scheduler may have charged it.
    by_thread: Vec<Vec<Taken>>,
}

impl HostGaps {
    /// Of the gaps of each thread.
    pub fn new(gaps: &[Vec<GapRecord>]) -> Self {
        let mut by_cpu = BTreeMap::<u32, Vec<Taken>>::new();
        for gap in gaps.iter().flatten().filter(|gap| gap.class == Class::Host) {
            by_cpu.entry(gap.cpu_begin).or_default().push((gap.tsc_begin, gap.tsc_end));
            if gap.cpu_end != gap.cpu_begin {
                by_cpu.entry(gap.cpu_end).or_default().push((gap.tsc_begin, gap.tsc_end));
            }
        }
        for taken in by_cpu.values_mut() {
            *taken = merged(std::mem::take(taken));
        }
        let by_thread = gaps.iter().map(|gaps| charged(gaps)).collect();
        Self { by_cpu, by_thread }
    }

    /// Times within this gap that the host took of others, each with its CPU.
    pub fn within(&self, gap: &GapRecord) -> impl Iterator<Item = (u32, u64, u64)> {
        let (begin, end) = (gap.tsc_begin, gap.tsc_end);
        self.by_cpu.iter().flat_map(move |(cpu, taken)| {
            let first = taken.partition_point(|(_, to)| *to <= begin);
            let within = taken[first..].iter().take_while(move |(from, _)| *from < end);
            within.map(move |(from, to)| (*cpu, *from.max(&begin), *to.min(&end)))
        })
    }

    /// The most for which this thread can have waited in this gap because the host had taken time
    /// from it before, with so many other threads in the load, in ticks.
    ///
    /// A thread that the guest believes to run while the host runs something else is charged for
    /// that time, and a fair scheduler has every other thread run as long before it runs again
    /// (`update_curr`, `place_entity` in kernel/sched/fair.c). Debts are paid by then: those that
    /// are older than that are none any more.
    pub fn debt(&self, thread: usize, gap: &GapRecord, others: u64) -> u64 {
        let Some(taken) = self.by_thread.get(thread) else { return 0 };
        let before = &taken[..taken.partition_point(|(_, to)| *to <= gap.tsc_begin)];
        before.iter().fold(0u64, |debt, (from, to)| {
            let owed = (to - from).saturating_mul(others);
            let due = gap.tsc_begin - to <= owed;
            debt.saturating_add(if due { owed } else { 0 })
        })
    }
}

/// Gaps of a thread in which the guest may have believed that it ran.
fn charged(gaps: &[GapRecord]) -> Vec<Taken> {
    let running = gaps.iter().filter(|gap| {
        gap.kind == GapKind::Preemption && matches!(gap.class, Class::Host | Class::Unknown)
    });
    merged(running.map(|gap| (gap.tsc_begin, gap.tsc_end)).collect())
}

/// The same times in order, each told once.
fn merged(mut taken: Vec<Taken>) -> Vec<Taken> {
    taken.sort_unstable();
    let mut apart: Vec<Taken> = Vec::new();
    for (from, to) in taken {
        match apart.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => apart.push((from, to)),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(cpu: u32, class: Class, tsc_begin: u64, tsc_end: u64) -> GapRecord {
        GapRecord {
            tsc_begin,
            tsc_end,
            cpu_begin: cpu,
            cpu_end: cpu,
            class,
            ..GapRecord::default()
        }
    }

    #[test]
    fn what_the_host_took_of_others_is_told_once_for_each_cpu() {
        let gaps = HostGaps::new(&[
            vec![gap(2, Class::Host, 100, 200), gap(2, Class::ScheduledOut, 200, 900)],
            vec![gap(2, Class::Host, 150, 250), gap(3, Class::Host, 300, 400)],
        ]);
        let within =
            |begin, end| gaps.within(&gap(2, Class::ScheduledOut, begin, end)).collect::<Vec<_>>();
        assert_eq!(within(0, 1000), [(2, 100, 250), (3, 300, 400)]);
        assert_eq!(within(120, 350), [(2, 120, 250), (3, 300, 350)]);
        assert_eq!(within(250, 300), []);
        // Where it ended on another CPU, nobody knows on which of them it was.
        let moved = GapRecord { cpu_end: 3, ..gap(2, Class::Host, 1, 5) };
        let gaps = HostGaps::new(&[vec![moved]]);
        let all = gap(2, Class::ScheduledOut, 0, 9);
        assert_eq!(gaps.within(&all).collect::<Vec<_>>(), [(2, 1, 5), (3, 1, 5)]);
    }

    #[test]
    fn a_thread_waits_for_what_it_was_charged() {
        let slept = GapRecord { kind: GapKind::WakeUp, ..gap(2, Class::Host, 400, 500) };
        let gaps = HostGaps::new(&[
            vec![gap(2, Class::Host, 100, 115), slept, gap(2, Class::Unknown, 900, 901)],
            Vec::new(),
        ]);
        let long = |begin| gap(2, Class::ScheduledOut, begin, begin + 500);
        // 15 ticks for each of seven others.
        assert_eq!(gaps.debt(0, &long(115), 7), 105);
        assert_eq!(gaps.debt(0, &long(220), 7), 105);
        // They have had their time.
        assert_eq!(gaps.debt(0, &long(221), 7), 0);
        // It did not run, or was not the one.
        assert_eq!(gaps.debt(0, &long(500), 7), 0);
        assert_eq!(gaps.debt(1, &long(115), 7), 0);
        assert_eq!(gaps.debt(7, &long(115), 7), 0);
        assert_eq!(gaps.debt(0, &long(905), 7), 7);
        assert_eq!(gaps.debt(0, &long(115), 0), 0);
    }
}
