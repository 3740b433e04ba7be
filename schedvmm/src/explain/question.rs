// SPDX-License-Identifier: Apache-2.0
//! A trace together with what only the result knows: threads, groups, cookies, cores.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use ftrace::attribution::{Context, Explanation, Gap, Topology, Units, explain};
use ftrace::dump::Dump;
use ftrace::{FtraceError, Trace};
use protocol::index::Kind;

use super::Explained;
use crate::progress::Progress;
use crate::status::Failure;
use crate::stored::{Numbers, Stored, StoredGap};
use crate::units;

/// The clock that gaps are measured with.
const CLOCK: &str = "x86-tsc";
/// Segments kept of a gap, for pictures.
const MOST_SEGMENTS: usize = 10_000;

/// What gaps of one result can be explained with.
pub struct Question {
    trace: Trace,
    torn: Option<String>,
    remark: Option<String>,
    context: Context,
    units: Units,
    /// Of the load's threads, by their numbers.
    tids: BTreeMap<Numbers, i32>,
    kind: Kind,
    window_tsc: Range<u64>,
    progress: Progress,
}

impl Question {
    /// Opens a trace, a trace.dat or a stream as it came, and reads the rest from the result. How far
    /// each [`Self::reading`] of the trace is will be shown by `progress`.
    ///
    /// # Errors
    /// The trace cannot be read, is another run's, or its clock is not the one of the gaps.
    pub fn new(stored: &Stored, trace: &Path, progress: &Progress) -> Result<Self, Failure> {
        let path = trace;
        let (trace, torn) = open(path)?;
        let remark = stored.check_identity(path, trace.metadata().id)?;
        let clock = &trace.metadata().clock;
        let usage = |text: String| Err(Failure::request(text));
        if clock.is_empty() {
            return usage(
                "this trace does not say which clock its times are of, so that gaps cannot be \
                 found in it"
                    .into(),
            );
        }
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
        let bar = progress.clone();
        Ok(Self {
            trace: trace.watched(move |bytes| bar.add(bytes)),
            torn,
            remark,
            context: context(stored),
            units: Units::tsc(stored.tsc_khz()),
            tids: stored.threads.iter().map(|thread| (thread.who, thread.tid)).collect(),
            kind: stored.kind(),
            window_tsc: stored.window_tsc(),
            progress: progress.clone(),
        })
    }

    /// Does what reads the trace once, and may take long, in sight of the user.
    pub fn reading<T>(&self, name: &'static str, read: impl FnOnce(&Trace) -> T) -> T {
        self.progress.phase(name, self.trace.pages_bytes());
        let found = read(&self.trace);
        self.progress.done();
        found
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Why it is not all there, if so.
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    /// Why it may be another run's, if nobody can tell.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// What the groups of the load were.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Groups, names, cores.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// From the load's start to where the figures of the result end.
    pub fn window_tsc(&self) -> &Range<u64> {
        &self.window_tsc
    }

    /// How long a tick is.
    pub fn units(&self) -> Units {
        self.units
    }

    /// The threads that the kernel has numbers for.
    pub fn threads(&self) -> impl Iterator<Item = Numbers> {
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
        self.reading("explain", |trace| explain(trace, &asked, &context))
    }

    /// Explains one gap.
    ///
    /// # Errors
    /// The trace cannot be read, or the result does not know the gap's thread.
    pub fn explain(&self, gap: &StoredGap) -> Result<(Explained, Explanation), Failure> {
        let mut found = self.explanations(&[*gap])?;
        let Some(found) = found.pop() else {
            let text = format!(
                "the result does not say which thread of the kernel {} was",
                gap.who.name(self.kind)
            );
            return Err(Failure::request(text));
        };
        Ok((Explained::new(self, gap, &found), found))
    }

    fn gap(&self, gap: &StoredGap) -> Option<Gap> {
        let tid = *self.tids.get(&gap.who).filter(|tid| **tid > 0)?;
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
    /// As many CPUs as there can be, and more hyperthreads than a core has.
    const MOST: (usize, usize) = (8192, 64);
    let cores: BTreeSet<Vec<u32>> = stored
        .kernel
        .siblings
        .iter()
        .take(MOST.0)
        .filter_map(|list| units::cpu_list(list).ok())
        .filter(|list| list.0.len() <= MOST.1)
        .map(|list| list.0.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect())
        .collect();
    let limited = (1..).zip(&stored.job.load.shape).filter(|(_, shape)| shape.quota.is_some());
    let mut context = Context {
        topology: Topology::from_cores(cores.iter().map(Vec::as_slice)),
        core_scheduling: stored.cosched.mechanism.as_deref().is_some_and(|name| name != "none"),
        limited_groups: limited.map(|(group, _)| group).collect(),
        max_segments: MOST_SEGMENTS,
        ..Context::default()
    };
    let kind = stored.kind();
    context.vcpus = kind == Kind::Vcpus;
    for thread in stored.threads.iter().filter(|thread| thread.tid > 0) {
        let Ok(member) = thread.who.member(kind) else { continue };
        // Threads without a cookie share cores with all others without one, whatever group they
        // are in: to core scheduling they are in none.
        let cookie = stored.cosched.cookies.get(member.group.index());
        if context.core_scheduling && cookie == Some(&0) {
            context.thread_names.insert(thread.tid, member.to_string());
            continue;
        }
        context.thread_names.insert(thread.tid, member.name());
        context.groups.insert(thread.tid, thread.who.group);
        context.group_names.insert(thread.who.group, kind.group_name(member.group));
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::{StoredCosched, StoredKernel, StoredThread};

    fn stored(target: &str, cookies: &[u64]) -> Stored {
        let first = u32::from(target != "nested");
        let thread = |n: u32| {
            let who = Numbers { group: n / 2 + 1, thread: n % 2 + first };
            StoredThread { who, tid: 100 + n.cast_signed() }
        };
        Stored {
            target: target.into(),
            kernel: StoredKernel { siblings: ["0-1", "0-1", "2,3", "2,3"].map(Into::into).into() },
            cosched: StoredCosched { mechanism: Some("prctl".into()), cookies: cookies.into() },
            threads: (0..4).map(thread).collect(),
            ..Stored::default()
        }
    }

    #[test]
    fn threads_have_the_names_of_the_screen() {
        let context = context(&stored("user", &[7, 8]));
        assert_eq!(context.thread_names[&103], "thread 2");
        assert_eq!(context.group_name(context.groups[&103]), "group 2");
        assert_eq!(context.topology.siblings(2), [3]);
        assert!(context.core_scheduling);
    }

    #[test]
    fn vcpus_have_those_of_their_machines() {
        let context = context(&stored("nested", &[]));
        assert_eq!(context.thread_names[&102], "vCPU 0");
        assert_eq!(context.group_name(context.groups[&102]), "VM 2");
    }

    #[test]
    fn who_has_no_cookie_is_in_no_group() {
        let context = context(&stored("user", &[7, 0]));
        assert_eq!(context.thread_names[&102], "group 2 thread 1");
        assert!(!context.groups.contains_key(&102) && context.groups.contains_key(&101));
    }
}
