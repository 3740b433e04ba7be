// SPDX-License-Identifier: Apache-2.0
//! Who ran beside the threads of the load, from the trace: a mate, a stranger, nobody.

use std::collections::BTreeMap;

use gaps::stats::share;
use results::model::{CoRun, RunResult};

use super::question::Question;
use crate::status::Failure;

/// Findings of a trace, in shares; `None` where nothing ran.
fn shares(found: &ftrace::CoRun, ns: impl Fn(u64) -> u64) -> Option<CoRun> {
    Some(CoRun {
        running_ns: ns(found.running()),
        mate: share(found.mate, found.running())?,
        stranger: share(found.stranger, found.running())?,
        idle: share(found.idle, found.running())?,
        unknown: share(found.unknown, found.running())?,
    })
}

/// Fills in what the trace tells of the time that the figures are of: of threads, groups and the
/// whole.
///
/// # Errors
/// The trace cannot be read.
pub fn fill_in(result: &mut RunResult, question: &Question) -> Result<(), Failure> {
    let window = result.window_tsc();
    let found =
        question.reading("co-run", |trace| ftrace::co_run(trace, question.context(), window));
    let found = found?;
    let units = question.units();
    let (mut groups, mut all) = (BTreeMap::new(), ftrace::CoRun::default());
    for thread in &mut result.threads {
        let tid = i32::try_from(thread.report.tid).unwrap_or_default();
        let Some(found) = found.get(&tid) else { continue };
        thread.co_run = shares(found, |ticks| units.ns(ticks));
        groups.entry(thread.who.group).or_insert_with(ftrace::CoRun::default).add(found);
        all.add(found);
    }
    for group in &mut result.groups {
        let found = groups.get(&group.group.number());
        group.co_run = found.and_then(|found| shares(found, |ticks| units.ns(ticks)));
    }
    result.co_run = shares(&all, |ticks| units.ns(ticks));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_in_which_threads_ran() {
        let found = ftrace::CoRun { mate: 50, stranger: 20, idle: 120, unknown: 10 };
        let expected =
            CoRun { running_ns: 400, mate: 0.25, stranger: 0.1, idle: 0.6, unknown: 0.05 };
        assert_eq!(shares(&found, |ticks| 2 * ticks), Some(expected));
        assert_eq!(shares(&ftrace::CoRun::default(), |ticks| ticks), None);
    }
}
