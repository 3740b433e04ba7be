// SPDX-License-Identifier: Apache-2.0
//! Options of what is traced and of what comes out.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use guest::job::TraceDump;

use crate::units;

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
    #[arg(long, value_name = "FILE", value_parser = units::named())]
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
    #[arg(long, value_name = "DIR", value_parser = units::named())]
    pub output: Option<PathBuf>,
    /// Print result.json instead of the screen.
    #[arg(long)]
    pub json: bool,
    /// Print the lines of the original benchmark.
    #[arg(long, conflicts_with = "json")]
    pub compat: bool,
}
