// SPDX-License-Identifier: Apache-2.0
//! Prints the table of docs/deciding.md on matrices: `cargo run --release -p decision --example matrices`.

#[path = "../tests/simulated/mod.rs"]
mod simulated;

use simulated::matrices::{Matrix, discoveries};

fn main() {
    let count = 2_000;
    println!("{count} matrices a row");
    println!(
        "| cells | differ | trials | deviation | contaminated | false | found | at 0.05 each |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (cells, differ) in [(3, 0), (11, 0), (47, 0), (11, 3), (11, 6)] {
        for (trials, deviation, contaminated) in
            [(10, 0.05, 0.0), (10, 0.15, 0.0), (14, 0.15, 0.0), (14, 0.15, 0.1), (14, 0.3, 0.0)]
        {
            let ratio = 1.5;
            let matrix = Matrix { cells, differ, ratio, trials, deviation, contaminated };
            let found = discoveries(matrix, count);
            println!(
                "| {cells} | {differ} | {trials} | {deviation} | {contaminated} | {:.3} | {:.3} | {:.3} |",
                found.false_share, found.found, found.plain_false_share
            );
        }
    }
}
