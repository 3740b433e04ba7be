// SPDX-License-Identifier: Apache-2.0
//! Why a file of the kernel's cannot be had. One error number has many causes: a file that is "not
//! there" may be one that this kernel lacks, or lie in a file system that nobody has mounted; "not
//! permitted" may be meant for this user, or for all of them on a kernel that is locked down. The
//! causes have different cures, and only some are the kernel's.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use protocol::error::Owner;

/// A file system of the kernel's own, and where its files are looked for.
struct FileSystem {
    kind: &'static str,
    at: &'static str,
    /// What a kernel has it by.
    config: &'static str,
    /// Lowest mode of lockdown that forbids its files (security/security.c, `lockdown_reasons`).
    locked_by: Option<Mode>,
}

/// How far a kernel is locked down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Integrity,
    Confidentiality,
}

/// What lies in another comes before it.
const FILE_SYSTEMS: [FileSystem; 5] = [
    FileSystem {
        kind: "tracefs",
        at: "sys/kernel/debug/tracing",
        config: "CONFIG_FTRACE=y with a tracer chosen",
        locked_by: Some(Mode::Confidentiality),
    },
    FileSystem {
        kind: "debugfs",
        at: "sys/kernel/debug",
        config: "CONFIG_DEBUG_FS=y, and no debugfs=off on its command line",
        locked_by: Some(Mode::Integrity),
    },
    FileSystem {
        kind: "tracefs",
        at: "sys/kernel/tracing",
        config: "CONFIG_FTRACE=y with a tracer chosen",
        locked_by: Some(Mode::Confidentiality),
    },
    FileSystem { kind: "sysfs", at: "sys", config: "CONFIG_SYSFS=y", locked_by: None },
    FileSystem { kind: "proc", at: "proc", config: "CONFIG_PROC_FS=y", locked_by: None },
];

/// Where a kernel says how far it is locked down.
const LOCKDOWN: &str = "sys/kernel/security/lockdown";

/// What stands between a file and us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The kernel has no such file system.
    NoFileSystem {
        /// Its type.
        kind: &'static str,
        /// What a kernel has it by.
        config: &'static str,
    },
    /// The kernel has the file system, and it is not mounted where it belongs.
    NotMounted {
        /// Its type.
        kind: &'static str,
        /// Where it belongs.
        at: PathBuf,
    },
    /// All that leads to the file is there, and it is not.
    NoFile(PathBuf),
    /// This user may not.
    NeedsRoot,
    /// Nobody may, because the kernel is locked down.
    LockedDown {
        /// `integrity` or `confidentiality`; `None` where the kernel does not tell.
        mode: Option<String>,
        /// Type of the file system that it forbids.
        kind: &'static str,
    },
    /// It cannot be written, because its file system is mounted so.
    ReadOnly(PathBuf),
    /// This is root, and is refused all the same: by a container, or by a security module.
    Forbidden(String),
    /// What the kernel says of the value, or of anything else.
    Refused(String),
}

impl Obstacle {
    /// What `error`, met with a file, means here.
    pub fn of(path: &Path, error: &io::Error) -> Self {
        let file = path.strip_prefix("/").unwrap_or(path);
        Self::judge(Path::new("/"), file, error, is_root())
    }

    /// The same for a file system that has its root elsewhere, as in tests.
    pub fn below(root: &Path, file: &Path, error: &io::Error) -> Self {
        Self::judge(root, file, error, is_root())
    }

    /// True if the kernel lacks what was wanted, rather than this user or this machine.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoFileSystem { .. } | Self::NoFile(_))
    }

    /// Whose limit it is, for a machine that is not ours alone: in a guest, all is the kernel's.
    pub fn owner(&self) -> Owner {
        match self {
            Self::NoFileSystem { .. } | Self::NoFile(_) | Self::Refused(_) => Owner::Kernel,
            _ => Owner::Host,
        }
    }

    fn judge(root: &Path, file: &Path, error: &io::Error, is_root: bool) -> Self {
        let place = FILE_SYSTEMS.iter().find(|place| file.starts_with(place.at));
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {
                let Some(place) = place else { return absent(file) };
                match place.is_mounted(root) {
                    Some(false) => place.unmounted(root),
                    // A kernel that is locked down so far has an empty one.
                    _ if is_confidential(root) => {
                        locked_down(Some(place), root).unwrap_or_else(|| absent(file))
                    }
                    _ => absent(file),
                }
            }
            Some(libc::EACCES | libc::EPERM) if !is_root => Self::NeedsRoot,
            Some(libc::EPERM) => locked_down(place, root).unwrap_or_else(|| forbidden(error)),
            Some(libc::EACCES) => forbidden(error),
            Some(libc::EROFS) => {
                Self::ReadOnly(Path::new("/").join(place.map_or(file, |place| Path::new(place.at))))
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}

fn locked_down(place: Option<&FileSystem>, root: &Path) -> Option<Obstacle> {
    let place = place?;
    let (least, mode) = (place.locked_by?, lockdown(root));
    let locks = mode.as_ref().is_none_or(|(mode, _)| *mode >= Some(least));
    locks.then(|| Obstacle::LockedDown { mode: mode.map(|(_, name)| name), kind: place.kind })
}

fn forbidden(error: &io::Error) -> Obstacle {
    Obstacle::Forbidden(error.to_string())
}

fn absent(file: &Path) -> Obstacle {
    Obstacle::NoFile(Path::new("/").join(file))
}

impl FileSystem {
    /// `None` where nobody tells.
    fn is_mounted(&self, root: &Path) -> Option<bool> {
        let mounts = fs::read_to_string(root.join("proc/self/mounts")).ok()?;
        let at = Path::new("/").join(self.at);
        // Device, place, type, options.
        Some(mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next().map(Path::new) == Some(&at) && words.next() == Some(self.kind)
        }))
    }

    /// Why it is not.
    fn unmounted(&self, root: &Path) -> Obstacle {
        let known = fs::read_to_string(root.join("proc/filesystems")).unwrap_or_default();
        let Self { kind, at, config, .. } = *self;
        if !known.is_empty() && !known.split_ascii_whitespace().any(|word| word == kind) {
            return Obstacle::NoFileSystem { kind, config };
        }
        Obstacle::NotMounted { kind, at: Path::new("/").join(at) }
    }
}

/// How far the kernel says that it is locked down, and its word for that: `none [integrity]
/// confidentiality`. `None` where it does not say; a kernel that says `none` is below all modes.
fn lockdown(root: &Path) -> Option<(Locked, String)> {
    let text = fs::read_to_string(root.join(LOCKDOWN)).ok()?;
    let mut words = text.split_ascii_whitespace();
    let word = words.find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))?;
    let mode = match word {
        "integrity" => Some(Mode::Integrity),
        "confidentiality" => Some(Mode::Confidentiality),
        _ => None,
    };
    Some((mode, word.to_owned()))
}

/// `None` is a kernel that is not locked down.
type Locked = Option<Mode>;

fn is_confidential(root: &Path) -> bool {
    lockdown(root).is_some_and(|(mode, _)| mode == Some(Mode::Confidentiality))
}

/// True if this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFileSystem { kind, config } => {
                write!(f, "this kernel has no {kind}; it needs {config}")
            }
            Self::NotMounted { kind, at } => {
                let at = at.display();
                write!(f, "{kind} is not mounted on {at} (`mount -t {kind} {kind} {at}`)")
            }
            Self::NoFile(path) => write!(f, "this kernel has no {}", path.display()),
            Self::NeedsRoot => write!(f, "it needs root"),
            Self::LockedDown { mode: Some(mode), kind } => {
                write!(
                    f,
                    "this kernel is locked down ({mode}): nobody, root included, may use {kind}"
                )
            }
            Self::LockedDown { mode: None, kind } => write!(
                f,
                "not even root may use {kind}, as on a kernel that is locked down (with securityfs \
                 mounted, /{LOCKDOWN} tells)"
            ),
            Self::ReadOnly(at) => {
                write!(f, "{} is mounted read-only, as in a container", at.display())
            }
            Self::Forbidden(error) => write!(
                f,
                "{error}, although this is root: a container or a security module forbids it"
            ),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    const MOUNTS: &str = "sysfs /sys sysfs rw 0 0\nproc /proc proc rw 0 0\n\
                          none /sys/kernel/debug debugfs rw 0 0\n\
                          tracefs /sys/kernel/tracing tracefs rw 0 0\n";
    const KNOWN: &str = "nodev\tdebugfs\nnodev\ttracefs\nnodev\tproc\n\text4\n";
    const TUNABLE: &str = "sys/kernel/debug/sched/base_slice_ns";
    const TRACING: &str = "sys/kernel/tracing/tracing_on";

    fn told(files: &[(&str, &str)], file: &str, number: i32, is_root: bool) -> String {
        let root = tree(files);
        let error = io::Error::from_raw_os_error(number);
        Obstacle::judge(root.path(), Path::new(file), &error, is_root).to_string()
    }

    #[test]
    fn a_missing_file_is_told_from_a_missing_mount_and_a_missing_file_system() {
        let all = [("proc/self/mounts", MOUNTS), ("proc/filesystems", KNOWN)];
        let bare = "proc /proc proc rw 0 0\n";
        let unmounted = [("proc/self/mounts", bare), ("proc/filesystems", KNOWN)];
        let lacking = [("proc/self/mounts", bare), ("proc/filesystems", "nodev\tproc\n")];
        for (file, kind, at) in
            [(TUNABLE, "debugfs", "/sys/kernel/debug"), (TRACING, "tracefs", "/sys/kernel/tracing")]
        {
            let text = told(&all, file, libc::ENOENT, true);
            assert_eq!(text, format!("this kernel has no /{file}"));
            let text = told(&unmounted, file, libc::ENOENT, true);
            assert!(text.starts_with(&format!("{kind} is not mounted on {at}")), "{text}");
            let text = told(&lacking, file, libc::ENOENT, true);
            assert!(text.starts_with(&format!("this kernel has no {kind}")), "{text}");
            assert!(text.contains("CONFIG_"), "{text}");
        }
        // Where nobody tells what is mounted, the file is missing and nothing else is known.
        assert_eq!(
            told(&[], TUNABLE, libc::ENOENT, true),
            format!("this kernel has no /{TUNABLE}")
        );
    }

    #[test]
    fn who_may_not_is_told_from_what_nobody_may() {
        let with = |mode| [("proc/self/mounts", MOUNTS), (LOCKDOWN, mode)];
        let integrity = with("none [integrity] confidentiality\n");
        let none = with("[none] integrity confidentiality\n");
        let confidential = with("none integrity [confidentiality]\n");
        for number in [libc::EACCES, libc::EPERM] {
            assert_eq!(told(&integrity, TUNABLE, number, false), "it needs root");
        }
        let text = told(&integrity, TUNABLE, libc::EPERM, true);
        assert!(text.contains("locked down (integrity)") && text.contains("debugfs"), "{text}");
        // That mode leaves tracefs alone, and whatever forbids it is something else.
        let text = told(&integrity, TRACING, libc::EPERM, true);
        assert!(text.contains("a container or a security module"), "{text}");
        let text = told(&confidential, TRACING, libc::EPERM, true);
        assert!(text.contains("locked down (confidentiality)"), "{text}");
        // It is there, and empty.
        let text = told(&confidential, TRACING, libc::ENOENT, true);
        assert!(text.contains("locked down (confidentiality)"), "{text}");
        for (files, number) in [(&none, libc::EPERM), (&integrity, libc::EACCES)] {
            let text = told(files, TUNABLE, number, true);
            assert!(text.contains("a container or a security module"), "{text}");
        }
        let silent = [("proc/self/mounts", MOUNTS)];
        let text = told(&silent, TUNABLE, libc::EPERM, true);
        assert!(text.starts_with("not even root may use debugfs"), "{text}");
        let text = told(&silent, "proc/sys/kernel/x", libc::EPERM, true);
        assert!(text.contains("a container or a security module"), "{text}");
    }

    #[test]
    fn a_file_system_that_takes_nothing_and_a_value_that_is_not_taken() {
        let text = told(&[], "proc/sys/kernel/sched_schedstats", libc::EROFS, true);
        assert_eq!(text, "/proc is mounted read-only, as in a container");
        let text = told(&[], TUNABLE, libc::EINVAL, true);
        assert!(text.starts_with("Invalid argument"), "{text}");
    }

    #[test]
    fn whose_fault_it_is_follows_from_what_it_is() {
        let file = PathBuf::from("/x");
        assert_eq!(Obstacle::NoFile(file.clone()).owner(), Owner::Kernel);
        assert_eq!(Obstacle::NeedsRoot.owner(), Owner::Host);
        assert_eq!(Obstacle::ReadOnly(file.clone()).owner(), Owner::Host);
        assert!(Obstacle::NoFile(file).is_absence() && !Obstacle::NeedsRoot.is_absence());
    }
}
