// SPDX-License-Identifier: Apache-2.0
//! Which host CPU each vCPU gets.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io, thread};

use protocol::cpu_list::{CpuSet, MAX_CPUS};
use results::host_cpus::{HostCpus, Vcpus};
use vmm::config::Topology;
use vmm::vcpu::sched;
use workload::kernel::{affinity, balance};
use workload::placement::{self, Turns};

use crate::cli::Pin;
use crate::cpu_kinds::Kinds;
use crate::status::Failure;
use crate::{facts, units};

/// Where Linux describes its CPUs.
const SYSFS: &str = "/sys";
/// The same, below that.
const CPUS: &str = "devices/system/cpu";

/// Where the vCPUs will run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// One host CPU for each vCPU; empty if they are not pinned.
    pub pins: Vec<usize>,
    /// What a reader must know of it: why the default placement could not be had, and on what
    /// CPUs the vCPUs are.
    pub notes: Vec<String>,
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
/// hyperthread by hyperthread, because core 0 serves most of the host's interrupts, and where
/// there are cores of several kinds all of one, the fastest if possible.
pub fn choose(asked: Option<&Pin>, topology: Topology) -> Placement {
    let host = Host::this();
    let sets = balance::sets(Path::new("/"), &host.allowed());
    match asked {
        Some(Pin::None) => host.unpinned(&sets),
        Some(Pin::List(list)) => host.noted(Placement { pins: list.0.clone(), notes: vec![] }),
        None => match host.by_cores(topology) {
            Ok(placement) => placement,
            // Not left to a scheduler that would leave all of them where the first one is.
            Err(_) if sets.len() > 1 => host.dealt(topology, &sets),
            Err(why) => {
                let mut placement = host.unpinned(&sets);
                placement.notes.insert(0, why);
                placement
            }
        },
    }
}

/// Whether this process may use these CPUs, which `option` names: found out before anything is
/// made for it.
///
/// # Errors
/// One is not there, which makes the request wrong; or it is, and this host keeps it from us.
pub fn check(option: &str, cpus: &[usize]) -> Result<(), Failure> {
    check_in(&Path::new(SYSFS).join(CPUS), option, cpus)
}

fn check_in(sysfs: &Path, option: &str, cpus: &[usize]) -> Result<(), Failure> {
    let (present, online) = (cpu_list("present", sysfs), cpu_list("online", sysfs));
    // The request first, whatever the host makes of the other CPUs.
    if let Some(present) = present
        && let Some(cpu) = cpus.iter().find(|cpu| lacks(&present, **cpu))
    {
        let text = format!("{option} names host CPU {cpu}, and this host has CPUs {present}");
        return Err(Failure::request(text));
    }
    for &cpu in cpus {
        if let Some(online) = online.as_ref().filter(|online| lacks(online, cpu)) {
            return Err(Failure::host(format!(
                "{option} names host CPU {cpu}, which is offline (online: {online}); write 1 to \
                 {}/cpu{cpu}/online, or name others",
                sysfs.display()
            )));
        }
        if let Err(error) = try_cpu(cpu_number(cpu)) {
            return Err(Failure::host(format!(
                "{option} names host CPU {cpu}, which this process may not use ({error}); its \
                 cpuset leaves it out: name others, or start it in another cgroup"
            )));
        }
    }
    Ok(())
}

/// Where /sys does not tell, the attempt has to do.
fn cpu_list(name: &str, sysfs: &Path) -> Option<CpuSet> {
    fs::read_to_string(sysfs.join(name)).ok()?.parse::<CpuSet>().ok()
}

fn cpu_number(cpu: usize) -> Option<u32> {
    u32::try_from(cpu).ok().filter(|cpu| *cpu < MAX_CPUS)
}

fn lacks(set: &CpuSet, cpu: usize) -> bool {
    cpu_number(cpu).is_none_or(|cpu| !set.contains(cpu))
}

/// In a thread of its own, whose affinity ends with it.
fn try_cpu(cpu: Option<u32>) -> io::Result<()> {
    let cpu = cpu.ok_or(io::ErrorKind::InvalidInput)?;
    let thread = thread::Builder::new()
        .spawn(move || affinity::confine_this_thread(&CpuSet::from_iter([cpu])))?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the attempt panicked")))
}

/// All CPUs of the last core that this process may use: the farthest from core 0, which serves
/// most interrupts. Where there are cores of several kinds, the last of the fastest. Empty where
/// none of the cores may be used as a whole.
pub fn last_core() -> Vec<usize> {
    Host::this().last_core()
}

/// What a reader must know of a load on these CPUs of this host.
pub fn note_on_kinds(cpus: &[usize]) -> Option<String> {
    Kinds::read(Path::new(SYSFS)).note("the load is", cpus)
}

/// CPUs of a host as far as a placement goes by them.
struct Host {
    cores: Vec<Vec<usize>>,
    /// CPUs that this process may use.
    allowed: Vec<usize>,
    kinds: Kinds,
}

impl Host {
    fn this() -> Self {
        let sys = Path::new(SYSFS);
        Self {
            cores: cores(&sys.join(CPUS)),
            allowed: sched::affinity().unwrap_or_default(),
            kinds: Kinds::read(sys),
        }
    }

    fn allowed(&self) -> Vec<u32> {
        self.allowed.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect()
    }

    fn is_usable(&self, core: &[usize]) -> bool {
        core.iter().all(|cpu| self.allowed.contains(cpu))
    }

    fn rank(&self, core: &[usize]) -> usize {
        core.first().map_or(0, |cpu| self.kinds.rank(*cpu))
    }

    fn last_core(&self) -> Vec<usize> {
        let usable = self.cores.iter().rev().filter(|core| self.is_usable(core));
        // Of equally fast ones the first that comes, from the end.
        usable.min_by_key(|core| self.rank(core)).cloned().unwrap_or_default()
    }

    /// Whole cores beside core 0; or why that cannot be.
    fn by_cores(&self, topology: Topology) -> Result<Placement, String> {
        let (needed, threads) = (topology.cores() as usize, topology.threads_per_core as usize);
        let mut usable: Vec<_> = self
            .cores
            .iter()
            .skip(1)
            .filter(|core| core.len() >= threads && self.is_usable(core))
            .collect();
        if usable.len() < needed {
            return Err(format!(
                "vCPUs are not pinned: {needed} cores of {threads} threads beside core 0 are \
                 needed, this process may use {}",
                usable.len()
            ));
        }
        // The fastest kind that has enough; else of all, the fastest first.
        let ranks = usable.iter().map(|core| self.rank(core));
        if let Some(rank) = ranks
            .filter(|rank| {
                usable.iter().filter(move |core| self.rank(core) == *rank).count() >= needed
            })
            .min()
        {
            usable.retain(|core| self.rank(core) == rank);
        }
        usable.sort_by_key(|core| self.rank(core));
        let pins = usable.iter().take(needed).flat_map(|core| &core[..threads]).copied().collect();
        Ok(self.noted(Placement { pins, notes: Vec::new() }))
    }

    /// No pins.
    fn unpinned(&self, sets: &[CpuSet]) -> Placement {
        let mut notes = Vec::new();
        if sets.len() > 1 {
            let sets: Vec<_> = sets.iter().map(CpuSet::to_string).collect();
            notes.push(format!(
                "vCPUs are not pinned, and the scheduler does not balance load between CPUs {}: \
                 they stay where they begin, and may all share one",
                sets.join(" and ")
            ));
        }
        notes.extend(self.kinds.note("vCPUs are not pinned, and move", &self.allowed));
        Placement { pins: Vec::new(), notes }
    }

    /// The CPUs of this process by turns.
    fn dealt(&self, topology: Topology, sets: &[CpuSet]) -> Placement {
        let allowed = self.allowed();
        let mut turns = Turns::new(sets);
        let mut taken = BTreeMap::<u32, usize>::new();
        let pins = (0..topology.cpus).filter_map(|_| {
            let set: Vec<_> = turns.deal(&allowed).iter().collect();
            let turn = taken.entry(*set.first()?).or_default();
            *turn += 1;
            Some(set[(*turn - 1) % set.len()] as usize)
        });
        let placement = Placement { pins: pins.collect(), notes: vec![placement::note(sets)] };
        self.noted(placement)
    }

    /// With what is to be known of the CPUs that the vCPUs are on.
    fn noted(&self, mut placement: Placement) -> Placement {
        placement.notes.extend(self.kinds.note("vCPUs are", &placement.pins));
        placement
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_kinds::tests::HYBRID;
    use crate::status::ExitStatus;
    use crate::testing::tree;

    const SMT: Topology = Topology { cpus: 4, threads_per_core: 2 };

    fn host(cores: &[&[usize]], allowed: impl IntoIterator<Item = usize>) -> Host {
        Host {
            cores: cores.iter().map(|core| core.to_vec()).collect(),
            allowed: allowed.into_iter().collect(),
            kinds: Kinds::default(),
        }
    }

    /// With two performance cores of two threads, four efficiency cores of one.
    fn hybrid() -> Host {
        let cores: [&[usize]; 6] = [&[0, 1], &[2, 3], &[4], &[5], &[6], &[7]];
        Host { kinds: Kinds::read(tree(&HYBRID).path()), ..host(&cores, 0..8) }
    }

    #[test]
    fn both_threads_of_the_second_and_third_core_are_taken() {
        let host = host(&[&[0, 16], &[1, 17], &[2, 18], &[3, 19]], 0..32);
        let placement = host.by_cores(SMT).expect("room");
        assert_eq!(placement, Placement { pins: vec![1, 17, 2, 18], notes: vec![] });
    }

    #[test]
    fn cores_outside_the_cpuset_are_not_taken() {
        let host = host(&[&[0, 1], &[2, 3], &[4, 5], &[6, 7]], [0, 1, 2, 4, 5, 6, 7]);
        assert_eq!(host.by_cores(SMT).expect("room").pins, [4, 5, 6, 7]);
    }

    #[test]
    fn without_room_or_smt_the_run_goes_on_unpinned_and_says_why() {
        for cores in [&[&[0][..], &[1], &[2], &[3]][..], &[&[0, 1], &[2, 3]]] {
            let why = host(cores, 0..4).by_cores(SMT).expect_err("no room");
            assert!(why.contains("2 cores of 2 threads"), "{why}");
        }
    }

    #[test]
    fn the_last_core_is_taken_whole_or_not_at_all() {
        let cores: [&[usize]; 2] = [&[0, 2], &[1, 3]];
        assert_eq!(host(&cores, 0..4).last_core(), [1, 3]);
        assert_eq!(host(&cores, 0..3).last_core(), [0, 2]);
        assert!(host(&cores, 0..2).last_core().is_empty());
    }

    #[test]
    fn of_cores_of_several_kinds_the_fast_ones_are_taken() {
        let host = hybrid();
        assert_eq!(host.last_core(), [2, 3], "and not the last efficiency core");
        let two = Topology { cpus: 2, threads_per_core: 2 };
        let placement = host.by_cores(two).expect("room");
        assert_eq!(placement, Placement { pins: vec![2, 3], notes: vec![] });
        // More than there are: all of the other kind rather than a mix, and told.
        let four = Topology { cpus: 4, threads_per_core: 1 };
        let placement = host.by_cores(four).expect("room");
        assert_eq!(placement.pins, [4, 5, 6, 7]);
        assert!(placement.notes[0].contains("not the fastest"), "{:?}", placement.notes);
        let five = Topology { cpus: 5, threads_per_core: 1 };
        let placement = host.by_cores(five).expect("room");
        assert_eq!(placement.pins, [2, 4, 5, 6, 7]);
        assert!(placement.notes[0].contains("different kinds"), "{:?}", placement.notes);
        // Who is not pinned moves between them.
        let unpinned = host.unpinned(&["0-7".parse().expect("a list")]);
        assert!(unpinned.pins.is_empty() && unpinned.notes[0].contains("not pinned, and move"));
    }

    #[test]
    fn vcpus_on_isolated_cpus_are_dealt_out() {
        let sets = |lists: &[&str]| -> Vec<CpuSet> {
            lists.iter().map(|list| list.parse().expect("a list")).collect()
        };
        let host = host(&[&[0, 1], &[2, 3]], 2..4);
        assert_eq!(host.unpinned(&sets(&["2-3"])), Placement::default());
        let notes = host.unpinned(&sets(&["2", "3"])).notes;
        assert!(notes[0].contains("may all share one"), "{notes:?}");
        let placement = host.dealt(SMT, &sets(&["2", "3"]));
        assert_eq!(placement.pins, [2, 3, 2, 3]);
        assert!(placement.notes[0].contains("does not balance load between CPUs 2 and 3"));
        let parts = Host { allowed: (0..4).collect(), ..host };
        assert_eq!(parts.dealt(SMT, &sets(&["0-1", "2-3"])).pins, [0, 1, 2, 3]);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_the_requests_fault_and_one_that_is_offline_the_hosts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let here = affinity::of_this_thread().expect("affinity").iter().next().expect("a CPU");
        fs::write(dir.path().join("present"), "0-1022\n").expect("write");
        fs::write(dir.path().join("online"), format!("{here}\n")).expect("write");
        let check = |cpu: usize| check_in(dir.path(), "--load-cpus", &[cpu]);
        let status = |cpu| check(cpu).expect_err("refused").status();
        let here = here as usize;
        assert!(check(here).is_ok());
        assert_eq!(status(1023), ExitStatus::Usage);
        assert_eq!(status(usize::MAX), ExitStatus::Usage);
        assert_eq!(status(here ^ 1), ExitStatus::Host);
        let both = check_in(dir.path(), "--pin", &[here ^ 1, 1023]).expect_err("refused");
        assert_eq!(both.status(), ExitStatus::Usage, "no host could meet it");
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
