// SPDX-License-Identifier: Apache-2.0
//! How fast a trace is read and explained, against trace-cmd: `bench [--json] [--runs N]
//! [TRACE.DAT]`; `cargo xtask bench trace` calls it.
//!
//! Each run reads the whole trace three ways: parsing every record's event, explaining gaps
//! (5 000 to 10 000 of the times that threads were switched out, spread over the trace), and
//! `trace-cmd report` to /dev/null. It prints the best run of each, and the most memory that
//! this process had. Without a trace it takes the one of Linux 6.12 that the tests have, many
//! times over, one after the other.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use ftrace::attribution::{Context, Gap, Topology, explain};
use ftrace::{ByteSource, Item, Trace};
use serde_json::json;

/// Repetitions of the tests' trace: some four million events.
const REPETITIONS: u64 = 800;
/// What is to be reached: parsing and explaining, in events in a second.
const TARGET_EVENTS_PER_S: f64 = 5e6;
/// What is to be reached: times the rate of trace-cmd.
const TARGET_RATIO: f64 = 10.0;
/// What is to be kept: memory of this process.
const LIMIT_KIB: u64 = 64 << 10;
/// Gaps to explain, at most.
const MAX_GAPS: usize = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut json, mut runs, mut path) = (false, 3, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--json" => json = true,
            "--runs" => runs = arguments.next().ok_or("--runs N")?.parse::<u32>()?.max(1),
            _ => path = Some(PathBuf::from(word)),
        }
    }
    let folder = tempfile::tempdir()?;
    let path = match path {
        Some(path) => path,
        None => repeated(folder.path())?,
    };
    let figures = measure(&path, runs)?;
    if json {
        println!("{:#}", figures.json());
    } else {
        figures.print();
    }
    Ok(())
}

/// What was measured; times are those of the best run, in seconds.
struct Figures {
    events: u32,
    bytes: u64,
    gaps: usize,
    parse_s: f64,
    explain_s: f64,
    trace_cmd_s: f64,
    peak_kib: u64,
}

impl Figures {
    fn rate(&self, seconds: f64) -> f64 {
        f64::from(self.events) / seconds
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "schema": "schedvmm-bench-trace/1",
            "events": self.events,
            "bytes": self.bytes,
            "gaps": self.gaps,
            "parse_events_per_s": self.rate(self.parse_s),
            "explain_events_per_s": self.rate(self.explain_s),
            "explain_target_events_per_s": TARGET_EVENTS_PER_S,
            "trace_cmd_events_per_s": self.rate(self.trace_cmd_s),
            "ratio": self.trace_cmd_s / self.explain_s,
            "ratio_target": TARGET_RATIO,
            "peak_kib": self.peak_kib,
            "peak_limit_kib": LIMIT_KIB,
        })
    }

    fn print(&self) {
        println!("{} events, {} bytes, {} gaps", self.events, self.bytes, self.gaps);
        let rows = [
            ("parse", self.parse_s),
            ("parse and explain", self.explain_s),
            ("trace-cmd report", self.trace_cmd_s),
        ];
        for (name, seconds) in rows {
            println!("{name:<18}{seconds:>8.3} s{:>8.2} M events/s", self.rate(seconds) / 1e6);
        }
        println!("explain: at least {:.0} M events/s wanted", TARGET_EVENTS_PER_S / 1e6);
        let ratio = self.trace_cmd_s / self.explain_s;
        println!("explain against trace-cmd: {ratio:.1} x (at least {TARGET_RATIO} x wanted)");
        println!("most memory: {} KiB (at most {LIMIT_KIB} KiB wanted)", self.peak_kib);
    }
}

fn measure(path: &Path, runs: u32) -> Result<Figures, Box<dyn Error>> {
    let trace = Trace::open(path)?;
    let gaps = waits(&trace)?;
    let cpus: Vec<u32> = (0..).take(trace.pages().len()).collect();
    let context = Context {
        topology: Topology::from_cores(cpus.chunks(2)),
        groups: gaps.iter().map(|gap| (gap.tid, gap.tid.unsigned_abs() % 8)).collect(),
        core_scheduling: true,
        ..Context::default()
    };
    let (mut events, mut times) = (0, [f64::INFINITY; 3]);
    for _ in 0..runs {
        let mut best = |index: usize, start: Instant| {
            times[index] = f64::min(times[index], start.elapsed().as_secs_f64());
        };
        let start = Instant::now();
        events = parse(&trace)?;
        best(0, start);
        let start = Instant::now();
        let found = explain(&trace, &gaps, &context)?;
        best(1, start);
        let parts: usize = found.iter().map(|found| found.parts.len()).sum();
        assert!(parts >= gaps.len(), "every gap has a part");
        let start = Instant::now();
        let mut report = Command::new("trace-cmd");
        let status = report.arg("report").arg(path).stdout(Stdio::null()).status()?;
        best(2, start);
        assert!(status.success(), "trace-cmd: {status}");
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next()).ok_or("no VmHWM")?;
    let [parse_s, explain_s, trace_cmd_s] = times;
    Ok(Figures {
        events,
        bytes: fs::metadata(path)?.len(),
        gaps: gaps.len(),
        parse_s,
        explain_s,
        trace_cmd_s,
        peak_kib: peak.parse()?,
    })
}

/// Writes the tests' trace many times over, each time later.
fn repeated(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-6.12.dat.xz");
    let mut bytes = Vec::new();
    liblzma::read::XzDecoder::new(File::open(packed)?).read_to_end(&mut bytes)?;
    let once = Trace::from_trace_dat_bytes(bytes)?;
    let layout = *once.page_layout();
    let (mut begin, mut end) = (u64::MAX, 0);
    let mut events = once.events()?;
    while let Some(item) = events.next()? {
        if let Item::Record(record) = item {
            (begin, end) = (begin.min(record.time), record.time);
        }
    }
    let mut pages = Vec::new();
    for (cpu, region) in once.pages().iter().enumerate() {
        let mut of_cpu = vec![0; usize::try_from(region.len())?];
        region.read_at(0, &mut of_cpu)?;
        let path = folder.join(format!("cpu{cpu}"));
        let mut out = BufWriter::new(File::create(&path)?);
        for _ in 0..REPETITIONS {
            out.write_all(&of_cpu)?;
            for page in of_cpu.chunks_mut(layout.page_size) {
                let at = layout.timestamp_offset;
                let mut time = [0; 8];
                time.copy_from_slice(&page[at..at + 8]);
                let later = u64::from_le_bytes(time) + (end - begin) + 1;
                page[at..at + 8].copy_from_slice(&later.to_le_bytes());
            }
        }
        out.flush()?;
        pages.push(ByteSource::open(&path)?);
    }
    let path = folder.join("trace.dat");
    let mut out = BufWriter::new(File::create(&path)?);
    Trace::new(once.metadata().clone(), pages)?.write_trace_dat(&mut out)?;
    Ok(path)
}

/// Finds every record's event and thread.
fn parse(trace: &Trace) -> Result<u32, ftrace::FtraceError> {
    let formats = trace.formats();
    let mut events = trace.events()?;
    let (mut count, mut threads) = (0, 0_u64);
    while let Some(item) = events.next()? {
        if let Item::Record(record) = item {
            count += u32::from(formats.event_of(record.data).is_some());
            threads += u64::from(formats.pid(record.data).unwrap_or_default().unsigned_abs());
        }
    }
    std::hint::black_box(threads);
    Ok(count)
}

/// The times between a thread's being switched out and in; evenly fewer where there are more
/// than [`MAX_GAPS`], so that they take no memory of note.
fn waits(trace: &Trace) -> Result<Vec<Gap>, Box<dyn Error>> {
    let switch = trace.formats().event("sched", "sched_switch").ok_or("no sched_switch")?;
    let fields = (switch.int("prev_pid"), switch.int("next_pid"));
    let (Some(prev), Some(next)) = fields else { return Err("no threads in sched_switch".into()) };
    let mut out = HashMap::new();
    let mut gaps = Vec::new();
    let (mut count, mut step) = (0_u64, 1);
    let mut events = trace.events()?;
    while let Some(item) = events.next()? {
        let Item::Record(record) = item else { continue };
        if trace.formats().event_id(record.data) != Some(switch.id) {
            continue;
        }
        if let Some(tid) = next.get_i32(record.data)
            && tid != 0
            && let Some(begin) = out.remove(&tid)
        {
            if count.is_multiple_of(step) {
                gaps.push(Gap { tid, begin, end: record.time });
            }
            count += 1;
            if gaps.len() > MAX_GAPS {
                let mut keep = [true, false].into_iter().cycle();
                gaps.retain(|_| keep.next() == Some(true));
                step *= 2;
            }
        }
        if let Some(tid) = prev.get_i32(record.data) {
            out.insert(tid, record.time);
        }
    }
    Ok(gaps)
}
