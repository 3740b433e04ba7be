// SPDX-License-Identifier: Apache-2.0
//! What a thread accounts for of a burst when that has ended: up to the moment at which all figures
//! end, which is the end of the gap that ended the load, or the load's own end.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};

use gaps::evidence::Class;
use gaps::meter::End;
use gaps::record::{GapKind, GapRecord};
use gaps::span::Span;
use gaps::tally::RecordCell;
use gaps::tsc::{self, Reading, bracket, earlier, ns_to_ticks, ticks_to_ns};

use crate::slots::{Control, SpanCell, ThreadSlot};

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On CLOCK_MONOTONIC.
    pub ns: u64,
    /// On the TSC.
    pub tsc: u64,
}

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
            ..GapRecord::default()
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
    /// Room for the times in which it wants to run.
    pub spans: &'a [SpanCell],
    /// What steers the load.
    pub control: &'a Control,
    /// What came before is in no figure.
    pub from: Moment,
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
        self.late(wakeup.planned_tsc, awake_tsc);
        self.add_busy(wakeup.planned_tsc, until);
        if why == End::Deadline && until == last_tsc && self.counts(last_tsc) {
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

    /// Whether figures are of this moment.
    pub fn counts(&self, tsc: u64) -> bool {
        self.counted(tsc) == tsc
    }

    /// The moment, or when figures begin if that is later.
    fn counted(&self, tsc: u64) -> u64 {
        if earlier(tsc, self.from.tsc) == self.from.tsc { tsc } else { self.from.tsc }
    }

    /// Accounts for a wake-up, or work of an open loop, that was due and came.
    pub fn late(&self, due_tsc: u64, came_tsc: u64) {
        if self.counts(came_tsc) {
            self.late_ns(ticks_to_ns(came_tsc.wrapping_sub(self.counted(due_tsc)), self.khz));
        }
    }

    /// The same of a length, or of work on which nothing had been done for so long when the load ended.
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
        self.add_busy(planned_tsc, until);
        if self.counts(until) {
            let due_ticks = until.wrapping_sub(earlier(self.counted(planned_tsc), until));
            self.slot.wakeup_due_ns.store(ticks_to_ns(due_ticks, self.khz), Relaxed);
        }
    }

    /// The thread wanted to run from the one moment to the other.
    fn add_busy(&self, begin_tsc: u64, end_tsc: u64) {
        let begin_tsc = earlier(begin_tsc, end_tsc);
        let counted_tsc = earlier(self.counted(begin_tsc), end_tsc);
        self.note(Span { begin: counted_tsc, end: end_tsc });
        add(&self.slot.busy_ticks, end_tsc.wrapping_sub(counted_tsc));
        add(&self.slot.warmup_busy_ticks, counted_tsc.wrapping_sub(begin_tsc));
    }

    /// Keeps a time in which the thread wanted to run, where there is room.
    fn note(&self, span: Span) {
        let spans = self.slot.spans.load(Relaxed);
        if span.begin == span.end {
            return;
        }
        if let Some(cell) = self.spans.get(spans as usize) {
            cell.store(span);
            self.slot.spans.store(spans.saturating_add(1), Release);
        }
    }

    /// How long it ran in the warm-up, by its own readings.
    pub fn ran_in_warmup_ns(&self) -> u64 {
        let busy_ticks = self.slot.warmup_busy_ticks.load(Relaxed);
        ticks_to_ns(busy_ticks.saturating_sub(self.slot.tally.warmup_ticks()), self.khz)
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

/// One writer, so a load and a store do.
fn add(cell: &AtomicU64, ticks: u64) {
    cell.store(cell.load(Relaxed).saturating_add(ticks), Relaxed);
}

#[cfg(test)]
mod tests {
    use gaps::tally::Recorder;

    use super::*;

    /// One tick is one nanosecond.
    const KHZ: u64 = 1_000_000;

    struct Thread {
        slot: Box<ThreadSlot>,
        cells: Vec<RecordCell>,
        spans: Vec<SpanCell>,
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
            let spans = (0..3).map(|_| SpanCell::default()).collect();
            Self { slot, cells, spans, control }
        }

        fn hit_at(self, tsc: u64) -> Self {
            self.control.hit.moment_tsc.store(tsc, Release);
            self
        }

        fn account(&self) -> BurstAccount<'_> {
            let from = Moment { ns: 0, tsc: 0 };
            self.account_from(from)
        }

        fn account_from(&self, from: Moment) -> BurstAccount<'_> {
            let Self { slot, cells, spans, control } = self;
            BurstAccount { slot, cells, spans, control, from, khz: KHZ }
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
    fn what_lies_in_the_warm_up_is_wanted_and_late_for_nobody() {
        let thread = Thread::new(&[]);
        let account = || thread.account_from(Moment { ns: 5000, tsc: 5000 });
        account().burst(&woken(1000, 1300), 4000, End::Deadline);
        assert_eq!((thread.figures(), account().ran_in_warmup_ns()), ((0, 0, 0, 0), 3000));
        // Across its end, and woken before it; and after it.
        account().burst(&woken(4500, 4600), 6000, End::Deadline);
        assert_eq!((thread.figures(), account().ran_in_warmup_ns()), ((1000, 0, 0, 0), 3500));
        account().burst(&woken(4000, 7000), 8000, End::Deadline);
        assert_eq!(thread.figures(), (4000, 1, 2000, 0));
        assert_eq!(thread.slot.bursts.load(Relaxed), 2);
        let spans: Vec<_> = thread.spans.iter().map(SpanCell::load).collect();
        let span = |begin, end| Span { begin, end };
        assert_eq!(spans, [span(5000, 6000), span(5000, 8000), Span::default()]);
        assert!(account().due(&woken(1000, 4900), 4900, Class::Host).is_some());
        assert_eq!(thread.figures(), (4000, 1, 2000, 0));
        assert!(account().due(&woken(4000, 9000), 9000, Class::Host).is_some());
        assert_eq!(thread.figures(), (8000, 1, 2000, 4000));
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
