// SPDX-License-Identifier: Apache-2.0
//! Histories in which one commit raises the probability of a hit.

use decision::bisect::{Costs, Place, Search, Step, Trials};

use super::random::Random;

/// What kernels and trials cost.
pub const COSTS: Costs = Costs { build_s: 400.0, trial_s: 35.0 };

/// A history and how often its kernels hit.
#[derive(Clone, Copy, Debug)]
pub struct History {
    pub commits: usize,
    pub good: f64,
    pub bad: f64,
    /// Share of commits that cannot be tested.
    pub skipped: f64,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    pub is_right: bool,
    /// The ends could not be told apart.
    pub is_given_up: bool,
    pub kernels: u32,
    pub trials: u32,
    pub candidates: usize,
}

impl Spent {
    fn hours(&self) -> f64 {
        let seconds = f64::from(self.kernels) * COSTS.build_s;
        (seconds + f64::from(self.trials) * COSTS.trial_s) / 3600.0
    }
}

/// One search on a history of its own, both ends built and tried at its cost.
pub fn search(history: History, seed: u64) -> Spent {
    let mut random = Random::new(seed);
    let culprit = random.below(history.commits);
    let mut search = Search::new(history.commits, COSTS).expect("a search");
    let mut spent = Spent::default();
    loop {
        match search.next() {
            Step::Run { at, trials } => {
                let is_bad = match at {
                    Place::Good => false,
                    Place::Commit(at) => at >= culprit,
                };
                if search.trials(at).trials == 0 {
                    spent.kernels += 1;
                    let is_end = at == Place::Good || at == Place::Commit(history.commits - 1);
                    if let Place::Commit(at) = at
                        && !is_end
                        && random.happens(history.skipped)
                    {
                        search.skip(at).expect("no end");
                        continue;
                    }
                }
                let rate = if is_bad { history.bad } else { history.good };
                let hits = (0..trials).map(|_| u32::from(random.happens(rate))).sum();
                spent.trials += trials;
                search.record(at, Trials { hits, trials }).expect("trials");
            }
            Step::Found(candidates) => {
                spent.is_right = candidates.iter().any(|one| one.commit == culprit);
                spent.candidates = candidates.len();
                return spent;
            }
            Step::Alike { .. } => {
                spent.is_given_up = true;
                return spent;
            }
        }
    }
}

/// `git bisect run` with up to so many trials a kernel, the first hit of which makes it bad.
pub fn plain(history: History, trials: u32, seed: u64) -> Spent {
    let mut random = Random::new(seed);
    let culprit = random.below(history.commits);
    let mut spent = Spent::default();
    let (mut low, mut high) = (0, history.commits - 1);
    while low < high {
        let at = (low + high) / 2;
        spent.kernels += 1;
        let rate = if at >= culprit { history.bad } else { history.good };
        let mut is_bad = false;
        for _ in 0..trials {
            spent.trials += 1;
            if random.happens(rate) {
                is_bad = true;
                break;
            }
        }
        if is_bad {
            high = at;
        } else {
            low = at + 1;
        }
    }
    spent.is_right = low == culprit;
    spent.candidates = 1;
    spent
}

/// Means over searches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Means {
    pub right: f64,
    pub given_up: f64,
    pub hours: f64,
    pub kernels: f64,
    pub trials: f64,
    pub candidates: f64,
}

pub fn means(count: u32, one: impl Fn(u64) -> Spent) -> Means {
    let mut means = Means::default();
    let part = 1.0 / f64::from(count);
    for seed in 0..count {
        let spent = one(0xb15e_c700 + u64::from(seed));
        means.right += part * f64::from(u8::from(spent.is_right));
        means.given_up += part * f64::from(u8::from(spent.is_given_up));
        means.hours += part * spent.hours();
        means.kernels += part * f64::from(spent.kernels);
        means.trials += part * f64::from(spent.trials);
        means.candidates += part * spent.candidates as f64;
    }
    means
}
