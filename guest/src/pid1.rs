// SPDX-License-Identifier: Apache-2.0
//! Duties of PID 1: it mounts file systems, writes to the kernel's log before there is a channel,
//! reaps orphans, and powers off.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::panic;
use std::path::Path;

use protocol::names::{PANIC_MARK, SAYING};
use rustix::process::{Pid, WaitOptions};
use rustix::system::RebootCommand;
use thiserror::Error;
use workload::kernel::files::{make_node, mount};

/// A file system that could not be mounted, and that nothing works without.
#[derive(Debug, Error)]
#[error("{kind} cannot be mounted on {target}{}", needs(source, config))]
pub struct MountError {
    kind: &'static str,
    target: &'static str,
    config: &'static str,
    #[source]
    source: io::Error,
}

/// What the kernel lacks, where that is why.
fn needs(error: &io::Error, config: &str) -> String {
    match error.raw_os_error() {
        // The only thing that ENODEV says of a mount without a device.
        Some(libc::ENODEV) => format!("; the kernel needs {config}=y"),
        _ => String::new(),
    }
}

struct Mount {
    kind: &'static str,
    target: &'static str,
    /// The option that provides it, where nothing works without it.
    needed: Option<&'static str>,
}

/// In this order: /sys before what lies in it, /dev before /dev/shm.
const MOUNTS: [Mount; 8] = [
    Mount { kind: "proc", target: "/proc", needed: Some("CONFIG_PROC_FS") },
    Mount { kind: "sysfs", target: "/sys", needed: Some("CONFIG_SYSFS") },
    // Without devtmpfs the few nodes we need are made by hand.
    Mount { kind: "devtmpfs", target: "/dev", needed: None },
    // These are directories of the initrd where there is no tmpfs.
    Mount { kind: "tmpfs", target: "/dev/shm", needed: None },
    Mount { kind: "tmpfs", target: "/run", needed: None },
    Mount { kind: "tmpfs", target: "/tmp", needed: None },
    Mount { kind: "debugfs", target: "/sys/kernel/debug", needed: None },
    Mount { kind: "tracefs", target: "/sys/kernel/tracing", needed: None },
];

/// Mounts the file systems of a Linux user space. Missing ones that are not vital are left
/// out: whoever needs a file in one of them reports that it is not there.
pub fn mount_all() -> Result<(), MountError> {
    for &Mount { kind, target, needed } in &MOUNTS {
        // Best effort: a directory that cannot be made shows in the mount.
        let _ = fs::create_dir_all(target);
        match (mount(kind, Path::new(target), ""), needed) {
            (Err(source), Some(config)) => {
                return Err(MountError { kind, target, config, source });
            }
            (Ok(()), _) | (Err(_), None) => {}
        }
    }
    Ok(())
}

/// Says something where the host sees it when there is no channel: the kernel log, or else
/// the console. Must work at any time, so it reports no failure.
pub fn say(text: &str) {
    // /dev/kmsg is 1:11 (Documentation/admin-guide/devices.txt).
    let _ = make_node(Path::new("/dev/kmsg"), 1, 11);
    // Priority 2 (critical): seen on the console even of a kernel booted with `quiet`.
    for (path, priority) in [("/dev/kmsg", "<2>"), ("/dev/console", "")] {
        let line = format!("{priority}{SAYING}{}\n", text.replace('\n', " "));
        let file = OpenOptions::new().write(true).open(path);
        // One write a line: each write to the kernel log is a record of its own.
        if file.and_then(|mut file| file.write_all(line.as_bytes())).is_ok() {
            return;
        }
    }
}

/// Makes the console that there is now this process's standard streams. Best effort: what is said
/// there has other ways, too.
pub fn take_console() {
    let console = OpenOptions::new().read(true).write(true).open("/dev/console");
    let Ok(console) = console else { return };
    let taken = rustix::stdio::dup2_stdin(&console)
        .and_then(|()| rustix::stdio::dup2_stdout(&console))
        .and_then(|()| rustix::stdio::dup2_stderr(&console));
    if let Err(error) = taken {
        say(&format!("the console cannot be taken: {error}"));
    }
}

/// Whatever goes wrong in PID 1 must end the machine with the reason in its log: a PID 1
/// that just exits makes the kernel panic, and one that hangs costs the host a deadline.
pub fn power_off_on_panic() {
    panic::set_hook(Box::new(|info| {
        say(&format!("{PANIC_MARK}{info}"));
        power_off();
    }));
}

/// Switches the machine off.
pub fn power_off() -> ! {
    /// Retries, a second apart, before the agent gives up on an orderly end.
    const ATTEMPTS: u32 = 5;
    rustix::fs::sync();
    for _ in 0..ATTEMPTS {
        // It does not return on success.
        if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
            say(&format!("power-off failed: {error}"));
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    // Not PID 1, or no permission: end at least this process. For a PID 1 it is a kernel
    // panic, which the host notices.
    std::process::exit(1)
}

/// Reaps children of processes that are gone, which the kernel gives to PID 1.
///
/// `ours` are left alone: whoever started them wants their exit status.
pub fn reap_strangers(ours: &[u32]) {
    /// Bound for one call; the next one goes on.
    const AT_ONCE: usize = 64;
    for _ in 0..AT_ONCE {
        // nix's waitid fails for whoever a real-time signal has killed, and would meet him again.
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the pointer is to a local that the call fills.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), flags) };
        // SAFETY: siginfo_t is plain data, for which all bits zero is a value; waitid has filled the
        // fields of a child's signal, or left them zero.
        let pid = unsafe { info.assume_init().si_pid() };
        let Some(stranger) = u32::try_from(pid).ok().filter(|pid| *pid != 0 && result == 0) else {
            return;
        };
        if ours.contains(&stranger) {
            return;
        }
        let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_named_only_where_it_is_missing() {
        let error = |number| MountError {
            kind: "proc",
            target: "/proc",
            config: "CONFIG_PROC_FS",
            source: io::Error::from_raw_os_error(number),
        };
        let text = |number| error(number).to_string();
        assert_eq!(
            text(libc::ENODEV),
            "proc cannot be mounted on /proc; the kernel needs CONFIG_PROC_FS=y"
        );
        assert_eq!(text(libc::ENOENT), "proc cannot be mounted on /proc");
    }

    #[test]
    fn only_strangers_are_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !Path::new("/proc").join(child.id().to_string()).join("stat").exists() {
            assert!(std::time::Instant::now() < deadline);
        }
        reap_strangers(&[child.id()]);
        assert!(child.wait().unwrap().success());
    }
}
