// SPDX-License-Identifier: Apache-2.0
//! What this machine lets a test have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::calls;

/// A file that holds a number and steers nothing that a second of another value would harm.
pub const TUNABLE: &str = "/proc/sys/kernel/sched_cfs_bandwidth_slice_us";

/// What there is of what some trials need.
#[derive(Clone, Debug)]
pub struct Place {
    /// Mounts of a process's own, with tracefs among them.
    pub tracefs: bool,
    /// The same with debugfs.
    pub debugfs: bool,
    /// Whose files nobody may open.
    pub locks_debugfs: bool,
    /// [`TUNABLE`] can be written.
    pub tunable: bool,
    /// The load's processes can be another user's.
    pub root: bool,
}

impl Place {
    /// Tries it.
    pub fn find() -> Self {
        let works = |kind: &str, program: &str, word: &str| {
            let tried = in_a_place_with(&[kind], Path::new("/"), program, &[word]);
            let quiet =
                |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            let status = tried.map(quiet);
            status.is_some_and(|status| status.is_ok_and(|status| status.success()))
        };
        // SAFETY: geteuid takes nothing and cannot fail.
        let root = unsafe { libc::geteuid() == 0 };
        Self {
            tracefs: root && works("tracefs", "ls", TRACING_ON),
            debugfs: root && works("debugfs", "ls", SLICE),
            locks_debugfs: !works("debugfs", "cat", SLICE),
            tunable: fs::OpenOptions::new().write(true).open(TUNABLE).is_ok(),
            root,
        }
    }

    /// What is missing here, for people.
    pub fn missing(&self) -> Vec<String> {
        let needs = [
            (self.root, "trials as another user need root".to_owned()),
            (self.tracefs, "trials with a trace need root, tracefs and unshare(1)".to_owned()),
            (self.debugfs, "trials with debugfs need root, debugfs and unshare(1)".to_owned()),
            (self.tunable, format!("trials with a tunable need {TUNABLE} to be writable")),
        ];
        needs.into_iter().filter(|(is_there, _)| !is_there).map(|(_, text)| text).collect()
    }
}

const SLICE: &str = "/sys/kernel/debug/sched/base_slice_ns";
const TRACING_ON: &str = "/sys/kernel/tracing/tracing_on";

/// The program with these words, in mounts of its own that have none of tracefs and debugfs but
/// those in `kinds`.
pub fn schedvmm(kinds: &[&str], dir: &Path, words: &[&str]) -> Command {
    in_a_place_with(kinds, dir, env!("CARGO_BIN_EXE_schedvmm"), words).expect("a known kind")
}

fn in_a_place_with(kinds: &[&str], dir: &Path, program: &str, words: &[&str]) -> Option<Command> {
    let mut script = String::from("umount -q /sys/kernel/tracing /sys/kernel/debug/tracing ");
    script.push_str("/sys/kernel/debug 2>/dev/null\n");
    for kind in kinds {
        let at = match *kind {
            "tracefs" => "/sys/kernel/tracing",
            "debugfs" => "/sys/kernel/debug",
            _ => return None,
        };
        script.push_str(&format!("mount -t {kind} {kind} {at} || exit 99\n"));
    }
    // The shell becomes the program: signals reach it.
    script.push_str("exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, program]).args(words).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(command)
}

/// The program as a user without rights runs it, who may lock so many bytes of memory. It is a
/// copy in `dir`, which that user may use: the build's folder may be out of their reach.
pub fn as_nobody(dir: &Path, words: &[&str], memlock_bytes: Option<u64>) -> Command {
    const NOBODY: u32 = 65_534;
    let program = dir.join("schedvmm");
    fs::copy(env!("CARGO_BIN_EXE_schedvmm"), &program).expect("copied");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("permitted");
    let mut command = Command::new(&program);
    command.args(words).current_dir(dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    if let Some(bytes) = memlock_bytes {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: setrlimit(2) is async-signal-safe, and nothing else is called; `limit` is the
        // closure's own.
        unsafe {
            command.pre_exec(move || {
                match libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            })
        };
    }
    command
}

/// Processes that this one has started and that live, by number.
pub fn children(parent: u32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let child = |name: &str| {
        let pid = name.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name| status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim()));
        let is_ours = field("PPid:")? == parent.to_string();
        (is_ours && !field("State:")?.starts_with('Z')).then_some(pid)
    };
    entries.filter_map(|entry| child(entry.file_name().to_str()?)).collect()
}

/// The trace buffers of the program's own that are left on this machine.
pub fn trace_buffers(dir: &Path) -> String {
    let list = in_a_place_with(&["tracefs"], dir, "ls", &["/sys/kernel/tracing/instances"]);
    let output = calls::finish(list.expect("a known kind").spawn().expect("it starts"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
