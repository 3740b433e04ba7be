// SPDX-License-Identifier: Apache-2.0
//! The noise floor: what the meter finds on the load's CPUs while there is no load.

use gaps::stats::Quantiles;
use gaps::tally::ClassTotal;
use serde::{Deserialize, Serialize};

/// What was found on all CPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NoiseFloor {
    /// How long it was to be measured.
    pub duration_ns: u64,
    /// Shorter interruptions are not seen.
    pub floor_ns: u64,
    /// The longest interruption of all.
    pub longest_ns: u64,
    /// Part of the time measured that was lost, of all CPUs together.
    pub gap_share: f64,
    /// One entry for each CPU.
    pub cpus: Vec<CpuNoise>,
}

/// What was found on one CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuNoise {
    /// Its number.
    pub cpu: u32,
    /// How long it was measured: as long as planned, or to the end of an interruption that was
    /// under way then.
    #[serde(default)]
    pub watched_ns: u64,
    /// Interruptions at or above the floor.
    pub gaps: u64,
    /// Their sum.
    pub gap_ns: u64,
    /// The longest.
    pub longest_ns: u64,
    /// How long they were; `null` without any.
    pub quantiles: Option<Quantiles>,
    /// By who took the time.
    pub classes: Vec<ClassTotal>,
}
