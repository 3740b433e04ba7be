// SPDX-License-Identifier: Apache-2.0
//! The command line: verbs and what they take; each group of options has a file.

mod bisect;
mod boot;
mod caps;
mod check;
mod compare;
mod explain;
mod history;
mod host;
mod load;
mod machine;
mod matrix;
mod meter;
mod nested;
mod output;
mod report;
mod trials;

pub use bisect::BisectArgs;
pub use boot::BootArgs;
pub use caps::CapArgs;
pub use check::CheckArgs;
pub use compare::CompareArgs;
pub use explain::ExplainArgs;
pub use history::HistoryArgs;
pub use host::HostArgs;
pub use load::{Cosched, LoadArgs};
pub use machine::{Boot, Idle, MachineArgs, Pin, TransportChoice};
pub use matrix::MatrixArgs;
pub use meter::MeterArgs;
pub use nested::{NestedArgs, Pages, ShowVm};
pub use output::{ShowArgs, TraceArgs};
pub use report::ReportArgs;
pub use trials::{RunsArgs, TrialsArgs};

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures scheduling gaps: how long a thread that wants to run does not run.
///
/// Boots KERNEL in a microVM of its own, runs bursty threads with core-scheduling cookies
/// on one core, and reports the longest time one of them was kept waiting.
///
/// Exit status: 0 no gap over the threshold, or none set; 1 a gap over it; 125 this kernel could
/// not be tested; 130/143 ended by SIGINT/SIGTERM; 200 usage; 201 this host cannot; 202 internal
/// error.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// The verb; none is a run.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Options of a run.
    #[command(flatten)]
    pub run: RunArgs,
    /// How many runs, and when they end.
    #[command(flatten)]
    pub runs: RunsArgs,
}

/// What `schedvmm -h` prints: a page that fits a screen. `--help` has every option.
pub const SHORT_HELP: &str = include_str!("help.txt");

impl Cli {
    /// Whether only a list of presets is wanted.
    pub fn lists_presets(&self) -> bool {
        match &self.verb {
            Some(Verb::Host(args)) => args.load.list_presets,
            Some(Verb::Trials(args)) => args.run.load.list_presets,
            Some(_) => false,
            None => self.run.load.list_presets,
        }
    }
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Finds the commit from which on kernels have gaps, or more of something else, where single runs
    /// tell little: builds kernels of a git history and runs them as often as it takes.
    ///
    /// Exit status 0 where the commit is found, 125 where the ends cannot be told apart or tested, or
    /// where --max-runs or --max-hours end it, 200 where the commits make no sense, 201 where this host
    /// cannot.
    Bisect(Box<BisectArgs>),
    /// Boots a kernel with an initrd of your own and shows its console; measures nothing.
    Boot(Box<BootArgs>),
    /// Says what a kernel has of what measurements need, and what it means where something is
    /// missing; boots nothing.
    ///
    /// Exit status 0 where all is there, 1 where it runs without something, or where that cannot be
    /// told, 125 where it cannot run.
    Check(CheckArgs),
    /// Says whether kernels are better than the first, the same or worse, by trials that took turns.
    ///
    /// Exit status 0 where all are better or the same, 1 where one is worse, 125 where one is undecided,
    /// 200 where they cannot be compared.
    Compare(Box<CompareArgs>),
    /// Prints what a shell needs to complete verbs, options and their values.
    Completions {
        /// The shell.
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Prints what to merge into a kernel's configuration, so that it has all that measurements
    /// need.
    Config {
        /// For virtual machines as the load, too.
        #[arg(long)]
        nested: bool,
    },
    /// Says from its trace why a gap of a result was, or from a trace of any machine who waited longest
    /// for a CPU: who ran instead.
    Explain(ExplainArgs),
    /// Says where a row of kernels changes, by their stored trials.
    ///
    /// Exit status 0, or 1 where the last change is one for the worse; 200 where they cannot be
    /// compared.
    History(Box<HistoryArgs>),
    /// Measures the kernel that is running: the same load and meter, no VM, no root needed.
    Host(Box<HostArgs>),
    /// Lists results, trials, comparisons, matrices and searches, the oldest first.
    List {
        /// The folder that they are in [default: results].
        #[arg(value_name = "DIR", value_parser = crate::units::named())]
        folder: Option<PathBuf>,
    },
    /// Prints the manual page of a verb, or that of the whole: `schedvmm man bisect | man -l -`.
    Man {
        /// The verb.
        #[arg(value_name = "VERB")]
        verb: Option<String>,
    },
    /// Kernels with tunables, loads and cookies, each with each, many trials of each in random order:
    /// which are better than a base, the same or worse, in a table and a heat map.
    ///
    /// Called again with the same --output it goes on where it was ended. Exit status as of `compare`.
    Matrix(MatrixArgs),
    /// Repeats a run, with the options that its result was measured with.
    Run {
        /// Its result folder, or its result.json. Its files are looked for where it was started;
        /// what it wrote is left alone.
        #[arg(long, value_name = "RESULT", value_parser = crate::units::named())]
        from: PathBuf,
        /// Result folder; must be new or empty [default: a new one under results/].
        #[arg(long, value_name = "DIR", value_parser = crate::units::named())]
        output: Option<PathBuf>,
        /// Print result.json instead of the screen.
        #[arg(long)]
        json: bool,
    },
    /// Writes the report of a run, of trials beside others, or of a matrix: one HTML file with
    /// pictures, which needs nothing else.
    Report(ReportArgs),
    /// Makes gaps of known length on this machine and looks for them: is the meter right here?
    ///
    /// Exit status 0 where all that could be tried is right, 201 where something is not, or where
    /// this machine is too busy to tell, 125 where a CPU quota keeps it from being told, 200 or 125
    /// where --kernel names none.
    Selftest {
        /// Also stop the vCPU of a machine that runs this kernel, named as for the main job.
        #[arg(long, value_name = "KERNEL", value_parser = crate::units::named())]
        kernel: Option<PathBuf>,
        /// Try it although a cgroup that schedvmm was started in has a CPU quota.
        #[arg(long)]
        allow_quota: bool,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Prints once more what a run, trials, a comparison, a matrix or a search printed at the end.
    Show {
        /// Its folder [default: results/latest].
        #[arg(value_name = "RESULT", value_parser = crate::units::named())]
        result: Option<PathBuf>,
    },
    /// Does the main job many times, each with a boot and a seed of its own, and says what the runs
    /// come to: medians with their intervals, and how many had a gap over the threshold.
    ///
    /// Called again with the same --output it goes on where it was ended. Exit status 0 where no run
    /// had a gap over the threshold, 1 where one had, else as of the main job; 201 also where too many
    /// runs were contaminated.
    Trials(Box<TrialsArgs>),
    /// Says whether this host's KVM can run Linux (exit status 0 or 201).
    Probe {
        /// Print one JSON object instead of a sentence.
        #[arg(long)]
        json: bool,
    },
}

/// Options of the main job.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The kernel under test: a bzImage, a vmlinux, a build tree (`.`), a package (.deb, .rpm), a
    /// folder that one was unpacked into, the release of an installed kernel, or `running`.
    #[arg(long, short, required = true, value_name = "KERNEL", value_parser = crate::units::named())]
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;
    use crate::units::Threshold;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_originals() {
        let cli = Cli::try_parse_from(["schedvmm", "--kernel", "bzImage"]).expect("parses");
        let (machine, load) = (cli.run.machine, cli.run.load);
        assert_eq!((machine.cpus, machine.threads_per_core, machine.memory), (4, 2, 4096));
        assert_eq!((load.groups, load.threads, load.seed), (8, 2, None));
        assert_eq!(load.threshold, Threshold(Some(Duration::from_millis(100))));
        assert_eq!((load.duration, load.busy), (Duration::from_secs(30), Duration::from_secs(1)));
    }

    /// Drawn by hand, and so compared: with what there is to be named, and with a screen.
    #[test]
    fn the_short_help_fits_a_screen_and_names_what_there_is() {
        assert!(SHORT_HELP.lines().count() <= 40);
        for line in SHORT_HELP.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let command = Cli::command();
        let verbs: Vec<_> = command.get_subcommands().map(|verb| verb.get_name()).collect();
        let (_, listed) = SHORT_HELP.split_once("\nMeasure ").expect("the verbs");
        let (listed, _) = listed.split_once("\nExamples").expect("their end");
        let mut named: Vec<_> = listed
            .split(|c: char| !c.is_ascii_lowercase())
            .filter(|word| verbs.contains(word))
            .collect();
        named.sort_unstable();
        let mut all: Vec<_> = verbs.iter().copied().filter(|verb| *verb != "help").collect();
        all.sort_unstable();
        assert_eq!(named, all);
        for word in SHORT_HELP.split_whitespace().filter(|word| word.starts_with('-')) {
            let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let is_known = command.get_arguments().any(|arg| {
                arg.get_long().is_some_and(|long| word == format!("--{long}"))
                    || arg.get_short().is_some_and(|short| word == format!("-{short}"))
            });
            assert!(is_known || ["--", "--help"].contains(&word), "{word}");
        }
    }

    #[test]
    fn what_is_typed_often_is_short() {
        let words = ["schedvmm", "-k", "x", "-d", "2s", "-t", "off", "-o", "r", "-j", "-n", "3"];
        let cli = Cli::try_parse_from(words).expect("parses");
        assert_eq!(cli.run.load.duration, Duration::from_secs(2));
        assert!(cli.run.show.json && cli.run.load.threshold == Threshold(None));
        let cli = Cli::try_parse_from(["schedvmm", "-k", "x", "-p", "yield"]).expect("parses");
        assert_eq!(cli.run.load.preset.as_deref(), Some("yield"));
    }

    /// A file called `-` is nobody's wish, and stdout takes one report only.
    #[test]
    fn a_dash_is_stdout_or_refused_by_name() {
        for words in [
            &["--kernel", "-"][..],
            &["--kernel", "x", "--output", "-"],
            &["--kernel", "x", "--trace-file", "-"],
            &["--kernel", "x", "--load", "-"],
            &["--kernel", "x", "--nested", "--l2-kernel", "-"],
            &["host", "--output", "-"],
            &["host", "--trace-file", "-"],
            &["boot", "--kernel", "x", "--initrd", "-"],
            &["explain", "x", "--perfetto", "-"],
            &["explain", "-"],
            &["report", "-"],
            &["run", "--from", "-"],
            &["run", "--from", "x", "--output", "-"],
            &["selftest", "--kernel", "-"],
            &["check", "-"],
        ] {
            let parsed = Cli::try_parse_from(["schedvmm"].iter().chain(words));
            let error = parsed.expect_err("a dash").to_string();
            assert!(error.contains("'-'") && error.contains("stdout"), "{words:?}: {error}");
        }
        assert!(Cli::try_parse_from(["schedvmm", "report", "x", "--output", "-"]).is_ok());
    }

    #[test]
    fn verbs_need_no_kernel_and_the_main_job_does() {
        assert!(Cli::try_parse_from(["schedvmm", "probe"]).is_ok());
        assert!(Cli::try_parse_from(["schedvmm"]).is_err());
        assert!(Cli::try_parse_from(["schedvmm", "--kernel", "x", "--pin", "2,x"]).is_err());
    }
}
