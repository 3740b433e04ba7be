// SPDX-License-Identifier: Apache-2.0
//! The part of the nested benchmark that runs where the KVM is.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use results::model::{Phase, RunResult, VmResult};
use results::saved;

use super::{
    Footprint, GOAL_MEMORY_KIB, GOAL_RECORDED_MS, KERNEL_IN_HOST, REPORT_FILE, Report, Run,
    allowance,
};
use testhost::process;

/// Length of each run's measurement. Any of the machines has a gap within that.
const DURATION: &str = "5s";
/// What the kernel frees later than the process that had it.
const SETTLED: Duration = Duration::from_secs(2);

/// [`run`] in the emulated host, with its kernel; the report goes to the current folder.
///
/// # Errors
/// As those of [`run`].
pub fn run_in_host(vms: u32, runs: u32) -> Result<()> {
    let words = ["schedvmm", "--kernel", KERNEL_IN_HOST];
    run(&words.map(OsStr::new), vms, runs, Path::new("."))
}

/// Runs the benchmark with `schedvmm` and its first words, and leaves the report in `out`.
///
/// # Errors
/// A run failed.
pub fn run(words: &[&OsStr], vms: u32, runs: u32, out: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut host = [Footprint::default(); 2];
    for number in 1..=runs {
        let run = measure(words, vms)?;
        thread::sleep(SETTLED);
        let now = Footprint::now()?;
        eprintln!(
            "run {number} of {runs}: all ready after {} ms; {} processes, {} open files, {} KiB",
            run.ready_ms, now.processes, now.descriptors, now.memory_kib
        );
        host = if number == 1 { [now; 2] } else { [host[0], now] };
        found.push(run);
    }
    let report = Report {
        schema: "schedvmm-bench-nested/1".into(),
        vms,
        goal_recorded_ms: GOAL_RECORDED_MS,
        goal_memory_kib: GOAL_MEMORY_KIB,
        runs: found,
        host,
    };
    let text = serde_json::to_vec_pretty(&report)?;
    fs::write(out.join(REPORT_FILE), text).context("cannot write the report")
}

/// One run from start to end; its result folder goes at once, since it may lie in memory.
fn measure(words: &[&OsStr], vms: u32) -> Result<Run> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let boot_timeout = format!("{}s", allowance(vms).as_secs());
    let (program, first) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(first).args(["--nested", "--l2-count", &vms.to_string()]);
    command.args(["--l2-boot-timeout", &boot_timeout, "--duration", DURATION]);
    command.args(["--threshold", "off", "--json", "--output"]).arg(folder.path().join("r"));
    // Beyond its own deadlines, which name what they waited for.
    let (status, text) = process::capture(&mut command, allowance(vms) * 2)?;
    if !status.success() {
        let reason = saved::printed(&text).map_or(text, |result| result.reason);
        bail!("a run ended with {status}: {reason}");
    }
    let result = saved::printed(&text).context("schedvmm printed no result")?;
    Run::of(&result)
}

impl Run {
    fn of(result: &RunResult) -> Result<Self> {
        let (build, boot, setup) = (
            phase_ms(Phase::Build, result)?,
            phase_ms(Phase::Boot, result)?,
            phase_ms(Phase::Setup, result)?,
        );
        let confined_ms = build + boot + setup;
        // These count from when the agent began with its machines; setup ends when all are
        // confined.
        let began = confined_ms.saturating_sub(phase_ms(Phase::L2Confined, result)?);
        Ok(Self {
            up_ms: build + boot,
            first_vm_up_ms: since_start(Phase::L2FirstUp, began, result)?,
            all_up_ms: since_start(Phase::L2AllUp, began, result)?,
            vm_boot_ms: of_vms(result, boot_ms),
            ready_ms: since_start(Phase::L2Ready, began, result)?,
            confined_ms,
            recorded_ms: since_start(Phase::L2AllRecorded, began, result).ok(),
            total_ms: phase_ms(Phase::Total, result)?,
            rss_kib: of_vms(result, |vm| vm.status.rss_kib),
            pss_kib: of_vms(result, |vm| vm.status.pss_kib),
        })
    }
}

fn phase_ms(phase: Phase, result: &RunResult) -> Result<u64> {
    let value = result.phases_ms.get(&phase).copied();
    value.with_context(|| format!("the result has no phases_ms.{}", phase.name()))
}

fn since_start(phase: Phase, began: u64, result: &RunResult) -> Result<u64> {
    phase_ms(phase, result).map(|ms| began + ms)
}

/// A figure of each machine that has it.
fn of_vms(result: &RunResult, figure: fn(&VmResult) -> Option<u64>) -> Vec<u64> {
    result.vms.iter().filter_map(figure).collect()
}

fn boot_ms(vm: &VmResult) -> Option<u64> {
    let times = &vm.status.times;
    Some(times.up_ns?.checked_sub(times.booting_ns?)? / 1_000_000)
}

impl Footprint {
    fn now() -> Result<Self> {
        let meminfo = read("/proc/meminfo")?;
        let (mut processes, mut descriptors) = (0, 0);
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let entry = entry?;
            // /proc/self is one of the others.
            if entry.file_name().to_string_lossy().parse::<u32>().is_err() {
                continue;
            }
            // Threads of the kernel have no command line; one that has gone has none any more.
            let words = fs::read(entry.path().join("cmdline"));
            processes += u64::from(words.is_ok_and(|words| !words.is_empty()));
            // The kernel's own count (file-nr) is right only to some dozens for each CPU. Those
            // of other users are not ours to see.
            let open = fs::read_dir(entry.path().join("fd")).map(Iterator::count);
            descriptors += u64::try_from(open.unwrap_or(0))?;
        }
        Ok(Self {
            processes,
            descriptors,
            memory_kib: meminfo_kib("MemTotal:", &meminfo)?
                .saturating_sub(meminfo_kib("MemAvailable:", &meminfo)?),
        })
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{path}`"))
}

fn number(text: Option<&str>, what: &str) -> Result<u64> {
    text.and_then(|text| text.parse().ok()).with_context(|| format!("no {what}"))
}

fn meminfo_kib(name: &str, meminfo: &str) -> Result<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    number(line.and_then(|line| line.split_whitespace().next()), name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use results::testing;

    #[test]
    fn phases_are_counted_from_the_start() {
        let mut result = testing::result("nested");
        result.phases_ms = BTreeMap::from([
            (Phase::Build, 10),
            (Phase::Boot, 4000),
            (Phase::Setup, 50_000),
            (Phase::Run, 5000),
            (Phase::Total, 60_000),
            (Phase::L2FirstUp, 40_000),
            (Phase::L2AllUp, 42_000),
            (Phase::L2Ready, 43_000),
            (Phase::L2Confined, 44_010),
            (Phase::L2AllRecorded, 46_000),
        ]);
        result.vms.truncate(2);
        let [one, other] = &mut result.vms[..] else { panic!("two machines") };
        (one.status.rss_kib, one.status.pss_kib) = (Some(7), Some(5));
        (one.status.times.booting_ns, one.status.times.up_ns) = (Some(2_000_000), Some(23_000_000));
        (other.status.rss_kib, other.status.pss_kib) = (None, None);
        other.status.times.up_ns = None;
        let run = Run::of(&result).unwrap();
        assert_eq!((run.up_ms, run.first_vm_up_ms), (4010, 50_000));
        assert_eq!((run.confined_ms, run.recorded_ms), (54_010, Some(56_000)));
        assert_eq!((run.rss_kib, run.pss_kib, run.vm_boot_ms), (vec![7], vec![5], vec![21]));
        result.phases_ms.remove(&Phase::Build);
        let error = Run::of(&result).unwrap_err().to_string();
        assert!(error.contains("phases_ms.build"), "{error}");
    }

    #[test]
    fn this_process_is_among_those_that_are() {
        let now = Footprint::now().unwrap();
        assert!(now.processes > 0 && now.descriptors > 0 && now.memory_kib > 0, "{now:?}");
    }
}
