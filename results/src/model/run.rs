// SPDX-License-Identifier: Apache-2.0
//! What was asked, of which kernel, and the answer.

use protocol::error::Owner;
use protocol::index::Kind;
use protocol::job::CoschedRequest;
use protocol::message::{CoschedInterface, Hello};
use serde::{Deserialize, Serialize};

use super::flattened::{Flattened, flattened};
use super::statistics::Fairness;

/// Version of the format; raised when a field changes its meaning or goes away. What is older is
/// made this one as it is read ([`crate::upgrade`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schema {
    /// A vCPU's end by name, with its detail beside it.
    #[default]
    #[serde(rename = "schedvmm-result/4")]
    V4,
}

impl Schema {
    /// As in the file.
    pub const NAME: &'static str = "schedvmm-result/4";
}

/// Where the threads that measured ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// In a microVM of ours.
    User,
    /// On the kernel that runs already.
    Host,
    /// In virtual machines in a microVM of ours.
    Nested,
}

impl Target {
    /// What the groups of its load are.
    pub fn kind(self) -> Kind {
        match self {
            Self::User | Self::Host => Kind::Threads,
            Self::Nested => Kind::Vcpus,
        }
    }
}

/// The answer of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// No gap over the threshold.
    Pass,
    /// There was no threshold: figures, and no judgement.
    Measured,
    /// A gap over the threshold.
    OverThreshold,
    /// A figure over a limit; the run went to its end.
    OverLimit,
    /// The kernel could not be tested.
    Untestable,
    /// Ended before its time; no gap over the threshold until then.
    Interrupted,
    /// The request cannot be met.
    UsageError,
    /// This host cannot.
    HostError,
    /// A defect of ours.
    InternalError,
}

impl Answer {
    /// As `result.json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Measured => "measured",
            Self::OverThreshold => "over-threshold",
            Self::OverLimit => "over-limit",
            Self::Untestable => "untestable",
            Self::Interrupted => "interrupted",
            Self::UsageError => "usage-error",
            Self::HostError => "host-error",
            Self::InternalError => "internal-error",
        }
    }

    /// Whether something kept the run from an answer.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Untestable | Self::UsageError | Self::HostError | Self::InternalError)
    }
}

/// What a reason is about, for programs: the words of a reason may change, these do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonCode {
    /// The agent, or we, could not go on, and said why.
    Failed,
    /// Others had a part in what was measured: a quota, a move to other CPUs.
    Disturbed,
    /// The host took so much of a gap over the threshold that the rest is not over it; or what may
    /// be its part of a figure leaves no more than the limit.
    HostTook,
    /// A gap over the threshold may be the host's: nothing tells how much of it the host took.
    HostUnknown,
    /// There is a gap over the threshold, and the host took more of the run than its budget.
    Contaminated,
    /// There is a gap over the threshold, and without a load there was too much noise.
    Noisy,
    /// A figure is over its limit.
    OverLimit,
    /// The run does not tell a figure that has a limit.
    FigureUnknown,
    /// Ended by a signal.
    Signal,
    /// Written while the run went on.
    UnderWay,
    /// Virtual machines failed, and others measured.
    Degraded,
    /// The guest did not say in time what was waited for.
    GuestHangs,
    /// The disk of the results had too little room left (`--min-free`).
    DiskSpace,
    /// The run had not ended at its limit (`--wall-limit`).
    WallLimit,
    /// The guest's messages make no sense.
    ProtocolError,
    /// The kernel does not run as its command line says.
    CommandLineIgnored,
    /// The kernel panicked.
    KernelPanic,
    /// PID 1 panicked.
    AgentPanic,
    /// PID 1 gave up before it could say so by its port.
    AgentGaveUp,
    /// The kernel ended the machine, and did not say why.
    KernelEnded,
    /// A vCPU ended by a triple fault.
    TripleFault,
    /// A vCPU ended in another way.
    VcpuEnded,
    /// The load ended without a report.
    NoReport,
    /// All threads of the machine ended, and none said why.
    Silent,
}

impl ReasonCode {
    /// All of them, in order; a test compares them with the names that serde knows.
    pub const ALL: [Self; 24] = [
        Self::Failed,
        Self::Disturbed,
        Self::HostTook,
        Self::HostUnknown,
        Self::Contaminated,
        Self::Noisy,
        Self::OverLimit,
        Self::FigureUnknown,
        Self::Signal,
        Self::UnderWay,
        Self::Degraded,
        Self::GuestHangs,
        Self::DiskSpace,
        Self::WallLimit,
        Self::ProtocolError,
        Self::CommandLineIgnored,
        Self::KernelPanic,
        Self::AgentPanic,
        Self::AgentGaveUp,
        Self::KernelEnded,
        Self::TripleFault,
        Self::VcpuEnded,
        Self::NoReport,
        Self::Silent,
    ];

    /// Whether the host had more of the run than a budget allows.
    pub fn is_budget(self) -> bool {
        matches!(self, Self::Contaminated | Self::Noisy)
    }

    /// Whether the run went as it should, and the host may have made what was found.
    pub fn is_doubt(self) -> bool {
        matches!(self, Self::HostTook | Self::HostUnknown | Self::Contaminated | Self::Noisy)
    }
}

/// How far a run had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Before PID 1's first word.
    Boot,
    /// Before the load's start.
    Setup,
    /// Before the load's end.
    Run,
    /// Before results and trace were there.
    Finish,
    /// Before the power-off.
    PowerOff,
}

impl From<Owner> for Answer {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Kernel => Self::Untestable,
            Owner::Request => Self::UsageError,
            Owner::Host => Self::HostError,
            Owner::Internal => Self::InternalError,
        }
    }
}

/// The kernel under test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KernelFacts {
    /// As the user named it.
    pub named: String,
    /// The file that was read; empty with target `host`.
    pub path: String,
    /// Where in that file it was: a path in a package, what it was unpacked from.
    pub inside: Vec<String>,
    /// Length of the kernel itself.
    pub bytes: u64,
    /// What it prints first, from the image.
    pub banner: Option<String>,
    /// What the image says before it runs; `release` is what the running kernel says.
    pub image_release: Option<String>,
    /// From the image.
    pub build_id: Option<String>,
    /// File in the result folder with the kernel's configuration.
    pub config: Option<String>,
    /// Where that was found.
    pub config_source: Option<String>,
    /// How it was entered.
    pub entered: Entered,
    /// As given by us; `cmdline` is what the kernel itself says.
    pub cmdline_given: String,
    /// What the running kernel says; `None` before it has.
    #[serde(flatten, deserialize_with = "flattened")]
    pub hello: Option<Hello>,
}

impl Flattened for Hello {
    const KEY: &'static str = "release";
}

/// How a kernel was entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entered {
    /// Its unpacked payload.
    Payload,
    /// An ELF file.
    Vmlinux,
    /// The image's own stub, which unpacks it.
    Stub,
    /// Not by us: it runs already.
    #[default]
    Running,
}

/// Cookies asked for and had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cosched {
    /// The interface asked for.
    pub requested: CoschedRequest,
    /// The one in use; `None` where the run did not get there.
    pub mechanism: Option<CoschedInterface>,
    /// Why `auto` found none.
    pub note: Option<String>,
    /// `auto` was asked for, the load wants cookies, and there are none.
    pub missing: bool,
    /// One a group, as the kernel tells them; 0 for none.
    pub cookies: Vec<u64>,
}

/// How evenly threads, and groups, got the time they wanted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RunFairness {
    /// Of all threads.
    pub threads: Fairness,
    /// Of all groups.
    pub groups: Fairness,
}

/// A part of a run, in order of time. Those of the nested target are counted from when the agent
/// began with its machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// From the program's start to the first guest instruction.
    Build,
    /// To PID 1.
    Boot,
    /// To the load's start.
    Setup,
    /// PID 1 of the first virtual machine.
    L2FirstUp,
    /// PID 1 of the last one.
    L2AllUp,
    /// All are ready.
    L2Ready,
    /// Their threads are confined.
    L2Confined,
    /// The first gap record.
    L2FirstRecord,
    /// A gap record of each.
    L2AllRecorded,
    /// The load.
    Run,
    /// Results and trace.
    Finish,
    /// Power-off.
    PowerOff,
    /// All of it.
    Total,
}

impl Phase {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Boot => "boot",
            Self::Setup => "setup",
            Self::L2FirstUp => "l2_first_up",
            Self::L2AllUp => "l2_all_up",
            Self::L2Ready => "l2_ready",
            Self::L2Confined => "l2_confined",
            Self::L2FirstRecord => "l2_first_record",
            Self::L2AllRecorded => "l2_all_recorded",
            Self::Run => "run",
            Self::Finish => "finish",
            Self::PowerOff => "power_off",
            Self::Total => "total",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// serde has its list from the enum itself, and tells it where a name is none.
    #[test]
    fn all_reason_codes_are_listed() {
        let error = serde_json::from_str::<ReasonCode>("\"none\"").unwrap_err().to_string();
        let names: Vec<_> = error.split('`').skip(3).step_by(2).collect();
        let listed = ReasonCode::ALL.map(|code| serde_json::to_value(code).unwrap());
        assert_eq!(names, listed, "{error}");
    }
}
