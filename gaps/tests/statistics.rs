// SPDX-License-Identifier: Apache-2.0
//! Every statistic against its definition, written down as plainly as possible.

use gaps::histogram::Histogram;
use gaps::record::GapRecord;
use gaps::stats::{Distribution, jain, lag, max_over_min};
use proptest::prelude::*;

/// From a few nanoseconds to seconds, with many ties.
fn lengths() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![0..20u64, 0..2_000_000_000u64], 0..200)
}

/// Gaps that do not overlap, with some touching.
fn intervals() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..50u64, 0..50u64), 0..40).prop_map(|steps| {
        let mut now = 0;
        let step = |(pause, length)| {
            let begin = now + pause;
            now = begin + length;
            (begin, now)
        };
        steps.into_iter().map(step).collect()
    })
}

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0)
}

proptest! {
    #[test]
    fn quantiles_are_the_nearest_rank(lengths in lengths(), per_million in 0..=1_000_000u32) {
        let found = Distribution::of_lengths(lengths.clone()).quantile_ns(per_million);
        // The smallest value that at least this share of all values does not exceed.
        let enough = |value: &u64| {
            let below = lengths.iter().filter(|other| *other <= value).count() as u64;
            below * 1_000_000 >= lengths.len() as u64 * u64::from(per_million)
        };
        let mut values = lengths.clone();
        values.sort_unstable();
        prop_assert_eq!(found, values.iter().copied().find(enough));
    }

    #[test]
    fn waits_are_those_of_every_moment(lengths in prop::collection::vec(0..60u64, 0..30),
                                       limit in 0..70u64, rest in 1..500u64) {
        // Somebody comes in the middle of every nanosecond of the span.
        let span = lengths.iter().sum::<u64>() + rest;
        let waits = || lengths.iter().flat_map(|length| (0..*length).map(move |at| length - at));
        let gaps = Distribution::of_lengths(lengths.clone());
        let above = waits().filter(|wait| *wait > limit).count() as f64 / span as f64;
        prop_assert!(close(gaps.wait_exceeds(limit, span).unwrap(), above));
        let mean = waits().map(|wait| wait as f64 - 0.5).sum::<f64>() / span as f64;
        prop_assert!(close(gaps.mean_wait_ns(span).unwrap(), mean));
    }

    #[test]
    fn parts_come_together(parts in prop::collection::vec(lengths(), 0..5),
                           limit in 0..2_000_000_000u64) {
        let all = Distribution::of_lengths(parts.concat());
        // Lengths that are counted mean the same as lengths that are listed.
        let count = |lengths: Vec<u64>| -> Vec<_> {
            lengths.into_iter().map(|length| (length, 1)).collect()
        };
        let part = |(number, lengths): (usize, Vec<u64>)| match number % 2 {
            0 => Distribution::of_lengths(lengths),
            _ => Distribution::of_buckets(&count(lengths)),
        };
        let parts: Vec<_> = parts.into_iter().enumerate().map(part).collect();
        let merged = Distribution::merged(&parts);
        prop_assert_eq!((merged.count(), merged.total_ns()), (all.count(), all.total_ns()));
        prop_assert_eq!(merged.starvation(limit), all.starvation(limit));
        prop_assert_eq!(merged.wait_exceeds(limit, 1000), all.wait_exceeds(limit, 1000));
        prop_assert!(close(merged.mean_wait_ns(1000).unwrap(), all.mean_wait_ns(1000).unwrap()));
        for per_million in [0, 1, 500_000, 990_000, 1_000_000] {
            prop_assert_eq!(merged.quantile_ns(per_million), all.quantile_ns(per_million));
        }
    }

    #[test]
    fn starvation_counts_what_is_longer(lengths in lengths(), limit in 0..2_000_000_000u64) {
        let found = Distribution::of_lengths(lengths.clone()).starvation(limit);
        let longer: Vec<_> = lengths.into_iter().filter(|length| *length > limit).collect();
        prop_assert_eq!(found.count, longer.len() as u64);
        prop_assert_eq!(found.total_ns, longer.iter().sum::<u64>());
    }

    #[test]
    fn a_histogram_is_never_below_and_hardly_above(lengths in lengths()) {
        let histogram = Histogram::default();
        lengths.iter().for_each(|length| histogram.record(*length));
        let buckets: Vec<_> = histogram.buckets().collect();
        let (rough, exact) = (Distribution::of_buckets(&buckets), Distribution::of_lengths(lengths));
        prop_assert_eq!(rough.count(), exact.count());
        for per_million in [1, 500_000, 900_000, 990_000, 999_000, 1_000_000] {
            let pair = rough.quantile_ns(per_million).zip(exact.quantile_ns(per_million));
            if let Some((rough, exact)) = pair {
                prop_assert!(rough >= exact && rough - exact <= exact / 64, "{} {}", rough, exact);
            }
        }
    }

    #[test]
    fn jain_is_between_its_ends(shares in prop::collection::vec(0..1_000_000u64, 1..50)) {
        let most = *shares.iter().max().unwrap() as f64;
        if most == 0.0 {
            prop_assert_eq!(jain(&shares), None);
        } else {
            // The same by way of the mean and the variance: 1 / (1 + variance / mean²).
            let count = shares.len() as f64;
            let mean = shares.iter().sum::<u64>() as f64 / count;
            let variance =
                shares.iter().map(|share| (*share as f64 - mean).powi(2)).sum::<f64>() / count;
            let found = jain(&shares).unwrap();
            prop_assert!(close(found, 1.0 / (1.0 + variance / (mean * mean))));
            prop_assert!(found <= 1.0 + 1e-12 && found >= 1.0 / count - 1e-12);
        }
        if let Some(ratio) = max_over_min(&shares) {
            prop_assert!(shares.iter().all(|share| *share as f64 * ratio >= most * (1.0 - 1e-12)));
        }
    }

    #[test]
    fn windows_slide_by_every_nanosecond(gaps in intervals(), window in 0..300u64) {
        let last = gaps.last().map_or(0, |gap| gap.1);
        let in_window = |from: u64| {
            let overlap = |&(begin, end): &(u64, u64)| {
                end.min(from + window).saturating_sub(begin.max(from))
            };
            gaps.iter().map(overlap).sum::<u64>()
        };
        let most = (0..=last).map(in_window).max().unwrap_or(0);
        let gap = |&(tsc_begin, tsc_end): &(u64, u64)| {
            GapRecord { tsc_begin, tsc_end, ..GapRecord::default() }
        };
        let gaps: Vec<_> = gaps.iter().map(gap).collect();
        prop_assert_eq!(lag::most_in_window(&gaps, window), most);
    }
}
