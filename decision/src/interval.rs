// SPDX-License-Identifier: Apache-2.0
//! What the trials of one kernel tell: the median with an interval that assumes no distribution,
//! and a share of trials (over the threshold, say) with Clopper and Pearson's.

use serde::{Deserialize, Serialize};

use crate::real;
use crate::special::{beta_cdf, beta_quantile};

/// An interval for something that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end, which belongs to it. Unit of the values.
    pub low: f64,
    /// The upper end, which belongs to it.
    pub high: f64,
    /// The probability with which such an interval has the true value in it, at least.
    pub coverage: f64,
}

/// The median of trials.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// The middle value, or the mean of the two middle ones. Unit of the values.
    pub median: f64,
    /// Between two of the values. `None` where there are too few for the confidence that was asked
    /// for: fewer than 6 for 95 %, fewer than 8 for 99 %.
    pub interval: Option<Interval>,
}

impl Median {
    /// Of values in any order, with an interval that has the true median in it with at least
    /// `confidence` (0.95, say).
    ///
    /// The interval goes from the k-th smallest value to the k-th largest, for the largest k with
    /// 1 - 2 P(Binomial(n, 1/2) < k) ≥ `confidence`; `coverage` is that probability. It holds for any
    /// distribution of independent trials; where values are equal it is at least that.
    ///
    /// `None` without values, and where a value is not finite.
    pub fn new(values: &[f64], confidence: f64) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let count = sorted.len();
        let median = 0.5 * sorted[(count - 1) / 2] + 0.5 * sorted[count / 2];
        let rank = median_rank(count, confidence);
        let interval = (rank > 0).then(|| Interval {
            low: sorted[rank - 1],
            high: sorted[count - rank],
            coverage: median_coverage(count, rank),
        });
        Some(Self { median, interval })
    }
}

/// The probability that the median lies from the `rank`-th smallest (from 1) of `count` values to
/// the `rank`-th largest.
fn median_coverage(count: usize, rank: usize) -> f64 {
    // P(Binomial(n, 1/2) < k) is the probability that a Beta(n - k + 1, k) is at most 1/2.
    1.0 - 2.0 * beta_cdf(real(count - rank + 1), real(rank), 0.5)
}

/// The largest rank whose interval has at least this confidence; 0 where none has.
fn median_rank(count: usize, confidence: f64) -> usize {
    // Coverage falls as the rank rises.
    let (mut enough, mut too_much) = (0, count / 2 + 1);
    while too_much - enough > 1 {
        let rank = enough.midpoint(too_much);
        // Sums of exact fractions may come out some bits short of them.
        if median_coverage(count, rank) >= confidence - 1e-12 {
            enough = rank;
        } else {
            too_much = rank;
        }
    }
    enough
}

/// How many of some trials had a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Trials that had it.
    pub hits: u64,
    /// All trials.
    pub trials: u64,
}

impl Share {
    /// `None` where more had it than there are.
    pub fn new(hits: u64, trials: u64) -> Option<Self> {
        (hits <= trials).then_some(Self { hits, trials })
    }

    /// Clopper and Pearson's interval of the probability: each end is left out by at most half of
    /// 1 - `confidence`. 0 to 1 without trials.
    pub fn interval(self, confidence: f64) -> Interval {
        let one_side = 0.5 + 0.5 * confidence;
        Interval {
            low: self.at_least(one_side),
            high: self.at_most(one_side),
            coverage: confidence,
        }
    }

    /// The probability is at most this, with this confidence: 0.26 after 0 of 10 trials, at 95 %.
    /// One-sided; 1 without trials.
    pub fn at_most(self, confidence: f64) -> f64 {
        if self.hits >= self.trials {
            return 1.0;
        }
        beta_quantile(count(self.hits) + 1.0, count(self.trials - self.hits), confidence)
    }

    /// The probability is at least this, with this confidence. One-sided; 0 without hits.
    pub fn at_least(self, confidence: f64) -> f64 {
        if self.hits == 0 {
            return 0.0;
        }
        beta_quantile(count(self.hits), count(self.trials - self.hits) + 1.0, 1.0 - confidence)
    }
}

fn count(trials: u64) -> f64 {
    usize::try_from(trials).map_or(f64::MAX, real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_needs_six_trials_for_95_percent_and_eight_for_99() {
        let values: Vec<_> = (0..8).map(f64::from).collect();
        assert_eq!(Median::new(&[], 0.95), None);
        assert_eq!(Median::new(&[1.0, f64::NAN], 0.95), None);
        assert_eq!(Median::new(&[1.0, f64::INFINITY], 0.95), None);
        assert_eq!(
            Median::new(&[3.0], 0.95).map(|found| (found.median, found.interval)),
            Some((3.0, None))
        );
        assert_eq!(Median::new(&values[..5], 0.95).and_then(|found| found.interval), None);
        let six = Median::new(&values[..6], 0.95).expect("values");
        assert_eq!(six.median, 2.5);
        let interval = six.interval.expect("six are enough");
        assert_eq!((interval.low, interval.high), (0.0, 5.0));
        assert!((interval.coverage - (1.0 - 2.0 / 64.0)).abs() < 1e-14, "{interval:?}");
        assert_eq!(Median::new(&values[..7], 0.99).and_then(|found| found.interval), None);
        assert!(Median::new(&values, 0.99).is_some_and(|found| found.interval.is_some()));
    }

    #[test]
    fn a_coverage_that_is_reached_exactly_is_enough() {
        // 1 - 2/64 of six values.
        let found = Median::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.96875).expect("values");
        assert!(found.interval.is_some());
    }

    #[test]
    fn nothing_in_ten_is_at_most_26_percent() {
        let none = Share::new(0, 10).expect("a share");
        assert!((none.at_most(0.95) - (1.0 - 0.05f64.powf(0.1))).abs() < 1e-14);
        assert_eq!(format!("{:.0} %", 100.0 * none.at_most(0.95)), "26 %");
        assert_eq!(none.at_least(0.95), 0.0);
    }

    #[test]
    fn odd_shares() {
        assert_eq!(Share::new(2, 1), None);
        let nothing = Share::new(0, 0).expect("a share").interval(0.95);
        assert_eq!((nothing.low, nothing.high), (0.0, 1.0));
        let all = Share::new(10, 10).expect("a share").interval(0.95);
        assert_eq!(all.high, 1.0);
        assert!((all.low - 0.025f64.powf(0.1)).abs() < 1e-14);
    }
}
