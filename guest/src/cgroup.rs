// SPDX-License-Identifier: Apache-2.0
//! One cgroup for each group of the load, named vm1, vm2, …: a machine's worth of threads
//! with its own share of the CPU, as a virtual machine has it.

mod hierarchy;

use std::{
    fs, io,
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
    /// Why the groups' directories have no files of the cpu controller, if so.
    no_cpu: Option<String>,
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
            no_cpu: None,
            mounts: Vec::new(),
        }
    }

    fn of(version: Version, groups: &[GroupSpec]) -> Self {
        Self { version, tagged: groups.iter().map(|group| group.cookie).collect(), ..Self::none() }
    }

    /// No cgroups, and why.
    pub fn none_because(note: String) -> Self {
        Self { no_cpu: Some(note.clone()), notes: vec![note], ..Self::none() }
    }

    /// Mounts a hierarchy of this version where the agent keeps it, and makes the cgroups.
    ///
    /// # Errors
    /// What failed first: a mount, or a file, with its path.
    pub fn mount(version: Version, groups: &[GroupSpec], cpus: &CpuSet) -> io::Result<Self> {
        match version {
            Version::None => Ok(Self::none()),
            Version::V2 => {
                let root = hierarchy::mount("cgroup2", "/sys/fs/cgroup", "")?;
                let mut cgroups = Self::create_v2(&root, groups, cpus)?;
                cgroups.mounts.push(root);
                Ok(cgroups)
            }
            Version::V1 => {
                let cpu = hierarchy::mount("cgroup", "/run/cgroup/cpu", "cpu")?;
                let cpuset = hierarchy::mount("cgroup", "/run/cgroup/cpuset", "cpuset");
                let made = Self::create_v1(&cpu, cpuset.as_deref().ok(), groups, cpus);
                let (why, cpuset) = (cpuset.as_ref().err().map(ToString::to_string), cpuset.ok());
                let mounts: Vec<_> = [cpu].into_iter().chain(cpuset).collect();
                match made {
                    Ok(mut cgroups) => {
                        cgroups.notes.extend(why);
                        Ok(Self { mounts, ..cgroups })
                    }
                    Err(error) => {
                        hierarchy::unmount(&mounts, version);
                        Err(error)
                    }
                }
            }
        }
    }

    /// Makes the cgroups below a directory of the unified hierarchy.
    ///
    /// # Errors
    /// What failed first, with its path.
    pub fn create_v2(root: &Path, groups: &[GroupSpec], cpus: &CpuSet) -> io::Result<Self> {
        let mut this = Self::of(Version::V2, groups);
        let controllers = root.join("cgroup.controllers");
        let there = at(&controllers, fs::read_to_string(&controllers))?;
        for controller in ["cpu", "cpuset"] {
            let has = there.split_ascii_whitespace().any(|name| name == controller);
            let why = if has {
                let file = root.join("cgroup.subtree_control");
                let enabled = system::write_file(&file, &format!("+{controller}"));
                at(&file, enabled).err().map(|error| error.to_string())
            } else {
                Some(hierarchy::fate(controller))
            };
            let Some(why) = why else { continue };
            let note = format!("cgroup v2 has no controller {controller}: {why}");
            if controller == "cpu" {
                this.no_cpu = Some(note.clone());
            }
            this.notes.push(note);
        }
        for directory in make_all(root, groups.len())? {
            let cpuset = directory.join("cpuset.cpus");
            if cpuset.exists() {
                at(&cpuset, system::write_file(&cpuset, &cpus.to_string()))?;
            }
            this.cpu.push(directory);
        }
        Ok(this)
    }

    /// Makes the cgroups below directories of the separate hierarchies.
    ///
    /// # Errors
    /// What failed first, with its path.
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
        let memory = cpuset.join("cpuset.mems");
        let memory = at(&memory, fs::read_to_string(&memory))?;
        this.cpuset = make_all(cpuset, groups.len())?;
        for directory in &this.cpuset {
            // Both must be set before anybody may enter.
            for (file, text) in [("cpuset.cpus", &cpus.to_string()), ("cpuset.mems", &memory)] {
                let path = directory.join(file);
                at(&path, system::write_file(&path, text.trim()))?;
            }
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

    /// Gives each group the weight of its nice value, and its quota, and reads them back.
    ///
    /// # Errors
    /// One that cannot be had: without it the load is another one.
    pub fn limit(&mut self, groups: &[GroupSpec]) -> Result<(), String> {
        for (number, group) in groups.iter().enumerate() {
            let directory = self.cpu.get(number);
            if let Some(quota) = group.quota {
                self.set_quota(directory, quota)
                    .map_err(|why| format!("no quota can be set: {why}"))?;
            }
            let Some((nice, directory)) = group.policy.nice.zip(directory) else { continue };
            let path = directory.display();
            if let Some(why) = &self.no_cpu {
                // All groups' threads compete with each other, then, by their own nice values.
                self.notes.push(format!("{path} has no weight for nice {nice}: {why}"));
                continue;
            }
            let (file, text) = weight(self.version, nice);
            set(&directory.join(file), &text)
                .map_err(|why| format!("no group can have the weight of nice {nice}: {why}"))?;
        }
        Ok(())
    }

    fn set_quota(&self, directory: Option<&PathBuf>, quota: Quota) -> Result<(), String> {
        let no_cgroups = || self.no_cpu.clone().unwrap_or_else(|| "there are no cgroups".into());
        let directory = directory.ok_or_else(no_cgroups)?;
        let Quota { time, period } = quota;
        let (time_us, period_us) = (time.as_micros(), period.as_micros());
        let files = match self.version {
            Version::V1 => vec![
                ("cpu.cfs_period_us", period_us.to_string()),
                ("cpu.cfs_quota_us", time_us.to_string()),
            ],
            _ => vec![("cpu.max", format!("{time_us} {period_us}"))],
        };
        for (file, text) in files {
            let path = directory.join(file);
            if !path.exists() {
                return Err(self.no_file_for_quotas(directory, file));
            }
            set(&path, &text)?;
        }
        Ok(())
    }

    /// Why there is no such file: whatever failed first.
    fn no_file_for_quotas(&self, directory: &Path, file: &str) -> String {
        if let Some(why) = &self.no_cpu {
            return why.clone();
        }
        let at = directory.display();
        if ["cpu.weight", "cpu.shares"].iter().any(|file| directory.join(file).exists()) {
            return format!(
                "{at} has the cpu controller's other files and no {file}: the kernel needs \
                 CONFIG_CFS_BANDWIDTH=y"
            );
        }
        format!("{at} has no files of the cpu controller: the kernel needs CONFIG_CGROUP_SCHED=y")
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
        hierarchy::unmount(&self.mounts, self.version);
    }
}

/// An error with the path that it is about.
fn at<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Writes a file of a cgroup, and reads it back.
fn set(path: &Path, text: &str) -> Result<(), String> {
    let name = path.display();
    system::write_file(path, text).map_err(|error| format!("{name} takes no {text}: {error}"))?;
    let read = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    if read.trim() == text {
        return Ok(());
    }
    Err(format!("{name} holds `{}` after `{text}` was written to it", read.trim()))
}

/// The file of a group's weight against other groups, and what is written to it for a nice value,
/// which is one against threads.
fn weight(version: Version, nice: i32) -> (&'static str, String) {
    if version != Version::V1 {
        return ("cpu.weight.nice", nice.to_string());
    }
    /// What a group has without a word of ours.
    const SHARES: f64 = 1024.0;
    /// From one nice value to the next (kernel/sched/core.c, `sched_prio_to_weight`).
    const STEP: f64 = 1.25;
    ("cpu.shares", format!("{:.0}", (SHARES * STEP.powi(-nice)).round()))
}

/// Makes vm1, vm2, … in a directory.
fn make_all(root: &Path, groups: usize) -> io::Result<Vec<PathBuf>> {
    (1..=groups)
        .map(|number| {
            let directory = root.join(format!("vm{number}"));
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    at(&directory, Err(error))
                }
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
        assert_eq!(cgroups.notes().len(), 1);
        let note = &cgroups.notes()[0];
        assert!(note.starts_with("cgroup v2 has no controller cpuset: "), "{note}");
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
        fs::write(root.path().join("cgroup.controllers"), "cpuset\n").unwrap();
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
        let mut files: Vec<_> = files.iter().map(|file| (*file, "")).collect();
        files.push(("cgroup.controllers", "cpu cpuset"));
        files.push(("cgroup.subtree_control", ""));
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

    fn with_quota() -> GroupSpec {
        let ms = Duration::from_millis;
        GroupSpec { quota: Some(Quota { time: ms(50), period: ms(100) }), ..groups(1).remove(0) }
    }

    #[test]
    fn a_quota_is_set_or_is_an_error() {
        let group = with_quota();
        let read = |root: &tempfile::TempDir, file| fs::read_to_string(root.path().join(file));
        let (root, found) = limited(&["vm1/cpu.max"], Version::V2, group.clone());
        assert_eq!(found, Ok(vec![]));
        assert_eq!(read(&root, "vm1/cpu.max").unwrap(), "50000 100000");
        let files = ["vm1/cpu.cfs_period_us", "vm1/cpu.cfs_quota_us"];
        let (root, found) = limited(&files, Version::V1, group.clone());
        assert_eq!(found, Ok(vec![]));
        assert_eq!(read(&root, files[0]).unwrap(), "100000");
        assert_eq!(read(&root, files[1]).unwrap(), "50000");
        // A kernel that refuses the value needs no other configuration.
        let (_, found) = limited(&["vm1/cpu.max/x"], Version::V2, group);
        let why = found.unwrap_err();
        assert!(why.contains("vm1/cpu.max takes no 50000 100000: "), "{why}");
        assert!(!why.contains("CONFIG_"), "{why}");
        let why = set(&PathBuf::from("/proc/self/comm"), "a name that is too long").unwrap_err();
        assert!(why.contains("holds `a name that is` after `a name that is too long`"), "{why}");
    }

    /// The option that a kernel lacks is named only where nothing else can be why.
    #[test]
    fn a_quota_fails_for_what_failed_first() {
        let why = |files: &[&str], version| limited(files, version, with_quota()).1.unwrap_err();
        for (files, version) in
            [(&["vm1/cpu.weight"], Version::V2), (&["vm1/cpu.shares"], Version::V1)]
        {
            let why = why(files, version);
            assert!(why.contains("CONFIG_CFS_BANDWIDTH=y"), "{why}");
        }
        let text = why(&[], Version::V2);
        assert!(text.contains("vm1 has no files of the cpu controller"), "{text}");
        assert!(!text.contains("CFS_BANDWIDTH"), "{text}");
        // The controller is somebody else's, or cannot be switched on.
        for controllers in ["memory", "cpu"] {
            let root = tree(&[("cgroup.controllers", controllers)]);
            let mut cgroups =
                Cgroups::create_v2(root.path(), &[with_quota()], &CpuSet::default()).unwrap();
            let why = cgroups.limit(&[with_quota()]).unwrap_err();
            assert!(why.contains("cgroup v2 has no controller cpu: "), "{why}");
            assert_eq!(controllers == "cpu", why.contains("cgroup.subtree_control"), "{why}");
            assert!(!why.contains("CFS_BANDWIDTH"), "{why}");
        }
        let mut none = Cgroups::none_because("no cgroups: cgroup2 cannot be mounted".into());
        let why = none.limit(&[with_quota()]).unwrap_err();
        assert_eq!(why, "no quota can be set: no cgroups: cgroup2 cannot be mounted");
        let why = Cgroups::none().limit(&[with_quota()]).unwrap_err();
        assert!(why.contains("there are no cgroups"), "{why}");
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
        let why = found.unwrap_err();
        assert!(why.contains("vm1/cpu.weight.nice takes no 1: "), "{why}");
        let mut alone =
            Cgroups { no_cpu: Some("x".into()), cpu: vec!["vm1".into()], ..Cgroups::none() };
        alone.limit(&[nice(1)]).expect("its threads' own nice values are against all others'");
        assert!(alone.notes()[0].contains("vm1 has no weight for nice 1: x"), "{alone:?}");
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
