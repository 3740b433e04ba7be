// SPDX-License-Identifier: Apache-2.0
//! Lengths of gaps, and what follows from them alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::real;
use crate::record::GapRecord;
use crate::tsc::ticks_to_ns;

/// Lengths in nanoseconds.
///
/// Made from single lengths it is exact. Made from a histogram's buckets it has the buckets'
/// upper bounds for lengths, and every figure that follows is at most 1/64 (1.6 %) too high,
/// never too low.
///
/// It consists of parts, each sorted for itself, which several may share: ten million gaps of
/// a run are there once, not once more for each group and for the whole.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    parts: Vec<Arc<Part>>,
}

/// Lengths of one source.
#[derive(Debug)]
struct Part {
    /// Rising.
    lengths: Vec<u64>,
    /// For each length, how many there are up to and with it. Empty where each is there once.
    up_to: Vec<u64>,
    /// Sum of all lengths.
    total_ns: u128,
    /// Sum of their squares.
    squares: f64,
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

impl Part {
    /// How many there are in front of this place.
    fn before(&self, place: usize) -> u64 {
        match place.checked_sub(1) {
            None => 0,
            Some(_) if self.up_to.is_empty() => place as u64,
            Some(last) => self.up_to.get(last).copied().unwrap_or(0),
        }
    }

    fn count(&self) -> u64 {
        self.before(self.lengths.len())
    }

    /// How many lengths are at most this long.
    fn at_most(&self, limit_ns: u64) -> u64 {
        self.before(self.lengths.partition_point(|length| *length <= limit_ns))
    }

    /// Count and sum of the lengths above a limit.
    fn above(&self, limit_ns: u64) -> (u64, u128) {
        let place = self.lengths.partition_point(|length| *length <= limit_ns);
        let sum = if self.up_to.is_empty() {
            self.lengths[place..].iter().map(|length| u128::from(*length)).sum()
        } else {
            let counts = (place..self.lengths.len())
                .map(|place| self.before(place + 1).saturating_sub(self.before(place)));
            let pairs = self.lengths[place..].iter().zip(counts);
            pairs.map(|(length, count)| u128::from(*length) * u128::from(count)).sum()
        };
        (self.count().saturating_sub(self.before(place)), sum)
    }
}

impl Distribution {
    /// Of these gaps, with a counter of this frequency.
    pub fn of_records(records: &[GapRecord], tsc_khz: u64) -> Self {
        Self::of_lengths(records.iter().map(|gap| ticks_to_ns(gap.ticks(), tsc_khz)).collect())
    }

    /// Of single lengths, in any order.
    pub fn of_lengths(mut lengths: Vec<u64>) -> Self {
        lengths.sort_unstable();
        let total_ns = lengths.iter().map(|length| u128::from(*length)).sum();
        let squares = lengths.iter().map(|length| real(*length) * real(*length)).sum();
        Self::of_part(Part { lengths, up_to: Vec::new(), total_ns, squares })
    }

    /// Of a histogram's buckets: `(upper bound, count)`, in any order.
    pub fn of_buckets(buckets: &[(u64, u64)]) -> Self {
        let mut sorted: Vec<_> = buckets.iter().copied().filter(|&(_, count)| count > 0).collect();
        sorted.sort_unstable();
        let up_to = sorted.iter().scan(0u64, |sum, &(_, count)| {
            *sum = sum.saturating_add(count);
            Some(*sum)
        });
        let up_to = up_to.collect();
        Self::of_part(Part {
            total_ns: sorted
                .iter()
                .map(|&(length, count)| u128::from(length) * u128::from(count))
                .fold(0, u128::saturating_add),
            squares: sorted
                .iter()
                .map(|&(length, count)| real(length) * real(length) * real(count))
                .sum(),
            lengths: sorted.into_iter().map(|(length, _)| length).collect(),
            up_to,
        })
    }

    /// The same where the longest is known: a bucket's upper bound lies above what is in it, and
    /// nothing is longer than that.
    pub fn of_buckets_up_to(buckets: &[(u64, u64)], longest_ns: u64) -> Self {
        Self::of_buckets(
            &buckets
                .iter()
                .map(|&(bound, count)| (bound.min(longest_ns), count))
                .collect::<Vec<_>>(),
        )
    }

    fn of_part(part: Part) -> Self {
        Self { parts: vec![Arc::new(part)] }
    }

    /// All of these together.
    pub fn merged<'a>(distributions: impl IntoIterator<Item = &'a Self>) -> Self {
        Self {
            parts: distributions.into_iter().flat_map(|one| one.parts.iter().cloned()).collect(),
        }
    }

    /// How many gaps.
    pub fn count(&self) -> u64 {
        self.parts.iter().map(|part| part.count()).fold(0, u64::saturating_add)
    }

    /// How many are at most this long.
    fn at_most(&self, limit_ns: u64) -> u64 {
        self.parts.iter().map(|part| part.at_most(limit_ns)).fold(0, u64::saturating_add)
    }

    /// Count and sum of those above a limit.
    fn above(&self, limit_ns: u64) -> (u64, u128) {
        let each = self.parts.iter().map(|part| part.above(limit_ns));
        each.fold((0, 0), |(count, sum), part| {
            (count.saturating_add(part.0), u128::saturating_add(sum, part.1))
        })
    }

    /// The length that this share of all gaps does not exceed; `per_million` is 500 000 for
    /// the median. `None` without a gap.
    pub fn quantile_ns(&self, per_million: u32) -> Option<u64> {
        let wanted = u128::from(self.count()) * u128::from(per_million.min(1_000_000));
        let rank = u64::try_from(wanted.div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1);
        // The shortest length that at least so many do not exceed. It is one that occurs,
        // because only there the number changes.
        let (mut low, mut high) =
            (0, self.parts.iter().filter_map(|part| part.lengths.last()).copied().max()?);
        while low < high {
            let middle = low.midpoint(high);
            if self.at_most(middle) >= rank {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(low)
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
        self.parts.iter().map(|part| part.total_ns).fold(0, u128::saturating_add)
    }

    /// Probability that somebody who comes at a random moment of `span_ns` waits longer than
    /// `limit_ns` for the thread to run: of a gap, all but its last `limit_ns` count.
    /// `None` without a span.
    pub fn wait_exceeds(&self, limit_ns: u64, span_ns: u64) -> Option<f64> {
        let (count, sum) = self.above(limit_ns);
        ratio(sum.saturating_sub(u128::from(limit_ns) * u128::from(count)), span_ns)
    }

    /// How long somebody who comes at a random moment of `span_ns` waits on average: with the
    /// probability `length / span` half a gap's length. `None` without a span.
    pub fn mean_wait_ns(&self, span_ns: u64) -> Option<f64> {
        let squares: f64 = self.parts.iter().map(|part| part.squares).sum();
        (span_ns > 0).then(|| squares / (2.0 * real(span_ns)))
    }

    /// Gaps longer than a limit.
    pub fn starvation(&self, longer_than_ns: u64) -> Starvation {
        let (count, sum) = self.above(longer_than_ns);
        Starvation { longer_than_ns, count, total_ns: u64::try_from(sum).unwrap_or(u64::MAX) }
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
        let empty = Distribution::of_buckets(&[(5, 0)]);
        assert_eq!((empty.count(), empty.total_ns(), empty.quantiles()), (0, 0, None));
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
    fn lengths_of_records_are_in_nanoseconds() {
        let gap = |tsc_end| GapRecord { tsc_begin: 1000, tsc_end, ..GapRecord::default() };
        let gaps = Distribution::of_records(&[gap(5000), gap(2000)], 2_000_000);
        assert_eq!((gaps.quantile_ns(1), gaps.total_ns()), (Some(500), 2500));
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
    fn no_quantile_is_above_the_longest() {
        let delays = Distribution::of_buckets_up_to(&[(40, 9), (351, 1)], 347);
        assert_eq!(
            (delays.quantile_ns(900_000), delays.quantile_ns(999_000)),
            (Some(40), Some(347))
        );
        assert_eq!((delays.count(), delays.total_ns()), (10, 9 * 40 + 347));
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
