// SPDX-License-Identifier: Apache-2.0
//! Histories in git itself.

use std::collections::BTreeSet;
use std::process::Command;

use super::git::VARIABLES;
use super::hunt::tests::{Made, question, state};
use super::*;

/// A repository with files that nobody may change.
pub struct Repository {
    dir: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let new = Self { dir: tempfile::tempdir().expect("tempdir") };
        new.git(&["init", "--quiet", "--initial-branch=main"]);
        new
    }

    #[track_caller]
    fn git(&self, words: &[&str]) -> String {
        let mut git = Command::new("git");
        git.current_dir(self.dir.path()).args(words);
        for (name, value) in [
            ("GIT_AUTHOR_NAME", "Somebody"),
            ("GIT_AUTHOR_EMAIL", "somebody@example.org"),
            ("GIT_COMMITTER_NAME", "Somebody"),
            ("GIT_COMMITTER_EMAIL", "somebody@example.org"),
            ("GIT_AUTHOR_DATE", "2026-11-22T20:15:00Z"),
            ("GIT_COMMITTER_DATE", "2026-11-22T20:15:00Z"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ] {
            git.env(name, value);
        }
        let output = git.output().expect("git");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "git {words:?}: {}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// A commit that changes a file; its name.
    fn commit(&self, file: &str) -> String {
        let path = self.dir.path().join(file);
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{before}more\n")).expect("written");
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "-m", &format!("change {file}")]);
        self.head()
    }

    fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    fn open(&self) -> Git {
        Git::open(self.dir.path()).expect("a work tree")
    }
}

/// A commit in a work tree, which nobody else uses.
fn check_out(git: &Git, place: &Path, commit: &str) -> Result<(), Failure> {
    let lock = tempfile::tempfile().expect("a file");
    git.make_place(place, commit)?;
    git.check_out(place, commit, &lock)
}

/// Two branches from before the good end and behind it: good, bad, and a commit of a branch.
fn merged() -> (Repository, String, String, String) {
    let repository = Repository::new();
    repository.commit("a");
    repository.git(&["branch", "early"]);
    let good = repository.commit("a");
    repository.commit("b");
    repository.git(&["switch", "--quiet", "early"]);
    repository.commit("c");
    let culprit = repository.commit("d");
    repository.commit("c");
    repository.git(&["switch", "--quiet", "main"]);
    repository.commit("b");
    repository.git(&["merge", "--quiet", "--no-edit", "early"]);
    repository.commit("a");
    let bad = repository.head();
    (repository, good, bad, culprit)
}

#[test]
fn a_commit_of_a_branch_is_found_and_git_replays_the_log() {
    let (repository, good, bad, culprit) = merged();
    let git = repository.open();
    let question = question(&good, &bad);
    let commits = git.commits(&question).expect("commits");
    assert_eq!((commits.names.len(), commits.names.last()), (7, Some(&bad)));
    let contain = repository.git(&["rev-list", &format!("{culprit}^..{bad}"), "--ancestry-path"]);
    let contain: BTreeSet<_> = contain.lines().map(str::to_owned).collect();
    let mut lab = Made::new(contain, [0, 900], 4);
    let state = state(question, commits.names.len());
    let mut hunt = Hunt::new(state, commits, Limits::default()).expect("a search");
    hunt.go_on(&mut lab, |_, _| ()).expect("kept");
    assert_eq!(hunt.state.found[0].commit, culprit);
    let text = log::write(&hunt.state, &hunt.search, &hunt.commits);
    let file = repository.dir.path().join(".git/log");
    fs::write(&file, &text).expect("written");
    repository.git(&["bisect", "replay", &file.display().to_string()]);
    let said = repository.git(&["bisect", "log"]);
    assert!(said.contains(&format!("# first bad commit: [{culprit}]")), "{said}\n{text}");
    // What git says of it is what we read.
    let again = Log::read(&said).expect("a log");
    assert_eq!(again.bad.as_ref(), Some(&culprit), "{said}");
    assert!(again.good.contains(&good));
    let described = git.describe(&culprit, 1.0).expect("described");
    assert_eq!((described.subject.as_str(), described.date.as_str()), ("change d", "2026-11-22"));
}

#[test]
fn only_some_paths_or_first_parents_are_searched() {
    let (repository, good, bad, culprit) = merged();
    let git = repository.open();
    let mut question = question(&good, &bad);
    question.paths = vec!["d".into()];
    let commits = git.commits(&question).expect("commits");
    assert_eq!(commits.names, [culprit.clone(), bad.clone()]);
    assert!(commits.bad_is_more && commits.parents == [vec![], vec![0]]);
    // Either stands for those between: one in front of that commit, and four in front of the bad end.
    assert_eq!(git.count_before(&culprit, &[&good]).expect("a count"), 1);
    assert_eq!(git.count_before(&bad, &[&culprit, &good]).expect("a count"), 4);
    let mut lab = Made::new([culprit.clone(), bad.clone()].into(), [0, 1000], 4);
    lab.left_out = 3;
    let state = state(question.clone(), 2);
    let mut hunt = Hunt::new(state, commits, Limits::default()).expect("a search");
    hunt.go_on(&mut lab, |_, _| ()).expect("kept");
    let told = screen(&hunt.state, Path::new("out"));
    let note = "it is this, or one of 3 commits before it that --path leaves out";
    assert!(told.contains(note) && told.contains(&culprit), "{told}");
    question.paths = vec!["nothing".into()];
    let why = git.commits(&question).err().expect("nothing").to_string();
    assert!(why.contains("no commit that changes what --path names"), "{why}");
    (question.paths, question.first_parent) = (Vec::new(), true);
    let commits = git.commits(&question).expect("commits");
    assert_eq!(commits.names.len(), 4);
    assert_eq!(commits.parents, [vec![], vec![0], vec![1], vec![2]]);
    question.good = vec![bad];
    let why = git.commits(&question).err().expect("nothing").to_string();
    assert!(why.contains("no commit lies between"), "{why}");
}

#[test]
fn a_work_tree_of_its_own_leaves_that_of_the_user_alone() {
    let (repository, good, bad, _) = merged();
    fs::write(repository.dir.path().join("a"), "not committed\n").expect("written");
    let before = repository.git(&["status", "--porcelain=v2", "--branch"]);
    let git = repository.open();
    let dir = tempfile::tempdir().expect("tempdir");
    let place = dir.path().canonicalize().expect("a folder").join("tree");
    for commit in [&bad, &good, &bad] {
        check_out(&git, &place, commit).expect("checked out");
        assert_eq!(place.join("b").exists(), *commit == bad);
        fs::write(place.join("b"), "of a build").expect("written");
    }
    assert_eq!(repository.git(&["status", "--porcelain=v2", "--branch"]), before);
    // A place that somebody has removed is made again.
    fs::remove_dir_all(&place).expect("removed");
    check_out(&git, &place, &good).expect("checked out");
    // What a git that was killed has left does not stay in the way.
    let names = ["rev-parse", "--path-format=absolute", "--git-path", "index.lock"];
    let place_name = place.display().to_string();
    let left = repository.git(&[&["-C", &place_name][..], &names].concat());
    fs::write(&left, "").expect("written");
    check_out(&git, &place, &bad).expect("checked out");
    assert!(!Path::new(&left).exists());
    git.forget(&place);
    assert!(!place.exists());
    assert_eq!(repository.git(&["worktree", "list"]).lines().count(), 1);
}

/// In the user's own tree a search's folder may be as well: where its work tree has lost what makes it one,
/// git finds that of the user.
#[test]
fn a_work_tree_that_is_none_any_more_is_refused() {
    let (repository, good, bad, _) = merged();
    let git = repository.open();
    let top = repository.dir.path().canonicalize().expect("a folder");
    let place = top.join("out/tree");
    check_out(&git, &place, &good).expect("checked out");
    fs::write(top.join("a"), "not committed\n").expect("written");
    let head = repository.head();
    let link = place.join(".git");
    for lost in [fs::remove_file(&link), fs::create_dir(&link)] {
        lost.expect("changed");
        let why = check_out(&git, &place, &bad).expect_err("no work tree").to_string();
        assert!(why.contains("out/tree is there and is no work tree of git; remove it"), "{why}");
    }
    std::os::unix::fs::symlink(&top, top.join("out/link")).expect("linked");
    assert!(check_out(&git, &top.join("out/link"), &bad).is_err());
    assert_eq!(fs::read_to_string(top.join("a")).expect("a file"), "not committed\n");
    assert_eq!(repository.head(), head);
    // Removed, it is made again.
    fs::remove_dir_all(&place).expect("removed");
    check_out(&git, &place, &bad).expect("checked out");
}

#[test]
fn nothing_of_a_call_from_git_is_taken_over() {
    let (repository, ..) = merged();
    let listed = repository.git(&["rev-parse", "--local-env-vars"]);
    let missing: Vec<_> = listed.lines().filter(|name| !VARIABLES.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_clone_that_ends_between_the_ends_is_refused() {
    let (repository, good, bad, _) = merged();
    let dir = tempfile::tempdir().expect("tempdir");
    let (from, to) = (repository.dir.path().display(), dir.path().join("clone"));
    let (from, place) = (format!("file://{from}"), to.display().to_string());
    // The last three of one branch, and as many of the other; the good end is fetched by itself.
    repository.git(&["tag", "good", &good]);
    repository.git(&["clone", "--quiet", "--depth=3", &from, &place]);
    let in_clone = |words: &[&str]| repository.git(&[&["-C", &place], words].concat());
    in_clone(&["fetch", "--quiet", "--depth=1", "origin", "tag", "good"]);
    let git = Git::open(&to).expect("a work tree");
    let why = git.commits(&question(&good, &bad)).err().expect("cut off").to_string();
    assert!(why.contains("is cut off at") && why.contains("git fetch --unshallow"), "{why}");
    let why = git.check_ancestor(&good, &bad).expect_err("cut off").to_string();
    assert!(why.contains("is shallow: call `git fetch --unshallow`"), "{why}");
    in_clone(&["fetch", "--quiet", "--unshallow"]);
    let commits = git.commits(&question(&good, &bad)).expect("the whole");
    assert_eq!(commits.names.len(), 7);
}

#[test]
fn checksums_are_those_of_git() {
    let (repository, ..) = merged();
    let sum = repository.open().checksum(b"hello\n").expect("a checksum");
    assert_eq!(sum, "ce013625030ba8dba906f756967f9e9ca394464a");
}
