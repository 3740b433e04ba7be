// SPDX-License-Identifier: Apache-2.0
//! The load: groups of measuring threads, each group a process of its own.
//!
//! [`run`] is the supervisor. It re-executes the running program once for each group (see
//! [`group_main`]), waits until every thread stands at the start barrier, releases them all
//! with one agreed moment to begin, and hands what they measure to an [`Observer`] while they
//! run. Nothing here needs to be PID 1, or root.

mod account;
mod book;
mod futex;
mod ground;
mod group;
mod memory;
pub mod place;
mod policy;
mod shared;
mod slots;
mod supervise;
mod thread;
mod watch;

use std::{io, path::PathBuf, time::Duration};

use gaps::{record::GapRecord, tsc::Sources};
use thiserror::Error;

pub use account::{cpu_stat, throttled_ns};
pub use ground::{Ground, check_cpus};
pub use group::{GROUP_COMMAND, TraceStop, group_main};
pub use policy::{PolicyError, SchedAttr, try_out};
pub use shared::SharedError;
pub use supervise::{MAX_THREADS, check_cookies, run, tsc_frequency};

use crate::{
    cosched,
    cpus::CpuSet,
    error::Owner,
    index::GroupIndex,
    meter::MeterError,
    nested::NestedError,
    wire::{LoadReport, MeterLine, ThresholdHit, Tick, VmStatus},
};

/// What the load needs to know beside its specification.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The program that becomes a group's process when its first argument is
    /// [`GROUP_COMMAND`]; usually `/proc/self/exe`.
    pub executable: PathBuf,
    /// A directory for the shared memory: best a tmpfs.
    pub memory: PathBuf,
    /// What is known of the TSC frequency before the run.
    pub tsc: Sources,
    /// Whether each group makes itself a cookie with `prctl`.
    pub cookie: bool,
    /// How the cookies of other processes' threads are read back, by number of the thread.
    pub cookie_of: fn(u32) -> io::Result<u64>,
    /// For each group, the `cgroup.procs` files to enter; may be empty.
    pub cgroups: Vec<Vec<PathBuf>>,
    /// The trace to stop at a hit.
    pub trace: Option<TraceStop>,
    /// What it all stands on.
    pub ground: Ground,
}

impl Surroundings {
    /// The running program, memory in /dev/shm where there is one, and nothing else.
    pub fn plain(kvm_khz: Option<u64>) -> Self {
        let shm = PathBuf::from("/dev/shm");
        Self {
            executable: "/proc/self/exe".into(),
            memory: if shm.is_dir() { shm } else { std::env::temp_dir() },
            tsc: Sources::known(kvm_khz),
            cookie: false,
            cookie_of: cosched::cookie_of,
            cgroups: Vec::new(),
            trace: None,
            ground: Ground::Host,
        }
    }
}

/// All threads stand at the barrier: what they found about themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prepared {
    /// Cookie of each group; 0 for none.
    pub cookies: Vec<u64>,
    /// Thread ID of each thread.
    pub tids: Vec<u32>,
    /// Affinity of each thread, read back.
    pub affinity: Vec<CpuSet>,
    /// What had to be done without.
    pub notes: Vec<String>,
    /// TSC frequency in use, in kHz.
    pub tsc_khz: u64,
    /// Cost of one turn of the meter's loop, measured before the load by its supervisor.
    pub turn_ticks: u64,
}

/// Takes what the load gives, in the supervisor's thread.
pub trait Observer {
    /// Everyone is at the barrier; the last chance to do something before the load.
    fn prepared(&mut self, prepared: &Prepared) -> io::Result<()>;
    /// The load begins at this moment, which lies just ahead.
    fn released(&mut self, tsc_start: u64) -> io::Result<()>;
    /// New records of one thread, in order.
    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()>;
    /// A line of the kernel's own meter; the load itself gives none.
    fn line(&mut self, _line: MeterLine) -> io::Result<()> {
        Ok(())
    }
    /// Once a second, after that second's records.
    fn tick(&mut self, tick: Tick) -> io::Result<()>;
    /// A gap passed the threshold, and the load is ending.
    fn hit(&mut self, hit: ThresholdHit) -> io::Result<()>;
    /// Asked a few times a second: whether to end the load now.
    fn stop_requested(&mut self) -> bool;
    /// There is still no load, and what is waited for; about once a second.
    fn waiting(&mut self, _for_what: &str) -> io::Result<()> {
        Ok(())
    }
    /// A virtual machine has come further; the nested target only, as the two below.
    fn vm(&mut self, _status: &VmStatus) -> io::Result<()> {
        Ok(())
    }
    /// A virtual machine's console.
    fn vm_console(&mut self, _vm: u32, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
    /// A line of the meter in a virtual machine.
    fn vm_line(&mut self, _vm: u32, _line: MeterLine) -> io::Result<()> {
        Ok(())
    }
    /// Processes of the load; children of the calling process that it is not to reap.
    fn processes(&mut self, _pids: &[u32]) {}
}

/// What was measured, and what went wrong meanwhile, if anything.
#[derive(Debug)]
pub struct Outcome {
    /// Results; complete unless there is a fault.
    pub report: LoadReport,
    /// What ended the load before its time, other than a hit or a request.
    pub fault: Option<LoadError>,
}

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
    /// The virtual machines of the nested target cannot be measured.
    #[error(transparent)]
    Nested(#[from] NestedError),
    /// The trace could not be stopped at a hit.
    #[error("the files that stop the trace cannot be opened")]
    TraceFiles(#[source] io::Error),
    /// The observer could not take a result.
    #[error("results cannot be handed on")]
    Observer(#[from] io::Error),
}
