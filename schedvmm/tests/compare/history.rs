// SPDX-License-Identifier: Apache-2.0
//! `schedvmm history` of stored trials: where it finds a change, its status, and what it writes. The
//! trials are made up, of a result that a run has left.

use std::fs;
use std::process::Output;

use results::history::History;
use results::metric::Metric;
use tempfile::TempDir;

use crate::calls::call;
use crate::folders::Side;
use crate::{MS, text};

/// Kernels with these waits in milliseconds, three trials each, a minute of which are in each hour.
fn kernels(waits_ms: &[u64]) -> TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    for (number, wait_ms) in waits_ms.iter().enumerate() {
        Side::new(3, wait_ms * MS).write(&dir.path().join(format!("k/{number:02}")));
    }
    dir
}

fn history(dir: &TempDir, options: &[&str]) -> Output {
    call(dir.path(), &[&["history", "k"], options].concat())
}

fn found(output: &Output) -> History {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Ten kernels of about ten milliseconds, and so many of another length.
fn step(after_ms: u64) -> TempDir {
    kernels(&[vec![10; 10], vec![after_ms; 8]].concat())
}

#[test]
fn a_change_is_where_it_is_and_has_its_status() {
    for (after_ms, status, word) in
        [(10, 0, None), (15, 1, Some("worse x1.5")), (6, 0, Some("better x0.6"))]
    {
        let dir = step(after_ms);
        let output = history(&dir, &[]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{shown}");
        assert_eq!(shown.lines().filter(|line| line.contains(" ms  ")).count(), 18, "{shown}");
        let line =
            shown.lines().find(|line| line.starts_with("  11  ")).expect("the kernel after it");
        match word {
            Some(word) => assert!(line.contains(word), "{shown}"),
            None => assert!(shown.contains("changes   none of 10 % or more"), "{shown}"),
        }
        let found = found(&history(&dir, &["--json"]));
        assert_eq!(found.kernels.len(), 18);
        let at: Vec<_> = found.changes.iter().map(|change| change.at).collect();
        assert_eq!(at, if word.is_some() { vec![10] } else { vec![] });
    }
    // Less than what matters is no change.
    let output = history(&step(15), &["--min-effect", "60%"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn the_same_trials_give_the_same_bytes_and_the_table_has_every_figure() {
    let dir = step(15);
    for options in [&["--csv"][..], &["--json"], &[], &["--metric", "longest", "--csv"]] {
        assert_eq!(history(&dir, options).stdout, history(&dir, options).stdout);
    }
    let csv = text(&history(&dir, &["--csv"]).stdout);
    let mut lines = csv.lines();
    let heading: Vec<_> = lines.next().expect("a heading").split(',').collect();
    assert_eq!(heading[..5], ["time", "kernel", "folder", "trials", "wait_p99_ns"]);
    assert_eq!(heading.len(), 4 + Metric::ALL.len());
    assert_eq!(lines.clone().count(), 18);
    let other = text(&history(&dir, &["--metric", "longest", "--csv"]).stdout);
    assert_eq!(csv, other, "whatever is looked at");
    assert!(lines.all(|line| line.split(',').count() == heading.len()), "{csv}");
}

#[test]
fn the_picture_has_each_kernel_and_the_change() {
    let dir = step(15);
    let output = history(&dir, &["--picture", "p.svg"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let svg = fs::read_to_string(dir.path().join("p.svg")).expect("written");
    assert_eq!(svg.matches("<circle").count(), 18);
    assert_eq!(svg.matches("class=\"change\"").count(), 1);
    assert!(svg.contains("worse x1.5") && svg.ends_with("</svg>\n"), "{svg}");
    let output = history(&dir, &["--picture", "none/p.svg"]);
    assert_eq!(output.status.code(), Some(200), "{output:?}");
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_counts() {
    let dir = step(15);
    fs::write(dir.path().join("k/03/trials.json"), "{").expect("written");
    fs::create_dir(dir.path().join("k/notes")).expect("made");
    let output = history(&dir, &["--json"]);
    let found = found(&output);
    assert_eq!((found.kernels.len(), found.changes[0].at), (17, 9));
    assert_eq!(found.notes.len(), 1, "{:?}", found.notes);
    assert!(found.notes[0].contains("03 is left out: "), "{:?}", found.notes);
    // One that is named itself is to count.
    let output = call(dir.path(), &["history", "k/02", "k/03"]);
    assert_eq!(output.status.code(), Some(200), "{output:?}");
    let empty = tempfile::tempdir().expect("tempdir");
    fs::create_dir(empty.path().join("k")).expect("made");
    let output = history(&empty, &[]);
    assert_eq!(output.status.code(), Some(200));
    assert!(text(&output.stderr).contains("there are no trials in k; do some with"), "{output:?}");
    let output = call(empty.path(), &["history", "nowhere"]);
    assert_eq!(output.status.code(), Some(200), "{output:?}");
}

#[test]
fn what_was_not_measured_alike_is_refused_with_the_list() {
    let dir = step(15);
    let mut other = Side::new(3, 10 * MS);
    other.change = |result| result.job.load.duration *= 2;
    other.write(&dir.path().join("k/18"));
    let output = history(&dir, &[]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(200), "{told}");
    assert!(told.contains("were not measured alike: job.load.duration_ns ("), "{told}");
    let output = history(&dir, &["--allow", "job.load.duration_ns", "--json"]);
    assert_eq!(found(&output).kernels.len(), 19);
}
