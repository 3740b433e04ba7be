// SPDX-License-Identifier: Apache-2.0
//! What the cgroups that this process is in, and those above them, make of its CPU time.

use std::fs;
use std::path::{Path, PathBuf};

use protocol::message::GroupReport;
use serde::Serialize;
use workload::kernel::accounting;
use workload::kernel::cgroup::Version;
use workload::kernel::hierarchy::{self, Hierarchy};

/// One cgroup with its limits; what its kernel or controllers do not tell is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Cgroup {
    /// `v1` or `v2`.
    pub hierarchy: &'static str,
    pub path: String,
    #[serde(flatten)]
    pub limits: Limits,
    #[serde(skip)]
    directory: PathBuf,
}

/// Limits of one cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Limits {
    /// CPU time of each period.
    #[serde(flatten)]
    pub quota: Option<Quota>,
    /// `cpu.weight`, or `cpu.shares` of v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// Its tasks are of class SCHED_IDLE as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uclamp_min: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uclamp_max: Option<String>,
    /// CPUs that it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<String>,
    /// `cpuset.cpus.partition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// v1 with CONFIG_RT_GROUP_SCHED.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rt_runtime_us: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rt_period_us: Option<u64>,
}

/// So much CPU time of each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Quota {
    pub quota_us: u64,
    pub period_us: u64,
}

impl Quota {
    /// Whether so many busy CPUs would use it up.
    pub fn is_below(self, cpus: usize) -> bool {
        u128::from(self.quota_us) < u128::from(self.period_us) * cpus as u128
    }

    /// In CPUs, for a reader.
    pub fn cpus(self) -> String {
        let hundredths = self.millionths() / 10_000;
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    }

    /// In millionths of a CPU.
    pub fn millionths(self) -> u128 {
        u128::from(self.quota_us) * 1_000_000 / u128::from(self.period_us.max(1))
    }
}

impl Cgroup {
    fn read(hierarchy: &Hierarchy, path: &str, directory: &Path) -> Self {
        let text = |file: &str| {
            let text = fs::read_to_string(directory.join(file)).ok()?;
            Some(text.trim().to_owned())
        };
        let number = |file: &str| text(file)?.parse::<u64>().ok();
        let (cpu, cpuset) = (hierarchy.has("cpu"), hierarchy.has("cpuset"));
        let v2 = hierarchy.version == Version::V2;
        let limits = if v2 {
            Limits {
                quota: text("cpu.max").and_then(|text| quota_v2(&text)),
                weight: number("cpu.weight"),
                cpus: text("cpuset.cpus.effective"),
                partition: text("cpuset.cpus.partition"),
                ..Limits::default()
            }
        } else {
            let of_cpu = |file: &str| number(file).filter(|_| cpu);
            let quota_us = of_cpu("cpu.cfs_quota_us");
            let both = quota_us.zip(of_cpu("cpu.cfs_period_us"));
            let rt_runtime_us = text("cpu.rt_runtime_us").and_then(|text| text.parse().ok());
            Limits {
                quota: both.map(|(quota_us, period_us)| Quota { quota_us, period_us }),
                weight: of_cpu("cpu.shares"),
                cpus: text("cpuset.effective_cpus").filter(|_| cpuset),
                rt_runtime_us: rt_runtime_us.filter(|_| cpu),
                rt_period_us: of_cpu("cpu.rt_period_us"),
                ..Limits::default()
            }
        };
        let limits = Limits {
            idle: number("cpu.idle").map(|idle| idle != 0),
            uclamp_min: text("cpu.uclamp.min"),
            uclamp_max: text("cpu.uclamp.max"),
            ..limits
        };
        Self {
            hierarchy: hierarchy.version.name(),
            path: path.to_owned(),
            limits,
            directory: directory.to_owned(),
        }
    }

    /// Its quota.
    pub fn quota(&self) -> Option<Quota> {
        self.limits.quota
    }

    /// A quota of its, with the file that has it.
    pub fn describe_quota(&self, quota: Quota) -> String {
        let (path, Quota { quota_us, period_us }) = (&self.path, quota);
        if self.hierarchy == Version::V2.name() {
            format!("the CPU quota of cgroup {path} (cpu.max {quota_us} {period_us})")
        } else {
            format!(
                "the CPU quota of cgroup {path} (cpu.cfs_quota_us {quota_us}, cpu.cfs_period_us \
                 {period_us})"
            )
        }
    }

    /// What is not as it is by default, in words.
    pub fn unusual(&self) -> Vec<String> {
        let Limits { weight, idle, uclamp_min, uclamp_max, partition, .. } = &self.limits;
        let v2 = self.hierarchy == Version::V2.name();
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

/// `50000 100000`, or `max 100000` for none.
fn quota_v2(text: &str) -> Option<Quota> {
    let (quota, period) = text.split_once(' ')?;
    Some(Quota { quota_us: quota.parse().ok()?, period_us: period.trim().parse().ok()? })
}

/// All cgroups of this process, and whether there may be others above them that limit its CPU
/// time and cannot be seen.
pub fn read(root: &Path) -> (Vec<Cgroup>, bool) {
    let matters = |hierarchy: &Hierarchy| hierarchy.has("cpu") || hierarchy.has("cpuset");
    let hierarchies: Vec<_> = hierarchy::own(root).into_iter().filter(matters).collect();
    let in_v1 = |one: &Hierarchy| one.version == Version::V1 && one.has("cpu");
    let v1 = hierarchies.iter().find(|one| in_v1(one));
    // The controller is in one of them; v2 has it where no hierarchy of v1 does.
    let of_cpu = v1.or_else(|| hierarchies.iter().find(|one| one.version == Version::V2));
    let hidden = of_cpu.is_some_and(|hierarchy| hierarchy.hides_more);
    let of = |hierarchy: &Hierarchy| {
        let one = |level: &hierarchy::Level| Cgroup::read(hierarchy, &level.path, &level.directory);
        hierarchy.levels.iter().map(one).collect::<Vec<_>>()
    };
    (hierarchies.iter().flat_map(of).collect(), hidden)
}

/// What the kernel's books say about throttling at one moment.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// By the quota of each cgroup.
    levels: Vec<GroupReport>,
    /// Of this process's own cgroup, whoever's quota it was.
    own_ns: Option<u64>,
}

impl Books {
    /// As they stand now.
    pub fn read(cgroups: &[Cgroup]) -> Self {
        let level = |cgroup: &Cgroup| accounting::cpu_stat(&cgroup.directory, false);
        Self {
            levels: cgroups.iter().map(level).collect(),
            // The first one that has it: that of the hierarchy with the controller.
            own_ns: cgroups.iter().find_map(|cgroup| accounting::throttled_ns(&cgroup.directory)),
        }
    }

    /// Whether the kernel tells of throttling by cgroups that cannot be seen.
    pub fn see_hidden(&self) -> bool {
        self.own_ns.is_some()
    }

    /// What was added since `before`, of the same cgroups.
    pub fn since(&self, before: &Self, cgroups: &[Cgroup]) -> Throttled {
        let added = self.levels.iter().zip(&before.levels).map(|(now, before)| now.since(*before));
        let added: Vec<_> = added.zip(cgroups).collect();
        let own_ns = self.own_ns.zip(before.own_ns).map(|(now, before)| now.saturating_sub(before));
        let times = |report: &GroupReport| report.throttles.unwrap_or(0);
        let by = added.iter().filter(|(report, _)| times(report) > 0);
        Throttled {
            times: added.iter().map(|(report, _)| times(report)).sum(),
            ns: own_ns.or_else(|| added.iter().filter_map(|(report, _)| report.throttled_ns).max()),
            own: own_ns.is_some(),
            by: by.map(|(_, cgroup)| cgroup.path.clone()).collect(),
        }
    }
}

/// How a quota held back this process's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Throttled {
    /// How often quotas of the cgroups that can be seen were used up, on any CPU.
    pub times: u64,
    /// For how long, of all CPUs together.
    pub ns: Option<u64>,
    /// Cgroups whose quotas they were.
    pub by: Vec<String>,
    /// The kernel counts tasks of this process's own cgroup, and not others under the same quota.
    #[serde(skip)]
    own: bool,
}

impl Throttled {
    /// Whether tasks of this process's cgroup were held back, or may have been.
    pub fn is_some(&self) -> bool {
        if self.own { self.ns.is_some_and(|ns| ns > 0) } else { self.times > 0 }
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

    fn limits(files: &[&[(&str, &str)]]) -> Vec<(String, Limits)> {
        let root = tree(&files.concat());
        let (cgroups, _) = read(root.path());
        cgroups.into_iter().map(|cgroup| (cgroup.path, cgroup.limits)).collect()
    }

    #[test]
    fn the_quota_of_any_cgroup_above_is_found_in_both_versions() {
        let quota = Some(Quota { quota_us: 50_000, period_us: 100_000 });
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
        let quota = |quota_us, period_us| Quota { quota_us, period_us };
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
        let before = Books::read(&cgroups);
        assert!(!before.since(&before, &cgroups).is_some());
        write("cg/a/cpu.stat", "nr_periods 19\nnr_throttled 5\nthrottled_usec 100\n");
        let found = Books::read(&cgroups).since(&before, &cgroups);
        assert_eq!((found.times, found.ns, &found.by[..]), (2, Some(30_000), &["/a".into()][..]));
        assert!(found.is_some() && !before.see_hidden());
        // Where the kernel tells whose tasks they were, it may have been others'.
        write("cg/a/b/cpu.stat.local", "throttled_usec 40\n");
        let before = Books::read(&cgroups);
        write("cg/a/cpu.stat", "nr_periods 19\nnr_throttled 6\nthrottled_usec 100\n");
        assert!(!Books::read(&cgroups).since(&before, &cgroups).is_some());
        // Or a quota's that cannot be seen.
        write("cg/a/cpu.stat", "");
        write("cg/a/b/cpu.stat.local", "throttled_usec 41\n");
        let found = Books::read(&cgroups).since(&before, &cgroups);
        assert!(found.is_some() && found.by.is_empty() && before.see_hidden());
        assert_eq!(found.ns, Some(1_000));
    }
}
