// SPDX-License-Identifier: Apache-2.0
//! Rows of the table, each from the JSON that a run has left.

use std::fmt;

use results::model::{RunResult, RunTimes};
use results::selftest;
use serde::Serialize;

use crate::as_f64;

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
    /// On which side of it.
    pub side: Side,
    /// Whether it is there, and not further away.
    pub ok: bool,
    /// Why there is no measurement.
    pub note: Option<String>,
}

/// On which side of its answer a measurement is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Not far from it.
    Near,
    /// Not above it.
    AtMost,
    /// Not below it.
    AtLeast,
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
        let side = Side::Near;
        Self { name: name.into(), unit, expected, measured, bound, side, ok, note: None }
    }

    /// A figure that has to be on this side of `limit`.
    pub fn beyond(
        (name, unit): (impl Into<String>, &'static str),
        side: Side,
        limit: f64,
        measured: Option<f64>,
    ) -> Self {
        let ok = measured.is_some_and(|measured| match side {
            Side::Near | Side::AtMost => measured <= limit,
            Side::AtLeast => measured >= limit,
        });
        Self { side, ok, ..Self::new((name, unit), Some(limit), measured, 0.0) }
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
        let Self { name, unit, .. } = self;
        let bound = match self.side {
            Side::Near => format!("{:.3}", self.bound),
            Side::AtMost => "at most".to_owned(),
            Side::AtLeast => "at least".to_owned(),
        };
        let figure =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        write!(
            f,
            "{name:<44}{:>12}{:>12}{bound:>12} {unit:<3} {}",
            figure(self.expected),
            figure(self.measured),
            if self.ok { "ok" } else { "FAILED" }
        )
    }
}

fn milliseconds(ns: u64) -> f64 {
    as_f64(ns) / 1e6
}

fn percent(share: Option<f64>) -> Option<f64> {
    share.map(|share| 100.0 * share)
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
fn turns(threads: u32, switch: f64, result: &RunResult) -> Row {
    let expected = result.expected.gap_ns.map(milliseconds);
    let quantiles = result.statistics.quantiles.as_ref();
    let measured = quantiles.and_then(|quantiles| quantiles.p50_ns).map(milliseconds);
    let name = format!("median gap, {threads} threads on each CPU");
    let bound = switch * expected.unwrap_or_default() + WAY_MS;
    Row::new((name, "ms"), expected, measured, bound)
}

/// The same of a load on the host itself.
pub(super) fn turns_on_host(threads: u32, result: &RunResult) -> Vec<Row> {
    vec![turns(threads, HOST_SWITCH, result)]
}

/// Weights of nice -5, 0 and 5, which the preset `weights` has in this order, two groups of each
/// (kernel/sched/core.c, `sched_prio_to_weight`).
const WEIGHTS: [(i32, f64); 3] = [(-5, 3121.0), (0, 1024.0), (5, 335.0)];

/// Groups get the CPU by their weights: a single CPU, for on two of them shares also depend
/// on how threads are spread.
pub(super) fn shares(result: &RunResult) -> Vec<Row> {
    let all: f64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    WEIGHTS
        .iter()
        .enumerate()
        .map(|(n, (nice, weight))| {
            let (one, other) = (cpu_share(2 * n, result), cpu_share(2 * n + 1, result));
            let measured = one.zip(other).map(|(one, other)| 100.0 * (one + other));
            let expected = 100.0 * weight / all;
            let name = format!("CPU share of two groups of nice {nice}");
            Row::new((name, "%"), Some(expected), measured, 0.05 * expected)
        })
        .collect()
}

fn cpu_share(group: usize, result: &RunResult) -> Option<f64> {
    result.groups.get(group)?.cpu_share
}

/// Two threads of different cookies, one for each hyperthread of a core: one runs, and the other
/// hyperthread is idle.
pub(super) fn half_idle(result: &RunResult, times: Option<&RunTimes>) -> Vec<Row> {
    let forced = percent(result.forced_idle.share);
    let one = percent(cpu_share(0, result));
    vec![
        Row::new(("forced idle, two cookies on a core", "%"), Some(50.0), forced, 2.0),
        Row::new(("CPU share of one of two cookies", "%"), Some(50.0), one, 1.0),
        forced_idle(("forced idle by trace and by counter", 1.5), result, times),
    ]
}

/// Forced idle as the trace tells it, with the kernel's counter as the answer, both in parts of the
/// CPUs' time. The counter has the time of switching in it, and the trace has not. One that finds
/// none at all has measured nothing.
fn forced_idle((name, bound): (&str, f64), result: &RunResult, times: Option<&RunTimes>) -> Row {
    let counted = percent(result.forced_idle.share).filter(|share| *share > 0.0);
    let traced = times.and_then(|times| traced_share(result, times));
    Row::new((name, "%"), counted, percent(traced), bound)
}

/// Forced idle time in the trace, in parts of the time of the CPUs that the load was on.
fn traced_share(result: &RunResult, times: &RunTimes) -> Option<f64> {
    let cpus = u32::try_from(result.job.load.cpus.len()).ok().filter(|count| *count > 0)?;
    let sum: u64 = times.forced_idle.iter().map(|piece| piece.ns).sum();
    let is_measured = sum > 0 && times.length_ns > 0;
    is_measured.then(|| milliseconds(sum) / milliseconds(times.length_ns) / f64::from(cpus))
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
pub(super) fn made(cases: &[selftest::Case]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (case, name) in MADE {
        let case = cases.iter().find(|found| found.name == case);
        let (injected, found) =
            (case.map(|case| count(case.injected)), case.map(|case| count(case.found)));
        let worst = case.and_then(|case| case.worst_error_percent);
        rows.push(Row::new((format!("{name}: found"), ""), injected, found, 0.0));
        let name = format!("{name}: largest error");
        rows.push(Row::new((name, "%"), Some(0.0), worst, 1.0));
    }
    rows
}

/// A thread that has yielded is owed nothing and owes nothing for that: both pairs have a half of the
/// time, and nobody waits longer than for a few turns.
pub(super) fn yields(result: &RunResult, _: Option<&RunTimes>) -> Vec<Row> {
    let (share, longest) = (percent(cpu_share(0, result)), longest_ms(result));
    vec![
        Row::new(("yield: CPU share of the pair that yielded", "%"), Some(50.0), share, 1.0),
        Row::beyond(("yield: longest gap", "ms"), Side::AtMost, 20.0, longest),
    ]
}

/// Where yielding costs a thread its virtual runtime it has to make up for it, and for long.
pub(super) fn yields_and_runs_away(result: &RunResult, _: Option<&RunTimes>) -> Vec<Row> {
    let (share, longest) = (percent(cpu_share(0, result)), longest_ms(result));
    vec![
        Row::beyond(("yield, with its regression: CPU share", "%"), Side::AtMost, 43.0, share),
        Row::beyond(
            ("yield, with its regression: longest gap", "ms"),
            Side::AtLeast,
            100.0,
            longest,
        ),
    ]
}

fn longest_ms(result: &RunResult) -> Option<f64> {
    result.longest_gap_ns.map(milliseconds)
}

fn count(gaps: usize) -> f64 {
    as_f64(gaps as u64)
}

/// Eight groups with cookies on the second core of a guest.
pub(super) fn guest(result: &RunResult, times: Option<&RunTimes>) -> Vec<Row> {
    let gap = turns(8, GUEST_SWITCH, result);
    let jain = result.fairness.threads.jain;
    vec![
        Row { name: format!("guest: {}", gap.name), ..gap },
        Row::new(("guest: Jain's index of threads", ""), Some(1.0), jain, 0.005),
        forced_idle(("guest: forced idle by trace and by counter", 0.2), result, times),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use results::model::ForcedIdleTime;
    use results::testing;

    #[test]
    fn what_is_missing_or_too_far_away_is_not_ok() {
        let ok = |expected, measured| Row::new(("x", "ms"), expected, measured, 0.5).ok;
        assert!(ok(Some(2.0), Some(2.5)) && ok(Some(2.0), Some(1.5)));
        assert!(!ok(Some(2.0), Some(2.6)) && !ok(None, Some(2.0)) && !ok(Some(2.0), None));
        let missing = Row::missing("x", "it hung".into());
        assert!(!missing.ok && missing.to_string().contains("it hung  FAILED"));
        assert!(!Row::new(("x", "ms"), Some(0.0), Some(f64::NAN), 1.0).ok);
        let beyond = |side, measured| Row::beyond(("x", "ms"), side, 20.0, measured);
        assert!(beyond(Side::AtMost, Some(20.0)).ok && !beyond(Side::AtMost, Some(20.1)).ok);
        assert!(beyond(Side::AtLeast, Some(20.0)).ok && !beyond(Side::AtLeast, Some(19.9)).ok);
        for side in [Side::AtMost, Side::AtLeast] {
            assert!(!beyond(side, None).ok && !beyond(side, Some(f64::NAN)).ok);
        }
        assert!(beyond(Side::AtLeast, None).to_string().contains("at least"));
    }

    /// As measured in the simulated host on both kernels; neither is taken for the other.
    #[test]
    fn a_regression_and_a_sound_kernel_are_told_apart() {
        let run = |share, longest_ns| {
            let mut result = testing::result("user");
            result.groups[0].cpu_share = Some(share);
            result.longest_gap_ns = Some(longest_ns);
            result
        };
        let (sound, broken) = (run(0.499, 7_100_000), run(0.389, 179_600_000));
        assert_eq!(verdicts(&yields(&sound, None)), [true, true]);
        assert_eq!(verdicts(&yields_and_runs_away(&broken, None)), [true, true]);
        assert_eq!(verdicts(&yields(&broken, None)), [false, false]);
        assert_eq!(verdicts(&yields_and_runs_away(&sound, None)), [false, false]);
    }

    fn verdicts(rows: &[Row]) -> Vec<bool> {
        rows.iter().map(|row| row.ok).collect()
    }

    fn times(ns: [u64; 2]) -> RunTimes {
        let piece = |cpu, ns| ForcedIdleTime { cpu, by_group: Some(1), ns };
        RunTimes {
            tsc_begin: 0,
            tsc_end: 1,
            length_ns: 1_000_000_000,
            threads: Vec::new(),
            forced_idle: vec![piece(2, ns[0]), piece(3, ns[1])],
            pieces_left_out: 0,
        }
    }

    #[test]
    fn figures_are_found_where_results_have_them() {
        let mut result = testing::result("user");
        result.expected.gap_ns = Some(13_125_000);
        if let Some(quantiles) = &mut result.statistics.quantiles {
            quantiles.p50_ns = Some(13_800_000);
        }
        result.fairness.threads.jain = Some(0.99);
        result.job.load.cpus = vec![2, 3];
        result.forced_idle.share = Some(0.49);
        let shares_of_groups = [0.35, 0.345, 0.115, 0.115, 0.037, 0.038];
        for (group, share) in result.groups.iter_mut().zip(shares_of_groups) {
            group.cpu_share = Some(share);
        }
        let explained = times([490_000_000, 500_000_000]);
        assert!(turns(8, HOST_SWITCH, &result).ok);
        assert_eq!(verdicts(&shares(&result)), [true; 3]);
        assert_eq!(verdicts(&half_idle(&result, Some(&explained))), [true, false, true]);
        // One thread that got less than the others, and half a point beside the counter, are seen.
        assert_eq!(verdicts(&guest(&result, Some(&explained))), [true, false, false]);
        result.fairness.threads.jain = Some(0.999);
        let close = times([490_000_000, 491_000_000]);
        assert_eq!(verdicts(&guest(&result, Some(&close))), [true; 3]);
        assert!(!verdicts(&guest(&result, Some(&times([0, 0]))))[2], "a trace that tells of none");
        assert!(!verdicts(&guest(&result, None))[2], "no trace");
        result.forced_idle.share = None;
        result.groups.clear();
        assert!(verdicts(&half_idle(&result, None)).iter().all(|ok| !ok));
    }

    #[test]
    fn gaps_that_were_made_are_all_found_or_not_ok() {
        let case = |name, injected, found, worst_error_percent| {
            let skipped = selftest::Case::skipped(name, "");
            selftest::Case { injected, found, worst_error_percent, ..skipped }
        };
        let cases = [case("stop-50ms", 10, 10, Some(0.2)), case("throttled", 19, 18, None)];
        assert_eq!(verdicts(&made(&cases))[..6], [true, true, false, false, false, false]);
    }
}
