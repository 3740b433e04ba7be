// SPDX-License-Identifier: Apache-2.0
//! Whoever is woken and does not run waits, too: beside a real-time thread that takes its CPU.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use workload::kernel::affinity;

use crate::calls::{finish, has_begun, result, schedvmm, until};
use crate::place::Place;

pub fn trials(place: &Place) -> Vec<Trial> {
    let trial = |name, test: fn() -> Result<(), Failed>| {
        Trial::test(name, test).with_ignored_flag(!place.root)
    };
    vec![
        trial("a_late_wake_up_is_over_the_threshold", a_late_wake_up_is_over_the_threshold),
        trial("a_wake_up_due_at_the_end_counts", a_wake_up_due_at_the_end_counts),
    ]
}

/// The CPU of the load and of the hog; another one is left for the rest.
fn cpu() -> u32 {
    affinity::of_this_thread().expect("affinity").iter().last().expect("a CPU")
}

/// One thread that works for a millisecond every 40, as most do that wait for requests.
fn words(cpu: &str, duration: &'static str, threshold: &'static str) -> Vec<String> {
    let words = ["host", "--groups", "1", "--threads", "1", "--busy", "1ms", "--sleep"];
    let more = ["fixed:40ms", "--noise", "off", "--output", "out", "--load-cpus", cpu];
    let count = ["--on-contaminated", "report"];
    let last = [&count[..], &["--duration", duration, "--threshold", threshold]].concat();
    words.iter().chain(&more).chain(&last).map(|word| (*word).to_owned()).collect()
}

/// Takes this CPU for itself as long as `wanted` says.
fn hog(cpu: u32, mut wanted: impl FnMut() -> bool) {
    affinity::confine_this_thread(&[cpu].into_iter().collect()).expect("confined");
    let parameters = libc::sched_param { sched_priority: 60 };
    // SAFETY: the pointer is to a local that lives until the call returns.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    while wanted() {}
}

fn spin(time: Duration) -> impl FnMut() -> bool {
    let end = Instant::now() + time;
    move || Instant::now() < end
}

fn run(dir: &Path, words: &[String], beside: impl FnOnce() + Send) -> (Option<i32>, Value) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let child = schedvmm(dir, &words).spawn().expect("it starts");
    let output = thread::scope(|scope| {
        let hog = scope.spawn(beside);
        let output = finish(child);
        hog.join().expect("hogs");
        output
    });
    println!("{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), result(dir, "out"))
}

fn ms(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number")) / 1e6
}

/// A hog that takes 300 ms of each second: the load does not run then, and each of its wake-ups
/// comes as late as that.
fn a_late_wake_up_is_over_the_threshold() -> Result<(), Failed> {
    let (dir, cpu, over) = (tempfile::tempdir()?, cpu(), AtomicBool::new(false));
    let beside = || {
        hog(cpu, || {
            let mut spinning = spin(Duration::from_millis(300));
            while spinning() {}
            let end = Instant::now() + Duration::from_millis(700);
            while Instant::now() < end && !over.load(Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
            !over.load(Relaxed)
        });
    };
    let words = words(&cpu.to_string(), "8s", "100ms");
    let child_words = words.clone();
    let (status, found) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            until("verdict", || {
                let text = std::fs::read_to_string(dir.path().join("out/result.json"));
                text.is_ok_and(|text| text.contains("\"over-threshold\""))
            });
            over.store(true, Relaxed);
        });
        let found = run(dir.path(), &child_words, beside);
        watch.join().expect("watches");
        found
    });
    assert_eq!((status, &found["verdict"]), (Some(1), &"over-threshold".into()));
    let hit = &found["threshold_hit"];
    assert_eq!((&hit["kind"], &hit["unfinished"]), (&"wake-up".into(), &false.into()), "{hit}");
    // It may be woken in the middle of the hog's turn, or begin there.
    let late_ms = ms(&hit["length_ns"]);
    assert!(late_ms > 100.0 && late_ms < 310.0, "{hit}");
    // And it is in every figure.
    let statistics = &found["statistics"];
    assert_eq!(found["longest_gap_ns"], hit["length_ns"]);
    let kinds = statistics["kinds"].as_array().ok_or("kinds")?;
    let waking = kinds.iter().find(|kind| kind["kind"] == "wake-up").ok_or("no wake-up")?;
    assert!(ms(&waking["gap_ns"]) >= late_ms, "{waking}");
    assert!(statistics["starvation"]["count"].as_u64() >= Some(1), "{statistics}");
    Ok(())
}

/// The hog goes on beyond the end of the load: nobody ever saw the wake-up come.
fn a_wake_up_due_at_the_end_counts() -> Result<(), Failed> {
    let (dir, cpu) = (tempfile::tempdir()?, cpu());
    let path = dir.path().to_owned();
    let beside = move || {
        until("result", || has_begun(&path));
        thread::sleep(Duration::from_millis(500));
        // Less than what real-time throttling leaves it.
        hog(cpu, spin(Duration::from_millis(900)));
    };
    let (status, found) = run(dir.path(), &words(&cpu.to_string(), "1200ms", "200ms"), beside);
    assert_eq!((status, &found["verdict"]), (Some(1), &"over-threshold".into()), "{found}");
    let gap = &found["longest_gap"];
    assert_eq!((&gap["kind"], &gap["unfinished"]), (&"wake-up".into(), &true.into()), "{gap}");
    assert!(found["threshold_hit"].is_null());
    let end_ms = ms(&gap["begin_ns"]) + ms(&gap["length_ns"]);
    assert!((end_ms - 1200.0).abs() < 5.0, "it ends at {end_ms} ms: {gap}");
    assert!(found["statistics"]["gap_share"].as_f64() > Some(0.2), "{}", found["statistics"]);
    let csv = std::fs::read_to_string(dir.path().join("out/gaps.csv"))?;
    assert!(csv.lines().any(|line| line.ends_with(",wake-up,1,0")), "{csv}");
    Ok(())
}
