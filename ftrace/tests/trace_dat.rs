// SPDX-License-Identifier: Apache-2.0
//! trace.dat: what we write, we and trace-cmd read; what is broken is refused.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Builder, items, run};
use ftrace::{ByteSource, FtraceError, Item, Trace};

fn constructed() -> Builder {
    let mut trace = Builder::new(3);
    for turn in 0..500_u64 {
        let time = 1000 + turn * 1_000_000_000;
        trace.wake(0, time, "sched_waking", 11, 2);
        trace.switch(2, time + 10, 1, 11).switch(2, time + 20, 1, 0);
    }
    trace.event(
        2,
        600_000_000_000,
        "print",
        &[
            ("ip", common::Value::Number(0xffff_ffff_8100_0010_u64.cast_signed())),
            ("buf", "gap of 131 ms".into()),
        ],
    );
    trace
}

fn bytes(trace: &Trace) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = trace.write_trace_dat(&mut bytes).expect("written");
    assert_eq!(count, bytes.len() as u64);
    bytes
}

fn trace_cmd(arguments: &[&str], file: &Path) -> String {
    run(Command::new("trace-cmd").args(arguments).arg(file), "trace-cmd")
}

#[test]
fn what_is_written_reads_back_the_same() {
    let written = constructed().build();
    let read = Trace::from_trace_dat_bytes(bytes(&written)).expect("readable");
    assert_eq!(items(&read), items(&written));
    assert_eq!(items(&read).len(), 1501);
    let (read, written) = (read.metadata(), written.metadata());
    assert_eq!((read.id, read.id.is_some()), (written.id, true));
    assert_eq!((&read.clock, &read.uname), (&written.clock, &written.uname));
    assert_eq!((&read.header_page, &read.comms), (&written.header_page, &written.comms));
    let mut formats = written.formats.clone();
    // Those of the system `ftrace` come first in the file.
    formats.sort_by_key(|file| file.system != "ftrace");
    assert_eq!(read.formats, formats);
    assert_eq!(read.kallsyms.len(), written.kallsyms.len());
}

#[test]
fn trace_cmd_reads_what_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trace.dat");
    fs::write(&file, bytes(&constructed().build())).expect("written");
    let report = trace_cmd(&["report"], &file);
    let lines: Vec<&str> = report.lines().filter(|line| !line.starts_with("cpus=")).collect();
    assert_eq!(lines.len(), 1501, "{report}");
    // The marker by its function's name; times of the TSC are whole numbers.
    assert!(report.contains("600000000000: print:"), "{report}");
    assert!(report.contains("tracing_mark_write: gap of 131 ms"), "{report}");
    assert!(report.contains("499000001010: sched_switch:"), "{report}");

    let converted = folder.path().join("v7.dat");
    let to = converted.to_string_lossy();
    trace_cmd(&["convert", "--file-version", "7", "-o", &to, "-i"], &file);
    assert_eq!(trace_cmd(&["report"], &converted), report);

    let summary = trace_cmd(&["dump", "--summary"], &file);
    assert!(summary.contains("3 [CPUs with tracing data]"), "{summary}");
    let all = trace_cmd(&["dump", "--options"], &file);
    for option in ["TRACECLOCK", "UNAME", "CPUCOUNT", "VERSION", "TRACEID", "0x123456789ABCDEF"] {
        assert!(all.contains(option), "{option}: {all}");
    }
}

#[test]
fn the_empty_trace_is_one_too() {
    let trace = Builder::new(2).build();
    let read = Trace::from_trace_dat_bytes(bytes(&trace)).expect("readable");
    assert_eq!((items(&read).len(), read.pages().len()), (0, 2));
}

#[test]
fn a_source_that_has_shrunk_is_an_error() {
    let builder = constructed();
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), &builder.pages()[0]).expect("written");
    let region = ByteSource::open(file.path()).expect("there");
    let trace = Trace::new(builder.metadata(), vec![region]).expect("good");
    file.as_file().set_len(100).expect("shrunk");
    let error = trace.write_trace_dat(&mut Vec::new()).expect_err("too short");
    assert!(matches!(error, FtraceError::Write(_)), "{error}");
    // Reading says so, too, and does not take the end of the file for the end of the trace.
    let [item] = &items(&trace)[..] else { panic!("one item") };
    assert!(item.contains("Truncated"), "{item}");
}

#[test]
fn what_is_no_trace_dat_is_refused_with_the_place() {
    let good = bytes(&constructed().build());
    let find = |part: &[u8]| {
        good.windows(part.len()).position(|window| window == part).expect("in the file")
    };
    let cases: [(usize, &[u8], &str); 6] = [
        (0, b"no trace", "byte 0: here should be the first bytes of a trace.dat"),
        (10, b"8\0", "byte 10: here should be version 6 or 7"),
        (12, b"\x01", "big-endian"),
        (find(b"header_event\0"), b"x", "here should be `header_event`"),
        (find(b"flyrecord\0"), b"latency  \0", "text instead of pages"),
        (find(b"flyrecord\0") + 10, &[0xFF; 8], "not in the file"),
    ];
    for (at, patch, message) in cases {
        let mut bad = good.clone();
        bad[at..at + patch.len()].copy_from_slice(patch);
        let error = Trace::from_trace_dat_bytes(bad).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    let headers = find(b"flyrecord\0");
    for cut in (0..headers).step_by(7) {
        let error = Trace::from_trace_dat_bytes(&good[..cut]).expect_err("too short");
        assert!(error.to_string().contains("byte"), "{cut}: {error}");
    }
}

#[test]
fn losses_stand_where_they_belong() {
    let mut trace = Builder::new(2);
    trace.lose(0, Some(41)).wake(0, 1000, "sched_wakeup", 1, 0).lose(0, None);
    trace.wake(1, 1500, "sched_wakeup", 1, 0).wake(0, 2000, "sched_wakeup", 1, 0);
    let trace = trace.build();
    let mut events = trace.events().expect("readable");
    let mut found = Vec::new();
    while let Some(item) = events.next().expect("readable") {
        found.push(match item {
            Item::Record(record) => (record.cpu, record.time, None),
            Item::Lost(lost) => (lost.cpu, lost.after, Some(lost.events)),
        });
    }
    let expected = [
        (0, 0, Some(Some(41))),
        (0, 1000, None),
        (0, 1000, Some(None)),
        (1, 1500, None),
        (0, 2000, None),
    ];
    assert_eq!(found, expected);
}
