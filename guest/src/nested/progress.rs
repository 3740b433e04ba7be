// SPDX-License-Identifier: Apache-2.0
//! Whether a VM that boots comes further.
//!
//! Its kernel says nothing while it boots, and how long that takes depends on what boots, where,
//! and beside how many others. But whoever boots takes memory that nobody has touched before, and
//! one that hangs takes none, however busy its CPUs are. What it prints does not count: a kernel
//! can complain for ever. Both its memory and its phases have an end, and so has this.

use std::time::{Duration, Instant};

use workload::kernel::process;

/// Memory that has to come for it to count, in pages: less may come with whatever a launcher does
/// when its VM hangs.
const STEP_PAGES: u64 = 64;

/// How far a VM has come.
#[derive(Debug)]
pub struct Progress {
    /// Most pages that its launcher had resident, guest memory included.
    pages: u64,
    /// When it came further.
    last: Instant,
}

impl Progress {
    /// It begins now.
    pub fn new() -> Self {
        Self { pages: 0, last: Instant::now() }
    }

    /// It has entered another phase.
    pub fn advance(&mut self) {
        self.last = Instant::now();
    }

    /// Looks at its launcher's memory; where the kernel does not tell, only phases count.
    pub fn look(&mut self, pid: u32) {
        self.see(process::resident_pages(pid).unwrap_or(0));
    }

    fn see(&mut self, pages: u64) {
        if pages >= self.pages + STEP_PAGES {
            self.pages = pages;
            self.advance();
        }
    }

    /// For how long it has not come further.
    pub fn stalled_for(&self) -> Duration {
        self.last.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if it had come no further for so long.
    fn stalled(pages: u64, duration: Duration) -> Progress {
        let last = Instant::now().checked_sub(duration).unwrap();
        Progress { pages, last }
    }

    #[test]
    fn only_more_memory_than_ever_counts() {
        let long = Duration::from_secs(60);
        for (pages, counts) in [(1064, true), (1063, false), (1000, false), (10, false)] {
            let mut progress = stalled(1000, long);
            progress.see(pages);
            assert_eq!(progress.stalled_for() < long, counts, "{pages}");
        }
        let mut progress = stalled(1000, long);
        progress.advance();
        assert!(progress.stalled_for() < long);
    }

    #[test]
    fn a_process_tells_its_memory_and_one_that_is_gone_none() {
        assert!(process::resident_pages(std::process::id()).unwrap() > STEP_PAGES);
        assert_eq!(process::resident_pages(u32::MAX), None);
        let mut progress = stalled(0, Duration::from_secs(60));
        progress.look(u32::MAX);
        assert!(progress.stalled_for() >= Duration::from_secs(60));
    }
}
