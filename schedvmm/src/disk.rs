// SPDX-License-Identifier: Apache-2.0
//! Room on the disk of the results: a run ends before it takes the last of it (`--min-free`).
//! Others need it, and so does the result.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use results::model::Stage;
use rustix::fs::statvfs;

/// Between two looks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The disk of a result folder.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    /// Bytes that are to stay free; 0 where there was less from the start.
    reserve_bytes: u64,
    next: Instant,
}

/// A disk that has too little room left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    folder: PathBuf,
    free_mib: u64,
    reserve_mib: u64,
    /// How far the run had come.
    pub stage: Stage,
}

impl Short {
    /// One that was found at this stage.
    #[cfg(test)]
    pub fn of_a_test(stage: Stage) -> Self {
        Self { folder: "results".into(), free_mib: 1, reserve_mib: 64, stage }
    }

    /// What is to be said of it.
    pub fn reason(&self) -> String {
        format!(
            "the disk of {} has {} MiB left, and a run leaves {} (--min-free); make room, or name \
             another --output",
            self.folder.display(),
            self.free_mib,
            self.reserve_mib
        )
    }
}

impl Disk {
    /// That of a folder, of which a run is to leave so much.
    pub fn of(folder: &Path, reserve_kib: u64) -> Self {
        let reserve_bytes = reserve_kib.saturating_mul(1024);
        let had = free_bytes(folder).is_some_and(|free| free > reserve_bytes);
        let reserve_bytes = if had { reserve_bytes } else { 0 };
        Self { folder: folder.to_owned(), reserve_bytes, next: Instant::now() }
    }

    /// Looks, from time to time; what is wrong, if the reserve is begun.
    pub fn poll(&mut self, now: Instant, stage: Stage) -> Option<Short> {
        if self.reserve_bytes == 0 || now < self.next {
            return None;
        }
        self.next = now + POLL_INTERVAL;
        let free = free_bytes(&self.folder).filter(|free| *free < self.reserve_bytes)?;
        let (free_mib, reserve_mib) = (free >> 20, self.reserve_bytes.div_ceil(1 << 20));
        Some(Short { folder: self.folder.clone(), free_mib, reserve_mib, stage })
    }
}

/// Bytes that this user may still write there; `None` where nobody knows (ramfs has no size).
fn free_bytes(folder: &Path) -> Option<u64> {
    let told = statvfs(folder).ok().filter(|told| told.f_blocks > 0)?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_is_begun_is_told_and_one_that_never_was_is_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now = Instant::now();
        assert_eq!(
            Disk::of(dir.path(), 1).poll(now + POLL_INTERVAL, Stage::Run),
            None,
            "there is room"
        );
        let mut none = Disk::of(dir.path(), u64::MAX);
        assert_eq!(none.poll(now + POLL_INTERVAL, Stage::Run), None, "there never was");
        let mut disk = Disk::of(dir.path(), 1);
        disk.reserve_bytes = u64::MAX;
        let short = disk.poll(now + POLL_INTERVAL, Stage::Run).expect("too little is left");
        assert!(short.reason().contains("(--min-free); make room"), "{}", short.reason());
        assert_eq!(disk.poll(now + POLL_INTERVAL, Stage::Run), None, "not so often");
    }
}
