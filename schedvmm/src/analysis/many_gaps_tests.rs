// SPDX-License-Identifier: Apache-2.0
//! A run of many gaps is made up, and a result of it. With ten million of them in a release build
//! this is the inner part of `cargo xtask bench analyse`, which names number and report by
//! environment variables.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use gaps::evidence::Class;
use gaps::histogram::Histogram;
use gaps::record::GapRecord;
use gaps::tally::ClassTotal;
use gaps::tsc::clock_ns;
use protocol::group::{GroupSpec, SleepSpec};
use protocol::index::Kind;
use protocol::job::{CoschedRequest, Job, LoadSpec};
use protocol::message::Setup;
use protocol::report::{LoadReport, ThreadReport, TscReport};
use results::folder::Folder;
use serde_json::{Value, json};

use crate::analysis::parted::{after_hit_ns, clock_of};
use crate::compose::Account;
use crate::doubt::Terms;
use crate::session::{Limits, Session};
use crate::verdict::{End, judge};

/// Groups and threads of the default load.
const GROUPS: usize = 8;
const THREADS: u32 = 2;
/// A tick is a nanosecond.
const KHZ: u64 = 1_000_000;
/// Between two gaps.
const RUNNING_NS: u64 = 1_000_000;

/// Says how many gaps, instead of the few that tell whether it works.
const RECORDS_ENV: &str = "SCHEDVMM_BENCH_RECORDS";
/// Says where what it took is written, as one JSON object.
const REPORT_ENV: &str = "SCHEDVMM_BENCH_REPORT";

#[test]
fn a_result_of_many_gaps_has_all_of_them() {
    let records = env::var(RECORDS_ENV).map_or(1600, |text| text.parse().expect("a number"));
    let each = records / (GROUPS * THREADS as usize);
    let job = job(u32::try_from(each).expect("records of a thread"));
    let session = session(&job, each);
    let lengths = || session.gaps.iter().flatten().map(GapRecord::ticks);
    assert_eq!(lengths().count(), each * 16);
    assert!(lengths().all(|length| (100_000..51_200_000).contains(&length)));
    let dir = tempfile::tempdir().expect("tempdir");
    let report = report(&session, &job, &dir.path().join("result"));
    if let Some(path) = env::var_os(REPORT_ENV) {
        fs::write(path, report.to_string()).expect("report");
    }
    let csv = fs::File::open(dir.path().join("result/gaps.csv")).expect("gaps.csv");
    assert_eq!(BufReader::new(csv).split(b'\n').count(), 1 + each * 16);
}

/// Does what a run does with its gaps at its end, and says what it took.
fn report(session: &Session, job: &Job, folder: &Path) -> Value {
    let mut folder = Folder::create(Some(folder), "").expect("folder");
    let (begin, cpu_begin_ns) = (Instant::now(), clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID));
    let verdict = judge(session, job, Terms::NONE, &End::Finished, "");
    let account = Account::of_figures(session, job, &verdict);
    let result = account.result();
    let analysed = begin.elapsed();
    folder.write_result(&result).expect("result.json");
    let clock = clock_of(session, &job.load);
    folder.write_histograms(&result.threads, &after_hit_ns(session, clock)).expect("gaps.hlog");
    let reported = begin.elapsed();
    let cpu_ns = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(cpu_begin_ns);
    let peak_kib = peak_kib();
    folder.add_gaps(&session.gaps, clock).expect("gaps.csv");
    json!({
        "records": session.gaps.iter().map(Vec::len).sum::<usize>(),
        "analysed_ms": millis(analysed),
        "reported_ms": millis(reported),
        "cpu_ms": cpu_ns / 1_000_000,
        "peak_kib": peak_kib,
        "gaps_csv_ms": millis(begin.elapsed() - reported),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The most memory this process has had.
fn peak_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().split(' ').next()?.parse().ok()
}

fn job(records_per_thread: u32) -> Job {
    let group = GroupSpec::plain(THREADS, Duration::from_secs(1), SleepSpec::Fixed(Duration::ZERO));
    let load = LoadSpec {
        name: None,
        groups: vec![group; GROUPS],
        kind: Kind::Threads,
        cpus: vec![0, 1],
        seed: 0,
        duration: Duration::from_secs(3600),
        warmup: Duration::ZERO,
        floor: Duration::from_micros(100),
        threshold: None,
        records_per_thread,
    };
    Job::new(load, CoschedRequest::None)
}

/// A run that is over, its gaps from 100 µs to 50 ms, short ones more often than long ones.
fn session(job: &Job, each: usize) -> Session {
    let threads = job.load.threads();
    let limits = Limits {
        threads,
        records_per_thread: each,
        boot: Duration::ZERO,
        vms: 0,
        allow_degraded: false,
    };
    let mut session = Session::new(limits, Instant::now());
    let mut random = Random(1);
    let mut reports = Vec::new();
    for gaps in &mut session.gaps {
        let (mut begin, histogram) = (0, Histogram::default());
        gaps.reserve_exact(each);
        for _ in 0..each {
            let length = random.length_ns();
            histogram.record(length);
            gaps.push(GapRecord {
                tsc_begin: begin,
                tsc_end: begin + length,
                class: Class::ScheduledOut,
                ..GapRecord::default()
            });
            begin += length + RUNNING_NS;
        }
        let gap_ticks = gaps.iter().map(GapRecord::ticks).sum();
        let count = gaps.len() as u64;
        reports.push(ThreadReport {
            gaps: count,
            gap_ticks,
            longest: gaps.iter().copied().max_by_key(GapRecord::ticks),
            classes: vec![ClassTotal { class: Class::ScheduledOut, gaps: count, gap_ticks }],
            gap_histogram_ns: histogram.buckets().collect(),
            busy_ticks: begin,
            cpu_time_ns: begin - gap_ticks,
            ..ThreadReport::default()
        });
    }
    session.setup = Some(Setup { tsc_khz: KHZ, ..Setup::default() });
    let tsc = TscReport { khz: KHZ, ..TscReport::default() };
    session.report = Some(LoadReport { tsc, threads: reports, ..LoadReport::default() });
    session
}

/// Knuth's linear congruential generator: any will do.
struct Random(u64);

impl Random {
    fn length_ns(&mut self) -> u64 {
        /// 100 µs, and about 50 ms when it has been doubled nine times.
        const SHORTEST_NS: u64 = 100_000;
        const DOUBLINGS: u64 = 9;
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (high, low) = (self.0 >> 60, self.0 >> 33);
        let octave = SHORTEST_NS << (high % DOUBLINGS);
        octave + low % octave
    }
}
