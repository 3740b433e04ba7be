// SPDX-License-Identifier: Apache-2.0
//! What the two ends of the emulated host say to each other. In the simulated one, whose machine
//! has no such ports, the same streams go over its disk and its serial line.
//!
//! | port | direction | carries |
//! |---|---|---|
//! | `xtask.stdout`, `xtask.stderr` | out | what the command prints, as it comes |
//! | `xtask.out` | out | the folder `/out` as one tar archive, after the command's end |
//! | `xtask.status` | out | one `Status` a line, as JSON |
//! | `xtask.status` | in | numbers of signals for the command, one a byte |
//!
//! A virtio-console gives no end of file that outlives the machine, so the last status says
//! how many bytes each stream has had. Whoever has received them all needs the host no more.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// Names of the ports.
pub(crate) const STDOUT_PORT: &str = "xtask.stdout";
pub(crate) const STDERR_PORT: &str = "xtask.stderr";
pub(crate) const OUT_PORT: &str = "xtask.out";
pub(crate) const STATUS_PORT: &str = "xtask.status";

/// Where the job lies in the initrd; its presence also tells PID 1 that it is one of ours.
pub(crate) const JOB_PATH: &str = "/xtask-job.json";

/// The command's working directory in the host.
pub(crate) const OUT_DIR: &str = "/out";

/// What PID 1 is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// What PID 1 finds itself in.
    pub machine: Kind,
    /// The command, word by word.
    pub argv: Vec<String>,
}

/// The two machines that a host can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// QEMU's.
    #[default]
    Emulated,
    /// Bochs'.
    Simulated,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emulated => "emulated host",
            Self::Simulated => "simulated host",
        })
    }
}

impl Job {
    pub(crate) fn new(machine: Kind, argv: &[OsString]) -> Result<Self> {
        if argv.is_empty() {
            bail!("no command for the {machine}; try `sh -c 'uname -a'`");
        }
        let argv = argv.iter().map(|word| match word.to_str() {
            Some(word) if !word.contains('\0') => Ok(word.to_string()),
            _ => bail!("`{}` is not UTF-8 text", word.display()),
        });
        Ok(Self { machine, argv: argv.collect::<Result<_>>()? })
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// By itself, with this exit status.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
}

impl Ended {
    /// The exit status a shell would report.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => signal.saturating_add(128),
        }
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        // Both numbers are below 256 on Linux; one that were not is a failure in any case.
        let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        match status.signal() {
            Some(signal) => Self::Signaled(small(signal)),
            None => Self::Exited(small(status.code().unwrap_or(-1))),
        }
    }
}

/// A sign from PID 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// The host is up, and the command about to start.
    Ready,
    /// The command has ended; `/out` is being packed.
    Ended(Ended),
    /// All is sent: this many bytes on each port.
    Sent(Sent),
    /// The host could not do its job.
    Failed(String),
}

/// Lengths of the streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub stdout: u64,
    pub stderr: u64,
    pub out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_host_as_they_are() {
        let words = ["sh", "-c", "echo \"a b\"; \n", ""].map(OsString::from);
        let job = Job::new(Kind::Simulated, &words).unwrap();
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
        assert_eq!(job.argv[2], "echo \"a b\"; \n");
        assert!(Job::new(Kind::Emulated, &[]).is_err());
    }

    #[test]
    fn ends_become_the_status_a_shell_reports() {
        assert_eq!(Ended::Exited(3).code(), 3);
        assert_eq!(Ended::Signaled(15).code(), 143);
        assert_eq!(Ended::from(ExitStatus::from_raw(3 << 8)), Ended::Exited(3));
        assert_eq!(Ended::from(ExitStatus::from_raw(15)), Ended::Signaled(15));
    }
}
