// SPDX-License-Identifier: Apache-2.0
//! What the launcher asks of the agent: one JSON file in the initrd.
//!
//! A file rather than kernel words or a message: it has no length limit, it is there before
//! any driver, and a person can read it out of the archive.

use std::ops::Range;
use std::time::Duration;

use ftrace::TraceId;
use serde::{Deserialize, Serialize};

use crate::duration::{nanoseconds, optional_nanoseconds};
use crate::group::{GroupSpec, SleepSpec};
use crate::index::{GroupIndex, Kind, Member, ThreadIndex};
use crate::tunable::TuneRequest;

/// Everything the agent does, in one value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The threads that measure.
    pub load: LoadSpec,
    /// Which core-scheduling interface gives each group its cookie.
    pub cosched: CoschedRequest,
    /// Scheduler tunables by intent, in the order given.
    pub tune: Vec<TuneRequest>,
    /// Tracing while the load runs; `None` leaves tracing off.
    pub trace: Option<TraceSpec>,
    /// TSC frequency as KVM reports it to the launcher, in kHz.
    pub host_tsc_khz: Option<u64>,
    /// How long the noise floor is measured before the load; zero leaves it out.
    #[serde(rename = "noise_ns", with = "nanoseconds", default)]
    pub noise: Duration,
    /// What measures in place of the load's bursty threads; `None` is the load itself.
    #[serde(default)]
    pub meter: Option<MeterSpec>,
    /// The load is virtual machines, one a group, one vCPU a thread.
    #[serde(default)]
    pub nested: Option<Box<NestedSpec>>,
    /// This guest is one of many: it does not start its load before it is told to
    /// ([`Command::Go`](crate::message::Command::Go)), for at most so long.
    #[serde(rename = "wait_for_go_ns", with = "optional_nanoseconds", default)]
    pub wait_for_go: Option<Duration>,
    /// A word of the user's own on the kernel's command line by which CPUs may be missing.
    #[serde(default)]
    pub cpu_limit: Option<String>,
}

impl Job {
    /// A load and its cookies, and nothing else: no tunables, no trace, no noise floor.
    pub fn new(load: LoadSpec, cosched: CoschedRequest) -> Self {
        Self {
            load,
            cosched,
            tune: Vec::new(),
            trace: None,
            host_tsc_khz: None,
            noise: Duration::ZERO,
            meter: None,
            nested: None,
            wait_for_go: None,
            cpu_limit: None,
        }
    }

    /// Sets the TSC's frequency in kHz, which is the same at all levels.
    pub fn know_tsc(&mut self, khz: u64) {
        self.host_tsc_khz = Some(khz);
        if let Some(nested) = &mut self.nested {
            nested.job.know_tsc(khz);
        }
    }
}

/// The second-level guests, their kernel in the initrd at [`crate::names::L2_KERNEL_PATH`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NestedSpec {
    /// RAM of each, in MiB.
    pub memory_mib: u64,
    /// Whether each has a copy of the kernel of its own, and does not share its pages.
    pub own_pages: bool,
    /// vCPUs of each: the threads of its group.
    pub vcpus: u32,
    /// Hardware threads per core of each.
    pub threads_per_core: u32,
    /// KVM paravirtual features that they see.
    pub pv: Pv,
    /// How they reach their virtio devices; `None` takes what their kernel has a driver for.
    pub transport: Option<Transport>,
    /// Kernel command line of each.
    pub cmdlines: Vec<String>,
    /// How vCPU threads are confined while it is measured.
    pub confine: Confine,
    /// Confined from their start, and not when all of them are ready.
    pub boot_confined: bool,
    /// How many are on their way at the same time until they are ready.
    pub boot_at_once: u32,
    /// From their start until all are ready; `None` waits as long as they come further.
    #[serde(rename = "boot_timeout_ns", with = "optional_nanoseconds")]
    pub boot_timeout: Option<Duration>,
    /// Without it: how long one may not have come further.
    #[serde(rename = "boot_stall_ns", with = "nanoseconds")]
    pub boot_stall: Duration,
    /// The job of the agent in each.
    pub job: Job,
}

/// KVM paravirtual features of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pv {
    /// A stable clock, and nothing that changes what the guest's scheduler decides.
    #[default]
    Clock,
    /// All that KVM offers.
    Cloud,
    /// None: bare metal to the kernel.
    Off,
}

/// How a machine reaches its virtio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Registers at an address that ACPI tells.
    Mmio,
    /// A function on a PCI bus.
    Pci,
}

impl Transport {
    /// As in options and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::Pci => "pci",
        }
    }
}

/// How the vCPU threads of the nested target are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confine {
    /// All of them to all of the load's CPUs, as the original had it.
    Core,
    /// Each to exactly one of these CPUs: a machine's first vCPU to the first, and so on.
    Vcpu,
}

/// A meter that keeps every CPU of [`LoadSpec::cpus`] busy by itself: each CPU is a "thread"
/// of the report. It takes from the load the CPUs, the duration, the floor, the threshold and
/// the number of records; [`LoadSpec::for_meter`] makes such a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterSpec {
    /// Which one.
    pub kind: MeterKind,
    /// Length of one window of the kernel's meters; the next begins after it.
    #[serde(rename = "window_ns", with = "nanoseconds")]
    pub window: Duration,
    /// Part of each window in which they measure; the rest they sleep.
    #[serde(rename = "width_ns", with = "nanoseconds")]
    pub width: Duration,
    /// How hwlat spreads over the CPUs.
    pub mode: MeterMode,
}

/// Which meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeterKind {
    /// hwlat where the kernel has it, else rdtsc.
    Auto,
    /// The kernel's hwlat tracer: interrupts off, the longest gap of each window.
    Hwlat,
    /// The kernel's osnoise tracer: interrupts on, every gap. Linux 5.14 and later.
    Osnoise,
    /// Our own loop in user space, one thread a CPU, always busy.
    #[default]
    Rdtsc,
}

impl MeterKind {
    /// As in options and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Hwlat => "hwlat",
            Self::Osnoise => "osnoise",
            Self::Rdtsc => "rdtsc",
        }
    }
}

/// How hwlat spreads over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeterMode {
    /// One thread that moves to the next CPU with each window: the others idle meanwhile.
    RoundRobin,
    /// One thread for each CPU. Linux 5.14 and later.
    PerCpu,
}

impl MeterMode {
    /// As the kernel spells it in `hwlat_detector/mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::PerCpu => "per-cpu",
        }
    }
}

impl LoadSpec {
    /// The load for a [`MeterSpec`]: one group, one always busy thread on each CPU.
    pub fn for_meter(self) -> Self {
        let threads = u32::try_from(self.cpus.len()).unwrap_or(u32::MAX);
        let always = GroupSpec::plain(threads, self.duration, SleepSpec::Fixed(Duration::ZERO));
        let groups = vec![GroupSpec { spread: true, ..always }];
        Self { name: None, groups, kind: Kind::Threads, warmup: Duration::ZERO, ..self }
    }
}

/// The load: groups, each a process of threads that measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// What the groups are called as a whole, such as a preset or a file; `None` for groups
    /// from plain options.
    #[serde(default)]
    pub name: Option<String>,
    /// The groups ("VMs" of the user target). Threads are numbered group by group.
    #[serde(rename = "shape")]
    pub groups: Vec<GroupSpec>,
    /// What the groups are.
    #[serde(default)]
    pub kind: Kind,
    /// CPUs that all threads share (guest CPU numbers), unless their group says otherwise.
    pub cpus: Vec<u32>,
    /// Seed of the pauses; the same seed gives every thread the same pauses again.
    pub seed: u64,
    /// How long the load runs.
    #[serde(rename = "duration_ns", with = "nanoseconds")]
    pub duration: Duration,
    /// So much of that, from its start on, is in no figure.
    #[serde(rename = "warmup_ns", with = "nanoseconds", default)]
    pub warmup: Duration,
    /// Gaps at or above this length are recorded one by one.
    #[serde(rename = "floor_ns", with = "nanoseconds")]
    pub floor: Duration,
    /// A gap above this length ends the run; `None` never does.
    #[serde(rename = "threshold_ns", with = "optional_nanoseconds")]
    pub threshold: Option<Duration>,
    /// Room for gap records, in records per thread; further gaps only reach the histogram.
    pub records_per_thread: u32,
}

impl LoadSpec {
    /// Threads of all groups.
    pub fn threads(&self) -> usize {
        self.groups.iter().map(|group| group.threads as usize).sum()
    }

    /// Room for the times in which a thread wants to run: twice as many as there are in the mean, as far
    /// as that is not too much. What does not fit is not known in the end.
    pub fn spans_per_thread(&self) -> u32 {
        /// Of a thread, half a MiB of them; of all, 16 MiB.
        const MAX_EACH: u128 = 1 << 15;
        const MAX_OF_ALL: u128 = 1 << 20;
        let each = self.groups.iter().map(|group| {
            let cycle = group.cycle().as_nanos().max(1);
            2 * (self.duration.as_nanos() / cycle) + 16
        });
        let most = MAX_EACH.min(MAX_OF_ALL / self.threads().max(1) as u128);
        u32::try_from(each.max().unwrap_or(0).min(most)).unwrap_or(u32::MAX)
    }

    /// The threads of each group, by their numbers.
    pub fn members(&self) -> impl Iterator<Item = Range<usize>> {
        self.groups.iter().scan(0, |next, group| {
            let first = *next;
            *next += group.threads as usize;
            Some(first..*next)
        })
    }

    /// The thread at this place among those of all groups; `None` beyond the last.
    pub fn member(&self, thread: usize) -> Option<Member> {
        let mut groups = self.members().enumerate();
        let (group, members) = groups.find(|(_, members)| members.contains(&thread))?;
        let thread = ThreadIndex::new(thread - members.start);
        Some(Member { kind: self.kind, group: GroupIndex::new(group), thread })
    }

    /// What the thread at this place is called.
    pub fn name_of(&self, thread: usize) -> String {
        self.member(thread).map_or_else(|| "an unknown thread".into(), |member| member.to_string())
    }

    /// All threads of all groups, in order.
    pub fn all_members(&self) -> impl Iterator<Item = Member> {
        let kind = self.kind;
        self.groups.iter().enumerate().flat_map(move |(group, spec)| {
            (0..spec.threads as usize).map(move |thread| Member {
                kind,
                group: GroupIndex::new(group),
                thread: ThreadIndex::new(thread),
            })
        })
    }

    /// What all groups are like, where they are alike.
    pub fn uniform(&self) -> Option<&GroupSpec> {
        let (first, rest) = self.groups.split_first()?;
        rest.iter().all(|group| group == first).then_some(first)
    }
}

/// Core-scheduling interface asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoschedRequest {
    /// The newest the kernel has; none where it has none.
    Auto,
    /// No cookies: the baseline.
    None,
    /// `prctl(PR_SCHED_CORE)`, Linux 5.14 and later.
    Prctl,
    /// cgroup file `cpu.core_tag`, core-scheduling patches v9 and v10 of 2020/21.
    CoreTag,
    /// cgroup file `cpu.tag`, core-scheduling patches v1 to v8 of 2019/20.
    Tag,
    /// cgroup file `cpu.scheduled`, the co-scheduling patches of 2018.
    Scheduled,
}

/// What to trace while the load runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSpec {
    /// Event systems or `system:event` names, such as `sched` or `irq:irq_handler_entry`.
    pub events: Vec<String>,
    /// Ring buffer per CPU, in KiB.
    pub buffer_kib: u32,
    /// After which runs the trace is sent.
    #[serde(default)]
    pub dump: TraceDump,
    /// Whether the user asked for a trace, or for something in it: a run without is of no use.
    #[serde(default)]
    pub required: bool,
    /// What the trace is to be told from others by; results of older versions have none.
    #[serde(default)]
    pub id: Option<TraceId>,
}

/// After which runs the trace is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceDump {
    /// Those with a gap over the threshold.
    #[default]
    Hit,
    /// All.
    Always,
}

impl TraceDump {
    /// Whether to send it after a run that ended so.
    pub fn wanted(self, hit: bool) -> bool {
        hit || self == Self::Always
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_numbered_group_by_group() {
        let group = |threads| {
            GroupSpec::plain(threads, Duration::from_secs(1), SleepSpec::Fixed(Duration::ZERO))
        };
        let spec = LoadSpec {
            name: None,
            groups: vec![group(2), group(1), group(3)],
            kind: Kind::Threads,
            cpus: vec![0],
            seed: 0,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            floor: Duration::from_micros(100),
            threshold: None,
            records_per_thread: 1,
        };
        assert_eq!(spec.threads(), 6);
        assert_eq!(spec.members().collect::<Vec<_>>(), [0..2, 2..3, 3..6]);
        let names = spec.all_members().map(Member::short).collect::<Vec<_>>();
        assert_eq!(names, ["1.1", "1.2", "2.1", "3.1", "3.2", "3.3"]);
        assert!((0..6).map(|thread| spec.member(thread)).eq(spec.all_members().map(Some)));
        assert_eq!((spec.member(6), spec.name_of(5)), (None, "group 3 thread 3".into()));
        assert_eq!(spec.uniform(), None);
        let even = LoadSpec { groups: vec![group(2); 3], ..spec };
        assert_eq!(even.uniform(), Some(&group(2)));
    }
}
