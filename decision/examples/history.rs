// SPDX-License-Identifier: Apache-2.0
//! Prints the table of histories of docs/deciding.md: `cargo run --release -p decision --example
//! history`.

#[path = "../tests/simulated/mod.rs"]
mod simulated;

use simulated::kernels::{Series, found};

fn main() {
    let count = 2_000;
    println!("{count} histories a row, of 60 kernels");
    println!("| change | deviation | smallest effect | any | true one | false one |");
    println!("|---|---|---|---|---|---|");
    for change in [None, Some((30, 1.25)), Some((30, 1.5)), Some((55, 1.5)), Some((57, 1.5))] {
        for deviation in [0.05, 0.15] {
            for min_effect in [0.0, 0.1] {
                let series = Series { kernels: 60, deviation, change };
                let [any, right, wrong] = found(series, min_effect, count);
                let change = change.map_or("none".to_owned(), |it| format!("{} at {}", it.1, it.0));
                println!(
                    "| {change} | {deviation} | {min_effect} | {any:.3} | {right:.3} | {wrong:.3} |"
                );
            }
        }
    }
}
