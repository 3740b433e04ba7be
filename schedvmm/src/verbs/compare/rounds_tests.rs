// SPDX-License-Identifier: Apache-2.0
//! Sides whose machines are made up.

use std::collections::VecDeque;
use std::fs;

use decision::sequential::Answer as Decided;
use gaps::stats::Quantiles;
use results::model::{Answer, ReasonCode};
use results::set_file::SetFile as _;
use results::trials::Trials;
use tempfile::TempDir;

use super::*;
use crate::testing;
use crate::verbs::compare::judge::tests::ASKED;
use crate::verbs::trials::series::tests::conditions;

/// What a machine does that is started next.
#[derive(Clone, Copy)]
enum Next {
    Waits(u64),
    Contaminated,
    Interrupted,
    TellsNothing,
}

struct Made {
    next: Vec<VecDeque<Next>>,
    booted: Vec<(usize, u64)>,
    signal: Option<i32>,
    /// It comes while this many-eth machine runs.
    signal_after: Option<usize>,
}

impl Machines for Made {
    fn boot(&mut self, side: usize, seed: u64, folder: &Path) -> Result<Run, Failure> {
        self.booted.push((side, seed));
        if self.signal_after == Some(self.booted.len()) {
            self.signal = Some(libc::SIGINT);
        }
        fs::create_dir(folder).expect("a new folder");
        let next = self.next[side].pop_front().expect("no more machines were expected");
        let mut result = testing::result();
        (result.verdict, result.exit_status) = (Answer::Measured, Some(0));
        (result.reason, result.reason_code) = (String::new(), None);
        match next {
            Next::Waits(wait_ns) => {
                let quantiles = Quantiles { p99_ns: Some(wait_ns), ..Quantiles::default() };
                result.statistics.time_quantiles = Some(quantiles);
            }
            Next::Contaminated => {
                result.verdict = Answer::Untestable;
                result.reason_code = Some(ReasonCode::Disturbed);
            }
            Next::Interrupted => result.verdict = Answer::Interrupted,
            Next::TellsNothing => {
                result.statistics.time_quantiles = None;
                result.longest_gap_ns = Some(1);
            }
        }
        Ok(Run { result, kept: Ok(()) })
    }

    fn signal(&self) -> Option<i32> {
        self.signal
    }
}

/// Trials of about this wait, no two alike.
fn waits(wait_ns: u64) -> VecDeque<Next> {
    (0..40).map(|trial| Next::Waits(wait_ns + trial * trial % 7 * wait_ns / 200)).collect()
}

fn made(next: Vec<VecDeque<Next>>) -> Made {
    Made { next, booted: Vec::new(), signal: None, signal_after: None }
}

fn begin(dir: &TempDir, sides: usize) -> Rounds {
    let series = (0..sides).map(|side| {
        let folder = dir.path().join(side.to_string());
        let trials = Trials::open(&folder).unwrap_or_else(|_| {
            fs::create_dir(&folder).expect("new");
            Trials::new(conditions(7))
        });
        Series::new(trials, folder)
    });
    let names = (0..sides).map(|side| format!("side {side}")).collect();
    Rounds::new(series.collect(), names, ASKED)
}

fn states(rounds: &Rounds, side: usize) -> Vec<(u32, State)> {
    rounds.series[side].trials.attempts.iter().map(|it| (it.trial, it.state)).collect()
}

#[test]
fn pairs_take_turns_until_they_are_decided() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut rounds = begin(&dir, 2);
    let mut machines = made(vec![waits(10_000_000), waits(16_000_000)]);
    let mut told = 0;
    let found = rounds.go_on(&mut machines, |_, _, _| told += 1).expect("an answer");
    assert_eq!((found[0].answer, found[0].pairs, told), (Decided::Worse, 7, 7));
    assert_eq!(rounds.status(None).expect("no failure"), None);
    for (pair, both) in (1..).zip(machines.booted.chunks(2)) {
        let seed = seed_of(7, pair);
        assert!(both.contains(&(0, seed)) && both.contains(&(1, seed)), "{both:?}");
    }
    let first: Vec<_> = machines.booted.iter().step_by(2).map(|(side, _)| *side).collect();
    assert!(first.contains(&0) && first.contains(&1), "the order is drawn: {first:?}");
    for side in 0..2 {
        let there = Trials::open(&dir.path().join(side.to_string())).expect("trials.json");
        assert_eq!((there.ended, there.measured().count()), (Some(Ended::All), 7));
    }
    // The same call once more has nothing to do, and the same answer.
    let again = begin(&dir, 2).go_on(&mut made(vec![VecDeque::new(); 2]), |_, _, _| {});
    assert_eq!(again.expect("an answer"), found);
}

#[test]
fn each_order_is_as_likely_as_any_other() {
    let mut counts = std::collections::BTreeMap::new();
    for pair in 1..=6000 {
        *counts.entry(order(318_204, pair, 3)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 6);
    assert!(counts.values().all(|count| (880..1120).contains(count)), "{counts:?}");
    assert_eq!(order(1, 5, 3), order(1, 5, 3));
}

#[test]
fn a_pair_with_a_contaminated_half_is_done_again_as_a_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut rounds = begin(&dir, 2);
    let mut machines = made(vec![waits(10_000_000), waits(16_000_000)]);
    machines.next[1].insert(1, Next::Contaminated);
    rounds.go_on(&mut machines, |_, _, _| {}).expect("an answer");
    let of_pair = |side: usize| -> Vec<_> {
        states(&rounds, side).into_iter().filter(|it| it.0 == 2).map(|it| it.1).collect()
    };
    assert_eq!(of_pair(1), [State::Contaminated, State::Measured]);
    // If the other half had been measured it does not count; if it came second it was not begun.
    let base = of_pair(0);
    assert!(base == [State::Measured] || base == [State::Unpaired, State::Measured], "{base:?}");
    let seeds: Vec<_> = machines.booted.iter().filter(|it| it.1 == seed_of(7, 2)).collect();
    assert_eq!(seeds.len(), 2 + base.len());
}

#[test]
fn a_pair_that_was_broken_off_is_done_again_as_a_whole() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut rounds = begin(&dir, 2);
    let mut machines = made(vec![waits(10_000_000), waits(16_000_000)]);
    for side in &mut machines.next {
        side.insert(2, Next::Interrupted);
    }
    rounds.go_on(&mut machines, |_, _, _| {}).expect("an end");
    let status = rounds.status(Some(libc::SIGINT)).expect("no failure");
    assert_eq!(status, Some(ExitStatus::Interrupted));
    assert_eq!(rounds.side(0).points.len(), 2, "whole pairs only");
    let mut rounds = begin(&dir, 2);
    let mut machines = made(vec![waits(10_000_000), waits(16_000_000)]);
    let found = rounds.go_on(&mut machines, |_, _, _| {}).expect("an answer");
    assert_eq!((found[0].answer, found[0].pairs), (Decided::Worse, 7));
    assert_eq!(machines.booted.len(), 2 * 5);
}

#[test]
fn several_sides_go_on_until_all_are_decided() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut rounds = begin(&dir, 3);
    // The last one is never alike twice.
    let wild =
        (0..20).map(|trial| Next::Waits(if trial % 2 == 0 { 5_000_000 } else { 20_000_000 }));
    let next = vec![waits(10_000_000), waits(16_000_000), wild.collect()];
    let found = rounds.go_on(&mut made(next), |_, _, _| {}).expect("an answer");
    assert_eq!(found[0].answer, Decided::Worse);
    assert_eq!((found[1].answer, found[1].pairs), (Decided::Undecided, 20));
    assert_eq!(found[0].finding.expect("decided").look.pairs, 7, "not looked at again");
}

#[test]
fn a_figure_that_a_run_does_not_tell_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut machines = made(vec![waits(10_000_000), waits(16_000_000)]);
    machines.next[1].insert(2, Next::TellsNothing);
    let found = begin(&dir, 2).go_on(&mut machines, |_, _, _| {}).expect("an end");
    assert_eq!((found[0].answer, found[0].pairs), (Decided::Undecided, 2));
    let why = found[0].withheld.as_deref().expect("why");
    assert!(why.starts_with("1 pair does not tell wait-p99; choose another --metric"), "{why}");
    assert_eq!(machines.booted.len(), 2 * 3);
}

#[test]
fn a_pair_that_is_done_again_says_whose_run_it_was() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut machines = made(vec![waits(10_000_000), waits(16_000_000)]);
    machines.next[1].insert(1, Next::Contaminated);
    let mut broken = Vec::new();
    let told = |_: &Rounds, side: Option<usize>, _: &[Versus]| broken.push(side);
    begin(&dir, 2).go_on(&mut machines, told).expect("an answer");
    assert_eq!(broken[..3], [None, Some(1), None]);
}

/// A signal that comes when the first half has ended is seen before the second half begins.
#[test]
fn a_signal_between_two_runs_ends_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut rounds = begin(&dir, 2);
    let mut machines = made(vec![waits(1), waits(1)]);
    machines.signal_after = Some(1);
    rounds.go_on(&mut machines, |_, _, _| {}).expect("an end");
    assert_eq!(machines.booted.len(), 1);
    let status = rounds.status(Some(libc::SIGINT)).expect("no failure");
    assert_eq!(status, Some(ExitStatus::Interrupted));
    assert_eq!(rounds.side(0).points.len() + rounds.side(1).points.len(), 0, "whole pairs only");
}

#[test]
fn an_unfit_host_and_a_signal_end_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let contaminated: VecDeque<_> = (0..9).map(|_| Next::Contaminated).collect();
    let mut rounds = begin(&dir, 2);
    let mut machines = made(vec![waits(10_000_000), contaminated]);
    rounds.go_on(&mut machines, |_, _, _| {}).expect("an end");
    let failure = rounds.status(None).expect_err("no answer");
    assert_eq!(failure.status(), ExitStatus::Host);
    assert!(failure.to_string().contains("4 of 4 runs were contaminated"), "{failure}");
    let dir = tempfile::tempdir().expect("tempdir");
    let mut rounds = begin(&dir, 2);
    let mut machines = made(vec![waits(1), waits(1)]);
    machines.signal = Some(libc::SIGTERM);
    rounds.go_on(&mut machines, |_, _, _| {}).expect("an end");
    let status = rounds.status(machines.signal).expect("no failure");
    assert_eq!((status, machines.booted.len()), (Some(ExitStatus::Terminated), 0));
}
