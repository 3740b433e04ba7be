// SPDX-License-Identifier: Apache-2.0
//! Real traces of Linux 6.12 and 6.1 (`tests/data/README.md`): every event as trace-cmd sees
//! it, and explanations of gaps that threads measured themselves.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use common::{run, unpack};
use ftrace::attribution::{Cause, Context, Explanation, Gap, Topology, explain};
use ftrace::{EventFormat, Field, Item, Record, Trace, lanes};

const V6_12: (&[u8], &str) =
    (include_bytes!("data/linux-6.12.dat.xz"), include_str!("data/linux-6.12.csv"));
const V6_1: (&[u8], &str) =
    (include_bytes!("data/linux-6.1.dat.xz"), include_str!("data/linux-6.1.csv"));

/// Each record with its format, in order.
fn for_each(trace: &Trace, mut look: impl FnMut(&Record, &EventFormat)) {
    let mut events = trace.events().expect("readable");
    while let Some(item) = events.next().expect("readable") {
        let Item::Record(record) = item else { panic!("nothing is lost: {item:?}") };
        look(&record, trace.formats().event_of(record.data).expect("a known event"));
    }
}

/// Takes a field's value out of `name=value name=value`, where values may have blanks.
fn take_value<'a>(rest: &mut &'a str, fields: &[Field], index: usize) -> &'a str {
    let name = format!("{}=", fields[index].name);
    *rest =
        rest.trim_start().strip_prefix(name.as_str()).unwrap_or_else(|| panic!("{name} {rest}"));
    let end = match fields.get(index + 1) {
        Some(next) => rest.find(&format!(" {}=", next.name)).expect("the next field"),
        None => rest.len(),
    };
    let (value, after) = rest.split_at(end);
    *rest = after;
    value
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(u64::cast_signed),
        None => text.parse().ok(),
    }
}

/// Compares a record with its line of `trace-cmd report -R`; the number of values compared.
fn compare(trace: &Trace, record: &Record, event: &EventFormat, line: &str) -> usize {
    let (before, after) = line.split_once('[').expect("a CPU");
    let pid = trace.formats().pid(record.data).expect("a thread");
    assert!(before.trim_end().ends_with(&format!("-{pid}")), "{line}");
    let (cpu, after) = after.split_once(']').expect("a CPU");
    assert_eq!(cpu.parse(), Ok(record.cpu), "{line}");
    let (time, after) = after.trim_start().split_once(':').expect("a time");
    assert_eq!(time.parse(), Ok(record.time), "{line}");
    let (name, mut rest) = after.trim_start().split_once(':').expect("an event");
    assert_eq!(name, event.name, "{line}");
    let own = |field: &&Field| !field.name.starts_with("common_");
    let fields: Vec<Field> = event.fields.iter().filter(own).cloned().collect();
    for (index, field) in fields.iter().enumerate() {
        let value = take_value(&mut rest, &fields, index).trim_end();
        if let Some(int) = field.int() {
            let ours = int.get(record.data).expect("in the record");
            // trace-cmd names the function behind the address in markers.
            let theirs = if value == "tracing_mark_write" { Some(ours) } else { number(value) };
            assert_eq!(theirs, Some(ours), "{} in {line}", field.name);
        } else {
            let ours = field.text_bytes(record.data).expect("in the record");
            assert_eq!(String::from_utf8_lossy(ours).trim_end(), value, "{} in {line}", field.name);
        }
    }
    fields.len()
}

fn compare_with_trace_cmd(packed: &[u8], expected_events: usize) {
    let bytes = unpack(packed);
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &bytes).expect("written");
    let report =
        run(Command::new("trace-cmd").args(["report", "-R"]).arg(file.path()), "trace-cmd");
    let mut lines = report.lines().filter(|line| !line.starts_with("cpus="));
    let trace = Trace::open(file.path()).expect("readable");
    let (mut events, mut values) = (0, 0);
    for_each(&trace, |record, event| {
        values += compare(&trace, record, event, lines.next().expect("as many lines as events"));
        events += 1;
    });
    assert_eq!(lines.next(), None);
    assert_eq!(events, expected_events);
    assert!(values > events, "{values} values");
    // What is written again is the same trace, to trace-cmd as well.
    let again = tempfile::NamedTempFile::new().expect("a file");
    trace.write_trace_dat(&mut again.as_file()).expect("written");
    let second =
        run(Command::new("trace-cmd").args(["report", "-R"]).arg(again.path()), "trace-cmd");
    assert_eq!(second, report);
}

#[test]
fn every_event_of_6_12_is_as_trace_cmd_sees_it() {
    compare_with_trace_cmd(V6_12.0, 5164);
}

#[test]
fn every_event_of_6_1_is_as_trace_cmd_sees_it() {
    compare_with_trace_cmd(V6_1.0, 3180);
}

#[test]
fn markers_of_ones_own_are_as_trace_cmd_sees_them() {
    let trace = Trace::from_trace_dat_bytes(unpack(V6_12.0)).expect("readable");
    let begin = trace.begin().expect("readable").expect("an event");
    // Later and later: near and far ones, on many pages.
    let markers: Vec<(u64, String)> =
        (0..500).rev().map(|n| (begin + n * n * 100_000, format!("marker {n} of ours"))).collect();
    let marked = trace.with_markers(&markers).expect("readable");
    let mut ours = 0;
    for_each(&marked, |record, event| {
        if event.name == "print" && record.cpu == 4 {
            assert_eq!(record.time, begin + ours * ours * 100_000);
            ours += 1;
        }
    });
    assert_eq!(ours, 500);
    let file = tempfile::NamedTempFile::new().expect("a file");
    marked.write_trace_dat(&mut file.as_file()).expect("written");
    let report = run(Command::new("trace-cmd").arg("report").arg(file.path()), "trace-cmd");
    let lines: Vec<&str> = report.lines().filter(|line| line.contains(" of ours")).collect();
    assert_eq!(lines.len(), 500);
    for (n, line) in lines.iter().enumerate() {
        assert!(line.contains("[004]"), "{line}");
        assert!(line.ends_with(&format!("tracing_mark_write: marker {n} of ours")), "{line}");
    }
    assert_eq!(report.lines().filter(|line| line.contains(": ")).count(), 5164 + 500);
}

/// Gaps and groups as the threads told them, explained.
fn explained(packed: &[u8], csv: &str) -> (Trace, Context, Vec<Explanation>) {
    let trace = Trace::from_trace_dat_bytes(unpack(packed)).expect("readable");
    let mut context = Context {
        topology: Topology::from_cores([&[0, 1][..], &[2, 3]]),
        // Where there were no cookies, the thread's line says why.
        core_scheduling: !csv.contains("(os error"),
        max_segments: 10_000,
        ..Context::default()
    };
    let mut gaps = Vec::new();
    for line in csv.lines() {
        let mut words = line.split(',');
        let kind = words.next();
        let mut numbers = words.map_while(|word| word.parse::<u64>().ok());
        let mut next = || numbers.next().expect("a number");
        let small = |number: u64| u32::try_from(number).expect("small");
        if kind == Some("gap") {
            let tid = small(next()).cast_signed();
            gaps.push(Gap { tid, begin: next(), end: next() });
        } else {
            let group = small(next());
            context.groups.insert(small(next()).cast_signed(), group);
        }
    }
    let found = explain(&trace, &gaps, &context).expect("readable");
    assert_eq!(found.len(), gaps.len());
    (trace, context, found)
}

/// Every gap closes, and the trace knows what happened in it: the threads spun all the time,
/// so none of it may be sleep.
fn gaps_close(found: &[Explanation]) -> u64 {
    let mut total = 0;
    for explanation in found {
        let length = explanation.gap.end - explanation.gap.begin;
        let sum: u64 = explanation.parts.iter().map(|part| part.ticks).sum();
        assert_eq!(sum, length, "{explanation:#?}");
        assert!(explanation.unknown_ticks() * 20 < length, "{explanation:#?}");
        let asleep = explanation.ticks_of(|cause| matches!(cause, Cause::Sleeping { .. }));
        assert_eq!(asleep, 0, "{explanation:#?}");
        assert_eq!(explanation.segments_left_out, 0);
        total += length;
    }
    total
}

#[test]
fn gaps_of_6_12_close() {
    let (_, _, found) = explained(V6_12.0, V6_12.1);
    assert!(found.len() > 100 && gaps_close(&found) > 0);
}

#[test]
fn gaps_of_6_1_close() {
    let (_, _, found) = explained(V6_1.0, V6_1.1);
    assert!(found.len() > 100 && gaps_close(&found) > 0);
}

/// What ran on each CPU, as a list of times and threads: another way to see a trace.
fn timelines(trace: &Trace) -> BTreeMap<u32, Vec<(u64, i32)>> {
    let mut lines: BTreeMap<u32, Vec<(u64, i32)>> = BTreeMap::new();
    for_each(trace, |record, event| {
        if event.name == "sched_switch" {
            let next = event.int("next_pid").and_then(|pid| pid.get_i32(record.data));
            lines.entry(record.cpu).or_default().push((record.time, next.expect("a thread")));
        }
    });
    lines
}

fn running(line: &[(u64, i32)], time: u64) -> Option<i32> {
    line.partition_point(|&(at, _)| at <= time).checked_sub(1).map(|index| line[index].1)
}

#[test]
fn segments_agree_with_the_cpus_time_lines() {
    let (trace, context, found) = explained(V6_12.0, V6_12.1);
    let lines = timelines(&trace);
    let group = |tid: i32| context.groups.get(&tid).copied();
    let (mut queued, mut forced) = (0, 0);
    for explanation in &found {
        for segment in &explanation.segments {
            // Not on the edge, where two events may have one time.
            let middle = segment.begin + (segment.end - segment.begin) / 2;
            match &explanation.parts[segment.part].cause {
                Cause::Queued { cpu, behind } => {
                    assert_eq!(running(&lines[cpu], middle), Some(behind.tid), "{explanation:#?}");
                    queued += 1;
                }
                Cause::ForcedIdle { cpu, sibling, by } => {
                    assert_eq!(running(&lines[cpu], middle), Some(0), "{explanation:#?}");
                    assert_eq!(running(&lines[sibling], middle), Some(by.tid));
                    assert_ne!(group(by.tid), explanation.group);
                    forced += 1;
                }
                Cause::Running { cpu } | Cause::Irq { cpu, .. } | Cause::Softirq { cpu, .. } => {
                    assert_eq!(running(&lines[cpu], middle), Some(explanation.gap.tid));
                }
                _ => {}
            }
        }
    }
    assert!(queued > 200 && forced > 50, "{queued} times queued, {forced} times forced idle");
}

/// The CPUs' lanes and the threads' accounts come about on different ways: each thread ran for
/// as long by either.
#[test]
fn lanes_agree_with_the_threads_accounts() {
    let (trace, context, _) = explained(V6_12.0, V6_12.1);
    let whole = lanes(&trace, 0..u64::MAX, &[0, 1, 2, 3], 100_000).expect("readable");
    let (first, last) = (whole.first.expect("a record"), whole.last.expect("a record"));
    let third = (last - first) / 3;
    let window = first + third..last - third;
    let found = lanes(&trace, window.clone(), &[0, 1, 2, 3], 100_000).expect("readable");
    let lines = timelines(&trace);
    for (cpu, lane) in &found.cpus {
        assert_eq!(lane.left_out, 0);
        for pair in lane.slices.windows(2) {
            assert_eq!(pair[0].end, pair[1].begin, "CPU {cpu}: nothing is lost");
        }
        for slice in &lane.slices {
            assert!(window.start <= slice.begin && slice.end <= window.end);
            assert!(slice.tid == 0 || found.names.contains_key(&slice.tid), "{slice:?}");
            let middle = slice.begin + (slice.end - slice.begin) / 2;
            assert_eq!(running(&lines[cpu], middle), Some(slice.tid), "CPU {cpu}, {slice:?}");
        }
    }
    let gap = |&tid: &i32| Gap { tid, begin: window.start, end: window.end };
    let asked: Vec<Gap> = context.groups.keys().map(gap).collect();
    let mut ran = 0;
    for account in explain(&trace, &asked, &context).expect("readable") {
        let by_account = account.ticks_of(|cause| {
            matches!(cause, Cause::Running { .. } | Cause::Irq { .. } | Cause::Softirq { .. })
        });
        let slices = found.cpus.values().flat_map(|lane| &lane.slices);
        let own = slices.filter(|slice| slice.tid == account.gap.tid);
        let by_lanes: u64 = own.map(|slice| slice.end - slice.begin).sum();
        assert_eq!(by_account, by_lanes, "thread {}", account.gap.tid);
        ran += by_lanes;
    }
    assert!(ran > third, "{ran} ticks of {third}");
    let few = lanes(&trace, window, &[2], 5).expect("readable");
    assert_eq!(few.cpus.len(), 1);
    assert_eq!((few.cpus[&2].slices.len(), few.cpus[&2].left_out > 0), (5, true));
}
