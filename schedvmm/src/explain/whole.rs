// SPDX-License-Identifier: Apache-2.0
//! Where the time went, of all threads and all of the run that the trace has: what each did, and
//! how long each CPU was forced idle for whom.

use std::collections::BTreeMap;
use std::fmt;

use ftrace::attribution::{Cause, Explanation, Units};
use ftrace::{FtraceError, Item, Trace};
use protocol::index::{GroupIndex, Kind};
use results::model::{ForcedIdleTime, LocatedGap, Numbers, RunTimes, Spent, ThreadTimes};

use super::question::Question;

/// Pieces of all threads together that are kept, at 24 bytes each.
const MAX_SEGMENTS: usize = 1 << 20;

/// Where the time went.
#[derive(Debug)]
pub struct Whole {
    /// As printed for programs.
    pub times: RunTimes,
    /// What the groups are.
    pub kind: Kind,
}

impl Whole {
    /// Reads the whole trace, and counts what lies in the time that the result's figures are of:
    /// one run has one window.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn read(question: &Question) -> Result<Self, FtraceError> {
        let (first, last) = question.reading("read", span)?;
        let window = question.window_tsc();
        // Of a trace that has nothing of the window, an empty piece of it.
        let tsc_begin = first.max(window.start).min(last);
        let tsc_end = last.min(window.end).max(tsc_begin);
        let threads: Vec<Numbers> = question.threads().collect();
        let wholes: Vec<LocatedGap> = threads
            .iter()
            .map(|who| LocatedGap { who: *who, tsc_begin, tsc_end, ..LocatedGap::default() })
            .collect();
        let room = MAX_SEGMENTS / threads.len().max(1);
        let found = question.explanations_with(&wholes, room)?;
        let units = question.units();
        let of_threads = threads.iter().zip(&found);
        let times = RunTimes {
            tsc_begin,
            tsc_end,
            length_ns: units.ns(tsc_end - tsc_begin),
            threads: of_threads.map(|(who, found)| thread_times(*who, found, units)).collect(),
            forced_idle: forced_idle(&found)
                .into_iter()
                .map(|((cpu, by_group), ticks)| ForcedIdleTime {
                    cpu,
                    by_group,
                    ns: units.ns(ticks),
                })
                .collect(),
            pieces_left_out: found.iter().map(|found| found.segments_left_out).sum(),
        };
        Ok(Self { times, kind: question.kind() })
    }
}

/// First and last event.
fn span(trace: &Trace) -> Result<(u64, u64), FtraceError> {
    let mut events = trace.events()?;
    let mut span = None;
    while let Some(item) = events.next()? {
        if let Item::Record(record) = item {
            let begin = span.map_or(record.time, |(begin, _)| begin);
            // Time goes back in a damaged trace only.
            span = Some((begin, record.time.max(begin)));
        }
    }
    Ok(span.unwrap_or_default())
}

/// Several threads may wait for a CPU at a time: its time counts once.
fn forced_idle(found: &[Explanation]) -> BTreeMap<(u32, Option<u32>), u64> {
    let mut pieces = Vec::new();
    for explanation in found {
        for segment in &explanation.segments {
            let cause = explanation.parts.get(segment.part).map(|part| &part.cause);
            if let Some(Cause::ForcedIdle { cpu, by, .. }) = cause {
                pieces.push((*cpu, segment.begin, segment.end, by.group));
            }
        }
    }
    pieces.sort_unstable();
    let mut sums = BTreeMap::new();
    let mut last = (0, 0);
    for (cpu, begin, end, group) in pieces {
        let begin = if last.0 == cpu { begin.max(last.1) } else { begin };
        if begin < end {
            *sums.entry((cpu, group)).or_default() += end - begin;
            last = (cpu, end);
        }
    }
    sums
}

fn thread_times(who: Numbers, found: &Explanation, units: Units) -> ThreadTimes {
    ThreadTimes { who, tid: found.gap.tid, spent: spent(found, units) }
}

/// What a thread did all the time of a gap, by its explanation.
pub fn spent(found: &Explanation, units: Units) -> Spent {
    Spent {
        running_ns: spent_ns(&is_running, units, found),
        queued_ns: spent_ns(&is_queued, units, found),
        forced_idle_ns: spent_ns(&is_forced_idle, units, found),
        asleep_ns: spent_ns(&is_asleep, units, found),
        unknown_ns: spent_ns(&is_unknown, units, found),
        other_ns: spent_ns(&is_other, units, found),
    }
}

fn spent_ns(select: &dyn Fn(&Cause) -> bool, units: Units, found: &Explanation) -> u64 {
    units.ns(found.ticks_of(select))
}

fn is_other(cause: &Cause) -> bool {
    let known: [fn(&Cause) -> bool; 5] =
        [is_running, is_queued, is_forced_idle, is_asleep, is_unknown];
    !known.iter().any(|is_one| is_one(cause))
}

fn is_running(cause: &Cause) -> bool {
    matches!(cause, Cause::Running { .. })
}

fn is_queued(cause: &Cause) -> bool {
    matches!(cause, Cause::Queued { .. })
}

fn is_forced_idle(cause: &Cause) -> bool {
    matches!(cause, Cause::ForcedIdle { .. })
}

fn is_asleep(cause: &Cause) -> bool {
    matches!(cause, Cause::Sleeping { .. })
}

fn is_unknown(cause: &Cause) -> bool {
    matches!(cause, Cause::Unknown { .. })
}

#[allow(clippy::cast_precision_loss, reason = "a figure for a reader")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The trace has {:.1} ms. In milliseconds:\n", ms(self.times.length_ns))?;
        let (group, thread) = match self.kind {
            Kind::Threads => ("group", "thread"),
            Kind::Vcpus => ("VM", "vCPU"),
        };
        writeln!(
            f,
            "{group:>5}  {thread:>6}     running      queued forced idle      asleep       other     \
             unknown"
        )?;
        for thread in &self.times.threads {
            write!(f, "{:>5}  {:>6}", thread.who.group, thread.who.thread)?;
            for ns in [
                thread.spent.running_ns,
                thread.spent.queued_ns,
                thread.spent.forced_idle_ns,
                thread.spent.asleep_ns,
                thread.spent.other_ns,
                thread.spent.unknown_ns,
            ] {
                write!(f, "{:>12.3}", ms(ns))?;
            }
            writeln!(f)?;
        }
        for forced in &self.times.forced_idle {
            let group = forced.by_group.and_then(GroupIndex::of_number);
            let group = group.map_or_else(
                || "threads of no group".to_owned(),
                |group| self.kind.group_name(group),
            );
            write!(f, "\nCPU {} forced idle {:.3} ms for {group}", forced.cpu, ms(forced.ns))?;
        }
        if self.times.pieces_left_out > 0 {
            write!(f, "\n{} pieces were too many to look at", self.times.pieces_left_out)?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftrace::attribution::{Gap, Part, Segment, Task};

    fn waiting(cpu: u32, pieces: &[(u64, u64, u32)]) -> Explanation {
        let part = |group: u32| {
            let by = Task { tid: 1, name: "x".into(), group: Some(group) };
            let cause = Cause::ForcedIdle { cpu, sibling: cpu ^ 1, by };
            Part { cause, ticks: 0, pieces: 1, longest: 0 }
        };
        Explanation {
            gap: Gap { tid: 9, begin: 0, end: 100 },
            name: "x".into(),
            group: Some(0),
            parts: (0..3).map(part).collect(),
            segments: pieces
                .iter()
                .map(|&(begin, end, group)| Segment { begin, end, part: group as usize })
                .collect(),
            segments_left_out: 0,
            migrations: 0,
            trace_begin: None,
        }
    }

    #[test]
    fn machines_are_called_machines() {
        let forced = |by_group| ForcedIdleTime { cpu: 2, by_group, ns: 1 };
        let times = RunTimes {
            tsc_begin: 0,
            tsc_end: 1,
            length_ns: 1,
            threads: Vec::new(),
            forced_idle: vec![forced(Some(3)), forced(None)],
            pieces_left_out: 0,
        };
        let whole = |kind| Whole { times: times.clone(), kind };
        let text = whole(Kind::Threads).to_string();
        assert!(text.contains("\ngroup  thread     running"), "{text}");
        assert!(text.contains("for group 3\n") && text.contains("of no group"), "{text}");
        let text = whole(Kind::Vcpus).to_string();
        assert!(text.contains("\n   VM    vCPU     running"), "{text}");
        assert!(text.contains("for VM 3\n") && !text.contains("group 3"), "{text}");
    }

    #[test]
    fn time_that_several_wait_for_counts_once() {
        let found = [
            waiting(2, &[(0, 10, 1), (20, 30, 2)]),
            waiting(2, &[(5, 10, 1), (25, 40, 2), (50, 60, 1)]),
            waiting(3, &[(55, 60, 1)]),
        ];
        let sums = forced_idle(&found);
        let expected = [((2, Some(1)), 20), ((2, Some(2)), 20), ((3, Some(1)), 5)];
        assert_eq!(sums, BTreeMap::from(expected));
    }
}
