// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench bulk`: a dump through a port of virtio-console, ours against QEMU's
//! virtio-serial.
//!
//! Both run alternately in one emulated host, with the same kernel, initrd and memory, 2 vCPUs,
//! and write to a file in memory. What counts is the ratio: how much a second of the guest's CPU
//! time moves, and a second of wall time. [`guest`] is the guest's side, [`driver`] the host's.

pub mod driver;
pub mod guest;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::boot::peers::Peer;
use super::boot::stats::Exits;
use super::{IN_HOST, contest, median};

/// What the driver leaves in the host's `/out`.
const REPORT_FILE: &str = "bench-bulk.json";
/// The port's name in both guests.
const PORT: &str = "bulk";
/// Target rate as a multiple of QEMU's.
const TARGET_RATIO: f64 = 3.0;
/// Memory beside the guest's that a dump may take, in KiB.
const MEMORY_LIMIT_KIB: u64 = 8 << 10;
/// One boot with a small dump.
const RUN_ALLOWANCE: Duration = Duration::from_secs(60);
/// A dump of this size takes a second at worst.
const MIN_MIB_PER_SECOND: u64 = 4;
/// Smaller ones are over before the guest's clock has ticked.
const MIN_MIB: u32 = 16;

/// Findings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub schema: u32,
    /// Size of a dump.
    pub mib: u32,
    /// Ours over QEMU's, by the guest's CPU time.
    pub cpu_ratio: f64,
    /// Ours over QEMU's, by wall time.
    pub wall_ratio: f64,
    /// Target for both.
    pub target_ratio: f64,
    /// MiB that the host writes into the sink in a second, from memory and with nothing beside, in
    /// the fastest of all tries: no monitor can be faster.
    pub sink_mib_per_second: f64,
    /// Our side.
    pub schedvmm: Side,
    /// The other side.
    pub qemu: Side,
}

/// One monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Its command line.
    pub command: Vec<String>,
    /// MiB moved in a second of the guest's CPU time, median.
    pub mib_per_cpu_second: f64,
    /// MiB moved in a second, median.
    pub mib_per_wall_second: f64,
    /// MiB that its guest copies into the kernel in a second of CPU time, median.
    pub mib_per_copy_second: f64,
    /// Memory it had beside the guest's in a dump, in KiB, the most of all.
    pub memory_kib: u64,
    /// Exits of a dump, the fewest of all: those of the host's own clock come on top.
    pub exits: Exits,
    /// Dump by dump.
    pub dumps: Vec<Dump>,
}

/// One dump. Emulation, no measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dump {
    /// MiB moved in a second of the guest's CPU time.
    pub mib_per_cpu_second: f64,
    /// MiB moved in a second.
    pub mib_per_wall_second: f64,
    /// MiB that the guest copies into its kernel in a second of its CPU time, and does nothing
    /// else: no device can be faster.
    pub mib_per_copy_second: f64,
    /// Memory of the monitor beside the guest's, in KiB.
    pub memory_kib: u64,
    /// Exits from the dump's first bytes until the machine's end.
    pub exits: Exits,
}

/// Runs the comparison.
///
/// # Errors
/// The host or a monitor failed, or there is nothing to compare.
pub fn run(mib: u32, runs: u32) -> Result<Report> {
    if runs == 0 || mib < MIN_MIB {
        bail!("{runs} dumps of {mib} MiB tell nothing; at least 1 of {MIN_MIB}: --runs, --mib");
    }
    let (size, count) = (mib.to_string(), runs.to_string());
    let words = [IN_HOST, "bulk", "--mib", &size, "--runs", &count];
    let each = RUN_ALLOWANCE + Duration::from_secs(u64::from(mib) / MIN_MIB_PER_SECOND);
    contest::run(&words, each * (runs + 1) * 2, REPORT_FILE, Vec::new())
}

impl Side {
    fn new(peer: &Peer, dumps: Vec<Dump>) -> Result<Self> {
        Ok(Self {
            command: peer.command.clone(),
            mib_per_cpu_second: middle(|dump| dump.mib_per_cpu_second, &dumps)?,
            mib_per_wall_second: middle(|dump| dump.mib_per_wall_second, &dumps)?,
            mib_per_copy_second: middle(|dump| dump.mib_per_copy_second, &dumps)?,
            memory_kib: dumps.iter().map(|dump| dump.memory_kib).max().unwrap_or(0),
            exits: dumps
                .iter()
                .map(|dump| dump.exits)
                .min_by_key(|exits| exits.all)
                .context("no dumps")?,
            dumps,
        })
    }
}

fn middle(value: fn(&Dump) -> f64, dumps: &[Dump]) -> Result<f64> {
    median(dumps.iter().map(value)).context("no dumps")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedvmm: ours, qemu, .. } = self;
        writeln!(f, "{:<34}{:>12}{:>12}{:>8}", "", "schedvmm", "QEMU", "ratio")?;
        for (name, ours, theirs, ratio) in [
            (
                "MiB per s of guest CPU time",
                ours.mib_per_cpu_second,
                qemu.mib_per_cpu_second,
                self.cpu_ratio,
            ),
            (
                "MiB per s of wall time",
                ours.mib_per_wall_second,
                qemu.mib_per_wall_second,
                self.wall_ratio,
            ),
        ] {
            writeln!(f, "{name:<34}{ours:>12.1}{theirs:>12.1}{ratio:>8.2}")?;
        }
        let copy = "  of these if it only copied";
        writeln!(
            f,
            "{copy:<34}{:>12.1}{:>12.1}",
            ours.mib_per_copy_second, qemu.mib_per_copy_second
        )?;
        for (name, ours, theirs) in ours.exits.rows(&qemu.exits) {
            writeln!(f, "{name:<34}{ours:>12}{theirs:>12}")?;
        }
        writeln!(
            f,
            "the guest's own copy allows {:.2} x QEMU's MiB per s of CPU time; the sink, which takes \
             {:.0} MiB/s, {:.2} x by wall time",
            ours.mib_per_copy_second / qemu.mib_per_cpu_second,
            self.sink_mib_per_second,
            self.sink_mib_per_second / qemu.mib_per_wall_second
        )?;
        let memory = "memory beside the guest's, MiB";
        writeln!(f, "{memory:<34}{:>12}{:>12}", mib(ours.memory_kib), mib(qemu.memory_kib))?;
        writeln!(
            f,
            "target ratio {:.1}: CPU time {}, wall time {}",
            self.target_ratio,
            reached(self.cpu_ratio >= self.target_ratio),
            reached(self.wall_ratio >= self.target_ratio)
        )?;
        write!(
            f,
            "target memory below {} MiB: {} ({} dumps of {} MiB each, in emulation)",
            MEMORY_LIMIT_KIB >> 10,
            reached(ours.memory_kib < MEMORY_LIMIT_KIB),
            ours.dumps.len(),
            self.mib
        )
    }
}

fn mib(kib: u64) -> String {
    format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024)
}

fn reached(holds: bool) -> &'static str {
    if holds { "reached" } else { "NOT REACHED" }
}
