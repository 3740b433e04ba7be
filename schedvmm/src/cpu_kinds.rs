// SPDX-License-Identifier: Apache-2.0
//! Processors with cores of more than one kind: which CPU is of which, the fastest kind first.

use std::fs;
use std::path::Path;

use protocol::cpu_list::CpuSet;
use results::model::CpuKind;

use crate::units;

/// CPUs of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    /// What it is called, and by whom.
    name: String,
    cpus: CpuSet,
}

/// All kinds, the fastest first; empty or one of them where all CPUs are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(Vec<Kind>);

/// Performance counters of Intel's kinds, and what the kinds are called.
const PMUS: [(&str, &str); 3] = [
    ("cpu_core", "performance cores (cpu_core)"),
    ("cpu_atom", "efficiency cores (cpu_atom)"),
    ("cpu_lowpower", "low-power efficiency cores (cpu_lowpower)"),
];

impl Kinds {
    /// Of the system whose /sys is this folder.
    pub fn read(sys: &Path) -> Self {
        let by_pmu = Self(PMUS.iter().filter_map(|(pmu, name)| of_pmu(sys, pmu, name)).collect());
        // A single one of them is that of a machine whose CPUs are all alike.
        if by_pmu.0.len() > 1 { by_pmu } else { Self::by_capacity(sys) }
    }

    /// By how much work they do, of 1024.
    fn by_capacity(sys: &Path) -> Self {
        /// The kernel takes no CPU for a larger one whose capacity differs by less: 5 %
        /// (`capacity_greater` of kernel/sched/fair.c).
        const MARGIN: (u64, u64) = (1078, 1024);
        let mut capacities: Vec<(u64, u32)> = Vec::new();
        for entry in fs::read_dir(sys.join("devices/system/cpu")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse().ok());
            let text = fs::read_to_string(entry.path().join("cpu_capacity"));
            let capacity = text.ok().and_then(|text| text.trim().parse().ok());
            capacities.extend(capacity.zip(number));
        }
        capacities.sort_unstable_by_key(|&(capacity, cpu)| (std::cmp::Reverse(capacity), cpu));
        let mut kinds: Vec<(u64, Vec<u32>)> = Vec::new();
        for (capacity, cpu) in capacities {
            match kinds.last_mut() {
                Some((of_kind, cpus)) if capacity * MARGIN.0 >= *of_kind * MARGIN.1 => {
                    cpus.push(cpu);
                }
                _ => kinds.push((capacity, vec![cpu])),
            }
        }
        Self(
            kinds
                .into_iter()
                .map(|(capacity, cpus)| Kind {
                    name: format!("cores of capacity {capacity}"),
                    cpus: cpus.into_iter().collect(),
                })
                .collect(),
        )
    }

    /// As result.json has them.
    pub fn facts(&self) -> Vec<CpuKind> {
        self.0
            .iter()
            .map(|kind| CpuKind { name: kind.name.clone(), cpus: kind.cpus.to_string() })
            .collect()
    }

    /// True if there is more than one.
    pub fn are_mixed(&self) -> bool {
        self.0.len() > 1
    }

    /// Rank of this CPU's kind by speed: 0 for the fastest, and for all where they are alike.
    pub fn rank(&self, cpu: usize) -> usize {
        let cpu = u32::try_from(cpu).unwrap_or(u32::MAX);
        self.0.iter().position(|kind| kind.cpus.contains(cpu)).unwrap_or(0)
    }

    /// What a reader must know of `who` on these CPUs: that they are of several kinds, or not of
    /// the fastest.
    pub fn note(&self, who: &str, cpus: &[usize]) -> Option<String> {
        if !self.are_mixed() {
            return None;
        }
        let on: Vec<_> = self
            .0
            .iter()
            .filter_map(|kind| {
                let of_kind = cpus.iter().filter_map(|cpu| u32::try_from(*cpu).ok());
                let found: CpuSet = of_kind.filter(|cpu| kind.cpus.contains(*cpu)).collect();
                (!found.is_empty()).then(|| format!("{found} ({})", kind.name))
            })
            .collect();
        let slow = cpus.iter().any(|cpu| self.rank(*cpu) > 0);
        match on.as_slice() {
            [] => None,
            [one] => {
                slow.then(|| format!("{who} on CPUs {one}: not the fastest of this processor"))
            }
            several => Some(format!(
                "{who} on CPUs of different kinds, {}: they do not do the same work in the same \
                 time, and no fairness or share between them means anything",
                several.join(" and ")
            )),
        }
    }
}

fn of_pmu(sys: &Path, pmu: &str, name: &str) -> Option<Kind> {
    let text = fs::read_to_string(sys.join("devices").join(pmu).join("cpus")).ok()?;
    let list = units::cpu_list(&text).ok()?;
    let cpus: CpuSet = list.0.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect();
    (!cpus.is_empty()).then(|| Kind { name: name.into(), cpus })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::testing::tree;

    /// Two performance cores of two threads, four efficiency cores.
    pub const HYBRID: [(&str, &str); 2] =
        [("devices/cpu_core/cpus", "0-3\n"), ("devices/cpu_atom/cpus", "4-7\n")];

    fn kinds(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let kinds = Kinds::read(tree(files).path()).0;
        kinds.into_iter().map(|kind| (kind.name, kind.cpus.to_string())).collect()
    }

    #[test]
    fn performance_counters_tell_the_kinds_apart() {
        let found = kinds(&HYBRID);
        assert_eq!(found[0], ("performance cores (cpu_core)".into(), "0-3".into()));
        assert_eq!(found[1], ("efficiency cores (cpu_atom)".into(), "4-7".into()));
        let three = [&HYBRID[..], &[("devices/cpu_lowpower/cpus", "8-9\n")]].concat();
        assert_eq!(kinds(&three).len(), 3);
        // A machine with efficiency cores only.
        assert_eq!(kinds(&[("devices/cpu_atom/cpus", "0-3\n")]), []);
        assert_eq!(kinds(&[]), []);
    }

    #[test]
    fn so_do_capacities_that_differ() {
        let of = |capacities: &[&str]| {
            let files: Vec<_> = capacities
                .iter()
                .enumerate()
                .map(|(cpu, text)| (format!("devices/system/cpu/cpu{cpu}/cpu_capacity"), *text))
                .collect();
            let files: Vec<_> = files.iter().map(|(file, text)| (&**file, *text)).collect();
            kinds(&files)
        };
        let found = of(&["446\n", "1024\n", "446\n", "1009\n"]);
        assert_eq!(found[0], ("cores of capacity 1024".into(), "1,3".into()));
        assert_eq!(found[1], ("cores of capacity 446".into(), "0,2".into()));
        assert_eq!(of(&["1024", "1024"]).len(), 1);
        assert_eq!(of(&["x", ""]).len(), 0);
        assert_eq!(of(&["0", "0"]).len(), 1);
    }

    #[test]
    fn a_mix_and_slow_cores_are_told() {
        let kinds = Kinds::read(tree(&HYBRID).path());
        assert_eq!((kinds.rank(3), kinds.rank(4), kinds.rank(99)), (0, 1, 0));
        assert_eq!(kinds.note("the load is", &[2, 3]), None);
        let slow = kinds.note("the load is", &[6, 7]).expect("told");
        assert_eq!(
            slow,
            "the load is on CPUs 6-7 (efficiency cores (cpu_atom)): not the fastest of this \
             processor"
        );
        let mix = kinds.note("vCPUs are", &[2, 3, 4]).expect("told");
        assert!(mix.starts_with("vCPUs are on CPUs of different kinds, 2-3 (perf"), "{mix}");
        assert!(mix.contains(" and 4 (efficiency cores"), "{mix}");
        assert_eq!(Kinds::default().note("x", &[1, 2]), None);
        assert_eq!(kinds.facts()[1].cpus, "4-7");
    }
}
