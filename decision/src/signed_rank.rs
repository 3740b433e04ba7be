// SPDX-License-Identifier: Apache-2.0
//! Wilcoxon's signed-rank test of paired trials, the estimate of Hodges and Lehmann, and the
//! interval that is the very same test turned round.
//!
//! **Zeros and ties.** Differences are ranked by size, zeros among them; equal sizes share the mean
//! of their ranks; zeros have no sign and add nothing (Pratt 1959). The distribution is the one of
//! *these* ranks when each sign falls like a coin: exact with ties and zeros, by counting all
//! sums. Zeros are not thrown away, as Wilcoxon did, because then moving all differences upwards
//! could take evidence away: the shifts that are not rejected would be no interval. With Pratt's
//! ranks they always are one. For, when the shift passes a point at which a differences above it and
//! b below it have one size, the statistic falls by a b / 2 on each side of the point, and whatever
//! the signs, the sum of their ranks falls by no more; so the probability of a sum as large as the
//! one that was seen rises. (Zeros: the statistic falls by their ranks, and no sum by more.)
//!
//! So a shift is in the interval exactly if the test does not reject it, and a verdict by one never
//! contradicts the other.

use std::cmp::Ordering;

use crate::difference::{Difference, halves_to_ratio};
use crate::interval::Interval;
use crate::real;
use crate::special::normal_above;

/// Up to here all sums are counted: their number is below 2^63.
const MAX_EXACT: usize = 62;

/// Paired differences, and what is asked of them.
#[derive(Clone, Debug)]
pub struct SignedRank {
    /// In units of half a unit of [`Difference`], so that means of two are whole; rising, not empty.
    halves: Vec<i128>,
}

/// Probabilities of a statistic that is as large or larger, and as small or smaller, than the one
/// that was seen, if nothing but the shift is between the two of each pair.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tails {
    above: f64,
    below: f64,
}

impl Tails {
    fn two_sided(self) -> f64 {
        (2.0 * self.above.min(self.below)).min(1.0)
    }
}

impl SignedRank {
    /// `None` without differences. Their order means nothing.
    pub fn new(differences: &[Difference]) -> Option<Self> {
        let mut halves: Vec<_> =
            differences.iter().map(|difference| 2 * i128::from(difference.0)).collect();
        halves.sort_unstable();
        (!halves.is_empty()).then_some(Self { halves })
    }

    /// The two-sided probability of differences that speak as much against "no difference" as these,
    /// or more, if there is none. Exact up to 62 pairs; of more, by the normal distribution with the
    /// variance of ranks without ties, which is the largest there is, and a correction of half a rank.
    pub fn p(&self) -> f64 {
        self.tails(0, &mut Sums::default()).two_sided()
    }

    /// The median of the means of all pairs of differences, each with itself among them (Hodges and
    /// Lehmann 1963), as a ratio.
    pub fn ratio(&self) -> f64 {
        let count = self.halves.len();
        let means = count * (count + 1) / 2;
        let (low, high) = (self.mean_at((means - 1) / 2), self.mean_at(means / 2));
        halves_to_ratio((low + high) / 2)
    }

    /// The ratios that the test does not reject at this two-sided level (0.05, say), from lowest to
    /// highest. Never without [`Self::ratio`] at levels up to 0.5. `None` where the pairs are too few
    /// to reject any (fewer than 6 at 0.05, 7 at 0.0157), and where the level is not between 0 and 1.
    pub fn interval(&self, level: f64) -> Option<Interval> {
        let first = self.halves[0] - 1;
        let last = self.halves[self.halves.len() - 1] + 1;
        let limit = 0.5 * level;
        let is_level = level > 0.0 && level < 1.0;
        let mut sums = Sums::default();
        if !is_level || self.tails(first, &mut sums).above > limit {
            return None;
        }
        let low = lowest(first, last, |shift| self.tails(shift, &mut sums).above > limit);
        let high = lowest(low, last + 1, |shift| self.tails(shift, &mut sums).below <= limit) - 1;
        Some(Interval {
            low: halves_to_ratio(low),
            high: halves_to_ratio(high),
            coverage: 1.0 - level,
        })
    }

    /// On which side of no difference the whole interval at this level lies; `Equal` where the test
    /// rejects nothing.
    pub(crate) fn side(&self, level: f64) -> Ordering {
        let tails = self.tails(0, &mut Sums::default());
        if tails.two_sided() > level {
            Ordering::Equal
        } else if tails.above < tails.below {
            Ordering::Greater
        } else {
            Ordering::Less
        }
    }

    /// Whether the whole interval at this level lies within `margin` (half units) on both sides of no
    /// difference: whether both ends are rejected.
    pub(crate) fn is_within(&self, margin_halves: i128, level: f64) -> bool {
        let limit = 0.5 * level;
        let mut sums = Sums::default();
        self.tails(-margin_halves, &mut sums).above <= limit
            && self.tails(margin_halves, &mut sums).below <= limit
    }

    /// Of the hypothesis that the differences lie around `shift`.
    fn tails(&self, shift: i128, sums: &mut Sums) -> Tails {
        let ranks = Ranks::new(&self.halves, shift);
        if self.halves.len() > MAX_EXACT {
            return ranks.normal();
        }
        sums.count(&ranks.doubled);
        sums.tails(ranks.positive)
    }

    /// The mean of two differences that has `rank` smaller ones or as many equal ones in front.
    fn mean_at(&self, rank: usize) -> i128 {
        let last = self.halves[self.halves.len() - 1];
        lowest(self.halves[0], last, |mean| self.means_up_to(mean) > rank)
    }

    /// How many means of two differences are at most this.
    fn means_up_to(&self, limit: i128) -> usize {
        let mut partners = self.halves.len();
        let mut count = 0;
        for (place, one) in self.halves.iter().enumerate() {
            while partners > 0 && one + self.halves[partners - 1] > 2 * limit {
                partners -= 1;
            }
            // Each pair once, from its smaller member.
            count += partners.saturating_sub(place);
        }
        count
    }
}

/// The lowest number from `first` to `last` for which this holds; `last` if it holds for none
/// before. Once it holds, it holds for all that follow.
fn lowest(first: i128, last: i128, mut holds: impl FnMut(i128) -> bool) -> i128 {
    let (mut low, mut high) = (first, last);
    while low < high {
        // Rounded down for numbers below 0, too.
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Ranks by size, each doubled so that means of two are whole.
#[derive(Debug)]
struct Ranks {
    /// Of the differences that are not zero.
    doubled: Vec<usize>,
    /// Sum of those that are above zero.
    positive: usize,
    /// Differences, zeros among them.
    count: usize,
}

impl Ranks {
    fn new(halves: &[i128], shift: i128) -> Self {
        let mut shifted: Vec<_> = halves.iter().map(|half| half - shift).collect();
        shifted.sort_unstable_by_key(|value| value.unsigned_abs());
        let mut ranks = Self { doubled: Vec::with_capacity(halves.len()), positive: 0, count: 0 };
        for equals in shifted.chunk_by(|one, other| one.unsigned_abs() == other.unsigned_abs()) {
            let doubled = 2 * ranks.count + equals.len() + 1;
            ranks.count += equals.len();
            for value in equals {
                match value.cmp(&0) {
                    Ordering::Less => ranks.doubled.push(doubled),
                    Ordering::Equal => {}
                    Ordering::Greater => {
                        ranks.doubled.push(doubled);
                        ranks.positive += doubled;
                    }
                }
            }
        }
        ranks
    }

    /// By the normal distribution. The variance is that without ties and zeros, which is larger, and
    /// does not depend on the shift: the probabilities rise and fall with it as the exact ones do.
    fn normal(&self) -> Tails {
        let count = real(self.count);
        // Zeros would add half of their ranks.
        let zeros = self.count - self.doubled.len();
        let sum = 0.5 * real(self.positive) + 0.25 * real(zeros) * real(zeros + 1);
        let mean = 0.25 * count * (count + 1.0);
        let deviation = (count * (count + 1.0) * (2.0 * count + 1.0) / 24.0).sqrt();
        Tails {
            above: normal_above((sum - mean - 0.5) / deviation),
            below: normal_above((mean - sum - 0.5) / deviation),
        }
    }
}

/// The sums of ranks that all signs there can be come to. Most shifts lead to the same ranks.
#[derive(Debug, Default)]
struct Sums {
    doubled: Vec<usize>,
    /// For each sum, how many subsets of the ranks have at most it.
    up_to: Vec<u64>,
}

impl Sums {
    fn count(&mut self, doubled: &[usize]) {
        if !self.up_to.is_empty() && self.doubled == doubled {
            return;
        }
        self.doubled = doubled.to_vec();
        self.up_to.clear();
        self.up_to.resize(doubled.iter().sum::<usize>() + 1, 0);
        self.up_to[0] = 1;
        let mut reached = 0;
        for rank in doubled {
            for sum in (0..=reached).rev() {
                self.up_to[sum + rank] += self.up_to[sum];
            }
            reached += rank;
        }
        let mut subsets = 0;
        for up_to in &mut self.up_to {
            subsets += *up_to;
            *up_to = subsets;
        }
    }

    /// The shares of sums that are as large as this one, and as small.
    fn tails(&self, sum: usize) -> Tails {
        let all = self.up_to[self.up_to.len() - 1];
        let smaller = sum.checked_sub(1).map_or(0, |sum| self.up_to[sum]);
        Tails { above: ratio(all - smaller, all), below: ratio(self.up_to[sum], all) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53; above, its last digits go")]
fn ratio(part: u64, all: u64) -> f64 {
    part as f64 / all as f64
}
