// SPDX-License-Identifier: Apache-2.0
//! Medians of trials of one kernel after the other.

use decision::change_points::{ChangePoint, change_points};
use decision::difference::Scale;

use super::random::Random;

/// A series of medians.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    pub kernels: usize,
    /// Standard deviation of the logarithm of a median.
    pub deviation: f64,
    /// The first kernel that is slower, and by what ratio.
    pub change: Option<(usize, f64)>,
}

/// Changes that are found in one such series.
pub fn changes(series: Series, min_effect: f64, seed: u64) -> Vec<ChangePoint> {
    let mut random = Random::new(seed);
    let value = |kernel| {
        let ratio = series.change.map_or(1.0, |(at, ratio)| if kernel < at { 1.0 } else { ratio });
        20e6 * ratio * (series.deviation * random.normal()).exp()
    };
    let values: Vec<_> = (0..series.kernels).map(value).collect();
    change_points(&values, Scale::LENGTHS_NS, min_effect).expect("lengths")
}

/// Of so many series: the share with any change, with one within two kernels of the true place, and
/// with others.
pub fn found(series: Series, min_effect: f64, count: u32) -> [f64; 3] {
    let mut sums = [0.0; 3];
    for seed in 0..count {
        let changes = changes(series, min_effect, 0xc4a9_6e00 + u64::from(seed));
        let is_true =
            |it: &ChangePoint| series.change.is_some_and(|(at, _)| at.abs_diff(it.at) <= 2);
        sums[0] += f64::from(u8::from(!changes.is_empty()));
        sums[1] += f64::from(u8::from(changes.iter().any(is_true)));
        sums[2] += f64::from(u8::from(!changes.iter().all(is_true)));
    }
    sums.map(|sum| sum / f64::from(count))
}
