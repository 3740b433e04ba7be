// SPDX-License-Identifier: Apache-2.0
//! What unit tests share.

pub mod made;

use std::fs;
use std::time::{Duration, Instant};

use protocol::group::{GroupSpec, SleepSpec};
use protocol::index::{GroupIndex, Kind, Member, ThreadIndex};
use protocol::job::{CoschedRequest, Job, LoadSpec};
use protocol::report::ThreadReport;
use results::model::{RunResult, Statistics, Thread};

use crate::compose::Account;
use crate::doubt::Terms;
use crate::session::{Limits, Session};
use crate::verdict::{End, judge};

/// What a thread reported, without a figure made of it; two threads are a group.
pub fn thread(index: usize, report: ThreadReport) -> Thread {
    let member = Member {
        kind: Kind::Threads,
        group: GroupIndex::new(index / 2),
        thread: ThreadIndex::new(index % 2),
    };
    Thread {
        who: member.into(),
        gap_ns: 0,
        longest_gap_ns: 0,
        complete: true,
        statistics: Statistics::default(),
        co_run: None,
        report,
    }
}

/// Of a session of so many threads.
pub fn limits(threads: usize) -> Limits {
    Limits {
        threads,
        records_per_thread: 1000,
        boot: Duration::ZERO,
        vms: 0,
        allow_degraded: false,
    }
}

/// Of a run of two groups of two threads that ended before it began.
pub fn result() -> RunResult {
    let job = Job::new(load(2, 2, 2), CoschedRequest::Auto);
    let session = Session::new(limits(4), Instant::now());
    let verdict = judge(&session, &job, Terms::NONE, &End::Finished, "");
    Account::of_figures(&session, &job, &verdict).result()
}

/// Numbers that look random: Knuth's linear congruential generator, of which the upper bits do.
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1))
    }

    /// One below the limit; 0 below nothing.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from((self.0 >> 33) % limit.max(1) as u64).unwrap_or(0)
    }
}

/// A second of so many groups of threads that never sleep, on the first CPUs.
pub fn load(groups: u32, threads_per_group: u32, cpus: u32) -> LoadSpec {
    let sleep = SleepSpec::Fixed(Duration::ZERO);
    let group = GroupSpec::plain(threads_per_group, Duration::from_secs(1), sleep);
    LoadSpec {
        name: None,
        groups: vec![group; groups as usize],
        kind: Kind::Threads,
        cpus: (0..cpus).collect(),
        seed: 0,
        duration: Duration::from_secs(1),
        warmup: Duration::ZERO,
        floor: Duration::from_nanos(1),
        threshold: None,
        records_per_thread: 1,
    }
}

/// A folder with these files.
pub fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("tempdir");
    for (file, text) in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    root
}
