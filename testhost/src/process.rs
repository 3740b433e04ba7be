// SPDX-License-Identifier: Apache-2.0
//! Running other programs: announced, with a deadline, and never left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a running program is looked at, at the most and at the least: short ones should
/// not wait for us, nor long ones be disturbed.
const POLL_INTERVAL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// A build that has printed nothing for so long hangs: the longest steps, the link of vmlinux and that
/// with LTO, take some minutes.
pub const BUILD_SILENCE: Duration = Duration::from_secs(15 * 60);

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
                return Err(io::Error::last_os_error());
            }
            // We may have ended before the request was made: then nobody would send it.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
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

/// Runs a program to its end with our own streams; whether it failed is the caller's to judge.
/// `what` names it in signs of life and in the error.
///
/// # Errors
/// It cannot be started, or has not ended at the deadline and was stopped.
pub fn run_until(command: &mut Command, what: &str, deadline: Duration) -> Result<ExitStatus> {
    let line = command_line(command);
    end_with_parent(command, libc::SIGTERM);
    let mut child = KillOnDrop(command.spawn().with_context(|| format!("cannot start `{line}`"))?);
    wait(&mut child.0, what, deadline)
}

/// Runs a program to its end and returns what it printed to its standard output; whether it
/// failed is the caller's to judge.
pub fn capture(command: &mut Command, deadline: Duration) -> Result<(ExitStatus, String)> {
    let line = command_line(command);
    // A file, unlike a pipe, takes any amount without a reader.
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    let theirs = file.try_clone().context("cannot share a temporary file")?;
    end_with_parent(command, libc::SIGTERM).stdin(Stdio::null()).stdout(theirs);
    let mut child = KillOnDrop(command.spawn().with_context(|| format!("cannot start `{line}`"))?);
    let status = wait(&mut child.0, &line, deadline)?;
    let mut bytes = Vec::new();
    file.rewind().context("cannot read a temporary file")?;
    file.read_to_end(&mut bytes).context("cannot read a temporary file")?;
    Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Runs a program to its end, and shows its output line by line as it comes: standard output
/// and standard error alike, both to our standard output. `on_line` sees every line too.
///
/// # Errors
/// It cannot be started, or has printed nothing for `silence` and was stopped.
pub fn run_shown(
    command: &mut Command,
    what: &str,
    silence: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<ExitStatus> {
    let line = command_line(command);
    let (output, theirs) = io::pipe().context("cannot make a pipe")?;
    let theirs_too = theirs.try_clone().context("cannot share a pipe")?;
    end_with_parent(command, libc::SIGTERM).stdin(Stdio::null()).stdout(theirs).stderr(theirs_too);
    let mut child = KillOnDrop(command.spawn().with_context(|| format!("cannot start `{line}`"))?);
    // The command holds our copies of the pipe's far end.
    *command = Command::new(command.get_program());

    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    loop {
        match lines.recv_timeout(silence) {
            Ok(line) => {
                println!("{line}");
                on_line(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("{what} printed nothing for {} s and was stopped", silence.as_secs())
            }
        }
    }
    wait(&mut child.0, what, silence)
}

/// Runs a long program with its output appended to a log; the last lines of the log become
/// part of the error. `what` names the step in the signs of life and in the error.
///
/// # Errors
/// It cannot be started, fails, or has printed nothing for `silence` and was stopped: how long a
/// build takes depends on the machine, and what else that does.
pub fn run_logged(command: &mut Command, log: &Path, what: &str, silence: Duration) -> Result<()> {
    let line = command_line(command);
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write the log `{}`", log.display()))?;
    let errors = file.try_clone().context("cannot share the log")?;
    let written = file.try_clone().context("cannot share the log")?;
    end_with_parent(command, libc::SIGTERM).stdin(Stdio::null()).stdout(file).stderr(errors);
    let mut child = KillOnDrop(command.spawn().with_context(|| format!("cannot start `{line}`"))?);
    let mut progress = Progress { log: &written, bytes: 0, at: Instant::now(), silence };
    let status = wait_while(&mut child.0, what, || progress.goes_on(what))?;
    if !status.success() {
        bail!("{what}: `{line}` failed: {status}; the end of `{}`:\n{}", log.display(), tail(log));
    }
    Ok(())
}

/// How far a program has come, by its log.
struct Progress<'a> {
    log: &'a File,
    bytes: u64,
    /// When it was last seen to have grown.
    at: Instant,
    silence: Duration,
}

impl Progress<'_> {
    fn goes_on(&mut self, what: &str) -> Result<()> {
        let bytes = self.log.metadata().context("cannot look at the log")?.len();
        if bytes != self.bytes {
            (self.bytes, self.at) = (bytes, Instant::now());
        }
        if self.at.elapsed() > self.silence {
            bail!("{what} printed nothing for {} s and was stopped", self.silence.as_secs());
        }
        Ok(())
    }
}

/// Waits for a child, and kills it at the deadline.
fn wait(child: &mut Child, what: &str, deadline: Duration) -> Result<ExitStatus> {
    let start = Instant::now();
    wait_while(child, what, || {
        if start.elapsed() > deadline {
            bail!("{what} did not end within {} s and was stopped", deadline.as_secs());
        }
        Ok(())
    })
}

/// Waits for a child while that is worth it, and kills it then.
fn wait_while(
    child: &mut Child,
    what: &str,
    mut goes_on: impl FnMut() -> Result<()>,
) -> Result<ExitStatus> {
    let start = Instant::now();
    let mut next_sign = HEARTBEAT;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(status);
        }
        if let Err(error) = goes_on() {
            let _ = child.kill();
            return Err(error);
        }
        if start.elapsed() > next_sign {
            eprintln!("  … {what}: {} s", start.elapsed().as_secs());
            next_sign += HEARTBEAT;
        }
        std::thread::sleep(start.elapsed().clamp(POLL_INTERVAL.0, POLL_INTERVAL.1));
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
    fn output_is_captured_whole() {
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100000; exit 5"]);
        let (status, text) = capture(&mut command, Duration::from_secs(20)).unwrap();
        assert_eq!(status.code(), Some(5));
        assert_eq!(text.lines().last(), Some("100000"));
    }

    #[test]
    fn shown_output_reaches_the_caller_too() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 6"]);
        let mut lines = Vec::new();
        let on_line = |line: &str| lines.push(line.to_string());
        let status = run_shown(&mut command, "two", Duration::from_secs(20), on_line).unwrap();
        assert_eq!(status.code(), Some(6));
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_step_past_its_deadline_is_stopped_and_named() {
        let mut command = Command::new("sleep");
        let limit = Duration::from_millis(100);
        let error = run_until(command.arg("60"), "sleeping", limit).unwrap_err().to_string();
        assert!(error.contains("sleeping did not end within 0 s"), "{error}");
    }

    #[test]
    fn a_long_step_may_take_its_time_while_it_prints() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let limit = Duration::from_millis(1500);
        let mut command = Command::new("sh");
        command.args(["-c", "for n in 1 2 3 4; do echo $n; sleep 0.8; done"]);
        let begin = Instant::now();
        run_logged(&mut command, &log, "counting slowly", limit).unwrap();
        assert!(begin.elapsed() > limit);
        let mut command = Command::new("sh");
        command.args(["-c", "for n in 1 2 3 4; do echo $n; sleep 0.8; done; exec sleep 60"]);
        let mut lines = 0;
        let begin = Instant::now();
        let error = run_shown(&mut command, "shown", limit, |_| lines += 1).unwrap_err();
        assert_eq!(error.to_string(), "shown printed nothing for 1 s and was stopped");
        assert_eq!(lines, 4);
        assert!((Duration::from_millis(3900)..Duration::from_secs(30)).contains(&begin.elapsed()));
        let mut command = Command::new("sh");
        let begin = Instant::now();
        let error = run_logged(command.args(["-c", "echo 1; sleep 60"]), &log, "sleeping", limit);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("sleeping printed nothing for 1 s"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
