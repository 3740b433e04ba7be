// SPDX-License-Identifier: Apache-2.0
//! What a thread accounts for of a burst when that has ended: up to the moment at which all figures
//! end, which is the end of the gap that ended the load, or the load's own end.

use std::sync::atomic::Ordering::Relaxed;

use gaps::evidence::Class;
use gaps::meter::End;
use gaps::record::{GapKind, GapRecord};
use gaps::tally::RecordCell;
use gaps::tsc::{self, Reading, bracket, earlier, ns_to_ticks, ticks_to_ns};

use crate::slots::{Control, ThreadSlot};

/// A wake-up that has come.
#[derive(Clone, Copy, Debug)]
pub struct Wakeup {
    /// The first reading after it, from which the meter goes on.
    pub awake: Reading,
    /// When it was planned.
    pub planned_tsc: u64,
    /// How late it was.
    pub delay_ns: u64,
}

impl Wakeup {
    /// One that was planned for this moment on CLOCK_MONOTONIC.
    pub fn now(planned_ns: u64, khz: u64) -> Self {
        // First of all the reading: whatever comes between it and the burst is the meter's.
        let awake = tsc::read();
        let (tsc, now_ns) = bracket(libc::CLOCK_MONOTONIC);
        let since_awake_ns = ticks_to_ns(tsc.wrapping_sub(awake.tsc), khz);
        let delay_ns = now_ns.saturating_sub(since_awake_ns).saturating_sub(planned_ns);
        let planned_tsc = awake.tsc.wrapping_sub(ns_to_ticks(delay_ns, khz));
        Self { awake, planned_tsc, delay_ns }
    }
}

impl Wakeup {
    /// What the thread waited for since the planned moment, up to this reading.
    pub fn gap_until(&self, tsc_end: u64, class: Class) -> GapRecord {
        GapRecord {
            tsc_begin: earlier(self.planned_tsc, tsc_end),
            tsc_end,
            cpu_begin: self.awake.cpu,
            cpu_end: self.awake.cpu,
            class,
            kind: GapKind::WakeUp,
            unfinished: false,
        }
    }
}

/// The accounts of one thread's bursts.
#[derive(Clone, Copy, Debug)]
pub struct BurstAccount<'a> {
    /// Its figures.
    pub slot: &'a ThreadSlot,
    /// Its records.
    pub cells: &'a [RecordCell],
    /// What steers the load.
    pub control: &'a Control,
    /// TSC frequency.
    pub khz: u64,
}

impl BurstAccount<'_> {
    /// Accounts for a burst that ended with this reading. Returns how long of it the thread ran after
    /// the moment at which the figures end, in nanoseconds.
    pub fn burst(&self, wakeup: &Wakeup, last_tsc: u64, why: End) -> u64 {
        let hit_tsc = self.control.hit_tsc();
        let until = hit_tsc.map_or(last_tsc, |hit_tsc| earlier(hit_tsc, last_tsc));
        let awake_tsc = wakeup.awake.tsc;
        if !self.begins_in_time(wakeup) {
            // It came too late to be in the figures; that it was due is.
            self.due_since(wakeup.planned_tsc, until);
            return self.ran_ns(awake_tsc, last_tsc);
        }
        self.late_ns(wakeup.delay_ns);
        self.add_busy(until.wrapping_sub(wakeup.planned_tsc));
        if why == End::Deadline && until == last_tsc {
            self.add_bursts(1);
        }
        self.ran_ns(until, last_tsc)
    }

    /// Whether this wake-up came before the gap that ended the load did, if any.
    pub fn begins_in_time(&self, wakeup: &Wakeup) -> bool {
        let awake_tsc = wakeup.awake.tsc;
        self.control
            .hit_tsc()
            .is_none_or(|hit_tsc| hit_tsc == awake_tsc || earlier(hit_tsc, awake_tsc) != hit_tsc)
    }

    /// Counts bursts that were finished.
    pub fn add_bursts(&self, bursts: u64) {
        self.slot.bursts.store(self.slot.bursts.load(Relaxed).saturating_add(bursts), Relaxed);
    }

    /// Accounts for work of an open loop that was begun so late.
    pub fn late(&self, ticks: u64) {
        self.late_ns(ticks_to_ns(ticks, self.khz));
    }

    /// The same, or of work on which nothing had been done for so long when the load ended.
    pub fn late_ns(&self, delay_ns: u64) {
        self.slot.wakeup_ns.record(delay_ns);
        if delay_ns > self.slot.wakeup_longest_ns.load(Relaxed) {
            self.slot.wakeup_longest_ns.store(delay_ns, Relaxed);
        }
    }

    /// Accounts for a wake-up that had not come when the load was stopped, at this reading of the TSC, if
    /// it was due by then. Returns the wait, which would have been longer.
    ///
    /// After a hit it goes on to when the thread was let go, as every gap that is open then:
    /// whoever counts cuts it.
    pub fn due(&self, wakeup: &Wakeup, end_tsc: u64, class: Class) -> Option<GapRecord> {
        if wakeup.delay_ns == 0 {
            return None;
        }
        let stopped = earlier(wakeup.awake.tsc, end_tsc);
        let until = self.control.hit_tsc().map_or(stopped, |hit_tsc| earlier(hit_tsc, stopped));
        if earlier(wakeup.planned_tsc, until) == until {
            // Planned for after the hit.
            return None;
        }
        self.due_since(wakeup.planned_tsc, until);
        let tsc_end = if until == stopped { stopped } else { wakeup.awake.tsc };
        Some(GapRecord { unfinished: true, ..wakeup.gap_until(tsc_end, class) })
    }

    fn due_since(&self, planned_tsc: u64, until: u64) {
        let due_ticks = until.wrapping_sub(earlier(planned_tsc, until));
        self.add_busy(due_ticks);
        self.slot.wakeup_due_ns.store(ticks_to_ns(due_ticks, self.khz), Relaxed);
    }

    fn add_busy(&self, ticks: u64) {
        let busy_ticks = self.slot.busy_ticks.load(Relaxed).saturating_add(ticks);
        self.slot.busy_ticks.store(busy_ticks, Relaxed);
    }

    /// How long it ran from one reading to another: without its gaps.
    fn ran_ns(&self, from: u64, to: u64) -> u64 {
        let passed = to.wrapping_sub(from);
        if passed == 0 {
            return 0;
        }
        if self.slot.tally.unrecorded() > 0 {
            // Whether gaps lie between the two, nobody knows.
            return 0;
        }
        let records = self.slot.tally.latest(self.cells);
        let lost = records.take_while(|gap| earlier(from, gap.tsc_end) == from).map(|gap| {
            let begin = if earlier(gap.tsc_begin, from) == from { gap.tsc_begin } else { from };
            gap.tsc_end.wrapping_sub(begin)
        });
        ticks_to_ns(passed.saturating_sub(lost.sum()), self.khz)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Release;

    use gaps::tally::Recorder;

    use super::*;

    /// One tick is one nanosecond.
    const KHZ: u64 = 1_000_000;

    struct Thread {
        slot: Box<ThreadSlot>,
        cells: Vec<RecordCell>,
        control: Box<Control>,
    }

    impl Thread {
        fn new(gaps: &[(u64, u64)]) -> Self {
            let (slot, control) = (Box::<ThreadSlot>::default(), Box::<Control>::default());
            let cells: Vec<_> = (0..8).map(|_| RecordCell::default()).collect();
            let recorder = Recorder { tally: &slot.tally, cells: &cells, tsc_khz: KHZ };
            for &(tsc_begin, tsc_end) in gaps {
                recorder.gap(GapRecord { tsc_begin, tsc_end, ..GapRecord::default() });
            }
            Self { slot, cells, control }
        }

        fn hit_at(self, tsc: u64) -> Self {
            self.control.hit.moment_tsc.store(tsc, Release);
            self
        }

        fn account(&self) -> BurstAccount<'_> {
            BurstAccount { slot: &self.slot, cells: &self.cells, control: &self.control, khz: KHZ }
        }

        /// Time wanted, wake-ups, the latest, one that is due.
        fn figures(&self) -> (u64, u64, u64, u64) {
            let load = |cell: &std::sync::atomic::AtomicU64| cell.load(Relaxed);
            let slot = &self.slot;
            let (busy, latest) = (load(&slot.busy_ticks), load(&slot.wakeup_longest_ns));
            (busy, slot.wakeup_ns.count(), latest, load(&slot.wakeup_due_ns))
        }
    }

    fn woken(planned_tsc: u64, awake: u64) -> Wakeup {
        let awake_reading = Reading { tsc: awake, cpu: 0 };
        Wakeup { awake: awake_reading, planned_tsc, delay_ns: awake - planned_tsc }
    }

    #[test]
    fn a_burst_counts_whole_where_nothing_was_hit() {
        let thread = Thread::new(&[]);
        assert_eq!(thread.account().burst(&woken(1000, 1010), 5000, End::Deadline), 0);
        assert_eq!(thread.figures(), (4000, 1, 10, 0));
        assert_eq!(thread.slot.bursts.load(Relaxed), 1);
    }

    #[test]
    fn a_burst_counts_up_to_the_hit_and_what_it_ran_since_is_told() {
        // It ran on for 100, and after a gap of 300 for 50 more.
        let thread = Thread::new(&[(2000, 2100), (3100, 3400)]).hit_at(3000);
        assert_eq!(thread.account().burst(&woken(1000, 1010), 3450, End::Stopped), 150);
        assert_eq!(thread.figures(), (2000, 1, 10, 0));
        assert_eq!(thread.slot.bursts.load(Relaxed), 0);
    }

    #[test]
    fn of_a_gap_that_is_open_at_the_hit_the_part_before_it_is_time_wanted() {
        let thread = Thread::new(&[(2000, 9000)]).hit_at(3000);
        assert_eq!(thread.account().burst(&woken(1000, 1000), 9020, End::Stopped), 20);
        assert_eq!(thread.figures(), (2000, 1, 0, 0));
    }

    #[test]
    fn a_wake_up_after_the_hit_was_due_before_it() {
        let thread = Thread::new(&[]).hit_at(3000);
        assert_eq!(thread.account().burst(&woken(2400, 3500), 3510, End::Stopped), 10);
        assert_eq!(thread.figures(), (600, 0, 0, 600));
        // And one that was not planned until later is nothing at all.
        let thread = Thread::new(&[]).hit_at(3000);
        assert_eq!(thread.account().burst(&woken(3200, 3500), 3510, End::Stopped), 10);
        assert_eq!(thread.figures(), (0, 0, 0, 0));
    }

    #[test]
    fn a_wake_up_that_never_came_was_due_all_the_same() {
        // Looked at 5000 after it was planned; the load was stopped 100 earlier.
        let thread = Thread::new(&[]);
        let due = |account: BurstAccount<'_>, wakeup: &Wakeup, end| {
            let gap = account.due(wakeup, end, Class::Host)?;
            assert!(gap.unfinished && gap.kind == GapKind::WakeUp && gap.class == Class::Host);
            Some((gap.tsc_begin, gap.tsc_end))
        };
        assert_eq!(due(thread.account(), &woken(1000, 6000), 5900), Some((1000, 5900)));
        assert_eq!(thread.figures(), (4900, 0, 0, 4900));
        // After a hit it counts up to that.
        let thread = Thread::new(&[]).hit_at(3000);
        assert_eq!(due(thread.account(), &woken(1000, 6000), 5900), Some((1000, 6000)));
        assert_eq!(thread.figures(), (2000, 0, 0, 2000));
        // And one that lies ahead is not due.
        let thread = Thread::new(&[]);
        assert_eq!(due(thread.account(), &woken(1000, 1000), 900), None);
        assert_eq!(thread.figures(), (0, 0, 0, 0));
    }

    #[test]
    fn where_gaps_are_missing_nobody_says_how_long_it_ran() {
        let many: Vec<_> = (0..9).map(|n| (n * 100, n * 100 + 50)).collect();
        let thread = Thread::new(&many).hit_at(500);
        assert_eq!(thread.account().burst(&woken(0, 0), 2000, End::Stopped), 0);
    }
}
