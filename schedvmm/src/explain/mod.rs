// SPDX-License-Identifier: Apache-2.0
//! Why it happened: gaps of a result, explained from its trace.

mod question;
mod text;
mod verb;
mod whole;

pub use question::Question;
pub use verb::run;

use std::path::Path;

use ftrace::attribution::{Cause, Clause, Culprit, Explanation, Part};
use protocol::error::Owner;
use serde::Serialize;

use crate::co_run::CoRun;
use crate::progress::Progress;
use crate::result::RunResult;
use crate::status::{Failure, OrFail};
use crate::stored::{Numbers, Stored, StoredGap};

/// Version of what `schedvmm explain --json` prints.
pub const SCHEMA: &str = "schedvmm-explanation/2";

/// Fills in what the trace tells, if a run left one: why the gap was that it is about, which is
/// the one that ended it, else the longest; and who ran beside whom.
///
/// # Errors
/// The trace cannot be read or compared with the gaps.
pub fn complete(result: &mut RunResult, progress: &Progress) -> Result<(), Failure> {
    let Some(path) = result.trace.file.clone() else { return Ok(()) };
    let value = serde_json::to_value(&*result).or_fail(Owner::Internal)?;
    let stored: Stored = serde_json::from_value(value).or_fail(Owner::Internal)?;
    let question = Question::new(&stored, Path::new(&path), progress)?;
    if let Some(gap) = stored.threshold_hit.or(stored.longest_gap) {
        result.explanation = Some(question.explain(&gap)?.0);
    }
    CoRun::book(result, &question)
}

/// A gap and why it was, as `explain --json` and `result.json` have it; see docs/formats.md.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Explained {
    #[serde(flatten)]
    pub who: Numbers,
    pub tid: i32,
    pub begin_ns: u64,
    pub length_ns: u64,
    pub tsc_begin: u64,
    pub tsc_end: u64,
    /// For people.
    pub paragraph: String,
    /// What the paragraph says, in full; their ticks sum to the gap's.
    pub clauses: Vec<ExplainedClause>,
    /// Longest first; their ticks sum to the gap's.
    pub parts: Vec<ExplainedPart>,
    /// Part of the gap of which the trace does not tell the cause.
    pub unknown_share: f64,
    pub migrations: u64,
    /// How long after the gap's beginning the trace begins, if so.
    pub trace_late_ns: Option<u64>,
}

/// All of a gap's time that has one cause.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ExplainedPart {
    #[serde(flatten)]
    pub part: Part,
    pub ns: u64,
    pub longest_ns: u64,
    pub share: f64,
    /// For people.
    pub text: String,
}

/// All of a gap's time with one kind of cause.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ExplainedClause {
    pub what: String,
    pub note: Option<String>,
    pub by: Option<String>,
    pub ticks: u64,
    pub ns: u64,
    /// Of the gap.
    pub share: f64,
    /// As in the paragraph: those that are not of the load first, then by time. Their ticks sum
    /// to the clause's.
    pub culprits: Vec<ExplainedCulprit>,
}

/// Who was in the way, and for how long.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ExplainedCulprit {
    #[serde(flatten)]
    pub culprit: Culprit,
    pub ns: u64,
    /// Of the clause.
    pub share: f64,
}

impl Explained {
    /// Whether some of it was forced idle.
    pub fn is_forced_idle(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.part.cause, Cause::ForcedIdle { .. }))
    }

    /// Puts into time and words what was found out about a gap.
    fn new(question: &Question, gap: &StoredGap, found: &Explanation) -> Self {
        let (context, units) = (question.context(), question.units());
        let ticks = found.gap.end.saturating_sub(found.gap.begin);
        let share = |part: u64| gaps::stats::share(part, ticks).unwrap_or(0.0);
        let part = |part: &Part| ExplainedPart {
            ns: units.ns(part.ticks),
            longest_ns: units.ns(part.longest),
            share: share(part.ticks),
            text: part.cause.describe(context),
            part: part.clone(),
        };
        let clause = |clause: Clause| {
            let Clause { what, note, by, ticks, culprits } = clause;
            let culprit = |culprit: Culprit| ExplainedCulprit {
                ns: units.ns(culprit.ticks),
                share: gaps::stats::share(culprit.ticks, ticks).unwrap_or(0.0),
                culprit,
            };
            let culprits = culprits.into_iter().map(culprit).collect();
            let (ns, share) = (units.ns(ticks), share(ticks));
            ExplainedClause { what, note, by, ticks, ns, share, culprits }
        };
        Self {
            who: gap.who,
            tid: found.gap.tid,
            begin_ns: gap.begin_ns,
            length_ns: gap.length_ns,
            tsc_begin: gap.tsc_begin,
            tsc_end: gap.tsc_end,
            paragraph: found.paragraph(context, units),
            clauses: found.clauses(context).into_iter().map(clause).collect(),
            parts: found.parts.iter().map(part).collect(),
            unknown_share: share(found.unknown_ticks()),
            migrations: found.migrations,
            trace_late_ns: found
                .trace_begin
                .map(|begin| units.ns(begin.min(found.gap.end).saturating_sub(found.gap.begin))),
        }
    }
}
