// SPDX-License-Identifier: Apache-2.0
//! The newest kernel that the package archives offer, as host and as guest: what changes from one
//! kernel to the next shows here.

use crate::case::Case;
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{number, text};
use crate::threshold::{self, hit};
use crate::trace::{explained, forced_idle_agrees};
use crate::user::{cookies, expectation, mates, measured, tunable_file};

/// The same kernel with CONFIG_CMDLINE_OVERRIDE.
const OWN_CMDLINE: &str = "/bzImage-own-cmdline";

/// The kernel's accounting is of all of the load, its warm-up too.
const WITH_COOKIES: &str = "--threshold off --duration 3s --warmup 0s --trace-dump always";

/// The main job with cookies, a trace that explains a gap, and two ways to be told otherwise.
pub fn group() -> Group {
    let cases = vec![
        Case::run("with_cookies", WITH_COOKIES, |outcome| {
            let result = measured(outcome);
            println!("     Linux {}", text(&result["kernel"], "release"));
            cookies(&result, "prctl");
            assert!(mates(outcome, &result) > 0.2, "cookies bring mates together");
            forced_idle_agrees(outcome, &result);
            assert_eq!(tunable_file(&result, "slice"), "/sys/kernel/debug/sched/base_slice_ns");
            expectation(&result, "eevdf", 7 * 1_875_000);
        }),
        Case::run("trace", "", |outcome| {
            let result = hit(outcome);
            // Where this kernel's ring buffers lie in memory is not known, so it sends them.
            threshold::trace(outcome, &result, "r/trace.dat", "bulk-port");
            explained(outcome, &result);
        }),
        Case::new(
            "own_command_line",
            format!("schedvmm --kernel {OWN_CMDLINE} --idle poll --append isolcpus=1 --output r"),
            |outcome| {
                outcome.assert_status(125);
                let result = outcome.assert_verdict("untestable");
                let reason = text(&result, "reason");
                for word in ["idle=poll", "isolcpus=1", "CONFIG_CMDLINE_OVERRIDE"] {
                    assert!(reason.contains(word), "{reason}");
                }
                assert_eq!(result["kernel"]["cmdline"], "console=hvc0 panic=-1");
                assert_eq!(result["machine"]["idle"], "halt");
                assert!(!outcome.stdout.contains("idle poll"), "{}", outcome.words());
            },
        ),
        // A kernel that takes the machine for bare metal is told what it cannot measure there.
        Case::run("no_paravirtual_clock", "--pv off --threshold off --duration 1s", |outcome| {
            outcome.assert_status(0);
            let result = outcome.assert_verdict("measured");
            assert_eq!(result["machine"]["pv"], "off");
            let given = text(&result["kernel"], "cmdline_given");
            assert!(given.starts_with("tsc_early_khz="), "{given}");
            assert_eq!(result["kernel"]["clocksource"], "tsc");
            assert!(number(&result, "longest_gap_ns") > 0);
        }),
    ];
    Group::new("newest", TestKernel::Newest, cases).prepared(|bzimage| {
        let own_cmdline = bzimage.with_file_name(&OWN_CMDLINE[1..]);
        if !own_cmdline.is_file() {
            return Err(format!("no kernel at {}", own_cmdline.display()));
        }
        Ok(Preparation { files: vec![(OWN_CMDLINE.into(), own_cmdline)], ..Preparation::default() })
    })
}
