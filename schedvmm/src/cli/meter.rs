// SPDX-License-Identifier: Apache-2.0
//! Options of meters in place of the load.

use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use protocol::job::{MeterKind, MeterMode, MeterSpec};

use crate::units;

/// Options of the bursty threads, which mean nothing where something else is measured: clap
/// refuses them rather than have them ignored. `--cosched` and the budgets of noise, which also
/// concern virtual machines, are checked when a run is planned.
pub const BURSTY: [&str; 11] = [
    "warmup",
    "groups",
    "threads",
    "busy",
    "sleep",
    "arrival",
    "seed",
    "preset",
    "load",
    "noise",
    "steal_budget",
];

/// Options without which no meter runs, and those of meters mean nothing.
const METERS: &str = "what meters";

/// A meter in place of the load.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Meter")]
#[command(group = ArgGroup::new(METERS).args(["meter", "nested"]).multiple(true))]
pub struct MeterArgs {
    /// Keep the load's CPUs busy with this meter alone, and no bursty threads: what it misses
    /// is what the machine's host did to it.
    #[arg(long, value_enum, value_name = "METER", conflicts_with_all = BURSTY)]
    pub meter: Option<Meter>,
    /// hwlat and osnoise measure in windows of this length.
    #[arg(long, default_value = "1s", value_parser = units::positive_duration, value_name = "TIME", requires = METERS)]
    pub meter_window: Duration,
    /// Time measured in each window; for the rest of it they sleep.
    #[arg(long, default_value = "500ms", value_parser = units::positive_duration, value_name = "TIME", requires = METERS)]
    pub meter_width: Duration,
    /// Whether hwlat goes from CPU to CPU, or is on all of them at once.
    #[arg(long, value_enum, default_value_t = Mode::RoundRobin, value_name = "MODE", requires = "meter")]
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
