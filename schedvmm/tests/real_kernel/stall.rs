// SPDX-License-Identifier: Apache-2.0
//! A stall of known length, made by stopping the launcher with all its vCPUs, is found with
//! the right length.

use serde_json::{Value, json};

use crate::case::{Case, main_job};
use crate::lab::{Group, TestKernel};
use crate::outcome::{Outcome, list, number, text};
use crate::threshold;
use crate::user::milliseconds;

/// How long the launcher is stopped, at least.
const STOPPED_MS: u64 = 700;
/// A stop takes effect a little after the signal is sent: a gap may be shorter by this.
const EARLIEST: f64 = 0.99;
/// The vCPU was preempted before, or waits for a CPU after: 40 ms were seen in emulation,
/// where the host's own scheduler ticks take longer than on hardware.
const SLACK_MS: f64 = 150.0;

/// One thread that never pauses, so that nothing but the stall makes a long gap.
const LOAD: &str = "--compat --groups 1 --threads 1 --busy 1s --sleep fixed:0s --trace off \
                    --duration 30s --threshold 400ms";

/// One stall that ends the run, as the original's user would see it.
pub fn group() -> Group {
    let script = format!(
        "now() {{ cut -d' ' -f1 /proc/uptime; }}\n\
         touch ticks\n\
         ( until grep -q online ticks; do usleep 20000; done; launcher=$(pidof schedvmm)\n\
           begin=$(now); kill -STOP $launcher; usleep {}; kill -CONT $launcher\n\
           echo $begin $(now) > stall ) &\n\
         {} > ticks; code=$?; cat ticks; exit $code",
        STOPPED_MS * 1000,
        main_job(LOAD)
    );
    let selftest =
        "schedvmm selftest --kernel /bzImage --json; code=$?; ls -d /tmp/schedvmm*; exit $code";
    let cases =
        vec![Case::new("launcher_stopped", script, found), Case::new("selftest", selftest, tested)];
    Group::new("stall", TestKernel::V612, cases)
}

/// Every stop is found, and its cause is told right. How long it was found to be is no
/// measurement in emulation, and may fail the case with status 201; but no gap may be too short.
fn tested(outcome: &Outcome) {
    assert!([0, 201].contains(&outcome.status), "{}", outcome.words());
    assert!(!outcome.stdout.contains("/tmp/schedvmm"), "its folder stayed");
    let report = outcome.stdout.split_inclusive("\n}").next().unwrap_or_default();
    let report: Value =
        serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}{}", outcome.words()));
    let cases = list(&report, "cases");
    assert_eq!(cases.len(), 9, "{report}");
    for case in cases {
        let name = text(case, "name");
        println!(
            "     {name}: {}, {} of {} found, {} with the right cause, worst error {} % {}",
            text(case, "status"),
            case["found"],
            case["injected"],
            case["class_right"],
            case["worst_error_percent"],
            text(case, "reason")
        );
        if name.starts_with("vcpu-stop") {
            // Whatever of the guest's was on the CPU that was stopped: the host knows better.
            // One of ten may have been the guest's own doing, too: emulation is a noisy host.
            let (found, right) = (number(case, "found"), number(case, "class_right"));
            assert!(right >= found - found.div_ceil(10), "the guest is blamed: {case}");
        }
        if name.contains("stop-") {
            assert!(number(case, "injected") > 0, "{case}");
            assert_eq!(case["found"], case["injected"], "{case}");
            assert!(!text(case, "reason").contains("too short"), "{case}");
        }
    }
}

fn found(outcome: &Outcome) {
    // Without the host's part it would have been none.
    outcome.assert_status(125);
    let result: Value = outcome.assert_verdict("untestable");
    assert_eq!(text(&result, "reason_code"), "host-took", "{}", text(&result, "reason"));
    let host_ms = milliseconds(number(&result["threshold_hit"], "host_ns"));
    println!("     {}", text(&result, "reason"));
    assert!(host_ms >= milliseconds(STOPPED_MS * 1_000_000) * EARLIEST, "{host_ms} ms");
    let hit = threshold::compat(outcome);
    assert_eq!(hit.length_ns, number(&result, "longest_gap_ns"), "another gap is longer");
    // `unknown` if the thread went to another CPU after it; never the guest's scheduler.
    let (class, host) =
        (text(&result["longest_gap"], "class"), &result["machine"]["host_evidence"]);
    println!("     its class is {class}, {host}");
    assert!(["host", "unknown"].contains(&class), "{}", result["longest_gap"]);
    assert!(host["note"].is_null() && host["cpus"] == json!([2, 3]), "{host}");
    assert!(outcome.stdout.starts_with("Max latency: "), "{}", outcome.words());
    let times = outcome.file("stall").expect("the times of the stall");
    let times: Vec<f64> = times.split_whitespace().filter_map(|time| time.parse().ok()).collect();
    let [begin, end] = times[..] else { panic!("times of the stall: {times:?}") };
    let longest_ms = milliseconds(number(&result, "longest_gap_ns"));
    let at_least_ms = milliseconds(STOPPED_MS * 1_000_000);
    let signals_ms = (end - begin) * 1000.0;
    println!(
        "     stopped for {at_least_ms:.0} to {signals_ms:.0} ms, found a gap of {longest_ms:.1} ms"
    );
    assert!(longest_ms >= at_least_ms * EARLIEST, "{longest_ms} ms is too short");
    assert!(longest_ms <= signals_ms + SLACK_MS, "{longest_ms} ms is too long");
    // No gap but this one: the run ended with it.
    assert!(outcome.gaps().iter().filter(|gap| gap.length_ns > 400_000_000).count() == 1);
}
