// SPDX-License-Identifier: Apache-2.0
//! Kernels that panic, hang or crash: status 125, the reason, and what helps to find out why.

use std::path::Path;

use xtask::host::accident::Accident;

use crate::case::Case;
use crate::kernels::{self, CRASH, HANG};
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{Outcome, text};

/// The thread that becomes PID 1 starts here, on whichever CPU.
const BECOMES_PID_1: &str = "kernel_init";
/// The kernel starts here.
const ENTRY: &str = "startup_64";

/// One way to break for each case.
pub fn group() -> Group {
    let run = |kernel: &str, options: &str| {
        format!("schedvmm --kernel /tmp/{kernel} --output r {options}")
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
    let script = format!(
        "{}{}echo {:016x} > /out/hang_address\n",
        kernels::patched("/vmlinux", "/tmp/hang", &[(hang.offset, HANG)]),
        kernels::patched("/vmlinux", "/tmp/crash", &[(crash.offset, CRASH)]),
        hang.address
    );
    Ok(Preparation { files: vec![("/vmlinux", path)], script })
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
