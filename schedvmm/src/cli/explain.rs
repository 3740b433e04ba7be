// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm explain`.

use std::path::PathBuf;

use clap::Args;

use crate::units::{self, CpuList};

/// Options of `explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// A result folder, or its result.json; or a trace.dat from anywhere.
    #[arg(value_name = "RESULT", value_parser = units::named())]
    pub result: PathBuf,
    /// The Nth gap of gaps.csv [default: the one over the threshold, else the longest]; of a trace,
    /// the Nth longest wait.
    #[arg(long, value_name = "N", conflicts_with = "longest")]
    pub gap: Option<usize>,
    /// The longest gap; of a trace, the longest wait.
    #[arg(long)]
    pub longest: bool,
    /// The longest gap of a thread: 3.1 is the first of group 3, or vCPU 1 of VM 3. Of a trace,
    /// waits of the thread with this number or name alone.
    #[arg(long, value_name = "THREAD")]
    pub thread: Option<String>,
    /// Of a trace: how many waits to explain, the longest first [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000),
        conflicts_with_all = ["gap", "longest"])]
    pub worst: Option<u16>,
    /// Of a trace: waits on these CPUs alone.
    #[arg(long, value_name = "LIST", value_parser = units::cpu_list)]
    pub cpus: Option<CpuList>,
    /// Of a trace: waits that lie between these times alone, in whole or in part. In seconds, as
    /// they are printed here and by `trace-cmd report`.
    #[arg(long, num_args = 2, value_names = ["BEGIN", "END"], value_parser = units::trace_time_ns)]
    pub between: Option<Vec<u64>>,
    /// Of a trace with several buffers: which, `main` or the name of an instance [default: main].
    #[arg(long, value_name = "NAME")]
    pub buffer: Option<String>,
    /// Of a trace whose clock counts ticks, and which does not say how fast: thousands of them in
    /// a second.
    #[arg(long, value_name = "KHZ", value_parser = clap::value_parser!(u64).range(1..))]
    pub clock_khz: Option<u64>,
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

impl ExplainArgs {
    /// An option that is of traces alone.
    pub fn of_traces(&self) -> Option<&'static str> {
        let is_one = self.gap.is_some() || self.longest;
        let given = [
            ("--thread with --gap or --longest", self.thread.is_some() && is_one),
            ("--worst", self.worst.is_some()),
            ("--cpus", self.cpus.is_some()),
            ("--between", self.between.is_some()),
            ("--buffer", self.buffer.is_some()),
            ("--clock-khz", self.clock_khz.is_some()),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }
}
