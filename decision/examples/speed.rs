// SPDX-License-Identifier: Apache-2.0
//! How long deciding takes: `cargo run --release -p decision --example speed`.

use std::hint::black_box;
use std::time::Instant;

use decision::difference::{Difference, Scale};
use decision::interval::{Median, Share};
use decision::multiple::benjamini_hochberg;
use decision::sequential::{Question, Worse, judge, judge_once};

fn main() {
    // Any numbers that look random; the golden ratio's multiples do.
    let lengths: Vec<f64> =
        (0..10_000u32).map(|trial| 20e6 * (0.618_034 * f64::from(trial)).fract().exp()).collect();
    let pairs: Vec<Difference> = lengths
        .chunks_exact(2)
        .filter_map(|pair| Scale::LENGTHS_NS.difference(pair[0], pair[1]))
        .collect();
    let question = Question::new(Worse::Larger, 0.1).expect("an effect");
    timed("medians of 10,000 trials", || Median::new(&lengths, 0.95));
    timed("test, estimate and interval of 5,000 pairs", || judge_once(question, &pairs, 0.05));
    timed("the same of 62 pairs, exact", || judge_once(question, &pairs[..62], 0.05));
    timed("20 pairs, 4 looks", || judge(question, &pairs[..20]));
    timed("10,000 shares of trials with intervals", || {
        let shares = (0..10_000).filter_map(|hits| Share::new(hits, 10_000));
        shares.map(|share| share.interval(0.95)).collect::<Vec<_>>()
    });
    timed("10,000 adjusted probabilities", || benjamini_hochberg(&lengths));
}

fn timed<T>(what: &str, work: impl Fn() -> T) {
    let begin = Instant::now();
    black_box(work());
    println!("{:>9.3} ms  {what}", 1e3 * begin.elapsed().as_secs_f64());
}
