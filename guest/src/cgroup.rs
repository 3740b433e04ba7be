// SPDX-License-Identifier: Apache-2.0
//! One cgroup for each group of the load, named vm1, vm2, …: a machine's worth of threads
//! with its own share of the CPU, as a virtual machine has it.

use std::{
    ffi::CString,
    fmt, fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    cpus::CpuSet,
    shape::{GroupSpec, Quota},
    system,
};

/// Which hierarchy the cgroups are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The unified hierarchy.
    V2,
    /// Separate hierarchies for cpu and cpuset.
    V1,
    /// The kernel has no cgroups that serve us.
    None,
}

impl Version {
    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V1 => "v1",
            Self::None => "none",
        }
    }
}

/// The load's cgroups. They stay until they are [removed](Cgroups::remove).
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    /// Directories of the cpu controller, one a group.
    cpu: Vec<PathBuf>,
    /// Whether each group is to have a cookie.
    tagged: Vec<bool>,
    /// Directories of cpuset, where that is a hierarchy of its own.
    cpuset: Vec<PathBuf>,
    /// What could not be had.
    notes: Vec<String>,
    /// Mounted for these cgroups.
    mounts: Vec<PathBuf>,
}

impl Cgroups {
    /// No cgroups.
    pub fn none() -> Self {
        Self {
            version: Version::None,
            cpu: Vec::new(),
            tagged: Vec::new(),
            cpuset: Vec::new(),
            notes: Vec::new(),
            mounts: Vec::new(),
        }
    }

    fn of(version: Version, groups: &[GroupSpec]) -> Self {
        Self { version, tagged: groups.iter().map(|group| group.cookie).collect(), ..Self::none() }
    }

    /// No cgroups, and why.
    pub fn none_because(note: String) -> Self {
        Self { notes: vec![note], ..Self::none() }
    }

    /// Mounts a hierarchy of this version where the agent keeps it, and makes the cgroups.
    pub fn mount(version: Version, groups: &[GroupSpec], cpus: &CpuSet) -> io::Result<Self> {
        let mount = |kind, path: &str, options| {
            let path = PathBuf::from(path);
            // It may be there; if it cannot be made, the mount says so.
            let _ = fs::create_dir_all(&path);
            system::mount(kind, &path, options).map(|()| path)
        };
        match version {
            Version::None => Ok(Self::none()),
            Version::V2 => {
                let root = mount("cgroup2", "/sys/fs/cgroup", "")?;
                let mut cgroups = Self::create_v2(&root, groups, cpus)?;
                cgroups.mounts.push(root);
                Ok(cgroups)
            }
            Version::V1 => {
                let cpu = mount("cgroup", "/run/cgroup/cpu", "cpu")?;
                let cpuset = mount("cgroup", "/run/cgroup/cpuset", "cpuset").ok();
                let mut cgroups = Self::create_v1(&cpu, cpuset.as_deref(), groups, cpus)?;
                cgroups.mounts.push(cpu);
                cgroups.mounts.extend(cpuset);
                Ok(cgroups)
            }
        }
    }

    /// Makes the cgroups below a directory of the unified hierarchy.
    pub fn create_v2(root: &Path, groups: &[GroupSpec], cpus: &CpuSet) -> io::Result<Self> {
        let mut this = Self::of(Version::V2, groups);
        let there = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        for controller in ["cpu", "cpuset"] {
            if !there.split_ascii_whitespace().any(|name| name == controller) {
                this.notes.push(format!("cgroup v2 has no controller {controller}"));
                continue;
            }
            let enable = format!("+{controller}");
            if let Err(error) = system::write_file(&root.join("cgroup.subtree_control"), &enable) {
                this.notes.push(format!("cgroup v2 controller {controller}: {error}"));
            }
        }
        for directory in make_all(root, groups.len())? {
            let cpuset = directory.join("cpuset.cpus");
            if cpuset.exists() {
                system::write_file(&cpuset, &cpus.to_string())?;
            }
            this.cpu.push(directory);
        }
        Ok(this)
    }

    /// Makes the cgroups below directories of the separate hierarchies.
    pub fn create_v1(
        cpu: &Path,
        cpuset: Option<&Path>,
        groups: &[GroupSpec],
        cpus: &CpuSet,
    ) -> io::Result<Self> {
        let mut this = Self::of(Version::V1, groups);
        this.cpu = make_all(cpu, groups.len())?;
        let Some(cpuset) = cpuset else {
            this.notes.push("cgroup v1 has no controller cpuset".into());
            return Ok(this);
        };
        let memory = fs::read_to_string(cpuset.join("cpuset.mems"))?;
        this.cpuset = make_all(cpuset, groups.len())?;
        for directory in &this.cpuset {
            system::write_file(&directory.join("cpuset.cpus"), &cpus.to_string())?;
            // Both must be set before anybody may enter.
            system::write_file(&directory.join("cpuset.mems"), memory.trim())?;
        }
        Ok(this)
    }

    /// Which hierarchy they are in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What could not be had.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Directory of the cpu controller of each group; empty without cgroups.
    pub fn cpu_directories(&self) -> &[PathBuf] {
        &self.cpu
    }

    /// Those of groups that are to have a cookie.
    pub fn tagged_directories(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.cpu.iter().zip(&self.tagged);
        pairs.filter(|(_, tagged)| **tagged).map(|(directory, _)| directory.as_path())
    }

    /// Gives each group the weight of its nice value, and its quota.
    ///
    /// # Errors
    /// A quota that cannot be had: without it the load is another one.
    pub fn limit(&mut self, groups: &[GroupSpec]) -> Result<(), String> {
        for (number, group) in groups.iter().enumerate() {
            let directory = self.cpu.get(number);
            if let Some(quota) = group.quota {
                let directory = directory.ok_or_else(|| no_quota("there are no cgroups"))?;
                set_quota(self.version, directory, quota)?;
            }
            let Some((nice, directory)) = group.policy.nice.zip(directory) else { continue };
            if let Err(error) = set_weight(self.version, directory, nice) {
                let path = directory.display();
                self.notes.push(format!("{path} has no weight for nice {nice}: {error}"));
            }
        }
        Ok(())
    }

    /// For each group, the files that its process enters its cgroups by.
    pub fn procs(&self) -> Vec<Vec<PathBuf>> {
        let entry = |number: usize| {
            let directories = self.cpu.get(number).into_iter().chain(self.cpuset.get(number));
            directories.map(|directory| directory.join("cgroup.procs")).collect()
        };
        (0..self.cpu.len()).map(entry).collect()
    }

    /// Removes the cgroups, and unmounts what was mounted for them, so that another version
    /// can have the controllers. Best effort: what is left over shows when it is needed.
    pub fn remove(self) {
        for directory in self.cpu.iter().chain(&self.cpuset) {
            let _ = fs::remove_dir(directory);
        }
        for mount in &self.mounts {
            if let Ok(path) = CString::new(mount.as_os_str().as_bytes()) {
                // SAFETY: the path is a NUL-terminated string that lives until the call returns.
                unsafe { libc::umount(path.as_ptr()) };
            }
        }
    }
}

fn no_quota(why: impl fmt::Display) -> String {
    format!("no quota can be set: {why}; it needs CONFIG_CFS_BANDWIDTH and CONFIG_CGROUPS")
}

fn set_quota(version: Version, directory: &Path, quota: Quota) -> Result<(), String> {
    let Quota { time, period } = quota;
    let (time_us, period_us) = (time.as_micros(), period.as_micros());
    let files = match version {
        Version::V1 => vec![
            ("cpu.cfs_period_us", period_us.to_string()),
            ("cpu.cfs_quota_us", time_us.to_string()),
        ],
        _ => vec![("cpu.max", format!("{time_us} {period_us}"))],
    };
    for (file, text) in files {
        let path = directory.join(file);
        let refused = |error| no_quota(format_args!("{} takes no {text}: {error}", path.display()));
        system::write_file(&path, &text).map_err(refused)?;
    }
    Ok(())
}

/// A group's weight against other groups, as a thread's nice value is one against threads.
fn set_weight(version: Version, directory: &Path, nice: i32) -> io::Result<()> {
    if version != Version::V1 {
        return system::write_file(&directory.join("cpu.weight.nice"), &nice.to_string());
    }
    /// What a group has without a word of ours.
    const SHARES: f64 = 1024.0;
    /// From one nice value to the next (kernel/sched/core.c, `sched_prio_to_weight`).
    const STEP: f64 = 1.25;
    let shares = (SHARES * STEP.powi(-nice)).round();
    system::write_file(&directory.join("cpu.shares"), &format!("{shares:.0}"))
}

/// Makes vm1, vm2, … in a directory.
fn make_all(root: &Path, groups: usize) -> io::Result<Vec<PathBuf>> {
    (1..=groups)
        .map(|number| {
            let directory = root.join(format!("vm{number}"));
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(directory),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        shape::Policy,
        testing::{groups, tree},
    };
    use std::time::Duration;

    #[test]
    fn v2_enables_what_is_there_and_notes_what_is_not() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpu io memory\n").unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        let cgroups = Cgroups::create_v2(root.path(), &groups(2), &"2-3".parse().unwrap()).unwrap();
        assert_eq!(cgroups.version().name(), "v2");
        assert_eq!(cgroups.notes(), ["cgroup v2 has no controller cpuset"]);
        assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+cpu");
        assert_eq!(
            cgroups.procs(),
            [
                vec![root.path().join("vm1/cgroup.procs")],
                vec![root.path().join("vm2/cgroup.procs")]
            ]
        );
        cgroups.remove();
        assert!(!root.path().join("vm1").exists());
    }

    #[test]
    fn v2_sets_the_cpus_where_there_is_a_cpuset() {
        let root = tempfile::tempdir().unwrap();
        let vm1 = root.path().join("vm1");
        fs::create_dir(&vm1).unwrap();
        fs::write(vm1.join("cpuset.cpus"), "").unwrap();
        Cgroups::create_v2(root.path(), &groups(1), &"2-3".parse().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(vm1.join("cpuset.cpus")).unwrap(), "2-3");
    }

    #[test]
    fn v1_enters_both_hierarchies() {
        let root = tempfile::tempdir().unwrap();
        let (cpu, cpuset) = (root.path().join("cpu"), root.path().join("cpuset"));
        for directory in [&cpu, &cpuset, &cpuset.join("vm1")] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(cpuset.join("cpuset.mems"), "0\n").unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(cpuset.join("vm1").join(file), "").unwrap();
        }
        let cpus = "1".parse().unwrap();
        let cgroups = Cgroups::create_v1(&cpu, Some(&cpuset), &groups(1), &cpus).unwrap();
        assert_eq!(cgroups.version().name(), "v1");
        assert_eq!(cgroups.procs()[0].len(), 2);
        assert_eq!(fs::read_to_string(cpuset.join("vm1/cpuset.mems")).unwrap(), "0");
        let alone = Cgroups::create_v1(&cpu, None, &groups(1), &cpus).unwrap();
        assert_eq!((alone.procs()[0].len(), alone.notes().len()), (1, 1));
    }

    #[test]
    fn no_cgroups_are_no_trouble() {
        let none = Cgroups::none();
        assert_eq!(none.version().name(), "none");
        assert!(none.procs().is_empty() && none.cpu_directories().is_empty());
        Cgroups::create_v2(Path::new("/nonexistent"), &groups(1), &CpuSet::default()).unwrap_err();
    }

    fn limited(
        files: &[&str],
        version: Version,
        group: GroupSpec,
    ) -> (tempfile::TempDir, Result<Vec<String>, String>) {
        let files: Vec<_> = files.iter().map(|file| (*file, "")).collect();
        let root = tree(&files);
        let groups = [group];
        let cgroups = match version {
            Version::V1 => Cgroups::create_v1(root.path(), None, &groups, &CpuSet::default()),
            _ => Cgroups::create_v2(root.path(), &groups, &CpuSet::default()),
        };
        let mut cgroups = cgroups.unwrap();
        let before = cgroups.notes().len();
        let limited = cgroups.limit(&groups).map(|()| cgroups.notes()[before..].to_vec());
        (root, limited)
    }

    #[test]
    fn a_quota_is_set_or_is_an_error() {
        let ms = Duration::from_millis;
        let quota = Some(Quota { time: ms(50), period: ms(100) });
        let group = GroupSpec { quota, ..groups(1).remove(0) };
        let read = |root: &tempfile::TempDir, file| fs::read_to_string(root.path().join(file));
        let (root, found) = limited(&["vm1/cpu.max"], Version::V2, group.clone());
        assert_eq!(found, Ok(vec![]));
        assert_eq!(read(&root, "vm1/cpu.max").unwrap(), "50000 100000");
        let files = ["vm1/cpu.cfs_period_us", "vm1/cpu.cfs_quota_us"];
        let (root, found) = limited(&files, Version::V1, group.clone());
        assert_eq!(found, Ok(vec![]));
        assert_eq!(read(&root, files[0]).unwrap(), "100000");
        assert_eq!(read(&root, files[1]).unwrap(), "50000");
        let (_, found) = limited(&["vm1/cpu.max/x"], Version::V2, group.clone());
        assert!(found.unwrap_err().contains("CONFIG_CFS_BANDWIDTH"));
        let error = Cgroups::none().limit(&[group]).unwrap_err();
        assert!(error.contains("no cgroups"), "{error}");
    }

    #[test]
    fn a_nice_value_is_a_weight_of_the_group() {
        let nice = |nice| GroupSpec {
            policy: Policy { nice: Some(nice), ..Policy::default() },
            ..groups(1).remove(0)
        };
        let (root, found) = limited(&["vm1/cpu.weight.nice"], Version::V2, nice(-5));
        assert_eq!(found, Ok(vec![]));
        assert_eq!(fs::read_to_string(root.path().join("vm1/cpu.weight.nice")).unwrap(), "-5");
        for (value, shares) in [(0, "1024"), (5, "336"), (-20, "88818")] {
            let (root, _) = limited(&["vm1/cpu.shares"], Version::V1, nice(value));
            assert_eq!(fs::read_to_string(root.path().join("vm1/cpu.shares")).unwrap(), shares);
        }
        let (_, found) = limited(&["vm1/cpu.weight.nice/x"], Version::V2, nice(1));
        assert_eq!(found.unwrap().len(), 1);
        Cgroups::none().limit(&[nice(1)]).expect("threads have it without cgroups, too");
    }

    #[test]
    fn only_groups_with_a_cookie_are_tagged() {
        let root = tempfile::tempdir().unwrap();
        let mut all = groups(3);
        all[1].cookie = false;
        let cgroups = Cgroups::create_v1(root.path(), None, &all, &CpuSet::default()).unwrap();
        let tagged: Vec<_> = cgroups.tagged_directories().map(Path::to_owned).collect();
        assert_eq!(tagged, [root.path().join("vm1"), root.path().join("vm3")]);
    }
}
