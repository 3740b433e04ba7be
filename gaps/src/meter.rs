// SPDX-License-Identifier: Apache-2.0
//! The meter: a loop that reads the TSC and records every interval that is too long.
//!
//! A thread in this loop always wants to run, so an interval between two readings that is far
//! longer than an iteration of the loop is time in which it did not. On the way from one reading to
//! the next there is no allocation, no lock, no system call and no shared cache line that
//! anybody writes.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::evidence::GapClassifier;
use crate::record::GapRecord;
use crate::tally::Recorder;
use crate::tsc::{self, Reading};

/// Where readings come from: the CPU, or a test.
pub trait Clock {
    /// The next reading.
    fn read(&mut self) -> Reading;
}

/// The CPU's own counter.
#[derive(Clone, Copy, Debug)]
pub struct Rdtscp;

impl Clock for Rdtscp {
    #[inline(always)]
    fn read(&mut self) -> Reading {
        tsc::read()
    }
}

/// Which intervals are gaps, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// An interval of this length or longer is a gap. At least 1.
    pub floor_ticks: u64,
    /// A gap longer than this ends the burst at once.
    pub threshold_ticks: Option<u64>,
}

/// When a burst is to end, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Until<'a> {
    /// The counter reaches this value.
    pub tsc: u64,
    /// It is not 0.
    pub stop: &'a AtomicU32,
}

/// Why a burst ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its time was over.
    Deadline,
    /// The stop flag was set.
    Stopped,
    /// This gap passed the threshold.
    Hit(GapRecord),
}

/// Measures the bursts of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Meter<'a> {
    recorder: Recorder<'a>,
    floor: u64,
    threshold: u64,
    counted_from: u64,
}

impl<'a> Meter<'a> {
    /// A meter that writes to `recorder`.
    pub fn new(recorder: Recorder<'a>, limits: Limits) -> Self {
        Self {
            recorder,
            // One unsigned comparison with the floor also finds readings that went backwards
            // (see `burst`), which holds for floors in the positive half only.
            floor: limits.floor_ticks.clamp(1, i64::MAX.unsigned_abs()),
            threshold: limits.threshold_ticks.unwrap_or(u64::MAX),
            counted_from: 0,
        }
    }

    /// The same with a warm-up until this reading: of a gap that is then open, what lies behind it is
    /// the gap.
    #[must_use]
    pub fn counting_from(self, tsc: u64) -> Self {
        Self { counted_from: tsc, ..self }
    }

    /// Spins until it is to end.
    ///
    /// `from` is the last reading before the burst: the first interval begins there. Returns
    /// the last reading together with the reason.
    ///
    /// `classifier` has seen the burst begin, is asked about every gap, and told of shorter intervals
    /// that it wants to know of.
    pub fn burst<C: Clock, W: GapClassifier>(
        &self,
        clock: &mut C,
        classifier: &mut W,
        from: Reading,
        until: Until<'_>,
    ) -> (End, Reading) {
        let Until { tsc: until, stop } = until;
        let (mut iterations, mut backwards) = (0u64, 0u64);
        let (notice, own) = (self.floor.min(classifier.notice_ticks()), classifier.own_ticks());
        let mut last = from;
        let mut end = loop {
            let mut now = clock.read();
            iterations += 1;
            // A counter that went backwards gives a huge unsigned difference, so this one
            // branch leads to everything out of the ordinary.
            if now.tsc.wrapping_sub(last.tsc) >= notice {
                if signed_difference(now.tsc, last.tsc) < 0 {
                    backwards += 1;
                } else if let Some(hit) = self.record_gap(last, now, classifier) {
                    self.recorder.burst(iterations, backwards);
                    return (End::Hit(hit), now);
                } else {
                    // To record it took time of its own, which belongs to no gap: go on
                    // from a fresh reading. Unless that took as long as a gap: then one
                    // began meanwhile, and the next turn finds it.
                    now = self.resume(clock, now, own);
                }
            }
            last = now;
            if signed_difference(until, last.tsc) <= 0 {
                break End::Deadline;
            }
            if stop.load(Relaxed) != 0 {
                break End::Stopped;
            }
        };
        if end == End::Stopped {
            // Between the last reading and the look at the flag, too, it may have been off its CPU:
            // whoever waits when the load is stopped would wait for nothing.
            let now = clock.read();
            iterations += 1;
            if signed_difference(now.tsc, last.tsc) < 0 {
                backwards += 1;
            } else {
                if now.tsc.wrapping_sub(last.tsc) >= notice
                    && let Some(hit) = self.record_gap(last, now, classifier)
                {
                    end = End::Hit(hit);
                }
                last = now;
            }
        }
        self.recorder.burst(iterations, backwards);
        (end, last)
    }

    /// A fresh reading after work of our own that began with the reading `before` and takes
    /// `own` ticks at most. That reading itself, where more than that and as much as a gap has
    /// passed: then one began meanwhile.
    pub fn resume<C: Clock>(&self, clock: &mut C, before: Reading, own: u64) -> Reading {
        let fresh = clock.read();
        let passed = fresh.tsc.wrapping_sub(before.tsc);
        if passed < self.floor.max(own) { fresh } else { before }
    }

    #[cold]
    #[inline(never)]
    fn record_gap<W: GapClassifier>(
        &self,
        last: Reading,
        now: Reading,
        classifier: &mut W,
    ) -> Option<GapRecord> {
        if now.tsc.wrapping_sub(last.tsc) < self.floor {
            classifier.notice(last.tsc, now.tsc);
            return None;
        }
        let class = classifier.classify(last.tsc, now.tsc);
        let record = GapRecord {
            tsc_begin: last.tsc,
            tsc_end: now.tsc,
            cpu_begin: last.cpu,
            cpu_end: now.cpu,
            class,
            ..GapRecord::default()
        };
        self.record(record)
    }

    /// Records what the thread waited for before it could read the counter, if that is a gap;
    /// returns it if it passed the threshold.
    pub fn waited(&self, record: GapRecord) -> Option<GapRecord> {
        if record.ticks() < self.floor {
            return None;
        }
        self.record(record)
    }

    /// Records a gap; returns it if it passed the threshold.
    fn record(&self, record: GapRecord) -> Option<GapRecord> {
        let record = if signed_difference(record.tsc_begin, self.counted_from) < 0 {
            self.after_warmup(record)?
        } else {
            record
        };
        self.recorder.gap(record);
        (record.ticks() > self.threshold).then_some(record)
    }

    /// Records what lies in the warm-up of a gap that began there, and returns the rest, if that is
    /// a gap.
    fn after_warmup(&self, record: GapRecord) -> Option<GapRecord> {
        let goes_on = signed_difference(record.tsc_end, self.counted_from) > 0;
        let rest = GapRecord { tsc_begin: self.counted_from, ..record };
        if goes_on && rest.ticks() >= self.floor {
            let part = GapRecord { tsc_end: self.counted_from, ..record };
            self.recorder.warmup_gap(part, record.tsc_end);
            return Some(rest);
        }
        self.recorder.warmup_gap(record, record.tsc_end);
        None
    }
}

/// `later - earlier` on a counter that may wrap around.
#[inline(always)]
fn signed_difference(later: u64, earlier: u64) -> i64 {
    later.wrapping_sub(earlier).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Class;
    use crate::record::GapKind;
    use crate::tally::{RecordCell, Tally, WarmupTotal};

    /// Gives the readings of a list, then sets the stop flag.
    struct Script<'a> {
        readings: std::iter::Copied<std::slice::Iter<'a, (u64, u32)>>,
        last: Reading,
        stop: &'a AtomicU32,
    }

    impl Clock for Script<'_> {
        fn read(&mut self) -> Reading {
            match self.readings.next() {
                Some((tsc, cpu)) => self.last = Reading { tsc, cpu },
                None => self.stop.store(1, Relaxed),
            }
            self.last
        }
    }

    struct Outcome {
        end: End,
        last: Reading,
        records: Vec<GapRecord>,
        tally: Tally,
    }

    const FLOOR: u64 = 100;
    const THRESHOLD: u64 = 1000;

    fn play(readings: &[(u64, u32)], until: u64) -> Outcome {
        let stop = AtomicU32::new(0);
        let tally = Tally::default();
        let cells: Vec<_> = (0..4).map(|_| RecordCell::default()).collect();
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: 1_000_000 };
        let limits = Limits { floor_ticks: FLOOR, threshold_ticks: Some(THRESHOLD) };
        let from = Reading { tsc: readings[0].0, cpu: readings[0].1 };
        let readings = readings[1..].iter().copied();
        let mut script = Script { readings, last: from, stop: &stop };
        let (end, last) = Meter::new(recorder, limits).burst(
            &mut script,
            &mut (),
            from,
            Until { tsc: until, stop: &stop },
        );
        let records = tally.records(&cells, 0).collect();
        Outcome { end, last, records, tally }
    }

    fn record(tsc_begin: u64, tsc_end: u64) -> GapRecord {
        GapRecord { tsc_begin, tsc_end, ..GapRecord::default() }
    }

    #[test]
    fn an_interval_at_the_floor_is_a_gap_and_one_below_is_none() {
        let outcome = play(&[(0, 0), (99, 0), (198, 0), (298, 0)], u64::MAX / 4);
        assert_eq!(outcome.records, [record(198, 298)]);
        assert_eq!(outcome.end, End::Stopped);
    }

    #[test]
    fn a_gap_at_the_threshold_is_no_hit_and_one_above_is() {
        let outcome = play(&[(0, 0), (1000, 0), (1001, 0), (2002, 0)], u64::MAX / 4);
        assert_eq!(outcome.records, [record(0, 1000), record(1001, 2002)]);
        assert_eq!(outcome.end, End::Hit(record(1001, 2002)));
        assert_eq!(outcome.last.tsc, 2002);
    }

    #[test]
    fn what_was_waited_for_before_a_burst_is_a_gap_like_others() {
        let (tally, cells) = (Tally::default(), [(); 4].map(|()| RecordCell::default()));
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: 1_000_000 };
        let limits = Limits { floor_ticks: FLOOR, threshold_ticks: Some(THRESHOLD) };
        let meter = Meter::new(recorder, limits);
        let late = |by: u64| GapRecord { kind: GapKind::WakeUp, ..record(500, 500 + by) };
        assert_eq!((meter.waited(late(99)), meter.waited(late(100))), (None, None));
        assert_eq!(meter.waited(late(1000)), None);
        assert_eq!(meter.waited(late(1001)), Some(late(1001)));
        let recorded: Vec<_> = tally.records(&cells, 0).collect();
        assert_eq!(recorded, [late(100), late(1000), late(1001)]);
    }

    #[test]
    fn what_lies_in_the_warm_up_is_recorded_and_counted_nowhere() {
        let (tally, cells) = (Tally::default(), [(); 8].map(|()| RecordCell::default()));
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: 1_000_000 };
        let limits = Limits { floor_ticks: FLOOR, threshold_ticks: Some(THRESHOLD) };
        let meter = Meter::new(recorder, limits).counting_from(5000);
        // Over the threshold in the warm-up; open at its end, by less than a gap; by one; by a hit.
        let hits = [(100, 4000), (4000, 5099), (4000, 5100), (3000, 6001), (5000, 6000)]
            .map(|(begin, end)| meter.waited(record(begin, end)));
        assert_eq!(hits, [None, None, None, Some(record(5000, 6001)), None]);
        assert_eq!((tally.gaps(), tally.gap_ticks()), (3, 100 + 1001 + 1000));
        let warmup = WarmupTotal {
            gaps: 4,
            gap_ticks: 3900 + 1099 + 1000 + 2000,
            longest_ticks: 3900,
            divided: 2,
        };
        assert_eq!((tally.histogram_ns().count(), tally.warmup()), (3, warmup));
        assert_eq!(tally.longest(), Some(record(5000, 6001)));
        let early = |begin, end| GapRecord { warmup: true, ..record(begin, end) };
        let recorded: Vec<_> = tally.records(&cells, 0).collect();
        assert_eq!(
            recorded,
            [
                early(100, 4000),
                early(4000, 5099),
                early(4000, 5000),
                record(5000, 5100),
                early(3000, 5000),
                record(5000, 6001),
                record(5000, 6000)
            ]
        );
    }

    /// What the judge's own work takes: more than a gap.
    const OWN: u64 = 150;

    /// Wants to know of everything from 50 ticks on, and blames by length.
    #[derive(Default)]
    struct Classified(Vec<(u64, u64)>);

    impl GapClassifier for Classified {
        fn notice_ticks(&self) -> u64 {
            50
        }

        fn own_ticks(&self) -> u64 {
            OWN
        }

        fn begin(&mut self) {}

        fn notice(&mut self, begin: u64, end: u64) {
            self.0.push((begin, end));
        }

        fn classify(&mut self, begin: u64, end: u64) -> Class {
            self.0.push((begin, end));
            if end - begin > 300 { Class::Host } else { Class::ScheduledOut }
        }
    }

    #[test]
    fn the_classifiers_own_work_is_no_gap_and_what_is_longer_is_one() {
        let stop = AtomicU32::new(0);
        let (tally, cells) = (Tally::default(), [(); 4].map(|()| RecordCell::default()));
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: 1_000_000 };
        let limits = Limits { floor_ticks: FLOOR, threshold_ticks: None };
        // A gap; its question takes 140 ticks. Another; a real one begins within its question.
        let readings =
            [(1000, 0), (1140, 0), (1150, 0), (2150, 0), (2300, 0), (2300, 0), (2301, 0)];
        let last = Reading { tsc: 0, cpu: 0 };
        let mut script = Script { readings: readings.iter().copied(), last, stop: &stop };
        let mut classifier = Classified::default();
        Meter::new(recorder, limits).burst(
            &mut script,
            &mut classifier,
            last,
            Until { tsc: 1 << 40, stop: &stop },
        );
        let gaps: Vec<_> =
            tally.records(&cells, 0).map(|gap| (gap.tsc_begin, gap.tsc_end)).collect();
        assert_eq!(gaps, [(0, 1000), (1150, 2150), (2150, 2300)]);
    }

    #[test]
    fn the_classifier_sees_what_stands_out_and_only_gaps_are_recorded() {
        let stop = AtomicU32::new(0);
        let (tally, cells) = (Tally::default(), [(); 4].map(|()| RecordCell::default()));
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: 1_000_000 };
        let limits = Limits { floor_ticks: FLOOR, threshold_ticks: None };
        let readings = [(40, 0), (100, 0), (100, 0), (500, 0), (500, 0), (620, 0), (620, 0)];
        let last = Reading { tsc: 0, cpu: 0 };
        let mut script = Script { readings: readings.iter().copied(), last, stop: &stop };
        let mut classifier = Classified::default();
        Meter::new(recorder, limits).burst(
            &mut script,
            &mut classifier,
            last,
            Until { tsc: 1 << 40, stop: &stop },
        );
        assert_eq!(classifier.0, [(40, 100), (100, 500), (500, 620)]);
        let classes: Vec<_> = tally.records(&cells, 0).map(|gap| gap.class).collect();
        assert_eq!(classes, [Class::Host, Class::ScheduledOut]);
    }

    /// Sets the flag with its first reading, as if the thread were off its CPU before it looks.
    struct Stopped<'a>(std::slice::Iter<'a, u64>, &'a AtomicU32);

    impl Clock for Stopped<'_> {
        fn read(&mut self) -> Reading {
            self.1.store(1, Relaxed);
            Reading { tsc: self.0.next().copied().expect("enough readings"), cpu: 0 }
        }
    }

    #[test]
    fn a_gap_before_the_look_at_the_flag_is_not_lost() {
        let play = |readings: &[u64]| {
            let (tally, stop) = (Tally::default(), AtomicU32::new(0));
            let cells: Vec<_> = (0..4).map(|_| RecordCell::default()).collect();
            let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: 1_000_000 };
            let limits = Limits { floor_ticks: FLOOR, threshold_ticks: Some(THRESHOLD) };
            let mut clock = Stopped(readings.iter(), &stop);
            let from = Reading { tsc: 10_000, cpu: 0 };
            let (end, last) = Meter::new(recorder, limits).burst(
                &mut clock,
                &mut (),
                from,
                Until { tsc: 1 << 40, stop: &stop },
            );
            let records: Vec<_> = tally.records(&cells, 0).collect();
            (end, last.tsc, records, tally.backwards())
        };
        let gap = record(10_010, 10_500);
        assert_eq!(play(&[10_010, 10_500]), (End::Stopped, 10_500, vec![gap], 0));
        let hit = record(10_010, 12_000);
        assert_eq!(play(&[10_010, 12_000]), (End::Hit(hit), 12_000, vec![hit], 0));
        assert_eq!(play(&[10_010, 10_020]), (End::Stopped, 10_020, vec![], 0));
        assert_eq!(play(&[10_010, 9]), (End::Stopped, 10_010, vec![], 1));
    }

    #[test]
    fn a_hit_is_accounted_before_the_burst_returns() {
        let outcome = play(&[(0, 0), (5000, 0)], u64::MAX / 4);
        assert_eq!(outcome.tally.gaps(), 1);
        assert_eq!(outcome.tally.iterations(), 1);
        assert_eq!(outcome.tally.longest(), Some(record(0, 5000)));
    }

    #[test]
    fn backwards_is_counted_and_never_a_gap() {
        let outcome = play(&[(10_000, 0), (4_000, 1), (4_010, 1), (9, 0), (19, 0)], 1 << 40);
        assert_eq!(outcome.records, []);
        assert_eq!(outcome.tally.backwards(), 2);
        assert_eq!(outcome.end, End::Stopped);
    }

    #[test]
    fn the_counter_may_wrap_around() {
        let begin = u64::MAX - 50;
        let outcome = play(&[(begin, 0), (begin + 20, 0), (149, 0), (160, 0), (170, 0)], 165);
        // The record's own length saturates, but the interval was seen: 180 ticks.
        assert_eq!(outcome.tally.gaps(), 1);
        assert_eq!(outcome.tally.backwards(), 0);
        assert_eq!(outcome.end, End::Deadline);
        assert_eq!(outcome.last.tsc, 170);
    }

    #[test]
    fn the_meters_own_cost_is_in_no_gap() {
        // 0 -> 500 is a gap; the next reading, 60 later, is its accounting; 590 is 30 on.
        let outcome = play(&[(0, 0), (500, 0), (560, 0), (590, 0)], 1 << 40);
        assert_eq!(outcome.records, [record(0, 500)]);
    }

    #[test]
    fn a_gap_during_book_keeping_is_a_gap_of_its_own() {
        let outcome = play(&[(0, 0), (500, 0), (900, 0), (910, 0), (911, 0)], 1 << 40);
        assert_eq!(outcome.records, [record(0, 500), record(500, 910)]);
    }

    #[test]
    fn a_gap_during_book_keeping_at_the_deadline_is_not_lost() {
        let outcome = play(&[(0, 0), (500, 0), (900, 0), (910, 0)], 600);
        assert_eq!(outcome.records, [record(0, 500), record(500, 910)]);
        assert_eq!(outcome.end, End::Deadline);
    }

    #[test]
    fn a_floor_below_the_meters_own_cost_does_not_keep_it_from_ending() {
        let (tally, stop) = (Tally::default(), AtomicU32::new(0));
        let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: 1_000_000 };
        let meter = Meter::new(recorder, Limits { floor_ticks: 1, threshold_ticks: None });
        let from = tsc::read();
        let until = from.tsc + 1_000_000;
        assert_eq!(
            meter.burst(&mut Rdtscp, &mut (), from, Until { tsc: until, stop: &stop }).0,
            End::Deadline
        );
        assert!(tally.gaps() > 0);
    }

    #[test]
    fn both_cpus_of_a_migration_are_kept() {
        let outcome = play(&[(0, 2), (500, 3)], 1 << 40);
        assert_eq!((outcome.records[0].cpu_begin, outcome.records[0].cpu_end), (2, 3));
    }

    #[test]
    fn the_deadline_ends_a_burst_even_after_a_gap_across_it() {
        let outcome = play(&[(0, 0), (50, 0), (700, 0)], 100);
        assert_eq!(outcome.end, End::Deadline);
        // 50 -> 700 is a gap; the reading after it (the script's end) is 700 again.
        assert_eq!(outcome.records, [record(50, 700)]);
        assert_eq!(outcome.last.tsc, 700);
    }

    #[test]
    fn a_floor_of_zero_or_beyond_reason_does_not_break_the_signed_arithmetic() {
        let tally = Tally::default();
        let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: 1 };
        let limits = |floor_ticks| Limits { floor_ticks, threshold_ticks: None };
        assert_eq!(Meter::new(recorder, limits(0)).floor, 1);
        assert_eq!(Meter::new(recorder, limits(u64::MAX)).floor, i64::MAX.unsigned_abs());
    }

    #[test]
    fn the_real_clock_ends_at_its_deadline() {
        let (tally, stop) = (Tally::default(), AtomicU32::new(0));
        let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: 1_000_000 };
        let limits = Limits { floor_ticks: 1 << 40, threshold_ticks: None };
        let from = tsc::read();
        let until = from.tsc + 1_000_000;
        let (end, last) = Meter::new(recorder, limits).burst(
            &mut Rdtscp,
            &mut (),
            from,
            Until { tsc: until, stop: &stop },
        );
        assert_eq!(end, End::Deadline);
        assert!(last.tsc >= until);
        assert!(tally.iterations() > 100);
    }
}
