// SPDX-License-Identifier: Apache-2.0
//! Hosts that cannot: status 201, and what to do about it.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use crate::case::{Case, main_job};
use crate::lab::{Group, TestKernel};
use crate::outcome::Outcome;

/// A KVM that cannot run Linux is recognised this soon.
const MAX_TO_RECOGNISE: Duration = Duration::from_secs(1);
/// The device, moved away and back.
const DEVICE: &str = "/dev/kvm";

/// `/dev/kvm` missing, forbidden, or something else; and what a user without rights meets.
pub fn group() -> Group {
    let instead = |what: &str| {
        format!(
            "mv {DEVICE} {DEVICE}.away\n{what}\n{}; code=$?\n\
             rm -f {DEVICE}; mv {DEVICE}.away {DEVICE}; exit $code",
            main_job("")
        )
    };
    let as_user = |preparation: &str, job: &str| {
        format!(
            "echo root:x:0:0::/:/bin/sh > /etc/passwd; echo user:x:1000:1000::/:/bin/sh >> \
             /etc/passwd\nchmod 777 .; {preparation}\nsu user -c \"cd $PWD; {job}\"; code=$?\n\
             chmod 600 {DEVICE}; exit $code"
        )
    };
    let cases = vec![
        Case::new("kvm_missing", instead(""), |outcome| told(outcome, 201, &[DEVICE, "kvm"])),
        Case::new("kvm_is_a_file", instead(&format!("echo > {DEVICE}")), |outcome| {
            told(outcome, 201, &[DEVICE]);
        }),
        Case::new(
            "kvm_forbidden",
            as_user(&format!("chmod 600 {DEVICE}"), &main_job("")),
            |outcome| told(outcome, 201, &[DEVICE, "permission", "join its group"]),
        ),
        Case::new(
            "kernel_unreadable",
            as_user(
                &format!("mkdir -p /etc; chmod 666 {DEVICE}; cp /bzImage k; chmod 600 k"),
                "schedvmm --kernel k --output r",
            ),
            |outcome| {
                told(outcome, 200, &["cannot read kernel k: its mode is 0600", "install -m 644"])
            },
        ),
        Case::new(
            "folder_forbidden",
            as_user(
                &format!("chmod 666 {DEVICE}; mkdir closed; chmod 700 closed"),
                "schedvmm --kernel /bzImage --output closed/r",
            ),
            |outcome| told(outcome, 200, &["closed/r", "ermission denied"]),
        ),
        Case::new("help", "schedvmm --help", |outcome| {
            outcome.assert_status(0);
            assert!(outcome.stdout.contains("Exit status"), "{}", outcome.words());
        }),
    ];
    let cases = cases.into_iter().map(|case| case.within(Duration::from_secs(30))).collect();
    Group::new("host_fault", TestKernel::V612, cases).prepared(|_| {
        let script = "mkdir -p /etc\n".to_owned();
        Ok(crate::lab::Preparation { script, ..Default::default() })
    })
}

fn told(outcome: &Outcome, status: u8, words: &[&str]) {
    outcome.assert_status(status);
    outcome.assert_says(words);
    println!("     {}", outcome.stderr.trim());
}

/// On this very machine, if its KVM cannot run Linux: recognised by the main job in a second.
pub fn own_machine() -> Trial {
    Trial::ignorable_test("host_fault::own_machine", || {
        let kernel = match TestKernel::V612.path() {
            Ok(kernel) => kernel,
            Err(reason) => return Ok(Completion::ignored_with(reason)),
        };
        let (probe, _) = run(&["probe"])?;
        let reason = String::from_utf8_lossy(&probe.stderr).trim().to_owned();
        if !reason.contains("cannot run Linux") {
            let told = if reason.is_empty() { "it can run Linux" } else { &reason };
            return Ok(Completion::ignored_with(format!("this machine's KVM: {told}")));
        }
        let kernel = kernel.to_str().ok_or("the kernel's path is not UTF-8")?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let folder = folder.path().join("r");
        let folder = folder.to_str().ok_or("the temporary folder's path is not UTF-8")?;
        let (output, took) = run(&["--kernel", kernel, "--output", folder])?;
        let told = String::from_utf8_lossy(&output.stderr);
        println!("     {:.0} ms: {}", took.as_secs_f64() * 1e3, told.trim());
        assert_eq!(output.status.code(), Some(201), "{told}");
        assert!(told.contains("cannot run Linux (probe guest: "), "{told}");
        assert!(told.contains("use a host with VMX or SVM"), "{told}");
        assert!(took < MAX_TO_RECOGNISE, "{took:?} until the answer");
        Ok(Completion::Completed)
    })
}

fn run(arguments: &[&str]) -> Result<(Output, Duration), Failed> {
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_schedvmm"));
    let output = command.args(arguments).output().map_err(|error| error.to_string())?;
    Ok((output, start.elapsed()))
}
