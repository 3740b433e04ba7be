// SPDX-License-Identifier: Apache-2.0
//! `bisect.json`: a search for the commit from which on a kernel has gaps, with all that it has built and
//! run. Written after each of them, and read again by the call that goes on.

use std::path::PathBuf;

use decision::bisect::{Costs, Trials};
use decision::interval::Interval;
use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::set_file::SetFile;
use crate::trials::{Attempt, Conditions, State};

/// Version of the format; raised when a field changes its meaning or goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BisectionSchema {
    /// The first.
    #[default]
    #[serde(rename = "schedvmm-bisect/1")]
    V1,
}

/// A search and all that it has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bisection {
    /// Version of the format.
    pub schema: BisectionSchema,
    /// Of the program.
    pub version: String,
    /// As the program was called, the last time that it was.
    pub command_line: Vec<String>,
    /// Where it was called.
    pub working_directory: Option<PathBuf>,
    /// When it was begun.
    pub started_utc: String,
    /// What is asked, which stays.
    pub question: BisectQuestion,
    /// How many commits may be the first bad one: those that are in the bad end and in no good one.
    pub commits: usize,
    /// What every run is done under, but for its kernel; `None` before the first kernel was opened.
    pub conditions: Option<Conditions>,
    /// Why nothing follows; `None` while it goes on, and of a process that was killed.
    pub ended: Option<BisectEnded>,
    /// Commits whose kernels were to be built, in that order.
    pub kernels: Vec<BuiltKernel>,
    /// Runs, in that order.
    pub runs: Vec<BisectRun>,
    /// What is known of the first bad commit; `None` while the ends are not told apart.
    pub known: Option<Knowledge>,
    /// The end: these cannot be told apart, and one of them is the first bad commit. Several only where
    /// kernels could not be tested. The oldest first.
    pub found: Vec<FoundCommit>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BisectQuestion {
    /// Full names of commits that are good. The first is the good end.
    pub good: Vec<String>,
    /// That of the bad end.
    pub bad: String,
    /// Only commits that change these.
    pub paths: Vec<String>,
    /// Only first parents of merges are followed.
    pub first_parent: bool,
    /// Commits that an earlier search could not test.
    pub skipped: Vec<String>,
    /// What builds a kernel, for a shell.
    pub build: String,
    /// Checksum of the configuration and of what builds, 40 digits: what a kernel is beside its commit.
    pub recipe: String,
    /// What a hit is.
    pub hit: Hit,
    /// What the seeds of all runs are made of.
    pub seed: u64,
    /// Runs of each end after which ends that are alike are given up.
    pub max_end_runs: u32,
}

/// What a hit is: what bad kernels do more often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hit {
    /// A gap over this threshold.
    Threshold {
        /// The threshold.
        threshold_ns: u64,
    },
    /// A figure of the run beyond this limit.
    Limit {
        /// Which.
        metric: Metric,
        /// Nanoseconds, or parts of 1.
        limit: f64,
    },
}

/// Why nothing follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BisectEnded {
    /// The first bad commit is known.
    Found,
    /// The ends cannot be told apart.
    Alike,
    /// One of the ends cannot be tested.
    EndUntestable,
    /// `--max-runs`, or `--max-hours`.
    Spent,
    /// By a signal.
    Interrupted,
    /// Too many runs were contaminated.
    HostUnfit,
    /// Something could not be done, or not be kept.
    Failed,
}

/// A kernel that was to be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltKernel {
    /// Full name of its commit.
    pub commit: String,
    /// Whether it is there.
    pub state: BuildState,
    /// How long the build took.
    pub took_ms: u64,
    /// Why it cannot be tested, for a person; empty where it can.
    pub why: String,
}

/// What became of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildState {
    /// It was built, and may be run.
    Built,
    /// It cannot be built.
    Unbuildable,
    /// It was built, and cannot be run, or no longer.
    Untestable,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BisectRun {
    /// Full name of the commit.
    pub commit: String,
    /// Whether it was a hit; `None` where it is no answer.
    pub hit: Option<bool>,
    /// The machine that was started for it; `trial` counts answers over all kernels.
    pub attempt: Attempt,
}

/// What is known of the first bad commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knowledge {
    /// Part of the runs of the good end that are hits.
    pub good: Rate,
    /// Of the bad end.
    pub bad: Rate,
    /// The most likely ones of those commits that are the first bad one with a probability of 0.95 or
    /// more, together, the most likely first.
    pub candidates: Vec<BisectCandidate>,
    /// How many of these commits there are beside.
    pub more_candidates: usize,
    /// What a build and a run were taken to cost for the last step.
    pub costs: Costs,
    /// About how long it goes on.
    pub time_to_go_s: f64,
}

/// Hits of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// How many runs, and how many of them are hits.
    pub runs: Trials,
    /// Jeffreys' interval of the probability of a hit.
    pub interval: Interval,
}

/// A commit that may be the first bad one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BisectCandidate {
    /// Its full name.
    pub commit: String,
    /// The probability that it is.
    pub probability: f64,
}

/// The first bad commit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundCommit {
    /// Its full name.
    pub commit: String,
    /// The probability that it is.
    pub probability: f64,
    /// The first line of what it says of itself.
    pub subject: String,
    /// Who wrote it.
    pub author: String,
    /// When, as `2026-11-22`.
    pub date: String,
    /// Commits in its kernel that `--path` leaves out and that are in the kernel of no commit before it: it
    /// stands for them, and one of them can be it as well.
    #[serde(default)]
    pub left_out: u64,
}

impl From<Trials> for Rate {
    fn from(runs: Trials) -> Self {
        Self { runs, interval: runs.interval() }
    }
}

impl Bisection {
    /// A search of so many commits that begins, of this version, with nothing found.
    pub fn new(question: BisectQuestion, commits: usize, started_utc: String) -> Self {
        Self {
            schema: BisectionSchema::V1,
            version: env!("CARGO_PKG_VERSION").into(),
            command_line: Vec::new(),
            working_directory: None,
            started_utc,
            question,
            commits,
            conditions: None,
            ended: None,
            kernels: Vec::new(),
            runs: Vec::new(),
            known: None,
            found: Vec::new(),
        }
    }

    /// Runs of a commit that are answers.
    pub fn runs_of(&self, commit: &str) -> Trials {
        let mut found = Trials::default();
        let runs = self.runs.iter().filter(|run| run.commit == commit);
        for hit in runs.filter_map(|run| run.hit) {
            found.hits += u32::from(hit);
            found.trials += 1;
        }
        found
    }

    /// How many runs are so.
    pub fn count(&self, state: State) -> u32 {
        let count = self.runs.iter().filter(|run| run.attempt.state == state).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What became of a commit's kernel, the last time.
    pub fn kernel(&self, commit: &str) -> Option<&BuiltKernel> {
        self.kernels.iter().rev().find(|kernel| kernel.commit == commit)
    }

    /// For how long there were builds and runs.
    pub fn spent_ms(&self) -> u64 {
        let builds = self.kernels.iter().map(|kernel| kernel.took_ms);
        let runs = self.runs.iter().map(|run| run.attempt.took_ms);
        builds.chain(runs).fold(0, u64::saturating_add)
    }
}

impl SetFile for Bisection {
    const NAME: &'static str = "bisect.json";
    const SCHEMA: &'static str = "schedvmm-bisect/1";
    const VERB: &'static str = "bisect";

    /// What types alone do not say: nobody is led out of the folder, or to another program's options, by
    /// what a file says.
    fn fault(&self) -> Option<String> {
        let known = self.question.good.iter().chain([&self.question.bad]);
        let known = known.chain(&self.question.skipped);
        let of_runs = self.runs.iter().map(|run| &run.commit);
        let mut commits = known.chain(self.kernels.iter().map(|it| &it.commit)).chain(of_runs);
        let strange = commits.find(|commit| !is_commit(commit));
        let strange = strange.map(|it| format!("`{it}` is no full name of a commit"));
        let lost = self.runs.iter().find(|run| run.attempt.folder != run.folder());
        let lost = lost.map(|it| format!("`{}` is no folder of a run", it.attempt.folder));
        let empty = self.question.good.is_empty().then(|| "no commit is good".to_owned());
        let half = self
            .runs
            .iter()
            .find(|run| run.hit.is_some() != (run.attempt.state == State::Measured));
        let half = half.map(|it| format!("run {} has half an answer", it.attempt.trial));
        strange.or(lost).or(empty).or(half)
    }
}

impl BisectRun {
    /// What its folder is called: by the commit, the run and the how many-eth attempt at that.
    pub fn folder(&self) -> String {
        let short = self.commit.get(..12).unwrap_or(&self.commit);
        let Attempt { trial, attempt, .. } = self.attempt;
        match attempt {
            1 => format!("run-{trial:04}-{short}"),
            _ => format!("run-{trial:04}-{short}-{attempt}"),
        }
    }
}

/// Whether this is the name of a commit in full: 40 digits of SHA-1, or 64 of SHA-256.
pub fn is_commit(name: &str) -> bool {
    let is_digit = |letter: u8| matches!(letter, b'0'..=b'9' | b'a'..=b'f');
    matches!(name.len(), 40 | 64) && name.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bisection() -> Bisection {
        let name = |digit: &str| digit.repeat(40);
        let started_utc = "2026-11-22T20:15:00Z".to_owned();
        let begun = Attempt::begun(1, 1, String::new(), 3, started_utc);
        let attempt =
            Attempt { took_ms: 35_000, state: State::Measured, over_threshold: true, ..begun };
        let mut run = BisectRun { commit: name("b"), hit: Some(true), attempt };
        run.attempt.folder = run.folder();
        Bisection {
            schema: BisectionSchema::V1,
            version: "0.1.0".into(),
            command_line: vec!["schedvmm".into()],
            working_directory: None,
            started_utc: "2026-11-22T20:15:00Z".into(),
            question: BisectQuestion {
                good: vec![name("a")],
                bad: name("b"),
                paths: Vec::new(),
                first_parent: false,
                skipped: Vec::new(),
                build: "make".into(),
                recipe: name("0"),
                hit: Hit::Threshold { threshold_ns: 60_000_000 },
                seed: 7,
                max_end_runs: 100,
            },
            commits: 12,
            conditions: None,
            ended: None,
            kernels: vec![BuiltKernel {
                commit: name("b"),
                state: BuildState::Built,
                took_ms: 400_000,
                why: String::new(),
            }],
            runs: vec![run],
            known: None,
            found: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let written = bisection();
        assert!(!Bisection::is_in(dir.path()));
        written.write(dir.path()).expect("written");
        assert!(Bisection::is_in(dir.path()));
        assert_eq!(Bisection::open(dir.path()).expect("read"), written);
        let commit = "b".repeat(40);
        assert_eq!(written.runs_of(&commit), Trials { hits: 1, trials: 1 });
        assert_eq!((written.spent_ms(), written.count(State::Measured)), (435_000, 1));
        assert_eq!(written.kernel(&commit), written.kernels.last());
        assert_eq!(written.runs[0].attempt.folder, "run-0001-bbbbbbbbbbbb");
    }

    #[test]
    fn what_leads_out_of_the_folder_is_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        let is_none = |change: fn(&mut Bisection)| {
            let mut made = bisection();
            change(&mut made);
            made.write(dir.path()).expect("written");
            Bisection::open(dir.path()).expect_err("none").to_string()
        };
        for (change, told) in [
            ((|it| it.question.bad = "--x".into()) as fn(&mut Bisection), "`--x` is no full name"),
            (|it| it.question.good.clear(), "no commit is good"),
            (|it| it.runs[0].commit = "..".into(), "`..` is no full name"),
            (|it| it.runs[0].attempt.folder = "../x".into(), "`../x` is no folder of a run"),
            (|it| it.runs[0].hit = None, "run 1 has half an answer"),
        ] {
            let why = is_none(change);
            assert!(why.contains("is no bisect.json") && why.contains(told), "{why}");
        }
    }
}
