// SPDX-License-Identifier: Apache-2.0
//! The part of the boot benchmark that runs inside the emulated host.
//!
//! Timed runs are left alone by everybody. Exits and memory come from one further run of each
//! monitor: watching costs time, and what is counted does not depend on it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::peers::{self, MEMORY_MIB, Peer};
use super::running::Running;
use super::stats::{Exits, OpenStats};
use super::{REPORT_FILE, Report, Side, memory, modules};

/// Version of the report's format.
const SCHEMA: u32 = 3;

/// What a counted run has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub exits: Exits,
    /// The last look before the monitor's exit.
    pub memory_kib: u64,
    pub memory_peak_kib: u64,
}

/// Runs the benchmark and leaves the report in the current folder.
pub fn run(runs: u32) -> Result<()> {
    peers::make_initrd()?;
    let peers = [peers::schedvmm(), peers::schedvmm_pci(), peers::qemu()];
    let mut seconds = [(); 3].map(|()| Vec::new());
    // The first run of each is a warm-up: the emulation translates all that code anew.
    for run in 0..=runs {
        for (peer, seconds) in peers.iter().zip(&mut seconds) {
            let took = time(peer)?;
            eprintln!("run {run} of {runs}: {} {took:.2} s", peer.name);
            if run > 0 {
                seconds.push(took);
            }
        }
    }
    let [ours, pci, qemu] = &peers;
    let [of_ours, of_pci, of_qemu] = seconds;
    let schedvmm = Side::new(ours, of_ours, count(ours)?)?;
    let schedvmm_pci = Side::new(pci, of_pci, count(pci)?)?;
    let qemu = Side::new(qemu, of_qemu, count(qemu)?)?;
    let ratio = schedvmm.median_seconds / qemu.median_seconds;
    let ratio_pci = schedvmm_pci.median_seconds / qemu.median_seconds;
    let modules = modules::compare(runs)?;
    let report = Report { schema: SCHEMA, ratio, ratio_pci, schedvmm, schedvmm_pci, qemu, modules };
    let text = serde_json::to_vec_pretty(&report)?;
    std::fs::write(Path::new(REPORT_FILE), text).context("cannot write the report")
}

/// Seconds from a monitor's start to its exit.
fn time(peer: &Peer) -> Result<f64> {
    let start = Instant::now();
    let mut running = Running::start(peer)?;
    running.wait(|| {})?;
    Ok(start.elapsed().as_secs_f64())
}

/// Exits and memory of one run.
fn count(peer: &Peer) -> Result<Counted> {
    let mut running = Running::start(peer)?;
    let pid = running.process.0.id();
    let stats = OpenStats::of_process(pid).with_context(|| format!("watching {}", peer.name))?;
    let (mut memory_kib, mut memory_peak_kib) = (0, 0);
    running.wait(|| {
        // A process on its way out has no memory any more: what it had before counts.
        let now = memory::beside_guest_kib(pid, u64::from(MEMORY_MIB) << 10);
        memory_kib = now.filter(|kib| *kib > 0).unwrap_or(memory_kib);
        memory_peak_kib = memory_peak_kib.max(memory_kib);
    })?;
    Ok(Counted { exits: stats.read()?, memory_kib, memory_peak_kib })
}
