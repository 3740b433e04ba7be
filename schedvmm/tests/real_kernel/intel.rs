// SPDX-License-Identifier: Apache-2.0
//! The product on `kvm_intel`, in the simulated host: a machine with hyperthreads whose times are
//! those of a slow machine, and no noise of the one that simulates it. So figures are judged here.
//!
//! What Bochs does not have: the TSC deadline timer, virtual interrupts (APICv), and packages as
//! they are counted on hardware.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use testhost::host::Simulated;

use crate::case::Case;
use crate::lab::{Group, TestKernel};
use crate::outcome::{Outcome, list, number, text};
use crate::user::milliseconds;
use crate::{nested, trace};

/// Vendor of the simulated CPUs, in the files of KVM.
const MODULE: &str = "/sys/module/kvm_intel/parameters";
/// A boot takes six seconds, setting up sixteen threads another six.
const LIMIT: Duration = Duration::from_secs(120);
/// Machines in the machine come up within half a minute.
const NESTED_LIMIT: Duration = Duration::from_secs(240);

/// All vCPUs beside the siblings that they are shown.
const MACHINE: &str = "--memory 512M --pin 0,1,2,3 --boot-timeout 60s";
/// Far under what seven turns of `LONG_SLICE` come to, and between multiples of it.
const THRESHOLD: &str = "50ms";
/// As the load begins, all its threads wait for their first turn, one a little longer than the other, and
/// the host takes some milliseconds of that: the first one over any threshold is over it by less, nobody
/// knows whose it is, and the answer is 125.
const WARMUP: &str = "500ms";
/// Ten times the default.
const LONG_SLICE: &str = "slice=20ms";
/// The cheapest load that has gaps.
const SMALL: &str =
    "--groups 2 --threads 1 --noise off --duration 500ms --threshold off --trace off";

/// Virtualization, the main job with its trace, ways to idle, and machines in the machine.
pub fn group() -> Group {
    let probe = format!(
        "cat {MODULE}/ept {MODULE}/nested; grep -c rdrand /proc/cpuinfo; schedvmm probe --json"
    );
    let main_job = format!(
        "{MACHINE} --duration 2s --warmup {WARMUP} --threshold {THRESHOLD} --tune {LONG_SLICE}"
    );
    let poll = format!("{MACHINE} {SMALL} --idle poll --pv off");
    let two = "--nested --l2-count 2 --memory 768M --duration 3s --pin 0,1,2,3 --threshold off \
               --floor 50us --boot-timeout 100s --l2-boot-timeout 150s --show-vm all";
    let cases = vec![
        Case::new("probe", probe, |outcome| {
            outcome.assert_status(0);
            // Random numbers that Bochs makes from this machine's time are nobody's there.
            assert!(outcome.stdout.starts_with("Y\nY\n0\n"), "{}", outcome.words());
        }),
        Case::run("main_job", &main_job, hit).within(LIMIT),
        Case::run("idle_poll_without_pv", &poll, polling).within(LIMIT),
        Case::run("two_machines_in_the_machine", two, two_machines).within(NESTED_LIMIT),
    ];
    Group::new("intel", TestKernel::V612, cases).in_simulation(Simulated::default())
}

/// A gap over the threshold, found and explained; vCPUs beside their siblings, and no time of
/// theirs taken by the host.
fn hit(outcome: &Outcome) {
    outcome.assert_status(1);
    let result = outcome.assert_verdict("over-threshold");
    on_intel(&result);
    trace::explained(outcome, &result);
    let longest = number(&result, "longest_gap_ns");
    println!("     longest {:.1} ms, steal {}", milliseconds(longest), result["steal"]);
    // Tens of milliseconds, as on hardware: eight groups wait for each other's turns. In the emulated
    // host it is hundreds.
    assert!((50_000_000..300_000_000).contains(&longest), "{longest} ns");
    assert_eq!(result["steal"]["contaminated"], false, "{}", result["steal"]);
    assert_eq!(result["core_figures"]["measured"], true, "{}", result["core_figures"]);
    let tsc = &result["tsc"];
    // As the host's kernel calibrates it, which is not the same tick in each boot.
    assert!(number(tsc, "khz").abs_diff(50_000) <= 50 && text(tsc, "source") == "kvm", "{tsc}");
    assert_eq!(result["kernel"]["siblings"].to_string(), r#"["0-1","0-1","2-3","2-3"]"#);
    let cosched = &result["cosched"];
    assert_eq!(cosched["mechanism"], "prctl", "{cosched}");
    let cookies: BTreeSet<u64> =
        list(cosched, "cookies").iter().filter_map(Value::as_u64).collect();
    // Without RDRAND, and so by the seed that the guest's kernel gets, or they would be 0.
    assert_eq!(cookies.len(), 8, "a cookie for each group: {cosched}");
}

/// Without help of KVM's own, and without a halt: time is kept, and gaps are found.
fn polling(outcome: &Outcome) {
    outcome.assert_status(0);
    let result = outcome.assert_verdict("measured");
    on_intel(&result);
    assert!(text(&result["kernel"], "cmdline").contains("idle=poll"));
    assert_eq!(result["machine"]["pv"], "off", "{}", result["machine"]);
    assert!(number(&result, "longest_gap_ns") > 0);
    println!("     phases {}", result["phases_ms"]);
}

fn two_machines(outcome: &Outcome) {
    outcome.assert_status(0);
    let result = outcome.result_of("nested");
    on_intel(&result);
    println!("     phases {}", result["phases_ms"]);
    let vms = list(&result, "vms");
    assert_eq!(vms.len(), 2);
    for vm in vms {
        nested::measured(outcome, vm, ["2-3", "2-3"]);
    }
}

/// The host is Intel's, and each vCPU ran where it was pinned to.
fn on_intel(result: &Value) {
    let host = &result["host"];
    assert!(text(host, "cpu").contains("Intel"), "{}", host["cpu"]);
    assert_eq!(host["smt"], "on");
    assert_eq!(result["machine"]["pins"].to_string(), "[0,1,2,3]");
}
