// SPDX-License-Identifier: Apache-2.0
//! A monitor that runs: started, waited for.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::peers::Peer;
use testhost::process::KillOnDrop;

/// One monitor's whole life; about five seconds on an idle machine.
const RUN_DEADLINE: Duration = Duration::from_secs(60);
/// How often a running monitor is looked at: much less than a run, and seldom enough to leave
/// the CPUs alone.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A monitor that has been started.
pub(crate) struct Running<'a> {
    peer: &'a Peer,
    /// It.
    pub process: KillOnDrop,
    output: File,
    start: Instant,
}

impl<'a> Running<'a> {
    /// Starts it.
    pub(crate) fn start(peer: &'a Peer) -> Result<Self> {
        let output = tempfile::tempfile().context("cannot make a temporary file")?;
        let process = Command::new(&peer.command[0])
            .args(&peer.command[1..])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {}", peer.name))?;
        Ok(Self { peer, process: KillOnDrop(process), output, start: Instant::now() })
    }

    /// Waits for its exit; calls `look` every now and then.
    pub(super) fn wait(&mut self, look: impl FnMut()) -> Result<()> {
        self.wait_within(RUN_DEADLINE, look)
    }

    /// The same with a deadline of the caller's.
    pub(crate) fn wait_within(&mut self, timeout: Duration, mut look: impl FnMut()) -> Result<()> {
        let status = loop {
            if let Some(status) = self.process.0.try_wait().context("cannot wait")? {
                break status;
            }
            if self.start.elapsed() > timeout {
                bail!(
                    "{} did not exit within {} s{}",
                    self.peer.name,
                    timeout.as_secs(),
                    self.said()
                );
            }
            look();
            std::thread::sleep(POLL_INTERVAL);
        };
        if !status.success() {
            bail!("{} failed: {status}{}", self.peer.name, self.said());
        }
        Ok(())
    }

    /// Its own words, for an error.
    fn said(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.output.rewind().and_then(|()| self.output.read_to_end(&mut text));
        match read {
            Ok(_) => format!("; it said:\n{}", String::from_utf8_lossy(&text)),
            Err(error) => format!("; what it said cannot be read: {error}"),
        }
    }
}
