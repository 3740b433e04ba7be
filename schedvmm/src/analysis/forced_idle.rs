// SPDX-License-Identifier: Apache-2.0
//! Forced idle time: a hyperthread idles though somebody wants to run on it, because the core
//! belongs to another cookie. From the kernel's own accounting, which charges it to the cookie that
//! causes it (kernel/sched/core_sched.c, `__sched_core_account_forceidle`).

use gaps::stats::share_within;
use protocol::report::LoadReport;
use results::model::{ForcedIdle, ForcedIdleSource, Group, Thread};

/// Of machines in place of the load: their launchers keep no such accounts.
pub fn of_machines() -> ForcedIdle {
    let note = "not measured: the load is VMs; a trace tells it (schedvmm explain --run)";
    ForcedIdle { note: Some(note.into()), ..ForcedIdle::default() }
}

/// Puts it down to the groups, and adds it up. `cpu_time_ns` is the time between the two readings
/// of the kernel's accounting, on all CPUs of the load together.
pub fn fill_in(
    groups: &mut [Group],
    threads: &[Thread],
    report: Option<&LoadReport>,
    cpu_time_ns: u64,
) -> ForcedIdle {
    let found = of_all(
        &|group: &Group| {
            report?.groups.get(group.group.index()).and_then(|report| report.force_idle_ns)
        },
        groups,
    )
    .map(|all| (ForcedIdleSource::Cgroup, all));
    let found = found.or_else(|| {
        of_all(
            &|group: &Group| {
                let own = threads.iter().filter(|thread| thread.who.group == group.group.number());
                own.map(|thread| thread.report.force_idle_ns)
                    .try_fold(0u64, |sum, ns| Some(sum.saturating_add(ns?)))
            },
            groups,
        )
        .map(|all| (ForcedIdleSource::Threads, all))
    });
    let Some((source, each)) = found else {
        let note = "the kernel does not tell: it needs CONFIG_SCHED_CORE (5.17 or later), \
                    CONFIG_SCHEDSTATS and kernel.sched_schedstats=1 (--tune schedstats=on)";
        return ForcedIdle { note: Some(note.into()), ..ForcedIdle::default() };
    };
    for (group, ns) in groups.iter_mut().zip(&each) {
        group.force_idle_ns = Some(*ns);
        group.force_idle_share = share_within(*ns, cpu_time_ns);
    }
    let ns = each.iter().fold(0u64, |sum, ns| sum.saturating_add(*ns));
    ForcedIdle {
        ns: Some(ns),
        share: share_within(ns, cpu_time_ns),
        source: Some(source),
        note: None,
    }
}

fn of_all(of: &dyn Fn(&Group) -> Option<u64>, groups: &[Group]) -> Option<Vec<u64>> {
    groups.iter().map(of).collect::<Option<Vec<u64>>>().filter(|all| !all.is_empty())
}

#[cfg(test)]
mod tests {
    use protocol::index::GroupIndex;
    use protocol::report::{GroupReport, ThreadReport};

    use super::*;
    use crate::testing;

    fn thread(thread: usize, force_idle_ns: Option<u64>) -> Thread {
        let report = ThreadReport { force_idle_ns, ..Default::default() };
        testing::thread(thread, report)
    }

    fn filled_in(
        cgroups: [Option<u64>; 2],
        threads: [Option<u64>; 4],
    ) -> (ForcedIdle, [Option<u64>; 2]) {
        let group = |index| Group { group: GroupIndex::new(index), ..Group::default() };
        let mut groups = [group(0), group(1)];
        let groups_told =
            cgroups.map(|force_idle_ns| GroupReport { force_idle_ns, ..Default::default() });
        let report = LoadReport { groups: groups_told.into(), ..Default::default() };
        let threads: Vec<_> =
            threads.into_iter().enumerate().map(|(n, ns)| thread(n, ns)).collect();
        let found = fill_in(&mut groups, &threads, Some(&report), 1000);
        (found, groups.map(|group| group.force_idle_ns))
    }

    #[test]
    fn cgroups_come_first_and_threads_do_where_there_are_none() {
        let (found, groups) = filled_in([Some(100), Some(50)], [Some(1); 4]);
        assert_eq!(
            (found.source, found.ns, found.share),
            (Some(ForcedIdleSource::Cgroup), Some(150), Some(0.15))
        );
        assert_eq!(groups, [Some(100), Some(50)]);
        let (found, groups) = filled_in([Some(100), None], [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!((found.source, groups), (Some(ForcedIdleSource::Threads), [Some(3), Some(7)]));
    }

    #[test]
    fn what_one_thread_does_not_tell_nobody_adds_up() {
        let (found, groups) = filled_in([None; 2], [Some(1), Some(2), Some(3), None]);
        assert_eq!((found.ns, groups), (None, [None; 2]));
        assert!(found.note.is_some_and(|note| note.contains("schedstats=on")));
        let nothing = fill_in(&mut [], &[], None, 0);
        assert_eq!((nothing.ns, nothing.source), (None, None));
    }
}
