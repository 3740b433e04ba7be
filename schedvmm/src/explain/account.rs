// SPDX-License-Identifier: Apache-2.0
//! An explanation in time and words: what every answer has, whatever the gap is from.

use ftrace::attribution::{Clause, Context, Explanation, Part, Units};
use results::model::{ExplainedClause, ExplainedCulprit, ExplainedPart};

/// What was found out about a gap.
pub struct Account {
    /// For people.
    pub paragraph: String,
    /// What the paragraph says, in full; their ticks sum to the gap's.
    pub clauses: Vec<ExplainedClause>,
    /// Longest first; their ticks sum to the gap's.
    pub parts: Vec<ExplainedPart>,
    /// Part of the gap of which the trace does not tell the cause.
    pub unknown_share: f64,
}

impl Account {
    /// Puts an explanation into time and words.
    pub fn of(found: &Explanation, context: &Context, units: Units) -> Self {
        let ticks = found.gap.end.saturating_sub(found.gap.begin);
        let clauses = found.clauses(context).into_iter();
        let parts = found.parts.iter();
        Self {
            paragraph: found.paragraph(context, units),
            clauses: clauses.map(|clause| explained_clause(clause, ticks, units)).collect(),
            parts: parts.map(|part| explained_part(part, ticks, (context, units))).collect(),
            unknown_share: share_of(found.unknown_ticks(), ticks),
        }
    }
}

/// A part of a whole in ticks as a share of it; 0 of nothing.
fn share_of(part: u64, whole: u64) -> f64 {
    gaps::stats::share(part, whole).unwrap_or(0.0)
}

/// A part of a gap of that many ticks.
fn explained_part(
    part: &Part,
    gap_ticks: u64,
    (context, units): (&Context, Units),
) -> ExplainedPart {
    ExplainedPart {
        ns: units.ns(part.ticks),
        longest_ns: units.ns(part.longest),
        share: share_of(part.ticks, gap_ticks),
        text: part.cause.describe(context),
        part: part.clone(),
    }
}

/// A clause about a gap of that many ticks; its culprits have shares of the clause.
fn explained_clause(clause: Clause, gap_ticks: u64, units: Units) -> ExplainedClause {
    let Clause { what, note, by, ticks, culprits } = clause;
    let culprits = culprits
        .into_iter()
        .map(|culprit| ExplainedCulprit {
            ns: units.ns(culprit.ticks),
            share: share_of(culprit.ticks, ticks),
            culprit,
        })
        .collect();
    ExplainedClause {
        what,
        note,
        by,
        ticks,
        ns: units.ns(ticks),
        share: share_of(ticks, gap_ticks),
        culprits,
    }
}
