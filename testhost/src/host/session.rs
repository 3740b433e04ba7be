// SPDX-License-Identifier: Apache-2.0
//! One run of the emulated or simulated host, seen from outside: everything that comes out of it,
//! in one loop, until all of it is here or a deadline has passed.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{self, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::accident::HostLost;
use super::channels::Channels;
use super::protocol::{Ended, Job, Sent, Status};
use super::signals::{Interrupted, Signals};

/// While `/out` is packed and sent, nothing may come for this long.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(60);

/// A signal that comes so soon after the first one is the same one again.
const SAME_SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// What the console keeps for an error report.
const CONSOLE_KEPT: usize = 16 * 1024;

/// Lines of it that are shown.
const CONSOLE_SHOWN_LINES: usize = 30;

/// QEMU says this of a dozen features of the CPU model, once for each CPU.
const CONSOLE_NOISE: &str = "warning: TCG doesn't support requested feature";

/// A line of status is shorter than this, or its sender is not ours.
const STATUS_MAX: usize = 64 * 1024;

/// Where a piece of the command's output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// How long the parts of a run may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub boot: Duration,
    pub command: Duration,
    /// Longest time without output of the command.
    pub silence: Duration,
}

/// What a finished run has brought.
pub(super) struct Finished {
    pub ended: Ended,
    /// The contents of `/out` as a tar archive, to be read from its beginning.
    pub out: File,
    /// Ticks of the machine's own clock until then, if it counts them.
    pub ticks: Option<u64>,
}

/// All that a descriptor of the loop can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Console,
    Stdout,
    Stderr,
    Out,
    Status,
    Signals,
}

/// How far the run is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Booting,
    Running,
    Sending(Ended),
    Sent(Ended, Sent),
}

/// A run in progress.
pub(super) struct Session {
    channels: Channels,
    limits: Limits,
    signals: Option<Signals>,
    signalled: Option<Instant>,
    phase: Phase,
    phase_start: Instant,
    last_output: Instant,
    /// Sources that have not come to their end.
    open: Vec<Source>,
    received: Sent,
    console: Vec<u8>,
    status: Vec<u8>,
    out: File,
}

impl Session {
    /// Of a machine that has just been started.
    pub(super) fn new(
        channels: Channels,
        limits: Limits,
        signals: Option<Signals>,
    ) -> Result<Self> {
        let mut open =
            vec![Source::Console, Source::Stdout, Source::Stderr, Source::Out, Source::Status];
        open.extend(signals.as_ref().map(|_| Source::Signals));
        Ok(Self {
            channels,
            limits,
            signals,
            signalled: None,
            phase: Phase::Booting,
            phase_start: Instant::now(),
            last_output: Instant::now(),
            open,
            received: Sent::default(),
            console: Vec::new(),
            status: Vec::new(),
            out: tempfile::tempfile().context("cannot make a temporary file")?,
        })
    }

    /// Sees the run to its end.
    pub(super) fn drive(
        &mut self,
        job: &Job,
        on_output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Finished> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Phase::Sent(ended, sent) = self.phase
                && sent == self.received
            {
                self.out.rewind().context("cannot read the temporary file")?;
                let ticks = self.channels.process.ticks();
                return Ok(Finished { ended, out: self.out.try_clone()?, ticks });
            }
            if !self.open.iter().any(|source| *source != Source::Signals) {
                let what = self.waiting_for(job);
                let words = self.last_words();
                let host = job.machine;
                let lost = match self.channels.process.fault() {
                    Some(fault) => format!("the {host} ended before {what}: {fault}{words}"),
                    None => format!("the {host} ended before {what}{words}"),
                };
                return Err(HostLost(lost).into());
            }
            let (since, timeout) = self.timeout();
            let Some(left) = timeout.checked_sub(since.elapsed()) else {
                let what = self.waiting_for(job);
                let seconds = timeout.as_secs();
                let words = self.last_words();
                let lost =
                    format!("{what}, or a sign of it, did not come within {seconds} s{words}");
                return Err(HostLost(lost).into());
            };
            for source in self.ready(left)? {
                self.take(source, &mut buffer, on_output)?;
            }
        }
    }

    /// What the run is waiting for, for a message.
    fn waiting_for(&self, job: &Job) -> String {
        match self.phase {
            Phase::Booting => "the start of its first process".into(),
            Phase::Running => format!("the end of `{}`", job.argv.join(" ")),
            Phase::Sending(_) | Phase::Sent(..) => "the arrival of the files in /out".into(),
        }
    }

    /// How long to wait for the next step, and since when: of two limits the one that ends first.
    fn timeout(&self) -> (Instant, Duration) {
        let Limits { boot, command, silence } = self.limits;
        match self.phase {
            Phase::Booting => (self.phase_start, boot),
            Phase::Running if self.last_output + silence < self.phase_start + command => {
                (self.last_output, silence)
            }
            Phase::Running => (self.phase_start, command),
            Phase::Sending(_) | Phase::Sent(..) => (self.phase_start, TRANSFER_DEADLINE),
        }
    }

    /// The sources with something to read, after waiting for one up to `left`.
    fn ready(&self, left: Duration) -> Result<Vec<Source>> {
        let entry =
            |source: &Source| PollFd::from_borrowed_fd(self.descriptor(*source), PollFlags::IN);
        let mut descriptors: Vec<_> = self.open.iter().map(entry).collect();
        // Longer than to the millisecond before it, through which the loop would spin.
        let timeout = Timespec::try_from(left + Duration::from_millis(1))?;
        match event::poll(&mut descriptors, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("cannot wait for the host"),
        }
        let ready = self.open.iter().zip(&descriptors);
        Ok(ready.filter(|(_, fd)| !fd.revents().is_empty()).map(|(source, _)| *source).collect())
    }

    fn descriptor(&self, source: Source) -> BorrowedFd<'_> {
        match (source, &self.signals) {
            (Source::Stdout, _) => self.channels.stdout.as_fd(),
            (Source::Stderr, _) => self.channels.stderr.as_fd(),
            (Source::Out, _) => self.channels.out.as_fd(),
            (Source::Status, _) => self.channels.status.as_fd(),
            (Source::Signals, Some(signals)) => signals.as_fd(),
            (Source::Console | Source::Signals, _) => self.channels.console.as_fd(),
        }
    }

    /// Reads once from a source that is ready, and does what it says.
    fn take(
        &mut self,
        source: Source,
        buffer: &mut [u8],
        on_output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<()> {
        let read = match source {
            Source::Signals => return self.hand_on_signal(),
            Source::Console => self.channels.console.read(buffer),
            Source::Stdout => self.channels.stdout.read(buffer),
            Source::Stderr => self.channels.stderr.read(buffer),
            Source::Out => self.channels.out.read(buffer),
            Source::Status => self.channels.status.read(buffer),
        };
        let len = match read {
            Ok(len) => len,
            // The peer's end, when it died with data of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("cannot read from the host"),
        };
        if len == 0 {
            self.open.retain(|open| *open != source);
            return Ok(());
        }
        let bytes = &buffer[..len];
        self.last_output = Instant::now();
        let count = u64::try_from(len)?;
        match source {
            Source::Stdout => {
                self.received.stdout += count;
                on_output(Stream::Stdout, bytes);
            }
            Source::Stderr => {
                self.received.stderr += count;
                on_output(Stream::Stderr, bytes);
            }
            Source::Out => {
                self.received.out += count;
                self.phase_start = Instant::now();
                self.out.write_all(bytes).context("cannot keep the files of /out")?;
            }
            Source::Status => return self.note_status(bytes),
            Source::Console | Source::Signals => {
                self.console.extend_from_slice(bytes);
                let surplus = self.console.len().saturating_sub(CONSOLE_KEPT);
                self.console.drain(..surplus);
            }
        }
        Ok(())
    }

    /// The first signal is for the command; a second one says that it was no use.
    fn hand_on_signal(&mut self) -> Result<()> {
        let Some(signals) = &self.signals else { return Ok(()) };
        let signal = signals.read()?;
        // timeout(1) sends its signal to the process and to its group: these are one.
        if self.signalled.is_some_and(|first| first.elapsed() < SAME_SIGNAL_INTERVAL) {
            return Ok(());
        }
        if self.signalled.is_some() || self.phase != Phase::Running {
            return Err(Interrupted(signal).into());
        }
        self.signalled = Some(Instant::now());
        self.channels.status.write_all(&[signal]).context("cannot reach the host")
    }

    fn note_status(&mut self, bytes: &[u8]) -> Result<()> {
        self.status.extend_from_slice(bytes);
        while let Some(end) = self.status.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.status.drain(..=end).collect();
            let status = serde_json::from_slice(&line)
                .with_context(|| format!("the host sent `{}`", String::from_utf8_lossy(&line)))?;
            self.phase_start = Instant::now();
            self.last_output = self.phase_start;
            self.phase = match (status, self.phase) {
                (Status::Ready, _) => Phase::Running,
                (Status::Ended(ended), _) => Phase::Sending(ended),
                (Status::Sent(sent), Phase::Sending(ended)) => Phase::Sent(ended, sent),
                (Status::Failed(reason), _) => bail!("the host: {reason}"),
                (status, phase) => bail!("the host says {status:?} while {phase:?}"),
            };
        }
        if self.status.len() > STATUS_MAX {
            bail!("the host sent a status line without an end");
        }
        Ok(())
    }

    /// The end of the console, if there is anything on it.
    fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.console);
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains(CONSOLE_NOISE)).collect();
        if lines.is_empty() {
            return "; its console is empty".into();
        }
        let start = lines.len().saturating_sub(CONSOLE_SHOWN_LINES);
        let shown: String = lines[start..].iter().map(|line| format!("    {line}\n")).collect();
        format!("; the end of its console:\n{shown}")
    }
}
