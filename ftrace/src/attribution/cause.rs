// SPDX-License-Identifier: Apache-2.0
//! The causes, and how a gap divides among them.

use serde::{Deserialize, Serialize};

use super::Gap;

/// A thread in the way of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its number; -1 stands for many threads that were too many to list.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// The group it belongs to.
    pub group: Option<u32>,
}

/// Why a thread did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// It was runnable, and its CPU ran another thread.
    Queued {
        /// Its CPU.
        cpu: u32,
        /// What ran there.
        behind: Task,
    },
    /// It was runnable, and its CPU was idle because the core ran a thread of another group.
    ForcedIdle {
        /// Its CPU.
        cpu: u32,
        /// Where the other thread ran.
        sibling: u32,
        /// The other thread.
        by: Task,
    },
    /// It was runnable, its CPU was idle, and its group has a limit of CPU time.
    Throttled {
        /// Its CPU.
        cpu: u32,
    },
    /// It was runnable and its CPU idle, for no reason that the trace shows: the CPU is being
    /// woken, or somebody forgot to.
    Idle {
        /// Its CPU.
        cpu: u32,
    },
    /// Being woken: from `sched_waking` to `sched_wakeup`.
    Waking {
        /// Where it is to run, as far as known.
        cpu: u32,
    },
    /// On its way to another CPU: woken for one that is not the last one it ran on, or moved
    /// by the stopper thread.
    Migrating {
        /// Where it comes from or goes to.
        cpu: u32,
    },
    /// It waited for something: no scheduling gap.
    Sleeping {
        /// As `ps` shows it, such as `S`, `D` or `X`.
        state: char,
    },
    /// It ran, and the CPU served an interrupt.
    Irq {
        /// The CPU.
        cpu: u32,
        /// Number and name of a device's, or the name of one of the CPUs' own.
        name: String,
    },
    /// It ran, and the CPU served a softirq.
    Softirq {
        /// The CPU.
        cpu: u32,
        /// The softirq's name.
        name: String,
    },
    /// The trace says that it ran. If it did not: the host took the CPU away (steal), or the
    /// firmware did (SMI). A virtual CPU's thread also runs while the hypervisor works for it.
    Running {
        /// The CPU.
        cpu: u32,
    },
    /// The trace does not say.
    Unknown {
        /// Why not.
        reason: UnknownReason,
    },
}

/// Why a trace does not say what a thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UnknownReason {
    /// The trace had not begun.
    BeforeTrace,
    /// The trace has ended.
    AfterTrace,
    /// Events are missing.
    LostEvents,
    /// No event so far says where the thread is.
    NotSeen,
    /// The thread slept and then ran, and no event says when it was woken.
    WakeNotSeen,
}

/// All of a gap's time that has one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
    /// How long, in units of the trace clock.
    pub ticks: u64,
    /// In how many pieces.
    pub pieces: u64,
    /// The longest piece.
    pub longest: u64,
}

/// A piece of a gap, with one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// When it began, by the trace clock.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
    /// Why: a place in [`Explanation::parts`].
    pub part: usize,
}

/// A gap taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The gap.
    pub gap: Gap,
    /// The thread's name.
    pub name: String,
    /// The thread's group.
    pub group: Option<u32>,
    /// The parts, longest first. Their ticks sum to the gap exactly.
    pub parts: Vec<Part>,
    /// The pieces in order of time, up to [`super::Context::max_segments`].
    pub segments: Vec<Segment>,
    /// Pieces that are not in `segments`, the last ones of the gap.
    pub segments_left_out: u64,
    /// How often the thread changed its CPU.
    pub migrations: u64,
    /// When the trace begins, if that is in the gap or after it: what was before is unknown.
    pub trace_begin: Option<u64>,
}

impl Explanation {
    /// Ticks of all parts that `select` picks.
    pub fn ticks_of(&self, select: impl Fn(&Cause) -> bool) -> u64 {
        self.parts.iter().filter(|part| select(&part.cause)).map(|part| part.ticks).sum()
    }

    /// Ticks of which the trace does not tell the cause.
    pub fn unknown_ticks(&self) -> u64 {
        self.ticks_of(|cause| matches!(cause, Cause::Unknown { .. }))
    }
}
