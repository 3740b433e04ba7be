// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench meter`: what the meter's loop costs beside a loop that only reads the
//! time stamp counter, both in one run, in turns, on this machine.

use std::fmt;

use anyhow::{Context, Result, ensure};
use gaps::bench::MeterCost;
use gaps::tsc::{self, Anchor};
use serde::Serialize;

/// Each batch takes some 50 µs.
const BATCHES: usize = 4000;

/// All costs in TSC ticks per turn: the median batch.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The format of this object.
    pub schema: &'static str,
    /// The meter's loop over the bare one.
    pub ratio: f64,
    /// Limit of the ratio.
    pub limit: f64,
    /// A loop of bare RDTSCP.
    pub bare_ticks: f64,
    /// The meter's loop.
    pub meter_ticks: f64,
    /// Taking down one gap.
    pub record_ticks: f64,
    /// The same in nanoseconds, and what it must not exceed.
    pub record_ns: f64,
    /// See there.
    pub record_limit_ns: f64,
    /// Asking the kernel who took a gap's time: a system call, before the record.
    pub evidence_ns: f64,
}

/// Measures.
///
/// # Errors
/// This CPU has no RDTSCP.
pub fn run() -> Result<Report> {
    ensure!(tsc::has_rdtscp(), "this CPU has no RDTSCP, which the meter reads its time with");
    let begin = Anchor::now();
    let MeterCost { bare, meter, record, evidence } = gaps::bench::meter(BATCHES);
    let slope_khz = begin.slope_khz(&Anchor::now());
    let khz = slope_khz.context("CLOCK_MONOTONIC_RAW does not advance; nothing can be timed")?;
    Ok(Report {
        schema: "schedvmm-bench-meter/1",
        ratio: meter.median_ticks / bare.median_ticks,
        limit: 1.3,
        bare_ticks: bare.median_ticks,
        meter_ticks: meter.median_ticks,
        record_ticks: record.median_ticks,
        record_ns: to_ns(record.median_ticks, khz),
        record_limit_ns: 200.0,
        evidence_ns: to_ns(evidence.median_ticks, khz),
    })
}

fn to_ns(ticks: f64, khz: f64) -> f64 {
    ticks / khz * 1e6
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bare RDTSCP    {:>8.1} ticks an iteration", self.bare_ticks)?;
        writeln!(f, "meter's loop   {:>8.1} ticks an iteration", self.meter_ticks)?;
        writeln!(
            f,
            "one record     {:>8.1} ticks = {:.1} ns (at most {})",
            self.record_ticks, self.record_ns, self.record_limit_ns
        )?;
        writeln!(f, "its evidence   {:>8.1} ns", self.evidence_ns)?;
        write!(f, "ratio          {:>8.3} (at most {})", self.ratio, self.limit)
    }
}
