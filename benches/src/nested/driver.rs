// SPDX-License-Identifier: Apache-2.0
//! The part of the nested benchmark that runs where the KVM is.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

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
    run(&words.map(OsStr::new), (vms, runs), Path::new("."))
}

/// Runs the benchmark with `schedvmm` and its first words, and leaves the report in `out`.
///
/// # Errors
/// A run failed.
pub fn run(words: &[&OsStr], (vms, runs): (u32, u32), out: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut host = [Footprint::default(); 2];
    for number in 1..=runs {
        let run = measure(words, vms)?;
        thread::sleep(SETTLED);
        let now = Footprint::now()?;
        eprintln!(
            "run {number} of {runs}: all ready after {} ms; {} processes, {} open files, {} KiB",
            run.standing_ms, now.processes, now.descriptors, now.memory_kib
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
        let reason = serde_json::from_str(&text).map_or(text, |result: Value| {
            result["reason"].as_str().unwrap_or("no reason in its result").into()
        });
        bail!("a run ended with {status}: {reason}");
    }
    let result = serde_json::from_str(&text).context("schedvmm printed no result")?;
    Run::of(&result)
}

impl Run {
    fn of(result: &Value) -> Result<Self> {
        let (build, boot, setup) =
            (phase_ms("build", result)?, phase_ms("boot", result)?, phase_ms("setup", result)?);
        let confined_ms = build + boot + setup;
        // These count from when the agent began with its machines; setup ends when all are
        // confined.
        let began = confined_ms.saturating_sub(phase_ms("l2_confined", result)?);
        Ok(Self {
            up_ms: build + boot,
            first_vm_up_ms: since_start("l2_first_up", began, result)?,
            all_up_ms: since_start("l2_all_up", began, result)?,
            vm_boot_ms: boots_ms(result),
            standing_ms: since_start("l2_standing", began, result)?,
            confined_ms,
            recorded_ms: since_start("l2_all_recorded", began, result).ok(),
            total_ms: phase_ms("total", result)?,
            rss_kib: of_vms("rss_kib", result),
            pss_kib: of_vms("pss_kib", result),
        })
    }
}

fn phase_ms(name: &str, result: &Value) -> Result<u64> {
    let value = result["phases_ms"][name].as_u64();
    value.with_context(|| format!("the result has no phases_ms.{name}"))
}

fn since_start(name: &str, began: u64, result: &Value) -> Result<u64> {
    phase_ms(name, result).map(|ms| began + ms)
}

fn of_vms(key: &str, result: &Value) -> Vec<u64> {
    let vms = result["vms"].as_array().into_iter().flatten();
    vms.filter_map(|vm| vm[key].as_u64()).collect()
}

/// Boot time of each machine, of those that did.
fn boots_ms(result: &Value) -> Vec<u64> {
    let vms = result["vms"].as_array().into_iter().flatten();
    vms.filter_map(|vm| {
        Some(
            vm["times"]["up_ns"].as_u64()?.checked_sub(vm["times"]["booting_ns"].as_u64()?)?
                / 1_000_000,
        )
    })
    .collect()
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
    use serde_json::json;

    use super::*;

    #[test]
    fn phases_are_counted_from_the_start() {
        let result = json!({
            "phases_ms": {
                "build": 10, "boot": 4000, "setup": 50_000, "run": 5000, "total": 60_000,
                "l2_first_up": 40_000, "l2_all_up": 42_000, "l2_standing": 43_000,
                "l2_confined": 44_010, "l2_all_recorded": 46_000,
            },
            "vms": [
                { "rss_kib": 7, "pss_kib": 5,
                  "times": { "booting_ns": 2_000_000, "up_ns": 23_000_000 } },
                { "rss_kib": null, "times": { "booting_ns": 2_000_000, "up_ns": null } },
            ],
        });
        let run = Run::of(&result).unwrap();
        assert_eq!((run.up_ms, run.first_vm_up_ms), (4010, 50_000));
        assert_eq!((run.confined_ms, run.recorded_ms), (54_010, Some(56_000)));
        assert_eq!((run.rss_kib, run.pss_kib, run.vm_boot_ms), (vec![7], vec![5], vec![21]));
        let error = Run::of(&json!({})).unwrap_err().to_string();
        assert!(error.contains("phases_ms.build"), "{error}");
    }

    #[test]
    fn this_process_is_among_those_that_are() {
        let now = Footprint::now().unwrap();
        assert!(now.processes > 0 && now.descriptors > 0 && now.memory_kib > 0, "{now:?}");
    }
}
