// SPDX-License-Identifier: Apache-2.0
//! What the cgroups that this process is in, and those above them, make of its CPU time.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::report::GroupReport;
use results::model::{self, CallerCgroup, CgroupLimits, CpuQuota};
use workload::kernel::accounting;
use workload::kernel::cgroup::Version;
use workload::kernel::hierarchy::{self, Hierarchy};

/// One cgroup with its limits, and where they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// As in the result.
    pub facts: CallerCgroup,
    directory: PathBuf,
}

impl Cgroup {
    fn read(hierarchy: &Hierarchy, path: &str, directory: &Path) -> Self {
        let (cpu, cpuset) = (hierarchy.has("cpu"), hierarchy.has("cpuset"));
        let v2 = hierarchy.version == Version::V2;
        let limits = if v2 {
            CgroupLimits {
                quota: file_text("cpu.max", directory).and_then(|text| quota_v2(&text)),
                weight: file_number("cpu.weight", directory),
                cpus: file_text("cpuset.cpus.effective", directory),
                partition: file_text("cpuset.cpus.partition", directory),
                ..CgroupLimits::default()
            }
        } else {
            let quota_us = number_of_cpu("cpu.cfs_quota_us", cpu, directory);
            let both = quota_us.zip(number_of_cpu("cpu.cfs_period_us", cpu, directory));
            let rt_runtime_us =
                file_text("cpu.rt_runtime_us", directory).and_then(|text| text.parse().ok());
            CgroupLimits {
                quota: both.map(|(quota_us, period_us)| CpuQuota { quota_us, period_us }),
                weight: number_of_cpu("cpu.shares", cpu, directory),
                cpus: file_text("cpuset.effective_cpus", directory).filter(|_| cpuset),
                rt_runtime_us: rt_runtime_us.filter(|_| cpu),
                rt_period_us: number_of_cpu("cpu.rt_period_us", cpu, directory),
                ..CgroupLimits::default()
            }
        };
        let limits = CgroupLimits {
            idle: file_number("cpu.idle", directory).map(|idle| idle != 0),
            uclamp_min: file_text("cpu.uclamp.min", directory),
            uclamp_max: file_text("cpu.uclamp.max", directory),
            ..limits
        };
        let facts = CallerCgroup { hierarchy: hierarchy.version, path: path.to_owned(), limits };
        Self { facts, directory: directory.to_owned() }
    }

    /// Its quota.
    pub fn quota(&self) -> Option<CpuQuota> {
        self.facts.limits.quota
    }

    /// A quota of its, with the file that has it.
    pub fn describe_quota(&self, quota: CpuQuota) -> String {
        let (path, CpuQuota { quota_us, period_us }) = (&self.facts.path, quota);
        if self.facts.hierarchy == Version::V2 {
            format!("the CPU quota of cgroup {path} (cpu.max {quota_us} {period_us})")
        } else {
            format!(
                "the CPU quota of cgroup {path} (cpu.cfs_quota_us {quota_us}, cpu.cfs_period_us \
                 {period_us})"
            )
        }
    }

    /// Differences from the default, in words.
    pub fn unusual(&self) -> Vec<String> {
        let CgroupLimits { weight, idle, uclamp_min, uclamp_max, partition, .. } =
            &self.facts.limits;
        let v2 = self.facts.hierarchy == Version::V2;
        let (file, usual) = if v2 { ("cpu.weight", 100) } else { ("cpu.shares", 1024) };
        let mut words = Vec::new();
        if let Some(weight) = weight.filter(|weight| *weight != usual) {
            words.push(format!("{file} {weight} where {usual} is usual"));
        }
        if *idle == Some(true) {
            words.push("cpu.idle 1: all others go first".into());
        }
        for (file, value, usual) in
            [("cpu.uclamp.min", uclamp_min, "0.00"), ("cpu.uclamp.max", uclamp_max, "max")]
        {
            words.extend(
                value.iter().filter(|value| *value != usual).map(|value| format!("{file} {value}")),
            );
        }
        let invalid = partition.iter().filter(|partition| partition.contains("invalid"));
        words.extend(invalid.map(|partition| format!("cpuset.cpus.partition {partition}")));
        words
    }
}

fn file_text(file: &str, directory: &Path) -> Option<String> {
    let text = fs::read_to_string(directory.join(file)).ok()?;
    Some(text.trim().to_owned())
}

fn file_number(file: &str, directory: &Path) -> Option<u64> {
    file_text(file, directory)?.parse::<u64>().ok()
}

fn number_of_cpu(file: &str, cpu: bool, directory: &Path) -> Option<u64> {
    file_number(file, directory).filter(|_| cpu)
}

/// `50000 100000`, or `max 100000` for none.
fn quota_v2(text: &str) -> Option<CpuQuota> {
    let (quota, period) = text.split_once(' ')?;
    Some(CpuQuota { quota_us: quota.parse().ok()?, period_us: period.trim().parse().ok()? })
}

/// All cgroups of this process, and whether there may be others above them that limit its CPU
/// time and cannot be seen.
pub fn read(root: &Path) -> (Vec<Cgroup>, bool) {
    let hierarchies: Vec<_> = hierarchy::own(root)
        .into_iter()
        .filter(|hierarchy| hierarchy.has("cpu") || hierarchy.has("cpuset"))
        .collect();
    let v1 = hierarchies.iter().find(|one| one.version == Version::V1 && one.has("cpu"));
    // The controller is in one of them; v2 has it where no hierarchy of v1 does.
    let of_cpu = v1.or_else(|| hierarchies.iter().find(|one| one.version == Version::V2));
    let hidden = of_cpu.is_some_and(|hierarchy| hierarchy.hides_more);
    (
        hierarchies
            .iter()
            .flat_map(|hierarchy| {
                hierarchy
                    .levels
                    .iter()
                    .map(|level| Cgroup::read(hierarchy, &level.path, &level.directory))
                    .collect::<Vec<_>>()
            })
            .collect(),
        hidden,
    )
}

/// Throttling by the kernel's accounting at one moment.
#[derive(Clone, Debug, Default)]
pub struct ThrottleReadings {
    /// By the quota of each cgroup.
    levels: Vec<GroupReport>,
    /// Of this process's own cgroup, whoever's quota it was.
    own_ns: Option<u64>,
}

impl ThrottleReadings {
    /// As they stand now.
    pub fn read(cgroups: &[Cgroup]) -> Self {
        Self {
            levels: cgroups
                .iter()
                .map(|cgroup| accounting::cpu_stat(&cgroup.directory, false))
                .collect(),
            // The first one that has it: that of the hierarchy with the controller.
            own_ns: cgroups.iter().find_map(|cgroup| accounting::throttled_ns(&cgroup.directory)),
        }
    }

    /// True if the kernel tells of throttling by cgroups that cannot be seen.
    pub fn see_hidden(&self) -> bool {
        self.own_ns.is_some()
    }

    /// Increase since `before`, of the same cgroups.
    pub fn since(&self, before: &Self, cgroups: &[Cgroup]) -> Throttled {
        let added = self.levels.iter().zip(&before.levels).map(|(now, before)| now.since(*before));
        let added: Vec<_> = added.zip(cgroups).collect();
        let own_ns = self.own_ns.zip(before.own_ns).map(|(now, before)| now.saturating_sub(before));
        let by = added.iter().filter(|(report, _)| throttles(report) > 0);
        let facts = model::Throttled {
            times: added.iter().map(|(report, _)| throttles(report)).sum(),
            ns: own_ns.or_else(|| added.iter().filter_map(|(report, _)| report.throttled_ns).max()),
            by: by.map(|(_, cgroup)| cgroup.facts.path.clone()).collect(),
        };
        Throttled { facts, own: own_ns.is_some() }
    }
}

fn throttles(report: &GroupReport) -> u64 {
    report.throttles.unwrap_or(0)
}

/// How a quota held back this process's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// As in the result.
    pub facts: model::Throttled,
    /// The kernel counts tasks of this process's own cgroup, and not others under the same quota.
    own: bool,
}

impl Throttled {
    /// True if tasks of this process's cgroup were held back, or may have been.
    pub fn is_some(&self) -> bool {
        let model::Throttled { times, ns, .. } = &self.facts;
        if self.own { ns.is_some_and(|ns| ns > 0) } else { *times > 0 }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::testing::tree;

    pub const V2: [(&str, &str); 2] = [
        ("proc/self/mountinfo", "30 23 0:27 / /cg rw - cgroup2 cgroup2 rw\n"),
        ("proc/self/cgroup", "0::/a/b\n"),
    ];
    pub const V1: [(&str, &str); 2] = [
        (
            "proc/self/mountinfo",
            "30 23 0:27 / /cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
             31 23 0:28 / /set rw - cgroup cgroup rw,cpuset\n\
             32 23 0:29 / /cg rw - cgroup2 cgroup2 rw\n",
        ),
        ("proc/self/cgroup", "5:cpuset:/s\n4:memory:/m\n3:cpu,cpuacct:/a/b\n0::/\n"),
    ];

    fn limits(files: &[&[(&str, &str)]]) -> Vec<(String, CgroupLimits)> {
        let root = tree(&files.concat());
        let (cgroups, _) = read(root.path());
        let each = cgroups.into_iter().map(|cgroup| cgroup.facts);
        each.map(|facts| (facts.path, facts.limits)).collect()
    }

    #[test]
    fn the_quota_of_any_cgroup_above_is_found_in_both_versions() {
        let quota = Some(CpuQuota { quota_us: 50_000, period_us: 100_000 });
        let v2 = [("cg/a/cpu.max", "50000 100000\n"), ("cg/a/b/cpu.max", "max 100000\n")];
        let found = limits(&[&V2, &v2]);
        let of: Vec<_> = found.iter().map(|(path, limits)| (&**path, limits.quota)).collect();
        assert_eq!(of, [("/a/b", None), ("/a", quota), ("/", None)]);
        let v1 = [
            ("cpu/a/b/cpu.cfs_quota_us", "50000\n"),
            ("cpu/a/b/cpu.cfs_period_us", "100000\n"),
            ("cpu/a/cpu.cfs_quota_us", "-1\n"),
            ("cpu/a/cpu.cfs_period_us", "100000\n"),
            ("cpu/a/cpu.rt_runtime_us", "-1\n"),
        ];
        let found = limits(&[&V1, &v1]);
        let of: Vec<_> = found.iter().map(|(path, limits)| (&**path, limits.quota)).collect();
        let expected =
            [("/s", None), ("/", None), ("/a/b", quota), ("/a", None), ("/", None), ("/", None)];
        assert_eq!(of, expected);
        assert_eq!(found[3].1.rt_runtime_us, Some(-1));
    }

    #[test]
    fn a_quota_is_told_in_cpus_and_held_against_them() {
        let quota = |quota_us, period_us| CpuQuota { quota_us, period_us };
        assert_eq!(quota(50_000, 100_000).cpus(), "0.50");
        assert_eq!(quota(250_000, 100_000).cpus(), "2.50");
        assert!(quota(199_999, 100_000).is_below(2) && !quota(200_000, 100_000).is_below(2));
        assert!(!quota(1, 0).is_below(usize::MAX), "no division by it");
        for bad in ["", "max 100000", "5", "x y", "-1 100000"] {
            assert_eq!(quota_v2(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_unusual_has_a_name() {
        let words = |files: &[(&str, &str)]| {
            let root = tree(&[&V2[..], files].concat());
            read(root.path()).0[0].unusual().join("; ")
        };
        let usual = [
            ("cg/a/b/cpu.weight", "100\n"),
            ("cg/a/b/cpu.idle", "0\n"),
            ("cg/a/b/cpu.uclamp.min", "0.00\n"),
            ("cg/a/b/cpu.uclamp.max", "max\n"),
            ("cg/a/b/cpuset.cpus.partition", "member\n"),
        ];
        assert_eq!(words(&usual), "");
        assert_eq!(words(&[("cg/a/b/cpu.weight", "7\n")]), "cpu.weight 7 where 100 is usual");
        assert_eq!(words(&[("cg/a/b/cpu.uclamp.max", "30.00\n")]), "cpu.uclamp.max 30.00");
        assert!(words(&[("cg/a/b/cpu.idle", "1\n")]).contains("others go first"));
        let invalid = [("cg/a/b/cpuset.cpus.partition", "isolated invalid (x)\n")];
        assert_eq!(words(&invalid), "cpuset.cpus.partition isolated invalid (x)");
        let root = tree(&[&V1[..], &[("cpu/a/b/cpu.shares", "2\n")]].concat());
        assert_eq!(read(root.path()).0[2].unusual(), ["cpu.shares 2 where 1024 is usual"]);
    }

    #[test]
    fn throttling_is_counted_from_a_moment_on() {
        let root = tree(&V2);
        let (cgroups, hidden) = read(root.path());
        assert!(!hidden);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("cg/a/cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_usec 70\n");
        let before = ThrottleReadings::read(&cgroups);
        assert!(!before.since(&before, &cgroups).is_some());
        write("cg/a/cpu.stat", "nr_periods 19\nnr_throttled 5\nthrottled_usec 100\n");
        let found = ThrottleReadings::read(&cgroups).since(&before, &cgroups);
        assert_eq!(
            (found.facts.times, found.facts.ns, &found.facts.by[..]),
            (2, Some(30_000), &["/a".into()][..])
        );
        assert!(found.is_some() && !before.see_hidden());
        // Where the kernel tells whose tasks they were, it may have been others'.
        write("cg/a/b/cpu.stat.local", "throttled_usec 40\n");
        let before = ThrottleReadings::read(&cgroups);
        write("cg/a/cpu.stat", "nr_periods 19\nnr_throttled 6\nthrottled_usec 100\n");
        assert!(!ThrottleReadings::read(&cgroups).since(&before, &cgroups).is_some());
        // Or a quota's that cannot be seen.
        write("cg/a/cpu.stat", "");
        write("cg/a/b/cpu.stat.local", "throttled_usec 41\n");
        let found = ThrottleReadings::read(&cgroups).since(&before, &cgroups);
        assert!(found.is_some() && found.facts.by.is_empty() && before.see_hidden());
        assert_eq!(found.facts.ns, Some(1_000));
    }
}
