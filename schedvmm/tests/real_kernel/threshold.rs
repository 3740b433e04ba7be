// SPDX-License-Identifier: Apache-2.0
//! A gap over the threshold: the trace that explains it, and every way to show it. The
//! default threshold of 100 ms is passed within a second in emulation.

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::lab::{Group, TestKernel};
use crate::outcome::{GapLine, Outcome, assert_unique_keys, list, number, numbers, text};
use crate::trace::{explain, explained, marked, read_by_trace_cmd};
use crate::user::milliseconds;

/// Events of which one is in no kernel.
const ONE_EVENT: &str = "--trace-events sched:sched_switch";

/// All cases end with a hit.
pub fn group() -> Group {
    let small_disk = "mkdir -p /tmp/small; mount -t tmpfs -o size=64k none /tmp/small\n";
    let full_folder = "mkdir -p /tmp/full; mount -t tmpfs -o size=240k none /tmp/full\n";
    let cases = vec![
        Case::run("default", "", |outcome| {
            let result = hit(outcome);
            trace(outcome, &result, "r/trace.dat", "mapped-ring");
            explained(outcome, &result);
            // The default buffer still has the gap's beginning.
            let late = &result["explanation"]["trace_late_ns"];
            assert!(late.is_null(), "the trace begins {late} ns after the gap");
            let verdict = text(&result, "verdict").to_uppercase().replace('-', " ");
            let verdict = format!("verdict  {verdict}");
            assert!(outcome.stdout.contains(&verdict), "{verdict}{}", outcome.words());
        }),
        Case::run("trace_file", &format!("--trace-file log {ONE_EVENT}"), |outcome| {
            let result = hit(outcome);
            let events = result["setup"]["trace_events"].to_string();
            assert_eq!(events, r#"["sched:sched_switch"]"#);
            trace(outcome, &result, "log", "mapped-ring");
            assert!(!outcome.path("r/trace.dat").exists(), "a second trace");
        }),
        Case::run("json", "--json --trace off", |outcome| {
            let result = hit(outcome);
            assert_unique_keys(&outcome.stdout);
            let printed: Value = serde_json::from_str(&outcome.stdout)
                .unwrap_or_else(|error| panic!("{error}{}", outcome.words()));
            assert_eq!(printed, result);
            assert!(result["trace"]["file"].is_null(), "{}", result["trace"]);
            assert!(!outcome.path("r/trace.dat").exists(), "a trace in spite of --trace off");
        }),
        Case::run("compat", "--compat --trace off", |outcome| {
            hit(outcome);
            compat(outcome);
        }),
        Case::new(
            "trace_disk_full",
            format!(
                "{small_disk}{}; s=$?\ncp /tmp/small/log.raw r; exit $s",
                main_job("--trace-file /tmp/small/log")
            ),
            |outcome| {
                let result = hit(outcome);
                let trace = &result["trace"];
                assert_eq!(trace["complete"], false, "{trace}");
                let note = text(trace, "note");
                assert!(note.contains("the trace is cut") && note.contains("No space"), "{note}");
                outcome.assert_says(&["the trace is cut", "/tmp/small/log", "No space"]);
                println!("     {} bytes of the trace kept", number(trace, "bytes"));
                // What came can be read, and says itself that it is not all.
                assert_eq!(text(trace, "form"), "raw");
                let answer = explain(outcome, &[]);
                assert!(text(&answer, "torn").contains("it ends after"), "{answer}");
                assert!(!list(&answer["gap"], "parts").is_empty(), "{answer}");
            },
        ),
        // Each fits, both do not: the trace must not cost the others.
        Case::new(
            "folder_disk_full",
            format!(
                "{full_folder}ln -s /tmp/full r; {}; s=$?\nrm r; cp -r /tmp/full r; exit $s",
                main_job("")
            ),
            |outcome| {
                let result = kept(outcome);
                judged(outcome, &result);
                assert!(number(&result, "longest_gap_ns") > 0);
                // The trace is cut; or has all come, but is not there a second time as trace.dat.
                let trace = &result["trace"];
                let cut = trace["complete"] == false;
                assert!(cut || text(trace, "note").contains("No space"), "{trace}");
                assert!(cut || text(trace, "form") == "raw", "{trace}");
            },
        ),
    ];
    Group::new("threshold", TestKernel::V612, cases)
}

/// The result: in its file, or on the screen where the disk had no room left even for that.
fn kept(outcome: &Outcome) -> Value {
    let text = outcome.file("r/result.json").unwrap_or_else(|| {
        let begin = outcome.stdout.find("\n{").expect("a result, in its file or printed");
        println!("     the result is on the screen");
        outcome.stdout[begin..].to_owned()
    });
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    values.next().expect("a value").expect("JSON")
}

/// A hit whose length stands in all places; its result.
pub fn hit(outcome: &Outcome) -> Value {
    let result = outcome.result();
    judged(outcome, &result);
    let longest = number(&result, "longest_gap_ns");
    let threshold = number(&result["job"]["load"], "threshold_ns");
    assert!(longest > threshold, "{longest} ns is not over {threshold} ns");
    assert_eq!(number(&result["longest_gap"], "length_ns"), longest);
    one_window(outcome, &result);
    println!("     gap of {:.1} ms, phases {}", milliseconds(longest), result["phases_ms"]);
    result
}

/// A gap over the threshold is the kernel's unless the host took so much of it that the rest is
/// not, or it is none of the scheduler's and nobody knows; and where another one was open then, of
/// which the rest is over it, that one is.
pub fn judged(outcome: &Outcome, result: &Value) {
    let hit = &result["threshold_hit"];
    let threshold = number(&result["job"]["load"], "threshold_ns");
    let (length, host) = (number(hit, "length_ns"), hit["host_ns"].as_u64());
    assert_eq!(hit["net_ns"].as_u64(), host.map(|host| length - host), "{hit}");
    let net = host.filter(|host| *host > 0).map(|host| length - host);
    let doubt = match net {
        Some(net) if net <= threshold => Some("host-took"),
        None if host.is_none() && hit["class"] != "scheduled-out" => Some("host-unknown"),
        _ => None,
    };
    println!("     {} with {host:?} ns of the host in {length} ns", result["verdict"]);
    let longest = result["longest_gap"]["net_ns"].as_u64();
    let another = longest.is_some_and(|net| net > threshold);
    match doubt.filter(|_| !another) {
        None => {
            outcome.assert_status(1);
            assert_eq!(result["verdict"], "over-threshold", "{hit}");
        }
        Some(code) => {
            outcome.assert_status(125);
            let found = (text(result, "verdict"), text(result, "reason_code"));
            assert_eq!(found, ("untestable", code), "{hit}");
        }
    }
}

/// All figures end with the gap over the threshold; what ended later is told apart.
fn one_window(outcome: &Outcome, result: &Value) {
    let longest = number(result, "longest_gap_ns");
    let gaps = outcome.gaps();
    let (later, ended): (Vec<GapLine>, Vec<GapLine>) =
        gaps.iter().copied().partition(|gap| gap.after_hit);
    let end = number(&result["threshold_hit"], "tsc_end");
    assert!(later.iter().all(|gap| gap.tsc_end > end), "marked, and ended before the hit");
    assert!(ended.iter().all(|gap| gap.tsc_end <= end), "ended after the hit, and not marked");
    assert_eq!(ended.iter().map(|gap| gap.length_ns).max(), Some(longest));
    let after = &result["after_hit"];
    if later.is_empty() {
        assert!(after.is_null(), "{after}");
    } else {
        assert_eq!(number(after, "gaps"), later.len() as u64, "{after}");
        let longest = later.iter().map(|gap| gap.length_ns).max();
        assert_eq!(after["longest_ns"].as_u64(), longest, "{after}");
    }
    let groups = list(result, "groups");
    assert_eq!(groups.iter().map(|group| number(group, "longest_gap_ns")).max(), Some(longest));
    let gaps: u64 = groups.iter().map(|group| number(group, "gaps")).sum();
    assert_eq!(gaps, ended.len() as u64);
    let quantiles = result["statistics"]["quantiles"].as_object().expect("there are gaps");
    let most = quantiles.values().filter_map(Value::as_u64).max().unwrap_or(0);
    assert!(most <= longest, "a quantile of {most} ns over the longest gap of {longest} ns");
    let measured = number(result, "measured_ns");
    if measured < 999_000_000 {
        let why = text(result, "too_short");
        assert!(why.contains("less than a second"), "{why}");
        assert!(result["fairness"]["threads"]["jain"].is_null(), "{}", result["fairness"]);
    }
}

/// Is everything in the trace that explains the gap?
pub fn trace(outcome: &Outcome, result: &Value, name: &str, via: &str) {
    let trace = &result["trace"];
    assert_eq!(trace["complete"], true, "{trace}");
    assert_eq!((text(trace, "file"), text(trace, "form")), (name, "trace.dat"));
    assert_eq!(text(trace, "via"), via);
    assert!(number(&list(trace, "cpus")[2], "events") > 0, "{trace}");
    let path = outcome.path(name);
    assert_eq!(number(trace, "bytes"), path.metadata().expect("the trace").len());
    assert!(!path.with_extension("dat.raw").exists(), "the stream stayed");
    let report = read_by_trace_cmd(&path);
    assert!(report.contains("sched_switch:"), "no sched_switch event");
    let (ns, who) = marked(&report);
    let gaps = outcome.gaps();
    let hit = gaps.iter().find(|gap| gap.who == who && gap.length_ns == ns);
    let hit = hit.unwrap_or_else(|| panic!("gaps.csv has no gap of {ns} ns in thread {who:?}"));
    // Tracing ended with the hit; the load was being stopped from then on.
    let longest = &result["longest_gap"];
    assert!(
        number(longest, "tsc_end") <= hit.tsc_end,
        "the longest gap ended after the trace, which ended with {hit:?}: {longest}"
    );
}

/// The original's three lines, to the letter, about a gap that gaps.csv has; that gap.
pub fn compat(outcome: &Outcome) -> GapLine {
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("diff: "));
    let at = at.unwrap_or_else(|| panic!("no `diff: `{}", outcome.words()));
    let [diff, tid, tsc] = lines[at..] else { panic!("three lines expected{}", outcome.words()) };
    let tsc = tsc.strip_prefix("TSC: ").and_then(|tsc| tsc.parse::<u64>().ok());
    let gaps = outcome.gaps();
    let gap = gaps.iter().find(|gap| Some(gap.tsc_end) == tsc);
    let gap = gap.unwrap_or_else(|| panic!("no such gap in gaps.csv{}", outcome.words()));
    assert_eq!(diff, format!("diff: {}ms", gap.length_ns / 1_000_000));
    let result = outcome.result();
    let thread = list(&result, "threads").iter().find(|thread| numbers(thread) == gap.who);
    let thread = thread.unwrap_or_else(|| panic!("no thread of {gap:?}"));
    assert_eq!(tid, format!("TID: {}", number(thread, "tid")));
    lines[..at].iter().for_each(|line| second(line));
    *gap
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
