// SPDX-License-Identifier: Apache-2.0
//! Changes in histories of kernels; `cargo run --release -p decision --example history` prints what
//! more of them come to.

mod simulated;

use decision::change_points::{LEVEL, change_points};
use decision::difference::Scale;
use simulated::kernels::{Series, changes, found};

const HISTORIES: u32 = 150;

fn series(change: Option<(usize, f64)>, deviation: f64) -> Series {
    Series { kernels: 60, deviation, change }
}

fn places(values: &[f64], min_effect: f64) -> Vec<usize> {
    let found = change_points(values, Scale::LENGTHS_NS, min_effect).expect("lengths");
    found.iter().map(|change| change.at).collect()
}

#[test]
fn histories_without_a_change_have_none() {
    for deviation in [0.05, 0.15] {
        let [any, ..] = found(series(None, deviation), 0.0, HISTORIES);
        assert!(any <= 0.03, "{any} at {deviation}");
    }
}

#[test]
fn changes_are_found_where_they_are() {
    // Change, deviation; shares with the true one at least, with a false one at most.
    let rows = [
        ((30, 1.25), 0.05, 0.99, 0.02),
        ((30, 1.5), 0.15, 0.95, 0.08),
        ((55, 1.5), 0.05, 0.94, 0.06),
        ((57, 1.5), 0.05, 0.85, 0.08),
        ((30, 0.67), 0.15, 0.95, 0.08),
    ];
    for (change, deviation, least, most) in rows {
        let [_, right, wrong] = found(series(Some(change), deviation), 0.1, HISTORIES);
        assert!(right >= least && wrong <= most, "{change:?}, {deviation}: {right}, {wrong}");
    }
}

#[test]
fn two_changes_are_told_apart_with_their_ratios() {
    let value = |kernel: u8| {
        let level = match kernel {
            0..20 => 20e6,
            20..45 => 30e6,
            _ => 24e6,
        };
        level * (1.0 + 1e-3 * f64::from(kernel % 7))
    };
    let values: Vec<_> = (0..80).map(value).collect();
    let found = change_points(&values, Scale::LENGTHS_NS, 0.1).expect("lengths");
    assert_eq!(found.iter().map(|change| change.at).collect::<Vec<_>>(), [20, 45]);
    for (change, ratio) in found.iter().zip([1.5, 0.8]) {
        assert!((change.ratio / ratio - 1.0).abs() < 0.01 && change.p < LEVEL, "{change:?}");
    }
}

#[test]
fn changes_that_do_not_matter_are_left_out() {
    let values: Vec<_> = (0..40).map(|kernel| if kernel < 20 { 20e6 } else { 21e6 }).collect();
    assert_eq!(places(&values, 0.0), [20]);
    assert_eq!(places(&values, 0.1), Vec::<usize>::new());
}

#[test]
fn few_and_equal_values_have_no_change() {
    assert_eq!(places(&[], 0.1), Vec::<usize>::new());
    assert_eq!(places(&[1e6], 0.1), Vec::<usize>::new());
    assert_eq!(places(&[1e6, 9e6], 0.1), Vec::<usize>::new());
    assert_eq!(places(&[1e6; 100], 0.0), Vec::<usize>::new());
    assert_eq!(places(&[0.0; 100], 0.0), Vec::<usize>::new());
    // Six on each side are too few, seven are enough; and so are three, but not two, behind 27.
    let step = |before, after| [vec![1e6; before], vec![2e6; after]].concat();
    assert_eq!(places(&step(6, 6), 0.1), Vec::<usize>::new());
    assert_eq!(places(&step(7, 7), 0.1), [7]);
    for before in 27..60 {
        assert_eq!(places(&step(before, 2), 0.1), Vec::<usize>::new());
    }
}

/// What was found is found again when more kernels come.
#[test]
fn no_change_is_lost_as_the_history_grows() {
    let lengths = (27..60).step_by(8).flat_map(|before| (3..50).map(move |after| (before, after)));
    for (before, after) in lengths {
        let step = [vec![1e6; before], vec![2e6; after]].concat();
        assert_eq!(places(&step, 0.1), [before], "{before} and {after}");
    }
}

#[test]
fn what_is_no_value_is_refused() {
    for value in [f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(change_points(&[1.0, value], Scale::LENGTHS_NS, 0.1), None);
        assert_eq!(change_points(&[1.0, 2.0], Scale::LENGTHS_NS, value), None);
    }
    assert_eq!(change_points(&[0.5, 1.5], Scale::SHARES, 0.1), None);
}

#[test]
fn the_same_history_has_the_same_changes() {
    let series = series(Some((20, 1.3)), 0.1);
    assert_eq!(changes(series, 0.1, 5), changes(series, 0.1, 5));
}
