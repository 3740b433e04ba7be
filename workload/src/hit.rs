// SPDX-License-Identifier: Apache-2.0
//! What a thread does about a gap over the threshold.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

use gaps::record::GapRecord;
use gaps::tsc::ticks_to_ns;
use protocol::index::Member;

use crate::slots::Control;

/// Files of the tracing file system, opened before the load.
pub struct TraceFiles {
    /// `trace_marker`.
    pub marker: File,
    /// `tracing_on`.
    pub switch: File,
}

/// Ends the load for one thread.
pub struct HitPublisher<'a> {
    /// What steers the load.
    pub control: &'a Control,
    /// The trace to stop.
    pub trace: Option<&'a TraceFiles>,
    /// TSC frequency.
    pub khz: u64,
    /// Place of the thread among those of all groups.
    pub index: u32,
    /// What it is called.
    pub member: Member,
}

impl HitPublisher<'_> {
    /// The threshold is passed: mark and stop the trace first, for it overwrites its own
    /// beginning with every microsecond that it goes on; then end the load.
    pub fn publish(&self, record: GapRecord) {
        let hit = &self.control.hit;
        if hit.moment_tsc.compare_exchange(0, record.tsc_end.max(1), AcqRel, Relaxed).is_err() {
            // Another thread was first, and ends the load.
            return;
        }
        hit.thread.store(self.index, Relaxed);
        if let Some(TraceFiles { marker, switch }) = self.trace {
            let mut text = Line::default();
            let ns = ticks_to_ns(record.ticks(), self.khz);
            // A line too long is cut, and a failed write leaves the trace without its marker:
            // neither may keep the trace from being stopped.
            let _ = write!(text, "schedvmm: gap of {ns} ns in {}", self.member);
            let (mut marker, mut switch) = (marker, switch);
            let _ = marker.write(text.as_bytes());
            let _ = switch.write(b"0");
        }
        hit.record.store(record);
        hit.published.store(1, Release);
        self.control.stop();
        self.control.announce();
    }
}

/// A line on the stack: formatting without allocation.
struct Line {
    bytes: [u8; 96],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 96], length: 0 }
    }
}

impl Line {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::index::Kind;

    #[test]
    fn a_line_holds_the_longest_marker_and_cuts_no_further() {
        let mut line = Line::default();
        let last = Member::of_numbers(Kind::Threads, u32::MAX, u32::MAX).unwrap();
        write!(line, "schedvmm: gap of {} ns in {last}", u64::MAX).unwrap();
        assert!(line.as_bytes().ends_with(b"group 4294967295 thread 4294967295"));
        write!(line, "{}", "x".repeat(96)).unwrap_err();
        assert!(line.as_bytes().ends_with(b"4294967295"));
    }
}
