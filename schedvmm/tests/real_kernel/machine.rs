// SPDX-License-Identifier: Apache-2.0
//! Other machines than the default one, and other ways into the kernel.

use serde_json::Value;
use testhost::artifacts;

use crate::case::Case;
use crate::kernels;
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{Outcome, list, number, text};

/// The shortest run that measures something.
const SHORT: &str = "--threshold off --duration 1s --trace off";

/// The largest machine.
const MAX_CPUS: &str = "--cpus 254 --threads-per-core 1 --load-cpus 1 --append maxcpus=2 \
                         --boot-timeout 100s";

/// `schedvmm` with shared libraries.
const DYNAMIC: &str = "/bin/schedvmm-dynamic";

fn dynamically_linked() -> String {
    format!(
        "grep -ao ld-linux-x86-64.so.2 {DYNAMIC} | head -n 1\n\
         {DYNAMIC} --kernel /bzImage --output r {SHORT}"
    )
}

/// One case for each option that changes the machine.
pub fn group() -> Group {
    let run = |name: &str, options: &str, check: fn(&Outcome)| {
        Case::run(name, &format!("{SHORT} {options}"), check)
    };
    let cases = vec![
        run("stub", "--boot stub", |outcome| {
            assert_eq!(passed(outcome)["kernel"]["entered"], "stub");
        }),
        // The last --kernel would be an error; the file has its own command line.
        Case::new("vmlinux", format!("schedvmm --kernel /vmlinux --output r {SHORT}"), |outcome| {
            assert_eq!(passed(outcome)["kernel"]["entered"], "vmlinux")
        }),
        run("no_smt", "--cpus 2 --threads-per-core 1 --load-cpus 1", |outcome| {
            let result = passed(outcome);
            assert_eq!(result["kernel"]["cpus_online"], "0-1");
            assert_eq!(result["kernel"]["siblings"].to_string(), r#"["0","1"]"#);
            let affinity = list(&result["setup"], "affinity");
            assert!(affinity.iter().all(|cpus| cpus == "1"), "{affinity:?}");
        }),
        run("debug_boot", "--debug-boot", |outcome| {
            passed(outcome);
            outcome.assert_says(&["Linux version 6.12"]);
            let log = outcome.file("r/console.log").expect("console.log");
            assert!(log.contains("Linux version 6.12"), "console.log: {log}");
        }),
        run("idle_poll", "--idle poll", |outcome| {
            let result = passed(outcome);
            assert_eq!(result["machine"]["idle"], "poll");
            assert!(text(&result["kernel"], "cmdline").contains("idle=poll"));
        }),
        // As many as there can be. The guest starts two: all would take an emulation minutes.
        run("most_cpus", MAX_CPUS, |outcome| {
            let result = passed(outcome);
            assert_eq!(result["machine"]["cpus"], 254);
            assert_eq!(result["kernel"]["cpus_online"], "0-1");
            let ends = list(&result["machine"], "vcpus");
            assert_eq!(ends.len(), 254);
            assert!(ends.iter().all(|end| end["state"].is_null()), "{ends:?}");
        }),
        // The emulation would let down guests there, see `keep_off_first_cpu` of xtask.
        Case::new(
            "the_first_cpu_of_the_host_has_no_guests",
            "grep Cpus_allowed_list: /proc/self/status; cat /sys/devices/system/cpu/online",
            |outcome| {
                let words: Vec<_> = outcome.stdout.split_whitespace().collect();
                assert_eq!(words, ["Cpus_allowed_list:", "1-4", "0-4"]);
            },
        ),
        run("pinned", "--pin 1,2,3,4", |outcome| {
            let result = passed(outcome);
            assert_eq!(result["machine"]["pins"].to_string(), "[1,2,3,4]");
        }),
        // What PID 1 of the guest needs of the host's libraries goes into its initrd.
        Case::new("dynamically_linked", dynamically_linked(), |outcome| {
            assert!(outcome.stdout.contains("ld-linux-x86-64.so.2"), "{}", outcome.words());
            passed(outcome);
        }),
    ];
    Group::new("machine", TestKernel::V612, cases).prepared(|bzimage| {
        let dynamic = artifacts::dynamic_schedvmm().map_err(|error| format!("{error:#}"))?;
        Ok(Preparation {
            files: vec![("/vmlinux".into(), kernels::vmlinux(bzimage)?)],
            executables: vec![(DYNAMIC, dynamic)],
            ..Preparation::default()
        })
    })
}

fn passed(outcome: &Outcome) -> Value {
    outcome.assert_status(0);
    let result = outcome.assert_verdict("measured");
    println!(
        "     {} KiB beyond guest RAM, {} exits, stopped in {} us, phases {}",
        number(&result["machine"], "resident_beyond_ram_kib"),
        number(&result["machine"], "exits_to_user_space"),
        result["machine"]["stop_us"],
        result["phases_ms"]
    );
    result
}
