// SPDX-License-Identifier: Apache-2.0
//! Cells whose machines are made up.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gaps::stats::Quantiles;
use results::model::{Answer, ReasonCode};
use results::set_file::SetFile as _;
use results::trials::{Trials, seed_of};
use tempfile::TempDir;

use super::super::cells::order;
use super::*;
use crate::testing;
use crate::verbs::trials::series::Run;
use crate::verbs::trials::series::tests::conditions;

/// What a machine does, by its cell and its seed.
type Does = fn(cell: usize, attempt: usize) -> Answer;

struct Made {
    does: Does,
    booted: Vec<(usize, u64)>,
    /// A signal comes when so many machines have run.
    signal_after: usize,
}

impl Machines for Made {
    fn boot(&mut self, cell: usize, seed: u64, folder: &Path) -> Result<Run, Failure> {
        let attempt = self.booted.iter().filter(|it| **it == (cell, seed)).count() + 1;
        self.booted.push((cell, seed));
        fs::create_dir(folder).expect("a new folder");
        let mut result = testing::result();
        (result.verdict, result.exit_status) = ((self.does)(cell, attempt), Some(0));
        (result.reason, result.reason_code) = ("some reason".into(), None);
        if result.verdict == Answer::Untestable && cell != 1 {
            result.reason_code = Some(ReasonCode::Disturbed);
        }
        let p99_ns = Some(10_000_000 * (cell as u64 + 1));
        result.statistics.time_quantiles = Some(Quantiles { p99_ns, ..Quantiles::default() });
        Ok(Run { result, kept: Ok(()) })
    }

    fn signal(&self) -> Option<i32> {
        (self.booted.len() >= self.signal_after).then_some(libc::SIGINT)
    }
}

fn made(does: Does) -> Made {
    Made { does, booted: Vec::new(), signal_after: usize::MAX }
}

const TRIALS: u32 = 4;

/// Those in this folder, as a process finds them that is called again.
fn begin(dir: &TempDir) -> Runs {
    let series = (0..3).map(|cell| {
        let folder = dir.path().join(cell.to_string());
        let there = Trials::open(&folder).unwrap_or_else(|_| {
            fs::create_dir(&folder).expect("new");
            Trials::new(conditions(7))
        });
        Series::new(Trials { planned: TRIALS, ..there }, folder)
    });
    Runs::new(series.collect(), order(7, 3, TRIALS))
}

#[test]
fn all_trials_are_done_in_the_order_that_was_drawn() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut runs = begin(&dir);
    let mut machines = made(|_, _| Answer::Measured);
    let mut told = 0;
    runs.go_on(&mut machines, |_| told += 1).expect("an end");
    let expected: Vec<_> =
        runs.order.iter().map(|(cell, trial)| (cell - 1, seed_of(7, *trial))).collect();
    assert_eq!((machines.booted.as_slice(), told), (expected.as_slice(), 12));
    assert!(runs.is_done() && runs.measured() == 12);
    assert_eq!(runs.status(None).expect("no failure"), None);
    // The same call once more has nothing to do.
    let mut again = made(|_, _| Answer::Measured);
    begin(&dir).go_on(&mut again, |_| {}).expect("an end");
    assert!(again.booted.is_empty());
}

#[test]
fn what_was_cut_off_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut machines = made(|_, _| Answer::Measured);
    machines.signal_after = 5;
    let mut runs = begin(&dir);
    runs.go_on(&mut machines, |_| {}).expect("an end");
    assert!(!runs.is_done());
    let status = runs.status(Some(libc::SIGINT)).expect("no failure");
    assert_eq!(status, Some(ExitStatus::Interrupted));
    // As a killed process leaves it: one is under way.
    let (cell, trial) = runs.order[4];
    let folder = dir.path().join((cell - 1).to_string());
    let mut trials = Trials::open(&folder).expect("trials");
    let last = trials.attempts.last_mut().expect("one");
    (last.state, trials.ended) = (State::Running, None);
    trials.write(&folder).expect("written");
    let mut rest = made(|_, _| Answer::Measured);
    let mut runs = begin(&dir);
    runs.go_on(&mut rest, |_| {}).expect("an end");
    assert_eq!((rest.booted.len(), runs.measured()), (8, 12));
    assert_eq!(rest.booted[0], (cell - 1, seed_of(7, trial)), "with the same seed");
    let states: Vec<_> = runs.attempts().iter().map(|it| it.state).collect();
    assert_eq!(states.iter().filter(|it| **it == State::CutOff).count(), 1);
}

#[test]
fn a_contaminated_trial_is_done_again_and_a_host_is_unfit_for_all_cells() {
    let dir = tempfile::tempdir().expect("tempdir");
    // Every first attempt of one cell: 4 of 16, more than that cell alone could have.
    let first = |cell, attempt| match (cell, attempt) {
        (0, 1) => Answer::Untestable,
        _ => Answer::Measured,
    };
    let mut runs = begin(&dir);
    let mut machines = made(first);
    runs.go_on(&mut machines, |_| {}).expect("an end");
    assert!(runs.is_done());
    assert_eq!((machines.booted.len(), runs.measured()), (16, 12));
    let counts: BTreeMap<_, u32> = machines.booted.iter().fold(BTreeMap::new(), |mut all, it| {
        *all.entry(*it).or_default() += 1;
        all
    });
    assert!(counts.iter().all(|((cell, _), count)| *count == if *cell == 0 { 2 } else { 1 }));

    let dir = tempfile::tempdir().expect("tempdir");
    let mut runs = begin(&dir);
    let never = |cell, _| if cell == 1 { Answer::Measured } else { Answer::Untestable };
    runs.go_on(&mut made(never), |_| {}).expect("an end");
    let failure = runs.status(None).expect_err("no answer");
    assert_eq!(failure.status(), ExitStatus::Host);
    assert!(failure.to_string().contains(" runs were contaminated, the last one because some"));
}

#[test]
fn a_kernel_that_cannot_be_tested_is_left_out_and_the_others_go_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut runs = begin(&dir);
    let crashes = |cell, _| if cell == 1 { Answer::Untestable } else { Answer::Measured };
    let mut machines = made(crashes);
    runs.go_on(&mut machines, |_| {}).expect("an end");
    assert!(runs.is_done());
    assert_eq!((machines.booted.len(), runs.measured()), (2 + 8, 8));
    assert_eq!(runs.series[1].trials.ended, Some(Ended::Untestable));
    assert_eq!(runs.series[0].trials.ended, Some(Ended::All));
}

#[test]
fn what_fails_ends_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut runs = begin(&dir);
    let mut machines = made(|_, _| Answer::HostError);
    runs.go_on(&mut machines, |_| {}).expect("an end");
    assert_eq!((machines.booted.len(), runs.is_done()), (1, false));
    assert_eq!(runs.status(None).expect_err("why").status(), ExitStatus::Host);
}
