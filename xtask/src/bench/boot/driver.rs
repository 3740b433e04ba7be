// SPDX-License-Identifier: Apache-2.0
//! The part of the boot benchmark that runs inside the emulated host.
//!
//! Timed runs are left alone by everybody. Exits and memory come from one further run of each
//! monitor: watching costs time, and what is counted does not depend on it.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::peers::{self, MEMORY_MIB, Peer};
use super::stats::{Exits, OpenStats};
use super::{REPORT_FILE, Report, Side, memory, modules};
use crate::process::KillOnDrop;

/// Version of the report's format.
const SCHEMA: u32 = 3;

/// One monitor's whole life; about five seconds on an idle machine.
const RUN_DEADLINE: Duration = Duration::from_secs(60);

/// How often a running monitor is looked at: much less than a run, and seldom enough to leave
/// the CPUs alone.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

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

/// A monitor that has been started.
pub(in crate::bench) struct Running<'a> {
    peer: &'a Peer,
    /// It.
    pub process: KillOnDrop,
    output: File,
    start: Instant,
}

impl<'a> Running<'a> {
    /// Starts it.
    pub(in crate::bench) fn start(peer: &'a Peer) -> Result<Self> {
        let output = tempfile::tempfile().context("cannot make a temporary file")?;
        let process = Command::new(&peer.command[0])
            .args(&peer.command[1..])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {}", peer.name))?;
        Ok(Self { peer, process: KillOnDrop(process), output, start: Instant::now() })
    }

    /// Waits for its exit; calls `look` every now and then.
    pub(super) fn wait(&mut self, look: impl FnMut()) -> Result<()> {
        self.wait_within(RUN_DEADLINE, look)
    }

    /// The same with a deadline of the caller's.
    pub(in crate::bench) fn wait_within(
        &mut self,
        patience: Duration,
        mut look: impl FnMut(),
    ) -> Result<()> {
        let status = loop {
            if let Some(status) = self.process.0.try_wait().context("cannot wait")? {
                break status;
            }
            if self.start.elapsed() > patience {
                bail!(
                    "{} did not exit within {} s{}",
                    self.peer.name,
                    patience.as_secs(),
                    self.said()
                );
            }
            look();
            std::thread::sleep(POLL_INTERVAL);
        };
        if !status.success() {
            bail!("{} failed: {status}{}", self.peer.name, self.said());
        }
        Ok(())
    }

    /// Its own words, for an error.
    fn said(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.output.rewind().and_then(|()| self.output.read_to_end(&mut text));
        match read {
            Ok(_) => format!("; it said:\n{}", String::from_utf8_lossy(&text)),
            Err(error) => format!("; what it said cannot be read: {error}"),
        }
    }
}
