// SPDX-License-Identifier: Apache-2.0
//! What docs/deciding.md says of false alarms, power and coverage, on a host that drifts and spoils
//! a tenth of the trials. `cargo run --release -p decision --example deciding` prints the tables of
//! more comparisons.

mod simulated;

use simulated::comparisons::{Outcome, compare_many, one_after_the_other, peeking};
use simulated::host::Trials;
use simulated::matrices::{Matrix, discoveries};

const COMPARISONS: u32 = 3000;
const MATRICES: u32 = 1000;

fn found(ratio: f64, deviation: f64, contaminated: f64) -> Outcome {
    compare_many(Trials { ratio, deviation, contaminated }, COMPARISONS)
}

/// Of a kernel with itself: at most one comparison in twenty finds a difference.
#[test]
fn equal_kernels_are_told_apart_in_at_most_5_percent() {
    for deviation in [0.02, 0.05, 0.15, 0.3] {
        for contaminated in [0.0, 0.1] {
            let found = found(1.0, deviation, contaminated);
            let alarms = found.better + found.worse;
            assert!(alarms <= 0.05, "{alarms} at {deviation}, {contaminated}: {found:?}");
            assert!(found.covered >= 0.94, "{found:?}");
        }
    }
}

/// The rules that the looks replace do not hold 5 %: were these found harmless, the simulation would
/// be.
#[test]
fn plain_rules_raise_false_alarms() {
    let kind = Trials { ratio: 1.0, deviation: 0.05, contaminated: 0.0 };
    let (peeking, in_a_row) = (peeking(kind, COMPARISONS), one_after_the_other(kind, COMPARISONS));
    assert!(peeking > 0.12, "{peeking}");
    assert!(in_a_row > 0.15, "{in_a_row}");
}

#[test]
fn differences_are_found_and_their_intervals_hold_the_truth() {
    // Ratio, deviation, contaminated; share that is found at least, pairs at most.
    let rows = [
        (1.25, 0.05, 0.0, 0.98, 8.0),
        (1.25, 0.15, 0.0, 0.92, 13.0),
        (1.5, 0.15, 0.1, 0.85, 12.0),
        (1.5, 0.3, 0.0, 0.88, 14.0),
        (2.0, 0.15, 0.1, 0.95, 10.0),
        (2.0, 0.3, 0.0, 0.98, 9.0),
    ];
    for (ratio, deviation, contaminated, power, pairs) in rows {
        let found = found(ratio, deviation, contaminated);
        let row = (ratio, deviation, contaminated);
        assert!(found.worse >= power && found.pairs <= pairs, "{row:?}: {found:?}");
        assert!(found.better <= 0.001 && found.covered >= 0.94, "{row:?}: {found:?}");
        let turned = compare_many(Trials { ratio: 1.0 / ratio, deviation, contaminated }, 500);
        assert!(turned.better >= power - 0.04 && turned.worse <= 0.004, "{row:?}: {turned:?}");
    }
}

/// On the edge of the smallest effect "same" is as rare as a false alarm, and without an effect it
/// is the rule where trials are alike.
#[test]
fn same_means_within_the_smallest_effect() {
    for deviation in [0.02, 0.05, 0.15] {
        let edge = found(1.1, deviation, 0.0);
        assert!(edge.same <= 0.025, "{deviation}: {edge:?}");
    }
    assert!(found(1.0, 0.05, 0.0).same >= 0.85);
}

/// Of a matrix whose cells are all equal to the base, one in twenty at most says that a cell differs;
/// and of those that are said to differ where some do, at most one in twenty does not, on average.
#[test]
fn of_the_cells_of_a_matrix_that_are_said_to_differ_hardly_any_does_not() {
    let null =
        Matrix { cells: 11, differ: 0, ratio: 1.5, trials: 10, deviation: 0.15, contaminated: 0.0 };
    for matrix in [
        null,
        Matrix { deviation: 0.05, contaminated: 0.1, ..null },
        Matrix { cells: 47, trials: 12, ..null },
        Matrix { cells: 3, trials: 7, deviation: 0.3, ..null },
        Matrix { differ: 3, ..null },
        Matrix { differ: 6, trials: 14, contaminated: 0.1, ..null },
    ] {
        let found = discoveries(matrix, MATRICES);
        assert!(found.false_share <= 0.05, "{matrix:?}: {found:?}");
        assert!(found.covered >= 0.94 || matrix.differ == 0, "{matrix:?}: {found:?}");
    }
    // The simulation can tell: at 0.05 for each cell it is another matter.
    let plain = discoveries(null, MATRICES).plain_false_share;
    assert!(plain > 0.25, "{plain}");
}

#[test]
fn cells_of_a_matrix_that_differ_are_found() {
    // Ratio, deviation, contaminated, trials; share that is found at least.
    let rows = [(1.5, 0.15, 0.0, 10, 0.6), (1.5, 0.05, 0.0, 10, 0.9), (2.0, 0.15, 0.1, 14, 0.9)];
    for (ratio, deviation, contaminated, trials, power) in rows {
        for ratio in [ratio, 1.0 / ratio] {
            let matrix = Matrix { cells: 11, differ: 3, ratio, trials, deviation, contaminated };
            let found = discoveries(matrix, MATRICES);
            assert!(found.found >= power, "{matrix:?}: {found:?}");
        }
    }
}
