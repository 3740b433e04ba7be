// SPDX-License-Identifier: Apache-2.0
//! What the supervisor of a load tells the process of a group.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Owner;
use crate::index::GroupIndex;
use crate::job::LoadSpec;

/// First argument that turns the executable into a group's process.
pub const GROUP_COMMAND: &str = "load-group";

/// What one group's process is to do: its second argument, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupPlan {
    /// The load, of all groups this one alone.
    pub spec: LoadSpec,
    /// Which group this is.
    pub group: GroupIndex,
    /// Place of its first thread among those of all groups.
    pub first_thread: u32,
    /// CPUs of each of its threads, as lists.
    pub places: Vec<String>,
    /// The shared memory of all groups.
    pub size: Size,
    /// The process that started it; without it the group ends.
    pub parent: u32,
    /// File of the shared memory.
    pub shared: PathBuf,
    /// TSC frequency.
    pub tsc_khz: u64,
    /// Cost of one iteration of the meter's loop.
    pub iteration_ticks: u64,
    /// Whether the process gives itself a core-scheduling cookie.
    pub cookie: bool,
    /// `cgroup.procs` files to enter.
    pub cgroups: Vec<PathBuf>,
    /// The trace to stop at a hit.
    pub trace: Option<TraceStop>,
    /// Who is to blame for what this process cannot have.
    pub owner: Owner,
}

/// How to stop tracing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStop {
    /// Path of `trace_marker`.
    pub marker: PathBuf,
    /// Path of `tracing_on`.
    pub switch: PathBuf,
}

/// What the size of the mapping follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Groups.
    pub groups: usize,
    /// Threads in all.
    pub threads: usize,
    /// Records for each thread.
    pub records: u32,
    /// Times in which it wants to run, for each thread.
    pub spans: u32,
}

impl Size {
    /// For a load.
    pub fn of(spec: &LoadSpec) -> Self {
        Self {
            groups: spec.groups.len(),
            threads: spec.threads(),
            records: spec.records_per_thread,
            spans: spec.spans_per_thread(),
        }
    }
}
