// SPDX-License-Identifier: Apache-2.0
//! Which CPUs each thread of the load may use.

use std::path::Path;

use protocol::cpu_list::CpuSet;
use protocol::job::LoadSpec;

use crate::kernel::balance;

/// The CPUs of every thread, in the order of their numbers, and what a reader must know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// For each thread.
    pub threads: Vec<CpuSet>,
    /// Why they are not where the load says.
    pub note: Option<String>,
}

impl Places {
    /// On the kernel that runs.
    pub fn of(spec: &LoadSpec) -> Self {
        Self::among(spec, &balance::sets(Path::new("/"), &spec.cpus))
    }

    /// All of its group's CPUs, or the one that the group's shape gives it; but where the scheduler
    /// does not balance load between them, those of one of these `sets`, by turns: threads would
    /// all stay where they began.
    pub fn among(spec: &LoadSpec, sets: &[CpuSet]) -> Self {
        let mut threads = Vec::with_capacity(spec.threads());
        let mut turns = Turns::new(sets);
        let mut dealt = false;
        for group in &spec.groups {
            let cpus = if group.cpus.is_empty() { &spec.cpus } else { &group.cpus };
            let all: CpuSet = cpus.iter().copied().collect();
            for member in 0..group.threads as usize {
                let own = cpus.get(member).filter(|_| group.spread);
                threads.push(match own {
                    Some(own) => [*own].into_iter().collect(),
                    None => {
                        let dealt_out = turns.deal(cpus);
                        dealt |= dealt_out != all;
                        dealt_out
                    }
                });
            }
        }
        Self { threads, note: dealt.then(|| note(sets)) }
    }
}

/// What a reader must know of threads that were spread by us.
pub fn note(sets: &[CpuSet]) -> String {
    let sets: Vec<_> = sets.iter().map(CpuSet::to_string).collect();
    format!(
        "the scheduler does not balance load between CPUs {} (isolcpus=, or cpuset partitions): \
         threads were spread over them evenly, and stay there",
        sets.join(" and ")
    )
}

/// Deals CPUs out, so that each has as many threads as any other.
pub struct Turns<'a> {
    sets: &'a [CpuSet],
    /// CPUs with the threads that they were dealt to.
    dealt: Vec<(u32, usize)>,
}

impl<'a> Turns<'a> {
    /// Among CPUs that load is balanced between as these sets say.
    pub fn new(sets: &'a [CpuSet]) -> Self {
        let dealt = sets.iter().flat_map(CpuSet::iter).map(|cpu| (cpu, 0)).collect();
        Self { sets, dealt }
    }

    /// CPUs for one more thread that may use all of these: those that load is balanced between.
    pub fn deal(&mut self, cpus: &[u32]) -> CpuSet {
        let all: CpuSet = cpus.iter().copied().collect();
        let usable = self.dealt.iter_mut().filter(|(cpu, _)| all.contains(*cpu));
        // The first in the list of those with the fewest.
        let Some((cpu, threads)) = usable.min_by_key(|(cpu, threads)| {
            (*threads, cpus.iter().position(|listed| *listed == *cpu))
        }) else {
            return all;
        };
        *threads += 1;
        let own = self.sets.iter().find(|set| set.contains(*cpu));
        own.map_or(all.clone(), |set| set.and(&all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::group::GroupSpec;
    use protocol::group::SleepSpec;
    use std::time::Duration;

    fn group(threads: u32, cpus: &[u32]) -> GroupSpec {
        let always = Duration::from_secs(1);
        let plain = GroupSpec::plain(threads, always, SleepSpec::Fixed(Duration::ZERO));
        GroupSpec { cpus: cpus.to_vec(), ..plain }
    }

    fn places(groups: &[GroupSpec], cpus: &[u32], sets: &[&str]) -> (Vec<String>, Option<String>) {
        let spec = LoadSpec {
            name: None,
            kind: protocol::index::Kind::default(),
            groups: groups.to_vec(),
            cpus: cpus.to_vec(),
            seed: 0,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
            floor: Duration::from_micros(100),
            threshold: None,
            records_per_thread: 1,
        };
        let sets: Vec<_> = sets.iter().map(|set| set.parse().unwrap()).collect();
        let Places { threads, note } = Places::among(&spec, &sets);
        (threads.iter().map(CpuSet::to_string).collect(), note)
    }

    #[test]
    fn where_load_is_balanced_threads_share_the_cpus() {
        let (threads, note) = places(&[group(2, &[]), group(1, &[3])], &[2, 3], &["2-3"]);
        assert_eq!((&threads[..], note), (&["2-3", "2-3", "3"].map(str::to_owned)[..], None));
        let meter = GroupSpec { spread: true, ..group(2, &[]) };
        assert_eq!(places(std::slice::from_ref(&meter), &[5, 2], &["2,5"]).0, ["5", "2"]);
        assert_eq!(places(&[meter], &[5, 2], &["2", "5"]), (vec!["5".into(), "2".into()], None));
        // One CPU is no matter of balance.
        assert_eq!(places(&[group(2, &[])], &[2], &["2"]), (vec!["2".into(); 2], None));
    }

    #[test]
    fn isolated_cpus_have_equally_many_threads() {
        let (threads, note) = places(&vec![group(2, &[]); 3], &[2, 3], &["2", "3"]);
        assert_eq!(threads, ["2", "3", "2", "3", "2", "3"]);
        assert!(note.is_some_and(|note| note.contains("CPUs 2 and 3")));
        // Groups of one thread each, and of three.
        assert_eq!(places(&vec![group(1, &[]); 4], &[2, 3], &["2", "3"]).0, ["2", "3", "2", "3"]);
        let odd = places(&vec![group(3, &[]); 2], &[2, 3], &["2", "3"]).0;
        assert_eq!(odd, ["2", "3", "2", "3", "2", "3"]);
        // Whoever has a CPU of its own is counted.
        let (mixed, _) = places(&[group(2, &[2]), group(2, &[])], &[2, 3], &["2", "3"]);
        assert_eq!(mixed, ["2", "2", "3", "3"]);
    }

    #[test]
    fn parts_that_are_balanced_within_are_shared() {
        let (threads, note) = places(&[group(5, &[])], &[0, 1, 2, 3], &["0-1", "2-3"]);
        assert_eq!(threads, ["0-1", "0-1", "2-3", "2-3", "0-1"]);
        assert!(note.is_some_and(|note| note.contains("CPUs 0-1 and 2-3")));
        let (threads, _) = places(&[group(5, &[])], &[0, 1, 2], &["0-1", "2"]);
        assert_eq!(threads, ["0-1", "0-1", "2", "0-1", "0-1"]);
    }
}
