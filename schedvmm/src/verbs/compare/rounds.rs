// SPDX-License-Identifier: Apache-2.0
//! Pairs of trials that are measured now: one of each side, with the same seed, in an order that is
//! drawn anew for each pair. Where one of them is no answer, all of the pair are done again.

use std::path::Path;

use decision::sequential::LOOKS;
use results::comparison::Versus;
use results::trials::{Ended, State, seed_of};

use super::judge::{Asked, Side, versus};
use crate::status::{ExitStatus, Failure};
use crate::verbs::trials::series::{Boot, Run, Series};

/// Makes the order of a pair something else than its seed.
const ORDER: u64 = 0x6f72_6465_7220_6f66;

/// Starts machines of every side.
pub trait Machines {
    /// One run of this side.
    ///
    /// # Errors
    /// It could not be begun.
    fn boot(&mut self, side: usize, seed: u64, folder: &Path) -> Result<Run, Failure>;

    /// A signal that has come.
    fn signal(&self) -> Option<i32>;
}

/// Those of one side.
pub struct OneSide<'a, M> {
    /// Of all sides.
    pub machines: &'a mut M,
    /// Which.
    pub side: usize,
}

impl<M: Machines> Boot for OneSide<'_, M> {
    fn boot(&mut self, seed: u64, folder: &Path) -> Result<Run, Failure> {
        self.machines.boot(self.side, seed, folder)
    }

    fn signal(&self) -> Option<i32> {
        self.machines.signal()
    }
}

/// Sides that are measured in turns.
pub struct Rounds {
    /// Their trials, the base first.
    pub series: Vec<Series>,
    /// Their names.
    pub names: Vec<String>,
    /// What is asked.
    pub asked: Asked,
    /// The side that ended it, if one did.
    ended_by: Option<usize>,
}

impl Rounds {
    /// Those of earlier calls count.
    pub fn new(series: Vec<Series>, names: Vec<String>, asked: Asked) -> Self {
        Self { series, names, asked, ended_by: None }
    }

    /// Does pairs until all sides are decided, and tells of each: of one that is to be done again, with
    /// the side whose run was no answer.
    ///
    /// # Errors
    /// A file cannot be written, or the figure is none of these runs'.
    pub fn go_on(
        &mut self,
        machines: &mut impl Machines,
        mut tell: impl FnMut(&Self, Option<usize>, &[Versus]),
    ) -> Result<Vec<Versus>, Failure> {
        loop {
            let found = self.found()?;
            // A pair that does not tell the figure leaves no answer, however many follow.
            let open = found.iter().filter(|versus| versus.left_out == 0);
            let next = open.filter_map(|versus| versus.next_look_pairs).max();
            let most = LOOKS[LOOKS.len() - 1].pairs;
            let pair = self.next_pair();
            let Some(next) = next.filter(|_| pair as usize <= most) else {
                return self.end(Ended::All).map(|()| found);
            };
            if machines.signal().is_some() {
                return self.end(Ended::Interrupted).map(|()| found);
            }
            for series in &mut self.series {
                series.trials.planned = u32::try_from(next).unwrap_or(u32::MAX);
            }
            let broken = self.round(pair, machines)?;
            if let Some((side, ended)) =
                broken.and_then(|side| Some((side, self.series[side].trials.ended?)))
            {
                self.ended_by = Some(side);
                self.end(ended)?;
                return self.found();
            }
            tell(self, broken, &self.found()?);
        }
    }

    /// What the pairs so far come to.
    fn found(&self) -> Result<Vec<Versus>, Failure> {
        let sides: Vec<_> = (0..self.series.len()).map(|index| self.side(index)).collect();
        let Some((base, others)) = sides.split_first() else { return Ok(Vec::new()) };
        others.iter().map(|other| versus(base, other, self.asked)).collect()
    }

    /// A side with its trials so far.
    pub fn side(&self, index: usize) -> Side {
        Side::new(self.names[index].clone(), &self.series[index].trials)
    }

    /// The first pair that not all sides have.
    fn next_pair(&self) -> u32 {
        (1..)
            .find(|pair| !self.series.iter().all(|series| has_measured(series, *pair)))
            .unwrap_or(u32::MAX)
    }

    /// One of each side. Returns the side at which it was broken off, if it was.
    fn round(&mut self, pair: u32, machines: &mut impl Machines) -> Result<Option<usize>, Failure> {
        // What is there of it was measured at another time, by a call that was ended.
        self.unpair(pair)?;
        let seed = self.series[0].trials.conditions.seed;
        for side in order(seed, pair, self.series.len()) {
            if machines.signal().is_some() {
                // Between two runs nobody else asks for it.
                self.unpair(pair)?;
                self.series[side].trials.ended = Some(Ended::Interrupted);
                return Ok(Some(side));
            }
            let series = &mut self.series[side];
            let earlier = series.trials.attempts.iter().filter(|it| it.trial == pair);
            let number = earlier.map(|it| it.attempt).max().unwrap_or(0).saturating_add(1);
            series.attempt(pair, number, &mut OneSide { machines, side })?;
            let is_measured =
                series.trials.attempts.last().is_some_and(|it| it.state == State::Measured);
            if series.trials.ended.is_some() || !is_measured {
                self.unpair(pair)?;
                return Ok(Some(side));
            }
        }
        Ok(None)
    }

    /// What counted of a pair that is not whole does not count.
    fn unpair(&mut self, pair: u32) -> Result<(), Failure> {
        for series in &mut self.series {
            let alone = series.trials.attempts.iter_mut();
            let alone = alone.filter(|it| it.trial == pair && it.state == State::Measured);
            let mut has_changed = false;
            for attempt in alone {
                attempt.state = State::Unpaired;
                "not all of its pair were an answer".clone_into(&mut attempt.why);
                has_changed = true;
            }
            if has_changed {
                series.write()?;
            }
        }
        Ok(())
    }

    fn end(&mut self, ended: Ended) -> Result<(), Failure> {
        self.series.iter_mut().try_for_each(|series| series.end(ended))
    }

    /// How it ends the process, where it did not come to an answer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn status(&mut self, signal: Option<i32>) -> Result<Option<ExitStatus>, Failure> {
        let side = self.ended_by.unwrap_or(0);
        match self.series[side].trials.ended {
            None | Some(Ended::All | Ended::Decided) => Ok(None),
            Some(_) => self.series[side].status(signal).map(Some),
        }
    }
}

fn has_measured(series: &Series, pair: u32) -> bool {
    series.trials.measured().any(|attempt| attempt.trial == pair)
}

/// The order in which a pair is measured: each is as likely as any other.
fn order(seed: u64, pair: u32, sides: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..sides).collect();
    for last in (1..sides).rev() {
        let drawn = seed_of((seed ^ ORDER).wrapping_add(last as u64), pair);
        let place = usize::try_from(drawn % (last as u64 + 1)).unwrap_or(0);
        order.swap(last, place);
    }
    order
}

#[cfg(test)]
#[path = "rounds_tests.rs"]
mod tests;
