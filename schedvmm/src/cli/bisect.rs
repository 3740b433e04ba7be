// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm bisect`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use results::metric::Metric;

use crate::units::{self, Threshold};

/// Which commits, what builds them, and what a bad one does.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BisectArgs {
    /// A commit without what is looked for; may be repeated. The first one is built and run.
    #[arg(long, value_name = "REV", required_unless_present = "from_log")]
    pub good: Vec<String>,
    /// A commit with it.
    #[arg(long, value_name = "REV", required_unless_present = "from_log")]
    pub bad: Option<String>,
    /// Take the ends, and commits to skip, from what `git bisect log` printed.
    #[arg(long, value_name = "FILE", value_parser = units::named(),
          conflicts_with_all = ["good", "bad", "path"])]
    pub from_log: Option<PathBuf>,
    /// The kernel's git work tree. Its HEAD, index and files stay as they are.
    #[arg(long, value_name = "DIR", default_value = ".", value_parser = units::named())]
    pub tree: PathBuf,
    /// Only commits that change these files or folders of the tree.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub path: Vec<String>,
    /// Follow only the first parent of merges: a branch is one commit.
    #[arg(long)]
    pub first_parent: bool,
    /// What builds a kernel: words for a shell, in a work tree of its own, where they leave it as
    /// `--kernel .` finds it. Status 125, or any other failure, skips the commit, from 128 on ends the
    /// search [default: make olddefconfig && make -j$(nproc) bzImage].
    #[arg(long, value_name = "COMMAND")]
    pub build: Option<String>,
    /// The configuration that each build begins with [default: the tree's .config].
    #[arg(long, value_name = "FILE", value_parser = units::named())]
    pub config: Option<PathBuf>,
    /// A build that takes longer is given up, and its commit skipped.
    #[arg(long, value_name = "TIME", default_value = "6h", value_parser = units::positive_duration)]
    pub build_timeout: Duration,
    /// The gap from which on a run is a hit [default: 100ms].
    #[arg(long, value_name = "TIME", value_parser = units::optional_duration,
          conflicts_with = "metric")]
    pub threshold: Option<Threshold>,
    /// In place of a gap over a threshold: a run of which this figure …
    #[arg(long, value_name = "METRIC", value_parser = super::compare::metric(), requires = "limit")]
    pub metric: Option<Metric>,
    /// … is greater than this is a hit: a time, or a percentage of shares.
    #[arg(long, value_name = "LIMIT", requires = "metric")]
    pub limit: Option<String>,
    /// Runs of each end, at most, until the ends are told apart. A later call may raise it, and goes on.
    #[arg(long, value_name = "N", default_value_t = decision::bisect::MAX_END_TRIALS,
          value_parser = clap::value_parser!(u32).range(MIN_END..=MAX_RUNS))]
    pub runs_at_ends: u32,
    /// Give up after so many runs in all. A later call may raise it, and goes on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_RUNS))]
    pub max_runs: Option<u32>,
    /// Give up after so many hours of builds and runs. A later call may raise it, and goes on.
    #[arg(long, value_name = "HOURS", value_parser = hours)]
    pub max_hours: Option<Duration>,
    /// What the seeds of all runs are made of [default: another one for each search].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Folder of the search; must be new or empty, or one of the same search, which goes on [default: a
    /// new one under results/].
    #[arg(long, value_name = "DIR", value_parser = units::named())]
    pub output: Option<PathBuf>,
    /// Print bisect.json instead of the screen.
    #[arg(long)]
    pub json: bool,
    /// Options of the main job for all runs.
    #[arg(last = true, value_name = "OPTIONS")]
    pub run: Vec<String>,
}

const MIN_END: i64 = decision::bisect::MIN_END_TRIALS as i64;
const MAX_RUNS: i64 = 100_000;

const EXAMPLES: &str = "Examples, in a kernel's git tree with a .config:
  schedvmm bisect --good v6.11 --bad v6.12 --threshold 60ms --output ../gaps -- --cosched prctl
  schedvmm bisect --good v6.11 --bad v6.12 --path kernel/sched --metric wait-p99 --limit 20ms
  schedvmm bisect --good A --bad B --build 'make O=. LLVM=1 -j8 bzImage' --max-hours 12
  git bisect log > log; schedvmm bisect --from-log log

The same call with the same --output goes on after a signal, a kill or a full disk.";

/// A number of hours, which need not be whole.
fn hours(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 10_000.0;
    let hours: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number of hours"))?;
    if hours > 0.0 && hours <= MOST {
        Ok(Duration::from_secs_f64(3600.0 * hours))
    } else {
        Err(format!("it must be more than 0 and at most {MOST}"))
    }
}
