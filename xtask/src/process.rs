// SPDX-License-Identifier: Apache-2.0
//! Running other programs: announced, with a deadline, and never left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a running program is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A program that is silent for this long gets a sign of life printed for it.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Lines of a log that are shown when a step fails.
const TAIL_LINES: usize = 20;

/// A child that is killed when this value goes away, whichever way that happens.
#[derive(Debug)]
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Both fail only where it has ended and been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command as a person would type it.
pub fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Makes the kernel end the child with `signal` when we end, even by SIGKILL.
pub fn end_with_parent(command: &mut Command, signal: i32) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec and only makes system calls that are
    // async-signal-safe; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // We may have ended before the request was made: then nobody would send it.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        })
    }
}

/// Runs a program to its end, showing what it prints.
pub fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = end_with_parent(command, libc::SIGTERM)
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a program to its end and returns what it printed; whether it failed is the caller's
/// to judge.
pub fn output(command: &mut Command) -> Result<Output> {
    let line = command_line(command);
    end_with_parent(command, libc::SIGTERM)
        .output()
        .with_context(|| format!("cannot start `{line}`"))
}

/// Runs a long program with its output appended to a log; the last lines of the log become
/// part of the error. `what` names the step in the signs of life and in the error.
pub fn run_logged(command: &mut Command, log: &Path, what: &str, deadline: Duration) -> Result<()> {
    let line = command_line(command);
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write the log `{}`", log.display()))?;
    let errors = file.try_clone().context("cannot share the log")?;
    end_with_parent(command, libc::SIGTERM)
        .stdin(std::process::Stdio::null())
        .stdout(file)
        .stderr(errors);
    let mut child = KillOnDrop(command.spawn().with_context(|| format!("cannot start `{line}`"))?);
    let status = wait(&mut child.0, what, deadline)?;
    if !status.success() {
        bail!("{what}: `{line}` failed: {status}; the end of `{}`:\n{}", log.display(), tail(log));
    }
    Ok(())
}

/// Waits for a child, and kills it at the deadline.
fn wait(child: &mut Child, what: &str, deadline: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    let mut next_sign = HEARTBEAT;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(status);
        }
        if start.elapsed() > deadline {
            let _ = child.kill();
            bail!("{what} did not end within {} s and was stopped", deadline.as_secs());
        }
        if start.elapsed() > next_sign {
            eprintln!("  … {what}: {} s", start.elapsed().as_secs());
            next_sign += HEARTBEAT;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The last lines of a file, each indented.
pub fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(TAIL_LINES);
    lines[start..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_shows_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = "for n in $(seq 30); do echo line $n; done; exit 4";
        let error = run_logged(
            Command::new("sh").args(["-c", script]),
            &log,
            "counting",
            Duration::from_secs(10),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("counting") && error.contains("exit status: 4"), "{error}");
        assert!(error.contains("line 30") && error.contains("line 11\n"), "{error}");
        assert!(!error.contains("line 10\n"), "{error}");
    }

    #[test]
    fn a_step_past_its_deadline_is_stopped_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = run_logged(
            Command::new("sleep").arg("60"),
            &dir.path().join("log"),
            "sleeping",
            Duration::from_millis(100),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("sleeping did not end within 0 s"), "{error}");
    }
}
