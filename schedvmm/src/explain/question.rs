// SPDX-License-Identifier: Apache-2.0
//! A trace together with what only the result knows: threads, groups, cookies, cores.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use ftrace::attribution::{Context, Explanation, Gap, Topology, Units, explain};
use ftrace::dump::Dump;
use ftrace::{FtraceError, Trace};
use protocol::index::Kind;
use results::model::{Explained, LocatedGap, Numbers, RunResult, Thread};
use results::saved::check_identity;

use super::account::Account;
use crate::progress::Progress;
use crate::status::Failure;
use crate::units;

/// The clock that gaps are measured with.
const CLOCK: &str = "x86-tsc";
/// Segments kept of a gap, for pictures.
const MAX_SEGMENTS: usize = 10_000;

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
    /// Opens a trace, a trace.dat or a stream as it came, and reads the rest from the result. How
    /// far each [`Self::reading`] of the trace is will be shown by `progress`.
    ///
    /// # Errors
    /// The trace cannot be read, is another run's, or its clock is not the one of the gaps.
    pub fn new(result: &RunResult, trace: &Path, progress: &Progress) -> Result<Self, Failure> {
        let path = trace;
        let (trace, torn) = open(path)?;
        let remark = check_identity(result, path, trace.metadata().id)?;
        let clock = &trace.metadata().clock;
        if clock.is_empty() {
            return Err(Failure::request(
                "this trace does not say which clock its times are of, so that gaps cannot be \
                 found in it",
            ));
        }
        if clock != CLOCK {
            return Err(Failure::request(format!(
                "the clock of this trace is `{clock}`, and the gaps' is the TSC: they cannot be \
                 compared; trace with a kernel that has the trace clock {CLOCK}"
            )));
        }
        if result.tsc_khz() == 0 {
            return Err(Failure::request(
                "this result does not say how fast the TSC runs: the run ended before \
                 its load began",
            ));
        }
        let bar = progress.clone();
        Ok(Self {
            trace: trace.watched(move |bytes| bar.add(bytes)),
            torn,
            remark,
            context: context(result),
            units: Units::tsc(result.tsc_khz()),
            tids: result.threads.iter().map(|thread| (thread.who, tid(thread))).collect(),
            kind: result.kind(),
            window_tsc: result.window_tsc(),
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

    /// Length of a tick.
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
    pub fn explanations(&self, gaps: &[LocatedGap]) -> Result<Vec<Explanation>, FtraceError> {
        self.explanations_with(gaps, MAX_SEGMENTS)
    }

    /// The same with so many pieces of each gap.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn explanations_with(
        &self,
        gaps: &[LocatedGap],
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
    pub fn explain(&self, gap: &LocatedGap) -> Result<(Explained, Explanation), Failure> {
        let mut found = self.explanations(&[*gap])?;
        let Some(found) = found.pop() else {
            let text = format!(
                "the result does not say which thread of the kernel {} was",
                gap.who.name(self.kind)
            );
            return Err(Failure::request(text));
        };
        Ok((explained(self, gap, &found), found))
    }

    fn gap(&self, gap: &LocatedGap) -> Option<Gap> {
        let tid = *self.tids.get(&gap.who).filter(|tid| **tid > 0)?;
        Some(Gap { tid, begin: gap.tsc_begin, end: gap.tsc_end })
    }
}

/// Opens a trace.dat or a stream as it came, and says why it is not all there, if so.
fn open(path: &Path) -> Result<(Trace, Option<String>), FtraceError> {
    if !Dump::is_at(path)? {
        return Ok((Trace::open(path)?, None));
    }
    let dump = Dump::open(path)?;
    Ok((dump.trace().clone(), dump.torn().map(str::to_owned)))
}

/// Its number as the trace has it; 0 where the result does not know it.
fn tid(thread: &Thread) -> i32 {
    i32::try_from(thread.report.tid).unwrap_or_default()
}

/// Puts into time and words what was found out about a gap.
fn explained(question: &Question, gap: &LocatedGap, found: &Explanation) -> Explained {
    let (context, units) = (question.context(), question.units());
    let Account { paragraph, clauses, parts, unknown_share } = Account::of(found, context, units);
    Explained {
        who: gap.who,
        tid: found.gap.tid,
        begin_ns: gap.begin_ns,
        length_ns: gap.length_ns,
        tsc_begin: gap.tsc_begin,
        tsc_end: gap.tsc_end,
        paragraph,
        clauses,
        parts,
        unknown_share,
        migrations: found.migrations,
        trace_late_ns: found
            .trace_begin
            .map(|begin| units.ns(begin.min(found.gap.end).saturating_sub(found.gap.begin))),
    }
}

fn context(result: &RunResult) -> Context {
    /// As many CPUs as there can be, and more hyperthreads than a core has.
    const MAX: (usize, usize) = (8192, 64);
    let siblings = result.kernel.hello.iter().flat_map(|hello| &hello.siblings);
    let cores: BTreeSet<Vec<u32>> = siblings
        .take(MAX.0)
        .filter_map(|list| units::cpu_list(list).ok())
        .filter(|list| list.0.len() <= MAX.1)
        .map(|list| list.0.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect())
        .collect();
    let limited = (1..).zip(&result.job.load.groups).filter(|(_, group)| group.quota.is_some());
    let mut context = Context {
        topology: Topology::from_cores(cores.iter().map(Vec::as_slice)),
        core_scheduling: result.has_cookies(),
        limited_groups: limited.map(|(group, _)| group).collect(),
        max_segments: MAX_SEGMENTS,
        ..Context::default()
    };
    let kind = result.kind();
    context.vcpus = kind == Kind::Vcpus;
    for thread in result.threads.iter().filter(|thread| tid(thread) > 0) {
        let tid = tid(thread);
        let Ok(member) = thread.who.member(kind) else { continue };
        // Threads without a cookie share cores with all others without one, whatever group they
        // are in: to core scheduling they are in none.
        let cookie = result.cosched.cookies.get(member.group.index());
        if context.core_scheduling && cookie == Some(&0) {
            context.thread_names.insert(tid, member.to_string());
            continue;
        }
        context.thread_names.insert(tid, member.name());
        context.groups.insert(tid, thread.who.group);
        context.group_names.insert(thread.who.group, kind.group_name(member.group));
    }
    context
}

#[cfg(test)]
mod tests {
    use protocol::index::Member;
    use protocol::message::{CoschedInterface, Hello};
    use protocol::report::ThreadReport;
    use results::model::Target;

    use super::*;
    use crate::testing;

    fn result(target: Target, cookies: &[u64]) -> RunResult {
        let thread = |index: u32| {
            let report = ThreadReport { tid: 100 + index, ..ThreadReport::default() };
            let thread = testing::thread(index as usize, report);
            let member = thread.who.member(Kind::Threads).expect("a thread");
            Thread { who: Member { kind: target.kind(), ..member }.into(), ..thread }
        };
        let mut result = testing::result();
        let siblings = ["0-1", "0-1", "2,3", "2,3"].map(Into::into).into();
        result.target = target;
        result.kernel.hello = Some(Hello { siblings, ..Hello::default() });
        result.cosched.mechanism = Some(CoschedInterface::Prctl);
        result.cosched.cookies = cookies.into();
        result.threads = (0..4).map(thread).collect();
        result
    }

    #[test]
    fn threads_have_the_names_of_the_screen() {
        let context = context(&result(Target::User, &[7, 8]));
        assert_eq!(context.thread_names[&103], "thread 2");
        assert_eq!(context.group_name(context.groups[&103]), "group 2");
        assert_eq!(context.topology.siblings(2), [3]);
        assert!(context.core_scheduling);
    }

    #[test]
    fn vcpus_have_those_of_their_machines() {
        let context = context(&result(Target::Nested, &[]));
        assert_eq!(context.thread_names[&102], "vCPU 0");
        assert_eq!(context.group_name(context.groups[&102]), "VM 2");
    }

    #[test]
    fn who_has_no_cookie_is_in_no_group() {
        let context = context(&result(Target::User, &[7, 0]));
        assert_eq!(context.thread_names[&102], "group 2 thread 1");
        assert!(!context.groups.contains_key(&102) && context.groups.contains_key(&101));
    }
}
