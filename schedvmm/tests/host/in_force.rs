// SPDX-License-Identifier: Apache-2.0
//! What was asked for by name is in force, or the run does not begin; what is ours by default is
//! done without, with the reason in the result and in what `explain` says.

use std::fs;
use std::path::Path;
use std::process::Output;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::calls::{call, finish, result};
use crate::place::{self, Place};

pub fn trials(place: &Place) -> Vec<Trial> {
    let with = |name: &str, test: fn() -> Result<(), Failed>, has: bool| {
        Trial::test(name, test).with_ignored_flag(!has)
    };
    let tunables = Trial::test("a_tunable_is_in_force_or_it_is_said_why", {
        let locked = place.locks_debugfs;
        move || a_tunable_is_in_force_or_it_is_said_why(locked)
    });
    vec![
        with("without_a_trace_it_is_said_why", without_a_trace_it_is_said_why, place.root),
        with("events_asked_for_are_traced", events_asked_for_are_traced, place.tracefs),
        tunables.with_ignored_flag(!place.debugfs),
        Trial::test("a_policy_that_is_not_permitted", a_policy_that_is_not_permitted),
    ]
}

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let words = ["host", "--groups", "2", "--duration", "500ms", "--noise", "off"];
    [&words[..], &["--threshold", "off", "--output", "out"], more].concat()
}

fn called(kinds: &[&str], dir: &Path, more: &[&str]) -> Output {
    finish(place::schedvmm(kinds, dir, &quick(more)).spawn().expect("it starts"))
}

fn says(output: &Output, words: &[&str]) {
    let both = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&both);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

const UNMOUNTED: &str = "tracefs is not mounted on /sys/kernel/tracing";

/// As in a container.
fn without_a_trace_it_is_said_why() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let over = ["--threshold", "1ms", "--duration", "20s", "--output", "over"];
    let count = ["host", "--noise", "off", "--on-contaminated", "report"];
    let words = [&count[..], &over].concat();
    let output = finish(place::schedvmm(&[], dir.path(), &words).spawn()?);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    says(&output, &["trace: ", UNMOUNTED]);
    let result = result(dir.path(), "over");
    assert!(result["trace"]["note"].as_str().is_some_and(|note| note.starts_with(UNMOUNTED)));
    assert!(result["notes"].to_string().contains(UNMOUNTED), "{}", result["notes"]);
    let explained = call(dir.path(), &["explain", "over"]);
    assert_eq!(explained.status.code(), Some(200));
    says(&explained, &["this result has no trace: ", UNMOUNTED]);
    // Whoever asks for one, in any way, gets it or no run.
    for asked in [
        &["--trace", "on"][..],
        &["--trace-events", "sched"],
        &["--trace-dump", "always"],
        &["--trace-file", "log"],
    ] {
        let dir = tempfile::tempdir()?;
        let output = called(&[], dir.path(), asked);
        assert_eq!(output.status.code(), Some(201), "{asked:?}: {output:?}");
        says(&output, &["the trace asked for cannot be had: ", UNMOUNTED]);
    }
    Ok(())
}

fn events_asked_for_are_traced() -> Result<(), Failed> {
    let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let words = ["--trace-events", "sched:sched_switch,nonsense"];
    let output = called(&["tracefs"], one.path(), &words);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    says(&output, &["the trace asked for cannot be had: this kernel has no event `nonsense`"]);
    let words = ["--trace-events", "sched:sched_switch,irq"];
    let output = called(&["tracefs"], two.path(), &words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let setup = &result(two.path(), "out")["setup"];
    assert_eq!(setup["trace_events"].to_string(), r#"["sched:sched_switch","irq"]"#);
    let explained = call(two.path(), &["explain", "out"]);
    says(&explained, &["no gap passed the threshold", "--trace-dump always"]);
    Ok(())
}

/// On a kernel that is locked down nobody sets one, and that is not called a missing right.
fn a_tunable_is_in_force_or_it_is_said_why(locked: bool) -> Result<(), Failed> {
    let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let asked = called(&["debugfs"], one.path(), &["--tune", "slice=3ms"]);
    let plain = called(&["debugfs"], two.path(), &[]);
    assert_eq!(plain.status.code(), Some(0), "{plain:?}");
    let expected = result(two.path(), "out")["expected"]["note"].clone();
    if locked {
        assert_eq!(asked.status.code(), Some(201), "{asked:?}");
        says(&asked, &["`--tune slice=3ms` is not in force: ", "locked down"]);
        assert!(expected.as_str().is_some_and(|note| note.contains("locked down")), "{expected}");
    } else {
        assert_eq!(asked.status.code(), Some(0), "{asked:?}");
        let tunable = &result(one.path(), "out")["setup"]["tunables"][0];
        assert_eq!(tunable["effective"], "3000000", "{tunable}");
        assert_eq!(tunable["note"], Value::Null);
    }
    // With nothing mounted it is neither absent nor forbidden.
    let three = tempfile::tempdir()?;
    let output = called(&[], three.path(), &["--tune", "slice=3ms"]);
    assert_eq!(output.status.code(), Some(201), "{output:?}");
    says(&output, &["debugfs is not mounted on /sys/kernel/debug"]);
    Ok(())
}

fn a_policy_that_is_not_permitted() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let load =
        "[[group]]\nthreads = 1\npolicy = \"fifo:10\"\nbusy = \"10ms\"\nsleep = \"fixed:10ms\"\n";
    fs::write(dir.path().join("load.toml"), load)?;
    let words = ["host", "--load", "load.toml", "--duration", "500ms", "--noise", "off"];
    let words = [&words[..], &["--threshold", "off", "--output", "out"]].concat();
    let output = finish(place::as_nobody(dir.path(), &words, None).spawn()?);
    assert_eq!(output.status.code(), Some(201), "{output:?}");
    says(&output, &["policy fifo:10 cannot be had", "needs root, or CAP_SYS_NICE"]);
    Ok(())
}
