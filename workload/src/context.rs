// SPDX-License-Identifier: Apache-2.0
//! What the load needs to know beside its specification.

use std::io;
use std::path::PathBuf;

use gaps::tsc::Sources;
use protocol::group_process::TraceStop;

use crate::ground::Ground;
use crate::kernel::core_sched;

/// What the load needs to know beside its specification.
#[derive(Clone, Debug)]
pub struct WorkloadContext {
    /// The program that becomes a group's process when its first argument is
    /// `GROUP_COMMAND`; usually `/proc/self/exe`.
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

impl WorkloadContext {
    /// The running program, memory in /dev/shm where there is one, and nothing else.
    pub fn plain(kvm_khz: Option<u64>) -> Self {
        let shm = PathBuf::from("/dev/shm");
        Self {
            executable: "/proc/self/exe".into(),
            memory: if shm.is_dir() { shm } else { std::env::temp_dir() },
            tsc: Sources::known(kvm_khz),
            cookie: false,
            cookie_of: core_sched::cookie_of,
            cgroups: Vec::new(),
            trace: None,
            ground: Ground::Host,
        }
    }
}
