// SPDX-License-Identifier: Apache-2.0
//! How fast a trace is read and explained, against trace-cmd: `bench TRACE.DAT [RUNS]`.
//!
//! Each run reads the whole trace three ways: parsing every record's event, explaining gaps
//! (5 000 to 10 000 of the times that threads were switched out, spread over the trace), and
//! `trace-cmd report` to /dev/null. It prints the best run of each, and the most memory that
//! this process had.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ftrace::attribution::{Context, Gap, Topology, explain};
use ftrace::{Item, Trace};

/// Gaps to explain, at most.
const MAX_GAPS: usize = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: bench TRACE.DAT [RUNS]")?;
    let runs = arguments.next().map_or(Ok(3), |runs| runs.parse::<u32>())?;
    let trace = Trace::open(Path::new(&path))?;
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
        let status = report.args(["report", &path]).stdout(Stdio::null()).status()?;
        best(2, start);
        assert!(status.success(), "trace-cmd: {status}");
    }
    println!("{events} events, {} bytes, {} gaps", fs::metadata(&path)?.len(), gaps.len());
    for (name, time) in ["parse", "parse and explain", "trace-cmd report"].iter().zip(times) {
        let rate = f64::from(events) / time / 1e6;
        println!("{name:<18}{time:>8.3} s{rate:>8.2} M events/s");
    }
    println!("trace-cmd / explain{:>7.1} x", times[2] / times[1]);
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    println!("{}", peak.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(())
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
