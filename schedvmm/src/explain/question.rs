// SPDX-License-Identifier: Apache-2.0
//! A trace together with what only the result knows: threads, groups, cookies, cores.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ftrace::attribution::{Context, Explanation, Gap, Topology, Units, explain};
use ftrace::dump::Dump;
use ftrace::{FtraceError, Trace};

use super::Explained;
use crate::status::{ExitStatus, Failure, OrFail};
use crate::stored::{Stored, StoredGap};
use crate::units;

/// The clock that gaps are measured with.
const CLOCK: &str = "x86-tsc";
/// Segments kept of a gap, for pictures.
const MOST_SEGMENTS: usize = 10_000;

/// What gaps of one result can be explained with.
pub struct Question {
    trace: Trace,
    torn: Option<String>,
    context: Context,
    units: Units,
    /// By number of the thread.
    tids: BTreeMap<usize, i32>,
}

impl Question {
    /// Opens a trace, a trace.dat or a stream as it came, and reads the rest from the result.
    ///
    /// # Errors
    /// The trace cannot be read, or its clock is not the one of the gaps.
    pub fn new(stored: &Stored, trace: &Path) -> Result<Self, Failure> {
        let (trace, torn) = open(trace).or_fail(ExitStatus::Usage)?;
        let clock = &trace.metadata().clock;
        let usage = |text: String| Err(Failure::new(ExitStatus::Usage, text));
        if clock != CLOCK {
            return usage(format!(
                "the clock of this trace is `{clock}`, and the gaps' is the TSC: they cannot be \
                 compared; trace with a kernel that has the trace clock {CLOCK}"
            ));
        }
        if stored.tsc_khz() == 0 {
            return usage(
                "this result does not say how fast the TSC runs: the run ended before \
                          its load began"
                    .into(),
            );
        }
        Ok(Self {
            trace,
            torn,
            context: context(stored),
            units: Units::tsc(stored.tsc_khz()),
            tids: stored.threads.iter().map(|thread| (thread.thread, thread.tid)).collect(),
        })
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Why it is not all there, if so.
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    /// Groups, names, cores.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// How long a tick is.
    pub fn units(&self) -> Units {
        self.units
    }

    /// The threads that the kernel has numbers for.
    pub fn threads(&self) -> impl Iterator<Item = usize> {
        self.tids.iter().filter(|(_, tid)| **tid > 0).map(|(thread, _)| *thread)
    }

    /// Explains gaps, in their order, with their pieces; gaps of threads without a number in
    /// the result are left out.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn explanations(&self, gaps: &[StoredGap]) -> Result<Vec<Explanation>, FtraceError> {
        self.explanations_with(gaps, MOST_SEGMENTS)
    }

    /// The same with so many pieces of each gap.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn explanations_with(
        &self,
        gaps: &[StoredGap],
        max_segments: usize,
    ) -> Result<Vec<Explanation>, FtraceError> {
        let asked: Vec<Gap> = gaps.iter().filter_map(|gap| self.gap(gap)).collect();
        let context = Context { max_segments, ..self.context.clone() };
        explain(&self.trace, &asked, &context)
    }

    /// Explains one gap.
    ///
    /// # Errors
    /// The trace cannot be read, or the result does not know the gap's thread.
    pub fn explain(&self, gap: &StoredGap) -> Result<(Explained, Explanation), Failure> {
        let mut found = self.explanations(&[*gap]).or_fail(ExitStatus::Usage)?;
        let Some(found) = found.pop() else {
            let text = format!(
                "the result does not say which thread of the kernel thread {} was",
                gap.thread
            );
            return Err(Failure::new(ExitStatus::Usage, text));
        };
        Ok((Explained::new(self, gap, &found), found))
    }

    fn gap(&self, gap: &StoredGap) -> Option<Gap> {
        let tid = *self.tids.get(&gap.thread).filter(|tid| **tid > 0)?;
        Some(Gap { tid, begin: gap.tsc_begin, end: gap.tsc_end })
    }
}

fn open(path: &Path) -> Result<(Trace, Option<String>), FtraceError> {
    if !Dump::is_at(path)? {
        return Ok((Trace::open(path)?, None));
    }
    let dump = Dump::open(path)?;
    Ok((dump.trace().clone(), dump.torn().map(str::to_owned)))
}

fn context(stored: &Stored) -> Context {
    let cores: BTreeSet<Vec<u32>> = stored
        .kernel
        .siblings
        .iter()
        .filter_map(|list| units::cpu_list(list).ok())
        .map(|list| list.0.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect())
        .collect();
    let threads = stored.threads.iter().filter(|thread| thread.tid > 0);
    Context {
        topology: Topology::from_cores(cores.iter().map(Vec::as_slice)),
        groups: threads.clone().map(|thread| (thread.tid, thread.group)).collect(),
        // Numbered as on the screen.
        group_names: threads
            .clone()
            .map(|thread| (thread.group, format!("group {}", u64::from(thread.group) + 1)))
            .collect(),
        thread_names: threads
            .map(|thread| (thread.tid, format!("thread {}", thread.thread)))
            .collect(),
        core_scheduling: stored.cosched.mechanism.as_deref().is_some_and(|name| name != "none"),
        max_segments: MOST_SEGMENTS,
        ..Context::default()
    }
}
