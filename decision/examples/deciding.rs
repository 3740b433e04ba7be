// SPDX-License-Identifier: Apache-2.0
//! Prints the tables of docs/deciding.md: `cargo run --release -p decision --example deciding`.

#[path = "../tests/simulated/mod.rs"]
mod simulated;

use simulated::comparisons::{compare_many, one_after_the_other, peeking};
use simulated::host::Trials;

fn main() {
    let count = 10_000;
    println!("{count} comparisons a row");
    println!(
        "| ratio | deviation | contaminated | better | same | worse | undecided | covered | pairs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for ratio in [1.0, 1.1, 1.25, 1.5, 2.0] {
        for deviation in [0.02, 0.05, 0.15, 0.3] {
            for contaminated in [0.0, 0.1] {
                let found = compare_many(Trials { ratio, deviation, contaminated }, count);
                println!(
                    "| {ratio} | {deviation} | {contaminated} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.1} |",
                    found.better,
                    found.same,
                    found.worse,
                    found.undecided,
                    found.covered,
                    found.pairs
                );
            }
        }
    }
    for deviation in [0.05, 0.15, 0.3] {
        let kind = Trials { ratio: 1.0, deviation, contaminated: 0.0 };
        println!(
            "false alarms at {deviation}: looking after each pair {:.3}, ten after ten {:.3}",
            peeking(kind, count),
            one_after_the_other(kind, count)
        );
    }
}
