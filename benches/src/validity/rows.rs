// SPDX-License-Identifier: Apache-2.0
//! Rows of the table, each from the JSON that a run has left.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// One figure with its answer.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is measured.
    pub name: String,
    /// Unit of all figures of the row.
    pub unit: &'static str,
    /// The answer.
    pub expected: Option<f64>,
    /// The measurement; `None` where the product gave none.
    pub measured: Option<f64>,
    /// How far the measurement may be from the answer.
    pub bound: f64,
    /// Whether it is there, and not further away.
    pub ok: bool,
    /// Why there is no measurement.
    pub note: Option<String>,
}

impl Row {
    /// Heading of a table of them.
    pub const HEADING: &str =
        "figure                                          expected    measured       bound";

    /// A figure that has to be within `bound` of `expected`.
    pub fn new(
        (name, unit): (impl Into<String>, &'static str),
        expected: Option<f64>,
        measured: Option<f64>,
        bound: f64,
    ) -> Self {
        let ok = expected.zip(measured).is_some_and(|(one, other)| (one - other).abs() <= bound);
        Self { name: name.into(), unit, expected, measured, bound, ok, note: None }
    }

    /// Of a run that left nothing to judge.
    pub fn missing(name: &str, reason: String) -> Self {
        Self { note: Some(reason), ..Self::new((name, ""), None, None, 0.0) }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(note) = &self.note {
            return write!(f, "{:<44}{note}  FAILED", self.name);
        }
        let Self { name, unit, bound, .. } = self;
        let figure =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        write!(
            f,
            "{name:<44}{:>12}{:>12}{bound:>12.3} {unit:<3} {}",
            figure(self.expected),
            figure(self.measured),
            if self.ok { "ok" } else { "FAILED" }
        )
    }
}

/// A number at this place of an object.
fn number(json: &Value, pointer: &str) -> Option<f64> {
    json.pointer(pointer).and_then(Value::as_f64)
}

fn milliseconds(json: &Value, pointer: &str) -> Option<f64> {
    number(json, pointer).map(|ns| ns / 1e6)
}

/// What switching adds to a turn of the simulated machine: its part of the turn on the host, where
/// it was seen to be 4 %, and in a guest, where exits come on top.
const HOST_SWITCH: f64 = 0.05;
const GUEST_SWITCH: f64 = 0.25;
/// What an interruption adds to a gap beside turns, for its way in and out: 0.16 ms were seen.
const WAY_MS: f64 = 0.2;

/// Each of so many threads that always want to run on a CPU waits for one turn of each of the
/// others. Switching takes the simulated machine a part of a turn, `switch`, that hardware would
/// not notice.
fn turns(threads: u32, switch: f64, result: &Value) -> Row {
    let expected = milliseconds(result, "/expected/gap_ns");
    let measured = milliseconds(result, "/statistics/quantiles/p50_ns");
    let name = format!("median gap, {threads} threads on each CPU");
    let bound = switch * expected.unwrap_or_default() + WAY_MS;
    Row::new((name, "ms"), expected, measured, bound)
}

/// The same of a load on the host itself.
pub(super) fn turns_on_host(threads: u32, result: &Value) -> Vec<Row> {
    vec![turns(threads, HOST_SWITCH, result)]
}

/// Weights of nice -5, 0 and 5, which the preset `weights` has in this order, two groups of each
/// (kernel/sched/core.c, `sched_prio_to_weight`).
const WEIGHTS: [(i32, f64); 3] = [(-5, 3121.0), (0, 1024.0), (5, 335.0)];

/// Groups get the CPU by their weights: a single CPU, for on two of them shares also depend
/// on how threads are spread.
pub(super) fn shares(result: &Value) -> Vec<Row> {
    let all: f64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    WEIGHTS
        .iter()
        .enumerate()
        .map(|(n, (nice, weight))| {
            let of = |group: usize| number(result, &format!("/groups/{group}/cpu_share"));
            let measured = of(2 * n).zip(of(2 * n + 1)).map(|(one, other)| 100.0 * (one + other));
            let expected = 100.0 * weight / all;
            let name = format!("CPU share of two groups of nice {nice}");
            Row::new((name, "%"), Some(expected), measured, 0.05 * expected)
        })
        .collect()
}

/// Two threads of different cookies, one for each hyperthread of a core: one runs, and the other
/// hyperthread is idle.
pub(super) fn half_idle(result: &Value, explained: &Value) -> Vec<Row> {
    let share = |pointer: &str| number(result, pointer).map(|share| 100.0 * share);
    vec![
        Row::new(
            ("forced idle, two cookies on a core", "%"),
            Some(50.0),
            share("/forced_idle/share"),
            2.0,
        ),
        Row::new(
            ("CPU share of one of two cookies", "%"),
            Some(50.0),
            share("/groups/0/cpu_share"),
            1.0,
        ),
        forced_idle(("forced idle by trace and by counter", 1.5), result, explained),
    ]
}

/// Forced idle as the trace tells it, with the kernel's counter as the answer, both in parts of the
/// CPUs' time. The counter has the time of switching in it, and the trace has not. One that finds
/// none at all has measured nothing.
fn forced_idle((name, bound): (&str, f64), result: &Value, explained: &Value) -> Row {
    let counted = number(result, "/forced_idle/share").map(|share| 100.0 * share);
    let counted = counted.filter(|share| *share > 0.0);
    let length = number(explained, "/run/length_ns").filter(|ns| *ns > 0.0);
    let cpus = number_of_cpus(result);
    let pieces = explained.pointer("/run/forced_idle").and_then(Value::as_array);
    let sum: Option<f64> =
        pieces.and_then(|pieces| pieces.iter().map(|piece| number(piece, "/ns")).sum());
    let traced = sum
        .filter(|ns| *ns > 0.0)
        .zip(length)
        .zip(cpus)
        .map(|((ns, length), cpus)| 100.0 * ns / length / cpus);
    Row::new((name, "%"), counted, traced, bound)
}

/// CPUs that the load was on.
fn number_of_cpus(result: &Value) -> Option<f64> {
    let cpus = result.pointer("/job/load/cpus").and_then(Value::as_array)?;
    u32::try_from(cpus.len()).ok().filter(|count| *count > 0).map(f64::from)
}

/// Gaps of the self-test whose length is known: its name for them, and ours.
const MADE: [(&str, &str); 4] = [
    ("stop-50ms", "stops of 50 ms"),
    ("stop-500ms", "stops of 500 ms"),
    ("throttled", "a quota of half a CPU, 50 ms"),
    ("fifo-hog", "950 ms of real-time threads"),
];

/// Gaps that are made are found, with their length. Shorter stops than these are not judged there:
/// sending a signal takes too much of them.
pub(super) fn made(result: &Value) -> Vec<Row> {
    let cases = result.pointer("/cases").and_then(Value::as_array);
    let row = |(case, name): &(&str, &str)| {
        let case = cases.and_then(|cases| cases.iter().find(|found| found["name"] == *case));
        let of = |pointer: &str| case.and_then(|case| number(case, pointer));
        [
            Row::new((format!("{name}: found"), ""), of("/injected"), of("/found"), 0.0),
            Row::new(
                (format!("{name}: largest error"), "%"),
                Some(0.0),
                of("/worst_error_percent"),
                1.0,
            ),
        ]
    };
    MADE.iter().flat_map(row).collect()
}

/// Eight groups with cookies on the second core of a guest.
pub(super) fn guest(result: &Value, explained: &Value) -> Vec<Row> {
    let gap = turns(8, GUEST_SWITCH, result);
    let jain = number(result, "/fairness/threads/jain");
    vec![
        Row { name: format!("guest: {}", gap.name), ..gap },
        Row::new(("guest: Jain's index of threads", ""), Some(1.0), jain, 0.005),
        forced_idle(("guest: forced idle by trace and by counter", 0.2), result, explained),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_or_too_far_away_is_not_ok() {
        let ok = |expected, measured| Row::new(("x", "ms"), expected, measured, 0.5).ok;
        assert!(ok(Some(2.0), Some(2.5)) && ok(Some(2.0), Some(1.5)));
        assert!(!ok(Some(2.0), Some(2.6)) && !ok(None, Some(2.0)) && !ok(Some(2.0), None));
        let missing = Row::missing("x", "it hung".into());
        assert!(!missing.ok && missing.to_string().contains("it hung  FAILED"));
        assert!(!Row::new(("x", "ms"), Some(0.0), Some(f64::NAN), 1.0).ok);
    }

    #[test]
    fn figures_are_found_where_results_have_them() {
        let result = json!({
            "expected": { "gap_ns": 13_125_000 },
            "statistics": { "quantiles": { "p50_ns": 13_800_000 } },
            "fairness": { "threads": { "jain": 0.99 } },
            "job": { "load": { "cpus": [2, 3] } },
            "forced_idle": { "share": 0.49 },
            "groups": [
                { "cpu_share": 0.35 }, { "cpu_share": 0.345 }, { "cpu_share": 0.115 },
                { "cpu_share": 0.115 }, { "cpu_share": 0.037 }, { "cpu_share": 0.038 },
            ],
            "cases": [
                { "name": "stop-50ms", "injected": 10, "found": 10, "worst_error_percent": 0.2 },
                { "name": "throttled", "injected": 19, "found": 18, "worst_error_percent": null },
            ],
        });
        let explained = json!({ "run": { "length_ns": 1_000_000_000, "forced_idle": [
            { "cpu": 2, "ns": 490_000_000 }, { "cpu": 3, "ns": 500_000_000 },
        ] } });
        let verdicts = |rows: Vec<Row>| rows.iter().map(|row| row.ok).collect::<Vec<_>>();
        assert!(turns(8, HOST_SWITCH, &result).ok);
        assert_eq!(verdicts(shares(&result)), [true; 3]);
        assert_eq!(verdicts(half_idle(&result, &explained)), [true, false, true]);
        // One thread that got less than the others, and half a point beside the counter, are seen.
        assert_eq!(verdicts(guest(&result, &explained)), [true, false, false]);
        let (mut even, mut close) = (result.clone(), explained.clone());
        even["fairness"]["threads"]["jain"] = json!(0.999);
        close["run"]["forced_idle"][1]["ns"] = json!(491_000_000);
        assert_eq!(verdicts(guest(&even, &close)), [true; 3]);
        close["run"]["forced_idle"] = json!([]);
        assert!(!verdicts(guest(&even, &close))[2], "a trace that tells of none");
        assert_eq!(verdicts(made(&result))[..6], [true, true, false, false, false, false]);
        assert!(verdicts(half_idle(&Value::Null, &Value::Null)).iter().all(|ok| !ok));
    }
}
