// SPDX-License-Identifier: Apache-2.0
//! Threads, groups and virtual machines of the load.

use protocol::index::GroupIndex;
use protocol::report::ThreadReport;
use protocol::vm::VmStatus;
use serde::{Deserialize, Serialize};

use super::cores::CoRun;
use super::gap::Numbers;
use super::statistics::Statistics;

/// One thread of the load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Thread {
    /// Which one.
    #[serde(flatten)]
    pub who: Numbers,
    /// Time in gaps.
    pub gap_ns: u64,
    /// Its longest gap.
    pub longest_gap_ns: u64,
    /// False where the guest ended before it could report: the figures then come from the
    /// records that had arrived, and what they do not tell is 0 or empty.
    pub complete: bool,
    /// What its gaps come to.
    pub statistics: Statistics,
    /// Who ran beside it; `None` without a trace.
    pub co_run: Option<CoRun>,
    /// As it reported, up to where the figures end.
    #[serde(flatten)]
    pub report: ThreadReport,
}

/// One group of the load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// Which one.
    pub group: GroupIndex,
    /// As the kernel tells it; 0 for none.
    pub cookie: Option<u64>,
    /// Gaps of its threads.
    pub gaps: u64,
    /// Time in them.
    pub gap_ns: u64,
    /// The longest.
    pub longest_gap_ns: u64,
    /// Part of the time wanted that was spent in gaps.
    pub gap_share: Option<f64>,
    /// Part of all groups' CPU time.
    pub cpu_share: Option<f64>,
    /// Time for which its cookie kept siblings idle that had something to run.
    pub force_idle_ns: Option<u64>,
    /// The same, of the time of all CPUs of the load.
    pub force_idle_share: Option<f64>,
    /// How often its quota held it back.
    pub throttles: Option<u64>,
    /// For how long.
    pub throttled_ns: Option<u64>,
    /// `None` where nobody was woken.
    pub wakeup_longest_ns: Option<u64>,
    /// For how long a wake-up had been due that had not come at the end; `None` without one.
    pub wakeup_due_ns: Option<u64>,
    /// Who ran beside it; `None` without a trace.
    pub co_run: Option<CoRun>,
    /// What its gaps come to.
    pub statistics: Statistics,
}

/// One virtual machine of the nested target. Its gaps are those of the group with its number,
/// each of its vCPUs is a thread.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VmResult {
    /// As the agent knows it.
    #[serde(flatten)]
    pub status: VmStatus,
    /// Its gaps.
    pub gaps: u64,
    /// The longest.
    pub longest_gap_ns: u64,
    /// Longest gap of each vCPU.
    pub longest_gap_by_vcpu_ns: Vec<u64>,
    /// Part of the time wanted that was spent in gaps.
    pub gap_share: Option<f64>,
    /// Part of all VMs' CPU time.
    pub cpu_share: Option<f64>,
    /// File in the result folder with its console.
    pub console: String,
    /// The end of that, where the VM failed.
    pub console_tail: Option<String>,
}
