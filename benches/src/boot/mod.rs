// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench boot`: how long from the start of a monitor to its exit with a kernel
//! booted to PID 1 in between, ours over virtio-mmio and over virtio-pci against QEMU's microvm.
//!
//! They run in turn in one emulated host, with the same kernel and initrd, 4 vCPUs as 2
//! cores of 2 threads, and as much memory. Then ours boots two more kernels by turns, for what
//! modules take (`modules.rs`). The times are emulation; their ratio, the exits and the memory are
//! what counts. Inside the host, [`driver`] does the work.

pub mod driver;
pub(super) mod memory;
pub(super) mod modules;
pub(super) mod peers;
pub(crate) mod running;
pub(super) mod stats;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{IN_HOST, contest, median};

/// What the driver leaves in the host's `/out`.
const REPORT_FILE: &str = "bench-boot.json";

/// Fewer runs have no meaningful median.
const FEWEST_RUNS: u32 = 5;

/// One run of one monitor takes about five seconds on an idle machine.
const RUN_ALLOWANCE: Duration = Duration::from_secs(60);

/// Findings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub schema: u32,
    /// Median time of ours over QEMU's.
    pub ratio: f64,
    /// The same of ours over virtio-pci.
    pub ratio_pci: f64,
    /// Our side.
    pub schedvmm: Side,
    /// Ours over virtio-pci.
    pub schedvmm_pci: Side,
    /// The other side.
    pub qemu: Side,
    /// Our main job with a driver as a module, and with that built in.
    pub modules: modules::Modules,
}

/// One monitor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Its command line.
    pub command: Vec<String>,
    /// From start to exit, in seconds, run by run. Emulation, no measurements.
    pub seconds: Vec<f64>,
    /// The median of them.
    pub median_seconds: f64,
    /// Exits from guest to host in one run, by KVM's own statistics.
    pub exits: stats::Exits,
    /// Memory it had beside the guest's at the end of one run, in KiB.
    pub memory_kib: u64,
    /// The most it had at once in that run, in KiB.
    pub memory_peak_kib: u64,
    /// Size of its executable in KiB, without the shared libraries it needs.
    pub executable_kib: u64,
}

/// Runs the comparison.
pub fn run(runs: u32) -> Result<Report> {
    if runs < FEWEST_RUNS {
        bail!("{runs} runs give no median to rely on; --runs is at least {FEWEST_RUNS}");
    }
    let runs_word = runs.to_string();
    let words = [IN_HOST, "boot", "--runs", &runs_word];
    // A warm-up, a counted run and the timed ones, of three monitors and two more kernels.
    contest::run(&words, RUN_ALLOWANCE * (runs + 2) * 5, REPORT_FILE, modules::files()?)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [&self.schedvmm, &self.schedvmm_pci, &self.qemu];
        row("", ["schedvmm", "over PCI", "QEMU"].map(String::from), f)?;
        row("start to exit, median, s", sides.map(|side| seconds(side.median_seconds)), f)?;
        row("  fastest, s", sides.map(|side| seconds(fastest(side))), f)?;
        row("  slowest, s", sides.map(|side| seconds(slowest(side))), f)?;
        let [ours, pci, qemu] = sides.map(|side| side.exits);
        for ((name, ours, qemu), (_, pci, _)) in ours.rows(&qemu).into_iter().zip(pci.rows(&qemu)) {
            row(name, [ours, pci, qemu].map(|exits| exits.to_string()), f)?;
        }
        row("memory beside the guest's, MiB", sides.map(|side| mib(side.memory_kib)), f)?;
        row("  at its peak, MiB", sides.map(|side| mib(side.memory_peak_kib)), f)?;
        row("executable, MiB", sides.map(|side| mib(side.executable_kib)), f)?;
        let Self { ratio, ratio_pci, schedvmm, modules, .. } = self;
        write!(
            f,
            "{modules}\nratio of the medians to QEMU's: {ratio:.3}, over PCI {ratio_pci:.3} ({} runs each, \
             in emulation)",
            schedvmm.seconds.len()
        )
    }
}

fn row(name: &str, cells: [String; 3], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [ours, pci, qemu] = cells;
    writeln!(f, "{name:<34}{ours:>12}{pci:>12}{qemu:>12}")
}

fn seconds(value: f64) -> String {
    format!("{value:.2}")
}

fn fastest(side: &Side) -> f64 {
    side.seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

fn slowest(side: &Side) -> f64 {
    side.seconds.iter().copied().fold(0.0, f64::max)
}

fn mib(kib: u64) -> String {
    format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024)
}

impl Side {
    /// Puts together what was seen of a monitor.
    fn new(peer: &peers::Peer, seconds: Vec<f64>, counted: driver::Counted) -> Result<Self> {
        let executable = &peer.command[0];
        let metadata =
            std::fs::metadata(executable).with_context(|| format!("cannot read `{executable}`"))?;
        Ok(Self {
            command: peer.command.clone(),
            median_seconds: median(seconds.iter().copied()).context("no runs")?,
            seconds,
            exits: counted.exits,
            memory_kib: counted.memory_kib,
            memory_peak_kib: counted.memory_peak_kib,
            executable_kib: metadata.len() >> 10,
        })
    }
}
