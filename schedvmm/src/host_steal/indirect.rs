// SPDX-License-Identifier: Apache-2.0
//! What the host did to others, or beforehand, and a gap is longer for it: gaps of class `host` of
//! the threads that ran meanwhile, and the time for which the guest's scheduler charged the gap's own
//! thread while the host ran something else.

use std::collections::BTreeMap;
use std::iter;

use gaps::evidence::Class;
use gaps::record::{GapKind, GapRecord};

/// From when to when.
type Interval = (u64, u64);

/// So long a debt can be alive where threads are not due the same, in which case it has no bound.
const DEBT_MS: u64 = 1000;

/// Gaps that the guest calls the host's, or that may be: of each CPU and of each thread.
#[derive(Debug, Default)]
pub struct HostGaps {
    by_cpu: BTreeMap<u32, Vec<Interval>>,
    by_thread: BTreeMap<usize, Vec<Interval>>,
}

impl HostGaps {
    /// Takes this gap in, if it is one. Its class is the guest's own.
    pub fn add(&mut self, thread: usize, gap: &GapRecord) {
        let interval = (gap.tsc_begin, gap.tsc_end);
        if gap.class == Class::Host {
            // Where it ended on another CPU, nobody knows on which of them it was.
            let other = (gap.cpu_end != gap.cpu_begin).then_some(gap.cpu_end);
            for cpu in iter::once(gap.cpu_begin).chain(other) {
                self.by_cpu.entry(cpu).or_default().push(interval);
            }
        }
        // The guest may have believed that it ran.
        if gap.kind == GapKind::Preemption && matches!(gap.class, Class::Host | Class::Unknown) {
            self.by_thread.entry(thread).or_default().push(interval);
        }
    }

    /// Makes them ready to be asked. `told` is how much the host's own records have of an interval on
    /// a CPU, in ticks: that is in other sums.
    pub fn settled(&self, told: impl Fn(u32, Interval) -> u64) -> Settled {
        let by_cpu = self.by_cpu.iter().map(|(cpu, gaps)| {
            let mut before = 0u64;
            let each = merged(gaps.clone()).into_iter().map(|(begin, end)| {
                let ticks = (end - begin).saturating_sub(told(*cpu, (begin, end)));
                let untold = Untold { begin, end, before, ticks };
                before = before.saturating_add(ticks);
                untold
            });
            each.collect()
        });
        let by_thread = self.by_thread.iter().map(|(thread, gaps)| (*thread, merged(gaps.clone())));
        Settled { by_cpu: by_cpu.collect(), by_thread: by_thread.collect() }
    }
}

/// A time on a CPU of which the host took so much that its own records do not have.
#[derive(Clone, Copy, Debug)]
struct Untold {
    begin: u64,
    end: u64,
    /// Ticks of all that came before.
    before: u64,
    ticks: u64,
}

/// The same gaps, in order and apart.
#[derive(Debug, Default)]
pub struct Settled {
    by_cpu: Vec<Vec<Untold>>,
    by_thread: BTreeMap<usize, Vec<Interval>>,
}

/// How the threads of a load share their CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// How many other threads the load has.
    pub others: u64,
    /// All threads are due the same.
    pub equal: bool,
    /// TSC ticks in a millisecond.
    pub khz: u64,
}

impl Settled {
    /// What the host took of others within this gap and did not tell itself, in ticks, at most.
    pub fn meanwhile(&self, gap: &GapRecord) -> u64 {
        let each = self.by_cpu.iter().map(|untold| {
            let first = untold.partition_point(|it| it.end <= gap.tsc_begin);
            let last = untold.partition_point(|it| it.begin < gap.tsc_end);
            match untold.get(first..last) {
                Some([head, .., tail]) => {
                    let between = tail.before - head.before - head.ticks;
                    between.saturating_add(head.within(gap)).saturating_add(tail.within(gap))
                }
                Some([one]) => one.within(gap),
                _ => 0,
            }
        });
        each.fold(0, u64::saturating_add)
    }

    /// The most for which this thread can have waited in this gap because the host had taken time
    /// while it ran: before, or as the gap began (`at_begin` ticks). In ticks.
    ///
    /// A thread that the guest believes to run while the host runs something else is charged for
    /// that time, and a fair scheduler has every other thread run as long before it runs again
    /// (`update_curr`, `place_entity` in kernel/sched/fair.c). Debts are paid by then: those that
    /// are older than that are none any more. `None` where it has no bound.
    pub fn debt(
        &self,
        thread: usize,
        gap: &GapRecord,
        at_begin: u64,
        sharing: Sharing,
    ) -> Option<u64> {
        let taken = self.by_thread.get(&thread).map_or(&[][..], Vec::as_slice);
        let before = &taken[..taken.partition_point(|(_, end)| *end <= gap.tsc_begin)];
        if !sharing.equal {
            // A light thread owes heavy ones a multiple of it.
            let alive = DEBT_MS.saturating_mul(sharing.khz);
            let last = before.last().is_some_and(|(_, end)| gap.tsc_begin - end <= alive);
            return (!last && at_begin == 0).then_some(0);
        }
        let now = at_begin.saturating_mul(sharing.others);
        Some(before.iter().fold(now, |debt, (begin, end)| {
            let owed = (end - begin).saturating_mul(sharing.others);
            let due = gap.tsc_begin - end <= owed;
            debt.saturating_add(if due { owed } else { 0 })
        }))
    }
}

impl Untold {
    /// At most so much of it is within this gap.
    fn within(&self, gap: &GapRecord) -> u64 {
        let overlap = self.end.min(gap.tsc_end).saturating_sub(self.begin.max(gap.tsc_begin));
        overlap.min(self.ticks)
    }
}

/// The same times in order, each told once.
fn merged(mut taken: Vec<Interval>) -> Vec<Interval> {
    taken.sort_unstable();
    let mut apart: Vec<Interval> = Vec::new();
    for (begin, end) in taken {
        match apart.last_mut() {
            Some(last) if begin <= last.1 => last.1 = last.1.max(end),
            _ => apart.push((begin, end)),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(cpu: u32, class: Class, tsc_begin: u64, tsc_end: u64) -> GapRecord {
        let on = GapRecord { cpu_begin: cpu, cpu_end: cpu, ..GapRecord::default() };
        GapRecord { tsc_begin, tsc_end, class, ..on }
    }

    fn gaps(all: &[(usize, GapRecord)]) -> HostGaps {
        let mut gaps = HostGaps::default();
        all.iter().for_each(|(thread, gap)| gaps.add(*thread, gap));
        gaps
    }

    fn nothing(_: u32, _: Interval) -> u64 {
        0
    }

    #[test]
    fn what_the_host_took_of_others_is_told_once_for_each_cpu() {
        let all = gaps(&[
            (0, gap(2, Class::Host, 100, 200)),
            (0, gap(2, Class::ScheduledOut, 200, 900)),
            (1, gap(2, Class::Host, 150, 250)),
            (1, gap(3, Class::Host, 300, 400)),
            (1, gap(2, Class::Host, 500, 510)),
            (1, gap(2, Class::Host, 600, 620)),
        ]);
        let settled = all.settled(nothing);
        let within = |begin, end| settled.meanwhile(&gap(2, Class::ScheduledOut, begin, end));
        assert_eq!(within(0, 1000), 150 + 100 + 10 + 20);
        assert_eq!(within(120, 350), 130 + 50);
        assert_eq!(within(120, 605), 130 + 100 + 10 + 5);
        assert_eq!(within(250, 300), 0);
        assert_eq!(within(620, 900), 0);
        // Its own records have a part of it.
        let settled = all.settled(|cpu, (begin, _)| if (cpu, begin) == (2, 100) { 40 } else { 0 });
        let within = |begin, end| settled.meanwhile(&gap(2, Class::ScheduledOut, begin, end));
        assert_eq!(within(0, 1000), 110 + 100 + 10 + 20);
        // Of which part nobody says.
        assert_eq!((within(0, 210), within(0, 240)), (110, 110));
        // Where it ended on another CPU, nobody knows on which of them it was.
        let moved = GapRecord { cpu_end: 3, ..gap(2, Class::Host, 1, 5) };
        let settled = gaps(&[(0, moved)]).settled(nothing);
        assert_eq!(settled.meanwhile(&gap(2, Class::ScheduledOut, 0, 9)), 8);
    }

    #[test]
    fn a_thread_waits_for_what_it_was_charged() {
        const EIGHT: Sharing = Sharing { others: 7, equal: true, khz: 1 };
        let slept = GapRecord { kind: GapKind::WakeUp, ..gap(2, Class::Host, 400, 500) };
        let settled = gaps(&[
            (0, gap(2, Class::Host, 100, 115)),
            (0, slept),
            (0, gap(2, Class::Unknown, 9000, 9001)),
        ]);
        let settled = settled.settled(nothing);
        let long = |begin| gap(2, Class::ScheduledOut, begin, begin + 500);
        let debt = |thread, begin| settled.debt(thread, &long(begin), 0, EIGHT).expect("a bound");
        // 15 ticks for each of seven others.
        assert_eq!((debt(0, 115), debt(0, 220)), (105, 105));
        // They have had their time.
        assert_eq!(debt(0, 221), 0);
        // It did not run, or was not the one.
        assert_eq!((debt(0, 500), debt(1, 115), debt(7, 115)), (0, 0, 0));
        assert_eq!(debt(0, 9005), 7);
        // The host took it as the gap began.
        assert_eq!(settled.debt(1, &long(500), 15, EIGHT), Some(105));
        let alone = Sharing { others: 0, ..EIGHT };
        assert_eq!(settled.debt(0, &long(115), 15, alone), Some(0));
        // Nobody says how much a light thread owes; after a second nothing.
        let weights = Sharing { equal: false, ..EIGHT };
        assert_eq!(settled.debt(0, &long(1115), 0, weights), None);
        assert_eq!(settled.debt(0, &long(1116), 0, weights), Some(0));
        assert_eq!(settled.debt(1, &long(500), 1, weights), None);
    }

    #[test]
    fn many_gaps_cost_little() {
        let mut all = HostGaps::default();
        for n in 0..200_000u64 {
            all.add((n % 16) as usize, &gap(2, Class::Host, 2 * n, 2 * n + 1));
        }
        let settled = all.settled(nothing);
        let begin = std::time::Instant::now();
        for _ in 0..4096 {
            assert_eq!(settled.meanwhile(&gap(2, Class::ScheduledOut, 0, u64::MAX)), 200_000);
        }
        assert!(begin.elapsed() < std::time::Duration::from_secs(5));
    }
}
