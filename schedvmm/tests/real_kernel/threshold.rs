// SPDX-License-Identifier: Apache-2.0
//! A gap over the threshold: the trace that explains it, and every way to show it. The
//! default threshold of 100 ms is passed within a second in emulation.

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::lab::{Group, TestKernel};
use crate::outcome::{Outcome, number, text};
use crate::user::milliseconds;

/// What the agent writes into the trace at the gap's end.
const MARKER: &str = "schedvmm: gap of";

/// All cases end with a hit.
pub fn group() -> Group {
    let small_disk = "mkdir -p /tmp/small; mount -t tmpfs -o size=64k none /tmp/small\n";
    let full_folder = "mkdir -p /tmp/full; mount -t tmpfs -o size=256k none /tmp/full\n";
    let cases = vec![
        Case::run("default", "", |outcome| {
            let result = hit(outcome);
            assert_eq!(result["trace"]["file"], "r/trace.txt");
            trace(&result, &outcome.file("r/trace.txt").expect("trace.txt"));
            assert!(outcome.stdout.contains("verdict  OVER THRESHOLD"), "{}", outcome.words());
        }),
        Case::run("trace_file", "--trace-file log --trace-events sched:sched_switch", |outcome| {
            let result = hit(outcome);
            assert_eq!(result["trace"]["file"], "log");
            trace(&result, &outcome.file("log").expect("the file named by --trace-file"));
            assert!(outcome.file("r/trace.txt").is_none(), "a second trace");
        }),
        Case::run("json", "--json --trace off", |outcome| {
            let result = hit(outcome);
            let printed: Value = serde_json::from_str(&outcome.stdout)
                .unwrap_or_else(|error| panic!("{error}{}", outcome.words()));
            assert_eq!(printed, result);
            assert!(result["trace"]["file"].is_null(), "{}", result["trace"]);
            assert!(outcome.file("r/trace.txt").is_none(), "a trace in spite of --trace off");
        }),
        Case::run("compat", "--compat --trace off", |outcome| {
            let result = hit(outcome);
            compat(outcome, &result);
        }),
        Case::new(
            "trace_disk_full",
            format!("{small_disk}{}", main_job("--trace-file /tmp/small/log")),
            |outcome| {
                let result = hit(outcome);
                let trace = &result["trace"];
                assert_eq!(trace["complete"], false, "{trace}");
                let note = text(trace, "note");
                assert!(note.contains("the trace is cut") && note.contains("No space"), "{note}");
                outcome.assert_says(&["the trace is cut", "/tmp/small/log", "No space"]);
                println!("     {} bytes of the trace kept", number(trace, "bytes"));
            },
        ),
        // The trace is by far the largest file in the folder: it must not cost the others.
        Case::new(
            "folder_disk_full",
            format!(
                "{full_folder}ln -s /tmp/full r; {}; s=$?\nrm r; cp -r /tmp/full r; exit $s",
                main_job("")
            ),
            |outcome| {
                let result = hit(outcome);
                assert_eq!(result["trace"]["complete"], false, "{}", result["trace"]);
                assert!(!outcome.gaps().is_empty());
            },
        ),
    ];
    Group::new("threshold", TestKernel::V612, cases)
}

/// A hit whose length stands in all places; its result.
fn hit(outcome: &Outcome) -> Value {
    outcome.assert_status(1);
    let result = outcome.assert_verdict("over-threshold");
    let longest = number(&result, "longest_gap_ns");
    let threshold = number(&result["job"]["load"], "threshold_ns");
    assert!(longest > threshold, "{longest} ns is not over {threshold} ns");
    assert_eq!(number(&result["longest_gap"], "length_ns"), longest);
    println!("     gap of {:.1} ms, phases {}", milliseconds(longest), result["phases_ms"]);
    result
}

/// Is everything in the trace that explains the gap?
fn trace(result: &Value, log: &str) {
    let trace = &result["trace"];
    assert_eq!(trace["complete"], true, "{trace}");
    assert_eq!(number(trace, "bytes"), log.len() as u64);
    let marker = log.lines().find(|line| line.contains(MARKER)).expect("the marker");
    println!("     {} lines of trace; {}", log.lines().count(), marker.trim());
    assert!(log.contains("sched_switch:"), "no sched_switch event");
    let tid = number(&result["longest_gap"], "tid");
    assert!(marker.contains(&format!("{tid}")), "no tid {tid} in: {marker}");
}

/// The original's three lines, to the letter.
pub fn compat(outcome: &Outcome, result: &Value) {
    let gap = &result["longest_gap"];
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("diff: "));
    let at = at.unwrap_or_else(|| panic!("no `diff: `{}", outcome.words()));
    let expected = [
        format!("diff: {}ms", number(gap, "length_ns") / 1_000_000),
        format!("TID: {}", number(gap, "tid")),
        format!("TSC: {}", number(gap, "tsc_end")),
    ];
    assert_eq!(lines[at..], expected, "{}", outcome.words());
    lines[..at].iter().for_each(|line| second(line));
}

/// One line a second, such as `Max latency: 47 ms (119754120 ticks, 16 online)`.
fn second(line: &str) {
    let numbers: Vec<u64> = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    let [ms, ticks, online] = numbers[..] else { panic!("unexpected line: {line}") };
    assert_eq!(line, format!("Max latency: {ms} ms ({ticks} ticks, {online} online)"));
}
