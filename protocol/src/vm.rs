// SPDX-License-Identifier: Apache-2.0
//! A virtual machine of the nested target, as the agent beside it knows it.

use serde::{Deserialize, Serialize};

use crate::job::Transport;
use crate::meter::MeterFacts;

/// A virtual machine of the nested target, as the agent beside it knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its number, from 1.
    pub vm: u32,
    /// How far it has come.
    pub phase: VmPhase,
    /// Its launcher's process.
    pub pid: u32,
    /// Its vCPUs' threads.
    pub threads: Vec<VmThread>,
    /// How it reaches its virtio devices; `None` before its kernel was entered.
    pub transport: Option<Transport>,
    /// Whether its vCPUs' TSC equals that of the machine it runs in.
    pub tsc_shared: bool,
    /// A reading of its TSC between two of the machine it runs in.
    pub tsc_check: Option<TscCheck>,
    /// Resident memory of its launcher, guest memory included, in KiB, at the end.
    pub rss_kib: Option<u64>,
    /// The same with pages that several processes share divided among them.
    pub pss_kib: Option<u64>,
    /// When it came how far, in nanoseconds since the agent began with its VMs.
    pub times: VmTimes,
    /// The meter it has chosen.
    pub meter: Option<MeterFacts>,
    /// Why it did not measure to the end; `None` for one that did.
    pub fault: Option<String>,
    /// The same for programs.
    pub fault_code: Option<VmFault>,
    /// How far it had come then.
    pub fault_phase: Option<VmPhase>,
    /// Registers of its vCPUs, where the launcher had to end it.
    pub state: Option<String>,
}

/// How far a virtual machine has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmPhase {
    /// Its launcher has been started.
    #[default]
    Started,
    /// Its kernel runs.
    Booting,
    /// Its PID 1 is alive.
    Up,
    /// It is ready.
    Ready,
    /// It measures.
    Measuring,
    /// It has reported.
    Reported,
    /// It has ended.
    Ended,
}

/// Why a virtual machine did not measure to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmFault {
    /// Its agent could not go on, and said why.
    Failed,
    /// Its kernel ended, or it was ended, before it had reported.
    Ended,
    /// It ended after its report in another way than by power-off.
    EndedAfterReport,
    /// Its launcher ended.
    LauncherEnded,
    /// It did not do in time what was waited for, and was given up.
    TimedOut,
    /// What it said made no sense.
    ProtocolError,
    /// Its kernel does not run as its command line says.
    CommandLineIgnored,
}

impl VmPhase {
    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Booting => "booting",
            Self::Up => "up",
            Self::Ready => "ready",
            Self::Measuring => "measuring",
            Self::Reported => "reported",
            Self::Ended => "ended",
        }
    }
}

/// When a virtual machine came how far, in nanoseconds since the agent began with its VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmTimes {
    /// Its kernel was entered.
    pub booting_ns: Option<u64>,
    /// Its PID 1 said that it is alive.
    pub up_ns: Option<u64>,
    /// It was ready.
    pub ready_ns: Option<u64>,
    /// Its vCPU threads were confined.
    pub confined_ns: Option<u64>,
    /// Its first gap record arrived.
    pub first_record_ns: Option<u64>,
}

/// The thread of a vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmThread {
    /// Thread ID in the machine that it runs in.
    pub tid: u32,
    /// Its cookie read back; 0 for none.
    pub cookie: u64,
    /// Its affinity read back while it was measured.
    pub affinity: String,
    /// Time on a CPU while it was measured, in nanoseconds.
    pub run_ns: Option<u64>,
    /// Time it waited for one meanwhile.
    pub wait_ns: Option<u64>,
}

/// A guest's TSC between two readings of the machine it runs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TscCheck {
    /// Before the guest was told to read its own.
    pub before: u64,
    /// The guest's.
    pub guest: u64,
    /// After its answer had come.
    pub after: u64,
}
