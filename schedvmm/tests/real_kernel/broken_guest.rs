// SPDX-License-Identifier: Apache-2.0
//! Kernels that panic, hang or crash, before PID 1 and while the load runs: status 125, the
//! reason, what helps to find out why, and what was measured until then. And one that is only
//! unlike those that are known.

use std::path::Path;

use testhost::host::accident::Accident;

use crate::case::{Case, NOISY};
use crate::kernels::{self, CRASH, HANG, Place, RETURN};
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{Outcome, list, number, text};
use crate::threshold::{hit, trace};
use crate::trace::{explain, read_by_trace_cmd};

/// The thread that becomes PID 1 starts here, on whichever CPU.
const BECOMES_PID_1: &str = "kernel_init";
/// The kernel starts here.
const ENTRY: &str = "startup_64";
/// PID 1 looks for orphans once a second while the load runs, with this system call, and
/// nobody else makes it. The records of that second are out by then.
const ONCE_A_SECOND: &str = "__x64_sys_waitid";

/// The kernel brings up all CPUs but its first here.
const BRINGS_UP_CPUS: &str = "bringup_nonboot_cpus";

/// RING_BUFFER_META_MAGIC of kernel/trace/ring_buffer.c, with which ring buffers in memory begin,
/// and the first byte of another.
const RING_MAGIC: [u8; 4] = 0x0bad_feed_u32.to_le_bytes();
const OTHER_MAGIC: &[u8] = &[0xee];

/// A load that has a gap to report in its first second.
const LOAD: &str = "--threshold off --duration 10s";

/// More than fits, all of it locked.
const MANY_PROCESSES: &str = "--memory 64M --groups 60 --threads 1 --records 100 --duration 3s \
                              --threshold off --trace off --noise off";

/// One way to break for each case.
pub fn group() -> Group {
    let run = |kernel: &str, options: &str| {
        format!("schedvmm --kernel /tmp/{kernel} --output r {NOISY} {options}")
    };
    let cases = vec![
        Case::run("panic", "--append rdinit=/none", |outcome| {
            let reason = untestable(outcome);
            assert!(reason.contains("panicked before PID 1"), "{reason}");
            assert!(reason.contains("VFS: Unable to mount root"), "{reason}");
            outcome.assert_says(&["end of the guest's console"]);
            outcome.assert_says(&["Kernel panic - not syncing"]);
        }),
        Case::new("hang", run("hang", "--boot-timeout 20s"), |outcome| {
            let reason = untestable(outcome);
            assert!(reason.contains("waited for PID 1"), "{reason}");
            for cpu in 0..4 {
                outcome.assert_says(&[&format!("state of vCPU {cpu} ")]);
            }
            let place = outcome.file("../hang_address").expect("written by the suite");
            outcome.assert_says(&["rip", place.trim()]);
            // The deadline, and what comes before and after it.
            assert!(outcome.seconds > 20.0 && outcome.seconds < 40.0, "{}", outcome.words());
        }),
        Case::new("triple_fault", run("crash", ""), |outcome| {
            let reason = untestable(outcome);
            assert!(reason.contains("triple fault"), "{reason}");
            assert!(reason.contains("before PID 1"), "{reason}");
            outcome.assert_says(&["state of vCPU 0", "triple fault"]);
        })
        .expecting(Accident::TripleFault),
        // Without the word the oops would take one thread of PID 1 only, and end as a hang.
        Case::new(
            "panic_later",
            run("oops_later", &format!("{LOAD} --append oops=panic")),
            |outcome| {
                let reason = untestable(outcome);
                assert!(reason.contains("panicked while the load ran"), "{reason}");
                assert!(reason.contains("Fatal exception"), "{reason}");
                outcome.assert_says(&["Kernel panic - not syncing"]);
                kept(outcome);
                trace_survives(outcome);
                assert!(outcome.seconds < 60.0, "{}", outcome.words());
            },
        ),
        Case::new("hang_later", run("hang_later", LOAD), |outcome| {
            let reason = untestable(outcome);
            assert!(reason.contains("waited for the agent's sign of life"), "{reason}");
            outcome.assert_says(&["state of vCPU 0 "]);
            kept(outcome);
            trace_survives(outcome);
            assert!(outcome.seconds > 20.0, "{}", outcome.words());
        })
        .expecting(Accident::Hang),
        // Its user asked for nothing that would keep them from coming up.
        Case::new("one_cpu", run("one_cpu", "--duration 2s --trace off"), |outcome| {
            let reason = untestable(outcome);
            assert!(reason.contains("CPU 2 of the load is not online (online: 0)"), "{reason}");
            assert!(reason.contains("CONFIG_NR_CPUS"), "{reason}");
        }),
        // Sixty processes and little memory: the kernel ends what it can. That is no defect of
        // ours.
        Case::run("out_of_memory", MANY_PROCESSES, |outcome| {
            let reason = untestable(outcome);
            let killed = reason.contains("SIGKILL") && reason.contains("Out of memory: Killed");
            assert!(killed && reason.ends_with("raise --memory"), "{reason}");
        }),
        // A kernel that lays out its ring buffers in memory in a way that is not known here.
        Case::new("other_ring", run("other_ring", ""), |outcome| {
            let result = hit(outcome);
            let words = ["it begins with 0xbadfeee", "the guest sends it"];
            outcome.assert_says(&words);
            assert!(text(&result["trace"], "note").contains(words[0]), "{}", result["trace"]);
            trace(outcome, &result, "r/trace.dat", "bulk-port");
        }),
        // The original's lines have no place for a reason, which must be told all the same.
        Case::run("slow_compat", "--compat --boot-timeout 1s", |outcome| {
            outcome.assert_status(125);
            outcome.assert_verdict("untestable");
            outcome.assert_says(&["waited for PID 1"]);
            assert!(outcome.seconds < 20.0, "{}", outcome.words());
        }),
    ];
    Group::new("broken_guest", TestKernel::V612, cases).prepared(prepare)
}

fn prepare(bzimage: &Path) -> Result<Preparation, String> {
    let path = kernels::vmlinux(bzimage)?;
    let bytes = kernels::read(&path)?;
    let hang = kernels::function(&bytes, BECOMES_PID_1)?;
    let crash = kernels::function(&bytes, ENTRY)?;
    let later = kernels::function(&bytes, ONCE_A_SECOND)?;
    let broken = |name: &str, place: Place, code| {
        kernels::patched("/vmlinux", &format!("/tmp/{name}"), &[(place.offset, code)])
    };
    let ring = kernels::everywhere(&bytes, &RING_MAGIC, OTHER_MAGIC);
    if ring.is_empty() {
        return Err("vmlinux has no ring buffers in memory".into());
    }
    let script = [
        kernels::patched("/vmlinux", "/tmp/other_ring", &ring),
        broken("hang", hang, HANG),
        broken("crash", crash, CRASH),
        broken("hang_later", later, HANG),
        broken("one_cpu", kernels::function(&bytes, BRINGS_UP_CPUS)?, RETURN),
        broken("oops_later", later, CRASH),
        format!("echo {:016x} > /out/hang_address\n", hang.address),
    ]
    .concat();
    Ok(Preparation { files: vec![("/vmlinux".into(), path)], script, ..Preparation::default() })
}

/// The reason of a run that ended with 125; it is shown, too.
fn untestable(outcome: &Outcome) -> String {
    outcome.assert_status(125);
    let result = outcome.assert_verdict("untestable");
    let reason = text(&result, "reason");
    println!("     {reason}");
    assert!(!reason.is_empty() && outcome.stdout.contains(reason), "{}", outcome.words());
    reason.to_owned()
}

/// The trace was taken out of the dead guest's memory, and tells about the time before its end:
/// what threads did, and why the longest gap was.
fn trace_survives(outcome: &Outcome) {
    let result = outcome.result();
    let trace = &result["trace"];
    assert_eq!(trace["complete"], true, "{trace}");
    assert_eq!((text(trace, "via"), text(trace, "form")), ("mapped-ring", "trace.dat"));
    let report = read_by_trace_cmd(&outcome.path("r/trace.dat"));
    assert!(report.contains("sched_switch:"), "no sched_switch event");
    let whole = &explain(outcome, &["--run"])["run"];
    let threads = list(whole, "threads");
    let ran = threads.iter().filter(|thread| number(thread, "running_ns") > 0).count();
    assert!(ran > 0, "nobody ran: {whole}");
    let gap = &explain(outcome, &["--longest"])["gap"];
    assert!(!list(gap, "parts").is_empty(), "{gap}");
    println!("     {} threads ran; {}", ran, text(gap, "paragraph"));
}

/// The gaps that had arrived are in the result; no thread was there to the end.
fn kept(outcome: &Outcome) {
    let result = outcome.result();
    let threads = list(&result, "threads");
    assert_eq!(threads.len(), 16);
    assert!(threads.iter().all(|thread| thread["complete"] == false), "{threads:?}");
    let gaps = outcome.gaps();
    println!("     {} gaps kept", gaps.len());
    let longest = gaps.iter().map(|gap| gap.length_ns).max().expect("gaps.csv is empty");
    assert_eq!(longest, number(&result, "longest_gap_ns"));
}
