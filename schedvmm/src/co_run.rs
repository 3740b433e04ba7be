// SPDX-License-Identifier: Apache-2.0
//! Who ran beside the threads of the load, from the trace: a mate, a stranger, nobody.

use std::collections::BTreeMap;

use gaps::stats::share;
use serde::{Deserialize, Serialize};

use crate::explain::Question;
use crate::result::RunResult;
use crate::status::Failure;

/// Of the time in which threads ran, as far as the trace has it: what the other hyperthreads of
/// their cores did. The shares sum to 1; docs/method.md says what they mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct CoRun {
    pub running_ns: u64,
    /// Ran a thread of the same group.
    pub mate: f64,
    /// Ran anything else.
    pub stranger: f64,
    pub idle: f64,
    /// The trace does not tell.
    pub unknown: f64,
}

impl CoRun {
    /// Of what was found in a trace; `None` where nothing ran.
    fn of(found: &ftrace::CoRun, ns: impl Fn(u64) -> u64) -> Option<Self> {
        let of_it = |ticks| share(ticks, found.running());
        Some(Self {
            running_ns: ns(found.running()),
            mate: of_it(found.mate)?,
            stranger: of_it(found.stranger)?,
            idle: of_it(found.idle)?,
            unknown: of_it(found.unknown)?,
        })
    }

    /// Fills in what the trace tells of the time that the figures are of: of threads, groups and
    /// the whole.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn book(result: &mut RunResult, question: &Question) -> Result<(), Failure> {
        let window = result.window_tsc();
        let found =
            question.reading("co-run", |trace| ftrace::co_run(trace, question.context(), window));
        let found = found?;
        let ns = |ticks| question.units().ns(ticks);
        let (mut groups, mut all) = (BTreeMap::new(), ftrace::CoRun::default());
        for thread in &mut result.threads {
            let tid = i32::try_from(thread.report.tid).unwrap_or_default();
            let Some(found) = found.get(&tid) else { continue };
            thread.co_run = Self::of(found, ns);
            groups.entry(thread.member.group).or_insert_with(ftrace::CoRun::default).add(found);
            all.add(found);
        }
        for group in &mut result.groups {
            group.co_run = groups.get(&group.group).and_then(|found| Self::of(found, ns));
        }
        result.co_run = Self::of(&all, ns);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_in_which_threads_ran() {
        let found = ftrace::CoRun { mate: 50, stranger: 20, idle: 120, unknown: 10 };
        let expected =
            CoRun { running_ns: 400, mate: 0.25, stranger: 0.1, idle: 0.6, unknown: 0.05 };
        assert_eq!(CoRun::of(&found, |ticks| 2 * ticks), Some(expected));
        assert_eq!(CoRun::of(&ftrace::CoRun::default(), |ticks| ticks), None);
    }
}
