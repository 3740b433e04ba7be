// SPDX-License-Identifier: Apache-2.0
//! Searches of histories whose kernels are made up.

use std::cell::Cell;
use std::collections::BTreeSet;

use results::bisection::BisectQuestion;
use results::json;
use results::metric::Metric;

use super::*;
use crate::alike::tests::assert_names;
use crate::testing::Random;
use crate::verbs::trials::series::tests::{conditions, whole_conditions};

/// What a build and a run take.
const BUILD: Duration = Duration::from_secs(400);
const RUN_MS: u64 = 35_000;
/// Parts of this are probabilities.
const PARTS: usize = 1_000;

/// The full name of a commit by its number; the good end is in front of the first.
pub fn name(at: usize) -> String {
    format!("{:040x}", at + 1)
}

pub fn question(good: &str, bad: &str) -> BisectQuestion {
    BisectQuestion {
        good: vec![good.to_owned()],
        bad: bad.to_owned(),
        paths: Vec::new(),
        first_parent: false,
        skipped: Vec::new(),
        build: "make".into(),
        recipe: "0".repeat(40),
        hit: threshold(Duration::from_millis(60)),
        seed: 7,
        max_end_runs: 100,
    }
}

pub fn state(question: BisectQuestion, commits: usize) -> Bisection {
    let begun = Bisection::new(question, commits, "2026-11-22T20:15:00Z".into());
    Bisection { command_line: vec!["schedvmm".into()], ..begun }
}

/// A history whose commits are made of these parents.
fn history(parents: &[Vec<usize>], question: &BisectQuestion) -> Commits {
    let mut list = String::new();
    for (at, of_one) in parents.iter().enumerate() {
        let of_one: Vec<_> = of_one.iter().map(|parent| name(*parent)).collect();
        list += &format!("{} {}\n", name(at), of_one.join(" "));
    }
    Commits::new(&list, question)
}

fn line(commits: usize) -> Vec<Vec<usize>> {
    (0..commits).map(|at| at.checked_sub(1).into_iter().collect()).collect()
}

/// Branches of three commits, from two commits before the merge before.
fn merges(commits: usize) -> Vec<Vec<usize>> {
    let parents = (0..commits).map(|at| match at {
        0 => vec![],
        _ if at % 4 == 0 => vec![at - 4, at - 1],
        _ if at % 4 == 1 => at.checked_sub(5).into_iter().collect(),
        _ => vec![at - 1],
    });
    let mut parents: Vec<_> = parents.collect();
    let last = commits - 1;
    parents[last] = (0..last).filter(|at| last - at <= 4).collect();
    parents
}

/// Kernels that are made up. What a run comes to follows from its seed, so that it is the same
/// whenever it is done.
pub struct Made {
    /// Which commits' kernels hit more often, by name.
    pub bad: BTreeSet<String>,
    /// How often good and bad ones hit, in parts.
    pub rates: [usize; 2],
    pub seed: u64,
    pub unbuildable: BTreeSet<String>,
    pub untestable: BTreeSet<String>,
    /// Part of the runs that are contaminated.
    pub contaminated: usize,
    pub kept: Vec<u8>,
    pub keeps: usize,
    /// The disk is full at that time.
    pub full_at: Option<usize>,
    pub signal: Cell<Option<i32>>,
    /// Commits that each one found stands for beside itself.
    pub left_out: u64,
    pub open: String,
    pub built: BTreeSet<String>,
    pub builds: usize,
    /// Whether what is kept is made into bytes.
    pub is_written: bool,
}

impl Made {
    pub fn new(bad: BTreeSet<String>, rates: [usize; 2], seed: u64) -> Self {
        Self {
            bad,
            rates,
            seed,
            unbuildable: BTreeSet::new(),
            untestable: BTreeSet::new(),
            contaminated: 0,
            kept: Vec::new(),
            keeps: 0,
            full_at: None,
            signal: Cell::new(None),
            left_out: 0,
            open: String::new(),
            built: BTreeSet::new(),
            builds: 0,
            is_written: false,
        }
    }

    /// Kernels that have this commit in them.
    fn with(parents: &[Vec<usize>], culprit: usize, rates: [usize; 2], seed: u64) -> Self {
        let mut is_bad = vec![false; parents.len()];
        for (at, of_one) in parents.iter().enumerate() {
            is_bad[at] = at == culprit || of_one.iter().any(|parent| is_bad[*parent]);
        }
        let bad = (0..parents.len()).filter(|at| is_bad[*at]).map(name).collect();
        Self::new(bad, rates, seed)
    }
}

impl Lab for Made {
    fn has(&self, commit: &str) -> bool {
        self.built.contains(commit)
    }

    fn build(&mut self, commit: &str) -> Result<Option<Built>, Failure> {
        self.builds += 1;
        let fails = self.unbuildable.contains(commit);
        if !fails {
            self.built.insert(commit.to_owned());
        }
        let why_not = fails.then(|| "its build failed with status 2; see build.log".to_owned());
        Ok(Some(Built { took: BUILD, why_not }))
    }

    fn open(&mut self, commit: &str) -> Result<Conditions, Failure> {
        commit.clone_into(&mut self.open);
        if self.untestable.contains(commit) {
            return Err(Failure::kernel("it does not boot"));
        }
        Ok(conditions(7))
    }

    fn run(&mut self, attempt: &mut Attempt, _: TrialTerms) -> Result<(), Failure> {
        let is_bad = self.bad.contains(&self.open);
        let who = self.open.bytes().fold(self.seed, |sum, it| sum.wrapping_mul(31) + u64::from(it));
        let mut random = Random::new(who ^ (attempt.seed << 20) ^ u64::from(attempt.attempt));
        // The first numbers of near seeds are alike.
        let mut below = || (0..4).map(|_| random.below(PARTS)).fold(0, |_, last| last);
        attempt.took_ms = RUN_MS;
        attempt.state = State::Measured;
        if below() < self.contaminated {
            (attempt.state, attempt.why) = (State::Contaminated, "the host".into());
        }
        attempt.over_threshold = below() < self.rates[usize::from(is_bad)];
        attempt.metrics.insert(Metric::Longest, if attempt.over_threshold { 8e7 } else { 2e7 });
        Ok(())
    }

    fn describe(&self, commit: &str, probability: f64) -> Result<FoundCommit, Failure> {
        let (subject, author, date) = ("a change".into(), "somebody".into(), "2026-11-22".into());
        let commit = commit.to_owned();
        Ok(FoundCommit { commit, probability, subject, author, date, left_out: 0 })
    }

    fn count_before(&self, _: &str, _: &[&str]) -> Result<u64, Failure> {
        Ok(self.left_out)
    }

    fn keep(&mut self, state: &Bisection) -> Result<(), Failure> {
        self.keeps += 1;
        if self.full_at == Some(self.keeps) {
            return Err(Failure::host("no room"));
        }
        if self.is_written {
            self.kept = json::pretty(state).expect("JSON").into_bytes();
        }
        Ok(())
    }

    fn now_utc(&self) -> String {
        "2026-11-22T20:15:00Z".into()
    }

    fn signal(&self) -> Option<i32> {
        self.signal.get()
    }
}

fn hunt_of(parents: &[Vec<usize>], limits: Limits) -> Hunt {
    let question = question(&"f".repeat(40), &name(parents.len() - 1));
    let commits = history(parents, &question);
    Hunt::new(state(question, parents.len()), commits, limits).expect("a search")
}

fn go_on(hunt: &mut Hunt, lab: &mut Made) -> Option<BisectEnded> {
    hunt.go_on(lab, |_, _| ()).expect("kept");
    hunt.state.ended
}

/// Whether it ended at the commit, and the hours that it took.
fn search(parents: &[Vec<usize>], rates: [usize; 2], seed: u64) -> (bool, f64) {
    let mut random = Random::new(seed);
    let culprit = random.below(parents.len());
    let mut lab = Made::with(parents, culprit, rates, seed);
    let mut hunt = hunt_of(parents, Limits::default());
    let ended = go_on(&mut hunt, &mut lab);
    let hours = Duration::from_millis(hunt.state.spent_ms()).as_secs_f64() / 3600.0;
    let is_right = hunt.state.found.iter().any(|found| found.commit == name(culprit));
    (ended == Some(BisectEnded::Found) && is_right, hours)
}

/// The same by `git bisect run` with a run a kernel.
fn plainly(commits: usize, rates: [usize; 2], seed: u64) -> (bool, f64) {
    let parents = line(commits);
    let mut random = Random::new(seed);
    let culprit = random.below(commits);
    let mut lab = Made::with(&parents, culprit, rates, seed);
    let hunt = hunt_of(&parents, Limits::default());
    let (mut low, mut high, mut steps) = (0, commits - 1, 0.0);
    while low < high {
        let at = usize::midpoint(low, high);
        let mut attempt = hunt.next_run(&name(at), String::new()).attempt;
        lab.open(&name(at)).expect("a kernel");
        lab.run(&mut attempt, TrialTerms::default()).expect("a run");
        (low, high) = if attempt.over_threshold { (low, at) } else { (at + 1, high) };
        steps += 1.0;
    }
    let seconds = BUILD.as_secs_f64() + Duration::from_millis(RUN_MS).as_secs_f64();
    (low == culprit, steps * seconds / 3600.0)
}

fn means(count: u64, one: impl Fn(u64) -> (bool, f64)) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for seed in 0..count {
        let (is_right, hours) = one(seed);
        sums.0 += f64::from(u8::from(is_right));
        sums.1 += hours;
    }
    let all = f64::from(u32::try_from(count).expect("few"));
    (sums.0 / all, sums.1 / all)
}

#[test]
fn a_dry_run_finds_a_commit_that_shows_in_three_of_ten_runs() {
    let (commits, rates) = (1_000, [20, 300]);
    let found = means(100, |seed| search(&line(commits), rates, seed));
    let plain = means(100, |seed| plainly(commits, rates, seed));
    println!(
        "schedvmm bisect {:.3} right in {:.1} h; git bisect run {:.3} in {:.1} h",
        found.0, found.1, plain.0, plain.1
    );
    assert!(found.0 >= 0.95 && found.1 <= 4.0, "{found:?}");
    assert!(plain.0 <= 0.2, "{plain:?}");
    let merged = merges(200);
    let found = means(40, |seed| search(&merged, [20, 500], seed));
    println!("with merges {:.3} right in {:.1} h", found.0, found.1);
    assert!(found.0 >= 0.95, "{found:?}");
}

#[test]
fn what_cannot_be_built_or_run_is_skipped_and_named() {
    let parents = merges(61);
    let mut lab = Made::with(&parents, 30, [0, 1000], 1);
    lab.unbuildable = [29, 30].map(name).into();
    lab.untestable = (20..24).map(name).collect();
    let mut hunt = hunt_of(&parents, Limits::default());
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Found));
    let found: Vec<_> = hunt.state.found.iter().map(|it| it.commit.clone()).collect();
    assert_eq!(found, [29, 30, 31].map(name), "no kernel parts them");
    let sum: f64 = hunt.state.found.iter().map(|it| it.probability).sum();
    assert!(sum >= 0.95, "{sum}");
    let skipped = hunt.state.kernels.iter().filter(|it| it.state == BuildState::Unbuildable);
    assert!(skipped.clone().count() >= 1);
    assert!(skipped.clone().all(|it| it.why.contains("build.log")), "{skipped:?}");
}

#[test]
fn contaminated_runs_say_nothing_and_are_counted() {
    let parents = line(100);
    let mut lab = Made::with(&parents, 60, [0, 900], 3);
    lab.contaminated = 150;
    let mut hunt = hunt_of(&parents, Limits::default());
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Found));
    assert_eq!(hunt.state.found[0].commit, name(60));
    assert!(hunt.state.count(State::Contaminated) > 3);
    let again = hunt.state.runs.windows(2).find(|two| two[0].hit.is_none()).expect("one");
    assert_eq!(
        (again[0].attempt.seed, &again[0].commit),
        (again[1].attempt.seed, &again[1].commit)
    );
    assert!(again[0].attempt.folder != again[1].attempt.folder);
    // A host that does this to half of them is none to measure on.
    lab.contaminated = 500;
    let mut hunt = hunt_of(&parents, Limits::default());
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::HostUnfit));
    assert!(hunt.state.runs.len() <= 40, "{}", hunt.state.runs.len());
}

#[test]
fn ends_that_are_alike_or_cannot_be_tested_end_it() {
    let parents = line(50);
    let mut lab = Made::with(&parents, 20, [100, 100], 1);
    let mut hunt = hunt_of(&parents, Limits::default());
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Alike));
    assert_eq!((hunt.state.runs.len(), hunt.state.known.is_none()), (200, true));
    assert_eq!(lab.builds, 2);
    for broken in [0, 1] {
        let mut lab = Made::with(&parents, 20, [0, 1000], 1);
        let end = [name(49), "f".repeat(40)][broken].clone();
        lab.unbuildable = [end.clone()].into();
        let mut hunt = hunt_of(&parents, Limits::default());
        assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::EndUntestable));
        assert_eq!(hunt.state.kernels.last().map(|it| it.commit.clone()), Some(end.clone()));
        // Mended, the same call goes on.
        lab.unbuildable.clear();
        let commits = history(&parents, &hunt.state.question);
        let mut hunt = Hunt::new(hunt.state, commits, Limits::default()).expect("a search");
        assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Found));
        assert_eq!(hunt.state.found[0].commit, name(20));
    }
}

#[test]
fn limits_and_signals_end_it_and_it_goes_on() {
    let parents = line(100);
    let mut lab = Made::with(&parents, 60, [20, 900], 3);
    let mut hunt = hunt_of(&parents, Limits { runs: Some(15), time: None });
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Spent));
    assert_eq!(hunt.state.runs.len(), 15);
    let hour = Limits { runs: None, time: Some(Duration::from_secs(3600)) };
    let commits = history(&parents, &hunt.state.question);
    let mut hunt = Hunt::new(hunt.state, commits, hour).expect("a search");
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Spent));
    assert!((3_600_000..4_100_000).contains(&hunt.state.spent_ms()));
    lab.signal.set(Some(libc::SIGINT));
    let commits = history(&parents, &hunt.state.question);
    let mut hunt = Hunt::new(hunt.state, commits, Limits::default()).expect("a search");
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Interrupted));
    lab.signal.set(None);
    let commits = history(&parents, &hunt.state.question);
    let mut hunt = Hunt::new(hunt.state, commits, Limits::default()).expect("a search");
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Found));
    assert_eq!(hunt.state.found[0].commit, name(60));
}

/// The disk is full, or the process is killed, at any time: the bytes at the end are those of a search
/// that nothing ended, but for the runs that were cut off.
#[test]
fn a_search_that_was_ended_at_any_time_comes_to_the_same_bytes() {
    let parents = merges(60);
    let new = || {
        let mut lab = Made::with(&parents, 33, [20, 800], 9);
        lab.is_written = true;
        lab.contaminated = 50;
        lab.unbuildable = [34, 35].map(name).into();
        lab
    };
    let mut whole = new();
    let mut hunt = hunt_of(&parents, Limits::default());
    assert_eq!(go_on(&mut hunt, &mut whole), Some(BisectEnded::Found));
    let mut again = new();
    assert_eq!(go_on(&mut hunt_of(&parents, Limits::default()), &mut again), hunt.state.ended);
    assert_eq!(again.kept, whole.kept, "the same input, the same bytes");
    for full_at in (2..whole.keeps).step_by(5) {
        let mut lab = new();
        lab.full_at = Some(full_at);
        let mut hunt = hunt_of(&parents, Limits::default());
        let error = hunt.go_on(&mut lab, |_, _| ()).expect_err("a full disk");
        assert_eq!(error.status(), ExitStatus::Host);
        let there: Bisection = serde_json::from_slice(&lab.kept).expect("a state");
        let commits = history(&parents, &there.question);
        let mut hunt = Hunt::new(there, commits, Limits::default()).expect("a search");
        assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Found));
        let mut state: Bisection = serde_json::from_slice(&lab.kept).expect("a state");
        let cut_off = state.count(State::CutOff);
        assert!(cut_off <= 1, "{cut_off}");
        if cut_off == 0 {
            assert_eq!(lab.kept, whole.kept, "{full_at}");
            continue;
        }
        // Kernels that were built are not built again.
        assert!(lab.builds <= whole.builds + 1, "{} {}", lab.builds, whole.builds);
        state.runs.retain(|run| run.attempt.state != State::CutOff);
        assert!(state.runs.len() + 8 > hunt.state.runs.len());
        assert_eq!(state.found[0].commit, hunt.state.found[0].commit);
    }
}

#[test]
fn a_figure_over_its_limit_is_a_hit_and_other_kernels_than_the_first_are_none() {
    let parents = line(40);
    let mut question = question(&"f".repeat(40), &name(39));
    question.hit = Hit::Limit { metric: Metric::Longest, limit: 5e7 };
    let commits = history(&parents, &question);
    let mut hunt = Hunt::new(state(question, 40), commits, Limits::default()).expect("a search");
    let mut lab = Made::with(&parents, 11, [0, 1000], 5);
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Found));
    assert_eq!(hunt.state.found[0].commit, name(11));
    // A run that does not tell it says nothing, nor does one without cookies where others had them.
    for (cookies_missing, metric) in [(false, None), (true, Some(1e8))] {
        let mut run = hunt.next_run(&name(3), String::new());
        run.attempt.state = State::Measured;
        run.attempt.cookies_missing = cookies_missing;
        run.attempt.metrics.extend(metric.map(|value| (Metric::Longest, value)));
        hunt.state.runs.push(run);
        hunt.judge();
        let last = hunt.state.runs.last().expect("a run");
        assert_eq!((last.hit, last.attempt.state), (None, State::Untestable));
        assert!(!last.attempt.why.is_empty());
    }
}

#[test]
fn other_conditions_and_another_history_are_refused() {
    let parents = line(10);
    let mut hunt = hunt_of(&parents, Limits::default());
    let mut lab = Made::with(&parents, 5, [0, 1000], 5);
    let mut other = conditions(7);
    other.machine.cpus += 1;
    hunt.state.conditions = Some(other);
    assert_eq!(go_on(&mut hunt, &mut lab), Some(BisectEnded::Failed));
    let failure = hunt.failure().expect("a reason");
    assert_eq!(failure.status(), ExitStatus::Usage);
    assert!(failure.to_string().contains("machine.cpus"), "{failure}");
    let commits = history(&line(9), &hunt.state.question);
    let refused = Hunt::new(hunt.state, commits, Limits::default()).err().expect("another one");
    assert!(
        refused.to_string().contains("has 9 commits between the ends, and had 10"),
        "{refused}"
    );
}

#[test]
fn what_may_differ_has_the_names_that_files_have() {
    assert_names(&whole_conditions(), &IGNORED);
}
