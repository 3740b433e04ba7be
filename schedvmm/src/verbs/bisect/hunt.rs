// SPDX-License-Identifier: Apache-2.0
//! One build or run after the other, until the first bad commit is known: which comes next, what becomes
//! of a run that is no answer, and when it ends.

use std::time::Duration;

use decision::bisect::{Candidate, Costs, Place, Search, SearchError, Step, Trials};
use results::bisection::{
    BisectCandidate, BisectEnded, BisectRun, Bisection, BuildState, BuiltKernel, FoundCommit, Hit,
    Knowledge,
};
use results::trials::{Attempt, Conditions, State, TrialTerms, seed_of};

use super::git::Commits;
use crate::alike;
use crate::measurement::millis;
use crate::status::{ExitStatus, Failure};
use crate::units::as_ns;

/// What builds and runs are taken to cost before there were any, in seconds.
const COSTS: Costs = Costs { build_s: 300.0, trial_s: 30.0 };
/// More of the runs than this may not be contaminated, of so many at least.
const CONTAMINATED_SHARE: f64 = 0.3;
const CONTAMINATED_OF: usize = 20;
/// The candidates that are told are the first bad commit with this probability, together.
const CREDIBLE: f64 = 0.95;
/// So many of them are told.
const TOLD_CANDIDATES: usize = 50;

/// Builds kernels and runs them.
pub trait Lab {
    /// Whether a commit's kernel is there.
    fn has(&self, commit: &str) -> bool;

    /// Builds it; `None` if a signal has come.
    ///
    /// # Errors
    /// It was not the commit's fault.
    fn build(&mut self, commit: &str) -> Result<Option<Built>, Failure>;

    /// Makes a commit's kernel the one that runs are of. What all of them are done under.
    ///
    /// # Errors
    /// It cannot be run, for a reason of this owner.
    fn open(&mut self, commit: &str) -> Result<Conditions, Failure>;

    /// One run of that kernel: fills in what it came to.
    ///
    /// # Errors
    /// It could not be done, or its result not be kept.
    fn run(&mut self, attempt: &mut Attempt, terms: TrialTerms) -> Result<(), Failure>;

    /// What a commit says of itself.
    ///
    /// # Errors
    /// The repository does not tell.
    fn describe(&self, commit: &str, probability: f64) -> Result<FoundCommit, Failure>;

    /// How many commits are in a kernel beside its own one, and in none of these others.
    ///
    /// # Errors
    /// The repository does not tell.
    fn count_before(&self, commit: &str, others: &[&str]) -> Result<u64, Failure>;

    /// Keeps what there is.
    ///
    /// # Errors
    /// The disk is full, for one.
    fn keep(&mut self, state: &Bisection) -> Result<(), Failure>;

    /// The time of day.
    fn now_utc(&self) -> String;

    /// A signal that has come.
    fn signal(&self) -> Option<i32>;
}

/// A kernel, or why there is none.
pub struct Built {
    /// How long it took.
    pub took: Duration,
    /// `None` if there is one.
    pub why_not: Option<String>,
}

/// How much is spent at most. A later call may spend more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Runs in all.
    pub runs: Option<u32>,
    /// Time of builds and runs in all.
    pub time: Option<Duration>,
}

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The last one of the kernels was built, or could not be.
    Build,
    /// The last one of the runs was done.
    Run,
}

/// A search that goes on.
pub struct Hunt {
    /// What there is so far, as in the file.
    pub state: Bisection,
    /// What can be the first bad commit.
    pub commits: Commits,
    /// What is known of each.
    pub search: Search,
    limits: Limits,
    /// The commit whose kernel is open.
    open: Option<String>,
    failure: Option<Failure>,
}

impl Hunt {
    /// Goes on from a state, which is new or was read. What was under way when an earlier process was
    /// killed is done again.
    ///
    /// # Errors
    /// The history is none that can be searched, or not the one of the state.
    pub fn new(mut state: Bisection, commits: Commits, limits: Limits) -> Result<Self, Failure> {
        for run in state.runs.iter_mut().filter(|it| it.attempt.state == State::Running) {
            run.attempt.state = State::CutOff;
            "the process was killed while it went on".clone_into(&mut run.attempt.why);
        }
        (state.ended, state.found) = (None, Vec::new());
        let search = search_of(&state, &commits)?;
        Ok(Self { state, commits, search, limits, open: None, failure: None })
    }

    /// Does what is left, and tells of each build and run.
    ///
    /// # Errors
    /// The state cannot be kept. What was measured stays.
    pub fn go_on(
        &mut self,
        lab: &mut impl Lab,
        mut tell: impl FnMut(&Self, Done),
    ) -> Result<(), Failure> {
        self.learn()?;
        // Ended while the first kernel is built, it goes on as well.
        lab.keep(&self.state)?;
        while self.state.ended.is_none() {
            let step = self.search.next();
            self.state.ended = match step {
                Step::Found(found) => Some(self.found(found, lab)?),
                Step::Alike { .. } => Some(BisectEnded::Alike),
                Step::Run { .. } if lab.signal().is_some() => Some(BisectEnded::Interrupted),
                Step::Run { .. } if self.is_spent() => Some(BisectEnded::Spent),
                Step::Run { at, .. } => {
                    let done = self.step(at, lab)?;
                    self.learn()?;
                    lab.keep(&self.state)?;
                    if let Some(done) = done {
                        tell(self, done);
                    }
                    continue;
                }
            };
        }
        lab.keep(&self.state)
    }

    /// One build, or one run.
    fn step(&mut self, at: Place, lab: &mut impl Lab) -> Result<Option<Done>, Failure> {
        let commit = match at {
            Place::Good => self.state.question.good[0].clone(),
            Place::Commit(at) => self.commits.names[at].clone(),
        };
        let is_built = self.state.kernel(&commit).is_some_and(|it| it.state == BuildState::Built);
        if is_built && lab.has(&commit) {
            self.run(&commit, lab).map(|()| Some(Done::Run))
        } else {
            let built = self.build(&commit, lab)?;
            Ok(built.then_some(Done::Build))
        }
    }

    /// False if it came to nothing.
    fn build(&mut self, commit: &str, lab: &mut impl Lab) -> Result<bool, Failure> {
        let built = match lab.build(commit) {
            Ok(Some(built)) => built,
            Ok(None) => {
                self.state.ended = Some(BisectEnded::Interrupted);
                return Ok(false);
            }
            Err(failure) => {
                (self.state.ended, self.failure) = (Some(BisectEnded::Failed), Some(failure));
                return Ok(false);
            }
        };
        let kernel = BuiltKernel {
            commit: commit.to_owned(),
            state: if built.why_not.is_none() {
                BuildState::Built
            } else {
                BuildState::Unbuildable
            },
            took_ms: millis(built.took),
            why: built.why_not.unwrap_or_default(),
        };
        let is_built = kernel.state == BuildState::Built;
        self.state.kernels.push(kernel);
        // A new kernel is opened anew.
        self.open = None;
        if !is_built {
            self.give_up(commit)?;
        }
        Ok(true)
    }

    /// A commit's kernel cannot be tested: that says nothing of it, unless it is an end.
    fn give_up(&mut self, commit: &str) -> Result<(), Failure> {
        let question = &self.state.question;
        if commit == question.bad || commit == question.good[0] {
            self.state.ended = Some(BisectEnded::EndUntestable);
            return Ok(());
        }
        let at = self.commits.number(commit).ok_or_else(|| strange(commit))?;
        self.search.skip(at).map_err(internal)
    }

    /// One run, kept before and after.
    fn run(&mut self, commit: &str, lab: &mut impl Lab) -> Result<(), Failure> {
        let run = self.next_run(commit, lab.now_utc());
        self.state.runs.push(run);
        lab.keep(&self.state)?;
        let done = self.open(commit, lab).and_then(|()| {
            let terms = self.state.conditions.as_ref().map(|it| it.terms).unwrap_or_default();
            match self.state.runs.last_mut() {
                Some(run) => lab.run(&mut run.attempt, terms),
                None => Ok(()),
            }
        });
        if let Err(failure) = done {
            self.fail(failure);
        }
        self.judge();
        self.count(commit)
    }

    /// The next run of a commit's kernel. A run that is no answer is done again with the same seed.
    fn next_run(&self, commit: &str, started_utc: String) -> BisectRun {
        let trial = self.state.count(State::Measured).saturating_add(1);
        let before = self.state.runs.iter().filter(|run| run.attempt.trial == trial);
        let attempt = before.map(|run| run.attempt.attempt).max().unwrap_or(0).saturating_add(1);
        let seed = seed_of(self.state.question.seed, trial);
        let attempt = Attempt::begun(trial, attempt, String::new(), seed, started_utc);
        let mut run = BisectRun { commit: commit.to_owned(), hit: None, attempt };
        run.attempt.folder = run.folder();
        run
    }

    /// Makes sure that a commit's kernel is the one that is run, under the conditions of all others.
    fn open(&mut self, commit: &str, lab: &mut impl Lab) -> Result<(), Failure> {
        if self.open.as_deref() == Some(commit) {
            return Ok(());
        }
        self.open = None;
        let conditions = lab.open(commit)?;
        match &self.state.conditions {
            None => self.state.conditions = Some(conditions),
            Some(there) => check_alike(there, &conditions)?,
        }
        self.open = Some(commit.to_owned());
        Ok(())
    }

    /// A run that could not be done: the owner of the error decides what follows.
    fn fail(&mut self, failure: Failure) {
        let Some(run) = self.state.runs.last_mut() else { return };
        run.attempt.why = failure.to_string();
        if failure.status() == ExitStatus::Untestable {
            run.attempt.state = State::Untestable;
        } else {
            run.attempt.state = State::Failed;
            self.failure = Some(failure);
        }
    }

    /// Whether the last run is a hit, and whether it is an answer at all.
    fn judge(&mut self) {
        let hit = self.state.question.hit;
        let measured = |run: &&BisectRun| run.attempt.state == State::Measured && run.hit.is_some();
        let first = self.state.runs.iter().find(measured);
        let first_without = first.map(|run| run.attempt.cookies_missing);
        let Some(run) = self.state.runs.last_mut() else { return };
        let attempt = &mut run.attempt;
        if attempt.state != State::Measured {
            return;
        }
        let is_other = first_without.is_some_and(|without| without != attempt.cookies_missing);
        let found = match hit {
            Hit::Threshold { .. } => (!attempt.is_undecided()).then(|| attempt.failed()),
            Hit::Limit { metric, limit } => attempt.metrics.get(&metric).map(|it| *it > limit),
        };
        let why = match (is_other, found, hit) {
            (true, _, _) if attempt.cookies_missing => {
                "it has no core scheduling, and the first kernel had"
            }
            (true, _, _) => "it has core scheduling, and the first kernel had none",
            (false, None, Hit::Limit { .. }) => "it does not tell the figure of --metric",
            (false, None, Hit::Threshold { .. }) => {
                "a figure of --fail-if is not known, or may be the host's"
            }
            _ => "",
        };
        if !why.is_empty() {
            (attempt.state, attempt.why) = (State::Untestable, why.to_owned());
            return;
        }
        run.hit = found;
    }

    /// What the last run means for the search.
    fn count(&mut self, commit: &str) -> Result<(), Failure> {
        let Some(run) = self.state.runs.last() else { return Ok(()) };
        match (run.attempt.state, run.hit) {
            (State::Measured, Some(hit)) => {
                let made = Trials { hits: hit.into(), trials: 1 };
                let at = self.place(commit)?;
                self.search.record(at, made).map_err(internal)?;
            }
            (State::Interrupted, _) => self.state.ended = Some(BisectEnded::Interrupted),
            (State::Failed, _) => self.state.ended = Some(BisectEnded::Failed),
            (State::Contaminated, _) if self.is_host_unfit() => {
                self.state.ended = Some(BisectEnded::HostUnfit);
            }
            (State::Untestable, _) if self.failed_twice() => {
                let why = run.attempt.why.clone();
                let (commit, state) = (commit.to_owned(), BuildState::Untestable);
                self.give_up(&commit)?;
                self.state.kernels.push(BuiltKernel { commit, state, took_ms: 0, why });
            }
            _ => {}
        }
        Ok(())
    }

    fn place(&self, commit: &str) -> Result<Place, Failure> {
        place_of(commit, &self.state, &self.commits).ok_or_else(|| strange(commit))
    }

    /// Whether more of all runs were contaminated than may be.
    fn is_host_unfit(&self) -> bool {
        let of = u32::try_from(self.state.runs.len().max(CONTAMINATED_OF)).unwrap_or(u32::MAX);
        f64::from(self.state.count(State::Contaminated)) > CONTAMINATED_SHARE * f64::from(of)
    }

    /// Whether the last two runs found that this kernel cannot be tested.
    fn failed_twice(&self) -> bool {
        let [.., one, other] = self.state.runs.as_slice() else { return false };
        let is_untestable = |run: &BisectRun| run.attempt.state == State::Untestable;
        one.commit == other.commit && is_untestable(one) && is_untestable(other)
    }

    fn is_spent(&self) -> bool {
        let runs = u32::try_from(self.state.runs.len()).unwrap_or(u32::MAX);
        let spent = Duration::from_millis(self.state.spent_ms());
        self.limits.runs.is_some_and(|most| runs >= most)
            || self.limits.time.is_some_and(|most| spent >= most)
    }

    /// What builds and runs cost, and what is known.
    fn learn(&mut self) -> Result<(), Failure> {
        let costs = costs(&self.state);
        self.search.set_costs(costs).map_err(internal)?;
        self.state.known = self.search.time_to_go_s().map(|time_to_go_s| {
            let (candidates, more_candidates) = self.candidates();
            let question = &self.state.question;
            Knowledge {
                good: self.state.runs_of(&question.good[0]).into(),
                bad: self.state.runs_of(&question.bad).into(),
                candidates,
                more_candidates,
                costs,
                time_to_go_s,
            }
        });
        Ok(())
    }

    /// The most likely commits, and how many more there are.
    fn candidates(&self) -> (Vec<BisectCandidate>, usize) {
        let probabilities = self.search.probabilities();
        let mut order: Vec<_> = (0..probabilities.len()).collect();
        order.sort_by(|one, other| probabilities[*other].total_cmp(&probabilities[*one]));
        let mut sum = 0.0;
        let needed = order.iter().take_while(|at| {
            let is_needed = sum < CREDIBLE;
            sum += probabilities[**at];
            is_needed
        });
        let needed = needed.count();
        order.truncate(needed.min(TOLD_CANDIDATES));
        let candidates = order.iter().map(|at| BisectCandidate {
            commit: self.commits.names[*at].clone(),
            probability: probabilities[*at],
        });
        (candidates.collect(), needed.saturating_sub(TOLD_CANDIDATES))
    }

    fn found(&mut self, found: Vec<Candidate>, lab: &impl Lab) -> Result<BisectEnded, Failure> {
        let names = &self.commits.names;
        let question = &self.state.question;
        let described = found.iter().map(|Candidate { commit, probability }| {
            let described = lab.describe(&names[*commit], *probability)?;
            if question.paths.is_empty() {
                return Ok::<_, Failure>(described);
            }
            let parents = self.commits.parents[*commit].iter().map(|parent| &names[*parent]);
            let others: Vec<_> = parents.chain(&question.good).map(String::as_str).collect();
            let left_out = lab.count_before(&described.commit, &others)?;
            Ok(FoundCommit { left_out, ..described })
        });
        self.state.found = described.collect::<Result<_, Failure>>()?;
        Ok(BisectEnded::Found)
    }

    /// What kept it from an end, if something did.
    pub fn failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }
}

/// The search that a state stands for.
fn search_of(state: &Bisection, commits: &Commits) -> Result<Search, Failure> {
    let question = &state.question;
    if state.commits != commits.names.len() {
        return Err(Failure::request(format!(
            "the history has {} commits between the ends, and had {} when this search was begun; give \
             the repository back its history, or name another folder with --output",
            commits.names.len(),
            state.commits
        )));
    }
    let is_line = commits.parents.iter().enumerate().all(|(at, of_one)| match at.checked_sub(1) {
        Some(before) => *of_one == [before],
        None => of_one.is_empty(),
    });
    let made = match is_line {
        true => Search::new(commits.names.len(), COSTS),
        false => Search::of_graph(commits.parents.clone(), COSTS),
    };
    let mut search = made.map_err(|error| match error {
        SearchError::TooMany { .. } => Failure::request(format!(
            "{} commits between the ends are more than can be searched with their merges; add \
             --first-parent or --path, or give ends that are nearer",
            commits.names.len()
        )),
        error => internal(error),
    })?;
    search.set_max_end_trials(question.max_end_runs);
    for run in &state.runs {
        if let Some(hit) = run.hit {
            let at = place_of(&run.commit, state, commits).ok_or_else(|| strange(&run.commit))?;
            search.record(at, Trials { hits: hit.into(), trials: 1 }).map_err(internal)?;
        }
    }
    let given_up = state.kernels.iter().filter(|kernel| kernel.state != BuildState::Built);
    let skipped = question.skipped.iter().chain(given_up.map(|kernel| &kernel.commit));
    for at in skipped.filter_map(|commit| commits.number(commit)) {
        if at + 1 < commits.names.len() {
            search.skip(at).map_err(internal)?;
        }
    }
    Ok(search)
}

fn place_of(commit: &str, state: &Bisection, commits: &Commits) -> Option<Place> {
    match commits.number(commit) {
        Some(at) => Some(Place::Commit(at)),
        None => (state.question.good[0] == commit).then_some(Place::Good),
    }
}

/// By the medians of those that were done.
fn costs(state: &Bisection) -> Costs {
    let built = state.kernels.iter().filter(|kernel| kernel.state == BuildState::Built);
    let builds = built.map(|kernel| kernel.took_ms).collect();
    let done = state.runs.iter().filter(|run| run.attempt.state == State::Measured);
    let runs = done.map(|run| run.attempt.took_ms).collect();
    // A run that took no time at all is none.
    let trial_s = median_s(runs).unwrap_or(COSTS.trial_s).max(0.001);
    Costs { build_s: median_s(builds).unwrap_or(COSTS.build_s), trial_s }
}

/// The median of some times, in seconds; of an even number the greater one of the middle.
fn median_s(mut times_ms: Vec<u64>) -> Option<f64> {
    times_ms.sort_unstable();
    let middle = times_ms.get(times_ms.len() / 2)?;
    Some(Duration::from_millis(*middle).as_secs_f64())
}

/// What may differ between the runs of two kernels.
const IGNORED: [&str; 7] = [
    "seed",
    "kernel",
    "l2_kernel.path",
    "job.host_tsc_khz",
    "machine.cmdline",
    "host.load_average",
    "host.cgroup",
];

/// Whether a kernel is run as the others were.
fn check_alike(there: &Conditions, now: &Conditions) -> Result<(), Failure> {
    let found = alike::differences(there, now, &IGNORED)
        .map_err(|error| Failure::internal(error.to_string()))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::request(format!(
        "this kernel would not be run as those before it: {}; give what is listed as an option behind \
         `--`, or name another folder with --output",
        alike::list(&found)
    )))
}

/// What a threshold is in a file.
pub fn threshold(threshold: Duration) -> Hit {
    Hit::Threshold { threshold_ns: as_ns(threshold) }
}

fn strange(commit: &str) -> Failure {
    Failure::request(format!(
        "commit {commit} of the search is not between its ends; give the repository back its history, or \
         name another folder with --output"
    ))
}

fn internal(error: SearchError) -> Failure {
    Failure::internal(error.to_string())
}

#[cfg(test)]
#[path = "hunt_tests.rs"]
pub mod tests;
