// SPDX-License-Identifier: Apache-2.0
//! What unit tests share.

use std::io::Read;
use std::time::Duration;

use protocol::group::{GroupSpec, SleepSpec};
use protocol::index::Kind;
use protocol::job::LoadSpec;
use protocol::report::ThreadReport;

use crate::model::{Numbers, RunResult, Statistics, Thread};

/// A result of this version that a run with this target left: `user`, `host` or `nested`.
pub fn result(target: &str) -> RunResult {
    let packed: &[u8] = match target {
        "user" => include_bytes!("../tests/data/user.json.xz"),
        "host" => include_bytes!("../tests/data/host.json.xz"),
        "nested" => include_bytes!("../tests/data/nested.json.xz"),
        other => panic!("no sample of target {other}"),
    };
    let mut text = String::new();
    liblzma::read::XzDecoder::new(packed).read_to_string(&mut text).expect("a file of ours");
    serde_json::from_str(&text).expect("a result")
}

/// What a thread reported, without a figure made of it.
pub fn thread(who: Numbers, report: ThreadReport) -> Thread {
    Thread {
        who,
        gap_ns: 0,
        longest_gap_ns: 0,
        complete: true,
        statistics: Statistics::default(),
        co_run: None,
        report,
    }
}

/// A second of so many groups of threads that never sleep, on CPU 0.
pub fn load(groups: usize, threads_per_group: u32) -> LoadSpec {
    let sleep = SleepSpec::Fixed(Duration::ZERO);
    let group = GroupSpec::plain(threads_per_group, Duration::from_secs(1), sleep);
    LoadSpec {
        name: None,
        groups: vec![group; groups],
        kind: Kind::Threads,
        cpus: vec![0],
        seed: 0,
        duration: Duration::from_secs(1),
        warmup: Duration::ZERO,
        floor: Duration::from_nanos(1),
        threshold: None,
        records_per_thread: 1,
    }
}
