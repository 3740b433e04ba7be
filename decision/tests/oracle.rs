// SPDX-License-Identifier: Apache-2.0
//! Every test and interval against SciPy and statsmodels: `oracle.py` beside this wrote the table.

use decision::difference::{Difference, Scale};
use decision::interval::{Median, Share};
use decision::multiple::{benjamini_hochberg, holm};
use decision::signed_rank::SignedRank;
use serde::Deserialize;

#[derive(Deserialize)]
struct Oracle {
    shares: Vec<ShareRow>,
    medians: Vec<MedianRow>,
    signed_rank_p: Vec<TestRow>,
    intervals: Vec<IntervalRow>,
    adjusted: Vec<AdjustedRow>,
}

#[derive(Deserialize)]
struct ShareRow {
    hits: u64,
    trials: u64,
    low: f64,
    high: f64,
    at_most: f64,
    at_least: f64,
}

#[derive(Deserialize)]
struct MedianRow {
    count: u32,
    confidence: f64,
    rank: u32,
    coverage: f64,
}

#[derive(Deserialize)]
struct TestRow {
    values: Vec<f64>,
    p: f64,
}

#[derive(Deserialize)]
struct IntervalRow {
    values: Vec<f64>,
    level: f64,
    estimate: f64,
    low: f64,
    high: f64,
}

#[derive(Deserialize)]
struct AdjustedRow {
    p: Vec<f64>,
    holm: Vec<f64>,
    benjamini_hochberg: Vec<f64>,
}

fn oracle() -> Oracle {
    serde_json::from_str(include_str!("data/oracle.json")).expect("the table")
}

/// Whole numbers as differences, a hundred-thousandth each.
fn differences(values: &[f64]) -> Vec<Difference> {
    let of = |value: &f64| Scale::LENGTHS_NS.difference(1e9, 1e9 * (value * 1e-5).exp());
    values.iter().map(|value| of(value).expect("lengths")).collect()
}

fn assert_close(found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs() / expected.abs().max(1e-12);
    assert!(error <= tolerance, "{found}, not {expected}: {error:e}");
}

#[test]
fn shares_are_those_of_scipy() {
    for row in oracle().shares {
        let share = Share::new(row.hits, row.trials).expect("a share");
        let interval = share.interval(0.95);
        assert_close(interval.low, row.low, 1e-9);
        assert_close(interval.high, row.high, 1e-9);
        assert_close(share.at_most(0.95), row.at_most, 1e-9);
        assert_close(share.at_least(0.95), row.at_least, 1e-9);
    }
}

#[test]
fn medians_have_the_ranks_of_scipys_binomial() {
    for row in oracle().medians {
        let values: Vec<_> = (1..=row.count).rev().map(f64::from).collect();
        let found = Median::new(&values, row.confidence).expect("values");
        assert_eq!(found.median, 0.5 * f64::from(row.count + 1));
        let Some(interval) = found.interval else {
            assert_eq!(row.rank, 0, "{} values", row.count);
            continue;
        };
        assert_eq!(interval.low, f64::from(row.rank), "{} values", row.count);
        assert_eq!(interval.high, f64::from(row.count + 1 - row.rank));
        assert_close(interval.coverage, row.coverage, 1e-10);
    }
}

#[test]
fn signed_rank_probabilities_are_those_of_scipy() {
    for row in oracle().signed_rank_p {
        let test = SignedRank::new(&differences(&row.values)).expect("pairs");
        assert_close(test.p(), row.p, 1e-9);
    }
}

#[test]
fn ends_of_intervals_are_where_scipy_begins_to_reject() {
    for row in oracle().intervals {
        let test = SignedRank::new(&differences(&row.values)).expect("pairs");
        let interval = test.interval(row.level).expect("enough pairs");
        let logs = [test.ratio(), interval.low, interval.high].map(|ratio| 1e5 * ratio.ln());
        for (found, expected) in logs.into_iter().zip([row.estimate, row.low, row.high]) {
            assert!((found - expected).abs() < 1e-3, "{found}, not {expected}");
        }
    }
}

#[test]
fn adjusted_probabilities_are_those_of_statsmodels_and_scipy() {
    for row in oracle().adjusted {
        for (found, expected) in holm(&row.p).into_iter().zip(&row.holm) {
            assert_close(found, *expected, 1e-12);
        }
        for (found, expected) in benjamini_hochberg(&row.p).into_iter().zip(&row.benjamini_hochberg)
        {
            assert_close(found, *expected, 1e-12);
        }
    }
    assert_eq!((holm(&[]), benjamini_hochberg(&[])), (vec![], vec![]));
}
