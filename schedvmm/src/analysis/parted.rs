// SPDX-License-Identifier: Apache-2.0
//! After a gap over the threshold every figure ends where that gap did: what came later came while
//! the load was being stopped, and is told apart.

use std::borrow::Cow;

use gaps::evidence::Class;
use gaps::histogram::Histogram;
use gaps::record::GapRecord;
use gaps::tally::{ClassTotal, WarmupTotal};
use protocol::job::LoadSpec;
use protocol::report::ThreadReport;
use results::clock::{Clock, Until};

use crate::session::Session;

/// The clock of a run; 0 Hz before the guest has told.
pub fn clock_of<'a>(session: &Session, load: &'a LoadSpec) -> Clock<'a> {
    let khz = session.report.as_ref().map(|report| report.tsc.khz);
    let setup = session.setup.as_ref();
    let khz = khz.or(setup.map(|setup| setup.tsc_khz)).unwrap_or(0);
    let start = setup.map_or(0, |setup| setup.tsc_start);
    let until = Until::new(session.hit.map(|hit| hit.gap.record.tsc_end));
    Clock::new(khz, start, load).ending(until)
}

/// Every thread's gaps, parted by the moment at which figures end.
pub fn parted<'a>(session: &'a Session, clock: Clock<'_>) -> Vec<Parted<'a>> {
    session.gaps.iter().map(|records| Parted::new(records, clock.until())).collect()
}

/// Lengths of gaps that ended after that moment, by thread.
pub fn after_hit_ns(session: &Session, clock: Clock<'_>) -> Vec<Vec<u64>> {
    parted(session, clock)
        .into_iter()
        .map(|parted| parted.later.iter().map(|gap| clock.ns(gap.ticks())).collect::<Vec<u64>>())
        .collect()
}

/// One thread's gaps, parted by the moments at which figures begin and end.
#[derive(Debug, Default)]
pub struct Parted<'a> {
    /// Those of the warm-up.
    pub early: Vec<GapRecord>,
    /// Those that had ended.
    pub ended: Cow<'a, [GapRecord]>,
    /// Of those that were open then, the part before.
    pub open: Vec<GapRecord>,
    /// Those that ended later, whole.
    pub later: Vec<GapRecord>,
}

impl<'a> Parted<'a> {
    /// Parts these records.
    pub fn new(records: &'a [GapRecord], until: Until) -> Self {
        let early: Vec<_> = records.iter().filter(|record| record.warmup).copied().collect();
        let counted = records.iter().filter(|record| !record.warmup);
        let later: Vec<_> = counted.clone().filter(|record| !until.has(record)).copied().collect();
        let open = later.iter().filter_map(|record| until.open(record)).collect();
        // In order of time they are the first and the last ones, and nothing needs to be copied.
        let middle = &records[early.len()..records.len() - later.len()];
        let ended = if middle.iter().all(|record| !record.warmup && until.has(record)) {
            middle.into()
        } else {
            counted.filter(|record| until.has(record)).copied().collect()
        };
        Self { early, ended, open, later }
    }

    /// What the records tell of the warm-up: of those that went on, the part in it.
    pub fn warmup(&self) -> WarmupTotal {
        let lengths = || self.early.iter().map(GapRecord::ticks);
        WarmupTotal {
            gaps: self.early.len() as u64,
            gap_ticks: lengths().fold(0, u64::saturating_add),
            longest_ticks: lengths().max().unwrap_or(0),
            divided: 0,
        }
    }

    /// All time waited until then. Nothing is copied where no gap was open.
    pub fn waits(&self) -> Cow<'_, [GapRecord]> {
        if self.open.is_empty() {
            Cow::Borrowed(&self.ended)
        } else {
            self.ended.iter().chain(&self.open).copied().collect()
        }
    }

    /// Ticks of the parts of open gaps.
    pub fn open_ticks(&self) -> u64 {
        self.open.iter().map(GapRecord::ticks).fold(0, u64::saturating_add)
    }

    /// Has a report end at the moment, too. Of gaps without a record, the longest alone can be told
    /// to have ended later.
    pub fn cut(&mut self, report: &mut ThreadReport, clock: Clock<'_>) {
        let until = clock.until();
        if until == Until::default() {
            return;
        }
        let recorded = (self.ended.len() + self.later.len()) as u64;
        if report.gaps == recorded {
            report.gaps = self.ended.len() as u64;
            report.gap_ticks = self.ended.iter().map(GapRecord::ticks).fold(0, u64::saturating_add);
            report.classes = classes(&self.ended);
            report.gap_histogram_ns = histogram(&self.ended, clock);
            report.longest = None;
            return;
        }
        if let Some(longest) = report.longest.take_if(|longest| !until.has(longest))
            && !self.later.contains(&longest)
        {
            self.open.extend(until.open(&longest));
            self.later.push(longest);
        }
        self.later.iter().for_each(|gap| take_out(report, gap, clock));
    }
}

/// Records by class, in the order of [`Class::ALL`].
pub fn classes(records: &[GapRecord]) -> Vec<ClassTotal> {
    Class::ALL
        .into_iter()
        .map(|class| {
            let of_class = records.iter().filter(|record| record.class == class);
            let (gaps, gap_ticks) = of_class.fold((0, 0u64), |(gaps, sum), record| {
                (gaps + 1, sum.saturating_add(record.ticks()))
            });
            ClassTotal { class, gaps, gap_ticks }
        })
        .filter(|total| total.gaps > 0)
        .collect()
}

/// Lengths in nanoseconds, as the guest has them.
fn histogram(records: &[GapRecord], clock: Clock<'_>) -> Vec<(u64, u64)> {
    let histogram = Box::<Histogram>::default();
    records.iter().for_each(|record| histogram.record(clock.ns(record.ticks())));
    histogram.buckets().collect()
}

/// Takes one gap out of all sums.
fn take_out(report: &mut ThreadReport, gap: &GapRecord, clock: Clock<'_>) {
    report.gaps = report.gaps.saturating_sub(1);
    report.gap_ticks = report.gap_ticks.saturating_sub(gap.ticks());
    if let Some(total) = report.classes.iter_mut().find(|total| total.class == gap.class) {
        total.gaps = total.gaps.saturating_sub(1);
        total.gap_ticks = total.gap_ticks.saturating_sub(gap.ticks());
    }
    report.classes.retain(|total| total.gaps > 0);
    let length_ns = clock.ns(gap.ticks());
    let buckets = &mut report.gap_histogram_ns;
    if let Some((_, count)) = buckets.iter_mut().find(|(bound, _)| *bound >= length_ns) {
        *count = count.saturating_sub(1);
    }
    buckets.retain(|(_, count)| *count > 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::load;

    fn record(tsc_begin: u64, tsc_end: u64) -> GapRecord {
        GapRecord { tsc_begin, tsc_end, class: Class::Host, ..GapRecord::default() }
    }

    #[test]
    fn without_a_hit_all_gaps_have_ended() {
        let records = [record(10, 20), record(30, 90)];
        let parted = Parted::new(&records, Until::default());
        assert!(matches!(parted.ended, Cow::Borrowed(all) if all == records));
        assert!(parted.open.is_empty() && parted.later.is_empty());
    }

    #[test]
    fn a_gap_that_is_open_at_the_hit_is_waited_for_until_then() {
        let records = [record(10, 20), record(30, 50), record(45, 90), record(60, 70)];
        let parted = Parted::new(&records, Until::new(Some(50)));
        assert!(matches!(parted.ended, Cow::Borrowed(all) if all == &records[..2]));
        assert_eq!(parted.open, [record(45, 50)]);
        assert_eq!((parted.open_ticks(), &parted.later[..]), (5, &records[2..]));
        assert_eq!(parted.waits()[..], [record(10, 20), record(30, 50), record(45, 50)]);
        // Whoever sends them in any order is understood all the same.
        let mixed = [record(45, 90), record(10, 20)];
        let parted = Parted::new(&mixed, Until::new(Some(50)));
        assert_eq!((&parted.ended[..], &parted.later[..]), (&mixed[1..], &mixed[..1]));
    }

    #[test]
    fn what_is_of_the_warm_up_is_apart_from_all_else() {
        let early = |tsc_begin, tsc_end| GapRecord { warmup: true, ..record(tsc_begin, tsc_end) };
        let records = [early(0, 5), early(8, 10), record(10, 20), record(30, 90)];
        for until in [Until::default(), Until::new(Some(95))] {
            let parted = Parted::new(&records, until);
            assert_eq!(parted.early, records[..2]);
            let warmup =
                WarmupTotal { gaps: 2, gap_ticks: 7, longest_ticks: 5, ..Default::default() };
            assert_eq!(parted.warmup(), warmup);
            assert!(matches!(parted.ended, Cow::Borrowed(all) if all == &records[2..]));
        }
        let mixed = [record(10, 20), early(0, 5), record(30, 90)];
        let parted = Parted::new(&mixed, Until::new(Some(50)));
        assert_eq!((&parted.early[..], &parted.ended[..]), (&mixed[1..2], &mixed[..1]));
        assert_eq!((&parted.open[..], &parted.later[..]), (&[record(30, 50)][..], &mixed[2..]));
    }

    #[test]
    fn a_report_ends_with_its_records() {
        let spec = load(1, 1, 1);
        let until = Until::new(Some(500));
        let clock = Clock::new(1_000_000, 0, &spec).ending(until);
        let records = [record(0, 100), record(200, 350), record(400, 9000)];
        let mut report = ThreadReport {
            gaps: 3,
            gap_ticks: 8850,
            longest: Some(records[2]),
            gap_histogram_ns: vec![(100, 1), (151, 1), (8703, 1)],
            ..ThreadReport::default()
        };
        let total = |gaps, gap_ticks| [ClassTotal { class: Class::Host, gaps, gap_ticks }];
        report.classes = total(3, 8850).into();
        let full = report.clone();
        Parted::new(&records, until).cut(&mut report, clock);
        assert_eq!((report.gaps, report.gap_ticks, report.longest), (2, 250, None));
        assert_eq!(report.classes, total(2, 250));
        assert_eq!(report.gap_histogram_ns, [(100, 1), (151, 1)]);
        // Not all were recorded: the longest, at least, is known to have ended later.
        let mut report = full;
        let mut parted = Parted::new(&records[..1], until);
        parted.cut(&mut report, clock);
        assert_eq!((report.gaps, report.gap_ticks, report.longest), (2, 250, None));
        assert_eq!(report.classes, total(2, 250));
        assert_eq!(report.gap_histogram_ns, [(100, 1), (151, 1)]);
        assert_eq!((&parted.later[..], &parted.open[..]), (&records[2..], &[record(400, 500)][..]));
    }
}
