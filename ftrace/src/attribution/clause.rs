// SPDX-License-Identifier: Apache-2.0
//! A gap's time by kind of cause, and who was in the way for how long: what a paragraph says.

use serde::{Deserialize, Serialize};

use super::cause::{Cause, Explanation, Task};
use super::clause_kind::ClauseKind;
use super::context::Context;
use super::gap_account::OTHERS;
use super::text::{Units, place};

/// Names in the paragraph; the others are summed there.
const MAX_NAMED: usize = 5;
/// Who took less than one in so many parts of a clause's time is not named in the paragraph.
const MIN_NAMED: u64 = 50;
/// From one in so many parts of a clause's time on, a name has its share beside it.
const MIN_SHARED: u64 = 10;

/// All of a gap's time with one kind of cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    /// The kind: `queued`, `CPU 3 forced idle`.
    pub what: ClauseKind,
    /// What more there is to say of it.
    pub note: Option<String>,
    /// What the culprits are to it: `behind`, `CPU 2 ran`. `None` where nobody was in the way.
    pub by: Option<String>,
    /// How long.
    pub ticks: u64,
    /// Who was in the way: tasks that are not of the load first, then by time. Their ticks sum to
    /// the clause's, unless there are none.
    pub culprits: Vec<Culprit>,
}

/// Who was in the way: a group, or all tasks of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// For people.
    pub name: String,
    /// The group; `None` for tasks of no group.
    pub group: Option<u32>,
    /// True if it is no part of the load, and has no business here.
    pub foreign: bool,
    /// One of its threads; -1 stands for many that were too many to list.
    pub tid: i32,
    /// How long.
    pub ticks: u64,
}

/// The culprits of a clause as the paragraph has them.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    names: Vec<&'a Culprit>,
    others: Vec<&'a Culprit>,
}

impl Explanation {
    /// What the parts come to by kind of cause, longest first. The clauses' ticks sum to the gap.
    pub fn clauses(&self, context: &Context) -> Vec<Clause> {
        let mut clauses: Vec<Clause> = Vec::new();
        for part in &self.parts {
            let clause = Clause::of(&part.cause, part.ticks, context);
            match clauses.iter_mut().find(|known| known.is_like(&clause)) {
                Some(known) => known.add(clause),
                None => clauses.push(clause),
            }
        }
        for clause in &mut clauses {
            clause.culprits.sort_by_key(Culprit::rank);
        }
        clauses.sort_by_key(|clause| std::cmp::Reverse(clause.ticks));
        clauses
    }
}

impl Clause {
    fn of(cause: &Cause, ticks: u64, context: &Context) -> Self {
        match cause {
            Cause::Queued { behind, .. } => Self {
                by: Some("behind".into()),
                culprits: only_culprit(behind, ticks, context),
                ..without_culprits(ClauseKind::Queued, None, ticks)
            },
            Cause::ForcedIdle { cpu, sibling, by: task } => {
                let beside = Some(format!("{} ran", place(*sibling)));
                Self {
                    by: beside,
                    culprits: only_culprit(task, ticks, context),
                    ..without_culprits(ClauseKind::ForcedIdle { cpu: *cpu }, None, ticks)
                }
            }
            Cause::Throttled { .. } => without_culprits(ClauseKind::Throttled, None, ticks),
            Cause::Idle { .. } => without_culprits(ClauseKind::RunnableOnIdle, None, ticks),
            Cause::Waking { .. } => without_culprits(ClauseKind::Waking, None, ticks),
            Cause::Migrating { .. } => without_culprits(ClauseKind::Migrating, None, ticks),
            Cause::Sleeping { .. } => without_culprits(ClauseKind::Asleep, None, ticks),
            Cause::Irq { .. } => without_culprits(ClauseKind::Interrupts, None, ticks),
            Cause::Softirq { .. } => without_culprits(ClauseKind::Softirqs, None, ticks),
            Cause::Running { .. } => {
                without_culprits(ClauseKind::Running, Some(context.taker()), ticks)
            }
            Cause::Unknown { reason } => {
                without_culprits(ClauseKind::Unknown, Some(reason.describe()), ticks)
            }
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.what, &self.note, &self.by) == (&other.what, &other.note, &other.by)
    }

    fn add(&mut self, other: Self) {
        self.ticks += other.ticks;
        for culprit in other.culprits {
            match self.culprits.iter_mut().find(|known| known.is_like(&culprit)) {
                Some(known) => known.ticks += culprit.ticks,
                None => self.culprits.push(culprit),
            }
        }
    }

    /// `queued 46.2 ms: behind python3 22.9 ms (50 %), group 4 4.3 ms, 9 others 19.0 ms`.
    pub fn text(&self, units: Units) -> String {
        let mut text = format!("{} {}", self.what, units.show(self.ticks));
        if let Some(note) = &self.note {
            text += &format!(" ({note})");
        }
        if let Some(by) = &self.by {
            text += &format!(": {by} {}", self.named().text(self.ticks, units));
        }
        text
    }

    /// Those who took the most are named, foreign ones first, and so is the foreign one who took
    /// the most of these; the rest is summed.
    fn named(&self) -> Named<'_> {
        let mut by_time: Vec<usize> = (0..self.culprits.len()).collect();
        by_time.retain(|&index| is_large_part(&self.culprits[index], self.ticks));
        // Stable: of equals, the foreign one comes first.
        by_time.sort_by_key(|&index| std::cmp::Reverse(self.culprits[index].ticks));
        let foreign = by_time.iter().position(|&index| self.culprits[index].foreign);
        if let Some(place) = foreign.filter(|place| *place >= MAX_NAMED) {
            by_time.swap(MAX_NAMED - 1, place);
        }
        by_time.truncate(MAX_NAMED);
        // The name of a single other takes no more room than to say that there is one.
        let rest: Vec<usize> =
            (0..self.culprits.len()).filter(|index| !by_time.contains(index)).collect();
        if let [single] = rest[..]
            && self.culprits[single].tid != OTHERS
        {
            by_time.push(single);
        }
        let (names, others): (Vec<_>, Vec<_>) = self
            .culprits
            .iter()
            .enumerate()
            .map(|(index, culprit)| (by_time.contains(&index), culprit))
            .partition(|(named, _)| *named);
        Named { names: without_flags(names), others: without_flags(others) }
    }
}

fn without_culprits(what: ClauseKind, note: Option<&str>, ticks: u64) -> Clause {
    Clause { what, note: note.map(str::to_owned), by: None, ticks, culprits: Vec::new() }
}

fn only_culprit(task: &Task, ticks: u64, context: &Context) -> Vec<Culprit> {
    vec![Culprit::of(task, ticks, context)]
}

fn is_large_part(culprit: &Culprit, ticks: u64) -> bool {
    culprit.tid != OTHERS && culprit.ticks.saturating_mul(MIN_NAMED) >= ticks
}

fn without_flags(all: Vec<(bool, &Culprit)>) -> Vec<&Culprit> {
    all.into_iter().map(|(_, culprit)| culprit).collect()
}

impl Culprit {
    fn of(task: &Task, ticks: u64, context: &Context) -> Self {
        let of_load = task.group.is_some() || context.thread_names.contains_key(&task.tid);
        Self {
            name: match task.group {
                Some(group) => context.group_name(group),
                None => task.name.clone(),
            },
            group: task.group,
            foreign: !of_load && task.tid != OTHERS,
            tid: task.tid,
            ticks,
        }
    }

    /// A group's threads are all one; so are other tasks of one name, such as a compiler's.
    fn is_like(&self, other: &Self) -> bool {
        match (self.group, other.group) {
            (None, None) => (&self.name, self.foreign) == (&other.name, other.foreign),
            (one, other) => one == other,
        }
    }

    /// Foreign ones first, the longest first; equals by number, never by name.
    fn rank(&self) -> (bool, std::cmp::Reverse<u64>, Option<u32>, i32) {
        (!self.foreign, std::cmp::Reverse(self.ticks), self.group, self.tid)
    }

    /// Its part of `whole` in per cent, rounded.
    fn percent(&self, whole: u64) -> u128 {
        (u128::from(self.ticks) * 100 + u128::from(whole) / 2) / u128::from(whole.max(1))
    }
}

impl Named<'_> {
    fn text(&self, whole: u64, units: Units) -> String {
        if let ([single], []) = (&self.names[..], &self.others[..]) {
            return single.name.clone();
        }
        let mut texts: Vec<String> =
            self.names.iter().map(|culprit| name_and_time(culprit, units, whole)).collect();
        let ticks = units.show(self.others.iter().map(|culprit| culprit.ticks).sum());
        match self.others.len() {
            0 => {}
            _ if self.others.iter().any(|culprit| culprit.tid == OTHERS) => {
                texts.push(format!("many others {ticks}"));
            }
            count => texts.push(format!("{count} others {ticks}")),
        }
        texts.join(", ")
    }
}

/// A culprit's name, its time and, if that is large, its percentage.
fn name_and_time(culprit: &Culprit, units: Units, whole: u64) -> String {
    let mut text = format!("{} {}", culprit.name, units.show(culprit.ticks));
    if culprit.ticks.saturating_mul(MIN_SHARED) >= whole {
        text += &format!(" ({} %)", culprit.percent(whole));
    }
    text
}

#[cfg(test)]
#[path = "clause_tests.rs"]
mod tests;
