// SPDX-License-Identifier: Apache-2.0
//! Options of the load.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use protocol::group::{ArrivalSpec, SleepSpec};
use protocol::job::CoschedRequest;
use protocol::tunable::TuneRequest;

use crate::doubt::Terms;
use crate::limits::Limit;
use crate::presets;
use crate::units::{self, CpuList, Threshold};

/// The load.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// How long to measure.
    #[arg(long, short, default_value = "30s", value_parser = units::positive_duration, value_name = "TIME")]
    pub duration: Duration,
    /// What lies so long after the load's start, where all threads want to run at once, is in no figure
    /// and no verdict; 0s counts everything [default: the longest burst, at most a tenth of
    /// --duration].
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub warmup: Option<Duration>,
    /// A gap above this ends the run, with status 1 unless the host may have made it; `off` never
    /// does.
    #[arg(long, short, default_value = "100ms", value_parser = units::optional_duration, value_name = "TIME")]
    pub threshold: Threshold,
    /// Gaps from this length on are recorded one by one.
    #[arg(long, default_value = "100us", value_parser = units::positive_duration, value_name = "TIME")]
    pub floor: Duration,
    /// A load by name instead of --groups, --threads, --busy, --sleep and --arrival; see --list-presets.
    #[arg(long, short, value_name = "NAME", value_parser = presets::names(), conflicts_with_all = ["groups", "threads", "busy", "sleep", "arrival"])]
    pub preset: Option<String>,
    /// A load of your own from a TOML file (docs/formats.md), instead of the same.
    #[arg(long, value_name = "FILE", value_parser = units::named(), conflicts_with_all = ["preset", "groups", "threads", "busy", "sleep", "arrival"])]
    pub load: Option<PathBuf>,
    /// List the presets.
    #[arg(long, exclusive = true)]
    pub list_presets: bool,
    /// Groups, each a process with a cookie of its own.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub groups: u32,
    /// Threads in each group.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub threads: u32,
    /// CPUs all threads share [default: the last core].
    #[arg(long, value_parser = units::cpu_list, value_name = "LIST")]
    pub load_cpus: Option<CpuList>,
    /// Length of a burst; with --arrival, the CPU time of each piece of work.
    #[arg(long, default_value = "1s", value_parser = units::positive_duration, value_name = "TIME")]
    pub busy: Duration,
    /// Pause between bursts: uniform:MIN-MAX, fixed:TIME or exponential:MEAN.
    #[arg(long, default_value = "uniform:0s-1s", value_parser = units::sleep, value_name = "PAUSE")]
    pub sleep: SleepSpec,
    /// Work comes at times of its own, in place of pauses: periodic:TIME or poisson:MEAN. What a
    /// thread has not done it does later, and what came meanwhile is late.
    #[arg(long, value_parser = units::arrival, value_name = "WHEN", conflicts_with = "sleep", requires = "busy")]
    pub arrival: Option<ArrivalSpec>,
    /// Seed of the pauses, or (trials) what the seeds of all runs are made of [default: another one for
    /// each call].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Room for gap records of one thread; what does not fit is still counted.
    #[arg(long, default_value_t = 65_536, value_name = "N")]
    pub records: u32,
    /// How long to measure the noise floor on the load's CPUs before the load, and after it, or
    /// `off`; 10s at most.
    #[arg(long, default_value = "500ms", value_parser = noise, value_name = "TIME")]
    pub noise: Threshold,
    /// A run of whose time the host took more than this is marked as contaminated.
    #[arg(long, default_value = "0.5%", value_parser = units::percent, value_name = "PERCENT")]
    pub steal_budget: f64,
    /// A run whose noise floor lost more of the time than this, or has gaps of the threshold's size
    /// itself, is contaminated, too [default: 10%].
    #[arg(long, value_parser = units::percent, value_name = "PERCENT")]
    pub noise_budget: Option<f64>,
    /// What a gap over the threshold of a contaminated run comes to: no answer (status 125), or the
    /// same as always, with a note [default: untestable].
    #[arg(long, value_enum, value_name = "ANSWER")]
    pub on_contaminated: Option<OnContaminated>,
    /// Fail a run of which this figure is above this value, such as 'wakeup-p99 > 5ms'; may be
    /// repeated.
    #[arg(long, value_parser = Limit::parse, value_name = "FIGURE > VALUE")]
    pub fail_if: Vec<Limit>,
    /// Measure although a cgroup that schedvmm was started in has a CPU quota: what it throttles
    /// looks like gaps of the kernel.
    #[arg(long)]
    pub allow_quota: bool,
    /// Where cookies come from: auto takes the newest interface the kernel has.
    #[arg(long, value_enum, default_value_t = Cosched::Auto)]
    pub cosched: Cosched,
    /// A scheduler tunable by intent, such as slice=1.875ms or hrtick=off; may be repeated.
    #[arg(long, value_parser = units::tune, value_name = "NAME=VALUE")]
    pub tune: Vec<TuneRequest>,
    /// Leave the kernel's scheduler tunables as they are, but for --tune.
    #[arg(long)]
    pub no_default_tune: bool,
}

impl LoadArgs {
    /// What a gap over the threshold must meet to be the kernel's.
    pub fn terms(&self, on_hardware: bool) -> Terms {
        Terms {
            steal_budget: self.steal_budget,
            noise_budget: self.noise_budget.unwrap_or(NOISE_BUDGET),
            report_contaminated: self.on_contaminated == Some(OnContaminated::Report),
            on_hardware,
        }
    }
}

/// Of a measurement that has budgets, unless the user says otherwise.
const NOISE_BUDGET: f64 = 0.1;
/// Who waits for the guest meanwhile gives up after some seconds of silence.
const MAX_NOISE: Duration = Duration::from_secs(10);

fn noise(text: &str) -> Result<Threshold, String> {
    match units::optional_duration(text)? {
        Threshold(Some(time)) if time > MAX_NOISE => {
            Err(format!("it is longer than {MAX_NOISE:?}, and what it is compared with are shares"))
        }
        time => Ok(time),
    }
}

/// What a gap over the threshold of a contaminated run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnContaminated {
    /// No answer: status 125.
    Untestable,
    /// What it would be of any run, with a note.
    Report,
}

/// Cookie mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Cosched {
    /// The newest the kernel has; none where it has none.
    Auto,
    /// No cookies: the baseline.
    None,
    /// prctl(PR_SCHED_CORE), Linux 5.14 and later.
    Prctl,
    /// cgroup file cpu.core_tag, patches of 2020/21.
    CoreTag,
    /// cgroup file cpu.tag, patches of 2019/20.
    Tag,
    /// cgroup file cpu.scheduled, co-scheduling patches of 2018.
    Scheduled,
}

impl From<Cosched> for CoschedRequest {
    fn from(cosched: Cosched) -> Self {
        match cosched {
            Cosched::Auto => Self::Auto,
            Cosched::None => Self::None,
            Cosched::Prctl => Self::Prctl,
            Cosched::CoreTag => Self::CoreTag,
            Cosched::Tag => Self::Tag,
            Cosched::Scheduled => Self::Scheduled,
        }
    }
}
