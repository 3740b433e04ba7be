// SPDX-License-Identifier: Apache-2.0
//! One cgroup for each group of the load, named vm1, vm2, …: a machine's worth of threads
//! with its own share of the CPU, as a virtual machine has it.

mod hierarchy;
mod quota;

use std::path::{Path, PathBuf};
use std::{fs, io};

use protocol::cpu_list::CpuSet;
use protocol::group::{GroupSpec, Quota};

use crate::kernel::files;

pub use protocol::message::CgroupVersion as Version;
pub use quota::PassingQuota;

/// The load's cgroups. They stay until they are [removed](Cgroups::remove).
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    /// Directories of the cpu controller, one a group.
    cpu: Vec<PathBuf>,
    /// Whether each group is to have a cookie.
    tagged: Vec<bool>,
    /// Groups whose threads stay outside of theirs.
    outside: Vec<bool>,
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
            outside: Vec::new(),
            cpuset: Vec::new(),
            notes: Vec::new(),
            no_cpu: None,
            mounts: Vec::new(),
        }
    }

    fn of(version: Version, groups: &[GroupSpec]) -> Self {
        let tagged = groups.iter().map(|group| group.cookie).collect();
        let outside = groups.iter().map(|group| !group.own_cgroup).collect();
        Self { version, tagged, outside, ..Self::none() }
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
                let enabled = files::write_file(&file, &format!("+{controller}"));
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
                at(&cpuset, files::write_file(&cpuset, &cpus.to_string()))?;
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
                at(&path, files::write_file(&path, text.trim()))?;
            }
        }
        Ok(this)
    }

    /// Whether the CPUs are divided among them first.
    pub fn have_weights(&self) -> bool {
        self.version() != Version::None && self.no_cpu.is_none()
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

    /// The number of a group, from 0, that is to have a cookie and stays outside of its cgroup.
    pub fn tagged_outside(&self) -> Option<usize> {
        (0..self.tagged.len()).find(|number| self.tagged[*number] && self.is_outside(*number))
    }

    fn is_outside(&self, number: usize) -> bool {
        self.outside.get(number).is_some_and(|outside| *outside)
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
            let directory = directory.filter(|_| group.own_cgroup);
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
        let directory = directory
            .ok_or_else(|| self.no_cpu.clone().unwrap_or_else(|| "there are no cgroups".into()))?;
        for (file, text) in quota::files(self.version, quota) {
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
        (0..self.cpu.len())
            .map(|number| {
                if self.is_outside(number) {
                    return Vec::new();
                }
                let directories = self.cpu.get(number).into_iter().chain(self.cpuset.get(number));
                directories.map(|directory| directory.join("cgroup.procs")).collect()
            })
            .collect()
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
    files::write_file(path, text).map_err(|error| format!("{name} takes no {text}: {error}"))?;
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
mod tests;
