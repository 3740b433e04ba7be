// SPDX-License-Identifier: Apache-2.0
//! Options of how much a run may take: of time, and of the disk.

use std::time::Duration;

use clap::Args;

use crate::units;

/// What a run may take, whatever its guest does. Each has a default that no run which goes as it
/// should comes near, and reaching it is a note in the result.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct CapArgs {
    /// Time from its start after which a run is ended, whatever goes on in it; what it has measured
    /// until then is kept [default: what its phases may take: the boot time-out, three times the
    /// duration, the longest silences of all others, and a minute].
    #[arg(long, value_parser = units::positive_duration, value_name = "TIME")]
    pub wall_limit: Option<Duration>,
    /// Size of console.log; what comes after it is dropped and counted.
    #[arg(long = "max-console", default_value = "16M", value_parser = units::kibibytes, value_name = "SIZE")]
    pub max_console_kib: u64,
    /// Size of gaps.csv; gaps after it are in the figures all the same.
    #[arg(long = "max-gaps-csv", default_value = "1G", value_parser = units::kibibytes, value_name = "SIZE")]
    pub max_gaps_csv_kib: u64,
    /// Size of the trace as it comes; a longer one is cut there.
    #[arg(long = "max-trace", default_value = "1G", value_parser = units::kibibytes, value_name = "SIZE")]
    pub max_trace_kib: u64,
    /// Room that a run leaves on the disk of its results: it is ended before it takes that. A disk
    /// that has less from the start is filled.
    #[arg(long = "min-free", default_value = "64M", value_parser = units::kibibytes, value_name = "SIZE")]
    pub min_free_kib: u64,
}
