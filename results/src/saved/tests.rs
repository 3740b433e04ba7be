// SPDX-License-Identifier: Apache-2.0

use std::fs;

use protocol::job::{TraceDump, TraceSpec};
use serde_json::json;

use super::*;
use crate::testing;

/// A result in a folder, and the folder.
fn saved(result: RunResult) -> (Saved, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("tempdir");
    let (folder, path) = (dir.path().to_owned(), dir.path().join(RESULT));
    (Saved { result, folder, path, older: None }, dir)
}

/// Whether this text is a result.
fn read(text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("tempdir");
    fs::write(folder.path().join(RESULT), text).expect("written");
    Saved::open(folder.path()).map(drop).map_err(|error| error.to_string())
}

/// One without a trace, that has come to its end.
fn traceless() -> RunResult {
    let mut result = testing::result("user");
    (result.trace.file, result.trace.note) = (None, None);
    (result.job.trace, result.threshold_hit) = (None, None);
    result.exit_status = Some(0);
    result
}

fn spec(dump: TraceDump) -> Option<TraceSpec> {
    let events = vec!["sched".into()];
    Some(TraceSpec { events, buffer_kib: 1, dump, required: false, id: None })
}

/// What a result without a trace says.
#[derive(Clone, Copy)]
struct Told {
    ended: bool,
    hit: bool,
    wanted: bool,
    /// True if the load began.
    began: bool,
    /// True if events were traced.
    traced: bool,
    note: Option<&'static str>,
}

impl Told {
    fn why_no_trace(self) -> String {
        let mut result = traceless();
        result.exit_status = self.ended.then_some(0);
        result.threshold_hit = result.longest_gap.filter(|_| self.hit);
        result.job.trace = spec(TraceDump::Hit).filter(|_| self.wanted);
        result.setup = result.setup.filter(|_| self.began);
        if let Some(setup) = &mut result.setup {
            setup.trace_events.retain(|_| self.traced);
        }
        result.trace.note = self.note.map(str::to_owned);
        let (saved, _dir) = saved(result);
        saved.trace_path().expect_err("none").to_string()
    }
}

/// What `explain` says of a result without a trace is what kept it from having one.
#[test]
fn the_reason_for_no_trace_is_the_one_that_applies() {
    let none =
        Told { ended: true, hit: false, wanted: false, began: true, traced: false, note: None };
    let wanted = Told { wanted: true, ..none };
    let traced = Told { traced: true, ..wanted };
    let mounted = Some("not mounted");
    for (told, says) in [
        (Told { hit: true, ..none }, "--trace off"),
        // There was none to begin with, and whether one was wanted does not matter.
        (Told { note: mounted, ..wanted }, "not mounted"),
        // Nothing had a threshold to pass.
        (Told { began: false, ..wanted }, "before its load began"),
        (Told { hit: true, note: mounted, ..wanted }, "not mounted"),
        (Told { ended: false, ..traced }, "was killed"),
        // A note about one of the events is no reason for a run without a hit.
        (Told { note: Some("no event x"), ..traced }, "no gap passed"),
        (traced, "--trace-dump always"),
        (Told { hit: true, note: Some("disk full"), ..traced }, "disk full"),
        (Told { hit: true, ..traced }, "does not say"),
    ] {
        let error = told.why_no_trace();
        assert!(error.starts_with("this result has no trace: "), "{error}");
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn gaps_that_ended_after_the_hit_do_not_count() {
    let gap = |tsc_end| LocatedGap { tsc_end, ..LocatedGap::default() };
    let mut result = traceless();
    assert!(result.counts(&gap(501)));
    result.threshold_hit = Some(gap(500));
    assert!(result.counts(&gap(500)) && !result.counts(&gap(501)));
    // Nor do those of the warm-up.
    result.job.load.warmup = std::time::Duration::from_millis(1);
    let from = result.window_tsc().start;
    assert_eq!(from, result.setup.as_ref().expect("it began").tsc_start + result.tsc_khz());
    result.threshold_hit = None;
    let begun = |tsc_begin| LocatedGap { tsc_begin, ..gap(u64::MAX) };
    assert!(result.counts(&begun(from)) && !result.counts(&begun(from - 1)));
}

#[test]
fn a_trace_is_found_beside_a_result_that_has_moved() {
    let mut result = traceless();
    result.trace.file = Some("results/then/trace.dat".into());
    let (saved, dir) = saved(result);
    let error = saved.trace_path().expect_err("not there").to_string();
    assert!(error.contains("is gone"), "{error}");
    let path = dir.path().join("trace.dat");
    fs::write(&path, "x").expect("written");
    assert_eq!(saved.trace_path().ok(), Some(path));
}

#[test]
fn a_run_that_was_killed_has_what_had_come_of_its_trace() {
    let mut result = traceless();
    (result.exit_status, result.job.trace) = (None, spec(TraceDump::Hit));
    let (mut saved, dir) = saved(result);
    let why = saved.trace_path().expect_err("none").to_string();
    assert!(why.contains("was killed"), "{why}");
    let raw = dir.path().join("trace.dat.raw");
    fs::write(&raw, "x").expect("written");
    assert_eq!(saved.trace_path().ok(), Some(raw));
    // Another's file is not taken for it.
    saved.result.exit_status = Some(1);
    assert!(saved.trace_path().is_err());
}

#[test]
fn a_trace_is_known_by_its_identity() {
    let path = Path::new("t/trace.dat");
    let [one, other] = [1, 2].map(TraceId::of);
    let check = |wanted, found| {
        let mut result = traceless();
        result.job.trace = spec(TraceDump::Hit).map(|spec| TraceSpec { id: wanted, ..spec });
        check_identity(&result, path, found).map_err(|error| error.to_string())
    };
    assert_eq!(check(one, one), Ok(None));
    let remark = check(None, None).expect("nobody can tell").expect("a remark");
    assert!(remark.contains("taken for granted"), "{remark}");
    for (wanted, found) in [(one, other), (one, None), (None, other)] {
        let error = check(wanted, found).expect_err("another's");
        let name = |id: Option<TraceId>| id.map_or_else(|| "none".into(), |id| id.to_string());
        let says = format!("its identity is {}, and the one of", name(found));
        assert!(error.contains(&says) && error.contains("t/trace.dat"), "{error}");
        assert!(error.contains(&format!("trace is {};", name(wanted))), "{error}");
    }
}

#[test]
fn what_a_run_has_left_is_not_written_over() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (folder, away) = (dir.path().join("r"), dir.path().join("elsewhere.dat"));
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("gaps.csv"), "").expect("written");
    fs::write(&away, "").expect("written");
    let mut result = traceless();
    result.trace.file = away.to_str().map(str::to_owned);
    let path = folder.join(RESULT);
    let saved = Saved { result, folder, path, older: None };
    let spare = |path: &str| saved.spare("--to", &dir.path().join(path));
    for own in ["r/gaps.csv", "r/../r/gaps.csv", "elsewhere.dat"] {
        let error = spare(own).expect_err("refused").to_string();
        assert!(error.contains("is a file of the result") && error.contains(own), "{error}");
    }
    for other in ["r/report.html", "gaps.csv", "r/trace.dat", "r"] {
        assert!(spare(other).is_ok(), "{other}");
    }
}

#[test]
fn what_has_no_end_is_not_read() {
    let error = Saved::open(Path::new("/dev/zero")).expect_err("no file").to_string();
    assert!(error.contains("cannot read /dev/zero: it is no regular file"), "{error}");
}

#[test]
fn what_is_no_result_is_refused() {
    let folder = tempfile::tempdir().expect("tempdir");
    let error = Saved::open(folder.path()).expect_err("nothing is there").to_string();
    assert!(error.contains(RESULT), "{error}");
    for (text, says) in [
        ("{", "no result.json"),
        ("{\"schema\":\"x/9\"}", "schema `x/9`"),
        ("{\"schema\":\"schedvmm-result/5\"}", "schema `schedvmm-result/5`"),
        ("[]", "schema ``"),
        ("7", "schema ``"),
        ("{\"schema\":\"schedvmm-result/4\"}", "missing field"),
    ] {
        let error = read(text).expect_err("refused");
        assert!(error.contains(says), "{error}");
    }
}

/// A key that is not there is no silent 0, and no silent "not known" either.
#[test]
fn a_result_without_one_of_its_keys_is_refused() {
    let whole = serde_json::to_value(testing::result("nested")).expect("JSON");
    assert!(read(&whole.to_string()).is_ok());
    for path in [
        "/longest_gap_ns",
        "/threads/1/gaps",
        "/threads/0/co_run",
        "/groups/0/cookie",
        "/kernel/clocksource",
        "/kernel/banner",
        "/machine/idle",
        "/machine/pin_note",
        "/machine/host_evidence/note",
        "/host/governor",
        "/vms/0/pss_kib",
        "/setup/trace_clock",
        "/job/load/threshold_ns",
    ] {
        let mut result = whole.clone();
        let (parent, key) = path.rsplit_once('/').expect("a path");
        let parent = result.pointer_mut(parent).and_then(Value::as_object_mut);
        assert!(parent.expect("an object").remove(key).is_some(), "{path} is not there");
        let error = read(&result.to_string()).expect_err(path);
        assert!(error.contains("missing field") && error.contains(key), "{path}: {error}");
    }
    // Whoever adds one breaks nobody.
    let mut more = whole;
    more["new"] = json!(1);
    assert!(read(&more.to_string()).is_ok());
}

#[test]
fn a_value_that_is_none_of_its_set_is_refused_by_name() {
    let whole = serde_json::to_value(testing::result("nested")).expect("JSON");
    for path in [
        "/target",
        "/verdict",
        "/kernel/entered",
        "/cosched/mechanism",
        "/setup/cgroup",
        "/machine/pv",
        "/machine/transport",
        "/vms/0/phase",
        "/vms/0/meter/kind",
        "/trace/via",
        "/statistics/source",
    ] {
        let mut result = whole.clone();
        *result.pointer_mut(path).expect(path) = json!("what-is-this");
        let error = read(&result.to_string()).expect_err(path);
        assert!(error.contains("what-is-this"), "{path}: {error}");
    }
}
