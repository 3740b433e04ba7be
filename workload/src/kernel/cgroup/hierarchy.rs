// SPDX-License-Identifier: Apache-2.0
//! Hierarchies of cgroups: mounted, given back, and who has a controller.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::mount::UnmountFlags;

use crate::kernel::cgroup::Version;
use crate::kernel::files;

/// Says of each controller where it is.
const CONTROLLERS: &str = "/proc/cgroups";

/// The kernel takes cgroups and hierarchies apart after their removal, in a work queue.
const APART: Duration = Duration::from_secs(2);

/// Mounts a hierarchy.
///
/// # Errors
/// Why there is none, with its type, its place and, for a separate one, its controller.
pub fn mount(kind: &str, path: &str, controller: &str) -> io::Result<PathBuf> {
    let path = PathBuf::from(path);
    // It may be there; if it cannot be made, the mount says so.
    let _ = fs::create_dir_all(&path);
    let mounted = files::mount(kind, &path, controller).and_then(|()| {
        // "Busy" may be a mount that is there already, or a controller that is another's.
        let is_one = path.join("cgroup.procs").exists();
        if is_one { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBUSY)) }
    });
    mounted.map(|()| path.clone()).map_err(|error| {
        let with = if controller.is_empty() {
            String::new()
        } else {
            format!(" with the controller {controller}")
        };
        let hint = match error.raw_os_error() {
            Some(libc::ENODEV) => " (the kernel needs CONFIG_CGROUPS=y)".to_owned(),
            _ if controller.is_empty() => String::new(),
            _ => format!(" ({})", fate(controller)),
        };
        let text = format!("{kind} cannot be mounted on {}{with}: {error}{hint}", path.display());
        io::Error::new(error.kind(), text)
    })
}

/// Unmounts hierarchies whose cgroups have been removed.
///
/// A separate hierarchy keeps its controller for good if one of its cgroups is left when it is
/// unmounted (kernel/cgroup/cgroup.c, `cgroup_kill_sb`), and it gives it back some time after that:
/// so both are waited for, or the unified one would be without.
pub fn unmount(mounts: &[PathBuf], version: Version) {
    let separate = version == Version::V1 && !mounts.is_empty();
    if separate {
        wait_until(|| all_ours(|controller| controller.cgroups <= 1));
    }
    for mount in mounts {
        // Best effort: it shows in what is waited for below.
        let _ = rustix::mount::unmount(mount.as_path(), UnmountFlags::empty());
    }
    if separate {
        wait_until(|| all_ours(|controller| controller.hierarchy == 0));
    }
}

fn all_ours(wanted: fn(&Controller) -> bool) -> bool {
    ["cpu", "cpuset"].iter().all(|name| find(name).is_none_or(|found| wanted(&found)))
}

/// What does not come true in time shows when the controller is needed, by name.
fn wait_until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + APART;
    while !holds() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A line of [`CONTROLLERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Controller {
    /// The separate hierarchy it is in; 0 is the unified one, or none.
    hierarchy: u32,
    /// Cgroups of that hierarchy, its root included.
    cgroups: u32,
    enabled: bool,
}

/// `None` where the kernel says nothing of it.
fn find(name: &str) -> Option<Controller> {
    parse(&fs::read_to_string(Path::new(CONTROLLERS)).ok()?, name)
}

/// `name hierarchy cgroups enabled`, one a line.
fn parse(text: &str, name: &str) -> Option<Controller> {
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(name))?;
    let mut numbers = line.split_ascii_whitespace().skip(1).map(|word| word.parse().ok());
    let (hierarchy, cgroups, enabled): (u32, u32, u32) =
        (numbers.next()??, numbers.next()??, numbers.next()??);
    Some(Controller { hierarchy, cgroups, enabled: enabled != 0 })
}

/// Why a hierarchy does not have this controller.
pub fn fate(name: &str) -> String {
    told(find(name), name)
}

fn told(found: Option<Controller>, name: &str) -> String {
    match found {
        None => format!("this kernel tells of none in {CONTROLLERS}; it needs {}", config(name)),
        Some(Controller { enabled: false, .. }) => {
            format!("it is switched off (cgroup_disable={name} on the kernel's command line)")
        }
        Some(Controller { hierarchy: 0, .. }) => "its parent does not hand it down".into(),
        Some(Controller { hierarchy, .. }) => {
            format!("it is in a hierarchy of its own, of version 1 (number {hierarchy})")
        }
    }
}

fn config(controller: &str) -> &'static str {
    if controller == "cpuset" { "CONFIG_CPUSETS=y" } else { "CONFIG_CGROUP_SCHED=y" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
                        cpuset\t3\t1\t1\ncpu\t0\t4\t1\ncpuacct\t2\t1\t1\nmemory\t0\t1\t0\n";

    #[test]
    fn each_controller_is_somewhere_or_nowhere() {
        let cpu = Controller { hierarchy: 0, cgroups: 4, enabled: true };
        assert_eq!(parse(TEXT, "cpu"), Some(cpu));
        for (name, words) in [
            ("cpu", "does not hand it down"),
            ("cpuset", "version 1 (number 3)"),
            ("memory", "cgroup_disable=memory"),
            ("hugetlb", "CONFIG_CGROUP_SCHED=y"),
        ] {
            let text = told(parse(TEXT, name), name);
            assert!(text.contains(words), "{name}: {text}");
        }
        assert!(told(None, "cpuset").contains("CONFIG_CPUSETS=y"));
        assert_eq!(parse("cpu\tx\n", "cpu"), None);
    }

    #[test]
    fn a_mount_that_fails_is_named_with_its_place() {
        // No kernel has this type; and whoever may not mount is told that.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let error = mount("no-such-type", path, "").unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("no-such-type cannot be mounted on {path}: ")),
            "{error}"
        );
    }
}
