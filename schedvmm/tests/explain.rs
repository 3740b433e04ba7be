// SPDX-License-Identifier: Apache-2.0
//! `schedvmm explain` on a result that is put together from a real trace of Linux 6.12 and the
//! gaps that its threads measured (`ftrace/tests/data/README.md`).

mod terminal;
mod traced;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use self::traced::{ID, TSC_KHZ, folder, with_id};

fn explain(folder: &Path, words: &[&str]) -> Output {
    command(folder, words).output().expect("it starts")
}

fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schedvmm"));
    command.arg("explain").arg(folder).args(words);
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_of(folder: &Path, words: &[&str]) -> Value {
    let text = stdout(&explain(folder, &[words, &["--json"]].concat()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn the_parts_of_every_gap_sum_to_it() {
    let folder = folder();
    let lines = fs::read_to_string(folder.path().join("gaps.csv")).expect("gaps").lines().count();
    let mut forced = 0;
    for gap in (1..lines).step_by(7) {
        let answer = json_of(folder.path(), &["--gap", &gap.to_string()]);
        assert_eq!(answer["schema"], "schedvmm-explanation/2");
        let gap = &answer["gap"];
        let parts = gap["parts"].as_array().expect("parts");
        let ticks: u64 = parts.iter().map(|part| number(part, "ticks")).sum();
        assert_eq!(ticks, number(gap, "tsc_end") - number(gap, "tsc_begin"), "{gap}");
        let ns: u64 = parts.iter().map(|part| number(part, "ns")).sum();
        let length_ns = number(gap, "length_ns");
        assert!(ns <= length_ns && length_ns - ns <= parts.len() as u64 + 1, "{gap}");
        assert!(gap["unknown_share"].as_f64().expect("a share") < 0.05, "{gap}");
        forced += parts.iter().filter(|part| part["cause"] == "forced-idle").count();
    }
    assert!(forced > 0, "cookies force CPUs idle");
}

#[test]
fn what_was_before_the_trace_is_said_and_not_guessed() {
    let folder = folder();
    let path = folder.path().join("gaps.csv");
    let mut text = fs::read_to_string(&path).expect("gaps");
    let last = text.lines().nth(1).expect("a gap").to_owned();
    let cells: Vec<&str> = last.split(',').collect();
    // Ten seconds longer than it was: the trace does not go back so far.
    let begin = cells[4].parse::<u64>().expect("a time") - TSC_KHZ * 10_000;
    let (who, rest) = (cells[..2].join(","), cells[5..].join(","));
    writeln!(text, "{who},0,{},{begin},{rest}", 10_000_000_000_u64).expect("a String");
    fs::write(&path, &text).expect("written");
    let answer = json_of(folder.path(), &["--gap", &(text.lines().count() - 1).to_string()]);
    let gap = &answer["gap"];
    let late_ns = number(gap, "trace_late_ns");
    let paragraph = gap["paragraph"].as_str().expect("a text");
    assert!(paragraph.contains(" after the gap began."), "{paragraph}");
    let parts = gap["parts"].as_array().expect("parts");
    let before = parts.iter().find(|part| part["reason"] == "before-trace").expect("a part");
    assert!(number(before, "ns").abs_diff(late_ns) < 10, "{gap}");
}

#[test]
fn what_the_paragraph_says_is_there_for_programs() {
    let folder = folder();
    let gap = &json_of(folder.path(), &["--longest"])["gap"];
    let paragraph = gap["paragraph"].as_str().expect("a text");
    let clauses = gap["clauses"].as_array().expect("clauses");
    let sum = |of: &[Value]| of.iter().map(|one| number(one, "ticks")).sum::<u64>();
    assert_eq!(sum(clauses), number(gap, "tsc_end") - number(gap, "tsc_begin"));
    let mut named = 0;
    for clause in clauses {
        let culprits = clause["culprits"].as_array().expect("culprits");
        assert!(paragraph.contains(clause["what"].as_str().expect("a text")), "{paragraph}");
        if !clause["by"].is_null() {
            assert_eq!(sum(culprits), number(clause, "ticks"), "{clause}");
            let first = culprits[0]["name"].as_str().expect("a name");
            named += usize::from(paragraph.contains(first));
        }
    }
    assert!(named > 0, "{gap}");
}

#[test]
fn forced_idle_that_is_no_measurement_is_called_none() {
    let folder = folder();
    let (gap, run) = ([].as_slice(), ["--run"].as_slice());
    let says = "\nForced idle is no measurement here: this host's CPUs are emulated.\n";
    for words in [gap, run] {
        assert!(!stdout(&explain(folder.path(), words)).contains("no measurement"));
        assert_eq!(json_of(folder.path(), words)["core_figures"]["measured"], true);
    }
    let path = folder.path().join("result.json");
    let text = fs::read_to_string(&path).expect("a result");
    let mut result: Value = serde_json::from_str(&text).expect("JSON");
    let core_figures =
        serde_json::json!({ "measured": false, "reason": "this host's CPUs are emulated" });
    result["core_figures"] = core_figures.clone();
    fs::write(&path, result.to_string()).expect("written");
    for words in [gap, run] {
        let text = stdout(&explain(folder.path(), words));
        assert!(text.contains("forced idle") && text.ends_with(says), "{text}");
        assert_eq!(json_of(folder.path(), words)["core_figures"], core_figures);
    }
}

#[test]
fn a_person_gets_a_paragraph_and_a_table() {
    let folder = folder();
    let text = stdout(&explain(folder.path(), &[]));
    let longest = json_of(folder.path(), &["--longest"]);
    let paragraph = longest["gap"]["paragraph"].as_str().expect("a text");
    assert!(text.starts_with(paragraph), "{text}");
    assert!(paragraph.contains("group") && paragraph.contains(" waited "), "{paragraph}");
    let parts = longest["gap"]["parts"].as_array().expect("parts").len();
    assert_eq!(text.lines().count(), parts + 3, "{text}");
    let of_file = stdout(&explain(&folder.path().join("result.json"), &[]));
    assert_eq!(of_file, text);
    let gap = &longest["gap"];
    let (group, thread) = (number(gap, "group"), number(gap, "thread"));
    assert!(
        paragraph.starts_with(&format!("group {group} thread {thread} waited ")),
        "{paragraph}"
    );
    assert_eq!(json_of(folder.path(), &["--thread", &format!("{group}.{thread}")]), longest);
}

#[test]
fn all_of_the_run_is_accounted_for() {
    let folder = folder();
    let answer = json_of(folder.path(), &["--run"]);
    let run = &answer["run"];
    let length_ns = number(run, "length_ns");
    let threads = run["threads"].as_array().expect("threads");
    assert_eq!(threads.len(), 8);
    for thread in threads {
        let times =
            ["running_ns", "queued_ns", "forced_idle_ns", "asleep_ns", "other_ns", "unknown_ns"];
        let sum: u64 = times.iter().map(|time| number(thread, time)).sum();
        assert!(sum <= length_ns && length_ns - sum < 10, "{thread}");
        assert!(number(thread, "running_ns") > 0, "{thread}");
    }
    let forced = run["forced_idle"].as_array().expect("CPUs");
    let sum: u64 = forced.iter().map(|cpu| number(cpu, "ns")).sum();
    assert!(sum > 0 && sum < 2 * length_ns, "{forced:?}");
    assert_eq!(number(run, "pieces_left_out"), 0);
    let text = stdout(&explain(folder.path(), &["--run"]));
    assert!(text.contains("forced idle") && text.lines().count() > 10, "{text}");
}

/// Changes a result in its folder.
fn change(folder: &Path, how: impl FnOnce(&mut Value)) {
    let path = folder.join("result.json");
    let mut result = serde_json::from_slice(&fs::read(&path).expect("a result")).expect("JSON");
    how(&mut result);
    fs::write(path, result.to_string()).expect("written");
}

#[test]
fn a_trace_of_another_run_explains_nothing() {
    let folder = folder();
    let refused = |path: &Path, wants: &str, has: &str| {
        for verb in [&["explain"][..], &["explain", "--run"]] {
            let output = explain(path, &verb[1..]);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(200), "{text}");
            let says =
                format!("its identity is {has}, and the one of this result's trace is {wants}");
            assert!(text.contains("is the trace of another run") && text.contains(&says), "{text}");
        }
    };
    let file = folder.path().join("trace.dat");
    let own = fs::read(&file).expect("a trace");
    let other = "00000000000000ff";
    fs::write(&file, with_id(own.clone(), other.parse().ok())).expect("written");
    refused(folder.path(), ID, other);
    fs::write(&file, with_id(own.clone(), None)).expect("written");
    refused(folder.path(), ID, "none");
    // Results of older versions have none, and were explained: they are, with a remark.
    change(folder.path(), |result| result["job"]["trace"]["id"] = Value::Null);
    let text = stdout(&explain(folder.path(), &[]));
    assert!(text.starts_with("Neither this result nor ") && text.contains(" waited "), "{text}");
    let remark = json_of(folder.path(), &[])["remark"].as_str().map(str::to_owned);
    assert!(text.starts_with(&remark.expect("a remark")), "{text}");
    fs::write(&file, own).expect("written");
    refused(folder.path(), "none", ID);
}

#[test]
fn the_events_of_a_gap_come_as_text() {
    let folder = folder();
    let text = stdout(&explain(folder.path(), &["--text"]));
    let switches = text.lines().filter(|line| line.contains(" sched_switch: prev_comm=")).count();
    assert!(switches > 2, "{text}");
    assert!(text.lines().all(|line| line.contains(" us [0")), "{text}");
}

#[test]
fn a_perfetto_file_has_the_gaps() {
    let folder = folder();
    let file: PathBuf = folder.path().join("trace.perfetto");
    stdout(&explain(folder.path(), &["--perfetto", file.to_str().expect("UTF-8")]));
    let bytes = fs::read(&file).expect("written");
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("Scheduling gaps") && has("Forced idle") && has("group 3"));
}

/// A long trace is read several times, and whoever looks on sees each reading.
#[test]
fn each_reading_of_the_trace_has_its_bar() {
    let folder = folder();
    let file: PathBuf = folder.path().join("trace.perfetto");
    let words = ["--run", "--perfetto", file.to_str().expect("UTF-8")];
    let mut command = command(folder.path(), &words);
    command.stdout(Stdio::piped());
    let (output, shown) =
        terminal::watch(command, |child| child.wait_with_output().expect("a child of ours"));
    assert!(output.status.success(), "{shown}");
    for name in ["explain [", "perfetto [", "read ["] {
        assert!(shown.contains(name), "no bar of `{name}`: {shown:?}");
    }
}

#[test]
fn what_cannot_be_explained_is_a_usage_error_with_its_reason() {
    let folder = folder();
    let path = folder.path();
    let refused = |words: &[&str], says: &str| {
        let output = explain(path, words);
        assert_eq!(output.status.code(), Some(200));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(says), "{text}");
    };
    refused(&["--gap", "0"], "gaps 1 to ");
    refused(&["--gap", "999999"], "gaps 1 to ");
    // Once, threads were counted over all groups.
    refused(&["--thread", "7"], "in which group");
    refused(
        &["--thread", "77.1"],
        "--thread 77.1: there is no such thread; the run's are 1.1 to 4.2",
    );
    refused(&["--gap", "1", "--longest"], "cannot be used with");
    refused(&["--perfetto", "/no/such/folder/file"], "/no/such/folder/file");
    fs::rename(path.join("trace.dat"), path.join("other")).expect("renamed");
    refused(&[], "is gone");
    fs::write(path.join("trace.dat"), "no trace").expect("written");
    refused(&[], "trace.dat, byte 0");
    fs::remove_file(path.join("result.json")).expect("removed");
    refused(&[], "result.json");
}
