// SPDX-License-Identifier: Apache-2.0
//! The trials of all cells, in their order.

use std::time::Duration;

use results::trials::{Attempt, Ended, State};

use crate::status::{ExitStatus, Failure};
use crate::verbs::compare::{Machines, OneSide};
use crate::verbs::trials::series::{Series, are_too_many, unfit};

/// Trials that go on.
pub struct Runs {
    /// Of each cell.
    pub series: Vec<Series>,
    /// The cell, from 1, and the number of its trial.
    pub order: Vec<(usize, u32)>,
    /// Why nothing follows.
    pub ended: Option<Ended>,
    /// The cell of the last attempt.
    pub last: usize,
}

impl Runs {
    /// Those of earlier calls count.
    pub fn new(series: Vec<Series>, order: Vec<(usize, u32)>) -> Self {
        Self { series, order, ended: None, last: 0 }
    }

    /// Does what is left, and tells of each attempt.
    ///
    /// # Errors
    /// A file cannot be written. What was measured stays.
    pub fn go_on(
        &mut self,
        machines: &mut impl Machines,
        mut tell: impl FnMut(&Self),
    ) -> Result<(), Failure> {
        for at in 0..self.order.len() {
            let (cell, trial) = self.order[at];
            while self.is_open(cell - 1, trial) {
                if machines.signal().is_some() {
                    return self.end(Ended::Interrupted);
                }
                if let Some(ended) = self.attempt(cell - 1, trial, machines)? {
                    tell(self);
                    return self.end(ended);
                }
                tell(self);
            }
        }
        self.end(Ended::All)
    }

    /// Whether this trial is still to be done. Of a cell that cannot be tested none is.
    fn is_open(&self, cell: usize, trial: u32) -> bool {
        let trials = &self.series[cell].trials;
        trials.ended.is_none() && !trials.measured().any(|attempt| attempt.trial == trial)
    }

    /// One attempt at a trial; what ends all of them, if it did.
    fn attempt(
        &mut self,
        cell: usize,
        trial: u32,
        machines: &mut impl Machines,
    ) -> Result<Option<Ended>, Failure> {
        self.last = cell;
        let series = &mut self.series[cell];
        let earlier = series.trials.attempts.iter().filter(|it| it.trial == trial);
        let number = earlier.map(|it| it.attempt).max().unwrap_or(0).saturating_add(1);
        series.attempt(trial, number, &mut OneSide { machines, side: cell })?;
        let ended = series.trials.ended;
        if ended == Some(Ended::HostUnfit) {
            // A host is fit for all of them or for none.
            series.trials.ended = None;
        }
        Ok(match ended {
            Some(Ended::Interrupted | Ended::Failed) => ended,
            _ if self.is_host_unfit() => Some(Ended::HostUnfit),
            _ => None,
        })
    }

    fn is_host_unfit(&self) -> bool {
        let is_last = self.series[self.last].trials.attempts.last();
        let is_contaminated = is_last.is_some_and(|it| it.state == State::Contaminated);
        let counts = self.series.iter().map(|it| it.trials.count(State::Contaminated));
        let planned = u32::try_from(self.order.len()).unwrap_or(u32::MAX);
        is_contaminated && are_too_many(counts.sum(), planned)
    }

    fn end(&mut self, ended: Ended) -> Result<(), Failure> {
        self.ended = Some(ended);
        self.series.iter_mut().try_for_each(|series| {
            let own = series.trials.ended.filter(|own| *own == Ended::Untestable);
            series.end(own.unwrap_or(ended))
        })
    }

    /// Whether each cell has what it is to have, or never will.
    pub fn is_done(&self) -> bool {
        self.ended == Some(Ended::All)
    }

    /// How it ends the process, where that does not follow from answers.
    ///
    /// # Errors
    /// Why there are none.
    pub fn status(&mut self, signal: Option<i32>) -> Result<Option<ExitStatus>, Failure> {
        match self.ended {
            Some(Ended::HostUnfit) => Err(unfit(&self.attempts())),
            Some(Ended::Interrupted | Ended::Failed) => {
                self.series[self.last].status(signal).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// All of them, by their time.
    fn attempts(&self) -> Vec<&Attempt> {
        let all = self.series.iter().flat_map(|series| &series.trials.attempts);
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| a.started_utc.cmp(&b.started_utc));
        all
    }

    /// Trials that are there.
    pub fn measured(&self) -> u32 {
        self.series.iter().map(|it| it.trials.count(State::Measured)).sum()
    }

    /// For the trials that are left, at the pace of those that were done.
    pub fn time_to_go(&self) -> Duration {
        let open = self.series.iter().filter(|it| it.trials.ended.is_none());
        let known: Vec<_> = open.clone().filter_map(Series::pace).collect();
        let sum = known.iter().sum::<Duration>();
        let mean = sum.checked_div(u32::try_from(known.len()).unwrap_or(1)).unwrap_or_default();
        open.map(|series| series.pace().unwrap_or(mean).saturating_mul(series.left())).sum()
    }
}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;
