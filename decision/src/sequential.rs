// SPDX-License-Identifier: Apache-2.0
//! One comparison, looked at a few times while it goes on: better, same, worse or undecided.
//!
//! Whoever looks after each pair, and stops when the test says "different", is wrong far more often
//! than the test's level. Here the looks are fixed beforehand, and their levels are such that all of
//! them together call equal kernels different in at most 5 % of comparisons.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::difference::{Difference, ratio_to_halves};
use crate::interval::Interval;
use crate::signed_rank::SignedRank;

/// A look at the pairs so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// After so many pairs.
    pub pairs: usize,
    /// Two-sided level of the test at this look; the interval covers the rest of 1.
    pub level: f64,
}

/// The looks of every comparison. 0.0157 is just above 2/2⁷, the smallest probability that seven
/// pairs can have. docs/deciding.md has what they were found to come to.
pub const LOOKS: [Look; 4] = [
    Look { pairs: 7, level: 0.0157 },
    Look { pairs: 10, level: 0.0137 },
    Look { pairs: 14, level: 0.0107 },
    Look { pairs: 20, level: 0.0099 },
];

/// Which values of a metric are bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worse {
    /// Larger ones: waits, gaps.
    Larger,
    /// Smaller ones: fairness, throughput.
    Smaller,
}

/// What is asked, before anything is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    worse: Worse,
    margin_halves: i128,
}

impl Question {
    /// `min_effect` is the smallest change that matters: 0.1 for 10 %. Ratios from 1 / 1.1 to 1.1 are
    /// the same then. `None` where it is not finite or not above 0.
    pub fn new(worse: Worse, min_effect: f64) -> Option<Self> {
        let is_good = min_effect.is_finite() && min_effect > 0.0;
        is_good.then(|| Self { worse, margin_halves: ratio_to_halves(1.0 + min_effect) })
    }
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The other one is better than the base.
    Better,
    /// The interval lies within the smallest effect that matters, whether there is one or not.
    Same,
    /// The other one is worse than the base.
    Worse,
    /// Neither.
    Undecided,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The answer.
    pub answer: Answer,
    /// The look that gave it.
    pub look: Look,
    /// Two-sided, of the signed-rank test at that look: to be compared with its level.
    pub p: f64,
    /// Hodges and Lehmann's estimate of other / base (for shares: of their odds).
    pub ratio: f64,
    /// Ratios that the test does not reject at the level of the look: without 1 exactly if `p` is at
    /// most the level.
    pub interval: Interval,
}

/// Whether a comparison goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// More pairs are needed.
    GoOn {
        /// The next look comes after so many pairs in all.
        next_look_pairs: usize,
        /// What the last look found, which is [`Answer::Undecided`]; `None` before the first one.
        so_far: Option<Finding>,
    },
    /// It is over; further pairs change nothing.
    Decided(Finding),
}

/// Looks at the differences of all pairs so far, in the order in which they were measured.
///
/// The first look at which the interval lies within the smallest effect ("same"), or at which the
/// test says "different" ("better", "worse"), decides, in this order: a change that is certain, and
/// certainly too small to matter, is "same". Pairs behind that look are not looked at: the same
/// pairs give the same answer, whether it was asked for after each of them or at the end.
pub fn judge(question: Question, differences: &[Difference]) -> Progress {
    let mut last = None;
    for look in LOOKS {
        let test = differences.get(..look.pairs).and_then(SignedRank::new);
        let Some(test) = test else {
            let so_far = last.and_then(|(test, look)| find(question, &test, look));
            return Progress::GoOn { next_look_pairs: look.pairs, so_far };
        };
        let is_over = answer(question, &test, look) != Answer::Undecided;
        last = Some((test, look));
        if is_over {
            break;
        }
    }
    match last.and_then(|(test, look)| find(question, &test, look)) {
        Some(finding) => Progress::Decided(finding),
        None => Progress::GoOn { next_look_pairs: LOOKS[0].pairs, so_far: None },
    }
}

/// Looks at all pairs at once, with a two-sided `level` (0.05, say). Only where their number was not
/// chosen by looking at them: stored trials, each of which is taken.
///
/// `None` where the pairs are too few to tell anything at that level: fewer than 6 at 0.05.
pub fn judge_once(question: Question, differences: &[Difference], level: f64) -> Option<Finding> {
    let test = SignedRank::new(differences)?;
    find(question, &test, Look { pairs: differences.len(), level })
}

/// `None` where the pairs are too few for the level.
fn find(question: Question, test: &SignedRank, look: Look) -> Option<Finding> {
    let interval = test.interval(look.level)?;
    let answer = answer(question, test, look);
    Some(Finding { answer, look, p: test.p(), ratio: test.ratio(), interval })
}

fn answer(question: Question, test: &SignedRank, look: Look) -> Answer {
    if test.is_within(question.margin_halves, look.level) {
        return Answer::Same;
    }
    match (test.side(look.level), question.worse) {
        (Ordering::Equal, _) => Answer::Undecided,
        (Ordering::Greater, Worse::Larger) | (Ordering::Less, Worse::Smaller) => Answer::Worse,
        (Ordering::Less, Worse::Larger) | (Ordering::Greater, Worse::Smaller) => Answer::Better,
    }
}
