// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench nested`: how long it takes until virtual machines in a virtual machine
//! measure, what memory they take, and whether a run leaves anything behind.
//!
//! It runs on this machine's own KVM where that can run Linux, else in the emulated host. All
//! runs share one host, so that what they leave behind adds up. [`driver`] does the work.

pub mod driver;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{IN_HOST, median};
use testhost::host::{Ended, Stream, TestHost};
use testhost::venue::Venue;
use testhost::{artifacts, kernel};

/// What the driver leaves in the host's `/out`.
const REPORT_FILE: &str = "bench-nested.json";
/// The test kernel in the emulated host.
const KERNEL_IN_HOST: &str = "/bzImage";
/// From the start to the first gap record of all machines, on two cores in emulation.
const GOAL_RECORDED_MS: u64 = 180_000;
/// Memory of each machine's launcher, guest memory included, in KiB.
const GOAL_MEMORY_KIB: u64 = 64 << 10;
/// One run, for the machine around and for each machine in it.
const RUN_ALLOWANCE: Duration = Duration::from_secs(180);
const VM_ALLOWANCE: Duration = Duration::from_secs(120);

/// Findings. Times are of emulation where the venue is the emulated host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub schema: String,
    /// Machines in each run.
    pub vms: u32,
    /// See `Run::recorded_ms`.
    pub goal_recorded_ms: u64,
    /// See `Run::rss_kib`.
    pub goal_memory_kib: u64,
    /// Run by run.
    pub runs: Vec<Run>,
    /// The host after the first run, which warms it up, and after the last one.
    pub host: [Footprint; 2],
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Until PID 1 of the machine around lived; this and all others since the start.
    pub up_ms: u64,
    /// Until the first machine in it had come as far.
    pub first_vm_up_ms: u64,
    /// Until all had.
    pub all_up_ms: u64,
    /// Of each machine, from the start of its launcher until PID 1 of it lived.
    pub vm_boot_ms: Vec<u64>,
    /// Until all were ready.
    pub ready_ms: u64,
    /// Until the threads of all vCPUs were confined.
    pub confined_ms: u64,
    /// Until each machine had recorded a gap; `None` if one never did.
    pub recorded_ms: Option<u64>,
    /// Until the end.
    pub total_ms: u64,
    /// Memory of each machine's launcher, guest memory included, in KiB.
    pub rss_kib: Vec<u64>,
    /// The same with pages that several share divided among them.
    pub pss_kib: Vec<u64>,
}

/// Resources of a host that can leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// Processes, threads of the kernel not among them.
    pub processes: u64,
    /// Open files of all processes.
    pub descriptors: u64,
    /// Memory that is in use and cannot be had for the asking, in KiB.
    pub memory_kib: u64,
}

/// Runs `runs` times with `vms` machines.
///
/// # Errors
/// A run failed, or the host did.
pub fn run(vms: u32, runs: u32) -> Result<Report> {
    if vms == 0 || runs == 0 {
        bail!("{runs} runs of {vms} machines tell nothing; at least 1 of 1: --runs, --l2-count");
    }
    let schedvmm = artifacts::schedvmm()?;
    let venue = Venue::detect(&schedvmm)?;
    eprintln!("{venue}");
    let out = tempfile::tempdir().context("cannot make a temporary folder")?;
    match venue {
        Venue::Own => {
            let kernel = kernel::ensure(kernel::Wanted::default())?;
            let words = [schedvmm.as_os_str(), "--kernel".as_ref(), kernel.as_os_str()];
            driver::run(&words, vms, runs, out.path())?;
        }
        // Nobody has asked for the simulated one, and it is not chosen unasked.
        Venue::Emulated(_) | Venue::Simulated(_) => run_emulated(&schedvmm, vms, runs, out.path())?,
    }
    let report = std::fs::read(out.path().join(REPORT_FILE)).context("there is no report")?;
    serde_json::from_slice(&report).context("cannot understand the report")
}

fn run_emulated(schedvmm: &Path, vms: u32, runs: u32, out: &Path) -> Result<()> {
    let (vms_text, runs_text) = (vms.to_string(), runs.to_string());
    let words = [IN_HOST, "nested", "--l2-count", &vms_text, "--runs", &runs_text];
    let mut complaints = Vec::new();
    let run = TestHost::builder()
        .xtask(std::env::current_exe()?)
        .schedvmm(schedvmm)
        .own_executable(IN_HOST, artifacts::bench_in_host()?)
        .out(out)
        .timeout(allowance(vms) * (runs + 1))
        .forward_signals()
        .run(words, |stream, bytes| match stream {
            Stream::Stdout => complaints.extend_from_slice(bytes),
            Stream::Stderr => testhost::host::show(stream, bytes),
        })?;
    if run.ended != Ended::Exited(0) {
        bail!("the benchmark failed in the emulated host{}", String::from_utf8_lossy(&complaints));
    }
    Ok(())
}

/// Longest time for one run.
fn allowance(vms: u32) -> Duration {
    RUN_ALLOWANCE + VM_ALLOWANCE * vms
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boots = self.runs.iter().flat_map(|run| &run.vm_boot_ms).copied();
        writeln!(f, "{}", phase_line("machine around up", |run| Some(run.up_ms), &self.runs))?;
        writeln!(
            f,
            "{}",
            phase_line("first of its machines up", |run| Some(run.first_vm_up_ms), &self.runs)
        )?;
        writeln!(f, "{}", line("  boot of one, beside others", boots.collect()))?;
        writeln!(f, "{}", phase_line("all up", |run| Some(run.all_up_ms), &self.runs))?;
        writeln!(f, "{}", phase_line("all ready", |run| Some(run.ready_ms), &self.runs))?;
        writeln!(f, "{}", phase_line("confined", |run| Some(run.confined_ms), &self.runs))?;
        let goal = self.goal_recorded_ms / 1000;
        let recorded = phase_line("all have recorded a gap", |run| run.recorded_ms, &self.runs);
        writeln!(f, "{recorded}  (goal with 8: {goal} s)")?;
        writeln!(f, "{}", phase_line("end", |run| Some(run.total_ms), &self.runs))?;
        let goal = self.goal_memory_kib >> 10;
        let resident = mib(most(|run| &run.rss_kib, &self.runs));
        writeln!(f, "{:<34}{resident:>12}  (goal: {goal} MiB)", "resident of a machine, at most")?;
        writeln!(
            f,
            "{:<34}{:>12}",
            "shared pages divided",
            mib(most(|run| &run.pss_kib, &self.runs))
        )?;
        let [first, last] = &self.host;
        writeln!(f, "{:<34}{:>12}{:>12}", "left in the host after run", 1, self.runs.len())?;
        for (name, from, to) in [
            ("processes", first.processes, last.processes),
            ("open files", first.descriptors, last.descriptors),
            ("memory in use, KiB", first.memory_kib, last.memory_kib),
        ] {
            writeln!(f, "  {name:<32}{from:>12}{to:>12}")?;
        }
        write!(f, "medians of {} runs with {} machines each", self.runs.len(), self.vms)
    }
}

fn phase_line(name: &str, value: fn(&Run) -> Option<u64>, runs: &[Run]) -> String {
    line(name, runs.iter().filter_map(value).collect())
}

fn most(of: fn(&Run) -> &Vec<u64>, runs: &[Run]) -> Option<u64> {
    runs.iter().flat_map(of).max().copied()
}

fn line(name: &str, times_ms: Vec<u64>) -> String {
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of a run")]
    let middle = median(times_ms.into_iter().map(|ms| ms as f64 / 1000.0));
    let shown = middle.map_or("never".into(), |seconds| format!("{seconds:.1} s"));
    format!("{name:<34}{shown:>12}")
}

fn mib(kib: Option<u64>) -> String {
    kib.map_or("?".into(), |kib| format!("{}.{} MiB", kib >> 10, kib % 1024 * 10 / 1024))
}
