// SPDX-License-Identifier: Apache-2.0
//! Who waited: on constructed traces whose answer is known, and on real ones against another way
//! to find out, from the lines of `trace-cmd report`.

mod common;

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use common::{Builder, run, unpack};
use ftrace::attribution::{Context, explain};
use ftrace::{Trace, Wait, WaitKind, Waits, Wanted, waits};

fn all(trace: &Trace) -> Waits {
    waits(trace, &Wanted { worst: 1_000_000, ..Wanted::default() }).expect("readable")
}

/// Thread, beginning, end, kind, CPU, in order of beginning.
fn list(found: &Waits) -> Vec<(i32, u64, u64, WaitKind, u32)> {
    let mut list: Vec<_> = found
        .worst
        .iter()
        .map(|wait| (wait.tid, wait.begin, wait.end, wait.kind, wait.cpu))
        .collect();
    list.sort_by_key(|wait| (wait.1, wait.0));
    list
}

use WaitKind::{Preemption, Wakeup};

#[test]
fn waits_begin_where_a_thread_could_run() {
    let mut trace = Builder::new(3);
    // 11 is woken for CPU 2, and moved before it is in a queue.
    trace.switch(2, 1000, 1, 11).switch(2, 1100, 1, 0);
    trace.wake(0, 2000, "sched_waking", 11, 2).migrate(0, 2001, 11, 2, 1);
    trace.wake(0, 2002, "sched_wakeup", 11, 1).switch(1, 2500, 1, 11);
    // It is preempted by 12, whose beginning nobody saw, and goes on.
    trace.switch(1, 3000, 0, 12).switch(1, 3700, 1, 11);
    // It is woken while it runs, and does not sleep.
    trace.wake(0, 4000, "sched_waking", 11, 1).switch(1, 4100, 1, 0).switch(1, 4300, 0, 11);
    // A new one, which is still waiting when all ends.
    trace.wake(0, 5000, "sched_wakeup_new", 13, 2).switch(1, 6000, 1, 0);
    let found = all(&trace.build());
    let expected = [
        (11, 2000, 2500, Wakeup, 1),
        (11, 3000, 3700, Preemption, 1),
        (11, 4100, 4300, Wakeup, 1),
        (13, 5000, 6000, Wakeup, 2),
    ];
    assert_eq!(list(&found), expected);
    assert_eq!(
        found.worst[0],
        Wait {
            tid: 13,
            begin: 5000,
            end: 6000,
            kind: Wakeup,
            cpu: 2,
            ended: false,
            moved_unseen: false,
        }
    );
    // How long the first two had waited when they were switched in, the trace does not say.
    assert_eq!((found.threads[&11].unknown, found.threads[&12].unknown), (1, 1));
    assert_eq!((found.threads[&11].wakeup.count, found.threads[&11].wakeup.ticks), (2, 700));
    assert_eq!((found.span, found.losses.places), (Some((1000, 6000)), 0));
}

/// What lost events may have cut short is no wait; what they cannot have touched is one.
#[test]
fn waits_across_lost_events_are_unknown() {
    let mut trace = Builder::new(3);
    trace.switch(1, 1000, 1, 11).switch(2, 1000, 1, 21);
    trace.switch(1, 2000, 0, 12).switch(2, 2000, 0, 22);
    trace.lose(1, Some(7));
    trace.switch(1, 9000, 1, 11).switch(2, 9000, 1, 21);
    // Woken for a CPU of which the beginning is missing.
    trace.lose(0, None);
    trace.wake(2, 9500, "sched_waking", 31, 0).wake(2, 9501, "sched_wakeup", 31, 0);
    trace.switch(0, 9900, 1, 32).switch(0, 9950, 1, 31);
    let found = all(&trace.build());
    assert_eq!(list(&found), [(21, 2000, 9000, Preemption, 2)]);
    assert_eq!((found.threads[&11].unknown, found.threads[&31].unknown), (2, 1));
    assert_eq!((found.losses.places, found.losses.events), (2, 7));
}

/// Waiting for one CPU and running on another needs a move, which is an event.
#[test]
fn a_move_that_is_missing_is_noticed() {
    let mut trace = Builder::new(3);
    // Of some other thread: migrations are traced.
    trace.migrate(0, 900, 99, 0, 1);
    trace.switch(1, 1000, 1, 11).switch(1, 2000, 0, 12).switch(2, 3000, 1, 11);
    let found = all(&trace.build());
    assert_eq!((list(&found).len(), found.threads[&11].unknown), (0, 2));
    assert!(found.recorded.migrations);
    // Without any there is no telling, and it is said.
    let mut trace = Builder::new(3);
    trace.switch(1, 1000, 1, 11).switch(1, 2000, 0, 12).switch(2, 3000, 1, 11);
    let found = all(&trace.build());
    assert_eq!(list(&found), [(11, 2000, 3000, Preemption, 2)]);
    assert!(found.worst[0].moved_unseen && !found.recorded.migrations);
    // And where nothing moved, nothing is missing.
    let mut trace = Builder::new(3);
    trace.switch(1, 1000, 1, 11).switch(1, 2000, 0, 12).switch(1, 3000, 1, 11);
    let found = all(&trace.build());
    assert!(!found.worst[0].moved_unseen && found.recorded.migrations);
}

#[test]
fn what_is_wanted_is_what_comes() {
    let mut trace = Builder::new(2);
    for turn in 1..=20_u64 {
        let (time, tid) = (turn * 1000, if turn % 2 == 0 { 11 } else { 12 });
        trace.wake(0, time, "sched_waking", tid, u32::from(tid == 12));
        trace.switch(usize::from(tid == 12), time + turn * 10, 1, tid);
        trace.switch(usize::from(tid == 12), time + 500, 1, 0);
    }
    let trace = trace.build();
    let lengths = |wanted: Wanted| {
        let found = waits(&trace, &wanted).expect("readable");
        found.worst.iter().map(Wait::ticks).collect::<Vec<_>>()
    };
    let usual = || Wanted { worst: 3, ..Wanted::default() };
    assert_eq!(lengths(usual()), [200, 190, 180]);
    assert_eq!(lengths(Wanted { cpus: vec![1], ..usual() }), [190, 170, 150]);
    assert_eq!(lengths(Wanted { thread: Some("11".into()), ..usual() }), [200, 180, 160]);
    assert_eq!(lengths(Wanted { window: 5000..8000, ..usual() }), [70, 60, 50]);
    assert_eq!(lengths(Wanted { worst: 0, ..usual() }), [0; 0]);
}

/// Another way to the same waits: from the text of `trace-cmd report`, where nothing is lost.
fn oracle(path: &std::path::Path) -> Vec<(i32, u64, u64)> {
    let text = run(Command::new("trace-cmd").args(["report", "-R"]).arg(path), "trace-cmd");
    let mut since: HashMap<i32, u64> = HashMap::new();
    let mut running: HashMap<i32, bool> = HashMap::new();
    let mut waits = Vec::new();
    for line in text.lines().filter(|line| line.contains("sched_")) {
        let (_, after) = line.split_once(']').expect("a CPU");
        let (time, rest) = after.trim_start().split_once(':').expect("a time");
        let time: u64 = time.parse().expect("a number");
        let value = |key: &str| -> i64 {
            let at = rest.find(&format!(" {key}=")).expect(key) + key.len() + 2;
            let word = rest[at..].split_whitespace().next().expect("a value");
            match word.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16).expect("a number"),
                None => word.parse().expect("a number"),
            }
        };
        let tid = |key: &str| i32::try_from(value(key)).expect("a thread");
        if rest.contains("sched_switch:") {
            let (prev, next) = (tid("prev_pid"), tid("next_pid"));
            running.insert(prev, false);
            running.insert(next, true);
            if value("prev_state") & 0xFF == 0 {
                since.insert(prev, time);
            }
            if let Some(begin) = since.remove(&next).filter(|_| next != 0) {
                waits.push((next, begin, time));
            }
        } else if rest.contains("sched_waking:") || rest.contains("sched_wakeup_new:") {
            let pid = tid("pid");
            if running.get(&pid) != Some(&true) {
                since.entry(pid).or_insert(time);
            }
        }
    }
    waits
}

#[test]
fn waits_of_a_real_trace_are_those_of_another_reader() {
    for packed in
        [&include_bytes!("data/linux-6.12.dat.xz")[..], include_bytes!("data/linux-6.1.dat.xz")]
    {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), unpack(packed)).expect("written");
        let trace = Trace::open(file.path()).expect("readable");
        let found = all(&trace);
        let mut ours: Vec<_> = found
            .worst
            .iter()
            .filter(|wait| wait.ended)
            .map(|wait| (wait.tid, wait.begin, wait.end))
            .collect();
        let mut theirs = oracle(file.path());
        ours.sort_unstable();
        theirs.sort_unstable();
        assert!(ours.len() > 300, "{}", ours.len());
        let missing: Vec<_> = theirs.iter().filter(|wait| !ours.contains(wait)).collect();
        let more: Vec<_> = ours.iter().filter(|wait| !theirs.contains(wait)).collect();
        assert!(missing.is_empty() && more.is_empty(), "missing {missing:?}, more {more:?}");
        // And each is accounted for to the tick.
        let gaps: Vec<_> = found.worst.iter().map(Wait::gap).collect();
        for explanation in explain(&trace, &gaps, &Context::default()).expect("readable") {
            let sum: u64 = explanation.parts.iter().map(|part| part.ticks).sum();
            assert_eq!(sum, explanation.gap.end - explanation.gap.begin);
            assert_eq!(explanation.unknown_ticks(), 0, "{explanation:#?}");
        }
    }
}
