// SPDX-License-Identifier: Apache-2.0
//! What a trace does not say: which CPUs share a core, and which threads belong together.

use std::collections::{BTreeMap, BTreeSet};

use crate::trace::MAX_CPUS;

/// Which CPUs are hyperthreads of one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    siblings: Vec<Vec<u32>>,
}

impl Topology {
    /// From lists of the CPUs of each core, such as `[[0, 1], [2, 3]]`. CPUs in no list are
    /// alone on theirs; CPUs from 8192 on do not exist.
    pub fn from_cores<'a>(cores: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut siblings: Vec<Vec<u32>> = Vec::new();
        for core in cores {
            for &cpu in core.iter().filter(|&&cpu| cpu < MAX_CPUS) {
                if siblings.len() <= cpu as usize {
                    siblings.resize(cpu as usize + 1, Vec::new());
                }
                let others = core.iter().copied().filter(|&other| other != cpu && other < MAX_CPUS);
                siblings[cpu as usize] = others.collect();
            }
        }
        Self { siblings }
    }

    /// The other hyperthreads of a CPU's core.
    pub fn siblings(&self, cpu: u32) -> &[u32] {
        self.siblings.get(cpu as usize).map_or(&[], Vec::as_slice)
    }
}

/// What a trace does not say.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Which CPUs share a core.
    pub topology: Topology,
    /// The group of each thread that is in one. With core scheduling, threads may share a
    /// core exactly if they are in one group, or both in none (cookie 0).
    pub groups: BTreeMap<i32, u32>,
    /// Names of groups, for people; `group N` for those that have none here.
    pub group_names: BTreeMap<u32, String>,
    /// Names of threads, for people, in place of the kernel's.
    pub thread_names: BTreeMap<i32, String>,
    /// Whether groups have core-scheduling cookies. Without, no CPU is forced idle.
    pub core_scheduling: bool,
    /// Groups with a limit of CPU time (`cpu.max`). The kernel traces no throttling, so a
    /// runnable thread on an idle CPU is called throttled exactly if its group is in here.
    pub limited_groups: BTreeSet<u32>,
    /// Whether the threads of groups are virtual CPUs, and their gaps were measured inside: then
    /// a thread also runs while its hypervisor works for it.
    pub vcpus: bool,
    /// How many segments to keep of each gap; see [`super::Explanation::segments`].
    pub max_segments: usize,
}

impl Context {
    /// A group's name.
    pub fn group_name(&self, group: u32) -> String {
        self.group_names.get(&group).cloned().unwrap_or_else(|| format!("group {group}"))
    }

    /// What takes the time of a thread that runs by the trace.
    pub(super) fn taker(&self) -> &'static str {
        if self.vcpus {
            "the hypervisor worked for the vCPU, or host steal, SMI or an untraced interrupt"
        } else {
            "host steal, SMI or an untraced interrupt"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_the_others_of_a_core() {
        let topology = Topology::from_cores([&[0, 2][..], &[1, 3, 5], &[u32::MAX, 7]]);
        assert_eq!(topology.siblings(2), [0]);
        assert_eq!(topology.siblings(3), [1, 5]);
        assert!(topology.siblings(4).is_empty() && topology.siblings(99).is_empty());
        assert!(topology.siblings(7).is_empty());
    }
}
