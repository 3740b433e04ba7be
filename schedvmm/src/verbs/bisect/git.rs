// SPDX-License-Identifier: Apache-2.0
//! What is asked of git, as a program: nothing of the user's work tree is changed.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use results::bisection::{BisectQuestion, FoundCommit};
use results::folder::FolderError;

use crate::status::Failure;

/// What git takes from its surroundings when it is called from a hook, or by `git bisect run`: what
/// `git rev-parse --local-env-vars` lists.
pub const VARIABLES: [&str; 15] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// What holds whatever somebody has configured: nobody's hooks or watchers see what is done for a search,
/// and submodules stay as they are.
const SETTINGS: [&str; 6] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "submodule.recurse=false",
];

/// A work tree of git's.
pub struct Git {
    tree: PathBuf,
}

/// Commits that may be the first bad one.
pub struct Commits {
    /// Their full names: parents before their children, the bad end last.
    pub names: Vec<String>,
    /// The numbers of each one's parents, as far as they are among them.
    pub parents: Vec<Vec<usize>>,
    /// The bad end stands for all commits that are not looked at (`--path`), as well.
    pub bad_is_more: bool,
    numbers: HashMap<String, usize>,
}

impl Commits {
    /// Of these names, with their parents; the bad end is added where it is not among them.
    pub fn new(list: &str, question: &BisectQuestion) -> Self {
        let mut commits = Self {
            names: Vec::new(),
            parents: Vec::new(),
            bad_is_more: false,
            numbers: HashMap::new(),
        };
        for line in list.lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(name) = words.next() else { continue };
            let line_of_firsts = commits.names.len().checked_sub(1);
            let parents = match question.first_parent {
                true => line_of_firsts.into_iter().collect(),
                false => words.filter_map(|parent| commits.number(parent)).collect(),
            };
            commits.add(name, parents);
        }
        // Without the bad end there is nothing between the ends; with it, in nothing else.
        if commits.names.last() != Some(&question.bad) && !question.paths.is_empty() {
            let mut has_child = vec![false; commits.names.len()];
            for parent in commits.parents.iter().flatten() {
                has_child[*parent] = true;
            }
            let heads = (0..commits.names.len()).filter(|at| !has_child[*at]).collect();
            commits.bad_is_more = true;
            commits.add(&question.bad, heads);
        }
        commits
    }

    fn add(&mut self, name: &str, parents: Vec<usize>) {
        self.numbers.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.parents.push(parents);
    }

    /// The number of a commit; `None` if it is none of them.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }
}

impl Git {
    /// Of the work tree that a folder is in.
    ///
    /// # Errors
    /// It is in none.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let mut git = Self { tree: folder.to_owned() };
        let asked = git.ask(["rev-parse", "--show-toplevel"])?;
        if !asked.status.success() {
            return Err(Failure::request(format!(
                "{} is in no work tree of git: {}; call it in the kernel's tree, or name that with --tree",
                folder.display(),
                said(&asked)
            )));
        }
        git.tree = path(&asked);
        Ok(git)
    }

    /// Its top.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// A call of git in the work tree.
    fn ask<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output, Failure> {
        ask(&self.tree, words)
    }

    /// A call that succeeds unless something is wrong with the repository.
    fn asked<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Output, Failure> {
        asked(&self.tree, words)
    }

    /// What such a call prints.
    fn told<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String, Failure> {
        self.asked(words).map(|asked| text(&asked))
    }

    /// The full name of the commit that somebody has named.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn commit(&self, named: &str) -> Result<String, Failure> {
        let commit = format!("{named}^{{commit}}");
        let asked = self.ask(["rev-parse", "--verify", "--end-of-options", commit.as_str()])?;
        if asked.status.success() {
            return Ok(text(&asked));
        }
        Err(Failure::request(format!(
            "`{named}` is no commit of {}: {}; name one that `git log` shows, or fetch it",
            self.tree.display(),
            said(&asked)
        )))
    }

    /// A checksum of some bytes: that of an object with them.
    ///
    /// # Errors
    /// git cannot tell.
    pub fn checksum(&self, bytes: &[u8]) -> Result<String, Failure> {
        let mut git = command(&self.tree, ["hash-object", "--stdin"]);
        let spawned =
            git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| cannot_run(&error))?;
        // git reads all of it before it says anything.
        let taken = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(bytes));
        let asked = child.wait_with_output().map_err(|error| cannot_run(&error))?;
        match taken {
            Ok(()) if asked.status.success() => Ok(text(&asked)),
            _ => Err(failed("hash-object", &self.tree, &asked)),
        }
    }

    /// Refuses a good commit that is not in the bad one.
    ///
    /// # Errors
    /// It is not.
    pub fn check_ancestor(&self, good: &str, bad: &str) -> Result<(), Failure> {
        let asked = self.ask(["merge-base", "--is-ancestor", good, bad])?;
        if asked.status.success() {
            return Ok(());
        }
        let base = self.ask(["merge-base", good, bad])?;
        let next = match base.status.success() {
            true => {
                let base = text(&base);
                let name = self.short(&base)?;
                format!(
                    "their merge base is {name}: give --good {base}, or another commit that is in it"
                )
            }
            false if self.is_shallow()? => "what is between them is not in this clone, which is \
                shallow: call `git fetch --unshallow`"
                .to_owned(),
            false => "they have no commit in common: name two of one history".to_owned(),
        };
        let (good, bad) = (self.short(good)?, self.short(bad)?);
        Err(Failure::request(format!(
            "the good commit {good} is no ancestor of the bad one {bad}; {next}"
        )))
    }

    /// A commit for a reader: its short name, and what it says of itself.
    fn short(&self, commit: &str) -> Result<String, Failure> {
        self.told(["show", "-s", "--no-show-signature", "--format=%h (%s)", commit])
    }

    /// How many commits are in a kernel beside its own one, and in none of these others.
    ///
    /// # Errors
    /// git cannot tell.
    pub fn count_before(&self, commit: &str, others: &[&str]) -> Result<u64, Failure> {
        let words = ["rev-list", "--count", commit].map(str::to_owned).into_iter();
        let told = self.told(words.chain(others.iter().map(|other| format!("^{other}"))))?;
        let count: Option<u64> = told.parse().ok();
        count
            .and_then(|count| count.checked_sub(1))
            .ok_or_else(|| Failure::internal(format!("git counts `{told}` commits up to {commit}")))
    }

    /// What a commit says of itself.
    ///
    /// # Errors
    /// git cannot tell.
    pub fn describe(&self, commit: &str, probability: f64) -> Result<FoundCommit, Failure> {
        let told = self.told([
            "show",
            "-s",
            "--no-show-signature",
            "--date=short",
            "--format=%an <%ae>%n%ad%n%s",
            commit,
        ])?;
        let mut lines = told.lines().map(str::to_owned);
        let mut next = || lines.next().unwrap_or_default();
        let (author, date, subject) = (next(), next(), next());
        let commit = commit.to_owned();
        Ok(FoundCommit { commit, probability, subject, author, date, left_out: 0 })
    }

    /// All commits that may be the first bad one.
    ///
    /// # Errors
    /// git cannot tell, or there is none.
    pub fn commits(&self, question: &BisectQuestion) -> Result<Commits, Failure> {
        let mut words = vec!["rev-list", "--topo-order", "--reverse", "--parents"];
        words.extend(question.first_parent.then_some("--first-parent"));
        words.push(&question.bad);
        let without: Vec<_> = question.good.iter().map(|good| format!("^{good}")).collect();
        words.extend(without.iter().map(String::as_str));
        words.push("--");
        words.extend(question.paths.iter().map(String::as_str));
        let commits = Commits::new(&self.told(words)?, question);
        let is_nothing =
            commits.names.is_empty() || (commits.bad_is_more && commits.names.len() == 1);
        if is_nothing {
            let of_paths = if commits.bad_is_more { " that changes what --path names" } else { "" };
            return Err(Failure::request(format!(
                "no commit{of_paths} lies between good and bad; give other ends, or other paths"
            )));
        }
        self.check_whole(question)?;
        Ok(commits)
    }

    /// Refuses ends between which a shallow clone ends: what its last commits are made of is not known.
    fn check_whole(&self, question: &BisectQuestion) -> Result<(), Failure> {
        if !self.is_shallow()? {
            return Ok(());
        }
        let path = self.tree.join(path(&self.asked(["rev-parse", "--git-path", "shallow"])?));
        let list = fs::read_to_string(&path)
            .map_err(|error| crate::owner::file_failure(&error, "read", &path))?;
        let last: BTreeSet<_> = list.lines().map(str::trim).collect();
        let words = ["rev-list".to_owned(), question.bad.clone()].into_iter();
        let between =
            self.told(words.chain(question.good.iter().map(|good| format!("^{good}"))))?;
        match between.lines().find(|commit| last.contains(commit)) {
            None => Ok(()),
            Some(commit) => Err(Failure::request(format!(
                "the history of {} is cut off at {}, between the ends; call `git fetch --unshallow` there",
                self.tree.display(),
                self.short(commit)?
            ))),
        }
    }

    /// Whether the clone has a part of the history only.
    fn is_shallow(&self) -> Result<bool, Failure> {
        Ok(self.told(["rev-parse", "--is-shallow-repository"])? == "true")
    }

    /// Makes a work tree at this place, by its full path without symbolic links, if there is none. Files
    /// come with [`Git::check_out`].
    ///
    /// # Errors
    /// git cannot: the disk is full, for one. Or what is there is no work tree.
    pub fn make_place(&self, place: &Path, commit: &str) -> Result<(), Failure> {
        if fs::read_dir(place).map_or(true, |mut inside| inside.next().is_none()) {
            // Twice: one that was being made when the power failed is locked.
            let add = ["worktree", "add", "--force", "--force", "--quiet", "--detach"];
            let add = add.into_iter().chain(["--no-checkout"]).map(OsStr::new);
            let add = add.chain([place.as_os_str(), OsStr::new(commit)]);
            self.told(add)?;
        }
        check_place(place)
    }

    /// Brings a work tree that was made to a commit. Nobody else does while the file is locked, which git
    /// holds as well: it may outlive this process.
    ///
    /// # Errors
    /// git cannot: the disk is full, for one.
    pub fn check_out(&self, place: &Path, commit: &str, lock: &File) -> Result<(), Failure> {
        check_place(place)?;
        remove_left_lock(place)?;
        let words = ["checkout", "--quiet", "--force", "--detach", commit];
        let mut git = command_in_place(place, words);
        let held = lock.try_clone().map_err(|error| cannot_run(&error))?;
        let asked = git.stdin(held).output().map_err(|error| cannot_run(&error))?;
        if asked.status.success() { Ok(()) } else { Err(failed(words[0], place, &asked)) }
    }

    /// Removes that work tree; one that stays harms nobody.
    pub fn forget(&self, place: &Path) {
        let remove = ["worktree", "remove", "--force"].map(OsStr::new);
        let _ = self.ask(remove.into_iter().chain([place.as_os_str()]));
    }
}

/// A call of git in a folder.
fn command<S: AsRef<OsStr>>(folder: &Path, words: impl IntoIterator<Item = S>) -> Command {
    let mut git = Command::new("git");
    git.args(SETTINGS).arg("-C").arg(folder).args(words);
    for variable in VARIABLES {
        git.env_remove(variable);
    }
    // A commit's parents are those that it was made with.
    git.env("GIT_NO_REPLACE_OBJECTS", "1").env("LC_ALL", "C").stdin(Stdio::null());
    git
}

/// A call of git in a work tree of a search. Where it is none, git does not look for one further up: that
/// would be somebody's own.
fn command_in_place<S: AsRef<OsStr>>(place: &Path, words: impl IntoIterator<Item = S>) -> Command {
    let mut git = command(place, words);
    git.env("GIT_CEILING_DIRECTORIES", place.parent().unwrap_or(place));
    git
}

/// Refuses a place that is not the top of a work tree: what is checked out there would be written over
/// files of another one.
fn check_place(place: &Path) -> Result<(), Failure> {
    let top = command_in_place(place, ["rev-parse", "--show-toplevel"]).output();
    let top = top.map_err(|error| cannot_run(&error))?;
    if top.status.success() && path(&top) == place {
        return Ok(());
    }
    Err(Failure::request(format!(
        "{} is there and is no work tree of git; remove it and make the same call again",
        place.display()
    )))
}

/// Removes what a git that was killed in this work tree has left behind. No other git is at work there
/// while the search's lock is held.
fn remove_left_lock(place: &Path) -> Result<(), Failure> {
    let words = ["rev-parse", "--git-path", "index.lock"];
    let asked = command_in_place(place, words).output().map_err(|error| cannot_run(&error))?;
    if !asked.status.success() {
        return Err(failed(words[0], place, &asked));
    }
    let path = place.join(path(&asked));
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FolderError::Write { path, source }.into())
        }
        _ => Ok(()),
    }
}

fn ask<S: AsRef<OsStr>>(
    folder: &Path,
    words: impl IntoIterator<Item = S>,
) -> Result<Output, Failure> {
    command(folder, words).output().map_err(|error| cannot_run(&error))
}

fn cannot_run(error: &io::Error) -> Failure {
    Failure::host(format!("cannot run git: {error}; install it"))
}

/// A call that succeeds unless something is wrong.
fn asked<S: AsRef<OsStr>>(
    folder: &Path,
    words: impl IntoIterator<Item = S>,
) -> Result<Output, Failure> {
    let words: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
    let asked = ask(folder, &words)?;
    if asked.status.success() {
        return Ok(asked);
    }
    let what = words.first().map(|word| word.display().to_string()).unwrap_or_default();
    Err(failed(&what, folder, &asked))
}

fn failed(what: &str, folder: &Path, asked: &Output) -> Failure {
    Failure::host(format!(
        "`git {what}` in {} failed: {}; mend that and make the same call again",
        folder.display(),
        said(asked)
    ))
}

/// What git has printed, without the end of its last line.
fn text(asked: &Output) -> String {
    String::from_utf8_lossy(&asked.stdout).trim_end_matches('\n').to_owned()
}

/// The path that git has printed.
fn path(asked: &Output) -> PathBuf {
    let bytes = asked.stdout.strip_suffix(b"\n").unwrap_or(&asked.stdout);
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// Why it did not do it, in a line: before it gives up, git may say other things.
fn said(asked: &Output) -> String {
    let text = String::from_utf8_lossy(&asked.stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let whys = ["fatal: ", "error: "].into_iter();
    let mut whys = whys.filter_map(|start| lines.iter().find_map(|it| it.strip_prefix(start)));
    whys.next().or(lines.first().copied()).unwrap_or("git does not say why").to_owned()
}
