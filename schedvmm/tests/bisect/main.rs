// SPDX-License-Identifier: Apache-2.0
//! `schedvmm bisect` as a user calls it, up to where a machine is needed: what is refused, what becomes
//! of builds, and that nothing of the user's work tree changes.

#[path = "../calls/mod.rs"]
mod calls;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use results::bisection::{BisectEnded, Bisection, BuildState};
use results::set_file::SetFile as _;
use tempfile::TempDir;

use self::calls::{call, finish, schedvmm, until};

/// A repository of six commits, of which the fourth forks off a branch.
struct Repository {
    dir: TempDir,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Repository {
    fn new() -> Self {
        let new = Self { dir: tempfile::tempdir().expect("tempdir") };
        fs::create_dir(new.path("tree")).expect("made");
        new.git(&["init", "--quiet", "--initial-branch=main"]);
        for number in 1..=6 {
            fs::write(new.path("tree/number"), number.to_string()).expect("written");
            new.git(&["add", "number"]);
            new.git(&["commit", "--quiet", "-m", &format!("number {number}")]);
            new.git(&["tag", &format!("v{number}")]);
        }
        new.git(&["branch", "other", "v4"]);
        new
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn git(&self, words: &[&str]) -> String {
        let mut git = Command::new("git");
        git.current_dir(self.path("tree")).args(words);
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "Somebody");
            git.env(format!("GIT_{who}_EMAIL"), "somebody@example.org");
        }
        let output = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("git");
        assert!(output.status.success(), "git {words:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// The whole of what a user sees of the work tree.
    fn state(&self) -> String {
        self.git(&["status", "--porcelain=v2", "--branch", "--ignored"])
    }

    fn bisect(&self, words: &[&str]) -> Output {
        call(&self.path("tree"), &[&["bisect"], words].concat())
    }

    /// The ends with this build, in a folder beside the tree.
    fn build(&self, command: &str) -> Output {
        self.bisect(&["--good", "v1", "--bad", "v6", "--output", "../out", "--build", command])
    }

    fn search(&self) -> Bisection {
        Bisection::open(&self.path("out")).expect("a search")
    }

    #[track_caller]
    fn ends_with(&self, output: &Output, status: i32, told: &[&str]) {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        for told in told {
            assert!(said.contains(told), "{told}: {said}");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let repository = Repository::new();
    let ends = ["--good", "v1", "--bad", "v6"];
    let with = |words: &[&str]| repository.bisect(&[&ends, words].concat());
    let out = repository.path("no");
    let out = out.to_str().expect("a path");
    let refused = [
        (repository.bisect(&["--good", "v1", "--bad", "v9"]), "`v9` is no commit of"),
        (repository.bisect(&["--good", "v1", "--bad", "-x"]), "unexpected argument '-x'"),
        (repository.bisect(&["--bad", "v6"]), "--good"),
        (with(&["--build", "true", "--tree", "/"]), "is in no work tree of git"),
        (with(&["--output", out]), ".config: No such file or directory"),
        (with(&["--config", "nothing"]), "cannot read nothing"),
        (with(&["--threshold", "off", "--build", "true"]), "without a threshold no run is a hit"),
        (with(&["--build", "true", "--", "--threshold", "1ms"]), "give it before `--`"),
        (with(&["--build", "true", "--", "--seed", "1"]), "--seed is of the search"),
        (with(&["--build", "true", "--", "--odd"]), "--odd"),
        (with(&["--metric", "longest"]), "--limit"),
        (with(&["--build", "true", "--metric", "longest", "--limit", "5"]), "--limit of longest"),
        (with(&["--build", "true", "--path", "nothing"]), "no commit that changes what --path"),
        (with(&["--runs-at-ends", "3"]), "3 is not in 10"),
        (with(&["--max-hours", "0"]), "more than 0"),
        (repository.bisect(&["--good", "v6", "--bad", "v6", "--build", "true"]), "no commit lies"),
    ];
    for (output, told) in &refused {
        repository.ends_with(output, 200, &[told]);
    }
    // Which commit they have in common is said.
    repository.git(&["switch", "--quiet", "other"]);
    fs::write(repository.path("tree/number"), "other").expect("written");
    repository.git(&["commit", "--quiet", "-a", "-m", "another"]);
    let base = repository.git(&["rev-parse", "v4"]);
    let output = repository.bisect(&["--good", "other", "--bad", "v6", "--build", "true"]);
    let told = ["is no ancestor of the bad one", "(number 4)", &format!("--good {base}")];
    repository.ends_with(&output, 200, &told);
    assert!(!repository.path("no").exists() && !repository.path("tree/results").exists());
}

#[test]
fn logs_of_git_give_the_ends_or_are_refused_by_line() {
    let repository = Repository::new();
    for (log, told) in [
        ("hello\n", "line 1 is no line of `git bisect log`: hello"),
        ("git bisect start\n", "has no good and bad commit yet"),
        ("git bisect start v6 v1\n", "line 1 names `v6`, which can be another commit by now"),
        ("git bisect start\ngit bisect bad v9\ngit bisect good v1\n", "`v9` is no commit"),
    ] {
        fs::write(repository.path("log"), log).expect("written");
        let output = repository.bisect(&["--from-log", "../log", "--build", "true"]);
        repository.ends_with(&output, 200, &[told]);
    }
    let output = repository.bisect(&["--from-log", "../nothing", "--build", "true"]);
    repository.ends_with(&output, 200, &["cannot read ../nothing"]);
    // Names are what they were then.
    repository.git(&["bisect", "start", "HEAD", "HEAD~5"]);
    repository.git(&["bisect", "good", "v2"]);
    repository.git(&["bisect", "skip", "v4"]);
    fs::write(repository.path("log"), repository.git(&["bisect", "log"])).expect("written");
    let words = ["--from-log", "../log", "--output", "../out", "--build", "exit 1"];
    let output = repository.bisect(&words);
    repository.ends_with(&output, 125, &["an end of the search cannot be tested"]);
    let (search, of) = (repository.search(), |tag: &str| repository.git(&["rev-parse", tag]));
    assert_eq!(search.question.good, [of("v2"), of("v1")]);
    assert_eq!((search.question.bad, search.question.skipped), (of("v6"), vec![of("v4")]));
    assert_eq!(search.commits, 4);
}

#[test]
fn a_build_that_fails_is_named_with_its_log_and_the_tree_stays_as_it_is() {
    let repository = Repository::new();
    fs::write(repository.path("tree/number"), "changed").expect("written");
    fs::write(repository.path("tree/.config"), "CONFIG_X=y\n").expect("written");
    let before = repository.state();
    let command = "cat number .config; echo more > number; exit 7";
    let output = repository.build(command);
    let told = ["an end of the search cannot be tested", "failed with status 7", "build.log"];
    repository.ends_with(&output, 125, &told);
    assert_eq!(repository.state(), before);
    let search = repository.search();
    assert_eq!(search.ended, Some(BisectEnded::EndUntestable));
    let [kernel] = search.kernels.as_slice() else { panic!("{search:?}") };
    assert_eq!(kernel.state, BuildState::Unbuildable);
    let log = kernel.why.rsplit_once("see ").expect("a log").1;
    assert_eq!(fs::read_to_string(log).expect("a log"), "1CONFIG_X=y\n", "{}", kernel.why);
    // What was tried is tried again, and the user's own state of the tree is no part of it.
    repository.ends_with(&repository.build(command), 125, &["status 7"]);
    assert_eq!(repository.search().kernels.len(), 2);
    let output = repository.build("true");
    repository.ends_with(&output, 200, &["asks something else: build ("]);
    // One that leaves no kernel, or what is none.
    fs::remove_dir_all(repository.path("out")).expect("removed");
    let output = repository.build("true");
    repository.ends_with(&output, 125, &["its build left no kernel"]);
    fs::remove_dir_all(repository.path("out")).expect("removed");
    let output = repository.build("echo hello > bzImage");
    repository.ends_with(&output, 125, &["its build left no kernel"]);
    assert_eq!(repository.state(), before);
}

/// Without a configuration a build makes its own, whatever an earlier one has left.
#[test]
fn a_build_that_configures_itself_begins_with_nothing() {
    let repository = Repository::new();
    let command = "ls -A; touch .config .config.old; exit 3";
    for _ in 0..2 {
        repository.ends_with(&repository.build(command), 125, &["failed with status 3"]);
        let search = repository.search();
        let kernel = search.kernels.last().expect("a kernel");
        let log = kernel.why.rsplit_once("see ").expect("a log").1;
        assert_eq!(fs::read_to_string(log).expect("a log"), ".git\nnumber\n");
    }
    // One that is there and cannot be read is not none.
    fs::create_dir(repository.path("tree/.config")).expect("made");
    repository.ends_with(&repository.build(command), 200, &["cannot read", ".config"]);
}

#[test]
fn a_later_call_may_raise_the_runs_at_the_ends() {
    let repository = Repository::new();
    for runs in ["10", "300"] {
        let ends = ["--good", "v1", "--bad", "v6", "--output", "../out", "--build", "exit 3"];
        let output = repository.bisect(&[&ends, &["--runs-at-ends", runs][..]].concat());
        repository.ends_with(&output, 125, &["an end of the search cannot be tested"]);
        assert_eq!(repository.search().question.max_end_runs.to_string(), runs);
    }
    let output = repository.bisect(&[
        "--good", "v1", "--good", "v2", "--bad", "v6", "--output", "../other", "--build", "exit 3",
    ]);
    let told = text(&output.stdout);
    assert!(told.contains("(good and not run, taken on trust: 1 more)"), "{told}");
}

#[test]
fn what_is_no_commits_fault_ends_it_and_is_done_again() {
    let repository = Repository::new();
    let full = "if test -e ../room; then exit 3; fi; echo 'x: No space left on device'; exit 2";
    let output = repository.build(full);
    repository.ends_with(&output, 201, &["the disk of", "is full", "make the same call again"]);
    let search = repository.search();
    assert_eq!((search.ended, search.kernels.len()), (Some(BisectEnded::Failed), 0));
    fs::write(repository.path("out/room"), "").expect("written");
    repository.ends_with(&repository.build(full), 125, &["failed with status 3"]);
    for (command, told) in [("exit 129", "status 129"), ("kill -9 $$", "signal 9")] {
        fs::remove_dir_all(repository.path("out")).expect("removed");
        let output = repository.build(command);
        repository.ends_with(&output, 201, &[told, "no commit's fault"]);
    }
    fs::remove_dir_all(repository.path("out")).expect("removed");
    let slow = ["--good", "v1", "--bad", "v6", "--output", "../out", "--build-timeout", "100ms"];
    let output = repository.bisect(&[&slow, &["--build", "sleep 60"][..]].concat());
    repository.ends_with(&output, 125, &["took longer than 100ms"]);
}

/// A signal ends the build in its own way, and all that it has started.
#[test]
fn a_signal_ends_the_build() {
    let repository = Repository::new();
    let command = "trap 'echo ended > ended; exit 1' TERM; echo $$ > begun; sleep 60 & wait";
    let words = ["bisect", "--good", "v1", "--bad", "v6", "--output", "../out", "--build", command];
    let child = schedvmm(&repository.path("tree"), &words).spawn().expect("it starts");
    let begun = repository.path("out/tree/begun");
    until("build", || fs::read_to_string(&begun).is_ok_and(|text| text.ends_with('\n')));
    let other = call(&repository.path("tree"), &words);
    repository.ends_with(&other, 200, &["is in use by another schedvmm"]);
    let mut kill = Command::new("kill");
    let killed = kill.args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let output = finish(child);
    repository.ends_with(&output, 143, &[]);
    assert!(repository.path("out/tree/ended").exists(), "{output:?}");
    let search = repository.search();
    assert_eq!((search.ended, search.kernels.len()), (Some(BisectEnded::Interrupted), 0));
    let told = text(&output.stdout);
    assert!(told.contains("5 commits from") && told.contains("interrupted"), "{told}");
}
