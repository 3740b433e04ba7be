// SPDX-License-Identifier: Apache-2.0
//! Every statistic against NumPy, which nobody here has written.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};

use gaps::pauses::{Distribution as Pause, Pauses};
use gaps::record::GapRecord;
use gaps::stats::{Distribution, jain, lag, max_over_min};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

/// Debian's own Python first: that is the one which Debian's NumPy is for.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

const SCRIPT: &str = r"
import json, sys
import numpy as np
data = json.load(sys.stdin)
gaps = np.array(data['gaps'], dtype=np.float64)
span, limit = data['span'], data['limit']
shares = np.array(data['shares'], dtype=np.float64)
pick = lambda q: float(np.quantile(gaps, q, method='inverted_cdf'))
rising = np.sort(gaps)
def pick_time(q):
    sums = np.cumsum(rising)
    return float(rising[np.searchsorted(sums, q * sums[-1])])
begins, ends = np.array(data['intervals'], dtype=np.float64).T
window = data['window']
starts = np.concatenate([begins, ends - window])
overlap = np.clip(np.minimum(ends, starts[:, None] + window)
                  - np.maximum(begins, starts[:, None]), 0, None).sum(axis=1)
print(json.dumps({
    'p50': pick(0.5), 'p90': pick(0.9), 'p99': pick(0.99), 'p999': pick(0.999),
    'time_p50': pick_time(0.5), 'time_p99': pick_time(0.99),
    'total': float(gaps.sum()),
    'wait_exceeds': float(np.clip(gaps - limit, 0, None).sum() / span),
    'mean_wait': float(np.mean(gaps ** 2) * gaps.size / (2 * span)),
    'starved': int((gaps > limit).sum()),
    'starved_total': float(gaps[gaps > limit].sum()),
    'jain': float(shares.mean() ** 2 / np.mean(shares ** 2)),
    'max_over_min': float(shares.max() / shares.min()),
    'most_in_window': float(overlap.max()),
}))
";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let python = PYTHONS.into_iter().find(|python| has_numpy(python));
    if python.is_none() {
        // Not to stdout, which with --list is a list of tests and nothing else.
        eprintln!(
            "skipped: no Python with NumPy 1.22 or later; \
             install Debian's python3-numpy, as `cargo xtask test` does"
        );
    }
    let trial = Trial::test("statistics_agree_with_numpy", move || {
        python.map_or_else(|| Err("no NumPy".into()), compare)
    });
    libtest_mimic::run(&arguments, vec![trial.with_ignored_flag(python.is_none())]).exit_code()
}

fn has_numpy(python: &str) -> bool {
    let import = "import numpy; numpy.quantile([1.0], 0.5, method='inverted_cdf')";
    let mut command = Command::new(python);
    command.args(["-c", import]).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn compare(python: &str) -> Result<(), Failed> {
    for seed in 0..20 {
        let input = input(seed);
        let theirs = ask(python, &input)?;
        for (name, ours) in ours(&input) {
            let expected = theirs[name].as_f64().ok_or("NumPy gave no number")?;
            let error = (ours - expected).abs() / expected.abs().max(1e-9);
            if error > 1e-9 {
                return Err(format!("{name}: {ours}, NumPy says {expected} (seed {seed})").into());
            }
        }
    }
    Ok(())
}

/// A thousand gaps with a long tail, as intervals that do not overlap.
fn input(seed: u64) -> Value {
    let mut gap = Pauses::new(Pause::Exponential { mean_ns: 3_000_000 }, seed, 1);
    let mut run = Pauses::new(Pause::Uniform { min_ns: 1, max_ns: 9_000_000 }, seed, 2);
    let mut share = Pauses::new(Pause::Uniform { min_ns: 1, max_ns: 1_000_000 }, seed, 3);
    let mut now = 0;
    let intervals: Vec<_> = (0..1000)
        .map(|_| {
            let begin = now + run.next_ns();
            now = begin + gap.next_ns();
            (begin, now)
        })
        .collect();
    let gaps: Vec<_> = intervals.iter().map(|(begin, end)| end - begin).collect();
    let shares: Vec<_> = (0..16).map(|_| share.next_ns()).collect();
    json!({
        "gaps": gaps, "span": now, "limit": 4_000_000, "shares": shares,
        "intervals": intervals, "window": 100_000_000,
    })
}

fn ours(input: &Value) -> Vec<(&'static str, f64)> {
    let list = |name: &str| -> Vec<u64> {
        serde_json::from_value(input[name].clone()).expect("made above")
    };
    let number = |name: &str| input[name].as_u64().expect("made above");
    let (span, limit) = (number("span"), number("limit"));
    let gaps = Distribution::of_lengths(list("gaps"));
    let intervals: Vec<(u64, u64)> =
        serde_json::from_value(input["intervals"].clone()).expect("made above");
    let record = |&(tsc_begin, tsc_end): &(u64, u64)| GapRecord {
        tsc_begin,
        tsc_end,
        ..GapRecord::default()
    };
    let records: Vec<_> = intervals.iter().map(record).collect();
    let shares = list("shares");
    let quantile = |share| gaps.quantile_ns(share).expect("there are gaps") as f64;
    let starved = gaps.starvation(limit);
    vec![
        ("p50", quantile(500_000)),
        ("p90", quantile(900_000)),
        ("p99", quantile(990_000)),
        ("p999", quantile(999_000)),
        ("time_p50", gaps.time_quantile_ns(500_000).expect("there are gaps") as f64),
        ("time_p99", gaps.time_quantile_ns(990_000).expect("there are gaps") as f64),
        ("total", gaps.total_ns() as f64),
        ("wait_exceeds", gaps.wait_exceeds(limit, span).expect("a span")),
        ("mean_wait", gaps.mean_wait_ns(span).expect("a span")),
        ("starved", starved.count as f64),
        ("starved_total", starved.total_ns as f64),
        ("jain", jain(&shares).expect("shares")),
        ("max_over_min", max_over_min(&shares).expect("shares")),
        ("most_in_window", lag::most_in_window(&records, number("window")) as f64),
    ]
}

fn ask(python: &str, input: &Value) -> Result<Value, Failed> {
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().ok_or("no pipe")?;
    stdin.write_all(input.to_string().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("NumPy's side failed: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
