// SPDX-License-Identifier: Apache-2.0
//! Why a thread did not run: each gap cut into parts with a cause, that sum to the gap.
//!
//! A state machine follows the CPUs and the threads of interest through the trace, once,
//! for all gaps together. What it knows at any time about a thread is where it is:
//!
//! ```text
//!            switched in                    sched_waking
//!   Queued ──────────────▶ Running   Sleeping ─────────▶ Waking
//!     ▲  ▲                  │    │       ▲                  │
//!     │  └──────────────────┘    └───────┘                  │
//!     │    switched out, could      switched out, waits     │
//!     │    go on                                            │
//!     └─────────────────────────────────────────────────────┘
//!                         sched_wakeup
//! ```
//!
//! and about a CPU what runs on it. The cause follows from the two; where the trace does not
//! tell them, the cause is [`Cause::Unknown`], never a guess.
//!
//! It needs `sched_switch`, `sched_waking`, `sched_wakeup`, `sched_wakeup_new` and
//! `sched_migrate_task`; `irq:*` and `irq_vectors:*` where interrupts are to be told from the
//! thread itself.

mod accounting;
mod cause;
mod clause;
mod clause_kind;
mod context;
mod explanation;
mod gap_account;
mod initial_state;
mod place;
mod text;
mod tracker;

pub use cause::{Cause, Explanation, Part, Segment, Task, UnknownReason};
pub use clause::{Clause, Culprit};
pub use clause_kind::ClauseKind;
pub use context::{Context, Topology};
pub use text::Units;
pub use tracker::Attributor;

use serde::{Deserialize, Serialize};

use crate::error::FtraceError;
use crate::trace::Trace;

/// An interval in which a thread wanted to run and did not. Times are of the trace clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The thread, as the traced kernel numbers it.
    pub tid: i32,
    /// When it began.
    pub begin: u64,
    /// When it ended; one that ends before `begin` counts as one of no length.
    pub end: u64,
}

/// Explains gaps; the answers are in the order of the questions.
///
/// The trace is read up to the end of the last gap; its beginning is read twice. Memory is
/// that of [`Trace::events`] and of the answers.
///
/// # Errors
/// [`FtraceError::ReadPages`] and [`FtraceError::TooLarge`].
pub fn explain(
    trace: &Trace,
    gaps: &[Gap],
    context: &Context,
) -> Result<Vec<Explanation>, FtraceError> {
    let mut attributor = Attributor::new(trace, gaps, context)?;
    let mut events = trace.events()?;
    while !attributor.is_done()
        && let Some(item) = events.next()?
    {
        attributor.take(&item);
    }
    Ok(attributor.finish(&trace.comms()))
}
