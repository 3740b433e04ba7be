// SPDX-License-Identifier: Apache-2.0
//! Between which CPUs the scheduler balances load. Where it does not (`isolcpus=`, isolated
//! cpuset partitions, cpusets of v1 without `sched_load_balance`), threads stay where they were
//! woken, and those that may use several such CPUs pile up on one of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use protocol::cpu_list::CpuSet;

use crate::kernel::cgroup::Version;
use crate::kernel::hierarchy;

/// These CPUs in sets: load is balanced within each, and not between them. One set is how it
/// should be. `root` is where the files of the kernel are.
pub fn sets(root: &Path, cpus: &[u32]) -> Vec<CpuSet> {
    let spans = domains(root).unwrap_or_else(|| by_isolation(root, cpus));
    let mut sets: Vec<CpuSet> = Vec::new();
    for &cpu in cpus {
        let span = spans.get(&cpu).cloned().unwrap_or_default();
        let mut own: Vec<u32> = vec![cpu];
        // A span tells of both sides: whoever shares a domain shares a set.
        sets.retain(|set| {
            let joined = set.iter().any(|other| {
                other == cpu
                    || span.contains(other)
                    || spans.get(&other).is_some_and(|span| span.contains(cpu))
            });
            if joined {
                own.extend(set.iter());
            }
            !joined
        });
        sets.push(own.into_iter().collect());
    }
    sets
}

/// For each CPU, those it shares a scheduling domain with: what the kernel itself goes by.
/// `None` for a kernel without CONFIG_SCHEDSTATS.
fn domains(root: &Path) -> Option<BTreeMap<u32, CpuSet>> {
    /// From this version of the file on a domain has its name before its CPUs
    /// (Documentation/scheduler/sched-stats.rst).
    const NAMED: u32 = 17;
    let text = fs::read_to_string(root.join("proc/schedstat")).ok()?;
    let mut version = 0;
    let mut spans = BTreeMap::<u32, CpuSet>::new();
    let mut current = None;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "version" {
            version = words.next()?.parse().ok()?;
        } else if let Some(cpu) = first.strip_prefix("cpu") {
            let cpu = cpu.parse().ok()?;
            spans.insert(cpu, CpuSet::default());
            current = Some(cpu);
        } else if first.starts_with("domain") {
            let mask = words.nth(usize::from(version >= NAMED))?;
            let span = spans.get_mut(&current?)?;
            // They grow from level to level; the last one is the largest.
            *span = CpuSet::from_mask(mask)?;
        }
    }
    (!spans.is_empty()).then_some(spans)
}

/// The same by what is said to be isolated, and by whom.
fn by_isolation(root: &Path, cpus: &[u32]) -> BTreeMap<u32, CpuSet> {
    let mut isolated = list(&root.join("sys/devices/system/cpu/isolated")).unwrap_or_default();
    for hierarchy in hierarchy::own(root) {
        let levels: Vec<_> = hierarchy.levels.iter().map(|level| &*level.directory).collect();
        let Some((own, top)) = levels.first().zip(levels.last()) else { continue };
        if hierarchy.version == Version::V2 {
            add(list(&top.join("cpuset.cpus.isolated")), &mut isolated);
            let partition = levels
                .iter()
                .find(|level| read(level, "cpuset.cpus.partition").as_deref() == Some("isolated"));
            add(
                partition.and_then(|level| list(&level.join("cpuset.cpus.effective"))),
                &mut isolated,
            );
        } else if hierarchy.has("cpuset") {
            // Any cpuset above that balances does it for all of its CPUs.
            if levels
                .iter()
                .all(|level| read(level, "cpuset.sched_load_balance").as_deref() == Some("0"))
            {
                add(list(&own.join("cpuset.effective_cpus")), &mut isolated);
            }
        }
    }
    let balanced: CpuSet = cpus.iter().copied().filter(|cpu| !isolated.contains(*cpu)).collect();
    cpus.iter()
        .map(|&cpu| {
            (cpu, if balanced.contains(cpu) { balanced.clone() } else { CpuSet::default() })
        })
        .collect()
}

fn list(path: &Path) -> Option<CpuSet> {
    fs::read_to_string(path).ok()?.parse::<CpuSet>().ok()
}

fn add(set: Option<CpuSet>, isolated: &mut CpuSet) {
    *isolated = isolated.iter().chain(set.unwrap_or_default().iter()).collect();
}

fn read(directory: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(directory.join(file)).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::affinity;
    use crate::testing::tree;

    fn shown(files: &[(&str, &str)], cpus: &[u32]) -> Vec<String> {
        sets(tree(files).path(), cpus).iter().map(CpuSet::to_string).collect()
    }

    #[test]
    fn domains_are_what_the_kernel_goes_by() {
        let plain = "version 15\ntimestamp 4294937296\n\
                     cpu0 0 0 0 0 0 0 1 2 3\ndomain0 3 0 0\ndomain1 f 0 0\n\
                     cpu1 0 0 0 0 0 0 1 2 3\ndomain0 3 0 0\ndomain1 f 0 0\n\
                     cpu2 0 0 0 0 0 0 1 2 3\ndomain0 c 0 0\ndomain1 f 0 0\n\
                     cpu3 0 0 0 0 0 0 1 2 3\ndomain0 c 0 0\ndomain1 f 0 0\n";
        assert_eq!(shown(&[("proc/schedstat", plain)], &[2, 3]), ["2-3"]);
        // isolcpus=2,3: no domain there at all.
        let isolated = "version 17\ntimestamp 9\ncpu0 0 0\ndomain0 SMT 00000000,00000003 0\n\
                        cpu1 0 0\ndomain0 SMT 00000000,00000003 0\ncpu2 0 0\ncpu3 0 0\n";
        assert_eq!(shown(&[("proc/schedstat", isolated)], &[2, 3]), ["2", "3"]);
        assert_eq!(shown(&[("proc/schedstat", isolated)], &[0, 1, 3]), ["0-1", "3"]);
        // Partitions: balanced within each. It counts, whatever is said elsewhere.
        let parts = "version 16\ncpu0 0\ndomain0 3 0\ncpu1 0\ndomain0 3 0\ncpu2 0\n\
                     domain0 c 0\ncpu3 0\ndomain0 c 0\n";
        let files = [("proc/schedstat", parts), ("sys/devices/system/cpu/isolated", "0-3\n")];
        assert_eq!(shown(&files, &[1, 3, 0, 2]), ["0-1", "2-3"]);
        // One that is not there, and a file that is not understood.
        assert_eq!(shown(&[("proc/schedstat", plain)], &[3, 9]), ["3", "9"]);
        let strange = [("proc/schedstat", "version 99\ncpu0 1\ndomain0 f\n")];
        assert_eq!(shown(&strange, &[0, 1]), ["0-1"]);
    }

    #[test]
    fn without_domains_the_lists_of_isolated_cpus_tell() {
        let isolated = ("sys/devices/system/cpu/isolated", "2-3\n");
        assert_eq!(shown(&[isolated], &[0, 1, 2, 3]), ["0-1", "2", "3"]);
        assert_eq!(shown(&[("sys/devices/system/cpu/isolated", "\n")], &[2, 3]), ["2-3"]);
        assert_eq!(shown(&[], &[2, 3]), ["2-3"]);
    }

    #[test]
    fn cpusets_isolate_too() {
        let v2 = [
            ("proc/self/mountinfo", "30 23 0:27 / /cg rw - cgroup2 cgroup2 rw\n"),
            ("proc/self/cgroup", "0::/rt\n"),
        ];
        let partition = [("cg/rt/cpuset.cpus.partition", "isolated\n")];
        let effective = [("cg/rt/cpuset.cpus.effective", "2-3\n")];
        assert_eq!(shown(&[&v2[..], &partition, &effective].concat(), &[2, 3]), ["2", "3"]);
        let root = [("cg/rt/cpuset.cpus.partition", "root\n")];
        assert_eq!(shown(&[&v2[..], &root, &effective].concat(), &[2, 3]), ["2-3"]);
        let invalid = [("cg/rt/cpuset.cpus.partition", "isolated invalid (x)\n")];
        assert_eq!(shown(&[&v2[..], &invalid, &effective].concat(), &[2, 3]), ["2-3"]);
        // Somebody else's partition, whose CPUs are not ours.
        let others = [("cg/cpuset.cpus.isolated", "5\n")];
        assert_eq!(shown(&[&v2[..], &others].concat(), &[2, 3, 5]), ["2-3", "5"]);
        let v1 = [
            ("proc/self/mountinfo", "30 23 0:27 / /cs rw - cgroup cgroup rw,cpuset\n"),
            ("proc/self/cgroup", "3:cpuset:/rt\n"),
            ("cs/rt/cpuset.sched_load_balance", "0\n"),
            ("cs/rt/cpuset.effective_cpus", "2-3\n"),
        ];
        for (above, expected) in [("0\n", &["2", "3"][..]), ("1\n", &["2-3"])] {
            let above = [("cs/cpuset.sched_load_balance", above)];
            assert_eq!(shown(&[&v1[..], &above].concat(), &[2, 3]), expected);
        }
    }

    #[test]
    fn each_cpu_of_this_machine_is_in_one_set() {
        let online: Vec<_> = affinity::online().unwrap().iter().collect();
        let sets = sets(Path::new("/"), &online);
        let all: Vec<_> = sets.iter().flat_map(|set| set.iter()).collect();
        assert_eq!(all.len(), online.len(), "{sets:?}");
    }
}
