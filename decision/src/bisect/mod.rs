// SPDX-License-Identifier: Apache-2.0
//! The first bad commit of a history, by trials that hit only now and then.
//!
//! A trial of a kernel hits (a gap over the threshold, say) with one probability where the commit
//! that is looked for is not in it, and with a higher one where it is. History is a line, or a graph
//! with merges ([`Search::of_graph`]). Neither is known: both are learned, at the
//! two ends first, then everywhere. After each batch of trials every commit has a probability of
//! being the first bad one, and the next batch is where the expected information per second is
//! largest: a trial of a kernel that is built costs only the trial.
//!
//! A [`Search`] is plain data: stored after each step, it goes on where it was, and the same trials
//! lead to the same steps.

mod history;
mod information;
mod posterior;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::interval::Interval;
use crate::real;
use crate::special::beta_quantile;

use self::history::History;
pub use self::history::MAX_GRAPH;

/// Trials of each end before anything is said of them.
pub const MIN_END_TRIALS: u32 = 10;
/// Trials of each end after which ends that cannot be told apart are given up, if nobody says otherwise.
pub const MAX_END_TRIALS: u32 = 100;
/// Trials of a kernel that was built for them, at most.
const MAX_BATCH: u32 = 14;
/// The search ends where the first bad commit is known with this probability. Higher than the 0.95
/// that it is to come to: that is the mean over all rates which the prior has, and some are harder.
const CONFIDENCE: f64 = 0.97;
/// Of the intervals of both ends.
const END_CONFIDENCE: f64 = 0.95;
/// Jeffreys' prior of a probability, Beta(1/2, 1/2).
const PRIOR: f64 = 0.5;

/// A search that cannot be, or a step that is none of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// Nothing lies between the ends.
    #[error("there is no commit between the good end and the bad one; give two that differ")]
    NoCommits,
    /// A cost is not a time.
    #[error("a trial must cost some time, and a kernel a time that is not below 0")]
    Costs,
    /// A commit that the history does not have.
    #[error("the history has {commits} commits, and none with the number {at}")]
    NoCommit {
        /// The number.
        at: usize,
        /// Commits of the history.
        commits: usize,
    },
    /// More trials hit than were made.
    #[error("{hits} of {trials} trials cannot have hit")]
    Hits {
        /// Those that hit.
        hits: u32,
        /// All of them.
        trials: u32,
    },
    /// A history is too large for what is kept of each pair of its commits.
    #[error("{commits} commits with merges are more than {MAX_GRAPH}; give ends that are nearer")]
    TooMany {
        /// How many.
        commits: usize,
    },
    /// A parent does not stand before its child.
    #[error("commit {at} has parent {parent}, which does not stand before it")]
    Order {
        /// The child.
        at: usize,
        /// The parent.
        parent: usize,
    },
    /// A commit is not in the bad end.
    #[error("commit {at} is not in the bad end")]
    Outside {
        /// Its number.
        at: usize,
    },
    /// The bad end was skipped.
    #[error("commit {at} cannot be skipped: it is the bad end")]
    Skipped {
        /// Its number.
        at: usize,
    },
}

/// What kernels and trials cost, in seconds. As measured, as soon as anything is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// To build a kernel.
    pub build_s: f64,
    /// One trial: boot and measurement.
    pub trial_s: f64,
}

/// A kernel of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The good end, which is in front of the first commit.
    Good,
    /// A commit by its number: from 0, the oldest one after the good end, to the bad end.
    Commit(usize),
}

/// Trials of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trials {
    /// Those that hit.
    pub hits: u32,
    /// All of them.
    pub trials: u32,
}

impl Trials {
    fn add(&mut self, other: Self) {
        self.hits = self.hits.saturating_add(other.hits);
        self.trials = self.trials.saturating_add(other.trials);
    }

    /// Jeffreys' interval of the probability of a hit.
    pub fn interval(self) -> Interval {
        let (hits, misses) = (f64::from(self.hits), f64::from(self.trials - self.hits));
        let (a, b) = (hits + PRIOR, misses + PRIOR);
        let outside = 0.5 * (1.0 - END_CONFIDENCE);
        let low = if self.hits == 0 { 0.0 } else { beta_quantile(a, b, outside) };
        let high = if self.hits == self.trials { 1.0 } else { beta_quantile(a, b, 1.0 - outside) };
        Interval { low, high, coverage: END_CONFIDENCE }
    }
}

/// A commit that may be the first bad one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its number.
    pub commit: usize,
    /// The probability that it is.
    pub probability: f64,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Trials of this kernel, which is to be built where it is not. What cannot be built, or does
    /// not boot, is skipped instead.
    Run {
        /// The kernel.
        at: Place,
        /// So many trials; fewer may be recorded as well.
        trials: u32,
    },
    /// The end: one of these is the first bad commit with a probability of 0.97 or more. Several
    /// only where those between them were skipped. The oldest first.
    Found(Vec<Candidate>),
    /// The end: the two ends cannot be told apart, or the good one hits more often.
    Alike {
        /// Trials of the good end.
        good: Trials,
        /// Trials of the bad end.
        bad: Trials,
    },
}

/// A search and all that it has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
#[serde(into = "Stored")]
pub struct Search {
    history: History,
    costs: Costs,
    max_end_trials: u32,
    good: Trials,
    tested: BTreeMap<usize, Trials>,
    skipped: BTreeSet<usize>,
}

/// A search as it was stored, by whomever.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    commits: usize,
    /// Of a history with merges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parents: Option<Vec<Vec<usize>>>,
    max_end_trials: u32,
    costs: Costs,
    good: Trials,
    tested: BTreeMap<usize, Trials>,
    skipped: BTreeSet<usize>,
}

impl TryFrom<Stored> for Search {
    type Error = SearchError;

    fn try_from(stored: Stored) -> Result<Self, SearchError> {
        let mut search = match stored.parents {
            None => Self::new(stored.commits, stored.costs)?,
            Some(parents) => Self::of_graph(parents, stored.costs)?,
        };
        search.max_end_trials = stored.max_end_trials;
        search.record(Place::Good, stored.good)?;
        for (at, trials) in stored.tested {
            search.record(Place::Commit(at), trials)?;
        }
        for at in stored.skipped {
            search.skip(at)?;
        }
        Ok(search)
    }
}

impl From<Search> for Stored {
    fn from(search: Search) -> Self {
        let commits = search.commits();
        let Search { history, costs, max_end_trials, good, tested, skipped } = search;
        let parents = match history {
            History::Line(_) => None,
            History::Graph(graph) => Some(graph.parents),
        };
        Self { commits, parents, costs, max_end_trials, good, tested, skipped }
    }
}

impl Search {
    /// Of a history of `commits`, the last of which is the bad end; the good end is in front of the
    /// first.
    ///
    /// # Errors
    /// There are no commits, or costs that are none.
    pub fn new(commits: usize, costs: Costs) -> Result<Self, SearchError> {
        Self::of(History::line(commits), costs)
    }

    /// Of a history with merges, an entry a commit: the numbers of its parents, as far as they are among
    /// the commits. Parents stand before their children; the last commit is the bad end, and has all
    /// others in it.
    ///
    /// # Errors
    /// There are no commits, more than [`MAX_GRAPH`], or not such ones; or costs that are none.
    pub fn of_graph(parents: Vec<Vec<usize>>, costs: Costs) -> Result<Self, SearchError> {
        Self::of(
            if parents.is_empty() { History::line(0) } else { History::graph(parents)? },
            costs,
        )
    }

    fn of(history: History, costs: Costs) -> Result<Self, SearchError> {
        if history.commits() == 0 {
            return Err(SearchError::NoCommits);
        }
        let mut search = Self {
            history,
            costs,
            max_end_trials: MAX_END_TRIALS,
            good: Trials::default(),
            tested: BTreeMap::new(),
            skipped: BTreeSet::new(),
        };
        search.set_costs(costs)?;
        Ok(search)
    }

    /// Ends that cannot be told apart after so many trials of each are given up; not before the least
    /// that each has.
    pub fn set_max_end_trials(&mut self, trials: u32) {
        self.max_end_trials = trials.max(MIN_END_TRIALS);
    }

    /// What a kernel and a trial were found to cost.
    ///
    /// # Errors
    /// They are no times.
    pub fn set_costs(&mut self, costs: Costs) -> Result<(), SearchError> {
        let Costs { build_s, trial_s } = costs;
        let is_time = build_s.is_finite() && build_s >= 0.0 && trial_s.is_finite() && trial_s > 0.0;
        if !is_time {
            return Err(SearchError::Costs);
        }
        self.costs = costs;
        Ok(())
    }

    /// Trials that were made; from then on the kernel counts as built.
    ///
    /// # Errors
    /// There is no such commit, or there cannot be such trials.
    pub fn record(&mut self, at: Place, made: Trials) -> Result<(), SearchError> {
        let Trials { hits, trials } = made;
        if hits > trials {
            return Err(SearchError::Hits { hits, trials });
        }
        match at {
            Place::Good => self.good.add(made),
            Place::Commit(at) => {
                self.check(at)?;
                self.tested.entry(at).or_default().add(made);
            }
        }
        Ok(())
    }

    /// This commit cannot be tested, or no longer, which tells nothing of it. Trials that it has stay.
    ///
    /// # Errors
    /// There is no such commit, or it is the bad end.
    pub fn skip(&mut self, at: usize) -> Result<(), SearchError> {
        self.check(at)?;
        if at + 1 == self.commits() {
            return Err(SearchError::Skipped { at });
        }
        self.skipped.insert(at);
        Ok(())
    }

    fn check(&self, at: usize) -> Result<(), SearchError> {
        let commits = self.commits();
        if at < commits { Ok(()) } else { Err(SearchError::NoCommit { at, commits }) }
    }

    /// Trials of a kernel so far.
    pub fn trials(&self, at: Place) -> Trials {
        match at {
            Place::Good => self.good,
            Place::Commit(at) => self.tested.get(&at).copied().unwrap_or_default(),
        }
    }

    /// Commits of the history.
    pub fn commits(&self) -> usize {
        self.history.commits()
    }

    /// The probability that each commit's kernel is bad: that the first bad commit is in it.
    pub fn probabilities_bad(&self) -> Vec<f64> {
        self.history.sums(&self.probabilities())
    }

    /// Whether a commit's kernel has another commit in it.
    pub fn contains(&self, kernel: usize, commit: usize) -> bool {
        self.history.contains(kernel, commit)
    }

    /// What is to be done next. Asked twice, it is the same.
    pub fn next(&self) -> Step {
        if let Some(step) = self.next_of_ends() {
            return step;
        }
        let probabilities = self.probabilities();
        if let Some(found) = self.known_enough(&probabilities) {
            return Step::Found(found);
        }
        // Somewhere there is something to learn as long as two kernels may be the first bad one.
        let most = information::most_per_second(self, &probabilities);
        most.map_or_else(|| Step::Found(most_probable(&probabilities)), |(step, _)| step)
    }

    /// The end, if it has come: commits that cannot be parted and are likely enough together.
    fn known_enough(&self, probabilities: &[f64]) -> Option<Vec<Candidate>> {
        let is_tested = |at: usize| self.tested.contains_key(&at);
        let parts = (0..self.commits()).map(|at| is_tested(at) || !self.skipped.contains(&at));
        // What the trials of one that was skipped after them leave open, no more trials of it close.
        let goes_on = (0..self.commits()).map(|at| !self.skipped.contains(&at));
        let ways = [parts.collect::<Vec<_>>(), goes_on.collect()].into_iter();
        let mut found = ways.map(|parting| self.most_likely(probabilities, &parting));
        found.find(|found| found.iter().map(|it| it.probability).sum::<f64>() >= CONFIDENCE)
    }

    /// Roughly how long the search goes on, in seconds: what is not known of the first bad commit, at
    /// the pace at which the next step tells it. `None` while the ends are not told apart; 0 at the
    /// end.
    pub fn time_to_go_s(&self) -> Option<f64> {
        if self.next_of_ends().is_some() {
            return None;
        }
        let probabilities = self.probabilities();
        if self.known_enough(&probabilities).is_some() {
            return Some(0.0);
        }
        let (_, per_second) = information::most_per_second(self, &probabilities)?;
        // Commits that no trial parts are one.
        let mut parted = vec![0.0; self.commits()];
        let goes_on: Vec<_> = (0..self.commits()).map(|at| !self.skipped.contains(&at)).collect();
        for (at, like) in self.history.inseparable(&goes_on).into_iter().enumerate() {
            parted[like] += probabilities[at];
        }
        let unknown: f64 = parted.iter().filter(|one| **one > 0.0).map(|one| -one * one.ln()).sum();
        Some(unknown / per_second)
    }

    /// The probability that each commit is the first bad one. They sum to 1.
    pub fn probabilities(&self) -> Vec<f64> {
        posterior::probabilities(self)
    }

    /// The trials that the ends still need; `None` if they are told apart.
    fn next_of_ends(&self) -> Option<Step> {
        let bad_end = Place::Commit(self.commits() - 1);
        let (good, bad) = (self.good, self.trials(bad_end));
        // In turn from the first on: a host that changes meanwhile does so for both.
        let (at, fewer) = match good.trials <= bad.trials {
            true => (Place::Good, good.trials),
            false => (bad_end, bad.trials),
        };
        if fewer < MIN_END_TRIALS {
            return Some(Step::Run { at, trials: 1 });
        }
        if bad.interval().low > good.interval().high {
            return None;
        }
        let is_hopeless = good.interval().low > bad.interval().high;
        if is_hopeless || fewer >= self.max_end_trials {
            return Some(Step::Alike { good, bad });
        }
        Some(Step::Run { at, trials: 1 })
    }

    /// The commits that none of the `parting` kernels parts, as likely together as any: one, and those
    /// whose kernels do not part and that are in the same ones.
    fn most_likely(&self, probabilities: &[f64], parting: &[bool]) -> Vec<Candidate> {
        let like = self.history.inseparable(parting);
        let mut sums = vec![0.0; self.commits()];
        for (at, group) in like.iter().enumerate() {
            sums[*group] += probabilities[at];
        }
        let mut best = 0;
        for (group, sum) in sums.iter().enumerate() {
            if *sum > sums[best] {
                best = group;
            }
        }
        let found = like.iter().enumerate().filter(|(_, group)| **group == best);
        found.map(|(commit, _)| Candidate { commit, probability: probabilities[commit] }).collect()
    }
}

/// Trials of all kernels that are good, and of all that are bad, if a commit is the first bad one.
#[derive(Clone, Copy, Debug, Default)]
struct Sides {
    good: Trials,
    bad: Trials,
}

impl Sides {
    /// The logarithm of the probability of exactly these trials, the probabilities of a hit being
    /// unknown, but for a constant.
    fn ln_evidence(self) -> f64 {
        posterior::ln_beta_of(self.good) + posterior::ln_beta_of(self.bad)
    }
}

/// As few commits as are likely enough together, the oldest first.
fn most_probable(probabilities: &[f64]) -> Vec<Candidate> {
    let of_all = probabilities.iter().copied().enumerate();
    let mut order: Vec<_> =
        of_all.map(|(commit, probability)| Candidate { commit, probability }).collect();
    order.sort_by(|one, other| other.probability.total_cmp(&one.probability));
    let mut sum = 0.0;
    let needed = order.iter().take_while(|it| {
        let is_needed = sum < CONFIDENCE;
        sum += it.probability;
        is_needed
    });
    let needed = needed.count();
    order.truncate(needed);
    order.sort_by_key(|it| it.commit);
    order
}

/// The expected probability of a hit after these trials.
fn mean(done: Trials) -> f64 {
    (f64::from(done.hits) + PRIOR) / (f64::from(done.trials) + 2.0 * PRIOR)
}

/// One of so many, as likely as each other.
fn evenly(count: usize) -> f64 {
    1.0 / real(count)
}
