// SPDX-License-Identifier: Apache-2.0
//! Between a running Bochs and whoever drives it: a thread that passes on what has come on the
//! disk and over the serial line, and sees whether the machine still runs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{self, PollFd, PollFlags, Timespec};

use super::OUTBOX_SECTOR;
use super::outbox::{Channel, Reader};
use crate::host::channels::{Channels, Process};
use crate::process::KillOnDrop;

/// How often the disk is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Bochs' log has some tens of kilobytes after a run in which all is well.
const MAX_LOG: u64 = 16 << 20;
/// How much of the end of Bochs' log and output is looked at.
const TAIL: usize = 16 * 1024;
/// Lines of it that a message has.
const SHOWN_LINES: usize = 6;

/// Bochs says so how many ticks have passed: `=== statistics dump 100000000 ===`.
const PROGRESS: &str = "=== statistics dump ";
/// Bochs' last words are in the line after this one.
const LAST_WORDS: &str = "Bochs is exiting with the following message:";

/// Our ends of what Bochs was started with.
pub(super) struct Ends {
    pub process: KillOnDrop,
    /// Its standard output and error.
    pub output: File,
    /// Our end of the serial line.
    pub terminal: File,
    pub disk: File,
    pub log: File,
    /// How long no tick may pass.
    pub tick_timeout: Duration,
}

/// What the thread has found out.
#[derive(Default)]
struct Findings {
    ticks: AtomicU64,
    fault: Mutex<Option<String>>,
    /// Not its finding: it is to end.
    stop: AtomicBool,
}

/// The thread, and Bochs with it, which both end with this value.
struct Bridge {
    findings: Arc<Findings>,
    thread: Option<JoinHandle<()>>,
}

impl Process for Bridge {
    fn fault(&self) -> Option<String> {
        self.findings.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ticks(&self) -> Option<u64> {
        Some(self.findings.ticks.load(Ordering::Relaxed))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.findings.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has panicked, which it has said, or it is through.
            let _ = thread.join();
        }
    }
}

fn pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().context("cannot make a socket pair")
}

/// Starts the thread.
pub(super) fn start(ends: Ends) -> Result<Channels> {
    let [stdout, stderr, out, status] = [pair()?, pair()?, pair()?, pair()?];
    let (console, console_write) = io::pipe().context("cannot make a pipe")?;
    let findings = Arc::new(Findings::default());
    let mut loop_ = Loop {
        reader: Reader::new(ends.disk.try_clone().context("cannot share a file")?, OUTBOX_SECTOR),
        ends,
        streams: [stdout.1, stderr.1, out.1, status.1],
        console: File::from(OwnedFd::from(console_write)),
        findings: Arc::clone(&findings),
        last_tick: Instant::now(),
        said: Vec::new(),
    };
    let thread = std::thread::spawn(move || {
        let fault = loop_.run().unwrap_or_else(|error| Some(format!("{error:#}")));
        *loop_.findings.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        // Bochs and all streams end here, after what is wrong is known.
    });
    Ok(Channels {
        console: File::from(OwnedFd::from(console)),
        stdout: stdout.0,
        stderr: stderr.0,
        out: out.0,
        status: status.0,
        process: Box::new(Bridge { findings, thread: Some(thread) }),
    })
}

/// The thread's state. Bochs and the streams end with it.
struct Loop {
    ends: Ends,
    reader: Reader,
    /// By the number of their channel.
    streams: [UnixStream; Channel::ALL.len()],
    console: File,
    findings: Arc<Findings>,
    last_tick: Instant,
    /// The end of what Bochs has said, from the last line on that was looked at.
    said: Vec<u8>,
}

/// What the thread waits for.
#[derive(Clone, Copy)]
enum Source {
    Output,
    Console,
    Signals,
}

impl Loop {
    /// Passes everything on until Bochs has ended, or has to. The reason, where it was not us who
    /// wanted it.
    fn run(&mut self) -> Result<Option<String>> {
        let mut sources = vec![Source::Output, Source::Console, Source::Signals];
        let mut buffer = vec![0; 64 * 1024];
        while !self.findings.stop.load(Ordering::Relaxed) {
            for index in self.ready(&sources)?.into_iter().rev() {
                if !self.take(sources[index], &mut buffer)? {
                    // Nobody sends signals any more: whoever drove this machine has gone.
                    if let Source::Signals = sources.remove(index) {
                        return Ok(None);
                    }
                }
            }
            let ended = self.ends.process.0.try_wait().context("cannot wait for Bochs")?;
            if !self.pass_on_records()? {
                return Ok(None);
            }
            if let Some(status) = ended {
                self.drain_output(&mut buffer);
                return Ok(Some(self.end(status)));
            }
            if self.last_tick.elapsed() > self.ends.tick_timeout {
                return Ok(Some(self.hang()));
            }
            let log = self.ends.log.metadata().context("cannot look at Bochs' log")?.len();
            if log > MAX_LOG {
                return Ok(Some(format!(
                    "Bochs' log is full ({} MiB), and the machine was stopped: something in it does \
                     what Bochs complains of, again and again; `error: action=ignore` in its options \
                     keeps errors out{}",
                    MAX_LOG >> 20,
                    self.last_words()
                )));
            }
        }
        Ok(None)
    }

    fn descriptor(&self, source: Source) -> BorrowedFd<'_> {
        match source {
            Source::Output => self.ends.output.as_fd(),
            Source::Console => self.ends.terminal.as_fd(),
            Source::Signals => self.streams[Channel::Status as usize].as_fd(),
        }
    }

    /// Which of the sources have something to read, after a while without any.
    fn ready(&self, sources: &[Source]) -> Result<Vec<usize>> {
        let mut descriptors: Vec<_> = sources
            .iter()
            .map(|source| PollFd::from_borrowed_fd(self.descriptor(*source), PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(POLL_INTERVAL)?;
        match event::poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for Bochs"),
        }
        let ready = descriptors.iter().enumerate();
        Ok(ready.filter(|(_, fd)| !fd.revents().is_empty()).map(|(index, _)| index).collect())
    }

    /// Reads once from a source that is ready; whether there can be more.
    fn take(&mut self, source: Source, buffer: &mut [u8]) -> Result<bool> {
        let read = match source {
            Source::Output => self.ends.output.read(buffer),
            Source::Console => self.ends.terminal.read(buffer),
            Source::Signals => self.streams[Channel::Status as usize].read(buffer),
        };
        let len = match read {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            // So a terminal says that nobody has its other end open.
            Err(_) => 0,
        };
        let bytes = &buffer[..len];
        match source {
            _ if len == 0 => return Ok(false),
            Source::Output => self.note_output(bytes),
            Source::Console => self.console.write_all(bytes).context("nobody reads the console")?,
            Source::Signals => self.ends.terminal.write_all(bytes).context("no serial line")?,
        }
        Ok(true)
    }

    /// Passes on what has come on the disk; whether somebody still wants it.
    fn pass_on_records(&mut self) -> Result<bool> {
        while let Some((channel, data)) = self.reader.next().context("cannot read the disk")? {
            if self.streams[channel as usize].write_all(data).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps the end of what Bochs says, and looks for signs of progress in it.
    fn note_output(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        while let Some(start) = find(&self.said, PROGRESS) {
            let rest = &self.said[start + PROGRESS.len()..];
            let Some(len) = rest.iter().position(|byte| *byte == b'\n') else { break };
            let digits = String::from_utf8_lossy(&rest[..len]);
            let ticks = digits.split_whitespace().next().and_then(|digits| digits.parse().ok());
            if let Some(ticks) = ticks {
                self.findings.ticks.store(ticks, Ordering::Relaxed);
                self.last_tick = Instant::now();
            }
            self.said.drain(start..=start + PROGRESS.len() + len);
        }
        let surplus = self.said.len().saturating_sub(TAIL);
        self.said.drain(..surplus);
    }

    /// Takes what Bochs has said before it ended.
    fn drain_output(&mut self, buffer: &mut [u8]) {
        while let Ok(len @ 1..) = self.ends.output.read(buffer) {
            self.note_output(&buffer[..len]);
        }
    }

    /// That Bochs has ended by itself.
    fn end(&self, status: ExitStatus) -> String {
        let words = self.last_words();
        match self.findings.ticks.load(Ordering::Relaxed) {
            0 => format!(
                "Bochs ended ({status}) at its start, so it refused its options or found a file \
                 missing{words}; install Debian's bochs (2.7 or later), bochsbios, vgabios and bochs-term, or \
                 use `--venue emulated`"
            ),
            ticks => {
                format!("Bochs ended ({status}) after {} million ticks{words}", ticks / 1_000_000)
            }
        }
    }

    fn hang(&self) -> String {
        let ticks = self.findings.ticks.load(Ordering::Relaxed);
        format!(
            "the simulated machine hangs: none of its ticks has passed for {} s, after {} million, \
             and it was stopped; try again, and with `--ips` or `--smt` as by default{}",
            self.ends.tick_timeout.as_secs(),
            ticks / 1_000_000,
            self.last_words()
        )
    }

    /// What Bochs has said at its end, for a message: of its own accord, or the end of its log.
    fn last_words(&self) -> String {
        let said = String::from_utf8_lossy(&self.said);
        if let Some((_, words)) = said.split_once(LAST_WORDS) {
            return format!(
                ": {}",
                words.lines().find(|line| !line.is_empty()).unwrap_or("?").trim()
            );
        }
        let log = &self.ends.log;
        let start = log.metadata().map_or(0, |metadata| metadata.len().saturating_sub(TAIL as u64));
        let mut tail = vec![0; TAIL];
        let len = log.read_at(&mut tail, start).unwrap_or(0);
        let log = String::from_utf8_lossy(&tail[..len]);
        let lines: Vec<&str> = said.lines().chain(log.lines()).collect();
        let from = lines.len().saturating_sub(SHOWN_LINES);
        lines[from..]
            .iter()
            .fold("; the end of its log:".into(), |text, line| text + "\n    " + line)
    }
}

/// Where `text` begins in `bytes`.
fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}
