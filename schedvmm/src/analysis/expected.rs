// SPDX-License-Identifier: Apache-2.0
//! The longest gap that a fair scheduler gives by design, to hold the measured one against.
//!
//! With n threads that always want to run on one CPU, each waits for the others' turns:
//! (n - 1) turns. docs/method.md derives the length of a turn, and says when this is not what
//! to expect.

use protocol::group::Policy;
use protocol::job::LoadSpec;
use protocol::scheduler::{Family, SchedulerFacts};
use results::model::Expected;

use crate::units::show_ns;

/// What is to be expected of a load on a kernel, of which at most so many threads for each CPU wanted to
/// run at the same time; all, where that is not known.
pub fn expected(
    spec: &LoadSpec,
    at_once: Option<u32>,
    facts: &SchedulerFacts,
    longest_gap_ns: Option<u64>,
) -> Expected {
    let cpus = u32::try_from(spec.cpus.len()).unwrap_or(u32::MAX).max(1);
    let threads = u32::try_from(spec.threads()).unwrap_or(u32::MAX);
    let threads_per_cpu =
        at_once.filter(|at_once| *at_once > 0).unwrap_or_else(|| threads.div_ceil(cpus));
    let mut expected = Expected { threads_per_cpu, ..Expected::default() };
    if let Some(note) = not_alike(spec) {
        return Expected { note, ..Expected::default() };
    }
    match turn(threads_per_cpu, facts) {
        _ if threads_per_cpu <= 1 => {
            expected.note = "each thread has a CPU of its own: no gap is by design".into();
        }
        Err(note) => expected.note = note,
        Ok((turn_ns, note)) => {
            let gap_ns = turn_ns.saturating_mul(u64::from(threads_per_cpu - 1));
            expected.gap_ns = Some(gap_ns);
            expected.turn_ns = Some(turn_ns);
            expected.note = note;
            expected.inflation =
                longest_gap_ns.and_then(|longest| gaps::stats::share(longest, gap_ns));
        }
    }
    expected
}

/// With VMs as the load: their meters sleep, and each VM does more than its meter.
pub fn of_machines() -> Expected {
    Expected { note: "does not apply: the load is VMs".into(), ..Expected::default() }
}

/// For the end screen.
pub fn line(expected: &Expected) -> String {
    let Some((gap_ns, turn_ns)) = expected.gap_ns.zip(expected.turn_ns) else {
        return format!("none: {}", expected.note);
    };
    let inflation =
        expected.inflation.map_or_else(String::new, |times| format!(", measured {times:.2} x"));
    format!(
        "{} = {} turns of {} ({}){inflation}",
        show_ns(gap_ns),
        expected.threads_per_cpu.saturating_sub(1),
        show_ns(turn_ns),
        expected.note
    )
}

/// Why turns are not alike, if they are not.
fn not_alike(spec: &LoadSpec) -> Option<String> {
    let cookies = spec.groups.first().map(|group| group.cookie);
    let why = if spec.groups.iter().any(|group| group.policy != Policy::default()) {
        "have a policy, nice value or slice of their own"
    } else if spec.groups.iter().any(|group| group.quota.is_some()) {
        "have a quota"
    } else if spec.groups.iter().any(|group| !group.own_cgroup) {
        "have no cgroup of their own"
    } else if spec.groups.iter().any(|group| !group.cpus.is_empty()) {
        "have CPUs of their own"
    } else if spec.groups.iter().any(|group| !group.yielding.is_zero()) {
        "yield"
    } else if spec.groups.iter().any(|group| Some(group.cookie) != cookies) {
        "have no cookie where others have one"
    } else {
        return None;
    };
    Some(format!("does not apply: groups {why}"))
}

/// Time for which one of n threads runs at a stretch, and its source.
fn turn(n: u32, facts: &SchedulerFacts) -> Result<(u64, String), String> {
    let family = facts.family.ok_or("the kernel's release does not tell its scheduler")?;
    let slice = match (family, facts.slice_ns, facts.latency_ns) {
        (Family::Eevdf, Some(slice), _) => slice,
        // The latency is divided among the threads until each has the minimum granularity.
        (Family::Cfs, Some(least), Some(latency)) => (latency / u64::from(n.max(1))).max(least),
        _ => {
            let why = facts.slice_note.as_deref().unwrap_or("its file says nothing");
            return Err(format!("the scheduler's slice cannot be read: {why}"));
        }
    };
    match (facts.hrtick, facts.tick_ns.filter(|tick| *tick > 0)) {
        (Some(true), _) => Ok((slice, about("HRTICK", &family, slice))),
        (_, Some(tick)) => {
            let ticks = slice.div_ceil(tick).max(1);
            Ok((
                ticks.saturating_mul(tick),
                about(&format!("tick {}", show_ns(tick)), &family, slice),
            ))
        }
        (_, None) => Err("the kernel's tick cannot be found".into()),
    }
}

fn about(rest: &str, family: &Family, slice: u64) -> String {
    format!("{}, slice {}, {rest}", family.name(), show_ns(slice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::load;

    const MS: u64 = 1_000_000;

    fn facts(family: Family, slice_ns: u64, tick_ms: u64, hrtick: bool) -> SchedulerFacts {
        SchedulerFacts {
            family: Some(family),
            tick_ns: Some(tick_ms * MS),
            slice_ns: Some(slice_ns),
            slice_note: None,
            latency_ns: (family == Family::Cfs).then_some(30 * MS),
            hrtick: Some(hrtick),
            autogroup: None,
        }
    }

    #[test]
    fn the_figures_of_the_literature() {
        let gap = |facts| expected(&load(8, 2, 2), None, &facts, None).gap_ns;
        // The original benchmark's tuning: seven turns of 3.75 ms.
        assert_eq!(gap(facts(Family::Cfs, 1_875_000, 4, true)), Some(26_250_000));
        // EEVDF's own slice on 4 CPUs: a turn ends at the tick that follows.
        assert_eq!(gap(facts(Family::Eevdf, 2_100_000, 4, false)), Some(28 * MS));
        assert_eq!(gap(facts(Family::Eevdf, 2_100_000, 1, false)), Some(21 * MS));
        assert_eq!(gap(facts(Family::Eevdf, 2_100_000, 4, true)), Some(14_700_000));
    }

    #[test]
    fn many_threads_on_cfs_have_the_minimum_granularity() {
        let found = expected(&load(32, 2, 2), None, &facts(Family::Cfs, 1_875_000, 4, true), None);
        assert_eq!((found.threads_per_cpu, found.turn_ns), (32, Some(1_875_000)));
    }

    #[test]
    fn inflation_is_measured_over_expected() {
        // No more wanted to run at once: one turn of another.
        let few = facts(Family::Eevdf, 3 * MS, 4, false);
        let few = expected(&load(8, 2, 2), Some(2), &few, Some(8 * MS));
        assert_eq!((few.gap_ns, few.threads_per_cpu, few.inflation), (Some(4 * MS), 2, Some(2.0)));
        let found =
            expected(&load(8, 2, 2), None, &facts(Family::Eevdf, 3 * MS, 4, false), Some(56 * MS));
        assert_eq!((found.gap_ns, found.inflation), (Some(28 * MS), Some(2.0)));
        assert!(line(&found).ends_with("measured 2.00 x"), "{}", line(&found));
    }

    #[test]
    fn groups_that_are_not_alike_have_no_expectation() {
        let facts = facts(Family::Eevdf, 3 * MS, 4, false);
        let mut spec = load(8, 2, 2);
        spec.groups[3].cookie = false;
        let found = expected(&spec, None, &facts, Some(MS));
        assert_eq!((found.gap_ns, found.inflation), (None, None));
        assert!(found.note.contains("no cookie"), "{}", found.note);
        spec.groups[3].policy.nice = Some(1);
        assert!(expected(&spec, None, &facts, None).note.contains("nice"));
    }

    #[test]
    fn what_cannot_be_said_is_not_said() {
        let alone =
            expected(&load(1, 2, 2), None, &facts(Family::Eevdf, 3 * MS, 4, false), Some(1));
        assert_eq!((alone.gap_ns, alone.inflation), (None, None));
        assert!(line(&alone).contains("CPU of its own"), "{}", line(&alone));
        let slice_note = Some("this kernel is locked down".to_owned());
        let hidden =
            SchedulerFacts { slice_ns: None, slice_note, ..facts(Family::Eevdf, 0, 4, false) };
        let hidden = expected(&load(8, 2, 2), None, &hidden, Some(1));
        assert!(hidden.gap_ns.is_none(), "{hidden:?}");
        assert_eq!(
            line(&hidden),
            "none: the scheduler's slice cannot be read: this kernel is locked down"
        );
        // A guest may say anything.
        let still =
            expected(&load(8, 2, 2), None, &facts(Family::Eevdf, 3 * MS, 0, false), Some(1));
        assert!(still.gap_ns.is_none() && still.note.contains("tick"), "{still:?}");
        let nothing = expected(&load(8, 2, 2), None, &SchedulerFacts::default(), Some(1));
        assert!(nothing.gap_ns.is_none() && !nothing.note.is_empty());
    }
}
