// SPDX-License-Identifier: Apache-2.0
//! Cgroups in folders that look like hierarchies.

use std::time::Duration;

use protocol::group::Policy;

use crate::kernel::cgroup::*;
use crate::testing::{groups, tree};

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
        [vec![root.path().join("vm1/cgroup.procs")], vec![root.path().join("vm2/cgroup.procs")]]
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
    for (files, version) in [(&["vm1/cpu.weight"], Version::V2), (&["vm1/cpu.shares"], Version::V1)]
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
