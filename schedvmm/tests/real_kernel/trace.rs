// SPDX-License-Identifier: Apache-2.0
//! A trace.dat of a real run, as trace-cmd and as our own reader see it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use ftrace::{Item, Trace};
use serde_json::Value;

use crate::outcome::{Outcome, list, number, text};

/// What the agent writes into the trace at the gap's end.
const MARKER: &str = "schedvmm: gap of";

/// Reads a trace with trace-cmd: report, conversion to version 7, summary; all with as many
/// events as our reader finds. Returns what `trace-cmd report` printed.
pub fn read_by_trace_cmd(path: &Path) -> String {
    let report = trace_cmd(&["report"], path, &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let seven = folder.path().join("7.dat");
    let convert: [&str; 5] =
        ["convert", "--file-version", "7", "-o", seven.to_str().expect("UTF-8")];
    trace_cmd(&convert, path, &[]);
    let of_seven = trace_cmd(&["report"], &seven, &[]);
    let summary = trace_cmd(&["dump", "--summary"], path, &[]);
    assert!(summary.contains("Version") && summary.contains('6'), "{summary}");
    let ours = events(path);
    let theirs = report.lines().filter(|line| is_event(line)).count();
    let again = of_seven.lines().filter(|line| is_event(line)).count();
    assert_eq!((theirs, again), (ours, ours), "events by trace-cmd, of version 7, by us");
    println!("     {ours} events, as trace-cmd reads them");
    report
}

fn trace_cmd(words: &[&str], path: &Path, more: &[&str]) -> String {
    let mut command = Command::new("trace-cmd");
    let output = command.args(words).arg("-i").arg(path).args(more).output();
    let output = output.unwrap_or_else(|error| panic!("trace-cmd cannot be started: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "trace-cmd {words:?}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Lines such as `task-59    [002] 1234: sched_switch: …`, and no others.
fn is_event(line: &str) -> bool {
    line.contains(" [0") && line.contains(": ") && !line.contains("EVENTS DROPPED")
}

fn events(path: &Path) -> usize {
    let trace = Trace::open(path).unwrap_or_else(|error| panic!("{error}"));
    let mut events = trace.events().expect("readable");
    let mut count = 0;
    while let Some(item) = events.next().expect("readable") {
        count += usize::from(matches!(item, Item::Record(_)));
    }
    count
}

/// Number, name and ticks of all threads that ran on these CPUs in a window of the trace.
pub fn who_ran(path: &Path, window: Range<u64>, cpus: &[u32]) -> BTreeMap<(i32, String), u64> {
    let trace = Trace::open(path).unwrap_or_else(|error| panic!("{error}"));
    let lanes = ftrace::lanes(&trace, window, cpus, usize::MAX).expect("readable");
    let mut ran = BTreeMap::new();
    for (cpu, lane) in &lanes.cpus {
        assert!(!lane.slices.is_empty(), "the trace does not say what ran on CPU {cpu}");
        for slice in &lane.slices {
            let name = lanes.names.get(&slice.tid).cloned().unwrap_or_default();
            *ran.entry((slice.tid, name)).or_default() += slice.end - slice.begin;
        }
    }
    ran
}

/// Length in nanoseconds, and group and thread, of the gap in the line with the marker.
pub fn marked(report: &str) -> (u64, (u64, u64)) {
    let line = report.lines().find(|line| line.contains(MARKER)).expect("the marker");
    assert!(line.contains("tracing_mark_write"), "the marker has no name: {line}");
    println!("     {}", line.trim());
    let words = line.split_once(MARKER).map(|(_, words)| words.split_whitespace());
    let read = || {
        let words: Vec<&str> = words?.collect();
        let [ns, "ns", "in", "group", group, "thread", thread] = words[..] else { return None };
        Some((ns.parse().ok()?, (group.parse().ok()?, thread.parse().ok()?)))
    };
    read().unwrap_or_else(|| panic!("not `{MARKER} N ns in group N thread N`: {line}"))
}

/// `schedvmm explain --json` on the result in `r`, called here.
pub fn explain(outcome: &Outcome, words: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schedvmm"));
    let output = command.arg("explain").arg(outcome.path("r")).args(words).arg("--json").output();
    let output = output.unwrap_or_else(|error| panic!("schedvmm cannot be started: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "explain: {}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Is the gap of the hit explained, the same in all places? Its parts sum to it, and the trace
/// that covers it tells the cause of nearly all of it.
pub fn explained(outcome: &Outcome, result: &Value) {
    let answer = explain(outcome, &[]);
    let gap = &answer["gap"];
    assert_eq!(gap, &result["explanation"]);
    let hit = &result["threshold_hit"];
    assert_eq!(number(gap, "tsc_begin"), number(hit, "tsc_begin"));
    let ticks: u64 = list(gap, "parts").iter().map(|part| number(part, "ticks")).sum();
    assert_eq!(ticks, number(hit, "length_ticks"), "{gap}");
    let paragraph = text(gap, "paragraph");
    assert!(outcome.stdout.contains(paragraph), "{paragraph}{}", outcome.words());
    println!("     {paragraph}");
    if gap["trace_late_ns"].is_null() {
        assert!(gap["unknown_share"].as_f64().is_some_and(|share| share < 0.05), "{gap}");
    }
}

/// Two accounts of forced idle time agree within 5 %.
const MAX_APART: f64 = 1.05;

/// Does the forced idle time of the trace agree with the kernel's own accounting? It has what the
/// groups' threads cause, each in its cgroup; what kernel threads cause is in none of these.
///
/// The kernel counts from the moment when it decides that a sibling is to be idle, the trace from
/// the one when the sibling has switched. In between, both run what must not run together: that
/// is `co_run`'s time beside strangers, counted for each of the two. Microseconds
/// on hardware; in emulation an interrupt to another CPU takes milliseconds.
pub fn forced_idle_agrees(outcome: &Outcome, result: &Value) {
    let overwritten: u64 =
        list(&result["trace"], "cpus").iter().map(|cpu| number(cpu, "overwritten")).sum();
    assert_eq!(overwritten, 0, "the trace does not have all of the run");
    let answer = explain(outcome, &["--run"]);
    let run = &answer["run"];
    assert_eq!(number(run, "pieces_left_out"), 0);
    let (of_others, of_groups): (Vec<_>, Vec<_>) =
        list(run, "forced_idle").iter().partition(|cpu| cpu["by_group"].is_null());
    let sum = |cpus: Vec<&Value>| cpus.into_iter().map(|cpu| number(cpu, "ns")).sum::<u64>();
    let (of_others, of_trace) = (sum(of_others), sum(of_groups));
    let of_kernel = number(&result["forced_idle"], "ns");
    println!(
        "     forced idle {of_trace} ns by the trace, {of_kernel} ns by the kernel \
         (and {of_others} ns for kernel threads)"
    );
    assert!(of_kernel > 0, "cookies force CPUs idle");
    let company = &result["co_run"];
    let strangers = company["stranger"].as_f64().expect("a share");
    let switching = number(company, "running_ns") as f64 * strangers / 2.0;
    println!("     and {switching:.0} ns while siblings were still to switch");
    let (of_trace, of_kernel) = (of_trace as f64, of_kernel as f64);
    assert!(of_trace <= of_kernel * MAX_APART, "the trace has too much");
    assert!(of_kernel <= (of_trace + switching) * MAX_APART, "the kernel has too much");
}
