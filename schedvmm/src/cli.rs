// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use guest::job::{
    CoschedRequest, MeterKind, MeterMode, MeterSpec, SleepSpec, TraceDump, TuneRequest,
};
use vmm::config::PvProfile;

use crate::shape;
use crate::units::{self, CpuList, Threshold};

/// Measures scheduling gaps: how long a thread that wants to run does not run.
///
/// Boots KERNEL in a microVM of its own, runs bursty threads with core-scheduling cookies
/// on one core, and reports the longest time one of them was kept waiting.
///
/// Exit status: 0 no gap over the threshold; 1 a gap over it; 125 this kernel could not be
/// tested; 130/143 ended by SIGINT/SIGTERM; 200 usage; 201 this host cannot; 202 internal error.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// Another job than the main one.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// The main job.
    #[command(flatten)]
    pub run: RunArgs,
}

impl Cli {
    /// Whether only a list of presets is wanted.
    pub fn lists_presets(&self) -> bool {
        match &self.verb {
            Some(Verb::Host(args)) => args.load.list_presets,
            Some(_) => false,
            None => self.run.load.list_presets,
        }
    }
}

/// Everything but the main job.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes up a run of many gaps and times what becomes of them: for benchmarks.
    #[command(hide = true)]
    BenchAnalyse {
        /// How many gaps.
        #[arg(long)]
        records: usize,
        /// Result folder.
        #[arg(long)]
        output: PathBuf,
    },
    /// Boots a kernel with an initrd of your own and shows its console; measures nothing.
    Boot(Box<BootArgs>),
    /// Says from its trace why a gap of a result was: who ran instead.
    Explain(ExplainArgs),
    /// Measures the kernel that is running: the same load and meter, no VM, no root needed.
    Host(Box<HostArgs>),
    /// Repeats a run, with the options that its result was measured with.
    Run {
        /// Its result.json.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Result folder; must be new or empty [default: a new one under results/].
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Print result.json instead of the screen.
        #[arg(long)]
        json: bool,
    },
    /// Writes the report of a run: one HTML file with pictures, which needs nothing else.
    Report {
        /// The result folder, or its result.json.
        #[arg(value_name = "RESULT")]
        result: PathBuf,
        /// Where the report goes [default: report.html in the result folder].
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Makes gaps of known length on this machine and looks for them: is the meter right here?
    ///
    /// Exit status 0 where all that could be tried is right, 201 where it is not.
    Selftest {
        /// A bzImage or a vmlinux: also stop the vCPU of a machine that runs it.
        #[arg(long, value_name = "FILE")]
        kernel: Option<PathBuf>,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Says whether this host's KVM can run Linux (exit status 0 or 201).
    Probe {
        /// Print one JSON object instead of a sentence.
        #[arg(long)]
        json: bool,
    },
}

/// Options of `boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// A bzImage or a vmlinux.
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// An initial RAM file system, as the kernel takes it.
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// A virtio-console port of this name that writes to FILE; may be repeated.
    #[arg(long, value_parser = port, value_name = "NAME=FILE")]
    pub port: Vec<(String, PathBuf)>,
    /// What the machine is like.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Options of `explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// A result folder, or its result.json.
    #[arg(value_name = "RESULT")]
    pub result: PathBuf,
    /// The Nth gap of gaps.csv [default: the one over the threshold, else the longest].
    #[arg(long, value_name = "N", conflicts_with_all = ["longest", "thread"])]
    pub gap: Option<usize>,
    /// The longest gap.
    #[arg(long, conflicts_with = "thread")]
    pub longest: bool,
    /// The longest gap of a thread, counted from 0.
    #[arg(long, value_name = "THREAD")]
    pub thread: Option<usize>,
    /// No gap, but all threads and all of the trace: where the time went, and how long each CPU
    /// was forced idle for whom.
    #[arg(long, conflicts_with_all = ["gap", "longest", "thread", "text"])]
    pub run: bool,
    /// Print one JSON object instead of a paragraph and a table.
    #[arg(long, conflicts_with = "text")]
    pub json: bool,
    /// Print the events of all CPUs in the gap instead.
    #[arg(long)]
    pub text: bool,
    /// Write the whole trace with all gaps for ui.perfetto.dev, beside what is printed.
    #[arg(long, value_name = "FILE")]
    pub perfetto: Option<PathBuf>,
}

/// Options of `host`.
#[derive(Clone, Debug, Args)]
pub struct HostArgs {
    /// What runs.
    #[command(flatten)]
    pub load: LoadArgs,
    /// What is traced; needs root, and is done without where there is none.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// What comes out.
    #[command(flatten)]
    pub show: ShowArgs,
}

/// Options of the main job.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The kernel under test: a bzImage or a vmlinux.
    #[arg(long, required = true, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// What the machine is like.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// What runs in it.
    #[command(flatten)]
    pub load: LoadArgs,
    /// What measures in its place.
    #[command(flatten)]
    pub meter: MeterArgs,
    /// Virtual machines in its place.
    #[command(flatten)]
    pub nested: NestedArgs,
    /// What is traced.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// What comes out.
    #[command(flatten)]
    pub show: ShowArgs,
}

/// The machine.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Number of vCPUs.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub cpus: u32,
    /// Hardware threads per core.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub threads_per_core: u32,
    /// Guest memory; allocated as the guest touches it.
    #[arg(long, default_value = "4G", value_parser = units::mebibytes, value_name = "SIZE")]
    pub memory: u64,
    /// Host CPUs for the vCPUs in order, or `none` [default: whole cores from the second on].
    #[arg(long, value_parser = pin, value_name = "LIST")]
    pub pin: Option<Pin>,
    /// How the guest kernel idles.
    #[arg(long, value_enum, default_value_t = Idle::Halt)]
    pub idle: Idle,
    /// KVM paravirtual features the guest sees: clock, cloud or off.
    #[arg(long, default_value_t = PvProfile::Clock, value_name = "PROFILE")]
    pub pv: PvProfile,
    /// Unpack the kernel into guest memory, or let its own stub do it.
    #[arg(long, value_enum, default_value_t = Boot::Payload)]
    pub boot: Boot,
    /// Words added to the end of the kernel command line; of two values, the last one counts.
    #[arg(long, default_value = "", value_name = "WORDS", allow_hyphen_values = true)]
    pub append: String,
    /// Time from start to PID 1 after which the kernel counts as not booting.
    #[arg(long, default_value = "60s", value_parser = units::positive_duration, value_name = "TIME")]
    pub boot_timeout: Duration,
    /// Give the guest a 16550 and show its early console.
    #[arg(long)]
    pub debug_boot: bool,
}

/// Where vCPUs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Wherever the host's scheduler puts them.
    None,
    /// One host CPU for each.
    List(CpuList),
}

fn pin(text: &str) -> Result<Pin, String> {
    if text == "none" { Ok(Pin::None) } else { units::cpu_list(text).map(Pin::List) }
}

fn port(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), file.into()))
        }
        _ => Err("expected NAME=FILE, such as bulk=/tmp/dump".to_owned()),
    }
}

/// `idle=` of the guest kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Halt, as a kernel does by itself.
    Halt,
    /// Spin: a forced-idle sibling then takes half of its core's speed.
    Poll,
}

/// How the kernel image is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Boot {
    /// Unpacked by us, entered as ELF.
    Payload,
    /// Entered at the bzImage's 64-bit stub.
    Stub,
}

/// The load.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// How long to measure.
    #[arg(long, default_value = "30s", value_parser = units::positive_duration, value_name = "TIME")]
    pub duration: Duration,
    /// A gap above this ends the run with status 1; `off` never does.
    #[arg(long, default_value = "100ms", value_parser = units::optional_duration, value_name = "TIME")]
    pub threshold: Threshold,
    /// Gaps from this length on are recorded one by one.
    #[arg(long, default_value = "100us", value_parser = units::positive_duration, value_name = "TIME")]
    pub floor: Duration,
    /// A load by name instead of --groups, --threads, --busy and --sleep; see --list-presets.
    #[arg(long, value_name = "NAME", value_parser = shape::preset_names(), conflicts_with_all = ["groups", "threads", "busy", "sleep"])]
    pub preset: Option<String>,
    /// A load of your own from a TOML file (docs/formats.md), instead of the same.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "groups", "threads", "busy", "sleep"])]
    pub load: Option<PathBuf>,
    /// Say what loads there are by name, and do nothing else.
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
    /// Length of a burst.
    #[arg(long, default_value = "1s", value_parser = units::positive_duration, value_name = "TIME")]
    pub busy: Duration,
    /// Pause between bursts: uniform:MIN-MAX, fixed:TIME or exponential:MEAN.
    #[arg(long, default_value = "uniform:0s-1s", value_parser = units::sleep, value_name = "PAUSE")]
    pub sleep: SleepSpec,
    /// Seed of the pauses.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub seed: u64,
    /// Room for gap records of one thread; what does not fit is still counted.
    #[arg(long, default_value_t = 65_536, value_name = "N")]
    pub records: u32,
    /// How long to measure the noise floor on the load's CPUs before the load, or `off`.
    #[arg(long, default_value = "500ms", value_parser = units::optional_duration, value_name = "TIME")]
    pub noise: Threshold,
    /// A run of whose time the host took more than this is marked as contaminated.
    #[arg(long, default_value = "0.5%", value_parser = units::percent, value_name = "PERCENT")]
    pub steal_budget: f64,
    /// Where cookies come from: auto takes the newest interface the kernel has.
    #[arg(long, value_enum, default_value_t = Cosched::Auto)]
    pub cosched: Cosched,
    /// A scheduler knob by intent, such as slice=1.875ms or hrtick=off; may be repeated.
    #[arg(long, value_parser = units::tune, value_name = "NAME=VALUE")]
    pub tune: Vec<TuneRequest>,
    /// Leave the kernel's scheduler knobs as they are, but for --tune.
    #[arg(long)]
    pub no_default_tune: bool,
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

/// Options of the bursty threads, which mean nothing where something else is measured: clap
/// refuses them rather than have them ignored. `--cosched`, which also concerns virtual machines,
/// is checked when a run is planned.
const BURSTY: [&str; 7] = ["groups", "threads", "busy", "sleep", "seed", "preset", "load"];

/// A meter in place of the load.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Meter")]
pub struct MeterArgs {
    /// Keep the load's CPUs busy with this meter alone, and no bursty threads: what it misses
    /// is what the machine's host did to it.
    #[arg(long, value_enum, value_name = "METER", conflicts_with_all = BURSTY)]
    pub meter: Option<Meter>,
    /// hwlat and osnoise measure in windows of this length.
    #[arg(long, default_value = "1s", value_parser = units::positive_duration, value_name = "TIME")]
    pub meter_window: Duration,
    /// In each window they measure for so long, and sleep for the rest.
    #[arg(long, default_value = "500ms", value_parser = units::positive_duration, value_name = "TIME")]
    pub meter_width: Duration,
    /// Whether hwlat goes from CPU to CPU, or is on all of them at once.
    #[arg(long, value_enum, default_value_t = Mode::RoundRobin, value_name = "MODE")]
    pub meter_mode: Mode,
}

impl MeterArgs {
    /// The meter as the agent takes it; `None` where there is none but the load.
    pub fn spec(&self) -> Option<MeterSpec> {
        let kind = match self.meter? {
            Meter::Auto => MeterKind::Auto,
            Meter::Hwlat => MeterKind::Hwlat,
            Meter::Osnoise => MeterKind::Osnoise,
            Meter::Rdtsc => MeterKind::Rdtsc,
        };
        let mode = match self.meter_mode {
            Mode::RoundRobin => MeterMode::RoundRobin,
            Mode::PerCpu => MeterMode::PerCpu,
        };
        Some(MeterSpec { kind, window: self.meter_window, width: self.meter_width, mode })
    }
}

/// Meters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Meter {
    /// hwlat if the kernel has it, else rdtsc.
    Auto,
    /// The kernel's hwlat tracer: the longest gap of each window, interrupts off.
    Hwlat,
    /// The kernel's osnoise tracer: every gap, interrupts on (Linux 5.14 and later).
    Osnoise,
    /// The load's own loop, one thread for each CPU, always busy.
    Rdtsc,
}

/// How hwlat spreads over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One thread that moves on with each window; the other CPUs idle.
    RoundRobin,
    /// One thread for each CPU (Linux 5.14 and later).
    PerCpu,
}

/// Virtual machines as the load.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Nested virtual machines")]
pub struct NestedArgs {
    /// The load is virtual machines: each of 2 vCPUs, started by this program in the guest, and
    /// kept busy by a meter (--meter, else the best that their kernel has).
    #[arg(long, conflicts_with_all = BURSTY)]
    pub nested: bool,
    /// Their kernel [default: that of the machine around them].
    #[arg(long, value_name = "FILE", requires = "nested")]
    pub l2_kernel: Option<PathBuf>,
    /// Memory of each.
    #[arg(long, default_value = "64M", value_parser = units::mebibytes, value_name = "SIZE", requires = "nested")]
    pub l2_memory: u64,
    /// Whether they have copies of kernel and initrd, in huge pages, or share the pages of one:
    /// less memory, and far more page faults while they boot.
    #[arg(long, value_enum, default_value_t = Pages::Own, requires = "nested")]
    pub l2_pages: Pages,
    /// How many.
    #[arg(long, default_value_t = 8, value_name = "N", requires = "nested")]
    pub l2_count: u32,
    /// Time from their start until all stand ready.
    #[arg(long, default_value = "300s", value_parser = units::positive_duration, value_name = "TIME", requires = "nested")]
    pub l2_boot_timeout: Duration,
    /// Words added to their kernels' command lines, of one of them with its number before:
    /// `3:WORDS`; may be repeated.
    #[arg(long, value_parser = vm_words, value_name = "[VM:]WORDS", allow_hyphen_values = true, requires = "nested")]
    pub l2_append: Vec<VmWords>,
    /// Where their vCPU threads run while they are measured.
    #[arg(long, value_enum, default_value_t = Confine::Core, requires = "nested")]
    pub confine: Confine,
    /// Confine them from their start, and not when all stand ready: slow, and how the original
    /// had it.
    #[arg(long, requires = "nested")]
    pub boot_confined: bool,
    /// Whose meter's lines are shown live: the number of a VM, `all` or `none`.
    #[arg(long, default_value = "1", value_name = "VM", requires = "nested")]
    pub show_vm: ShowVm,
    /// A VM that fails is noted, and does not make the run fail.
    #[arg(long, requires = "nested")]
    pub allow_degraded: bool,
}

/// Words for the kernels of virtual machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmWords {
    /// For which; `None` for all.
    pub vm: Option<u32>,
    /// The words.
    pub words: String,
}

impl VmWords {
    /// Whether they are for this machine.
    pub fn is_for(&self, vm: u32) -> bool {
        self.vm.is_none_or(|only| only == vm)
    }
}

fn vm_words(text: &str) -> Result<VmWords, std::convert::Infallible> {
    let numbered = text.split_once(':').and_then(|(vm, words)| Some((vm.parse().ok()?, words)));
    let (vm, words) = numbered.map_or((None, text), |(vm, words)| (Some(vm), words));
    Ok(VmWords { vm, words: words.to_owned() })
}

/// Pages of kernel and initrd of virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pages {
    /// One for all until it is written.
    Shared,
    /// Copies.
    Own,
}

/// How vCPU threads are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Confine {
    /// All of them share all of the load's CPUs: both hyperthreads of the core.
    Core,
    /// Each has exactly one of them.
    Vcpu,
}

impl From<Confine> for guest::job::Confine {
    fn from(confine: Confine) -> Self {
        match confine {
            Confine::Core => Self::Core,
            Confine::Vcpu => Self::Vcpu,
        }
    }
}

/// Whose lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowVm {
    /// Everybody's.
    All,
    /// Nobody's.
    None,
    /// Of this one.
    Only(u32),
}

impl ShowVm {
    /// The one that is shown alone.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Only(vm) => Some(vm),
            Self::All | Self::None => None,
        }
    }
}

impl FromStr for ShowVm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            number => number
                .parse()
                .map(Self::Only)
                .map_err(|_| format!("\"{text}\" is no number of a VM, all or none")),
        }
    }
}

/// Tracing.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trace")]
pub struct TraceArgs {
    /// Trace the guest's kernel, so that a gap over the threshold can be explained.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub trace: Switch,
    /// Event systems, or single events as SYSTEM:EVENT.
    #[arg(long, value_delimiter = ',', default_value = "sched,irq,timer", value_name = "LIST")]
    pub trace_events: Vec<String>,
    /// Ring buffer per CPU: it must hold all events of the longest gap.
    #[arg(long, default_value = "4M", value_parser = units::kibibytes, value_name = "SIZE")]
    pub trace_buffer: u64,
    /// After which runs the trace comes out: those with a gap over the threshold, or all.
    #[arg(long, value_enum, default_value_t = Dump::Hit)]
    pub trace_dump: Dump,
    /// Where the trace goes [default: trace.dat in the result folder].
    #[arg(long, value_name = "FILE")]
    pub trace_file: Option<PathBuf>,
}

/// After which runs the trace comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dump {
    /// Those with a gap over the threshold.
    Hit,
    /// All.
    Always,
}

impl From<Dump> for TraceDump {
    fn from(dump: Dump) -> Self {
        match dump {
            Dump::Hit => Self::Hit,
            Dump::Always => Self::Always,
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Output.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct ShowArgs {
    /// Result folder; must be new or empty [default: a new one under results/].
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print result.json instead of the screen.
    #[arg(long)]
    pub json: bool,
    /// Print the lines of the original benchmark.
    #[arg(long, conflicts_with = "json")]
    pub compat: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_originals() {
        let cli = Cli::try_parse_from(["schedvmm", "--kernel", "bzImage"]).expect("parses");
        let (machine, load) = (cli.run.machine, cli.run.load);
        assert_eq!((machine.cpus, machine.threads_per_core, machine.memory), (4, 2, 4096));
        assert_eq!((load.groups, load.threads, load.seed), (8, 2, 5));
        assert_eq!(load.threshold, Threshold(Some(Duration::from_millis(100))));
        assert_eq!((load.duration, load.busy), (Duration::from_secs(30), Duration::from_secs(1)));
    }

    #[test]
    fn ports_have_a_name_and_a_file() {
        assert_eq!(port("bulk=/tmp/a=b"), Ok(("bulk".into(), "/tmp/a=b".into())));
        for bad in ["", "bulk", "=x", "bulk="] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn verbs_need_no_kernel_and_the_main_job_does() {
        assert!(Cli::try_parse_from(["schedvmm", "probe"]).is_ok());
        assert!(Cli::try_parse_from(["schedvmm"]).is_err());
        assert!(Cli::try_parse_from(["schedvmm", "--kernel", "x", "--pin", "2,x"]).is_err());
    }
}
