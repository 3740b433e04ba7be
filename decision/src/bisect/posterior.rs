// SPDX-License-Identifier: Apache-2.0
//! How likely each commit is the first bad one.

use super::{PRIOR, Search, Sides, Trials, evenly, mean};
use crate::special::ln_gamma;

/// ln B(hits + 1/2, misses + 1/2).
pub(super) fn ln_beta_of(done: Trials) -> f64 {
    let a = f64::from(done.hits) + PRIOR;
    let b = f64::from(done.trials - done.hits) + PRIOR;
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Commits from the first to the last, any of which parts the trials in the same way.
struct Stretch {
    commits: usize,
    sides: Sides,
}

/// Between two kernels that have trials, all commits part them alike.
fn stretches(search: &Search) -> Vec<Stretch> {
    let mut sides = Sides { good: search.good, bad: Trials::default() };
    for done in search.tested.values() {
        sides.bad.add(*done);
    }
    let mut begin = 0;
    let mut found = Vec::with_capacity(search.tested.len() + 1);
    for (at, done) in &search.tested {
        found.push(Stretch { commits: at + 1 - begin, sides });
        begin = at + 1;
        // From the next commit on, this one would be good.
        sides.good.add(*done);
        sides.bad.hits -= done.hits.min(sides.bad.hits);
        sides.bad.trials -= done.trials.min(sides.bad.trials);
    }
    if begin < search.commits {
        found.push(Stretch { commits: search.commits - begin, sides });
    }
    found
}

/// Bayes' rule, from commits that are as likely as each other.
pub(super) fn probabilities(search: &Search) -> Vec<f64> {
    let stretches = stretches(search);
    let evidence: Vec<_> = stretches.iter().map(|stretch| stretch.sides.ln_evidence()).collect();
    let most = evidence.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut probabilities = Vec::with_capacity(search.commits);
    let mut total = 0.0;
    for (stretch, evidence) in stretches.iter().zip(evidence) {
        let likely = (evidence - most).exp() * evenly(search.commits);
        for _ in 0..stretch.commits {
            probabilities.push(likely);
            total += likely;
        }
    }
    for probability in &mut probabilities {
        *probability /= total;
    }
    probabilities
}

/// If the first bad commit is in a stretch: how likely that is, and what a trial is expected to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    /// The first commit of the stretch.
    pub begin: usize,
    /// The probability of the whole stretch.
    pub likely: f64,
    /// The expected probability of a hit on a good kernel, and on a bad one.
    pub rates: [f64; 2],
}

/// What is believed, a stretch an entry.
pub(super) fn beliefs(search: &Search, probabilities: &[f64]) -> Vec<Belief> {
    let mut begin = 0;
    let mut beliefs = Vec::with_capacity(search.tested.len() + 1);
    for Stretch { commits, sides } in stretches(search) {
        let likely = probabilities[begin..begin + commits].iter().sum();
        beliefs.push(Belief { begin, likely, rates: [mean(sides.good), mean(sides.bad)] });
        begin += commits;
    }
    beliefs
}
