// SPDX-License-Identifier: Apache-2.0
//! Ends that come from outside: signals, and a standard output that goes away. What was
//! measured until then is kept.

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::frozen;
use crate::lab::{Group, TestKernel};
use crate::outcome::{Outcome, list, number};

/// From the signal to the end of the process. The guest has five seconds of grace in it.
const MAX_SECONDS_TO_END: f64 = 10.0;

/// Stands for the status of a process that was killed.
const KILLED: u8 = 99;

/// A load that would go on for long.
pub const LONG: &str = "--threshold off --duration 60s --trace off";

/// Signals while the load runs and before, and a closed stdout.
pub fn group() -> Group {
    let mut cases = vec![
        Case::new("sigint", signalled("INT", "online", &main_job(LONG)), |outcome| {
            outcome.assert_status(130);
            kept(outcome);
        }),
        Case::new("sigterm", signalled("TERM", "online", &main_job(LONG)), |outcome| {
            outcome.assert_status(143);
            kept(outcome);
        }),
        Case::new("sigkill", killed(), |outcome| {
            outcome.assert_status(KILLED);
            written_on_the_way(outcome);
        }),
        // The folder is there before the guest's first instruction.
        Case::new("sigint_at_boot", at_boot(), |outcome| {
            outcome.assert_status(130);
            let result = outcome.assert_verdict("interrupted");
            assert_eq!(list(&result, "threads").len(), 16);
            assert!(outcome.gaps().is_empty());
            ended_soon(outcome);
        }),
        Case::run("stdout_closed", "--threshold off --duration 2s --trace off >&-", finished),
        Case::new(
            "stdout_goes_away",
            format!(
                "{{ {} ; echo $? > code; }} | head -n 1; exit $(cat code)",
                main_job("--threshold off --duration 3s --trace off")
            ),
            finished,
        ),
    ];
    cases.extend(frozen::cases());
    Group::new("early_end", TestKernel::V612, cases)
}

/// Sends `signal` to `job` as soon as its output has `word`.
fn signalled(signal: &str, word: &str, job: &str) -> String {
    meanwhile(&format!("grep -q {word} ticks"), &kill(signal), job)
}

/// Once a second's gaps are on the disk. The suite's own limit kills, too: so another status.
/// The result of a run that left no other: it has no exit status to agree with.
pub fn written_on_the_way(outcome: &Outcome) -> Value {
    let text = outcome.file("r/result.json").expect("result.json");
    let result: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["verdict"], "interrupted");
    assert!(result["exit_status"].is_null(), "{}", result["exit_status"]);
    assert!(!outcome.gaps().is_empty(), "gaps.csv is empty");
    result
}

fn killed() -> String {
    let job = meanwhile("test $(wc -l < r/gaps.csv) -gt 1", &kill("KILL"), &main_job(LONG));
    format!("( {job} )\n[ $? = 137 ] && exit {KILLED}")
}

fn at_boot() -> String {
    meanwhile("test -e r/console.log", &kill("INT"), &main_job(LONG))
}

/// Shell words that send `signal`, and leave the time.
pub fn kill(signal: &str) -> String {
    format!("cut -d' ' -f1 /proc/uptime > signalled; kill -{signal} $launcher")
}

/// Runs `job` and, once `condition` holds, `deed`, which finds the launcher's process in
/// `$launcher`. The job stays in the foreground: a shell lets what it starts in the
/// background ignore SIGINT.
pub fn meanwhile(condition: &str, deed: &str, job: &str) -> String {
    format!(
        "touch ticks\n\
         ( until {condition}; do usleep 20000; done\n\
           launcher=$(pidof schedvmm); cat /proc/$launcher/task/*/comm > comms\n\
           {deed} ) &\n\
         {job} > ticks; code=$?; cut -d' ' -f1 /proc/uptime > ended\n\
         cat ticks; exit $code"
    )
}

/// Interrupted, with the measurement whole until then.
fn kept(outcome: &Outcome) {
    let result: Value = outcome.assert_verdict("interrupted");
    let threads = list(&result, "threads");
    assert_eq!(threads.len(), 16);
    for thread in threads {
        assert_eq!(thread["complete"], true, "{thread}");
    }
    let gaps = outcome.gaps();
    assert!(!gaps.is_empty(), "gaps.csv is empty");
    let longest = gaps.iter().map(|gap| gap.length_ns).max();
    assert_eq!(longest, Some(number(&result, "longest_gap_ns")));
    println!("     {} gaps kept", gaps.len());
    let comms = outcome.file("comms").expect("names of the launcher's threads");
    for cpu in 0..4 {
        let name = format!("CPU {cpu}/KVM");
        assert!(comms.lines().any(|comm| comm == name), "no thread {name}: {comms}");
    }
    ended_soon(outcome);
}

fn ended_soon(outcome: &Outcome) {
    let took = seconds_to_end(outcome);
    println!("     ended {took:.2} s after the signal");
    assert!(took < MAX_SECONDS_TO_END, "{took} s after the signal{}", outcome.words());
}

/// From the signal to the end of the process.
pub fn seconds_to_end(outcome: &Outcome) -> f64 {
    let time = |name| outcome.file(name).and_then(|text| text.trim().parse::<f64>().ok());
    time("ended").expect("a time") - time("signalled").expect("a time")
}

/// A plain pass, whoever listened.
fn finished(outcome: &Outcome) {
    outcome.assert_status(0);
    outcome.assert_verdict("measured");
    assert!(!outcome.gaps().is_empty(), "gaps.csv is empty");
}
