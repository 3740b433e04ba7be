// SPDX-License-Identifier: Apache-2.0
//! Why a load or a meter cannot measure.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use protocol::error::Owner;
use protocol::index::GroupIndex;
use thiserror::Error;

use crate::kernel::obstacle::Obstacle;
use crate::kernel::sched_policy::PolicyError;
use crate::shared_memory::SharedError;

/// Why the load cannot be run, or not to its end.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The specification makes no sense here.
    #[error("{0}")]
    Spec(String),
    /// A CPU of the load is not there.
    #[error("CPU {cpu} of the load is not online (online: {online}); {hint}")]
    CpuAbsent {
        /// Its number.
        cpu: u32,
        /// Those that are.
        online: String,
        /// The next step.
        hint: String,
        /// Who does without it.
        owner: Owner,
    },
    /// Nobody knows which CPUs there are.
    #[error("the CPUs that are online cannot be told; /sys must be mounted")]
    Cpus(#[source] io::Error),
    /// A policy, a nice value or a slice of the load's cannot be had.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// This CPU has no RDTSCP.
    #[error("this CPU has no RDTSCP instruction; the virtual machine must not mask it out")]
    NoRdtscp,
    /// Nothing tells the TSC frequency, not even a clock.
    #[error("the TSC frequency cannot be found; CLOCK_MONOTONIC_RAW does not advance")]
    NoTscFrequency,
    /// No memory to share.
    #[error("no memory for the results")]
    Shared(#[from] SharedError),
    /// A group's process cannot be started.
    #[error("the process of {group} cannot be started from {}", executable.display())]
    Spawn {
        /// Which group.
        group: GroupIndex,
        /// The program.
        executable: PathBuf,
        /// Who keeps it from starting.
        owner: Owner,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Threads did not get ready.
    #[error("{} did not get ready within {} s", who.join(", "), deadline.as_secs())]
    NotReady {
        /// The threads.
        who: Vec<String>,
        /// How long they were given.
        deadline: Duration,
    },
    /// Threads did not end.
    #[error(
        "{} did not end within {} s of being told to: the kernel does not run them",
        who.join(", "), deadline.as_secs()
    )]
    NotEnded {
        /// The threads.
        who: Vec<String>,
        /// How long they were given.
        deadline: Duration,
    },
    /// A group's process ended before its time.
    #[error("{group} (process {pid}) ended early with {status}: {reason}")]
    GroupDied {
        /// Which group.
        group: GroupIndex,
        /// Its process.
        pid: u32,
        /// How it ended.
        status: String,
        /// What it said, or what its end means.
        reason: String,
        /// Who ended it.
        owner: Owner,
    },
    /// A group's process cannot be waited for.
    #[error("the process of a group cannot be waited for")]
    Wait(#[source] io::Error),
    /// The kernel gave cookies that cannot be right.
    #[error("{0}")]
    Cookie(String),
    /// The meter asked for cannot measure.
    #[error("the meter cannot be used")]
    Meter(#[from] MeterError),
    /// The trace could not be stopped at a hit.
    #[error("the files that stop the trace cannot be opened")]
    TraceFiles(#[source] io::Error),
    /// The observer could not take a result.
    #[error("results cannot be handed on")]
    Observer(#[from] io::Error),
}

/// Why a meter cannot be used.
#[derive(Debug, Error)]
pub enum MeterError {
    /// The kernel was built without it.
    #[error(
        "this kernel has no {meter} tracer (it has: {there}); it needs {config}, or use \
         --meter rdtsc, which needs nothing"
    )]
    Absent {
        /// Which meter.
        meter: &'static str,
        /// Tracers that the kernel has.
        there: String,
        /// What it must be built with.
        config: &'static str,
    },
    /// There is no tracing file system to have it in.
    #[error(
        "the {meter} tracer cannot be looked for: {why}; --meter rdtsc needs nothing of the kernel"
    )]
    NoTracing {
        /// Which meter.
        meter: &'static str,
        /// What stands between.
        why: Obstacle,
    },
    /// The kernel's hwlat is of the time before modes.
    #[error(
        "this kernel's hwlat has no mode {mode}, which came with Linux 5.14; \
         use --meter-mode round-robin"
    )]
    NoMode {
        /// The mode asked for.
        mode: &'static str,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Spec(String),
    /// A file of tracefs cannot be used.
    #[error("{} cannot be {}", file.display(), done(value))]
    File {
        /// The file.
        file: PathBuf,
        /// What was to be written; empty where it was to be read.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel took a value and holds another.
    #[error("{} holds `{got}` after `{wanted}` was written to it", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// What was written.
        wanted: String,
        /// What was read back.
        got: String,
    },
}

fn done(value: &str) -> String {
    if value.is_empty() { "read".into() } else { format!("set to `{value}`") }
}
