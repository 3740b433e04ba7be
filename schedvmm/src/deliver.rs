// SPDX-License-Identifier: Apache-2.0
//! A result on its way to the user: into the folder, and onto the screen.

use std::fs::OpenOptions;
use std::path::Path;

use crate::folder::{Folder, FolderError};
use crate::result::{Clock, RunResult, Trace};
use crate::session::Session;
use crate::show::Show;
use crate::status::{ExitStatus, Failure};

/// How often the trace is halved to make room.
const TRACE_CUTS: u32 = 4;

/// Where a result goes.
pub struct Delivery<'a> {
    /// Its folder.
    pub folder: &'a Folder,
    /// Where the trace lies.
    pub trace_path: &'a Path,
    /// The single gaps.
    pub session: &'a Session,
    /// The screen.
    pub show: &'a Show,
}

impl Delivery<'_> {
    /// Writes the result's files and shows the result. The answer stands, and is not lost,
    /// even if the disk takes nothing.
    pub fn deliver(&self, result: &mut RunResult) {
        let written = self.write(result);
        self.show.end(result, self.folder.path());
        if let Err(error) = written {
            self.show.remark(&Failure::new(ExitStatus::Host, error).to_string());
            self.show.rescue(result);
        }
    }

    /// On a full disk the trace, by far the largest of the files, gives up its end.
    fn write(&self, result: &mut RunResult) -> Result<(), FolderError> {
        for _ in 0..TRACE_CUTS {
            match self.write_once(result) {
                Err(error) if error.is_full() && self.cut_trace(&mut result.trace) => {}
                written => return written,
            }
        }
        self.write_once(result)
    }

    /// One file that cannot be written does not keep the others from it.
    fn write_once(&self, result: &RunResult) -> Result<(), FolderError> {
        let clock = Clock::of(self.session, result.job.load.threads_per_group);
        let gaps = self.folder.write_gaps(&self.session.gaps, clock);
        let histograms = self.folder.write_histograms(&result.threads);
        self.folder.write_result(result).and(gaps).and(histograms)
    }

    /// Halves the trace, if it lies in the result folder. False if that gives no room.
    fn cut_trace(&self, trace: &mut Trace) -> bool {
        let half = trace.bytes / 2;
        if half == 0 || !self.trace_path.starts_with(self.folder.path()) {
            return false;
        }
        let cut = OpenOptions::new().write(true).open(self.trace_path);
        if cut.and_then(|file| file.set_len(half)).is_err() {
            return false;
        }
        trace.bytes = half;
        trace.complete = false;
        trace.note = Some("the trace is cut: the disk is full".into());
        true
    }
}
