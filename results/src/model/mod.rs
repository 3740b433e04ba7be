// SPDX-License-Identifier: Apache-2.0
//! `result.json`. Every field is described in docs/formats.md.

mod caller;
mod cores;
mod explanation;
mod flattened;
mod gap;
mod host;
mod machine;
mod metric;
mod run;
mod run_times;
mod statistics;
mod thread;
mod trace;
mod vcpu_end;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use gaps::tsc::ns_to_ticks;
use protocol::duration::as_ns;
use protocol::index::Kind;
use protocol::job::Job;
use protocol::message::Setup;
use protocol::noise::NoiseFloor;
use protocol::report::{MeterReport, TscReport};
use serde::{Deserialize, Serialize};

pub use self::caller::{
    CallerCgroup, CallerFacts, CallerPolicy, CgroupLimits, CpuQuota, SchedClass, Throttled,
};
pub use self::cores::{CoRun, CoreFigures, Expected, ForcedIdle, ForcedIdleSource};
pub use self::explanation::{Explained, ExplainedClause, ExplainedCulprit, ExplainedPart};
pub use self::gap::{AfterHit, LocatedGap, LostPin, Numbers, Pins, Warmup};
pub use self::host::{CpuKind, EMULATION, HostFacts};
pub use self::machine::{
    ConsoleStats, ExitCounts, HostEvidence, Idle, Machine, MachineEnd, MicroVm, VcpuEnd,
};
pub use self::metric::{LimitFinding, LimitOutcome, Metric, Quantity, Summary};
pub use self::run::{
    Answer, Cosched, Entered, KernelFacts, Phase, ReasonCode, RunFairness, Schema, Stage, Target,
};
pub use self::run_times::{ForcedIdleTime, RunTimes, Spent, ThreadTimes};
pub use self::statistics::{
    ClassShare, Fairness, FigureSource, KindShare, Lag, LagWindow, ServiceLag, Statistics, Steal,
    WaitExceeds,
};
pub use self::thread::{Group, Thread, VmResult};
pub use self::trace::{Trace, TraceForm, TraceVia};
pub use self::vcpu_end::VcpuEndReason;

/// The whole of `result.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    /// Version of the format.
    pub schema: Schema,
    /// The figures by which runs are judged and compared, by name.
    pub summary: Summary,
    /// Of the program.
    pub version: String,
    /// Where the threads that measured ran.
    pub target: Target,
    /// As the program was called.
    pub command_line: Vec<String>,
    /// Where it was called.
    pub working_directory: Option<PathBuf>,
    /// When it was called.
    pub started_utc: String,
    /// The answer.
    pub verdict: Answer,
    /// As the process ends; `None` while the run goes on.
    pub exit_status: Option<u8>,
    /// Why, for a person; empty for a plain pass.
    pub reason: String,
    /// What that is about; `None` without a reason.
    pub reason_code: Option<ReasonCode>,
    /// How far the run had come when that came up.
    pub reason_stage: Option<Stage>,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
    /// The longest gap in nanoseconds.
    pub longest_gap_ns: Option<u64>,
    /// The longest gap.
    pub longest_gap: Option<LocatedGap>,
    /// The gap that ended the run.
    pub threshold_hit: Option<LocatedGap>,
    /// What figures with a limit come to; empty where the run was not judged by any.
    pub limits: Vec<LimitFinding>,
    /// What ended after that, and is in no other figure; `None` without such a gap.
    pub after_hit: Option<AfterHit>,
    /// What the figures are of: from the load's start to the end of the gap that ended it, or to
    /// its own end. `None` before it has ended.
    pub measured_ns: Option<u64>,
    /// What the warm-up leaves out of all figures; `None` without one.
    pub warmup: Option<Warmup>,
    /// Why there are no shares, no fairness and no lag, if the run was too short for them.
    pub too_short: Option<String>,
    /// The kernel under test.
    pub kernel: KernelFacts,
    /// Cookies asked for and had.
    pub cosched: Cosched,
    /// What was prepared; `None` if the run did not get there.
    pub setup: Option<Setup>,
    /// The noise floor once more, when the load had ended; the first one is of `setup`.
    pub noise_after: Option<NoiseFloor>,
    /// What was asked of the agent.
    pub job: Job,
    /// What all gaps come to.
    pub statistics: Statistics,
    /// How evenly threads, and groups, got the time they wanted.
    pub fairness: RunFairness,
    /// How far they were behind what they were due.
    pub service_lag: ServiceLag,
    /// The longest gap by design.
    pub expected: Expected,
    /// Time for which cookies kept CPUs idle.
    pub forced_idle: ForcedIdle,
    /// Who ran beside the load's threads; `None` without a trace.
    pub co_run: Option<CoRun>,
    /// Whether these two are measurements.
    pub core_figures: CoreFigures,
    /// What the host took.
    pub steal: Steal,
    /// Threads of the load, group by group.
    pub threads: Vec<Thread>,
    /// Groups of the load.
    pub groups: Vec<Group>,
    /// Virtual machines of the nested target; each is a group.
    pub vms: Vec<VmResult>,
    /// Frequency of the TSC, with its sources; `None` before the load has reported.
    pub tsc: Option<TscReport>,
    /// What the kernel's own meter left untold.
    pub meter: Option<MeterReport>,
    /// The trace.
    pub trace: Trace,
    /// Of the gap that ended the run, else of the longest.
    pub explanation: Option<Explained>,
    /// The host.
    pub host: HostFacts,
    /// What schedvmm itself was given to run with; `None` in results of older versions.
    pub caller: Option<CallerFacts>,
    /// Whether threads stayed where they were put.
    pub pins: Pins,
    /// What the kernel under test ran on.
    pub machine: Machine,
    /// Milliseconds in each phase.
    pub phases_ms: BTreeMap<Phase, u64>,
}

impl RunResult {
    /// What was lost without a load: before it, and after.
    pub fn noise_floors(&self) -> impl Iterator<Item = &NoiseFloor> {
        let before = self.setup.as_ref().and_then(|setup| setup.noise.as_ref());
        before.into_iter().chain(&self.noise_after)
    }

    /// What the groups of the load are.
    pub fn kind(&self) -> Kind {
        self.target.kind()
    }

    /// The gap that the run is about: the one that ended it, else the longest.
    pub fn gap(&self) -> Option<&LocatedGap> {
        self.threshold_hit.as_ref().or(self.longest_gap.as_ref())
    }

    /// Ticks of the TSC in a millisecond; 0 where the run did not come to find out.
    pub fn tsc_khz(&self) -> u64 {
        let at_setup = self.setup.as_ref().map(|setup| setup.tsc_khz);
        self.tsc.map(|tsc| tsc.khz).or(at_setup).unwrap_or(0)
    }

    /// From where the figures begin to where they end, as TSC readings.
    pub fn window_tsc(&self) -> Range<u64> {
        let (start, khz) = (self.setup.as_ref().map_or(0, |setup| setup.tsc_start), self.tsc_khz());
        let measured = self.measured_ns.filter(|_| khz > 0).map(|ns| ns_to_ticks(ns, khz));
        let start = start.saturating_add(ns_to_ticks(as_ns(self.job.load.warmup), khz));
        let end = measured.map_or(u64::MAX, |ticks| start.saturating_add(ticks));
        start..self.threshold_hit.as_ref().map_or(end, |hit| hit.tsc_end)
    }

    /// Whether a gap is in the figures: it began behind the warm-up, and had ended when the one over
    /// the threshold did, which ended the run.
    pub fn counts(&self, gap: &LocatedGap) -> bool {
        (self.job.load.warmup.is_zero() || gap.tsc_begin >= self.window_tsc().start)
            && self.threshold_hit.as_ref().is_none_or(|hit| gap.tsc_end <= hit.tsc_end)
    }

    /// Whether groups had cookies.
    pub fn has_cookies(&self) -> bool {
        self.cosched.mechanism.is_some_and(|mechanism| mechanism != Default::default())
    }
}
