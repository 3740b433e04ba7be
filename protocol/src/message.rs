// SPDX-License-Identifier: Apache-2.0
//! Frames on the control port.
//!
//! A frame is `length: u32 LE`, `kind: u8`, then `length` bytes of payload: JSON of a
//! [`Message`] or a [`Command`], or gap records as packed little-endian words. Records are
//! binary because there may be millions of them; all else is JSON because there is little
//! of it and a person may have to read it.

use std::collections::BTreeMap;

use gaps::record::GapRecord;
use gaps::span::Span;
use serde::{Deserialize, Serialize};

use crate::error::Owner;
use crate::meter::MeterFacts;
use crate::noise::NoiseFloor;
use crate::report::LoadReport;
use crate::scheduler::SchedulerFacts;
use crate::vm::VmStatus;

/// Longest payload a reader accepts; a longer length means a broken or hostile peer.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;

/// Guest to host.
#[expect(clippy::large_enum_variant, reason = "one message exists at a time")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Message {
    /// PID 1 is alive.
    Hello(Hello),
    /// Everything is ready, and waits for [`Command::Go`].
    Prepared,
    /// [`Command::Go`] has come.
    Going {
        /// Reading of the guest's TSC.
        tsc: u64,
    },
    /// There is still no load; what is waited for, about once a second.
    Waiting {
        /// For people.
        for_what: String,
    },
    /// A virtual machine of the nested target has come further.
    Vm(Box<VmStatus>),
    /// A line of the meter in a virtual machine of the nested target.
    VmLine {
        /// Number of the machine, from 1.
        vm: u32,
        /// The line; its gap's thread is counted over all machines.
        line: MeterLine,
    },
    /// Everything is prepared; the load starts now.
    Ready(Setup),
    /// Once a second while the load runs.
    Tick(Tick),
    /// A line of the kernel's own meter, as soon as it is read.
    Line(MeterLine),
    /// A gap passed the threshold; tracing has stopped.
    ThresholdHit(ThresholdHit),
    /// The load has ended; per-thread results.
    Finished(LoadReport),
    /// The trace is about to be written to the trace port / has been written.
    Trace(TraceProgress),
    /// The agent cannot go on.
    Failed(Failure),
    /// Last message: the agent powers off.
    Bye,
}

/// Host to guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Command {
    /// Start the load.
    Go,
    /// End the load now and report what was measured.
    Stop,
    /// Answers [`TraceProgress::InMemory`]: the trace can be read there, and stays.
    KeepTrace,
    /// Answers [`TraceProgress::InMemory`]: the trace cannot be read there, and is to be sent.
    SendTrace,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one frame exists at a time")]
pub enum Frame {
    /// A JSON message.
    Message(Message),
    /// Gap records of one thread, in the order they happened.
    Gaps {
        /// Index of the thread, as in [`LoadReport::threads`].
        thread: u32,
        /// The records.
        records: Vec<GapRecord>,
    },
    /// When one thread wanted to run, in the order of time.
    Demand {
        /// Index of the thread.
        thread: u32,
        /// The times.
        spans: Vec<Span>,
    },
    /// What a virtual machine of the nested target has printed.
    VmConsole {
        /// Its number, from 1.
        vm: u32,
        /// Bytes of its console.
        bytes: Vec<u8>,
    },
}

/// The kernel as its own user space sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `/proc/cmdline`.
    pub cmdline: String,
    /// CPUs online, as a list such as `0-3`.
    pub cpus_online: String,
    /// `thread_siblings_list` of each online CPU.
    pub siblings: Vec<String>,
    /// Current clocksource.
    pub clocksource: String,
    /// Uptime when PID 1 began, in nanoseconds.
    pub uptime_ns: u64,
}

/// What was prepared, with effective values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The cookie mechanism in use.
    pub cosched: CoschedInterface,
    /// Why there is no cookie, where `auto` found no mechanism.
    pub cosched_note: Option<String>,
    /// Cookie of each group, as the kernel reports it; 0 for none or unreadable.
    pub cookies: Vec<u64>,
    /// Each tunable asked for, and what became of it.
    pub tunables: Vec<TunableReport>,
    /// The hierarchy that the groups' cgroups are in.
    pub cgroup: CgroupVersion,
    /// They have the cpu controller: the CPUs are divided among groups, and then among their threads.
    #[serde(default)]
    pub cgroup_weights: bool,
    /// Thread ID of each thread, for the case that it does not live to report.
    #[serde(default)]
    pub tids: Vec<u32>,
    /// Affinity of each thread read back, as a CPU list.
    pub affinity: Vec<String>,
    /// Events being traced; empty with tracing off.
    pub trace_events: Vec<String>,
    /// Why tracing, or part of it, is not available.
    pub trace_note: Option<String>,
    /// Effective trace clock.
    pub trace_clock: Option<String>,
    /// Memory with the ring buffers, where the host is to read them there.
    #[serde(default)]
    pub trace_ring: Option<TraceRing>,
    /// TSC when the load was released.
    pub tsc_start: u64,
    /// TSC frequency used to turn ticks into time, in kHz.
    pub tsc_khz: u64,
    /// Cost of one iteration of the meter's loop, in TSC ticks (median of a calibration).
    pub iteration_ticks: u64,
    /// What the load had to do without, such as locked memory.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the scheduler goes by, with all tunables set.
    #[serde(default)]
    pub scheduler: SchedulerFacts,
    /// Every file that steers the scheduler, with what is in it, all tunables set.
    #[serde(default)]
    pub scheduler_files: BTreeMap<String, String>,
    /// What was found on the load's CPUs before the load; `None` where it was not asked for.
    #[serde(default)]
    pub noise: Option<NoiseFloor>,
    /// The meter in use, where the job asked for one.
    #[serde(default)]
    pub meter: Option<MeterFacts>,
}

impl Setup {
    /// What a reader of the figures must know, when the load begins: what was asked for and is
    /// not in force.
    pub fn notes_at_start(&self) -> Vec<String> {
        let trace = self.trace_note.iter().map(|note| format!("trace: {note}"));
        trace.chain(self.notes.iter().cloned()).collect()
    }
}

/// The interface that gives groups their cookies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoschedInterface {
    /// No cookies.
    #[default]
    None,
    /// `prctl(PR_SCHED_CORE)`.
    Prctl,
    /// cgroup file `cpu.core_tag`.
    CoreTag,
    /// cgroup file `cpu.tag`.
    Tag,
    /// cgroup file `cpu.scheduled`.
    Scheduled,
}

impl CoschedInterface {
    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Prctl => "prctl",
            Self::CoreTag => "core_tag",
            Self::Tag => "tag",
            Self::Scheduled => "scheduled",
        }
    }
}

/// Which hierarchy cgroups are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupVersion {
    /// The unified hierarchy.
    V2,
    /// Separate hierarchies for cpu and cpuset.
    V1,
    /// The kernel has no cgroups that serve us.
    #[default]
    None,
}

impl CgroupVersion {
    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::None => "none",
        }
    }
}

/// A line of the kernel's own meter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterLine {
    /// The line as the kernel wrote it, byte for byte, without its line feed.
    pub text: String,
    /// The gap that it tells of, as [`LoadReport`] counts it; `None` for other lines.
    pub gap: Option<LineGap>,
}

/// A gap out of a line of the kernel's own meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineGap {
    /// The gap, placed as late as it can have been.
    pub gap: Gap,
    /// By so many TSC ticks it may have been earlier, both ends alike: the line tells how
    /// long it was, and not always when.
    pub earlier_ticks: u64,
    /// Further gaps above the floor in the same window, of which the line only gives the
    /// number.
    pub more: u64,
}

/// One scheduler tunable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunableReport {
    /// As requested, `name=value`.
    pub request: String,
    /// File it was written to; `None` where this kernel has no such tunable.
    pub file: Option<String>,
    /// Value read back.
    pub effective: Option<String>,
    /// Why it was not applied.
    pub note: Option<String>,
}

/// One second of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// Seconds since the load was released, from 1.
    pub second: u32,
    /// Threads inside a burst right now or asleep between bursts (all that live).
    pub online: u32,
    /// Longest gap that ended in this second.
    pub longest: Option<Gap>,
}

/// A gap with the thread it happened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Place of the thread among those of all groups, from 0, as in [`LoadReport::threads`].
    pub thread: u32,
    /// The gap.
    pub record: GapRecord,
}

/// The gap that ended the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThresholdHit {
    /// Thread ID in the guest.
    pub tid: u32,
    /// The gap.
    pub gap: Gap,
}

/// A piece of guest memory in which the kernel has its ring buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRing {
    /// Its guest physical address.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where the trace stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceProgress {
    /// Tracing has stopped, and the ring buffers are in [`Setup::trace_ring`]: can they be read
    /// there? Waits for [`Command::KeepTrace`] or [`Command::SendTrace`].
    InMemory,
    /// About so many bytes will come (an estimate, for a progress bar).
    Begin {
        /// Estimate of the size in bytes.
        estimate_bytes: u64,
    },
    /// All bytes were handed to the port.
    End {
        /// Exact number of bytes written to the port.
        bytes: u64,
    },
}

/// The agent's last words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its owner, which decides the exit status.
    pub owner: Owner,
    /// What was wrong, with the value and the next step.
    pub text: String,
}
