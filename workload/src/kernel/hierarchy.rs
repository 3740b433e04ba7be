// SPDX-License-Identifier: Apache-2.0
//! The cgroups that this process is in, and those above them, as far as they can be seen:
//! cgroup v1, v2 and both beside each other, in a namespace or not.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::kernel::cgroup::Version;

/// Inode of the cgroup namespace that a kernel begins with (`PROC_CGROUP_INIT_INO` of
/// include/linux/proc_ns.h).
const FIRST_NAMESPACE: &str = "cgroup:[4026531835]";

/// One hierarchy, from this process's own cgroup upwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// v1 or v2.
    pub version: Version,
    /// Controllers of a v1 hierarchy; those of v2 show in each cgroup's files.
    pub controllers: Vec<String>,
    /// The process's own cgroup first. Empty where the hierarchy is mounted nowhere.
    pub levels: Vec<Level>,
    /// There are, or may be, cgroups above the last level that cannot be seen.
    pub hides_more: bool,
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Its path in the hierarchy, as /proc/PID/cgroup has it.
    pub path: String,
    /// Where its files are.
    pub directory: PathBuf,
}

impl Hierarchy {
    /// True if this controller's files are in it, if anywhere.
    pub fn has(&self, controller: &str) -> bool {
        self.version == Version::V2 || self.controllers.iter().any(|name| name == controller)
    }
}

/// Hierarchies that this process is in, of the system whose files are below `root`. Empty for
/// a kernel without cgroups.
pub fn own(root: &Path) -> Vec<Hierarchy> {
    let mounts: Vec<_> =
        read("proc/self/mountinfo", root).lines().filter_map(Mount::parse).collect();
    let namespace = fs::read_link(root.join("proc/self/ns/cgroup"));
    // A kernel before 4.6 has no such namespaces.
    let first = namespace.map_or(true, |link| link == Path::new(FIRST_NAMESPACE));
    read("proc/self/cgroup", root)
        .lines()
        .filter_map(|line| parse_line(line, &mounts, first, root))
        .collect()
}

fn read(file: &str, root: &Path) -> String {
    fs::read_to_string(root.join(file)).unwrap_or_default()
}

fn parse_line(line: &str, mounts: &[Mount], first: bool, root: &Path) -> Option<Hierarchy> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let version = if number == "0" { Version::V2 } else { Version::V1 };
    let controllers: Vec<_> =
        controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let mut hierarchy = Hierarchy { version, controllers, levels: vec![], hides_more: true };
    // Of several mounts the one that shows most.
    let fitting = mounts.iter().filter(|mount| mount.is_of(&hierarchy));
    let shown = fitting.filter_map(|mount| Some((mount, mount.levels(root, path)?)));
    if let Some((mount, levels)) = shown.max_by_key(|(_, levels)| levels.len()) {
        hierarchy.levels = levels;
        hierarchy.hides_more = !first || mount.root != "/";
    }
    Some(hierarchy)
}

/// A mounted hierarchy.
#[derive(Debug)]
struct Mount {
    /// The cgroup that the mount shows as its root.
    root: String,
    point: String,
    version: Version,
    /// v1: controllers are among them.
    options: Vec<String>,
}

impl Mount {
    /// A line of /proc/PID/mountinfo (proc(5)), if it is one of cgroups.
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, point) = (unescape(front.next()?), unescape(front.next()?));
        let mut back = back.split(' ');
        let version = match back.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let options = back.nth(1)?.split(',').map(str::to_owned).collect();
        Some(Self { root, point, version, options })
    }

    fn is_of(&self, hierarchy: &Hierarchy) -> bool {
        self.version == hierarchy.version
            && hierarchy.controllers.iter().all(|name| self.options.contains(name))
    }

    /// The cgroup `path` and all above it that the mount shows; `None` where it shows not even
    /// that one.
    fn levels(&self, root: &Path, path: &str) -> Option<Vec<Level>> {
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        // A process outside of its namespace's root: its place has no name here.
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return None;
        }
        let point = root.join(self.point.trim_start_matches('/'));
        Some(
            below
                .ancestors()
                .map(|below| Level {
                    path: join(Path::new(&self.root), below).display().to_string(),
                    directory: join(&point, below),
                })
                .collect(),
        )
    }
}

/// Joined with nothing, a path would get a slash at its end.
fn join(base: &Path, below: &Path) -> PathBuf {
    match below.as_os_str().is_empty() {
        true => base.to_owned(),
        false => base.join(below),
    }
}

/// Blanks and the like are written in octal: `\040`.
fn unescape(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            plain.push(byte);
            rest = &after[3..];
        } else {
            plain.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;
    use std::os::unix::fs::symlink;

    const V2: &str = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    fn found(cgroup: &str, mounts: &str, namespace: Option<&str>) -> Vec<Hierarchy> {
        let root = tree(&[("proc/self/cgroup", cgroup), ("proc/self/mountinfo", mounts)]);
        if let Some(namespace) = namespace {
            fs::create_dir(root.path().join("proc/self/ns")).unwrap();
            symlink(namespace, root.path().join("proc/self/ns/cgroup")).unwrap();
        }
        let mut found = own(root.path());
        for level in found.iter_mut().flat_map(|hierarchy| &mut hierarchy.levels) {
            level.directory = level.directory.strip_prefix(root.path()).unwrap().to_owned();
        }
        found
    }

    fn paths(hierarchy: &Hierarchy) -> Vec<&str> {
        hierarchy.levels.iter().map(|level| level.path.as_str()).collect()
    }

    #[test]
    fn the_own_cgroup_and_all_above_it() {
        let found = found("0::/system.slice/job.service\n", V2, Some(FIRST_NAMESPACE));
        let [v2] = &found[..] else { panic!("{found:?}") };
        assert_eq!(paths(v2), ["/system.slice/job.service", "/system.slice", "/"]);
        let directories: Vec<_> = v2.levels.iter().map(|level| level.directory.as_path()).collect();
        let expected = [
            "sys/fs/cgroup/system.slice/job.service",
            "sys/fs/cgroup/system.slice",
            "sys/fs/cgroup",
        ];
        assert_eq!(directories, expected.map(Path::new));
        assert!(!v2.hides_more && v2.has("cpu"));
    }

    #[test]
    fn hierarchies_beside_each_other_are_told_apart() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:7 - cgroup cgroup rw,cpuset\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      23 31 0:20 / /sys rw - sysfs sysfs rw\n";
        let cgroup = "9:name=systemd:/\n3:cpuset:/a\n2:cpu,cpuacct:/b/c\n0::/\n";
        let found = found(cgroup, mounts, None);
        let of = |controller: &str| {
            let v1 = |one: &&Hierarchy| one.version == Version::V1 && one.has(controller);
            found.iter().find(v1).unwrap()
        };
        assert_eq!(paths(of("cpu")), ["/b/c", "/b", "/"]);
        assert_eq!(of("cpu").levels[2].directory, Path::new("sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(paths(of("cpuset")), ["/a", "/"]);
        assert_eq!(found.last().map(paths), Some(vec!["/"]));
        assert!(found.iter().all(|hierarchy| !hierarchy.hides_more));
    }

    #[test]
    fn what_is_above_a_container_is_said_to_be_hidden() {
        // A namespace of its own: its root looks like the root.
        let own_namespace = found("0::/\n", V2, Some("cgroup:[4026532900]"));
        assert_eq!(paths(&own_namespace[0]), ["/"]);
        assert!(own_namespace[0].hides_more);
        // None, but only its own cgroup is mounted.
        let mount = "30 23 0:27 /docker/9 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let mounted = found("0::/docker/9/job\n", mount, Some(FIRST_NAMESPACE));
        assert_eq!(paths(&mounted[0]), ["/docker/9/job", "/docker/9"]);
        assert_eq!(mounted[0].levels[1].directory, Path::new("sys/fs/cgroup"));
        assert!(mounted[0].hides_more);
        // No mount shows it: somebody else's, one beside it, none.
        for (cgroup, mounts) in [("0::/a\n", mount), ("0::/../a\n", V2), ("0::/a\n", "")] {
            let nothing = found(cgroup, mounts, None);
            assert!(nothing[0].levels.is_empty() && nothing[0].hides_more, "{cgroup} {mounts}");
        }
    }

    #[test]
    fn of_two_mounts_the_one_that_shows_more() {
        let both = format!("29 23 0:27 /a /mnt/part\\040of\\040it rw - cgroup2 none rw\n{V2}");
        let found = found("0::/a/b\n", &both, None);
        assert_eq!(paths(&found[0]), ["/a/b", "/a", "/"]);
        assert_eq!(unescape("/mnt/part\\040of\\134it\\"), "/mnt/part of\\it\\");
    }

    #[test]
    fn a_kernel_without_cgroups_has_none() {
        assert!(own(Path::new("/nonexistent")).is_empty());
        // And this one can be read, whatever it has.
        for hierarchy in own(Path::new("/")) {
            for level in &hierarchy.levels {
                assert!(level.directory.is_dir(), "{level:?}");
            }
        }
    }
}
