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
    /// Sums of all lengths in front of each block of them: any other sum is at most a block away.
    block_sums_ns: Vec<u128>,
    /// Sum of all lengths.
    total_ns: u128,
    /// Sum of their squares.
    squares: f64,
}

/// Lengths between two sums of a part's lengths.
const BLOCK: usize = 512;
/// Fewer lengths than this from a quantile on are an accident: it is not told.
const MIN_BEYOND: u64 = 5;

/// Quantiles by nearest rank: lengths that occur, never values between two of them. `None` where
/// fewer than five lengths lie beyond it: of n lengths, where n(1 - q) < 5; of time, where fewer than
/// five are that long or longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half of all gaps, or of the time in them, are at most this long.
    pub p50_ns: Option<u64>,
    /// 90 %.
    pub p90_ns: Option<u64>,
    /// 99 %.
    pub p99_ns: Option<u64>,
    /// 99.9 %.
    pub p999_ns: Option<u64>,
}

impl Quantiles {
    fn each(quantile_ns: impl Fn(u32) -> Option<u64>) -> Self {
        Self {
            p50_ns: quantile_ns(500_000),
            p90_ns: quantile_ns(900_000),
            p99_ns: quantile_ns(990_000),
            p999_ns: quantile_ns(999_000),
        }
    }
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
    /// Of rising lengths.
    fn new(lengths: Vec<u64>, up_to: Vec<u64>) -> Self {
        let mut part =
            Self { lengths, up_to, block_sums_ns: Vec::new(), total_ns: 0, squares: 0.0 };
        for first in (0..part.lengths.len()).step_by(BLOCK) {
            part.block_sums_ns.push(part.total_ns);
            for place in first..part.lengths.len().min(first + BLOCK) {
                let (length, count) = (part.lengths[place], part.count_at(place));
                let sum = u128::from(length) * u128::from(count);
                part.total_ns = part.total_ns.saturating_add(sum);
                part.squares += real(length) * real(length) * real(count);
            }
        }
        part
    }

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

    /// How many there are of the length at this place.
    fn count_at(&self, place: usize) -> u64 {
        self.before(place + 1).saturating_sub(self.before(place))
    }

    /// Sum of the lengths that are at most this long.
    fn sum_at_most_ns(&self, limit_ns: u64) -> u128 {
        let place = self.lengths.partition_point(|length| *length <= limit_ns);
        let Some(sum_ns) = self.block_sums_ns.get(place / BLOCK) else { return self.total_ns };
        let rest = place / BLOCK * BLOCK..place;
        rest.fold(*sum_ns, |sum_ns, place| {
            let count = u128::from(self.count_at(place));
            sum_ns.saturating_add(u128::from(self.lengths[place]) * count)
        })
    }

    /// Count and sum of the lengths above a limit.
    fn above(&self, limit_ns: u64) -> (u64, u128) {
        let count = self.count().saturating_sub(self.at_most(limit_ns));
        (count, self.total_ns.saturating_sub(self.sum_at_most_ns(limit_ns)))
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
        Self::of_part(Part::new(lengths, Vec::new()))
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
        let lengths = sorted.into_iter().map(|(length, _)| length).collect();
        Self::of_part(Part::new(lengths, up_to))
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

    /// Sum of those that are at most this long.
    fn sum_at_most_ns(&self, limit_ns: u64) -> u128 {
        let each = self.parts.iter().map(|part| part.sum_at_most_ns(limit_ns));
        each.fold(0, u128::saturating_add)
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
        self.shortest(|length_ns| self.at_most(length_ns) >= rank)
    }

    /// The length that gaps do not exceed in which this share of the time in all of them was.
    /// `None` without a gap.
    pub fn time_quantile_ns(&self, per_million: u32) -> Option<u64> {
        let wanted = self.total_ns().saturating_mul(u128::from(per_million.min(1_000_000)));
        let wanted_ns = wanted.div_ceil(1_000_000);
        self.shortest(|length_ns| self.sum_at_most_ns(length_ns) >= wanted_ns)
    }

    /// The shortest length for which this is true, which is so for all that are longer. It is one
    /// that occurs, if only there something changes.
    fn shortest(&self, is_enough: impl Fn(u64) -> bool) -> Option<u64> {
        let (mut low, mut high) =
            (0, self.parts.iter().filter_map(|part| part.lengths.last()).copied().max()?);
        while low < high {
            let middle = low.midpoint(high);
            if is_enough(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(low)
    }

    /// The usual quantiles; `None` without a gap.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let count = u128::from(self.count());
        let is_told = |per_million: u32| {
            count * u128::from(1_000_000 - per_million) >= u128::from(MIN_BEYOND) * 1_000_000
        };
        (count > 0)
            .then(|| Quantiles::each(|share| self.quantile_ns(share).filter(|_| is_told(share))))
    }

    /// The same of the time in gaps: half of it was in gaps of at most `p50_ns`. Where fewer than
    /// five gaps are that long or longer, it is not told.
    pub fn time_quantiles(&self) -> Option<Quantiles> {
        let from = |length_ns: u64| {
            let shorter = length_ns.checked_sub(1).map_or(0, |below| self.at_most(below));
            self.count().saturating_sub(shorter)
        };
        (self.count() > 0).then(|| {
            Quantiles::each(|share| {
                self.time_quantile_ns(share).filter(|length_ns| from(*length_ns) >= MIN_BEYOND)
            })
        })
    }

    /// Sum of all lengths.
    pub fn total_ns(&self) -> u128 {
        self.parts.iter().map(|part| part.total_ns).fold(0, u128::saturating_add)
    }

    /// Probability that a request at a random moment of `span_ns` waits longer than
    /// `limit_ns` for the thread to run: of a gap, all but its last `limit_ns` count.
    /// `None` without a span.
    pub fn wait_exceeds(&self, limit_ns: u64, span_ns: u64) -> Option<f64> {
        let (count, sum) = self.above(limit_ns);
        ratio(sum.saturating_sub(u128::from(limit_ns) * u128::from(count)), span_ns)
    }

    /// How long a request at a random moment of `span_ns` waits on average: with the
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
        let expected = Quantiles {
            p50_ns: Some(500),
            p90_ns: Some(900),
            p99_ns: Some(990),
            // One length is longer: an accident.
            p999_ns: None,
        };
        assert_eq!(hundred.quantiles(), Some(expected));
        assert_eq!(hundred.quantile_ns(999_000), Some(999));
        assert_eq!(hundred.quantile_ns(1_000_000), Some(1000));
        assert_eq!(hundred.quantile_ns(0), Some(1));
        let one = Distribution::of_lengths(vec![7]);
        assert_eq!(one.quantile_ns(1), Some(7));
    }

    #[test]
    fn what_few_are_beyond_is_not_told() {
        let told = |count: u64| {
            let found = Distribution::of_lengths((1..=count).collect()).quantiles();
            let found = found.expect("there are lengths");
            [found.p50_ns, found.p90_ns, found.p99_ns, found.p999_ns].map(|value| value.is_some())
        };
        assert_eq!(told(9), [false; 4]);
        assert_eq!((told(10), told(49)), ([true, false, false, false], told(10)));
        assert_eq!((told(50), told(500)), ([true, true, false, false], [true, true, true, false]));
        assert_eq!((told(4999)[3], told(5000)[3]), (false, true));
    }

    #[test]
    fn quantiles_of_time_do_not_depend_on_what_is_short() {
        // Ten gaps of 100 ms, and a thousand of 100 µs, of which a higher floor knows nothing.
        let long = vec![100_000_000; 10];
        let all = [long.clone(), vec![100_000; 1000]].concat();
        for lengths in [long, all] {
            let found = Distribution::of_lengths(lengths).time_quantiles().expect("gaps");
            assert_eq!([found.p50_ns, found.p99_ns], [Some(100_000_000); 2]);
        }
        // Half of the time is in one gap, which is an accident.
        let one = [vec![1_000_000; 9], vec![20_000_000]].concat();
        let found = Distribution::of_lengths(one).time_quantiles().expect("gaps");
        assert_eq!(found, Quantiles::default());
    }

    #[test]
    fn sums_are_the_same_from_blocks_and_from_buckets() {
        let lengths: Vec<u64> = (0..3 * BLOCK as u64 + 7).map(|n| n * n % 9973 + 1).collect();
        let buckets: Vec<_> = lengths.iter().map(|length| (*length, 1)).collect();
        let (single, buckets) =
            (Distribution::of_lengths(lengths.clone()), Distribution::of_buckets(&buckets));
        for limit_ns in (0..10_000).step_by(97) {
            let sum_ns: u64 = lengths.iter().filter(|length| **length <= limit_ns).sum();
            assert_eq!(single.sum_at_most_ns(limit_ns), u128::from(sum_ns), "{limit_ns}");
            assert_eq!(buckets.sum_at_most_ns(limit_ns), u128::from(sum_ns), "{limit_ns}");
        }
        assert_eq!(single.time_quantiles(), buckets.time_quantiles());
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
