// SPDX-License-Identifier: Apache-2.0
//! `schedvmm explain` on traces that belong to no result (`ftrace/tests/data/README.md`).

mod traced;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Speed of the clock of the trace, which the file does not tell.
const KHZ: &[&str] = &["--clock-khz", "2445406"];

/// A real trace of Linux 6.12, in a folder.
fn trace() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("trace.dat");
    fs::write(&path, traced::trace_bytes()).expect("written");
    (folder, path)
}

fn explain(path: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_schedvmm"));
    command.arg("explain").arg(path).args(words).output().expect("it starts")
}

fn stdout(path: &Path, words: &[&str]) -> String {
    let output = explain(path, &[KHZ, words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(path: &Path, words: &[&str]) -> Value {
    let text = stdout(path, &[words, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn the_longest_waits_are_accounted_for() {
    let (_folder, path) = trace();
    let answer = json(&path, &["--worst", "50"]);
    assert_eq!(answer["schema"], "schedvmm-trace-explanation/1");
    assert_eq!((number(&answer, "records"), number(&answer, "cpus")), (5164, 4));
    assert_eq!((&answer["clock"], &answer["buffer"]), (&"x86-tsc".into(), &"main".into()));
    assert_eq!(number(&answer["losses"], "places"), 0);
    let waits = list(&answer, "waits");
    assert_eq!(waits.len(), 50);
    for (place, wait) in waits.iter().enumerate() {
        assert_eq!(number(wait, "number"), place as u64 + 1);
        let ticks: u64 = list(wait, "parts").iter().map(|part| number(part, "ticks")).sum();
        assert_eq!(ticks, number(wait, "end_ticks") - number(wait, "begin_ticks"), "{wait}");
        let of_clauses: u64 = list(wait, "clauses").iter().map(|it| number(it, "ticks")).sum();
        assert_eq!(of_clauses, ticks, "{wait}");
        assert_eq!(wait["unknown_share"].as_f64(), Some(0.0), "{wait}");
    }
    let lengths: Vec<_> = waits.iter().map(|wait| number(wait, "length_ns")).collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
    // The threads' sums are of the same waits.
    let threads = list(&answer, "threads");
    let longest = |kind: &str| {
        threads.iter().map(|thread| number(&thread[kind], "longest_ns")).max().unwrap_or(0)
    };
    assert_eq!(lengths[0], longest("wakeup").max(longest("preemption")));
    let kinds: BTreeSet<_> = waits.iter().map(|wait| wait["kind"].as_str()).collect();
    assert_eq!(kinds, [Some("preemption"), Some("wakeup")].into());
}

#[test]
fn a_person_gets_threads_and_waits() {
    let (_folder, path) = trace();
    let text = stdout(&path, &["--worst", "3"]);
    assert!(text.starts_with("5164 events of 4 CPUs"), "{text}");
    assert!(text.contains("after it was woken") && text.contains("after it was preempted"));
    for part in ["\n1. At ", "\n3. At ", " waited ", ": queued ", "behind "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("\n4. At ") && !text.contains("Not recorded"), "{text}");
    let one = stdout(&path, &["--gap", "2"]);
    assert!(one.starts_with("2. At ") && one.contains(" pieces ") && !one.contains("events of"));
    assert_eq!(stdout(&path, &["--longest"]), stdout(&path, &["--gap", "1"]));
}

/// Each thread is accounted for, all the time.
#[test]
fn all_of_the_time_of_all_threads_is_accounted_for() {
    let (_folder, path) = trace();
    let times = json(&path, &["--run"]);
    assert_eq!(times["schema"], "schedvmm-trace-times/1");
    let length_ns = number(&times, "length_ns");
    let keys = ["running_ns", "queued_ns", "forced_idle_ns", "asleep_ns", "unknown_ns", "other_ns"];
    let threads = list(&times, "threads");
    assert!(threads.len() > 8, "{times}");
    for thread in threads {
        let sum: u64 = keys.iter().map(|key| number(thread, key)).sum();
        assert!(sum <= length_ns && length_ns - sum <= keys.len() as u64, "{thread}");
    }
    let text = stdout(&path, &["--run"]);
    assert!(text.contains("    tid  name                running"), "{text}");
    assert_eq!(text.lines().count(), threads.len() + 3);
}

#[test]
fn what_is_asked_for_is_what_comes() {
    let (_folder, path) = trace();
    let all = json(&path, &["--worst", "1000"]);
    let all = list(&all, "waits");
    let first = &all[0];
    let (tid, name) = (number(first, "tid").to_string(), first["name"].as_str().expect("a name"));
    for (who, key) in [(tid.as_str(), "tid"), (name, "name")] {
        let found = json(&path, &["--thread", who, "--worst", "1000"]);
        let found = list(&found, "waits");
        let expected = all.iter().filter(|wait| wait[key] == first[key]).count();
        // A thread may have had the name of another before it took its own.
        assert!(found.len() == expected || (key == "name" && found.len() > expected), "{who}");
        assert_eq!(found[0]["paragraph"], first["paragraph"]);
    }
    let found = json(&path, &["--cpus", "2", "--worst", "1000"]);
    let on_two = all.iter().filter(|wait| number(wait, "cpu") == 2).count();
    assert_eq!(list(&found, "waits").len(), on_two);
    assert!(on_two > 0 && on_two < all.len());
    let begin_ns = number(first, "begin_ns");
    let time = |ns: u64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let (from, to) = (time(begin_ns + 1000), time(begin_ns + 2000));
    let found = json(&path, &["--between", &from, &to, "--worst", "1000"]);
    let found = list(&found, "waits");
    assert_eq!(found[0]["paragraph"], first["paragraph"]);
    let ends = |wait: &Value| number(wait, "begin_ns") + number(wait, "length_ns");
    assert!(found.iter().all(|wait| number(wait, "begin_ns") <= begin_ns + 2000));
    assert!(found.iter().all(|wait| ends(wait) + 1 >= begin_ns + 1000) && found.len() < all.len());
}

#[test]
fn events_and_pictures_come_of_a_trace_as_of_a_result() {
    let (folder, path) = trace();
    let text = stdout(&path, &["--gap", "1", "--text"]);
    assert!(text.contains("sched_switch: prev_comm="), "{text}");
    let file = folder.path().join("trace.perfetto");
    stdout(&path, &["--perfetto", &file.to_string_lossy()]);
    let written = fs::read(&file).expect("written");
    // A track for each thread with a wait, which has its number, and a slice for each wait.
    let tids: BTreeSet<u64> = list(&json(&path, &["--worst", "100"]), "waits")
        .iter()
        .map(|wait| number(wait, "tid"))
        .collect();
    assert!(!tids.is_empty());
    for track in tids.iter().map(|tid| format!("(tid {tid})")) {
        assert!(written.windows(track.len()).any(|part| part == track.as_bytes()), "{track}");
    }
    assert!(written.windows(15).any(|part| part == b"Scheduling gaps"));
}

/// What trace-cmd writes by default says the same.
#[test]
fn version_7_is_explained_alike() {
    let (folder, path) = trace();
    let seven = folder.path().join("v7.dat");
    let mut convert = Command::new("trace-cmd");
    convert.args(["convert", "--file-version", "7", "--compression", "zstd", "-i"]);
    let converted = convert.arg(&path).arg("-o").arg(&seven).output();
    let converted = converted.expect("`trace-cmd` is needed: install the package `trace-cmd`");
    assert!(converted.status.success(), "{converted:?}");
    let (mut old, mut new) = (json(&path, &[]), json(&seven, &[]));
    for answer in [&mut old, &mut new] {
        answer["trace"] = Value::Null;
    }
    assert_eq!(old, new);
}

#[test]
fn what_cannot_be_explained_is_a_usage_error_with_its_reason() {
    let (folder, path) = trace();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let perf = file("perf.data", b"PERFILE2 and more");
    let noise = file("noise", b"no trace at all");
    let cut = file("cut.dat", &fs::read(&path).expect("there")[..3000]);
    let empty = file("empty", b"");
    let result = traced::folder();
    let cases: [(&Path, &[&str], &str); 13] = [
        (&path, &[], "--clock-khz"),
        (&path, &["--clock-khz", "2445406", "--gap", "0"], "waits have numbers 1 to"),
        (&path, &["--clock-khz", "2445406", "--gap", "9999"], "waits are known"),
        (&path, &["--clock-khz", "2445406", "--thread", "nobody"], "no thread of this number"),
        (
            &path,
            &["--clock-khz", "2445406", "--between", "2", "1"],
            "--between 2.000000000 1.000000000: the second",
        ),
        (&path, &["--between", "2", "x"], "SECONDS.FRACTION"),
        (&path, &["--buffer", "foo"], "none of that name; those with events are: main"),
        (&perf, &[], "perf.data"),
        (&noise, &[], "the first bytes of a trace.dat"),
        (&cut, &[], "the file ends here"),
        (&empty, &[], "byte 0"),
        (result.path(), &["--worst", "3"], "--worst is of traces"),
        (result.path(), &["--thread", "3"], "does not say in which group"),
    ];
    for (path, words, why) in cases {
        let output = explain(path, words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(200), "{words:?}: {text}");
        assert!(text.contains(why), "{words:?}: {text}");
    }
    let over = explain(&path, &["--clock-khz", "1", "--perfetto", &path.to_string_lossy()]);
    assert_eq!(over.status.code(), Some(200));
    assert!(fs::metadata(&path).expect("still there").len() > 10_000);
}
