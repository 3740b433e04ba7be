// SPDX-License-Identifier: Apache-2.0
//! The kernel's own meters in place of the load: their lines as the kernel writes them, and
//! the same figures in the result.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::kernels;
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{Outcome, list, number, text};
use crate::user::milliseconds;

/// A machine of which everything is measured, for a short time.
const ALL: &str = "--cpus 2 --load-cpus 0,1 --trace off";
const SHORT: &str = "--threshold off --duration 3s";
/// Measures all the time, but for the millisecond that hwlat sleeps at least.
const NO_PAUSE: &str = "--meter-window 200ms --meter-width 200ms --meter-mode per-cpu";

/// How long the launcher is stopped, at least; both of the guest's CPUs are away meanwhile.
const STOPPED_MS: u64 = 700;

/// Meters on 6.12.
pub fn group() -> Group {
    let run = |name: &str, options: &str, check: fn(&Outcome)| {
        Case::run(name, &format!("{ALL} {options}"), check)
    };
    let lacking = |meter: &str| {
        format!("schedvmm --kernel /tmp/no_hwlat --output r {ALL} {SHORT} --meter {meter}")
    };
    let stalled = format!(
        "touch lines\n\
         ( until grep -q 'inner/outer' lines; do usleep 20000; done; launcher=$(pidof schedvmm)\n\
           kill -STOP $launcher; usleep {}; kill -CONT $launcher ) &\n\
         {} > lines; code=$?; cat lines; exit $code",
        STOPPED_MS * 1000,
        main_job(&format!("{ALL} --meter hwlat {NO_PAUSE} --duration 30s --threshold 400ms"))
    );
    let cases = vec![
        run("hwlat", &format!("{SHORT} --meter hwlat --meter-mode per-cpu"), |outcome| {
            let result = measured(outcome, "hwlat", "inner/outer(us):");
            assert_eq!(result["setup"]["meter"]["mode"], "per-cpu");
            assert_eq!(number(&result["setup"]["meter"], "width_us"), 500_000);
            // It sleeps for half of the time.
            for thread in list(&result, "threads") {
                let share = milliseconds(number(&thread["statistics"], "wanted_ns")) / 3000.0;
                assert!((0.1..0.9).contains(&share), "measured {share} of the time: {thread}");
            }
        }),
        run("osnoise", &format!("{SHORT} --meter osnoise --floor 1ms"), |outcome| {
            let result = measured(outcome, "osnoise", "sample_threshold:");
            let shortest = outcome.gaps().iter().map(|gap| gap.length_ns).min();
            assert!(shortest >= Some(1_000_000), "below the floor: {shortest:?}");
            assert_eq!(number(&result["setup"]["meter"], "floor_us"), 1000);
            // Gaps are a part of the time measured, whatever the time was spent on.
            for thread in list(&result, "threads") {
                let share = thread["statistics"]["gap_share"].as_f64();
                assert!(share.is_some_and(|share| share <= 1.0), "{thread}");
            }
        }),
        // The guest's own clock says when a gap was; the launcher's stop says how long.
        Case::new("stalled", stalled, |outcome| {
            outcome.assert_status(1);
            let result = outcome.assert_verdict("over-threshold");
            let hit = &result["threshold_hit"];
            let ms = milliseconds(number(hit, "length_ns"));
            println!("     stopped for {STOPPED_MS} ms, found a gap of {ms:.1} ms");
            assert!(ms >= 0.99 * milliseconds(STOPPED_MS * 1_000_000), "{hit}");
            assert_eq!(hit["class"], "host", "{hit}");
            lines(outcome, "inner/outer(us):");
        }),
        Case::new("hwlat_missing", lacking("hwlat"), |outcome| {
            outcome.assert_status(125);
            let result = outcome.assert_verdict("untestable");
            let reason = text(&result, "reason");
            assert!(reason.contains("no hwlat tracer"), "{reason}");
            assert!(reason.contains("CONFIG_HWLAT_TRACER=y"), "{reason}");
        }),
        Case::new("auto_without_hwlat", lacking("auto"), |outcome| {
            outcome.assert_status(0);
            let result = outcome.assert_verdict("measured");
            let meter = &result["setup"]["meter"];
            assert_eq!(meter["kind"], "rdtsc");
            assert!(text(meter, "note").contains("CONFIG_HWLAT_TRACER=y"), "{meter}");
            // A thread on each CPU, and not two that could share one.
            assert_eq!(result["setup"]["affinity"].to_string(), r#"["0","1"]"#);
            let threads = list(&result, "threads");
            assert_eq!(threads.len(), 2);
            assert!(threads.iter().all(|thread| number(thread, "iterations") > 0), "{threads:?}");
            assert!(outcome.stdout.contains("meter    rdtsc on CPUs 0,1"), "{}", outcome.words());
        }),
    ];
    Group::new("meter", TestKernel::V612, cases).prepared(prepare)
}

/// As the original has it, on the last kernels with CFS.
pub fn on_6_1() -> Case {
    let options = format!("{ALL} {SHORT} --meter auto --meter-window 500ms --meter-width 250ms");
    Case::run("hwlat_in_turn", &options, |outcome| {
        let result = measured(outcome, "hwlat", "inner/outer(us):");
        let meter = &result["setup"]["meter"];
        assert_eq!(meter["mode"], "round-robin");
        assert_eq!((number(meter, "window_us"), number(meter, "width_us")), (500_000, 250_000));
        assert!(meter["note"].is_null(), "{meter}");
    })
}

fn prepare(bzimage: &Path) -> Result<Preparation, String> {
    let path = kernels::vmlinux(bzimage)?;
    let vmlinux = kernels::read(&path)?;
    // A tracer of another name is one that is not there.
    let changes = kernels::without(&vmlinux, "hwlat");
    let script = kernels::patched("/vmlinux", "/tmp/no_hwlat", &changes);
    Ok(Preparation { files: vec![("/vmlinux".into(), path)], script, ..Preparation::default() })
}

/// A plain pass of this meter; every line is accounted for.
fn measured(outcome: &Outcome, kind: &str, mark: &str) -> Value {
    outcome.assert_status(0);
    let result = outcome.assert_verdict("measured");
    let setup = &result["setup"];
    assert_eq!(setup["meter"]["kind"], kind, "{setup}");
    assert_eq!(setup["affinity"].to_string(), r#"["0","1"]"#);
    assert_eq!(list(&result, "threads").len(), 2);
    let report = &result["meter"];
    for untold in ["lost_events", "unread_lines"] {
        assert_eq!(number(report, untold), 0, "{untold}: {report}{}", outcome.words());
    }
    let by_line = lines(outcome, mark);
    let gaps = outcome.gaps();
    println!(
        "     {} gaps, longest {:.1} ms, {report}",
        gaps.len(),
        milliseconds(number(&result, "longest_gap_ns"))
    );
    // What the lines say is what the records have: how long, on which CPU.
    let mut by_record = HashMap::new();
    for gap in &gaps {
        // Ticks and back may cost a nanosecond.
        let us = (gap.length_ns + 1) / 1000;
        *by_record.entry((gap.who, us)).or_insert(0) += 1;
    }
    assert_eq!(by_record, by_line);
    assert!(!gaps.is_empty(), "nothing measured{}", outcome.words());
    assert!(list(&result, "threads").iter().any(|thread| number(thread, "cpu_time_ns") > 0));
    result
}

/// The kernel's lines on the screen: how many tell of a gap of so many microseconds on this
/// CPU.
fn lines(outcome: &Outcome, mark: &str) -> HashMap<((u64, u64), u64), usize> {
    let mut found = HashMap::new();
    for line in outcome.stdout.lines().filter(|line| line.contains(mark)) {
        let word_after = |word: &str| {
            let mut words = line.split_whitespace().skip_while(|found| *found != word);
            words.nth(1).unwrap_or_else(|| panic!("no word after {word}: {line}"))
        };
        let us: u64 = if mark.starts_with("inner") {
            let both = word_after(mark).split('/').map(|us| us.parse::<u64>().expect("a number"));
            both.max().expect("two")
        } else {
            word_after("duration").parse::<u64>().expect("a number") / 1000
        };
        let cpu = line.split(['[', ']']).nth(1).and_then(|cpu| cpu.parse::<u64>().ok());
        // Each CPU from 0 on is a thread of the one group.
        *found.entry(((1, cpu.expect("a CPU") + 1), us)).or_insert(0) += 1;
    }
    found
}
