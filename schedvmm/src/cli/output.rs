// SPDX-License-Identifier: Apache-2.0
//! Options of what is traced and of what comes out.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ftrace::TraceId;
use protocol::job::{TraceDump, TraceSpec};
use workload::tracing::check_event;

use super::CapArgs;
use crate::status::Failure;
use crate::units;

/// Tracing.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trace")]
pub struct TraceArgs {
    /// Trace the kernel, so that a gap over the threshold can be explained [default: on, where that
    /// can be had].
    #[arg(long, value_enum)]
    pub trace: Option<Switch>,
    /// Event systems, or single events as SYSTEM:EVENT [default: sched,irq,timer].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub trace_events: Option<Vec<String>>,
    /// Ring buffer per CPU: it must hold all events of the longest gap [default: 4M].
    #[arg(long, value_parser = units::kibibytes, value_name = "SIZE")]
    pub trace_buffer: Option<u64>,
    /// After which runs the trace comes out: those with a gap over the threshold, or all.
    #[arg(long, value_enum, default_value_t = Dump::Hit)]
    pub trace_dump: Dump,
    /// Where the trace goes [default: trace.dat in the result folder].
    #[arg(long, value_name = "FILE", value_parser = units::named())]
    pub trace_file: Option<PathBuf>,
}

/// What is traced unless the user says otherwise; what a kernel has not of it is done without.
const EVENTS: [&str; 3] = ["sched", "irq", "timer"];

/// Size of a ring buffer unless the user says otherwise.
const BUFFER_KIB: u64 = 4096;

impl TraceArgs {
    /// What is traced; `None` for nothing.
    ///
    /// # Errors
    /// Options that make no sense.
    pub fn spec(&self) -> Result<Option<TraceSpec>, Failure> {
        if self.trace == Some(Switch::Off) {
            return match self.only_with_a_trace() {
                Some(option) => Err(Failure::request(format!(
                    "{option} is of a trace, and --trace off makes none; leave out one of the two"
                ))),
                None => Ok(None),
            };
        }
        let events = match &self.trace_events {
            Some(events) => events.clone(),
            None => EVENTS.map(str::to_owned).into(),
        };
        for event in &events {
            check_event(event)
                .map_err(|text| Failure::request(format!("--trace-events: {text}")))?;
        }
        let buffer_kib = u32::try_from(self.trace_buffer.unwrap_or(BUFFER_KIB))
            .map_err(|_| Failure::request("--trace-buffer is too large"))?;
        let dump = TraceDump::from(self.trace_dump);
        let (required, id) = (self.is_asked_for(), Some(TraceId::random()));
        Ok(Some(TraceSpec { events, buffer_kib, dump, required, id }))
    }

    /// Whether the user said that there is to be a trace, or what is to be in it: a run without is
    /// of no use then.
    fn is_asked_for(&self) -> bool {
        self.trace == Some(Switch::On) || self.only_with_a_trace().is_some()
    }

    /// An option that the user has given, and that means nothing without a trace.
    fn only_with_a_trace(&self) -> Option<&'static str> {
        let given = [
            ("--trace-events", self.trace_events.is_some()),
            ("--trace-buffer", self.trace_buffer.is_some()),
            ("--trace-dump always", self.trace_dump == Dump::Always),
            ("--trace-file", self.trace_file.is_some()),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }
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
    /// Result folder; must be new or empty, or (trials) one of the same trials, which go on
    /// [default: a new one under results/].
    #[arg(long, short, value_name = "DIR", value_parser = units::named())]
    pub output: Option<PathBuf>,
    /// Print result.json instead of the screen.
    #[arg(long, short)]
    pub json: bool,
    /// Print the lines of the original benchmark.
    #[arg(long, conflicts_with = "json")]
    pub compat: bool,
    /// What it may take.
    #[command(flatten)]
    pub caps: CapArgs,
    /// One of many runs: nothing but what went wrong is shown.
    #[arg(skip)]
    pub quiet: bool,
}
