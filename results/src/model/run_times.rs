// SPDX-License-Identifier: Apache-2.0
//! Where the time went in all of a run, as `explain --run --json` has it.

use serde::{Deserialize, Serialize};

use super::gap::Numbers;

/// What all threads did, and how long each CPU was forced idle for whom, in the part of the
/// measurement that the trace has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunTimes {
    /// TSC at its begin.
    pub tsc_begin: u64,
    /// TSC at its end.
    pub tsc_end: u64,
    /// Its length.
    pub length_ns: u64,
    /// Threads of the load, group by group.
    pub threads: Vec<ThreadTimes>,
    /// Forced idle time by CPU and by whom it was for.
    pub forced_idle: Vec<ForcedIdleTime>,
    /// Pieces that were too many to look at, the last ones: forced idle is too low then.
    pub pieces_left_out: u64,
}

/// Times of a thread in each state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ThreadTimes {
    /// The thread.
    #[serde(flatten)]
    pub who: Numbers,
    /// Its number in its kernel.
    pub tid: i32,
    /// What it did.
    #[serde(flatten)]
    pub spent: Spent,
}

/// What a thread did all the time; the parts sum to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// It ran.
    pub running_ns: u64,
    /// On a run queue, and others ran.
    pub queued_ns: u64,
    /// On the run queue of a CPU that was kept idle.
    pub forced_idle_ns: u64,
    /// It slept.
    pub asleep_ns: u64,
    /// The trace does not tell.
    pub unknown_ns: u64,
    /// Throttled, being woken, migrating, idle without a reason, interrupts.
    pub other_ns: u64,
}

/// A CPU that was idle while a thread waited for it, because a group had the core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForcedIdleTime {
    /// The CPU.
    pub cpu: u32,
    /// Whose threads ran on the sibling; `None` for threads of no group.
    pub by_group: Option<u32>,
    /// For how long.
    pub ns: u64,
}
