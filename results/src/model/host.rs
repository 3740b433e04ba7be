// SPDX-License-Identifier: Apache-2.0
//! The host, as far as a reader needs to know it to trust, or to repeat, a figure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// CPUID signature of QEMU's software emulation.
pub const EMULATION: &str = "TCGTCGTCGTCG";

/// Facts about the host; `None` for what it does not tell. Values are as the kernel has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel: Option<String>,
    /// `uname -v`.
    pub kernel_version: Option<String>,
    /// `/proc/cmdline`.
    pub cmdline: Option<String>,
    /// Model of its CPUs.
    pub cpu: Option<String>,
    /// As a list.
    pub cpus_online: Option<String>,
    /// Whether hyperthreads are on.
    pub smt: Option<String>,
    /// The current one.
    pub clocksource: Option<String>,
    /// Of the first CPU's frequency.
    pub governor: Option<String>,
    /// Signature of the hypervisor it runs on, if it is a guest itself.
    pub hypervisor: Option<String>,
    /// Parameter of kvm.
    pub kvm_halt_poll_ns: Option<String>,
    /// Whether sessions share the CPU before their threads do.
    pub sched_autogroup: Option<String>,
    /// Revision of it.
    pub microcode: Option<String>,
    /// Driver of the first CPU's frequency.
    pub frequency_driver: Option<String>,
    /// Whether CPUs may go beyond their nominal frequency.
    pub boost: Option<String>,
    /// The same, as Intel's driver has it.
    pub intel_no_turbo: Option<String>,
    /// Where its cores are of several kinds, the fastest first.
    pub cpu_kinds: Vec<CpuKind>,
    /// As a list.
    pub cpus_isolated: Option<String>,
    /// As a list.
    pub cpus_nohz_full: Option<String>,
    /// Which memory has them.
    pub transparent_hugepages: Option<String>,
    /// CPU time of real-time tasks.
    pub rt_runtime_us: Option<String>,
    /// `/proc/loadavg`.
    pub load_average: Option<String>,
    /// Those of this process, as `/proc/self/cgroup` has them.
    pub cgroup: Option<String>,
    /// Of weaknesses of its CPUs.
    pub mitigations: BTreeMap<String, String>,
    /// Parameters of KVM's modules.
    pub kvm: BTreeMap<String, BTreeMap<String, String>>,
    /// Every file that steers the scheduler, with what is in it.
    pub scheduler_files: BTreeMap<String, String>,
}

/// CPUs of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuKind {
    /// What it is called, and by whom.
    pub name: String,
    /// Its CPUs, as a list.
    pub cpus: String,
}
