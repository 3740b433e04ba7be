// SPDX-License-Identifier: Apache-2.0
//! `schedvmm compare` and `schedvmm history` of stored trials: every answer with its status, what is printed, and what is
//! refused. The trials are made up, of a result that a run has left.

#[path = "../calls/mod.rs"]
mod calls;
mod folders;
mod history;

use std::fs;
use std::path::Path;
use std::process::Output;

use results::comparison::Comparison;
use results::model::Answer;
use results::set_file::SetFile as _;
use results::trials::{State, Trials};
use tempfile::TempDir;

use self::calls::call;
use self::folders::Side;

const MS: u64 = 1_000_000;

/// Two sides in a folder, and what comparing them with these options prints.
struct Case {
    dir: TempDir,
}

impl Case {
    fn new(one: &Side, other: &Side) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        one.write(&dir.path().join("a"));
        other.write(&dir.path().join("b"));
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn compare(&self, options: &[&str]) -> Output {
        call(self.dir.path(), &[&["compare", "a", "b"], options].concat())
    }

    /// What makes it a request that cannot be met.
    #[track_caller]
    fn refused(&self, told: &[&str]) {
        let output = self.compare(&[]);
        let text = text(&output.stderr);
        assert_eq!(output.status.code(), Some(200), "{text}");
        assert!(told.iter().all(|told| text.contains(told)), "{told:?}: {text}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("a file of ours");
    assert!(text.contains(from), "{} has no {from}", path.display());
    fs::write(path, text.replacen(from, to, 1)).expect("written");
}

#[test]
fn each_answer_has_its_status_and_its_words() {
    let base = Side::new(20, 10 * MS);
    for (other, status, told) in [
        (Side::new(20, 15 * MS), 1, "answer   b is worse than a: wait-p99 is 1."),
        (Side::new(20, 7 * MS), 0, "answer   b is better than a: wait-p99 is 0."),
        (Side::new(20, 10 * MS).seed(5), 0, "answer   b and a are the same: wait-p99 is "),
        (Side::new(9, 11 * MS).wild(), 125, "answer   b against a is undecided: wait-p99 is "),
    ] {
        let case = Case::new(&base, &other);
        let output = case.compare(&[]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{shown}{}", text(&output.stderr));
        assert!(shown.contains(told), "{told}: {shown}");
        assert!(shown.contains("metric   wait-p99: time-weighted 99th percentile"), "{shown}");
        // The same trials, the same answer to the last byte.
        assert_eq!(case.compare(&[]).stdout, output.stdout);
    }
}

#[test]
fn programs_and_commit_messages_have_all_of_it() {
    let case = Case::new(&Side::new(20, 10 * MS), &Side::new(20, 15 * MS));
    let output = case.compare(&["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Comparison = serde_json::from_slice(&output.stdout).expect("a comparison");
    let versus = &found.others[0];
    let finding = versus.finding.expect("decided");
    assert_eq!((found.base.trials, versus.pairs, finding.look.pairs), (20, 20, 7));
    assert!((1.4..1.6).contains(&finding.ratio), "{finding:?}");
    assert!(versus.secondary.iter().any(|it| it.metric.name() == "longest"));
    let markdown = text(&case.compare(&["--markdown"]).stdout);
    let kernel = &found.base.kernel;
    for told in [
        "| | kernel | wait-p99 median (95 %) | ratio |",
        "In 7 pairs of runs the time-weighted 99th percentile of waits",
        "98.4 % confidence interval",
        "exact Wilcoxon signed-rank p = 0.016 at a sequential level of 0.0157: worse",
        "host: ",
        kernel,
    ] {
        assert!(markdown.contains(told), "{told}: {markdown}");
    }
}

#[test]
fn another_figure_and_another_smallest_change() {
    let case = Case::new(&Side::new(20, 10 * MS), &Side::new(20, 15 * MS));
    let output = case.compare(&["--metric", "longest", "--min-effect", "80%"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("b and a are the same: longest is 1."), "{shown}");
    let output = case.compare(&["--metric", "p99"]);
    assert_eq!(output.status.code(), Some(200));
    assert!(text(&output.stderr).contains("wait-p99"), "{output:?}");
}

#[test]
fn several_are_each_compared_with_the_first() {
    let case = Case::new(&Side::new(10, 10 * MS), &Side::new(10, 5 * MS));
    Side::new(10, 20 * MS).write(&case.path("c"));
    let output = call(case.dir.path(), &["compare", "a", "b", "c"]);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("b is better than a") && shown.contains("c is worse than a"), "{shown}");
}

#[test]
fn what_did_not_take_turns_is_noted() {
    let case = Case::new(&Side::new(7, 10 * MS), &Side::new(7, 20 * MS).later());
    let shown = text(&case.compare(&[]).stdout);
    assert!(shown.contains("did not take turns"), "{shown}");
    let case = Case::new(&Side::new(7, 10 * MS), &Side::new(7, 20 * MS).seed(3));
    let shown = text(&case.compare(&[]).stdout);
    assert!(shown.contains("7 pairs of a and b had different seeds"), "{shown}");
    assert!(!shown.contains("did not take turns"), "{shown}");
}

#[test]
fn what_is_not_alike_is_refused_with_the_list() {
    let mut other = Side::new(10, 20 * MS);
    other.change = |result| {
        result.job.load.duration *= 2;
        result.host.governor = Some("powersave".into());
    };
    let case = Case::new(&Side::new(10, 10 * MS), &other);
    case.refused(&[
        "a and b were not measured alike",
        "job.load.duration_ns (",
        "host.governor (",
        "--allow",
    ]);
    let allowed = case.compare(&["--allow", "job.load.duration_ns", "--allow", "host"]);
    assert_eq!(allowed.status.code(), Some(1), "{}", text(&allowed.stderr));
    // What belongs to each trial alone is no difference.
    let mut other = Side::new(10, 20 * MS);
    other.change = |result| {
        result.host.load_average = Some("9.99".into());
        result.job.host_tsc_khz = Some(1);
        result.kernel.cmdline_given += " reserve_mem=1K:4096:x trace_instance=x";
    };
    assert_eq!(Case::new(&Side::new(10, 10 * MS), &other).compare(&[]).status.code(), Some(1));
}

#[test]
fn what_cannot_be_compared_is_named() {
    let (seven, six) = (Side::new(7, 10 * MS), Side::new(6, 10 * MS));
    Case::new(&seven, &six).refused(&["a and b have 6 pairs of trials, and 7 are needed"]);

    let case = Case::new(&seven, &seven);
    fs::remove_file(case.path("b").join(Trials::NAME)).expect("removed");
    case.refused(&["b has no trials.json"]);

    let case = Case::new(&seven, &seven);
    fs::remove_dir_all(case.path("b/trial-003")).expect("removed");
    case.refused(&["cannot read", "b/trial-003"]);

    let case = Case::new(&seven, &seven);
    replace(&case.path("b/trial-003/result.json"), "schedvmm-result/4", "schedvmm-result/9");
    case.refused(&["b/trial-003/result.json", "schedvmm-result/9"]);

    let case = Case::new(&seven, &seven);
    replace(&case.path("b").join(Trials::NAME), "schedvmm-trials/1", "schedvmm-trials/9");
    case.refused(&["trials.json is of schema `schedvmm-trials/9`"]);

    let case = Case::new(&seven, &seven);
    fs::write(case.path("b").join(Trials::NAME), "{").expect("written");
    case.refused(&["trials.json is no trials.json of schedvmm"]);

    let mut killed = Side::new(7, 10 * MS);
    killed.change = |result| result.exit_status = None;
    Case::new(&seven, &killed).refused(&["b/trial-001 cannot be compared: it was killed"]);

    let mut hit = Side::new(7, 10 * MS);
    hit.change = |result| result.threshold_hit = result.longest_gap;
    Case::new(&seven, &hit).refused(&["b/trial-001", "ended at a gap over the threshold", "off"]);

    let mut mixed = Side::new(7, 10 * MS);
    mixed.change = |result| result.kernel.bytes = result.job.load.seed;
    Case::new(&seven, &mixed).refused(&["b/trial-001 and b/trial-002 are of different kernels"]);

    let mut none = Side::new(7, 10 * MS);
    none.state = State::Contaminated;
    Case::new(&seven, &none).refused(&["b has no trial that counts"]);

    let output = call(Case::new(&seven, &seven).dir.path(), &["compare", "a"]);
    assert_eq!(output.status.code(), Some(200), "{output:?}");
}

#[test]
fn what_trials_json_says_of_a_run_is_not_believed() {
    let seven = Side::new(7, 10 * MS);
    let mut lies = seven.clone();
    lies.change = |result| {
        (result.verdict, result.exit_status) = (Answer::Untestable, Some(125));
        result.reason = "the kernel panicked".into();
    };
    let no = "b/trial-001 cannot be compared: it is no measurement: the kernel panicked";
    Case::new(&seven, &lies).refused(&[no]);

    let mut another = seven.clone();
    another.change = |result| result.job.load.seed = 5;
    Case::new(&seven, &another).refused(&["b/trial-001", "it has seed 5, and by trials.json "]);

    // What is left are the runs without such gaps.
    let case = Case::new(&seven, &Side::new(9, 10 * MS));
    let path = case.path("b").join(Trials::NAME);
    replace(&path, "\"state\": \"measured\"", "\"state\": \"contaminated\"");
    case.refused(&["the trials in b cannot be compared: 1 of them were done again", "off"]);

    let case = Case::new(&seven, &seven);
    let output = call(case.dir.path(), &["compare", "a", "./b/../a"]);
    assert_eq!(output.status.code(), Some(200), "{output:?}");
    assert!(text(&output.stderr).contains("./b/../a is named twice"), "{output:?}");
}

#[test]
fn what_is_there_is_listed_and_shown_again() {
    let case = Case::new(&Side::new(8, 10 * MS), &Side::new(3, 10 * MS));
    let dir = case.dir.path();
    fs::write(dir.join("a note"), "").expect("written");
    fs::create_dir(dir.join("broken")).expect("made");
    fs::write(dir.join("broken/result.json"), "{").expect("written");
    let listed = text(&call(dir, &["list", "."]).stdout);
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(listed.contains("./a  8 of 8 trials of bzImage: 0 failed"), "{listed}");
    assert!(listed.contains("./broken  ") && listed.contains("no result.json"), "{listed}");
    let one = text(&call(dir, &["list", "a"]).stdout);
    assert!(one.contains("a/trial-001  run of ") && one.contains(": measured, longest "), "{one}");
    let shown = text(&call(dir, &["show", "a"]).stdout);
    assert!(shown.contains("wait-p99") && shown.contains("8 of 8 measured"), "{shown}");
    assert!(shown.contains("ended     all have been done"), "{shown}");
    let few = text(&call(dir, &["show", "b"]).stdout);
    assert!(few.contains("too few trials (6 needed)"), "{few}");
    let shown = text(&call(dir, &["show", "a/trial-001"]).stdout);
    assert!(shown.contains("verdict  MEASURED") && shown.contains("a/trial-001"), "{shown}");
}

#[test]
fn trials_go_into_no_folder_of_something_else() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::create_dir(dir.path().join("r")).expect("made");
    fs::write(dir.path().join("r/notes"), "").expect("written");
    let words = ["trials", "3", "--kernel", "missing", "--output", "r"];
    let output = call(dir.path(), &words);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(200), "{told}");
    assert!(told.contains("r is not empty"), "{told}");
    fs::write(dir.path().join("r").join(Trials::NAME), "{}").expect("written");
    let told = text(&call(dir.path(), &words).stderr);
    assert!(told.contains("r/trials.json is no trials.json of schedvmm: missing field"), "{told}");
}
