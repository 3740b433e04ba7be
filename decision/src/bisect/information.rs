// SPDX-License-Identifier: Apache-2.0
//! What trials of a kernel are expected to tell of the first bad commit.

use super::posterior::{Belief, beliefs};
use super::{MAX_BATCH, Place, Search, Step};
use crate::real;

/// Numbers of hits in a batch, with their probabilities on a good and on a bad kernel.
#[derive(Debug)]
struct Batch {
    trials: u32,
    outcomes: Vec<[f64; 2]>,
}

impl Batch {
    fn new(trials: u32, rates: [f64; 2]) -> Self {
        let mut outcomes = vec![[1.0, 1.0]];
        // One trial more: as many hits as before and a miss, or one fewer and a hit.
        for _ in 0..trials {
            let mut more = vec![[0.0; 2]; outcomes.len() + 1];
            for (hits, likely) in outcomes.iter().enumerate() {
                for side in 0..2 {
                    more[hits][side] += likely[side] * (1.0 - rates[side]);
                    more[hits + 1][side] += likely[side] * rates[side];
                }
            }
            outcomes = more;
        }
        Self { trials, outcomes }
    }

    /// Expected logarithms of how much likelier the outcome is on a good kernel, and on a bad one,
    /// than it is if the kernel is bad with the probability `is_bad`.
    fn surprises(&self, is_bad: f64) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for likely in &self.outcomes {
            let mixed = (1.0 - is_bad) * likely[0] + is_bad * likely[1];
            for side in 0..2 {
                if likely[side] > 0.0 && mixed > 0.0 {
                    sums[side] += likely[side] * (likely[side] / mixed).ln();
                }
            }
        }
        sums
    }

    /// The expected information, in nats.
    fn information(&self, is_bad: f64) -> f64 {
        let [good, bad] = self.surprises(is_bad);
        (1.0 - is_bad) * good + is_bad * bad
    }

    /// Whether kernels that are bad with more probability tell more.
    fn rises(&self, is_bad: f64) -> bool {
        let [good, bad] = self.surprises(is_bad);
        bad > good
    }
}

/// The expected information, in nats, of one more trial of a kernel that has some. Not only of which
/// side the kernel is on: how often it hits tells apart beliefs of how often good and bad ones do.
fn of_one_more(search: &Search, beliefs: &[Belief], at: Place) -> f64 {
    let (mut mixed, mut known) = (0.0, 0.0);
    for belief in beliefs {
        let is_bad = matches!(at, Place::Commit(at) if search.history.contains(at, belief.first));
        let rate = belief.rates[usize::from(is_bad)];
        mixed += belief.likely * rate;
        known += belief.likely * entropy(rate);
    }
    entropy(mixed) - known
}

/// Of a hit with this probability, in nats.
fn entropy(rate: f64) -> f64 {
    let rate = rate.clamp(f64::MIN_POSITIVE, 1.0 - f64::EPSILON);
    -rate * rate.ln() - (1.0 - rate) * (-rate).ln_1p()
}

/// The step with most information per second, and how much that is; `None` if none has any.
pub(super) fn most_per_second(search: &Search, probabilities: &[f64]) -> Option<(Step, f64)> {
    let beliefs = beliefs(search, probabilities);
    let costs = search.costs;
    let mut best = Best { per_second: 0.0, step: None };
    // The second trial of a kernel tells less than the first: of those that are built, one at a time.
    let built = search.tested.keys().filter(|at| !search.skipped.contains(at));
    for at in built.map(|at| Place::Commit(*at)).chain([Place::Good]) {
        best.offer(of_one_more(search, &beliefs, at) / costs.trial_s, at, 1);
    }
    let rates = [0, 1].map(|side| beliefs.iter().map(|it| it.likely * it.rates[side]).sum());
    let is_bad: Vec<_> =
        search.history.sums(probabilities).iter().map(|sum| f64::min(*sum, 1.0)).collect();
    let is_new = |at: &usize| !search.tested.contains_key(at) && !search.skipped.contains(at);
    let mut new: Vec<_> = (0..search.commits()).filter(is_new).collect();
    let given_up: Vec<_> = search.skipped.iter().copied().collect();
    // Along a line they are in this order already.
    new.sort_by(|one, other| is_bad[*one].total_cmp(&is_bad[*other]));
    for trials in 1..=MAX_BATCH {
        let batch = Batch::new(trials, rates);
        let cost_s = costs.build_s + f64::from(batch.trials) * costs.trial_s;
        // As the probability of being bad rises, information rises with it and falls again: the most
        // is on one side of where it turns.
        let turn = new.partition_point(|at| batch.rises(is_bad[*at]));
        for at in around(turn, given_up.len()).filter_map(|place| new.get(place)) {
            let expected = batch.information(is_bad[*at]) * testable(*at, &given_up);
            best.offer(expected / cost_s, Place::Commit(*at), batch.trials);
        }
    }
    let Best { per_second, step } = best;
    step.map(|step| (step, per_second))
}

/// Places on both sides of where information turns: the next ones, and where commits were skipped also
/// some that are further away, each twice as far as the one before.
fn around(turn: usize, skipped: usize) -> impl Iterator<Item = usize> {
    let steps = if skipped == 0 { 1 } else { usize::BITS };
    (0..steps).flat_map(move |step| {
        let far = 1usize << step;
        // What wraps around is no place.
        [turn.wrapping_sub(far), turn.wrapping_add(far - 1)]
    })
}

/// The probability that a commit can be tested, as far as skipped ones tell: what is broken is broken
/// for a while. So a range that cannot be built is left in steps that become longer.
fn testable(at: usize, skipped: &[usize]) -> f64 {
    /// More of them do not make others less likely to be tested.
    const MOST: usize = 32;
    let after = skipped.partition_point(|one| *one < at);
    let before = after.checked_sub(1).and_then(|place| skipped.get(place));
    let near = [before, skipped.get(after)].into_iter().flatten().map(|one| one.abs_diff(at)).min();
    near.map_or(1.0, |near| real(near) / real(near + skipped.len().min(MOST)))
}

/// The best step so far.
struct Best {
    per_second: f64,
    step: Option<Step>,
}

impl Best {
    /// Takes it if it is better; of those that are as good, the first stays.
    fn offer(&mut self, per_second: f64, at: Place, trials: u32) {
        if per_second > self.per_second {
            self.per_second = per_second;
            self.step = Some(Step::Run { at, trials });
        }
    }
}
