// SPDX-License-Identifier: Apache-2.0
//! Where a history of kernels changes: E-divisive means (Matteson and James 2014) on ranks, with a
//! rank test in place of permutations, so that the same values give the same changes.
//!
//! A value a kernel: the median of its trials. Within a window the split with the largest energy
//! distance between the ranks on both sides is tested by the exact rank-sum test, and if it holds,
//! each side is split again. At last each change is tested once more between its neighbours, and
//! what holds no longer, or is too small to matter, goes, the weakest first.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::difference::{Scale, halves_to_ratio, ratio_to_halves};
use crate::real;

/// Values that are looked at together, and the most that count on one side of a change.
pub const WINDOW: usize = 30;
/// A change has a smaller probability than this, if it were none.
pub const LEVEL: f64 = 0.001;

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangePoint {
    /// The first value after it, from 0.
    pub at: usize,
    /// Two-sided, of the rank-sum test between the values from the last change, or 30 of them, and
    /// those up to the next. Of one split, that was chosen: see docs/deciding.md for what that comes
    /// to.
    pub p: f64,
    /// After / before: the median of the ratios of all values after to all before.
    pub ratio: f64,
}

/// Changes of a history, in its order.
///
/// `min_effect` is the smallest change that matters, 0.1 for 10 %. Three values after a change can be
/// enough if there are 27 before it; of a change in the middle, seven on each side are the least.
///
/// `None` where a value is none on this scale (not finite, below 0), and where `min_effect` is not a
/// number from 0 on.
pub fn change_points(values: &[f64], scale: Scale, min_effect: f64) -> Option<Vec<ChangePoint>> {
    let is_effect = min_effect.is_finite() && min_effect >= 0.0;
    let of_one = |value: &f64| scale.difference(*values.first()?, *value);
    let places: Option<Vec<_>> = values.iter().map(|value| of_one(value).map(|it| it.0)).collect();
    let places = places.filter(|_| is_effect)?;
    let history = History { places, min_halves: ratio_to_halves(1.0 + min_effect) };
    let mut found = BTreeSet::new();
    // The newest values have a window that ends with them, wherever the others fall.
    let newest = values.len().saturating_sub(WINDOW);
    for begin in (0..newest).step_by(WINDOW / 2).chain([newest]) {
        let window = begin..values.len().min(begin + WINDOW);
        history.split(window, &mut found);
    }
    Some(history.keep(found.into_iter().collect()))
}

/// Values on their scale.
struct History {
    /// In units of [`crate::difference::Difference`], from the first one.
    places: Vec<i64>,
    min_halves: i128,
}

impl History {
    /// Splits a window, and its parts, as long as the parts differ.
    fn split(&self, window: Range<usize>, found: &mut BTreeSet<usize>) {
        let Some(at) = most_apart(&self.places[window.clone()]).map(|at| window.start + at) else {
            return;
        };
        let (before, after) = (&self.places[window.start..at], &self.places[at..window.end]);
        if rank_sum_p(before, after) < LEVEL {
            found.insert(at);
            self.split(window.start..at, found);
            self.split(at..window.end, found);
        }
    }

    /// Those that hold between their neighbours: the weakest goes as long as it does not.
    fn keep(&self, mut found: Vec<usize>) -> Vec<ChangePoint> {
        loop {
            let changes: Vec<_> =
                (0..found.len()).map(|place| self.change(&found, place)).collect();
            let weakest = changes
                .iter()
                .enumerate()
                .filter(|(_, (change, holds))| change.p >= LEVEL || !holds)
                .max_by(|(_, (one, _)), (_, (other, _))| one.p.total_cmp(&other.p));
            match weakest {
                Some((place, _)) => {
                    found.remove(place);
                }
                None => return changes.into_iter().map(|(change, _)| change).collect(),
            }
        }
    }

    /// A change between its neighbours, and whether it is large enough.
    fn change(&self, found: &[usize], place: usize) -> (ChangePoint, bool) {
        let at = found[place];
        let begin = place.checked_sub(1).map_or(0, |last| found[last]);
        let end = found.get(place + 1).copied().unwrap_or(self.places.len());
        let before = &self.places[begin.max(at.saturating_sub(WINDOW))..at];
        let after = &self.places[at..end.min(at + WINDOW)];
        let halves = shift_halves(before, after);
        let ratio = halves_to_ratio(halves);
        let is_large = halves.abs() >= self.min_halves;
        (ChangePoint { at, p: rank_sum_p(before, after), ratio }, is_large)
    }
}

/// The median of all differences between a value after and one before, in half units.
fn shift_halves(before: &[i64], after: &[i64]) -> i128 {
    let mut apart: Vec<_> = after
        .iter()
        .flat_map(|after| before.iter().map(move |it| i128::from(after - it)))
        .collect();
    apart.sort_unstable();
    match apart.len() {
        0 => 0,
        count => apart[(count - 1) / 2] + apart[count / 2],
    }
}

/// Ranks, from 1, each doubled so that equal values can have the mean of theirs.
fn doubled_ranks(values: &[i64]) -> Vec<usize> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = |value: &i64| {
        let smaller = sorted.partition_point(|other| other < value);
        smaller + sorted.partition_point(|other| other <= value) + 1
    };
    values.iter().map(rank).collect()
}

/// The split whose sides have the largest energy distance between their ranks; of those that are as
/// far apart, the first. `None` without two values.
fn most_apart(values: &[i64]) -> Option<usize> {
    let ranks = doubled_ranks(values);
    let mut best: Option<(usize, f64)> = None;
    for at in 1..ranks.len() {
        let energy = energy(&ranks[..at], &ranks[at..]);
        if best.is_none_or(|(_, most)| energy > most) {
            best = Some((at, energy));
        }
    }
    best.map(|(at, _)| at)
}

/// m n / (m + n) (2 E|X - Y| - E|X - X'| - E|Y - Y'|), with means over pairs of two different values.
fn energy(before: &[usize], after: &[usize]) -> f64 {
    let (m, n) = (real(before.len()), real(after.len()));
    let between = 2.0 * distances(before, after) / (m * n);
    let within = mean_within(before) + mean_within(after);
    m * n / (m + n) * (between - within)
}

fn mean_within(ranks: &[usize]) -> f64 {
    let count = real(ranks.len());
    if ranks.len() < 2 { 0.0 } else { distances(ranks, ranks) / (count * (count - 1.0)) }
}

fn distances(one: &[usize], other: &[usize]) -> f64 {
    real(one.iter().map(|x| other.iter().map(|y| x.abs_diff(*y)).sum::<usize>()).sum())
}

/// The rank-sum test of Wilcoxon, Mann and Whitney, two-sided: of all choices of as many of these
/// ranks, the share with a sum as extreme, exact with ties.
fn rank_sum_p(before: &[i64], after: &[i64]) -> f64 {
    // Either side may be the one that is chosen; fewer are chosen faster.
    let (before, after) =
        if before.len() > after.len() { (after, before) } else { (before, after) };
    let mut ranks = doubled_ranks(&[before, after].concat());
    let count = ranks.len();
    let mut seen: usize = ranks[..before.len()].iter().sum();
    if seen > before.len() * (count + 1) {
        // Counted from the other end: only sums up to the one that was seen are of interest.
        for rank in &mut ranks {
            *rank = 2 * (count + 1) - *rank;
        }
        seen = before.len() * 2 * (count + 1) - seen;
    }
    // choices[k][s]: ways to choose k of the ranks so far with the sum s.
    let mut choices = vec![vec![0.0f64; seen + 1]; before.len() + 1];
    choices[0][0] = 1.0;
    for rank in &ranks {
        for chosen in (0..before.len()).rev() {
            let (fewer, more) = choices.split_at_mut(chosen + 1);
            // Ranks are at least 2; what does not fit is larger than what was seen.
            let targets = more[0].iter_mut().skip(*rank);
            for (target, ways) in targets.zip(&fewer[chosen]) {
                *target += ways;
            }
        }
    }
    let every = (1..=before.len()).fold(1.0, |ways, k| ways * real(count + 1 - k) / real(k));
    let sums = &choices[before.len()];
    let up_to: f64 = sums.iter().sum();
    let from_on = every - up_to + sums[seen];
    (2.0 * f64::min(up_to, from_on) / every).min(1.0)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Oracle {
        rank_sum: Vec<Row>,
    }

    #[derive(Deserialize)]
    struct Row {
        before: Vec<i64>,
        after: Vec<i64>,
        p: f64,
    }

    #[test]
    fn rank_sums_are_those_of_scipy() {
        let oracle: Oracle =
            serde_json::from_str(include_str!("../tests/data/oracle.json")).expect("the table");
        for row in oracle.rank_sum {
            let found = rank_sum_p(&row.before, &row.after);
            assert!((found / row.p - 1.0).abs() < 1e-9, "{found}, not {}", row.p);
        }
    }

    #[test]
    fn energy_is_largest_where_sides_differ_most() {
        assert_eq!(most_apart(&[5, 5, 5, 9, 9, 9, 9]), Some(3));
        assert_eq!(most_apart(&[1, 2]), Some(1));
        assert_eq!((most_apart(&[1]), most_apart(&[])), (None, None));
        // 1, 2 | 3 of three: 2/3 (2 * 1.5 - 1), in doubled ranks twice that.
        assert!((energy(&[2, 4], &[6]) - 2.0 / 3.0 * (2.0 * 3.0 - 2.0)).abs() < 1e-12);
    }
}
