// SPDX-License-Identifier: Apache-2.0
//! What the launcher asks of the agent: one JSON file in the initrd.
//!
//! A file rather than kernel words or a message: it has no length limit, it is there before
//! any driver, and a person can read it out of the archive.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the job lies in the initrd.
pub const JOB_PATH: &str = "/job.json";

/// Name of the virtio-console port that carries [`crate::wire`] frames both ways.
pub const CONTROL_PORT: &str = "schedvmm.control";

/// Name of the virtio-console port that carries the trace, guest to host.
pub const TRACE_PORT: &str = "schedvmm.trace";

/// Everything the agent does, in one value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The threads that measure.
    pub load: LoadSpec,
    /// Which core-scheduling interface gives each group its cookie.
    pub cosched: CoschedRequest,
    /// Scheduler knobs by intent, in the order given.
    pub tune: Vec<TuneRequest>,
    /// Tracing while the load runs; `None` leaves tracing off.
    pub trace: Option<TraceSpec>,
    /// TSC frequency as KVM reports it to the launcher, in kHz.
    pub host_tsc_khz: Option<u64>,
}

/// The load: `groups` processes of `threads_per_group` threads, one cookie a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// Number of groups ("VMs" of the user target).
    pub groups: u32,
    /// Threads in each group.
    pub threads_per_group: u32,
    /// CPUs that all threads share (guest CPU numbers).
    pub cpus: Vec<u32>,
    /// Length of a burst.
    pub busy: Duration,
    /// Pause between two bursts.
    pub sleep: SleepSpec,
    /// Seed of the pauses; the same seed gives every thread the same pauses again.
    pub seed: u64,
    /// How long the load runs.
    pub duration: Duration,
    /// Gaps at or above this length are recorded one by one.
    pub floor: Duration,
    /// A gap above this length ends the run; `None` never does.
    pub threshold: Option<Duration>,
    /// Room for gap records, in records per thread; further gaps only reach the histogram.
    pub records_per_thread: u32,
}

/// Distribution of the pause between two bursts, drawn anew for every pause.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SleepSpec {
    /// Evenly distributed between the two, ends included.
    Uniform {
        /// Shortest pause.
        min: Duration,
        /// Longest pause.
        max: Duration,
    },
    /// Always the same.
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
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

/// One scheduler knob by intent, such as `slice=1.875ms` or `hrtick=on`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuneRequest {
    /// What is meant: `slice`, `latency`, `wakeup`, `scaling`, `bandwidth-slice`, `hrtick`, …
    pub name: String,
    /// The value as the user wrote it.
    pub value: String,
}

/// What to trace while the load runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSpec {
    /// Event systems or `system:event` names, such as `sched` or `irq:irq_handler_entry`.
    pub events: Vec<String>,
    /// Ring buffer per CPU, in KiB.
    pub buffer_kib: u32,
}
