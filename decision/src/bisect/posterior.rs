// SPDX-License-Identifier: Apache-2.0
//! How likely each commit is the first bad one.

use super::{PRIOR, Search, Sides, Trials, mean};
use crate::special::ln_gamma;

/// ln B(hits + 1/2, misses + 1/2).
pub(super) fn ln_beta_of(done: Trials) -> f64 {
    let a = f64::from(done.hits) + PRIOR;
    let b = f64::from(done.trials - done.hits) + PRIOR;
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Commits any of which parts the trials in the same way.
struct Alike {
    commits: Vec<usize>,
    sides: Sides,
}

/// Commits that are in the same kernels of those that have trials part them alike.
fn alike(search: &Search) -> Vec<Alike> {
    let groups = search.history.groups(search.tested.keys().copied());
    let sided = groups.into_iter().map(|commits| {
        let mut sides = Sides { good: search.good, bad: Trials::default() };
        for (at, done) in &search.tested {
            match search.history.contains(*at, commits[0]) {
                true => sides.bad.add(*done),
                false => sides.good.add(*done),
            }
        }
        Alike { commits, sides }
    });
    sided.collect()
}

/// Bayes' rule, from commits that are as likely as each other.
pub(super) fn probabilities(search: &Search) -> Vec<f64> {
    let alike = alike(search);
    let evidence: Vec<_> = alike.iter().map(|group| group.sides.ln_evidence()).collect();
    let most = evidence.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut probabilities = vec![0.0; search.commits()];
    let mut total = 0.0;
    for (group, evidence) in alike.iter().zip(evidence) {
        let likely = (evidence - most).exp() * search.history.prior();
        for at in &group.commits {
            probabilities[*at] = likely;
            total += likely;
        }
    }
    for probability in &mut probabilities {
        *probability /= total;
    }
    probabilities
}

/// If the first bad commit is one of some that part the trials alike: how likely that is, and what a
/// trial is expected to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    /// The first of them, which stands for all.
    pub first: usize,
    /// The probability that it is one of them.
    pub likely: f64,
    /// The expected probability of a hit on a good kernel, and on a bad one.
    pub rates: [f64; 2],
}

/// What is believed, an entry for each way in which the trials are parted.
pub(super) fn beliefs(search: &Search, probabilities: &[f64]) -> Vec<Belief> {
    let believed = alike(search).into_iter().map(|Alike { commits, sides }| Belief {
        first: commits[0],
        likely: commits.iter().map(|at| probabilities[*at]).sum(),
        rates: [mean(sides.good), mean(sides.bad)],
    });
    believed.collect()
}
