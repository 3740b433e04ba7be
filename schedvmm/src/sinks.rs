// SPDX-License-Identifier: Apache-2.0
//! Where the guest's ports end on the host.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use results::folder::create_fresh;
use vmm::vm::Running;

use crate::service::Event;

/// Console bytes kept between two visits of the main thread. A guest prints some hundred
/// kilobytes at most while it boots; one that prints more loses it with a mark.
const CONSOLE_MAX_PENDING: usize = 1 << 20;
/// Console bytes kept for the message that tells why a run failed.
const TAIL_BYTES: usize = 4096;
/// Longest piece of the control port handed over at once.
const CONTROL_PIECE: usize = 64 << 10;

/// The console's memory ring. Writing never blocks and never fails: it happens on a vCPU
/// thread, with the guest waiting.
#[derive(Clone, Default)]
pub struct ConsoleRing(Arc<Mutex<Pending>>);

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    dropped: u64,
}

impl ConsoleRing {
    /// Takes what came since the last call, a mark for what was lost included.
    pub fn take(&self) -> Vec<u8> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = std::mem::take(&mut pending.bytes);
        let dropped = std::mem::take(&mut pending.dropped);
        drop(pending);
        if dropped > 0 {
            bytes.extend_from_slice(format!("\n[{dropped} bytes dropped]\n").as_bytes());
        }
        bytes
    }
}

impl Write for ConsoleRing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = CONSOLE_MAX_PENDING.saturating_sub(pending.bytes.len()).min(bytes.len());
        pending.bytes.extend_from_slice(&bytes[..room]);
        pending.dropped += (bytes.len() - room) as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a kernel drew on its screen before it had a console. Once it has one, it draws no more.
#[derive(Default)]
pub struct Drawn {
    was_taken: bool,
}

impl Drawn {
    /// These bytes of its console, and before the first of them what was drawn.
    pub fn before(&mut self, bytes: Vec<u8>, running: &Running) -> Vec<u8> {
        if bytes.is_empty() { bytes } else { [self.take(running), bytes].concat() }
    }

    /// What was drawn, once.
    pub fn take(&mut self, running: &Running) -> Vec<u8> {
        if std::mem::replace(&mut self.was_taken, true) {
            return Vec::new();
        }
        running.screen().into_bytes()
    }
}

/// The last few KiB of a stream.
#[derive(Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// Adds bytes, forgetting the oldest.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..excess);
    }

    /// What is remembered.
    pub fn text(&self) -> String {
        text(&self.0)
    }
}

/// Whole lines of a text that comes in pieces.
#[derive(Default)]
pub struct WholeLines(Vec<u8>);

impl WholeLines {
    /// Adds bytes; the lines that have come to their end, or to more than a line is ever long.
    pub fn push(&mut self, bytes: &[u8]) -> Option<String> {
        self.0.extend_from_slice(bytes);
        let end = match self.0.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None if self.0.len() > TAIL_BYTES => self.0.len(),
            None => return None,
        };
        Some(text(self.0.drain(..end).as_slice()))
    }

    /// The beginning of a line that has no end.
    pub fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.0);
        (!rest.is_empty()).then(|| text(&rest))
    }
}

/// With replacement characters for what is not text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Hands the control port's bytes to the main thread. When that is behind, the guest waits:
/// the port's worker keeps the guest's buffers until there is room.
pub struct ControlSink(pub SyncSender<Event>);

impl Write for ControlSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(CONTROL_PIECE)];
        match self.0.try_send(Event::Control(piece.to_vec())) {
            Ok(()) => Ok(piece.len()),
            Err(TrySendError::Full(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the trace goes, to be told before it comes: a machine is built before there is a folder.
pub type TracePath = Arc<OnceLock<PathBuf>>;

/// The file of the trace as it comes: made with the first byte, counted as it grows.
pub struct TraceSink {
    path: TracePath,
    file: Option<File>,
    written: Arc<AtomicU64>,
    max_bytes: u64,
}

impl TraceSink {
    /// A sink for `path` that takes so much, and the count of bytes written to it.
    pub fn new(path: PathBuf, max_kib: u64) -> (Self, Arc<AtomicU64>) {
        let (sink, place, written) = Self::later(max_kib);
        // It has just been made, and is empty.
        let _ = place.set(path);
        (sink, written)
    }

    /// A sink whose path is told later.
    pub fn later(max_kib: u64) -> (Self, TracePath, Arc<AtomicU64>) {
        let (path, written) = (TracePath::default(), Arc::new(AtomicU64::new(0)));
        let max_bytes = max_kib.saturating_mul(1024);
        let sink = Self { path: path.clone(), file: None, written: written.clone(), max_bytes };
        (sink, path, written)
    }

    fn file(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            slot => {
                let path = self.path.get().ok_or_else(|| io::Error::other("it has no place"))?;
                Ok(slot.insert(create_fresh(path)?))
            }
        }
    }
}

impl Write for TraceSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.max_bytes.saturating_sub(self.written.load(Ordering::Acquire));
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if room == 0 {
            let max_kib = self.max_bytes >> 10;
            let text = format!("it is as long as it may be ({max_kib}K, --max-trace)");
            return Err(io::Error::other(text));
        }
        let taken = self.file()?.write(&bytes[..bytes.len().min(room)])?;
        self.written.fetch_add(taken as u64, Ordering::Release);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut lines = WholeLines::default();
        assert_eq!(lines.push(b"Linux ver"), None);
        assert_eq!(lines.push(b"sion 6.12\n[").as_deref(), Some("Linux version 6.12\n"));
        assert_eq!(lines.push(b"1] a\n[2] b\n[3").as_deref(), Some("[1] a\n[2] b\n"));
        assert_eq!(lines.rest().as_deref(), Some("[3"));
        assert_eq!(lines.rest(), None);
        // What never ends is not kept for ever.
        assert_eq!(lines.push(&[b'x'; TAIL_BYTES]), None);
        assert_eq!(lines.push(b"x").map(|text| text.len()), Some(TAIL_BYTES + 1));
    }

    #[test]
    fn a_flood_on_the_console_is_bounded_and_marked() {
        let mut ring = ConsoleRing::default();
        ring.write_all(&vec![b'x'; CONSOLE_MAX_PENDING - 1]).expect("never fails");
        ring.write_all(b"abc").expect("never fails");
        let taken = ring.take();
        assert!(taken.ends_with(b"xa\n[2 bytes dropped]\n"));
        assert!(ring.take().is_empty());
    }

    #[test]
    fn the_tail_forgets_the_oldest() {
        let mut tail = Tail::default();
        tail.push(&[b'a'; TAIL_BYTES]);
        tail.push(b"end");
        assert_eq!(tail.0.len(), TAIL_BYTES);
        assert!(tail.text().ends_with("aend"));
    }

    #[test]
    fn a_full_channel_makes_the_guest_wait_and_a_closed_one_closes_the_port() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let mut sink = ControlSink(sender);
        assert_eq!(sink.write(b"one").expect("room"), 3);
        assert_eq!(sink.write(b"two").expect_err("full").kind(), io::ErrorKind::WouldBlock);
        drop(receiver);
        assert_eq!(sink.write(b"two").expect_err("closed").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_trace_file_appears_with_its_first_byte() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("trace.dat.raw");
        let (mut sink, written) = TraceSink::new(path.clone(), 1);
        assert!(!path.exists());
        sink.write_all(b"hello").expect("write");
        assert_eq!(written.load(Ordering::Acquire), 5);
        assert_eq!(std::fs::read(&path).expect("read"), b"hello");
        // It takes so much, and the rest is told to be too much.
        let error = sink.write_all(&[7; 1024]).expect_err("too long");
        assert!(error.to_string().contains("--max-trace"), "{error}");
        assert_eq!(std::fs::read(&path).expect("read").len(), 1024);
        let (mut sink, _) = TraceSink::new(dir.path().join("no/such/dir"), 1);
        assert!(sink.write(b"x").is_err());
    }
}
