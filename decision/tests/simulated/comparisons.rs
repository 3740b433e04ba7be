// SPDX-License-Identifier: Apache-2.0
//! Many comparisons, in figures.

use decision::difference::Difference;
use decision::sequential::Answer;
use decision::signed_rank::SignedRank;

use super::host::{Host, Trials, difference};

/// Shares of comparisons.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub better: f64,
    pub same: f64,
    pub worse: f64,
    pub undecided: f64,
    /// The interval had the truth in it.
    pub covered: f64,
    /// Pairs until the answer, on average.
    pub pairs: f64,
}

/// `count` comparisons, each on a host of its own.
pub fn compare_many(kind: Trials, count: u32) -> Outcome {
    let mut outcome = Outcome::default();
    let part = 1.0 / f64::from(count);
    for seed in 0..count {
        let finding = Host::new(0x5eed_0000 + u64::from(seed)).compare(kind);
        match finding.answer {
            Answer::Better => outcome.better += part,
            Answer::Same => outcome.same += part,
            Answer::Worse => outcome.worse += part,
            Answer::Undecided => outcome.undecided += part,
        }
        // The answer "same" came by the margin; in all cases the interval is that of the look.
        if (finding.interval.low..=finding.interval.high).contains(&kind.ratio) {
            outcome.covered += part;
        }
        outcome.pairs += part * finding.look.pairs as f64;
    }
    outcome
}

/// False alarms of whoever looks after each pair from the sixth to the twentieth at 0.05.
pub fn peeking(kind: Trials, count: u32) -> f64 {
    let alarms = (0..count).filter(|seed| {
        let mut host = Host::new(0x5eed_0000 + u64::from(*seed));
        let pairs: Vec<_> = (0..20).map(|_| host.pair(kind)).collect();
        (6..=pairs.len()).any(|seen| p(&pairs[..seen]) <= 0.05)
    });
    f64::from(u32::try_from(alarms.count()).expect("at most all")) / f64::from(count)
}

/// False alarms of ten trials of the one and then ten of the other, compared trial by trial: what
/// the host did meanwhile is taken for a difference.
pub fn one_after_the_other(kind: Trials, count: u32) -> f64 {
    let alarms = (0..count).filter(|seed| {
        let mut host = Host::new(0x5eed_0000 + u64::from(*seed));
        let base: Vec<_> = (0..10).map(|_| host.trial(kind, false)).collect();
        let pairs: Vec<_> =
            base.into_iter().map(|base| difference(base, host.trial(kind, true))).collect();
        p(&pairs) <= 0.05
    });
    f64::from(u32::try_from(alarms.count()).expect("at most all")) / f64::from(count)
}

fn p(pairs: &[Difference]) -> f64 {
    SignedRank::new(pairs).expect("pairs").p()
}
