// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm explain`.

use std::path::PathBuf;

use clap::Args;
use results::model::Numbers;

use crate::units;

/// Options of `explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// A result folder, or its result.json.
    #[arg(value_name = "RESULT", value_parser = units::named())]
    pub result: PathBuf,
    /// The Nth gap of gaps.csv [default: the one over the threshold, else the longest].
    #[arg(long, value_name = "N", conflicts_with_all = ["longest", "thread"])]
    pub gap: Option<usize>,
    /// The longest gap.
    #[arg(long, conflicts_with = "thread")]
    pub longest: bool,
    /// The longest gap of a thread: 3.1 is the first of group 3, or vCPU 1 of VM 3.
    #[arg(long, value_name = "GROUP.THREAD", value_parser = Numbers::parse)]
    pub thread: Option<Numbers>,
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
    #[arg(long, value_name = "FILE", value_parser = units::named())]
    pub perfetto: Option<PathBuf>,
}
