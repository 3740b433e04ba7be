// SPDX-License-Identifier: Apache-2.0
//! Why a gap was, as `result.json` and `explain --json` have it.

use ftrace::attribution::{Cause, ClauseKind, Culprit, Part};
use serde::{Deserialize, Serialize};

use super::gap::Numbers;

/// A gap and why it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The thread that had it.
    #[serde(flatten)]
    pub who: Numbers,
    /// Its number in its kernel.
    pub tid: i32,
    /// From the start of the load.
    pub begin_ns: u64,
    /// How long it was.
    pub length_ns: u64,
    /// TSC before it.
    pub tsc_begin: u64,
    /// TSC after it.
    pub tsc_end: u64,
    /// For people.
    pub paragraph: String,
    /// What the paragraph says, in full; their ticks sum to the gap's.
    pub clauses: Vec<ExplainedClause>,
    /// Longest first; their ticks sum to the gap's.
    pub parts: Vec<ExplainedPart>,
    /// Part of the gap of which the trace does not tell the cause.
    pub unknown_share: f64,
    /// How often it went to another CPU.
    pub migrations: u64,
    /// How long after the gap's beginning the trace begins, if so.
    pub trace_late_ns: Option<u64>,
}

impl Explained {
    /// Whether some of it was forced idle.
    pub fn is_forced_idle(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.part.cause, Cause::ForcedIdle { .. }))
    }
}

/// All of a gap's time that has one cause.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedPart {
    /// The cause, and its time in ticks.
    #[serde(flatten)]
    pub part: Part,
    /// Its time.
    pub ns: u64,
    /// Of one piece.
    pub longest_ns: u64,
    /// Of the gap.
    pub share: f64,
    /// For people.
    pub text: String,
}

/// All of a gap's time with one kind of cause.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedClause {
    /// The kind.
    pub what: ClauseKind,
    /// What more there is to say of it.
    pub note: Option<String>,
    /// What the culprits are to it.
    pub by: Option<String>,
    /// Its time in ticks.
    pub ticks: u64,
    /// Its time.
    pub ns: u64,
    /// Of the gap.
    pub share: f64,
    /// As in the paragraph: those that are not of the load first, then by time. Their ticks sum
    /// to the clause's.
    pub culprits: Vec<ExplainedCulprit>,
}

/// Who was in the way, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainedCulprit {
    /// Who, and the time in ticks.
    #[serde(flatten)]
    pub culprit: Culprit,
    /// The time.
    pub ns: u64,
    /// Of the clause.
    pub share: f64,
}
