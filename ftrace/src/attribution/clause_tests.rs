// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;
use crate::attribution::{Gap, Part, UnknownReason};

const UNITS: fn() -> Units = Units::nanoseconds;

/// An explanation of a gap that these parts make.
fn explained(parts: Vec<(Cause, u64)>) -> Explanation {
    let end = parts.iter().map(|(_, ticks)| ticks).sum();
    let part = |(cause, ticks): (Cause, u64)| Part { cause, ticks, pieces: 1, longest: ticks };
    Explanation {
        gap: Gap { tid: 1, begin: 0, end },
        name: "thread 1".into(),
        group: Some(1),
        parts: parts.into_iter().map(part).collect(),
        segments: Vec::new(),
        segments_left_out: 0,
        migrations: 0,
        trace_begin: None,
    }
}

fn task(tid: i32, name: &str, group: Option<u32>) -> Task {
    Task { tid, name: name.into(), group }
}

/// Behind a thread of a group, for so many tenths of a millisecond.
fn behind(group: u32, tenths: u64) -> (Cause, u64) {
    let tid = 100 + i32::try_from(group).expect("few");
    let behind = task(tid, "thread", Some(group));
    (Cause::Queued { cpu: 1, behind }, tenths * 100_000)
}

fn behind_foreign(tid: i32, name: &str, tenths: u64) -> (Cause, u64) {
    (Cause::Queued { cpu: 1, behind: task(tid, name, None) }, tenths * 100_000)
}

fn paragraph(parts: Vec<(Cause, u64)>) -> String {
    explained(parts).paragraph(&Context::default(), UNITS())
}

#[test]
fn whoever_took_half_of_a_gap_is_named_first() {
    let mut parts = vec![behind_foreign(28_368, "python3", 229)];
    parts.extend([(4, 43), (5, 42)].map(|(group, tenths)| behind(group, tenths)));
    let names = [1, 2, 3, 6, 8, 9, 10, 11];
    parts.extend(names.map(|group| behind(group, if group < 6 { 8 } else { 25 })));
    assert_eq!(
        paragraph(parts),
        "group 1 thread 1 waited 46.3 ms: queued 46.3 ms: behind python3 22.9 ms (49 %), \
         group 4 4.3 ms, group 5 4.2 ms, group 6 2.5 ms, group 8 2.5 ms, 6 others 9.9 ms."
    );
}

#[test]
fn equal_groups_come_by_number_and_not_by_letter() {
    let text = paragraph([10, 2, 1, 11].map(|group| behind(group, 10)).into());
    let equal = "group 1 1.0 ms (25 %), group 2 1.0 ms (25 %), group 10 1.0 ms (25 %), \
                 group 11 1.0 ms (25 %)";
    assert!(text.contains(equal), "{text}");
}

#[test]
fn a_foreign_task_is_named_before_longer_groups_unless_it_took_next_to_nothing() {
    let mut parts: Vec<_> = (1..=6).map(|group| behind(group, 100)).collect();
    parts.push(behind_foreign(7, "cc1", 12));
    parts.push(behind_foreign(8, "cc1", 12));
    parts.push(behind_foreign(9, "rcu_sched", 1));
    let text = paragraph(parts);
    let expected = "queued 62.5 ms: behind cc1 2.4 ms, group 1 10.0 ms (16 %), group 2 10.0 ms \
                    (16 %), group 3 10.0 ms (16 %), group 4 10.0 ms (16 %), 3 others 20.1 ms.";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn who_is_alone_needs_no_figure_and_one_other_has_a_name() {
    let text = paragraph(vec![behind(2, 10)]);
    assert_eq!(text, "group 1 thread 1 waited 1.0 ms: queued 1.0 ms: behind group 2.");
    let mut parts: Vec<_> = (2..=6).map(|group| behind(group, 100)).collect();
    parts.push(behind(7, 1));
    let text = paragraph(parts);
    assert!(text.ends_with(", group 7 0.1 ms."), "{text}");
}

#[test]
fn threads_of_the_load_that_are_in_no_group_are_not_foreign() {
    let context =
        Context { thread_names: [(5, "group 2 thread 3".into())].into(), ..Context::default() };
    let parts = vec![
        behind(9, 10),
        (Cause::Queued { cpu: 1, behind: task(5, "group 2 thread 3", None) }, 900_000),
        behind_foreign(6, "make", 5),
    ];
    let clauses = explained(parts).clauses(&context);
    let who: Vec<_> =
        clauses[0].culprits.iter().map(|who| (who.name.as_str(), who.foreign)).collect();
    assert_eq!(who, [("make", true), ("group 9", false), ("group 2 thread 3", false)]);
}

#[test]
fn what_were_too_many_to_list_are_no_number_of_others() {
    let mut parts = vec![behind(2, 90)];
    let behind = task(OTHERS, "others", None);
    parts.push((Cause::Queued { cpu: super::super::gap_account::MANY_CPUS, behind }, 1_000_000));
    let text = paragraph(parts.clone());
    assert!(text.ends_with("behind group 2 9.0 ms (90 %), many others 1.0 ms."), "{text}");
    let table = explained(parts).table(&Context::default(), UNITS());
    assert!(table.contains("queued on several CPUs behind many others"), "{table}");
}

fn any_task() -> impl Strategy<Value = Task> {
    let group = proptest::option::of(0..20u32);
    (-1..40i32, "[a-z]{1,2}", group).prop_map(|(tid, name, group)| Task {
        tid,
        name,
        group: group.filter(|_| tid >= 0),
    })
}

fn any_cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        4 => (0..4u32, any_task()).prop_map(|(cpu, behind)| Cause::Queued { cpu, behind }),
        2 => (0..4u32, any_task())
            .prop_map(|(cpu, by)| Cause::ForcedIdle { cpu, sibling: cpu ^ 1, by }),
        1 => (0..4u32).prop_map(|cpu| Cause::Idle { cpu }),
        1 => (0..4u32).prop_map(|cpu| Cause::Running { cpu }),
        1 => Just(Cause::Unknown { reason: UnknownReason::BeforeTrace }),
        1 => Just(Cause::Unknown { reason: UnknownReason::LostEvents }),
    ]
}

proptest! {
    #[test]
    fn clauses_sum_to_the_gap_and_culprits_to_their_clause(
        parts in proptest::collection::vec((any_cause(), 1..1_000_000_000u64), 0..60),
    ) {
        let found = explained(parts);
        let clauses = found.clauses(&Context::default());
        let sum: u64 = clauses.iter().map(|clause| clause.ticks).sum();
        prop_assert_eq!(sum, found.gap.end);
        prop_assert!(clauses.is_sorted_by_key(|clause| std::cmp::Reverse(clause.ticks)));
        for clause in &clauses {
            let of = |all: &[&Culprit]| all.iter().map(|culprit| culprit.ticks).sum::<u64>();
            prop_assert_eq!(clause.by.is_some(), !clause.culprits.is_empty());
            let Named { names, others } = clause.named();
            if clause.by.is_some() {
                prop_assert_eq!(of(&names) + of(&others), clause.ticks);
            }
            prop_assert!(names.len() <= MAX_NAMED + 1 && others.len() != 1
                || others[0].tid == OTHERS);
            // Foreign ones first; within each kind the longest first.
            let order = |culprit: &&Culprit| (!culprit.foreign, std::cmp::Reverse(culprit.ticks));
            prop_assert!(names.is_sorted_by_key(order));
            // Nobody is left out who took more than one that is named, but for a foreign one.
            let load = |culprit: &&&Culprit| !culprit.foreign && culprit.tid != OTHERS;
            let least = names.iter().filter(load).map(|culprit| culprit.ticks).min();
            let most = others.iter().filter(load).map(|culprit| culprit.ticks).max();
            prop_assert!(least.zip(most).is_none_or(|(least, most)| least >= most));
        }
    }
}
