// SPDX-License-Identifier: Apache-2.0
//! The account of one gap: which causes took how much of it.

use super::{Gap, Segment, UnknownReason};
use crate::sched::IrqSource;

/// Causes kept apart in one gap; more are added to [`OTHERS`].
const MAX_PARTS: usize = 512;
/// Stands for all threads that there is no room to keep apart.
pub(super) const OTHERS: i32 = -1;
/// Stands for all CPUs that there is no room to keep apart.
pub(super) const MANY_CPUS: u32 = u32::MAX;

/// A thread's name as the kernel has it: NUL-padded.
pub(super) type Comm = [u8; 16];

/// A cause without the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Queued { cpu: u32, tid: i32 },
    ForcedIdle { cpu: u32, sibling: u32, tid: i32 },
    Throttled { cpu: u32 },
    Idle { cpu: u32 },
    Waking { cpu: u32 },
    Migrating { cpu: u32 },
    Sleeping { state: u8 },
    Interrupted { cpu: u32, source: IrqSource },
    Running { cpu: u32 },
    Unknown(UnknownReason),
}

impl Why {
    /// The same without what can take very many values.
    fn coarse(self) -> Self {
        let (cpu, sibling) = (MANY_CPUS, MANY_CPUS);
        match self {
            Self::Queued { .. } => Self::Queued { cpu, tid: OTHERS },
            Self::ForcedIdle { .. } => Self::ForcedIdle { cpu, sibling, tid: OTHERS },
            Self::Throttled { .. } => Self::Throttled { cpu },
            Self::Idle { .. } => Self::Idle { cpu },
            Self::Waking { .. } => Self::Waking { cpu },
            Self::Migrating { .. } => Self::Migrating { cpu },
            Self::Interrupted { .. } => Self::Interrupted { cpu, source: IrqSource::Line(OTHERS) },
            Self::Running { .. } => Self::Running { cpu },
            Self::Sleeping { .. } | Self::Unknown(_) => self,
        }
    }
}

/// What one cause took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub why: Why,
    /// Of the thread that [`Why`] numbers; of no meaning for other causes.
    pub comm: Comm,
    pub ticks: u64,
    pub pieces: u64,
    pub longest: u64,
}

/// The account of one gap.
#[derive(Clone, Debug)]
pub(super) struct GapAccount {
    pub gap: Gap,
    pub entries: Vec<Entry>,
    pub segments: Vec<Segment>,
    pub segments_left_out: u64,
    pub migrations: u64,
    max_segments: usize,
    /// The entry added to last, and when its piece began and ended.
    last: Option<(usize, u64, u64)>,
}

impl GapAccount {
    pub(super) fn new(gap: Gap, max_segments: usize) -> Self {
        Self {
            gap,
            entries: Vec::new(),
            segments: Vec::new(),
            segments_left_out: 0,
            migrations: 0,
            max_segments,
            last: None,
        }
    }

    /// Adds what lies in the gap of the time from `begin` to `end`. Calls are in order of
    /// time and leave no time out.
    pub(super) fn add(&mut self, begin: u64, end: u64, why: Why, comm: &Comm) {
        let begin = begin.max(self.gap.begin);
        let end = end.min(self.gap.end);
        if begin >= end {
            return;
        }
        let index = self.entry(why, comm);
        let entry = &mut self.entries[index];
        entry.ticks += end - begin;
        if let Some((last, piece_begin, piece_end)) = &mut self.last
            && *last == index
            && *piece_end == begin
        {
            *piece_end = end;
            entry.longest = entry.longest.max(end - *piece_begin);
            if self.segments_left_out == 0
                && let Some(segment) = self.segments.last_mut()
            {
                segment.end = end;
            }
            return;
        }
        entry.pieces += 1;
        entry.longest = entry.longest.max(end - begin);
        self.last = Some((index, begin, end));
        if self.segments.len() < self.max_segments {
            self.segments.push(Segment { begin, end, part: index });
        } else {
            self.segments_left_out += 1;
        }
    }

    /// Where a cause's entry is; made if there is none.
    fn entry(&mut self, why: Why, comm: &Comm) -> usize {
        if let Some((last, ..)) = self.last
            && self.entries[last].why == why
        {
            return last;
        }
        if let Some(index) = self.entries.iter().position(|entry| entry.why == why) {
            return index;
        }
        if self.entries.len() >= MAX_PARTS {
            let coarse = why.coarse();
            if coarse != why {
                return self.entry(coarse, &[0; 16]);
            }
        }
        self.entries.push(Entry { why, comm: *comm, ticks: 0, pieces: 0, longest: 0 });
        self.entries.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(begin: u64, end: u64, max_segments: usize) -> GapAccount {
        GapAccount::new(Gap { tid: 1, begin, end }, max_segments)
    }

    #[test]
    fn adjoining_time_of_one_cause_is_one_piece() {
        let mut account = account(10, 100, 2);
        let (queued, idle) = (Why::Queued { cpu: 1, tid: 5 }, Why::Idle { cpu: 1 });
        for (begin, end, why) in
            [(0, 20, queued), (20, 30, queued), (30, 31, idle), (31, 50, queued), (50, 200, queued)]
        {
            account.add(begin, end, why, &[0; 16]);
        }
        let entries: Vec<_> =
            account.entries.iter().map(|e| (e.why, e.ticks, e.pieces, e.longest)).collect();
        assert_eq!(entries, [(queued, 89, 2, 69), (idle, 1, 1, 1)]);
        let segments =
            [Segment { begin: 10, end: 30, part: 0 }, Segment { begin: 30, end: 31, part: 1 }];
        assert_eq!(account.segments, segments);
        assert_eq!(account.segments_left_out, 1);
    }

    #[test]
    fn very_many_causes_take_bounded_memory_and_still_sum() {
        let mut account = account(0, 100_000, 0);
        for tid in 0..100_000_i32 {
            let at = u64::from(tid.unsigned_abs());
            account.add(at, at + 1, Why::Queued { cpu: 0, tid }, &[0; 16]);
        }
        assert_eq!(account.entries.len(), MAX_PARTS + 1);
        assert_eq!(account.entries.iter().map(|entry| entry.ticks).sum::<u64>(), 100_000);
        assert_eq!(account.entries[MAX_PARTS].why, Why::Queued { cpu: MANY_CPUS, tid: OTHERS });
    }
}
