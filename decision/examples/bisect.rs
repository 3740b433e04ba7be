// SPDX-License-Identifier: Apache-2.0
//! Prints the table of searches of docs/deciding.md: `cargo run --release -p decision --example
//! bisect`.

#[path = "../tests/simulated/mod.rs"]
mod simulated;

use simulated::histories::{History, Means, means, plain, search};

fn main() {
    let count = 1_000;
    println!("{count} searches a row, of 1,000 commits; 400 s a kernel, 35 s a trial");
    println!("| good, bad | method | right | given up | hours | kernels | trials | candidates |");
    println!("|---|---|---|---|---|---|---|---|");
    for (good, bad) in [(0.02, 0.3), (0.02, 0.8), (0.3, 0.7), (0.0, 1.0), (0.1, 0.1), (0.3, 0.3)] {
        for skipped in [0.0, 0.2] {
            let history = History { commits: 1_000, good, bad, skipped };
            let name = format!("information per second, {:.0} % skipped", 100.0 * skipped);
            row(history, &name, means(count, |seed| search(history, seed)));
        }
        let history = History { commits: 1_000, good, bad, skipped: 0.0 };
        for trials in [1, 14] {
            let name = format!("git bisect run, {trials} a kernel");
            row(history, &name, means(count, |seed| plain(history, trials, seed)));
        }
    }
}

fn row(history: History, method: &str, means: Means) {
    println!(
        "| {}, {} | {method} | {:.3} | {:.3} | {:.1} | {:.1} | {:.0} | {:.1} |",
        history.good,
        history.bad,
        means.right,
        means.given_up,
        means.hours,
        means.kernels,
        means.trials,
        means.candidates
    );
}
