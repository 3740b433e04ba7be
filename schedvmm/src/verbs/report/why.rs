// SPDX-License-Identifier: Apache-2.0
//! The trace around the worst gap: its causes, and what ran then.

use std::collections::BTreeSet;
use std::ops::Range;

use ftrace::attribution::{Context, Explanation, Topology, Units, explain};
use ftrace::{Lanes, lanes};
use results::model::{Explained, LocatedGap, RunResult};
use results::saved::Saved;

use crate::explain::Question;
use crate::progress::Progress;
use crate::status::Failure;

/// Pieces of a thread's time, or of a CPU's, that are kept.
const MAX_PIECES: usize = 100_000;
/// CPUs in the picture, at most.
const MAX_CPUS: usize = 16;
/// Threads in the picture, at most.
const MAX_THREADS: usize = 128;
/// Time to show before and after the gap: one in so many parts of its length.
const MARGIN: u64 = 5;

/// The worst gap explained.
pub struct Why {
    /// Facts missing in the trace.
    pub context: Context,
    /// Of its clock.
    pub units: Units,
    /// Why the trace is not all there, if so.
    pub torn: Option<String>,
    /// Why it may be another run's, if nobody can tell.
    pub remark: Option<String>,
    /// The gap, in words.
    pub explained: Explained,
    /// The gap, in its pieces.
    pub gap: Explanation,
    /// Threads of the load, with what they did in the window.
    pub threads: Vec<Explanation>,
    /// Tasks on the CPUs in the window.
    pub lanes: Lanes,
    /// The time shown.
    pub window: Range<u64>,
}

/// Reads the trace of a run, and what it says about this gap.
///
/// # Errors
/// Why there is nothing to show, for a reader.
pub fn read(saved: &Saved, gap: &LocatedGap) -> Result<Why, Failure> {
    let question = Question::new(&saved.result, &saved.trace_path()?, &Progress::new())?;
    let (explained, found) = question.explain(gap)?;
    let context = question.context();
    let cpus = cpus(&saved.result, gap, &context.topology);
    let margin = gap.tsc_end.saturating_sub(gap.tsc_begin) / MARGIN;
    let wide = gap.tsc_begin.saturating_sub(margin)..gap.tsc_end.saturating_add(margin);
    let lanes = question.reading("picture", |trace| lanes(trace, wide.clone(), &cpus, MAX_PIECES));
    let lanes = lanes?;
    // What is beyond the trace's ends shows nothing.
    let begin = lanes.first.map_or(gap.tsc_begin, |first| first.clamp(wide.start, gap.tsc_begin));
    let end = lanes.last.map_or(gap.tsc_end, |last| last.clamp(gap.tsc_end, wide.end));
    let window = begin..end.max(begin.saturating_add(1));
    let context = Context { max_segments: MAX_PIECES, ..context.clone() };
    let asked: Vec<_> = context
        .groups
        .keys()
        .take(MAX_THREADS)
        .map(|&tid| ftrace::attribution::Gap { tid, begin: window.start, end: window.end })
        .collect();
    let threads = question.reading("threads", |trace| explain(trace, &asked, &context));
    let threads = threads?;
    let (units, torn) = (question.units(), question.torn().map(str::to_owned));
    let remark = question.remark().map(str::to_owned);
    Ok(Why { units, torn, remark, explained, gap: found, threads, lanes, window, context })
}

/// The load's CPUs, those of the gap, and their siblings.
fn cpus(result: &RunResult, gap: &LocatedGap, topology: &Topology) -> Vec<u32> {
    let own = result.job.load.cpus.iter().copied().chain([gap.cpu_begin, gap.cpu_end]);
    let with_siblings = own.flat_map(|cpu| topology.siblings(cpu).iter().copied().chain([cpu]));
    let cpus: BTreeSet<u32> = with_siblings.collect();
    cpus.into_iter().take(MAX_CPUS).collect()
}
