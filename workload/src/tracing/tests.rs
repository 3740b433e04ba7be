// SPDX-License-Identifier: Apache-2.0
//! Tracing set up in folders that look like tracefs.

use tempfile::TempDir;

use crate::testing::tree;
use crate::tracing::*;

fn complete() -> TempDir {
    tree(&[
        ("tracing_on", "1"),
        ("current_tracer", "function"),
        ("events/enable", "1"),
        ("events/sched/enable", "0"),
        ("events/irq/irq_handler_entry/enable", "0"),
        ("trace_clock", ""),
        ("buffer_size_kb", "1408"),
        ("trace", "old"),
        ("trace_marker", ""),
        ("per_cpu/cpu0/stats", "entries: 100\noverrun: 5\nbytes: 5000\n"),
        ("per_cpu/cpu1/stats", "entries: 20\nbytes: 800\n"),
    ])
}

fn spec(events: &[&str]) -> TraceSpec {
    let events = events.iter().map(|&event| event.into()).collect();
    TraceSpec { events, buffer_kib: 4096, dump: TraceDump::Hit, required: false, id: None }
}

#[test]
fn what_is_there_is_set_up_and_what_is_not_is_noted() {
    let root = complete();
    let events = ["sched", "irq:irq_handler_entry", "timer", "../x", "a:b:c", ""];
    let tracing = Tracing::prepare(root.path(), &spec(&events));
    let read = |file: &str| fs::read_to_string(root.path().join(file)).unwrap();
    assert_eq!(tracing.events(), ["sched", "irq:irq_handler_entry"]);
    assert_eq!(read("events/sched/enable"), "1");
    assert_eq!(read("events/enable"), "0");
    assert_eq!(read("current_tracer"), "nop");
    assert_eq!(read("buffer_size_kb"), "4096");
    assert_eq!(read("trace"), "");
    let note = tracing.note_text().unwrap();
    assert!(note.contains("no event `timer`") && note.contains("../x"), "{note}");
    tracing.start().unwrap();
    assert_eq!(read("tracing_on"), "1");
    tracing.stop().unwrap();
    assert_eq!(read("tracing_on"), "0");
    assert_eq!(tracing.estimate_bytes(), 5800);
    assert!(!tracing.is_wanted(false) && tracing.is_wanted(true));
}

#[test]
fn what_the_user_asked_for_and_is_not_there_is_unmet() {
    let root = complete();
    let asked = |events| TraceSpec { required: true, ..spec(events) };
    let tracing = Tracing::prepare(root.path(), &asked(&["sched"]));
    assert_eq!(tracing.unmet(), None, "a clock that is not there was not asked for");
    let tracing = Tracing::prepare(root.path(), &asked(&["sched", "nonsense"]));
    let unmet = tracing.unmet().expect("no such event");
    assert_eq!(unmet.owner, Owner::Kernel);
    assert_eq!(unmet.text, "this kernel has no event `nonsense`");
    assert!(tracing.note_text().unwrap().contains("no event `nonsense`"));
    // By default it is done without.
    assert_eq!(Tracing::prepare(root.path(), &spec(&["nonsense"])).unmet(), None);
    for bad in ["", "../x", "a:b:c", ":", "a b"] {
        assert!(check_event(bad).unwrap_err().contains("write system"), "{bad}");
    }
    for good in ["sched", "irq:irq_handler_entry", "irq-vectors"] {
        check_event(good).unwrap();
    }
}

/// The kernel's file takes a write and says what it made of it; here it says what was there.
#[test]
fn events_and_buffers_are_read_back() {
    let root = tree(&[
        ("tracing_on", "1"),
        ("events/enable", "1"),
        ("events/sched/enable", ""),
        ("buffer_size_kb/x", ""),
        ("trace_clock", ""),
    ]);
    let switch = root.path().join("events/sched/enable");
    // A device that swallows what it gets, and has nothing to say.
    fs::remove_file(&switch).unwrap();
    std::os::unix::fs::symlink("/dev/null", &switch).unwrap();
    let asked = TraceSpec { required: true, ..spec(&["sched"]) };
    let tracing = Tracing::prepare(root.path(), &asked);
    assert!(tracing.events().is_empty());
    let note = tracing.note_text().unwrap();
    assert!(note.contains("event sched stays off"), "{note}");
    assert!(note.contains("buffer_size_kb: "), "{note}");
    assert!(tracing.unmet().unwrap().text.contains("buffer_size_kb"));
}

#[test]
fn without_a_file_system_it_is_said_which_one() {
    let roots = [Path::new("/nonexistent/one"), Path::new("/nonexistent/two")];
    let why = Tracing::root_among(&roots).unwrap_err().to_string();
    assert_eq!(why, "this kernel has no /nonexistent/one/tracing_on");
    let root = complete();
    let found = Tracing::root_among(&[roots[0], root.path()]).unwrap();
    assert_eq!(found, root.path());
}

#[test]
fn the_clock_is_the_one_in_brackets() {
    let root = tree(&[("trace_clock", "local global [x86-tsc] mono\n")]);
    let tracing = Tracing::prepare(root.path(), &spec(&[]));
    fs::write(root.path().join("trace_clock"), "local global [x86-tsc] mono\n").unwrap();
    assert_eq!(tracing.clock_in_use().as_deref(), Some("x86-tsc"));
    fs::write(root.path().join("trace_clock"), "local\n").unwrap();
    assert_eq!(tracing.clock_in_use(), None);
}

#[test]
fn a_kernel_without_tracing_leaves_notes() {
    let tracing = Tracing::prepare(Path::new("/nonexistent"), &spec(&["sched"]));
    assert!(tracing.events().is_empty() && tracing.clock().is_none());
    assert!(tracing.note_text().unwrap().contains("tracing_on"));
    assert_eq!(tracing.estimate_bytes(), 0);
    tracing.start().unwrap_err();
    tracing.send(&[], &mut Vec::new()).unwrap_err();
}
