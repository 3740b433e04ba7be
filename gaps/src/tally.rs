// SPDX-License-Identifier: Apache-2.0
//! What one measuring thread leaves behind, in memory that others may read meanwhile.
//!
//! Everything here is made of atomics with one writer, and valid when all zero, so it can lie
//! in a file mapping shared by the measuring process and the one that sends the results.
//! Writing takes no lock and no locked instruction: counters are loaded and stored, records
//! are published by one release store of their number, and the two records that change in
//! place (the longest gaps) are guarded by a sequence number.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

use serde::{Deserialize, Serialize};

use crate::evidence::Class;
use crate::histogram::Histogram;
use crate::record::GapRecord;
use crate::tsc::ticks_to_ns;

/// Room for one [`GapRecord`].
#[derive(Debug, Default)]
#[repr(C)]
pub struct RecordCell {
    tsc_begin: AtomicU64,
    tsc_end: AtomicU64,
    cpu_begin: AtomicU32,
    cpu_end: AtomicU32,
    marks: AtomicU32,
}

impl RecordCell {
    /// Writes a record; for one writer.
    pub fn store(&self, record: GapRecord) {
        self.tsc_begin.store(record.tsc_begin, Relaxed);
        self.tsc_end.store(record.tsc_end, Relaxed);
        self.cpu_begin.store(record.cpu_begin, Relaxed);
        self.cpu_end.store(record.cpu_end, Relaxed);
        self.marks.store(record.marks(), Relaxed);
    }

    /// The record, once the writer has published it in some way.
    pub fn load(&self) -> GapRecord {
        let record = GapRecord {
            tsc_begin: self.tsc_begin.load(Relaxed),
            tsc_end: self.tsc_end.load(Relaxed),
            cpu_begin: self.cpu_begin.load(Relaxed),
            cpu_end: self.cpu_end.load(Relaxed),
            ..GapRecord::default()
        };
        record.with_marks(self.marks.load(Relaxed))
    }
}

/// The longest gap so far, replaced in place.
#[derive(Debug, Default)]
#[repr(C)]
struct Longest {
    /// Odd while the writer is at it; 0 before the first gap.
    sequence: AtomicU32,
    /// Which window the record belongs to (see [`Tally::close_window`]).
    window: AtomicU32,
    record: RecordCell,
}

impl Longest {
    fn store(&self, record: GapRecord, window: u32) {
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        self.record.store(record);
        self.window.store(window, Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    /// `None` before the first gap, and if the writer died in the middle of a store.
    fn load(&self) -> Option<(GapRecord, u32)> {
        /// A store takes a few nanoseconds; a writer that was interrupted in it for longer
        /// than this many attempts is read the next time.
        const ATTEMPTS: usize = 1000;
        (0..ATTEMPTS).find_map(|_| {
            let sequence = self.sequence.load(Acquire);
            let value = (self.record.load(), self.window.load(Relaxed));
            fence(Acquire);
            let whole = sequence.is_multiple_of(2) && self.sequence.load(Relaxed) == sequence;
            whole.then_some((sequence > 0).then_some(value))
        })?
    }
}

/// Gaps of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassTotal {
    /// Who took the time.
    pub class: Class,
    /// How many gaps.
    pub gaps: u64,
    /// Their sum.
    pub gap_ticks: u64,
}

/// Gaps that began in the warm-up, before the time that figures are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmupTotal {
    /// How many there are.
    pub gaps: u64,
    /// Their sum, as far as they lie in it.
    pub gap_ticks: u64,
    /// The longest, with what of it came later.
    pub longest_ticks: u64,
    /// Of these, how many went on so far beyond it that the rest is a gap of the figures.
    pub divided: u64,
}

/// Its counters.
#[derive(Debug, Default)]
#[repr(C)]
struct WarmupCells {
    gaps: AtomicU64,
    gap_ticks: AtomicU64,
    longest_ticks: AtomicU64,
    divided: AtomicU64,
}

/// Counters of one class.
#[derive(Debug, Default)]
#[repr(C)]
struct ClassCells {
    gaps: AtomicU64,
    gap_ticks: AtomicU64,
}

/// Counters of one thread.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Tally {
    published: AtomicU32,
    window: AtomicU32,
    gaps: AtomicU64,
    unrecorded: AtomicU64,
    gap_ticks: AtomicU64,
    warmup: WarmupCells,
    iterations: AtomicU64,
    backwards: AtomicU64,
    classes: [ClassCells; Class::ALL.len()],
    longest: Longest,
    longest_in_window: Longest,
    histogram_ns: Histogram,
}

impl Tally {
    /// Gaps at or above the floor, recorded or not.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Relaxed)
    }

    /// Gaps for which there was no room left.
    pub fn unrecorded(&self) -> u64 {
        self.unrecorded.load(Relaxed)
    }

    /// Sum of all gaps, in ticks.
    pub fn gap_ticks(&self) -> u64 {
        self.gap_ticks.load(Relaxed)
    }

    /// Sum of what was waited before the time that figures are of, in ticks.
    pub fn warmup_ticks(&self) -> u64 {
        self.warmup.gap_ticks.load(Relaxed)
    }

    /// What was waited before the time that figures are of.
    pub fn warmup(&self) -> WarmupTotal {
        let WarmupCells { gaps, gap_ticks, longest_ticks, divided } = &self.warmup;
        let [gaps, gap_ticks, longest_ticks, divided] =
            [gaps, gap_ticks, longest_ticks, divided].map(|cell| cell.load(Relaxed));
        WarmupTotal { gaps, gap_ticks, longest_ticks, divided }
    }

    /// Iterations of the meter's loop, up to the end of the last burst.
    pub fn iterations(&self) -> u64 {
        self.iterations.load(Relaxed)
    }

    /// Readings that went backwards, up to the end of the last burst.
    pub fn backwards(&self) -> u64 {
        self.backwards.load(Relaxed)
    }

    /// All gaps by class, recorded or not; classes without a gap are left out.
    pub fn classes(&self) -> Vec<ClassTotal> {
        let totals = Class::ALL.iter().zip(&self.classes).map(|(&class, cells)| ClassTotal {
            class,
            gaps: cells.gaps.load(Relaxed),
            gap_ticks: cells.gap_ticks.load(Relaxed),
        });
        totals.filter(|total| total.gaps > 0).collect()
    }

    /// The longest gap.
    pub fn longest(&self) -> Option<GapRecord> {
        self.longest.load().map(|(record, _)| record)
    }

    /// All gaps by length in nanoseconds.
    pub fn histogram_ns(&self) -> &Histogram {
        &self.histogram_ns
    }

    /// The records in `cells` from number `from` on, as far as they are published.
    pub fn records<'a>(
        &self,
        cells: &'a [RecordCell],
        from: usize,
    ) -> impl Iterator<Item = GapRecord> + use<'a> {
        let published = self.published.load(Acquire) as usize;
        cells.iter().take(published).skip(from).map(RecordCell::load)
    }

    /// The records in `cells` from the last one back.
    pub fn latest<'a>(&self, cells: &'a [RecordCell]) -> impl Iterator<Item = GapRecord> + use<'a> {
        let published = self.published.load(Acquire) as usize;
        cells.iter().take(published).rev().map(RecordCell::load)
    }

    /// The longest gap since the last call; for one reader.
    ///
    /// Windows are numbered. The writer notes with the longest gap which window it fell in,
    /// so nothing has to be reset under the writer's feet.
    pub fn close_window(&self) -> Option<GapRecord> {
        let window = self.window.load(Relaxed);
        let longest = self.longest_in_window.load();
        self.window.store(window.wrapping_add(1), Relaxed);
        longest.filter(|&(_, noted)| noted == window).map(|(record, _)| record)
    }
}

/// The writing side of a [`Tally`] and its record memory.
#[derive(Clone, Copy, Debug)]
pub struct Recorder<'a> {
    /// Counters.
    pub tally: &'a Tally,
    /// Room for records.
    pub cells: &'a [RecordCell],
    /// TSC frequency, for the histogram.
    pub tsc_khz: u64,
}

impl Recorder<'_> {
    /// Records one gap: in the histogram always, as a record while there is room.
    pub fn gap(&self, record: GapRecord) {
        let tally = self.tally;
        let ticks = record.ticks();
        bump(&tally.gaps, 1);
        bump(&tally.gap_ticks, ticks);
        if let Some(cells) = tally.classes.get(record.class as usize) {
            bump(&cells.gaps, 1);
            bump(&cells.gap_ticks, ticks);
        }
        tally.histogram_ns.record(ticks_to_ns(ticks, self.tsc_khz));
        if tally.longest().is_none_or(|longest| longest.ticks() < ticks) {
            tally.longest.store(record, 0);
        }
        let window = tally.window.load(Relaxed);
        let so_far = tally.longest_in_window.load().filter(|&(_, noted)| noted == window);
        if so_far.is_none_or(|(longest, _)| longest.ticks() < ticks) {
            tally.longest_in_window.store(record, window);
        }
        if !self.publish(record) {
            bump(&tally.unrecorded, 1);
        }
    }

    /// Records what lies in the warm-up of a gap that ended at `tsc_end`: as a record while there is
    /// room, and in no figure.
    pub fn warmup_gap(&self, part: GapRecord, tsc_end: u64) {
        let cells = &self.tally.warmup;
        bump(&cells.gaps, 1);
        bump(&cells.gap_ticks, part.ticks());
        bump(&cells.divided, u64::from(part.tsc_end != tsc_end));
        let whole = GapRecord { tsc_end, ..part }.ticks();
        cells.longest_ticks.store(cells.longest_ticks.load(Relaxed).max(whole), Relaxed);
        self.publish(GapRecord { warmup: true, ..part });
    }

    /// Adds a record; false where there is no room.
    fn publish(&self, record: GapRecord) -> bool {
        let published = self.tally.published.load(Relaxed);
        let Some(cell) = self.cells.get(published as usize) else { return false };
        cell.store(record);
        self.tally.published.store(published.saturating_add(1), Release);
        true
    }

    /// Adds what a burst counted in registers.
    pub fn burst(&self, iterations: u64, backwards: u64) {
        bump(&self.tally.iterations, iterations);
        bump(&self.tally.backwards, backwards);
    }
}

/// One writer, so a load and a store do.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).saturating_add(by), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u64 = 1_000_000;

    fn gap(begin: u64, ticks: u64) -> GapRecord {
        GapRecord {
            tsc_begin: begin,
            tsc_end: begin + ticks,
            cpu_begin: 1,
            cpu_end: 2,
            class: Class::Host,
            ..GapRecord::default()
        }
    }

    fn cells(count: usize) -> Vec<RecordCell> {
        (0..count).map(|_| RecordCell::default()).collect()
    }

    #[test]
    fn a_full_buffer_loses_records_but_no_counts() {
        let (tally, cells) = (Tally::default(), cells(2));
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: KHZ };
        for (begin, ticks) in [(0, 10), (100, 30), (200, 50)] {
            recorder.gap(gap(begin, ticks));
        }
        assert_eq!(tally.gaps(), 3);
        assert_eq!(tally.unrecorded(), 1);
        assert_eq!(tally.gap_ticks(), 90);
        assert_eq!(tally.longest(), Some(gap(200, 50)));
        assert_eq!(tally.histogram_ns().count(), 3);
        let all: Vec<_> = tally.records(&cells, 0).collect();
        assert_eq!(all, [gap(0, 10), gap(100, 30)]);
        assert_eq!(tally.records(&cells, 1).collect::<Vec<_>>(), [gap(100, 30)]);
        assert_eq!(tally.records(&cells, 9).count(), 0);
        assert_eq!(tally.latest(&cells).collect::<Vec<_>>(), [gap(100, 30), gap(0, 10)]);
    }

    #[test]
    fn classes_are_counted_whether_recorded_or_not() {
        let (tally, cells) = (Tally::default(), cells(1));
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: KHZ };
        assert_eq!(tally.classes(), []);
        recorder.gap(gap(0, 10));
        recorder.gap(GapRecord { class: Class::Irq, ..gap(100, 5) });
        recorder.gap(gap(200, 7));
        let total = |class, gaps, gap_ticks| ClassTotal { class, gaps, gap_ticks };
        assert_eq!(tally.classes(), [total(Class::Host, 2, 17), total(Class::Irq, 1, 5)]);
        assert_eq!(tally.records(&cells, 0).next().map(|gap| gap.class), Some(Class::Host));
    }

    #[test]
    fn no_room_at_all_still_counts() {
        let tally = Tally::default();
        Recorder { tally: &tally, cells: &[], tsc_khz: KHZ }.gap(gap(0, 10));
        assert_eq!((tally.gaps(), tally.unrecorded()), (1, 1));
    }

    #[test]
    fn windows_have_their_own_longest() {
        let tally = Tally::default();
        let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: KHZ };
        assert_eq!(tally.close_window(), None);
        recorder.gap(gap(0, 50));
        recorder.gap(gap(100, 20));
        assert_eq!(tally.close_window(), Some(gap(0, 50)));
        assert_eq!(tally.close_window(), None);
        recorder.gap(gap(200, 10));
        assert_eq!(tally.close_window(), Some(gap(200, 10)));
        assert_eq!(tally.longest(), Some(gap(0, 50)));
    }

    #[test]
    fn a_reader_never_sees_half_a_record() {
        let tally = Tally::default();
        let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: KHZ };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..200_000 {
                    recorder.gap(gap(round, round));
                }
            });
            while !writer.is_finished() {
                if let Some(record) = tally.longest() {
                    assert_eq!(record.tsc_end, 2 * record.tsc_begin);
                }
            }
        });
        assert_eq!(tally.longest(), Some(gap(199_999, 199_999)));
    }
}
