// SPDX-License-Identifier: Apache-2.0
//! Whatever a guest says, and whatever stands in a result's files: nothing panics, and nothing
//! that is printed commands a terminal. Numbers and texts are changed by seeds; a failure prints
//! its seed.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::frame::{encode_gaps, encode_message};
use protocol::index::Kind;
use protocol::job::{CoschedRequest, Job};
use protocol::message::Message;
use protocol::vm::VmStatus;
use results::folder::Folder;
use results::model::{RunResult, Stage};
use serde_json::{Value, json};

use crate::analysis::parted::{after_hit_ns, clock_of};
use crate::analysis::threads;
use crate::cli::{Cli, ShowVm, Verb};
use crate::compose::Account;
use crate::doubt::Terms;
use crate::host_steal::HostEvidence;
use crate::session::{Limits, Session};
use crate::show::{Show, Style};
use crate::status::{ExitStatus, Failure};
use crate::terminal;
use crate::testing::{Random, load};
use crate::verbs::{self, report};
use crate::verdict::{End, judge};

#[path = "../tests/traced/mod.rs"]
mod traced;

const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m\r\nverdict  PASS\u{202e}\u{200f}\u{e0041}\0\u{7f}<b>\"'";
/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    63,
    64,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) + 1,
    (1 << 63) - 1,
    u64::MAX - 1,
    u64::MAX,
];
const SEEDS: u64 = 400;

/// Counts the leaves of a value, and changes the one that is due.
fn change(value: &mut Value, due: &mut usize, random: &mut Random) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, due, random)),
        Value::Object(fields) => fields.values_mut().for_each(|item| change(item, due, random)),
        _ => {}
    }
    let here = *due == 0;
    *due = due.wrapping_sub(1);
    if !here {
        return;
    }
    match value {
        Value::Number(_) => *value = json!(EDGES[random.below(EDGES.len())]),
        Value::String(text) => *text = HOSTILE.into(),
        Value::Bool(is) => *is = !*is,
        Value::Null => *value = json!(EDGES[random.below(EDGES.len())]),
        Value::Array(items) => match (random.below(3), items.first().cloned()) {
            (0, _) | (_, None) => items.clear(),
            (_, Some(first)) => items.extend((0..5).map(|_| first.clone())),
        },
        Value::Object(_) => {}
    }
}

fn leaves(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(leaves).sum(),
        Value::Object(fields) => fields.values().map(leaves).sum(),
        _ => 0,
    }
}

/// A value with some of it changed.
fn mutated(value: &Value, random: &mut Random) -> Value {
    let mut value = value.clone();
    for _ in 0..random.below(4) {
        let mut due = random.below(leaves(&value));
        change(&mut value, &mut due, random);
    }
    value
}

/// What a guest says from its first word to its last, with something everywhere.
fn messages() -> Vec<Value> {
    let record = json!({
        "tsc_begin": 2000, "tsc_end": 500_000_000, "cpu_begin": 2, "cpu_end": 3,
        "class": "scheduled-out",
    });
    let gap = json!({ "thread": 1, "record": record });
    let classes = json!([{ "class": "host", "gaps": 2, "gap_ticks": 900 }]);
    let quantiles = json!({ "p50_ns": 1, "p90_ns": 2, "p99_ns": 3, "p999_ns": 4 });
    let thread = json!({
        "tid": 71, "gaps": 3, "gaps_unrecorded": 1, "gap_ticks": 700_000_000, "longest": record,
        "classes": classes, "gap_histogram_ns": [[1000, 2], [400_000_000, 1]], "iterations": 5,
        "busy_ticks": 2_000_000_000, "bursts": 2, "backwards": 0,
        "wakeup_histogram_ns": [[5000, 3]], "wakeup_longest_ns": 4900, "cpu_time_ns": 800_000_000,
        "run_ns": 800_000_001, "run_delay_ns": 9, "force_idle_ns": 7,
    });
    let meter = json!({
        "kind": "hwlat", "note": "for want of another", "mode": "per-cpu", "window_us": 1_000_000,
        "width_us": 500_000, "floor_us": 100,
    });
    let vm = json!({
        "type": "vm", "vm": 1, "phase": "ended", "pid": 70,
        "threads": [{ "tid": 71, "cookie": 8, "affinity": "2-3", "run_ns": 5, "wait_ns": 6 }],
        "transport": "mmio", "tsc_shared": true, "tsc_check": { "before": 1, "guest": 2, "after": 3 },
        "rss_kib": 40_000, "pss_kib": 39_000,
        "times": { "booting_ns": 1, "up_ns": 2, "ready_ns": 3, "confined_ns": 4,
            "first_record_ns": 5 },
        "meter": meter, "fault": "ended before its PID 1", "state": "rip 0",
    });
    vec![
        json!({
            "type": "hello", "release": "6.12.1", "version": "#1 SMP", "cmdline": "quiet",
            "cpus_online": "0-3", "siblings": ["0-1", "2-3"], "clocksource": "kvm-clock",
            "uptime_ns": 900_000_000,
        }),
        json!({ "type": "waiting", "for_what": "8 VMs" }),
        vm,
        json!({
            "type": "ready", "cosched": "prctl", "cosched_note": "none there", "cookies": [8, 9],
            "tunables": [{ "request": "slice=3ms", "file": "/x", "effective": "3", "note": "no" }],
            "cgroup": "v2", "tids": [71, 72, 73, 74], "affinity": ["2-3"],
            "trace_events": ["sched"], "trace_note": "in part", "trace_clock": "x86-tsc",
            "trace_ring": { "address": 4096, "bytes": 8192 }, "tsc_start": 1000,
            "tsc_khz": 2_000_000, "iteration_ticks": 30, "notes": ["memory is not locked"],
            "scheduler": { "family": "eevdf", "tick_ns": 4_000_000, "slice_ns": 3_000_000,
                "latency_ns": 9_000_000, "hrtick": false, "autogroup": true },
            "scheduler_files": { "/proc/x": "1" },
            "noise": { "duration_ns": 5, "floor_ns": 1, "longest_ns": 3, "gap_share": 0.5,
                "cpus": [{ "cpu": 2, "gaps": 1, "gap_ns": 3, "longest_ns": 3,
                    "quantiles": quantiles, "classes": classes }] },
            "meter": meter,
        }),
        json!({ "type": "tick", "second": 1, "online": 4, "longest": gap }),
        json!({ "type": "line", "text": "#1 inner/outer(us): 5/6 ts:1", "gap":
            { "gap": gap, "earlier_ticks": 5, "more": 6 } }),
        json!({ "type": "vm-line", "vm": 1, "line": { "text": "#2", "gap": null } }),
        json!({ "type": "threshold-hit", "tid": 72, "gap": gap }),
        json!({
            "type": "finished", "tsc_end": 2_000_001_000_u64,
            "tsc": { "khz": 2_000_000, "source": "kvm", "kvm_khz": 2_000_000, "cpuid_15_khz": 7,
                "cpuid_40000010_khz": 8, "slope_khz": 1_999_999.5, "disagreement_ppm": 0.25 },
            "threads": [thread, thread, thread, thread],
            "groups": [{ "force_idle_ns": 5, "throttles": 6, "throttled_ns": 7 },
                { "force_idle_ns": 5, "throttles": 6, "throttled_ns": 7 }],
            "meter": { "lines": 4, "unread_lines": 5, "lost_events": 6, "unmeasured_gaps": [1, 2] },
        }),
        json!({ "type": "trace", "begin": { "estimate_bytes": 5 } }),
        json!({ "type": "failed", "owner": "kernel", "text": "no SCHED_CORE" }),
        json!({ "type": "bye" }),
    ]
}

#[test]
fn the_samples_are_messages() {
    for message in messages() {
        let read: Result<Message, _> = serde_json::from_value(message.clone());
        let read = read.unwrap_or_else(|error| panic!("{error}: {message}"));
        assert!(encode_message(&read).is_ok());
    }
}

fn a_job(kind: Kind) -> Job {
    let mut load = load(2, 2, 2);
    (load.kind, load.records_per_thread) = (kind, 4);
    load.threshold = Some(Duration::from_millis(100));
    Job::new(load, CoschedRequest::Auto)
}

/// A guest that says this; what becomes of it in the end.
fn whole_run(random: &mut Random, (kind, style): (Kind, Style), folder: &Path) -> RunResult {
    let (job, now) = (a_job(kind), Instant::now());
    let vms = if kind == Kind::Vcpus { 2 } else { 0 };
    let limits = Limits {
        threads: 4,
        records_per_thread: 4,
        boot: Duration::from_secs(60),
        vms,
        allow_degraded: random.below(2) == 0,
    };
    let mut session = Session::new(limits, now);
    let show = Show::new(style, ShowVm::All);
    let mut end = End::Late(Stage::Boot);
    for message in messages() {
        let changed = mutated(&message, random);
        // What is of no use to the JSON of a message is refused there.
        let Ok(message) = serde_json::from_value::<Message>(changed) else { continue };
        let record = |random: &mut Random| gaps::record::GapRecord {
            tsc_begin: EDGES[random.below(EDGES.len())],
            tsc_end: EDGES[random.below(EDGES.len())],
            ..Default::default()
        };
        let thread = u32::try_from(random.below(5)).expect("small");
        let frames = [
            encode_message(&message).expect("it fits"),
            encode_gaps(thread, &[record(random)]).expect("it fits"),
        ];
        for frame in &frames[..1 + random.below(2)] {
            match session.take(frame, now) {
                Ok(notices) => {
                    for notice in notices {
                        show.notice(&notice, clock_of(&session, &job.load), job.load.duration);
                    }
                }
                Err(error) => end = End::Garbled(error.to_string()),
            }
        }
        let _ = judge(&session, &job, Terms::NONE, &End::UnderWay, "");
        let _ = threads::phases_ms(&session, 5, Instant::now());
    }
    HostEvidence::none(None).settle(&mut session);
    let verdict = judge(&session, &job, Terms::NONE, &end, HOSTILE);
    let mut result = Account::of_figures(&session, &job, &verdict).result();
    result.vms = threads::vms(&session, &result.groups, &result.threads, |_| HOSTILE.into());
    result.phases_ms.extend(session.vm_phases_ms());
    if let Some(setup) = &session.setup {
        result.notes.clone_from(&setup.notes);
    }
    let mut folder =
        Folder::create(Some(folder), "x").map_err(|error| error.to_string()).expect("new");
    folder.add_gaps(&session.gaps, clock_of(&session, &job.load)).expect("written");
    let later = after_hit_ns(&session, clock_of(&session, &job.load));
    folder.write_histograms(&result.threads, &later).expect("written");
    folder.write_result(&result).expect("written");
    show.notes(&result.notes);
    show.end(&result, folder.path());
    result
}

/// Insists that nothing printed does anything but to be read.
fn assert_plain(printed: &str, what: &str) {
    assert_eq!(terminal::plain(printed), printed, "{what}");
    assert!(!printed.contains('\r'), "{what}");
}

#[test]
fn no_guest_panics_us_or_commands_the_terminal() {
    let dir = tempfile::tempdir().expect("tempdir");
    let styles = [Style::Screen, Style::Json, Style::Compat];
    for seed in 0..SEEDS {
        // Shown only if the test fails.
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let kind = [Kind::Threads, Kind::Vcpus][random.below(2)];
        let style = styles[random.below(styles.len())];
        let folder = dir.path().join(seed.to_string());
        let (_, printed) = terminal::kept(|| whole_run(&mut random, (kind, style), &folder));
        assert_plain(&printed, &format!("seed {seed}"));
        let text = fs::read_to_string(folder.join("result.json")).expect("written");
        assert_plain(&text, &format!("result.json of seed {seed}"));
        serde_json::from_str::<Value>(&text).expect("JSON");
        fs::remove_dir_all(&folder).expect("removed");
    }
}

#[test]
fn what_a_guest_says_of_itself_is_shown_and_does_nothing() {
    let (job, now) = (a_job(Kind::Threads), Instant::now());
    let limits = Limits {
        threads: 4,
        records_per_thread: 4,
        boot: Duration::from_secs(60),
        vms: 1,
        allow_degraded: false,
    };
    let mut session = Session::new(limits, now);
    let failed = VmStatus { vm: 1, fault: Some(HOSTILE.into()), ..VmStatus::default() };
    let (_, printed) = terminal::kept(|| {
        let show = Show::new(Style::Screen, ShowVm::All);
        for text in [
            json!({ "type": "waiting", "for_what": HOSTILE }),
            json!({ "type": "line", "text": HOSTILE }),
            json!({ "type": "failed", "owner": "kernel", "text": HOSTILE }),
        ] {
            let message = serde_json::from_value(text).expect("a message");
            if let Some(notice) = session.message(message, now) {
                show.notice(&notice, clock_of(&session, &job.load), job.load.duration);
            }
        }
        session.message(Message::Vm(Box::new(failed)), now);
        let verdict = judge(&session, &job, Terms::NONE, &End::Finished, "");
        let mut result = Account::of_figures(&session, &job, &verdict).result();
        result.machine.summary = HOSTILE.into();
        show.end(&result, Path::new(HOSTILE));
    });
    assert_plain(&printed, "the screen");
    // Nor does it put in a line of its own.
    assert_eq!(printed.lines().filter(|line| line.starts_with("verdict ")).count(), 1, "{printed}");
    let (_, remark) = terminal::kept(|| Show::new(Style::Screen, ShowVm::All).remark(HOSTILE));
    assert_plain(&remark, "a remark");
    // Shown it is: nothing is hidden from who reads.
    assert!(printed.matches(r"\x1b[2J").count() >= 5, "{printed}");
}

/// Results of runs that were made up, without a trace.
fn results() -> Vec<Value> {
    let dir = tempfile::tempdir().expect("tempdir");
    let result = |(seed, kind): (u64, Kind)| {
        let folder = dir.path().join(seed.to_string());
        let mut random = Random::new(u64::MAX - seed);
        let _ = terminal::kept(|| whole_run(&mut random, (kind, Style::Json), &folder));
        let text = fs::read_to_string(folder.join("result.json")).expect("written");
        serde_json::from_str(&text).expect("JSON")
    };
    [(1, Kind::Threads), (2, Kind::Vcpus)].map(result).into()
}

/// A verb that reads a result, as it is called.
fn call(verb: &str, folder: &Path, more: &[&str]) -> Result<ExitStatus, Failure> {
    let path = folder.to_str().expect("UTF-8");
    let words = ["schedvmm", verb, path];
    let words = words.iter().chain(more);
    match Cli::try_parse_from(words).expect("options").verb {
        Some(Verb::Explain(args)) => verbs::explain::run(&args),
        Some(Verb::Report(args)) => report::run(&args),
        verb => panic!("{verb:?}"),
    }
}

/// Changes a result in a folder, and has it reported and explained. Whether there is a report.
fn read_changed(result: &Value, random: &mut Random, folder: &Path, what: &str) -> bool {
    let changed = mutated(result, random);
    fs::write(folder.join("result.json"), changed.to_string()).expect("written");
    let (ended, printed) = terminal::kept(|| {
        let words = [&[][..], &["--longest"], &["--run"], &["--text"], &["--gap", "1"]];
        if let Err(failure) = call("explain", folder, words[random.below(words.len())]) {
            assert_eq!(failure.status(), ExitStatus::Usage, "{failure}");
        }
        call("report", folder, &[])
    });
    assert_plain(&printed, what);
    match ended {
        Ok(_) => {
            let page = fs::read_to_string(folder.join("report.html")).expect("written");
            assert_plain(&page, &format!("the page of {what}"));
            true
        }
        Err(failure) => {
            assert_eq!(failure.status(), ExitStatus::Usage, "{failure}");
            false
        }
    }
}

#[test]
fn no_result_file_panics_us_or_commands_its_reader() {
    let dir = tempfile::tempdir().expect("tempdir");
    let all = results();
    let heading = "group,thread,begin_ns,length_ns,tsc_begin,tsc_end,cpu_begin,cpu_end,class";
    let mut reports = 0;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let numbers: Vec<_> =
            (0..8).map(|_| EDGES[random.below(EDGES.len())].to_string()).collect();
        let lines = format!("{heading}\n1,1,{},host\n{HOSTILE}\n", numbers[2..].join(","));
        fs::write(dir.path().join("gaps.csv"), lines).expect("written");
        let result = &all[random.below(all.len())];
        let what = format!("seed {seed}");
        reports += u64::from(read_changed(result, &mut random, dir.path(), &what));
    }
    assert!((SEEDS / 4..SEEDS).contains(&reports), "{reports} of {SEEDS}");
}

/// The same where there is a trace to be read with what the result says.
#[test]
fn no_result_panics_us_with_its_trace() {
    let dir = traced::folder();
    let text = fs::read(dir.path().join("result.json")).expect("written");
    let result: Value = serde_json::from_slice(&text).expect("JSON");
    for seed in 0..SEEDS / 8 {
        println!("seed {seed}");
        read_changed(&result, &mut Random::new(seed), dir.path(), &format!("seed {seed}"));
    }
}
