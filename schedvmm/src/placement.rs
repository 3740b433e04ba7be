// SPDX-License-Identifier: Apache-2.0
//! Which host CPU each vCPU gets.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use guest::cpus::{CpuSet, MAX_CPUS};
use vmm::config::Topology;
use vmm::vcpu::sched;

use crate::cli::Pin;
use crate::core_figures::{HostCpus, Vcpus};
use crate::status::Failure;
use crate::{facts, units};

/// Where Linux describes its CPUs.
const SYSFS_CPUS: &str = "/sys/devices/system/cpu";

/// Where the vCPUs will run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// One host CPU for each vCPU; empty if they are not pinned.
    pub pins: Vec<usize>,
    /// Why the default placement could not be had.
    pub note: Option<String>,
}

impl Placement {
    /// What the host's CPUs are to vCPUs that are placed so.
    pub fn host_cpus(&self, topology: Topology) -> HostCpus {
        let allowed = sched::affinity().map_or(usize::MAX, |cpus| cpus.len());
        let vcpus = Vcpus::new(topology.cpus as usize, &self.pins, allowed);
        HostCpus { emulated: facts::emulated(), vcpus: Some(vcpus) }
    }
}

/// The placement asked for, or the default: whole cores from the second physical core on,
/// hyperthread by hyperthread, because core 0 serves most of the host's interrupts.
pub fn choose(asked: Option<&Pin>, topology: Topology) -> Placement {
    match asked {
        Some(Pin::None) => Placement::default(),
        Some(Pin::List(list)) => Placement { pins: list.0.clone(), note: None },
        None => {
            let allowed = sched::affinity().unwrap_or_default();
            by_cores(&cores(Path::new(SYSFS_CPUS)), &allowed, topology)
        }
    }
}

/// Whether this process may use these CPUs, which `option` names: found out before anything is
/// made for it.
///
/// # Errors
/// One is not there, which makes the request wrong; or it is, and this host keeps it from us.
pub fn check(option: &str, cpus: &[usize]) -> Result<(), Failure> {
    check_in(Path::new(SYSFS_CPUS), option, cpus)
}

fn check_in(sysfs: &Path, option: &str, cpus: &[usize]) -> Result<(), Failure> {
    // Where /sys does not tell, the attempt has to do.
    let list = |name: &str| fs::read_to_string(sysfs.join(name)).ok()?.parse::<CpuSet>().ok();
    let (present, online) = (list("present"), list("online"));
    for &cpu in cpus {
        let number = u32::try_from(cpu).ok().filter(|cpu| *cpu < MAX_CPUS);
        let lacks = |set: &CpuSet| number.is_none_or(|cpu| !set.contains(cpu));
        if let Some(present) = present.as_ref().filter(|present| lacks(present)) {
            let text = format!("{option} names host CPU {cpu}, and this host has CPUs {present}");
            return Err(Failure::request(text));
        }
        if let Some(online) = online.as_ref().filter(|online| lacks(online)) {
            return Err(Failure::host(format!(
                "{option} names host CPU {cpu}, which is offline (online: {online}); write 1 to \
                 {}/cpu{cpu}/online, or name others",
                sysfs.display()
            )));
        }
        if let Err(error) = try_cpu(number) {
            return Err(Failure::host(format!(
                "{option} names host CPU {cpu}, which this process may not use ({error}); its \
                 cpuset leaves it out: name others, or start it in another cgroup"
            )));
        }
    }
    Ok(())
}

/// In a thread of its own, whose affinity ends with it.
fn try_cpu(cpu: Option<u32>) -> io::Result<()> {
    let cpu = cpu.ok_or(io::ErrorKind::InvalidInput)?;
    let confine = move || CpuSet::from_iter([cpu]).confine_this_thread();
    let thread = thread::Builder::new().spawn(confine)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the attempt panicked")))
}

/// All CPUs of the last core that this process may use: the farthest from core 0, which serves
/// most interrupts. Empty where none of the cores may be used as a whole.
pub fn last_core() -> Vec<usize> {
    last_of(&cores(Path::new(SYSFS_CPUS)), &sched::affinity().unwrap_or_default())
}

fn last_of(cores: &[Vec<usize>], allowed: &[usize]) -> Vec<usize> {
    let whole = |core: &&Vec<usize>| core.iter().all(|cpu| allowed.contains(cpu));
    cores.iter().rev().find(whole).cloned().unwrap_or_default()
}

/// Host cores in ascending order of their first CPU, each the list of its CPUs.
fn cores(sysfs: &Path) -> Vec<Vec<usize>> {
    let mut cores = BTreeMap::new();
    for entry in fs::read_dir(sysfs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_cpu = name.to_str().and_then(|name| name.strip_prefix("cpu"));
        if is_cpu.is_none_or(|number| number.parse::<usize>().is_err()) {
            continue;
        }
        // Offline CPUs have no topology. Both forms, "2,34" and "2-3", are met in the wild.
        let Ok(text) = fs::read_to_string(entry.path().join("topology/thread_siblings_list"))
        else {
            continue;
        };
        if let Ok(list) = units::cpu_list(&text) {
            let mut cpus = list.0;
            cpus.sort_unstable();
            cores.insert(cpus[0], cpus);
        }
    }
    cores.into_values().collect()
}

fn by_cores(cores: &[Vec<usize>], allowed: &[usize], topology: Topology) -> Placement {
    let (needed, threads) = (topology.cores() as usize, topology.threads_per_core as usize);
    let usable: Vec<_> = cores
        .iter()
        .skip(1)
        .filter(|core| core.len() >= threads && core.iter().all(|cpu| allowed.contains(cpu)))
        .collect();
    if usable.len() < needed {
        let note = format!(
            "vCPUs are not pinned: {needed} cores of {threads} threads beside core 0 are needed, \
             this process may use {}",
            usable.len()
        );
        return Placement { pins: Vec::new(), note: Some(note) };
    }
    let pins = usable.iter().take(needed).flat_map(|core| &core[..threads]).copied().collect();
    Placement { pins, note: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ExitStatus;

    const SMT: Topology = Topology { cpus: 4, threads_per_core: 2 };

    #[test]
    fn both_threads_of_the_second_and_third_core_are_taken() {
        let cores = [vec![0, 16], vec![1, 17], vec![2, 18], vec![3, 19]];
        let all: Vec<_> = (0..32).collect();
        let placement = by_cores(&cores, &all, SMT);
        assert_eq!(placement, Placement { pins: vec![1, 17, 2, 18], note: None });
    }

    #[test]
    fn cores_outside_the_cpuset_are_not_taken() {
        let cores = [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7]];
        assert_eq!(by_cores(&cores, &[0, 1, 2, 4, 5, 6, 7], SMT).pins, [4, 5, 6, 7]);
    }

    #[test]
    fn without_room_or_smt_the_run_goes_on_unpinned_and_says_why() {
        for cores in [vec![vec![0], vec![1], vec![2], vec![3]], vec![vec![0, 1], vec![2, 3]]] {
            let placement = by_cores(&cores, &[0, 1, 2, 3], SMT);
            assert!(placement.pins.is_empty());
            assert!(placement.note.expect("note").contains("2 cores of 2 threads"));
        }
    }

    #[test]
    fn the_last_core_is_taken_whole_or_not_at_all() {
        let cores = [vec![0, 2], vec![1, 3]];
        assert_eq!(last_of(&cores, &[0, 1, 2, 3]), [1, 3]);
        assert_eq!(last_of(&cores, &[0, 1, 2]), [0, 2]);
        assert!(last_of(&cores, &[0, 1]).is_empty());
    }

    #[test]
    fn a_cpu_that_is_not_there_is_the_requests_fault_and_one_that_is_offline_the_hosts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let here = CpuSet::of_this_thread().expect("affinity").iter().next().expect("a CPU");
        fs::write(dir.path().join("present"), "0-1022\n").expect("write");
        fs::write(dir.path().join("online"), format!("{here}\n")).expect("write");
        let check = |cpu: usize| check_in(dir.path(), "--load-cpus", &[cpu]);
        let status = |cpu| check(cpu).expect_err("refused").status();
        let here = here as usize;
        assert!(check(here).is_ok());
        assert_eq!(status(1023), ExitStatus::Usage);
        assert_eq!(status(usize::MAX), ExitStatus::Usage);
        assert_eq!(status(here ^ 1), ExitStatus::Host);
        let text = check(here ^ 1).expect_err("offline").to_string();
        assert!(text.contains("/online") && text.contains("--load-cpus"), "{text}");
        // Without /sys the attempt tells.
        let nowhere = tempfile::tempdir().expect("tempdir");
        let refused = check_in(nowhere.path(), "--pin", &[1022]).expect_err("no such CPU");
        assert_eq!(refused.status(), ExitStatus::Host);
    }

    #[test]
    fn sibling_lists_are_read_in_both_forms() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (cpu, list) in [(0, "0,2\n"), (2, "0,2\n"), (1, "1-3\n"), (10, "10\n")] {
            let topology = dir.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).expect("mkdir");
            fs::write(topology.join("thread_siblings_list"), list).expect("write");
        }
        fs::create_dir_all(dir.path().join("cpu9")).expect("offline");
        fs::create_dir_all(dir.path().join("cpufreq")).expect("mkdir");
        assert_eq!(cores(dir.path()), [vec![0, 2], vec![1, 2, 3], vec![10]]);
    }
}
