// SPDX-License-Identifier: Apache-2.0
//! Trials of kernels on a host that drifts, and that spoils some of them.

use decision::difference::{Difference, Scale};
use decision::sequential::{Finding, LOOKS, Progress, Question, Worse, judge};

use super::random::Random;

/// What trials are like.
#[derive(Clone, Copy, Debug)]
pub struct Trials {
    /// Other / base, in truth.
    pub ratio: f64,
    /// Standard deviation of the logarithm, of trials on a host that stands still.
    pub deviation: f64,
    /// Share of trials that the host makes 1.5 to 3 times as long.
    pub contaminated: f64,
}

/// The host's speed from trial to trial: AR(1), 0.9, with steps of 5 %, which makes 11.5 % in all.
#[derive(Debug)]
pub struct Host {
    pub random: Random,
    drift: f64,
}

impl Host {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let drift = random.normal() * 0.05 / f64::sqrt(1.0 - 0.9 * 0.9);
        Self { random, drift }
    }

    /// One trial, in ns.
    pub fn trial(&mut self, kind: Trials, is_other: bool) -> f64 {
        self.drift = 0.9 * self.drift + 0.05 * self.random.normal();
        let mut log = self.drift + kind.deviation * self.random.normal();
        if self.random.happens(kind.contaminated) {
            log += (1.5 + 1.5 * self.random.uniform()).ln();
        }
        let truth = if is_other { kind.ratio } else { 1.0 };
        20e6 * truth * log.exp()
    }

    /// One pair in random order.
    pub fn pair(&mut self, kind: Trials) -> Difference {
        let is_other_first = self.random.happens(0.5);
        let first = self.trial(kind, is_other_first);
        let second = self.trial(kind, !is_other_first);
        let (base, other) = if is_other_first { (second, first) } else { (first, second) };
        difference(base, other)
    }

    /// One comparison to its end.
    pub fn compare(&mut self, kind: Trials) -> Finding {
        let question = Question::new(Worse::Larger, 0.1).expect("an effect");
        let pairs: Vec<_> = (0..LOOKS[LOOKS.len() - 1].pairs).map(|_| self.pair(kind)).collect();
        match judge(question, &pairs) {
            Progress::Decided(finding) => finding,
            Progress::GoOn { .. } => panic!("all pairs are there"),
        }
    }
}

pub fn difference(base: f64, other: f64) -> Difference {
    Scale::LENGTHS_NS.difference(base, other).expect("lengths")
}
