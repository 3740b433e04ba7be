// SPDX-License-Identifier: Apache-2.0
//! Turns TSC values of a run into time, and gaps into places in it.

use gaps::record::GapRecord;
use gaps::tsc::{ns_to_ticks, ticks_to_ns};
use protocol::duration::as_ns;
use protocol::index::Member;
use protocol::job::LoadSpec;

use crate::model::LocatedGap;

/// The moment at which figures end, as a TSC reading; the load's own end if there is none. After a
/// gap over the threshold every figure ends where that gap did: what came later came while the load
/// was being stopped, and is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Until(Option<u64>);

impl Until {
    /// This moment; `None` for the load's own end.
    pub fn new(tsc: Option<u64>) -> Self {
        Self(tsc)
    }

    /// The moment, if there is one.
    pub fn tsc(self) -> Option<u64> {
        self.0
    }

    /// Whether a gap had ended by then.
    pub fn has(self, record: &GapRecord) -> bool {
        self.0.is_none_or(|tsc| record.tsc_end <= tsc)
    }

    /// The part before it of a gap that was open then.
    pub fn open(self, record: &GapRecord) -> Option<GapRecord> {
        let tsc = self.0.filter(|tsc| (record.tsc_begin..record.tsc_end).contains(tsc))?;
        Some(GapRecord { tsc_end: tsc, ..*record }).filter(|part| part.ticks() > 0)
    }
}

/// The counter of a run, with where its load starts and where its figures end.
#[derive(Clone, Copy, Debug)]
pub struct Clock<'a> {
    khz: u64,
    start: u64,
    until: Until,
    load: &'a LoadSpec,
}

impl<'a> Clock<'a> {
    /// A clock of this frequency, with this load's start on it.
    pub fn new(khz: u64, start: u64, load: &'a LoadSpec) -> Self {
        Self { khz, start, until: Until::default(), load }
    }

    /// The same of a run whose figures end at this moment.
    pub fn ending(self, until: Until) -> Self {
        Self { until, ..self }
    }

    /// When the figures of the run end.
    pub fn until(self) -> Until {
        self.until
    }

    /// The load that it is of.
    pub fn load(self) -> &'a LoadSpec {
        self.load
    }

    /// Frequency of the counter.
    pub fn khz(self) -> u64 {
        self.khz
    }

    /// Ticks as nanoseconds.
    pub fn ns(self, ticks: u64) -> u64 {
        ticks_to_ns(ticks, self.khz)
    }

    /// Nanoseconds from the load's start to this reading.
    pub fn since_start_ns(self, tsc: u64) -> u64 {
        self.ns(tsc.saturating_sub(self.start))
    }

    /// When the figures of the run begin, behind the warm-up.
    pub fn counted_from(self) -> u64 {
        self.start.saturating_add(ns_to_ticks(as_ns(self.load.warmup), self.khz))
    }

    /// Nanoseconds from there to this reading.
    pub fn counted_ns(self, tsc: u64) -> u64 {
        self.ns(tsc.saturating_sub(self.counted_from()))
    }

    /// The thread at this place among those of all groups.
    pub fn member(self, thread: usize) -> Option<Member> {
        self.load.member(thread)
    }

    /// What that thread is called.
    pub fn name_of(self, thread: usize) -> String {
        self.load.name_of(thread)
    }

    /// A gap with its place in the run; `None` of a thread that is none of the load's.
    pub fn locate(self, thread: usize, tid: Option<u32>, record: GapRecord) -> Option<LocatedGap> {
        Some(LocatedGap {
            who: self.member(thread)?.into(),
            tid,
            begin_ns: self.since_start_ns(record.tsc_begin),
            length_ns: self.ns(record.ticks()),
            length_ticks: record.ticks(),
            tsc_begin: record.tsc_begin,
            tsc_end: record.tsc_end,
            cpu_begin: record.cpu_begin,
            cpu_end: record.cpu_end,
            class: record.class,
            kind: record.kind,
            unfinished: record.unfinished,
            host_known_ns: 0,
            host_ns: None,
            net_ns: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::load;

    #[test]
    fn ticks_become_time_since_the_start() {
        let record = GapRecord { tsc_begin: 3_000, tsc_end: 7_000, ..Default::default() };
        let load = load(3, 2);
        let clock = Clock::new(2_000_000, 1_000, &load);
        let gap = clock.locate(5, Some(77), record).expect("the last thread");
        assert_eq!((gap.begin_ns, gap.length_ns), (1_000, 2_000));
        assert_eq!(gap.who.to_string(), "3.2");
        assert_eq!(clock.locate(6, Some(77), record), None);
    }
}
