// SPDX-License-Identifier: Apache-2.0
//! What the kernel under test ran on.

use protocol::job::{Pv, Transport};
use serde::{Deserialize, Serialize};

use super::flattened::{Flattened, flattened};
use super::vcpu_end::VcpuEndReason;

/// What the kernel under test ran on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// In a line.
    pub summary: String,
    /// The microVM; `None` with target `host`.
    #[serde(flatten, deserialize_with = "flattened")]
    pub vm: Option<MicroVm>,
}

/// A microVM of ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MicroVm {
    /// How many.
    pub cpus: u32,
    /// Hyperthreads.
    pub threads_per_core: u32,
    /// Its memory.
    pub memory_mib: u64,
    /// How its kernel idles.
    pub idle: Idle,
    /// KVM paravirtual features that it sees.
    pub pv: Pv,
    /// How it reaches its virtio devices.
    pub transport: Transport,
    /// Modules by name, in the order in which PID 1 loads them.
    pub modules: Vec<String>,
    /// Their length, unpacked.
    pub modules_bytes: u64,
    /// The same packed, as they are in the initrd.
    pub modules_packed_bytes: u64,
    /// The folder that they are from.
    pub modules_from: Option<String>,
    /// Host CPUs of its vCPUs; empty where they are not pinned.
    pub pins: Vec<usize>,
    /// What is to be said of these.
    pub pin_note: Option<String>,
    /// Frequency of its TSC.
    pub tsc_khz: u32,
    /// Its TSC is the host's.
    pub tsc_equals_host: bool,
    /// What it left; `None` while the run goes on.
    #[serde(flatten, deserialize_with = "flattened")]
    pub end: Option<MachineEnd>,
}

impl Flattened for MicroVm {
    const KEY: &'static str = "cpus";
}

/// How a kernel idles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// It halts.
    Halt,
    /// It spins.
    Poll,
}

/// What a microVM left when it had stopped.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MachineEnd {
    /// From the decision to stop to the last vCPU's end; `None` if one did not end.
    pub stop_us: Option<u64>,
    /// Memory of the launcher beside guest RAM.
    pub resident_beyond_ram_kib: Option<u64>,
    /// Exits to user space of all vCPUs.
    pub exits_to_user_space: u64,
    /// What the host's kernel told of vCPUs.
    pub host_evidence: HostEvidence,
    /// Its virtio-console.
    pub console: ConsoleStats,
    /// Its vCPUs, by their numbers.
    pub vcpus: Vec<VcpuEnd>,
}

impl Flattened for MachineEnd {
    const KEY: &'static str = "vcpus";
}

/// What the host's kernel told of vCPUs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HostEvidence {
    /// vCPUs that it told of.
    pub cpus: Vec<u32>,
    /// Why others are missing.
    pub note: Option<String>,
    /// Gaps whose class the host corrected.
    pub reclassified_gaps: u64,
    /// Time in them.
    pub reclassified_ticks: u64,
    /// Gaps that its records do not cover.
    pub gaps_not_covered: u64,
}

/// Counters of a virtio-console.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ConsoleStats {
    /// What the guest's driver should not have done.
    pub guest_errors: u64,
    /// Output that had no room.
    pub dropped_bytes: u64,
}

/// How a vCPU ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VcpuEnd {
    /// Its number.
    pub cpu: u32,
    /// Why: `end`, and `detail` of an end that nobody planned.
    #[serde(flatten)]
    pub end: VcpuEndReason,
    /// Its exits to user space.
    pub exits: ExitCounts,
    /// Its thread's time on a CPU of the host.
    pub host_run_ns: Option<u64>,
    /// Its thread's time waiting for one.
    pub host_wait_ns: Option<u64>,
    /// Its registers, after an end that nobody planned.
    pub state: Option<String>,
}

/// Exits to user space by kind.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ExitCounts {
    /// IN instructions.
    pub port_in: u64,
    /// OUT instructions.
    pub port_out: u64,
    /// Loads from device memory.
    pub mmio_read: u64,
    /// Stores to device memory.
    pub mmio_write: u64,
    /// All others.
    pub other: u64,
}
