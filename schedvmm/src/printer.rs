// SPDX-License-Identifier: Apache-2.0
//! What is printed while a run goes on. A terminal that was stopped (Ctrl-S), and a pipe that
//! nobody reads, block whoever writes to them, and a run is not to wait for either: the writing is
//! done by a thread for stdout and one for stderr, and everybody else hands them pieces.
//!
//! Pieces come out in the order in which they were printed, whichever stream they go to, as long
//! as neither is stuck. Verbs that are no runs never start the threads: they write themselves, and
//! the reader of a long text sets the pace.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm::vcpu::sched;

/// Bytes that wait for a stream at most; what is printed beyond is dropped, and counted.
const MAX_PENDING_BYTES: usize = 4 << 20;
/// Bytes of one write: what has been taken of a long text shows that its reader is alive.
const CHUNK_BYTES: usize = 4 << 10;
/// A stream whose write takes longer than this is stuck: the other one does not wait for it.
const STUCK_AFTER: Duration = Duration::from_millis(200);
/// Between two looks at a stream that may be stuck.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Where something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// stdout.
    Out,
    /// stderr.
    Err,
}

struct Piece {
    stream: Stream,
    bytes: Vec<u8>,
}

/// What waits, and who writes.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces`, of each stream.
    bytes: [usize; 2],
    /// Pieces that there was no room for, of each.
    dropped: [u64; 2],
    /// Since when each stream's write under way has taken nothing.
    writing: [Option<Instant>; 2],
    /// When something was taken last, or the first piece came.
    moved: Option<Instant>,
    /// CPUs that are measured, and how often they were told.
    measured: (u64, Vec<usize>),
}

impl Queue {
    /// Which piece comes next for `stream`, if it is its turn.
    fn turn(&self, stream: Stream, now: Instant) -> Option<usize> {
        let at = self.pieces.iter().position(|piece| piece.stream == stream)?;
        let other = match stream {
            Stream::Out => Stream::Err,
            Stream::Err => Stream::Out,
        };
        match self.writing[other as usize] {
            Some(since) => now.duration_since(since) >= STUCK_AFTER,
            None => at == 0,
        }
        .then_some(at)
    }

    fn is_idle(&self) -> bool {
        self.pieces.is_empty() && self.writing == [None; 2]
    }
}

/// Pieces on their way to the writing threads.
#[derive(Default)]
struct Printer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

static PRINTER: OnceLock<Printer> = OnceLock::new();

impl Printer {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait_timeout(queue, POLL_INTERVAL);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn push(&self, stream: Stream, bytes: Vec<u8>) {
        let mut queue = self.lock();
        // However long one text is, it is taken when nothing waits.
        let pending = queue.bytes[stream as usize];
        if pending > 0 && pending + bytes.len() > MAX_PENDING_BYTES {
            queue.dropped[stream as usize] += 1;
            return;
        }
        let dropped = std::mem::take(&mut queue.dropped[stream as usize]);
        if dropped > 0 {
            let bytes = format!("[{dropped} lines were not taken]\n").into_bytes();
            queue.bytes[stream as usize] += bytes.len();
            queue.pieces.push_back(Piece { stream, bytes });
        }
        if queue.is_idle() {
            queue.moved = Some(Instant::now());
        }
        queue.bytes[stream as usize] += bytes.len();
        queue.pieces.push_back(Piece { stream, bytes });
        self.changed.notify_all();
    }

    /// The next piece for `stream`, as soon as it is its turn.
    fn next(&self, stream: Stream, placed: &mut u64, home: &[usize]) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if *placed != queue.measured.0 {
                *placed = queue.measured.0;
                sched::keep_to(home, &queue.measured.1);
            }
            if let Some(at) = queue.turn(stream, Instant::now())
                && let Some(piece) = queue.pieces.remove(at)
            {
                queue.bytes[stream as usize] -= piece.bytes.len();
                queue.writing[stream as usize] = Some(Instant::now());
                return piece.bytes;
            }
            // Only who has a piece needs to look whether the other one is stuck: a stream that nobody
            // reads wakes no thread beside a measurement.
            let has_piece = queue.bytes[stream as usize] > 0;
            queue = if has_piece {
                self.wait(queue)
            } else {
                self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// A part of a piece was taken; the last one, if `done`.
    fn moved(&self, stream: Stream, done: bool) {
        let mut queue = self.lock();
        let now = Instant::now();
        queue.moved = Some(now);
        queue.writing[stream as usize] = if done { None } else { Some(now) };
        self.changed.notify_all();
    }

    fn serve(&self, stream: Stream, mut write: impl FnMut(&[u8])) {
        // Each run measures CPUs of its own.
        let home = sched::affinity().unwrap_or_default();
        let mut placed = 0;
        loop {
            let bytes = self.next(stream, &mut placed, &home);
            for chunk in bytes.chunks(CHUNK_BYTES) {
                write(chunk);
                self.moved(stream, false);
            }
            self.moved(stream, true);
        }
    }

    /// Whether all was taken, before nothing more was for longer than the reader may take.
    fn finish(&self, patience: impl Fn() -> Duration) -> bool {
        let mut queue = self.lock();
        let begin = Instant::now();
        while !queue.is_idle() {
            // A reader that has taken nothing for long is given its time all the same.
            let since = queue.moved.map_or(begin, |moved| moved.max(begin));
            if since.elapsed() >= patience() {
                return false;
            }
            queue = self.wait(queue);
        }
        true
    }
}

/// From now on printing never blocks. To be called before a run.
///
/// # Errors
/// No thread left.
pub fn start() -> io::Result<()> {
    if PRINTER.get().is_some() {
        return Ok(());
    }
    let printer = PRINTER.get_or_init(Printer::default);
    for (stream, name) in [(Stream::Out, "schedvmm-stdout"), (Stream::Err, "schedvmm-stderr")] {
        let serve = move || printer.serve(stream, |bytes| write_now(stream, bytes));
        thread::Builder::new().name(name.into()).spawn(serve)?;
    }
    Ok(())
}

/// Prints bytes as they are. A closed stream takes them: files and the status tell all the same.
pub fn print(stream: Stream, bytes: Vec<u8>) {
    match PRINTER.get() {
        Some(printer) => printer.push(stream, bytes),
        None => write_now(stream, &bytes),
    }
}

/// Prints bytes on stdout as they are, and says whether they were taken. In a run they wait as all
/// others do, and are taken so far.
///
/// # Errors
/// They are not, as by a disk that is full.
pub fn print_whole(bytes: &[u8]) -> io::Result<()> {
    match PRINTER.get() {
        Some(printer) => printer.push(Stream::Out, bytes.to_vec()),
        None => write_out(bytes)?,
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this is the way")]
fn write_now(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Out => write_out(bytes),
        Stream::Err => io::stderr().write_all(bytes),
    };
}

#[expect(clippy::disallowed_methods, reason = "this is the way")]
fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// Bytes that were printed and that nobody has taken yet.
pub fn pending_bytes() -> usize {
    PRINTER.get().map_or(0, |printer| printer.lock().bytes.iter().sum())
}

/// Keeps the writing threads off CPUs that are measured, as [`sched::keep_off`] does the caller.
pub fn keep_off(measured: &[usize]) {
    if let Some(printer) = PRINTER.get() {
        let mut queue = printer.lock();
        queue.measured = (queue.measured.0 + 1, measured.to_vec());
        // Now, and not with the next word, which may come while they are measured.
        printer.changed.notify_all();
    }
}

/// Waits until all that was printed has been taken, or nothing more of it for as long as
/// `patience` says, which is asked again and again. False if some of it is lost.
pub fn finish(patience: impl Fn() -> Duration) -> bool {
    PRINTER.get().is_none_or(|printer| printer.finish(patience))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{self, Receiver};

    use super::*;

    /// A printer whose stdout takes a chunk for each word that comes from `gate`.
    fn printer(gate: Receiver<()>) -> (Arc<Printer>, Receiver<String>) {
        let printer = Arc::new(Printer::default());
        let (taken, takes) = mpsc::channel();
        let (one, two, also) = (Arc::clone(&printer), Arc::clone(&printer), taken.clone());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        thread::spawn(move || {
            one.serve(Stream::Out, |bytes| {
                let _ = gate.recv();
                let _ = taken.send(text(bytes));
            });
        });
        thread::spawn(move || two.serve(Stream::Err, |bytes| drop(also.send(text(bytes)))));
        (printer, takes)
    }

    fn print(printer: &Printer, stream: Stream, text: &str) {
        printer.push(stream, text.as_bytes().to_vec());
    }

    #[test]
    fn both_streams_come_in_order() {
        let (open, gate) = mpsc::channel();
        (0..100).for_each(|_| open.send(()).expect("a gate"));
        let (printer, takes) = printer(gate);
        for n in 0..50 {
            print(&printer, Stream::Out, &format!("{n} out"));
            print(&printer, Stream::Err, &format!("{n} err"));
        }
        assert!(printer.finish(|| Duration::from_secs(60)));
        let all: Vec<_> = takes.try_iter().collect();
        let wanted = (0..50).flat_map(|n| [format!("{n} out"), format!("{n} err")]);
        assert_eq!(all, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn a_stuck_stdout_stops_neither_us_nor_stderr() {
        let (open, gate) = mpsc::channel();
        let (printer, takes) = printer(gate);
        print(&printer, Stream::Out, "stuck");
        for _ in 0..3 {
            print(&printer, Stream::Out, &"x".repeat(MAX_PENDING_BYTES / 2));
        }
        print(&printer, Stream::Err, "to stderr");
        assert_eq!(takes.recv_timeout(Duration::from_secs(60)).as_deref(), Ok("to stderr"));
        assert!(printer.lock().bytes[0] <= MAX_PENDING_BYTES);
        assert!(!printer.finish(|| Duration::from_millis(1)), "nobody reads");
        thread::sleep(Duration::from_millis(60));
        let begin = Instant::now();
        assert!(!printer.finish(|| Duration::from_millis(50)), "nobody has read for longer");
        assert!(begin.elapsed() >= Duration::from_millis(50));
        // Somebody does again.
        drop(open);
        assert!(printer.finish(|| Duration::from_secs(60)));
        print(&printer, Stream::Out, "and on");
        assert!(printer.finish(|| Duration::from_secs(60)));
        let all: Vec<_> = takes.try_iter().collect();
        assert_eq!(all[0], "stuck");
        let last = &all[all.len() - 2..];
        assert!(last[0].ends_with("lines were not taken]\n") && last[1] == "and on", "{last:?}");
    }
}
