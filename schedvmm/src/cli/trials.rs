// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm trials`.

use clap::{Args, ValueEnum};
use results::trials;

use super::RunArgs;

/// How many runs one call does at most.
const MAX_TRIALS: i64 = 10_000;

/// So many trials, and of what.
#[derive(Clone, Debug, Args)]
pub struct TrialsArgs {
    /// How many runs, each with a boot and a seed of its own.
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_TRIALS))]
    pub count: u32,
    /// Do all of them, or end at the first gap over the threshold: no further run can change the exit
    /// status then.
    #[arg(long, value_enum, default_value_t = Until::All)]
    pub until: Until,
    /// What each of them is.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The same as an option of the main job.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trials")]
pub struct RunsArgs {
    /// As `schedvmm trials N`: so many runs in one folder, each with a boot and a seed of its own.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_TRIALS))]
    pub runs: Option<u32>,
    /// Do all of them, or end at the first gap over the threshold.
    #[arg(long, value_enum, default_value_t = Until::All, requires = "runs")]
    pub until: Until,
}

/// When trials end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// When all have been done.
    All,
    /// When the exit status is certain.
    Decided,
}

impl TrialsArgs {
    /// Those that the main job was asked for.
    pub fn of_main(runs: &RunsArgs, run: &RunArgs) -> Option<Self> {
        Some(Self { count: runs.runs?, until: runs.until, run: run.clone() })
    }

    /// When they end, as files have it.
    pub fn until(&self) -> trials::Until {
        match self.until {
            Until::All => trials::Until::All,
            Until::Decided => trials::Until::Decided,
        }
    }
}
