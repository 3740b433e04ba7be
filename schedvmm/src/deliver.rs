// SPDX-License-Identifier: Apache-2.0
//! A result on its way to the user: into the folder, and onto the screen.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use gaps::record::GapRecord;
use results::clock::Clock;
use results::folder::{Folder, FolderError};
use results::model::{RunResult, Trace, TraceForm};

use crate::analysis::parted::{after_hit_ns, clock_of};
use crate::explain;
use crate::session::Session;
use crate::show::Show;
use crate::status::chain;

/// How often the trace is halved to make room.
const TRACE_CUTS: u32 = 4;

/// The shortest interval between results that are written while a run goes on.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// They take one part of so many of the time, at most.
const CHECKPOINT_DUTY_DIVISOR: u32 = 50;

/// What has been measured so far.
pub struct SoFar<'a> {
    /// Each thread's gaps.
    pub gaps: &'a [Vec<GapRecord>],
    /// The time and the threads in them.
    pub clock: Clock<'a>,
    /// All else, where it is due.
    pub result: Option<&'a RunResult>,
    /// Since then it was put together.
    pub begin: Instant,
}

/// Keeps on the disk what has been measured so far, for a process that is killed.
#[derive(Debug, Default)]
pub struct Checkpoints {
    next: Option<Instant>,
    failed: bool,
}

impl Checkpoints {
    /// Whether it is time for a new result.json.
    pub fn result_is_due(&self) -> bool {
        self.next.is_none_or(|next| next <= Instant::now())
    }

    /// A second has passed, or the load has begun: adds the new gaps to gaps.csv and, where there
    /// is one, writes the result. Returns what went wrong, the first time that something does: the
    /// run goes on without.
    pub fn keep(&mut self, folder: &mut Folder, so_far: &SoFar<'_>) -> Option<String> {
        let mut kept = folder.add_gaps(so_far.gaps, so_far.clock);
        if let Some(result) = so_far.result {
            kept = kept.and(folder.write_result(result));
            let now = Instant::now();
            let took = now - so_far.begin;
            self.next = Some(now + CHECKPOINT_INTERVAL.max(took * CHECKPOINT_DUTY_DIVISOR));
        }
        let error = kept.err()?;
        (!std::mem::replace(&mut self.failed, true)).then(|| {
            let error = chain(error);
            format!("{error}; what is measured stays in memory until the end")
        })
    }
}

/// Where a result goes.
pub struct Delivery<'a> {
    /// Its folder.
    pub folder: &'a mut Folder,
    /// The single gaps.
    pub session: &'a Session,
    /// The screen.
    pub show: &'a Show,
}

impl Delivery<'_> {
    /// Writes the result's files and shows the result. The answer stands, and is not lost,
    /// even if the disk takes nothing.
    ///
    /// # Errors
    /// It takes nothing: the result has been printed.
    pub fn deliver(&mut self, result: &mut RunResult) -> Result<(), FolderError> {
        if let Err(failure) = explain::complete(result, self.show.bar()) {
            result.notes.push(format!("no explanation: {failure}"));
        }
        let written = self.write(result);
        self.show.end(result, self.folder.path());
        if let Err(error) = &written {
            self.show.remark(&chain(error));
            self.show.rescue(result);
        }
        written
    }

    /// On a full disk the trace, by far the largest of the files, gives up its end.
    fn write(&mut self, result: &mut RunResult) -> Result<(), FolderError> {
        for _ in 0..TRACE_CUTS {
            match self.write_once(result) {
                Err(error) if error.is_full() && self.cut_trace(&mut result.trace) => {}
                written => return written,
            }
        }
        self.write_once(result)
    }

    /// One file that cannot be written does not keep the others from it.
    fn write_once(&mut self, result: &RunResult) -> Result<(), FolderError> {
        let clock = clock_of(self.session, &result.job.load);
        let gaps = self.folder.add_gaps(&self.session.gaps, clock);
        let histograms =
            self.folder.write_histograms(&result.threads, &after_hit_ns(self.session, clock));
        self.folder.write_result(result).and(gaps).and(histograms)
    }

    /// Halves the trace as it came, if it lies in the result folder: it can be read up to its
    /// end. A trace.dat cannot, and goes as a whole. False if that gives no room.
    fn cut_trace(&self, trace: &mut Trace) -> bool {
        let Some(path) = trace.file.as_ref().map(Path::new) else { return false };
        if trace.bytes == 0 || !path.starts_with(self.folder.path()) {
            return false;
        }
        let half = trace.bytes / 2;
        let cut = match trace.form {
            Some(TraceForm::Raw) => {
                OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(half))
            }
            _ => fs::remove_file(path),
        };
        if cut.is_err() {
            return false;
        }
        let why = "the disk is full";
        if trace.form == Some(TraceForm::Raw) {
            trace.bytes = half;
            trace.note = Some(format!("the trace is cut: {why}"));
        } else {
            let Trace { via, shipped_bytes, .. } = *trace;
            let note = Some(format!("the trace has been deleted: {why}"));
            *trace = Trace { via, shipped_bytes, note, ..Trace::default() };
        }
        trace.complete = false;
        true
    }
}
