// SPDX-License-Identifier: Apache-2.0
//! Lengths of gaps, and what follows from them alone.

use serde::{Deserialize, Serialize};

use super::real;

/// Lengths in nanoseconds, each with how often it occurs, rising.
///
/// Made from single lengths it is exact. Made from a histogram's buckets it has the buckets'
/// upper bounds for lengths, and every figure that follows is at most 1/64 (1.6 %) too high,
/// never too low.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    lengths: Vec<(u64, u64)>,
    count: u64,
}

/// Quantiles by nearest rank: lengths that occur, never values between two of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of all gaps are at most this long.
    pub p50_ns: u64,
    /// 90 %.
    pub p90_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
}

/// Times in which a thread did not run for longer than a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starvation {
    /// The limit.
    pub longer_than_ns: u64,
    /// How often.
    pub count: u64,
    /// How long in all.
    pub total_ns: u64,
}

impl Distribution {
    /// Of single lengths, in any order.
    pub fn of_lengths(mut lengths: Vec<u64>) -> Self {
        lengths.sort_unstable();
        Self::of_counts(lengths.into_iter().map(|length| (length, 1)).collect())
    }

    /// Of a histogram's buckets: `(upper bound, count)`, in any order.
    pub fn of_buckets(buckets: &[(u64, u64)]) -> Self {
        let mut lengths = buckets.to_vec();
        lengths.sort_unstable();
        Self::of_counts(lengths)
    }

    /// All of these together.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut lengths: Vec<_> =
            parts.into_iter().flat_map(|part| part.lengths.iter().copied()).collect();
        // The parts are sorted runs, which this sort finds and merges.
        lengths.sort();
        Self::of_counts(lengths)
    }

    /// From sorted pairs; equal lengths become one.
    fn of_counts(mut lengths: Vec<(u64, u64)>) -> Self {
        lengths.retain(|&(_, count)| count > 0);
        lengths.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        let count = lengths.iter().fold(0u64, |sum, &(_, count)| sum.saturating_add(count));
        Self { lengths, count }
    }

    /// How many gaps.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Lengths with their counts, rising.
    pub fn lengths(&self) -> &[(u64, u64)] {
        &self.lengths
    }

    /// The length that this share of all gaps does not exceed; `per_million` is 500 000 for
    /// the median. `None` without a gap.
    pub fn quantile_ns(&self, per_million: u32) -> Option<u64> {
        let wanted = u128::from(self.count) * u128::from(per_million.min(1_000_000));
        let rank = wanted.div_ceil(1_000_000).max(1);
        let mut seen = 0;
        self.lengths.iter().find_map(|&(length, count)| {
            seen += u128::from(count);
            (seen >= rank).then_some(length)
        })
    }

    /// The usual quantiles; `None` without a gap.
    pub fn quantiles(&self) -> Option<Quantiles> {
        Some(Quantiles {
            p50_ns: self.quantile_ns(500_000)?,
            p90_ns: self.quantile_ns(900_000)?,
            p99_ns: self.quantile_ns(990_000)?,
            p999_ns: self.quantile_ns(999_000)?,
        })
    }

    /// Sum of all lengths.
    pub fn total_ns(&self) -> u128 {
        self.lengths.iter().map(|&(length, count)| u128::from(length) * u128::from(count)).sum()
    }

    /// Probability that somebody who comes at a random moment of `span_ns` waits longer than
    /// `limit_ns` for the thread to run: of a gap, all but its last `limit_ns` count.
    /// `None` without a span.
    pub fn wait_exceeds(&self, limit_ns: u64, span_ns: u64) -> Option<f64> {
        let above = self.lengths.iter().map(|&(length, count)| {
            u128::from(length.saturating_sub(limit_ns)) * u128::from(count)
        });
        ratio(above.sum(), span_ns)
    }

    /// How long somebody who comes at a random moment of `span_ns` waits on average: with the
    /// probability `length / span` half a gap's length. `None` without a span.
    pub fn mean_wait_ns(&self, span_ns: u64) -> Option<f64> {
        let squares = self
            .lengths
            .iter()
            .map(|&(length, count)| real(length) * real(length) * real(count))
            .sum::<f64>();
        (span_ns > 0).then(|| squares / (2.0 * real(span_ns)))
    }

    /// Gaps longer than a limit.
    pub fn starvation(&self, longer_than_ns: u64) -> Starvation {
        let mut starvation = Starvation { longer_than_ns, ..Starvation::default() };
        for &(length, count) in self.lengths.iter().filter(|pair| pair.0 > longer_than_ns) {
            starvation.count = starvation.count.saturating_add(count);
            starvation.total_ns = starvation.total_ns.saturating_add(length.saturating_mul(count));
        }
        starvation
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure needs no more digits than f64 has")]
fn ratio(part: u128, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / real(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gives_nothing() {
        let none = Distribution::default();
        assert_eq!((none.count(), none.total_ns(), none.quantiles()), (0, 0, None));
        assert_eq!(none.wait_exceeds(1, 0), None);
        assert_eq!(none.mean_wait_ns(0), None);
        assert_eq!(none.wait_exceeds(0, 10), Some(0.0));
        assert_eq!(Distribution::of_buckets(&[(5, 0)]), none);
    }

    #[test]
    fn quantiles_are_lengths_that_occur() {
        let hundred = Distribution::of_lengths((1..=1000).rev().collect());
        let expected = Quantiles { p50_ns: 500, p90_ns: 900, p99_ns: 990, p999_ns: 999 };
        assert_eq!(hundred.quantiles(), Some(expected));
        assert_eq!(hundred.quantile_ns(1_000_000), Some(1000));
        assert_eq!(hundred.quantile_ns(0), Some(1));
        let one = Distribution::of_lengths(vec![7]);
        assert_eq!(one.quantile_ns(1), Some(7));
    }

    #[test]
    fn waits_are_weighted_with_time() {
        // Two gaps of 10 in a span of 100: a random moment is in one with 20 %, and waits 5.
        let two = Distribution::of_lengths(vec![10, 10]);
        assert_eq!(two.wait_exceeds(0, 100), Some(0.2));
        assert_eq!(two.wait_exceeds(4, 100), Some(0.12));
        assert_eq!(two.wait_exceeds(10, 100), Some(0.0));
        assert_eq!(two.mean_wait_ns(100), Some(1.0));
    }

    #[test]
    fn starvation_is_above_its_limit() {
        let gaps = Distribution::of_lengths(vec![99, 100, 101, 250]);
        let expected = Starvation { longer_than_ns: 100, count: 2, total_ns: 351 };
        assert_eq!(gaps.starvation(100), expected);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let huge = Distribution::of_buckets(&[(u64::MAX, u64::MAX), (u64::MAX, 5)]);
        assert_eq!(huge.count(), u64::MAX);
        assert_eq!(huge.quantile_ns(500_000), Some(u64::MAX));
        assert!(huge.total_ns() > u128::from(u64::MAX));
        assert_eq!(huge.starvation(1).total_ns, u64::MAX);
        assert!(huge.mean_wait_ns(1).is_some_and(f64::is_finite));
    }
}
