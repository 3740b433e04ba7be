// SPDX-License-Identifier: Apache-2.0
//! Frames on the control port.
//!
//! A frame is `length: u32 LE`, `kind: u8`, then `length` bytes of payload: JSON of a
//! [`Message`] or a [`Command`], or gap records as packed little-endian words. Records are
//! binary because there may be millions of them; all else is JSON because there is little
//! of it and a person may have to read it.

use std::collections::BTreeMap;

use gaps::record::GapRecord;
use serde::{Deserialize, Serialize};

use crate::error::Owner;
use crate::job::{MeterKind, MeterMode, Transport};
use crate::noise::NoiseFloor;
use crate::scheduler::SchedulerFacts;

pub use gaps::tally::ClassTotal;
pub use gaps::tsc::Source as TscSource;

/// Longest payload a reader accepts; a longer length means a broken or hostile peer.
pub const MAX_PAYLOAD_BYTES: usize = 4 << 20;

/// Guest to host.
#[expect(clippy::large_enum_variant, reason = "one message exists at a time")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Message {
    /// PID 1 is alive.
    Hello(Hello),
    /// Everything stands ready, and waits for [`Command::Go`].
    Standing,
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
    /// Answers [`TraceProgress::InMemory`]: the trace cannot be read there, and is to be shipped.
    ShipTrace,
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
    /// What a virtual machine of the nested target has printed.
    VmConsole {
        /// Its number, from 1.
        vm: u32,
        /// Bytes of its console.
        bytes: Vec<u8>,
    },
}

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
    /// When it came how far, in nanoseconds since the agent began with its machines.
    pub times: VmTimes,
    /// The meter it has chosen.
    pub meter: Option<MeterFacts>,
    /// Why it did not measure to the end; `None` for one that did.
    pub fault: Option<String>,
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
    /// All stands ready.
    Standing,
    /// It measures.
    Measuring,
    /// It has reported.
    Reported,
    /// It has ended.
    Ended,
}

impl VmPhase {
    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Booting => "booting",
            Self::Up => "up",
            Self::Standing => "standing",
            Self::Measuring => "measuring",
            Self::Reported => "reported",
            Self::Ended => "ended",
        }
    }
}

/// When a virtual machine came how far, in nanoseconds since the agent began with its machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmTimes {
    /// Its kernel was entered.
    pub booting_ns: Option<u64>,
    /// Its PID 1 said that it is alive.
    pub up_ns: Option<u64>,
    /// All stood ready.
    pub standing_ns: Option<u64>,
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
    /// Each knob asked for, and what became of it.
    pub knobs: Vec<KnobReport>,
    /// The hierarchy that the groups' cgroups are in.
    pub cgroup: CgroupVersion,
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
    /// Cost of one turn of the meter's loop, in TSC ticks (median of a calibration).
    pub iteration_ticks: u64,
    /// What the load had to do without, such as locked memory.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the scheduler goes by, with all knobs set.
    #[serde(default)]
    pub scheduler: SchedulerFacts,
    /// Every file that steers the scheduler, with what is in it, all knobs set.
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

/// A meter as it was set up, read back from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterFacts {
    /// Which one: never [`MeterKind::Auto`].
    pub kind: MeterKind,
    /// Why another one was taken than the best that `auto` knows.
    pub note: Option<String>,
    /// How it spreads over the CPUs; `None` for rdtsc.
    pub mode: Option<MeterMode>,
    /// Length of a window in microseconds; `None` for rdtsc.
    pub window_us: Option<u64>,
    /// Part of it in which it measures; `None` for rdtsc.
    pub width_us: Option<u64>,
    /// The kernel reports only what is longer than this; `None` for rdtsc.
    pub floor_us: Option<u64>,
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

/// One scheduler knob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnobReport {
    /// As requested, `name=value`.
    pub request: String,
    /// File it was written to; `None` where this kernel has no such knob.
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
    /// there? Waits for [`Command::KeepTrace`] or [`Command::ShipTrace`].
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
    /// Whose fault it is.
    pub owner: Owner,
    /// What was wrong, with the value and the next step.
    pub text: String,
}

/// Results of the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// TSC when the load was told to end, or had come to its end: the kernel's books of groups
    /// are read then.
    pub tsc_end: u64,
    /// TSC frequency, with all that was used to find it.
    pub tsc: TscReport,
    /// One entry a thread: group-major order, see [`crate::job::LoadSpec::members`].
    pub threads: Vec<ThreadReport>,
    /// One entry a group; empty without cgroups.
    #[serde(default)]
    pub groups: Vec<GroupReport>,
    /// What the kernel's own meter left untold; `None` where it did not measure.
    #[serde(default)]
    pub meter: Option<MeterReport>,
}

impl LoadReport {
    /// The report of a meter that measures evenly, up to a moment after which others had been told
    /// to end: it measured that part of its time. Gaps, which have a time each, are all there.
    #[must_use]
    pub fn until(mut self, start_tsc: u64, end_tsc: u64) -> Self {
        let (part, whole) =
            (end_tsc.saturating_sub(start_tsc), self.tsc_end.saturating_sub(start_tsc));
        if part < whole {
            for thread in &mut self.threads {
                let ticks = u128::from(thread.busy_ticks) * u128::from(part) / u128::from(whole);
                thread.busy_ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
            }
            self.tsc_end = end_tsc;
        }
        self
    }
}

/// What the kernel's own meter left untold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterReport {
    /// Lines read, of whatever kind.
    pub lines: u64,
    /// Lines that tell of a gap and could not be understood, or cannot be true.
    pub unread_lines: u64,
    /// Events that the kernel overwrote before they were read, as it says itself.
    pub lost_events: u64,
    /// Gaps above the floor of which only the number is known, by thread.
    pub unmeasured_gaps: Vec<u64>,
}

/// What the kernel's `cpu.stat` says of a group; `None` is what it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Time for which the group's cookie kept siblings idle that had something to run
    /// (cgroup v2 of Linux 6.0 and later, with schedstats on).
    pub force_idle_ns: Option<u64>,
    /// How often its quota was used up.
    pub throttles: Option<u64>,
    /// For how long it was throttled.
    pub throttled_ns: Option<u64>,
}

impl GroupReport {
    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            force_idle_ns: added(before.force_idle_ns, self.force_idle_ns),
            throttles: added(before.throttles, self.throttles),
            throttled_ns: added(before.throttled_ns, self.throttled_ns),
        }
    }
}

fn added(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

/// TSC frequency and its sources, all in kHz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TscReport {
    /// The one used.
    pub khz: u64,
    /// Name of the source used: `kvm`, `cpuid-15`, `cpuid-40000010`, `slope`.
    pub source: TscSource,
    /// `KVM_GET_TSC_KHZ` of the launcher.
    pub kvm_khz: Option<u64>,
    /// CPUID leaf 0x15.
    pub cpuid_15_khz: Option<u64>,
    /// CPUID leaf 0x40000010.
    pub cpuid_40000010_khz: Option<u64>,
    /// Slope against CLOCK_MONOTONIC_RAW over the run.
    pub slope_khz: Option<f64>,
    /// Largest difference of any source from the one used, in parts per million. Above
    /// [`gaps::tsc::DISAGREEMENT_LIMIT_PPM`] the lengths in the result deserve no trust.
    #[serde(default)]
    pub disagreement_ppm: f64,
}

/// One thread's results. All times are in TSC ticks of the guest unless named otherwise.
///
/// After a gap over the threshold, what it wanted, how it was woken and what it ran end at the end
/// of that gap; gaps are all there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadReport {
    /// It had not ended when this was told: it died, or did not stop. What a thread counts when it
    /// ends is missing.
    #[serde(default)]
    pub unfinished: bool,
    /// Thread ID in the guest.
    pub tid: u32,
    /// Gaps at or above the floor (recorded or not).
    pub gaps: u64,
    /// Of these, the ones for which there was no room left in the record memory.
    pub gaps_unrecorded: u64,
    /// Sum of all gaps at or above the floor.
    pub gap_ticks: u64,
    /// Longest gap.
    pub longest: Option<GapRecord>,
    /// All gaps by who took their time; classes without a gap are left out.
    #[serde(default)]
    pub classes: Vec<ClassTotal>,
    /// Histogram of all gaps, lengths in nanoseconds: `(upper bound, count)`, empty buckets left out.
    pub gap_histogram_ns: Vec<(u64, u64)>,
    /// Turns of the meter's loop.
    pub iterations: u64,
    /// Time in which it wanted to run: bursts from their planned begin to their end, with gaps.
    pub busy_ticks: u64,
    /// Bursts completed.
    pub bursts: u64,
    /// Readings that went backwards.
    pub backwards: u64,
    /// Wake-up delays: `(upper bound in nanoseconds, count)`.
    pub wakeup_histogram_ns: Vec<(u64, u64)>,
    /// Longest wake-up delay in nanoseconds.
    pub wakeup_longest_ns: u64,
    /// For how long a wake-up had been due that had not come at the end.
    #[serde(default)]
    pub wakeup_due_ns: u64,
    /// CPU time the kernel accounted to the thread, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Time on a CPU, from the kernel's schedstat, in nanoseconds.
    #[serde(default)]
    pub run_ns: Option<u64>,
    /// Time runnable but not running, from the kernel's schedstat, in nanoseconds.
    pub run_delay_ns: Option<u64>,
    /// Time for which this thread's cookie kept siblings idle, in nanoseconds
    /// (`core_forceidle_sum` of Linux 5.17 and later, with schedstats on).
    #[serde(default)]
    pub force_idle_ns: Option<u64>,
    /// Affinity read back when it had measured, as a CPU list: [`Setup::affinity`], unless
    /// somebody moved it.
    #[serde(default)]
    pub affinity_end: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_even_meter_measured_ends_with_the_part_of_its_time() {
        let thread = |busy_ticks| ThreadReport { busy_ticks, ..ThreadReport::default() };
        let report = LoadReport {
            tsc_end: 1100,
            threads: vec![thread(1000), thread(500)],
            ..LoadReport::default()
        };
        let busy = |report: LoadReport| -> (u64, Vec<u64>) {
            (report.tsc_end, report.threads.iter().map(|thread| thread.busy_ticks).collect())
        };
        assert_eq!(busy(report.clone().until(100, 350)), (350, vec![250, 125]));
        assert_eq!(busy(report.clone().until(100, 1100)), (1100, vec![1000, 500]));
        // What a guest makes up harms nobody.
        assert_eq!(busy(report.clone().until(1200, 90)), (1100, vec![1000, 500]));
        let endless = LoadReport { tsc_end: u64::MAX, threads: vec![thread(u64::MAX)], ..report };
        assert_eq!(busy(endless.until(0, u64::MAX / 2)).1, [u64::MAX / 2]);
    }
}
