// SPDX-License-Identifier: Apache-2.0
//! Why it happened: gaps of a result, explained from its trace, and the waits of any trace.

pub mod account;
pub mod any_trace;
mod co_run;
pub mod picture;
pub mod question;
pub mod text;
pub mod whole;

pub use question::Question;

use std::path::Path;

use results::model::RunResult;

use crate::progress::Progress;
use crate::status::Failure;

/// Fills in what the trace tells, if a run left one: why the gap was that it is about, which is
/// the one that ended it, else the longest; and who ran beside whom.
///
/// # Errors
/// The trace cannot be read or compared with the gaps.
pub fn complete(result: &mut RunResult, progress: &Progress) -> Result<(), Failure> {
    let Some(path) = result.trace.file.clone() else { return Ok(()) };
    let question = Question::new(result, Path::new(&path), progress)?;
    if let Some(gap) = result.gap() {
        result.explanation = Some(question.explain(gap)?.0);
    }
    co_run::fill_in(result, &question)
}
