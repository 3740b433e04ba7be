// SPDX-License-Identifier: Apache-2.0
//! trace.dat as others write it: version 7 in all its compressions, several buffers, machines of 32
//! bits, pages of other sizes, no list of names. Each event as trace-cmd sees it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{Builder, HEADER_PAGE, PAGE_SIZE, items, run, unpack, version_7};
use ftrace::{ByteSource, Item, LossReason, Metadata, Trace, TraceFile};

fn real() -> Vec<u8> {
    unpack(include_bytes!("data/linux-6.12.dat.xz"))
}

/// The trace in version 7: by trace-cmd, but Debian's has no zlib.
fn converted(from: &Path, compression: &str, folder: &Path) -> PathBuf {
    let to = folder.join(format!("{compression}.dat"));
    if compression == "zlib" {
        fs::write(&to, version_7(&Trace::open(from).expect("readable"), compression))
            .expect("written");
        return to;
    }
    let mut command = Command::new("trace-cmd");
    command.args(["convert", "--file-version", "7", "--compression", compression, "-i"]);
    run(command.arg(from).arg("-o").arg(&to), "trace-cmd");
    to
}

/// Events as `trace-cmd report -R` prints them: thread, CPU, time, name.
fn report(path: &Path, words: &[&str]) -> Vec<String> {
    let mut command = Command::new("trace-cmd");
    let text = run(command.args(["report", "-R"]).args(words).arg(path), "trace-cmd");
    let events = text.lines().filter(|line| line.contains("] "));
    let parts = events.map(|line| {
        let (before, after) = line.split_once('[').expect("a CPU");
        let pid = before.trim_end().rsplit('-').next().expect("a thread");
        let mut words = after.split_whitespace();
        let cpu: u32 =
            words.next().and_then(|cpu| cpu.trim_end_matches(']').parse().ok()).expect("a CPU");
        let time = words.next().expect("a time").trim_end_matches(':');
        let name = words.next().expect("an event").trim_end_matches(':');
        format!("{pid} {cpu} {time} {name}")
    });
    parts.collect()
}

/// The same as this crate sees them.
fn events(trace: &Trace) -> Vec<String> {
    let mut events = trace.events().expect("readable");
    let mut lines = Vec::new();
    while let Some(item) = events.next().expect("readable") {
        let Item::Record(record) = item else { continue };
        let pid = trace.formats().pid(record.data).expect("a thread");
        let event = trace.formats().event_of(record.data).expect("a known event");
        lines.push(format!("{pid} {} {} {}", record.cpu, record.time, event.name));
    }
    lines
}

#[test]
fn version_7_is_read_in_every_compression() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v6.dat");
    fs::write(&path, real()).expect("written");
    let old = Trace::open(&path).expect("readable");
    for compression in ["none", "zlib", "zstd"] {
        let path = converted(&path, compression, folder.path());
        let bytes = fs::read(&path).expect("there");
        assert!(bytes.windows(4).any(|part| part == compression.as_bytes()), "{compression}");
        let trace = Trace::open(&path).expect("readable");
        assert_eq!(items(&trace), items(&old), "{compression}");
        let (new, old) = (trace.metadata(), old.metadata());
        assert_eq!((&new.clock, &new.uname, new.id), (&old.clock, &old.uname, old.id));
        assert_eq!((&new.comms, &new.formats), (&old.comms, &old.formats), "{compression}");
        let read = |source: &ByteSource| {
            let mut bytes = vec![0; usize::try_from(source.len()).expect("short")];
            source.read_at(0, &mut bytes).expect("readable");
            bytes
        };
        assert_eq!(read(&new.kallsyms), read(&old.kallsyms), "{compression}");
        assert_eq!(read(&new.printk_formats), read(&old.printk_formats), "{compression}");
        // Written again it is the version 6 that it came from, to trace-cmd as well.
        let again = folder.path().join("again.dat");
        trace.write_trace_dat(&mut fs::File::create(&again).expect("a file")).expect("written");
        assert_eq!(report(&again, &[]), events(&trace));
    }
}

/// However the reader's buffers fall on the chunks.
#[test]
fn compressed_pages_are_read_from_anywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v6.dat");
    fs::write(&path, real()).expect("written");
    let (old, new) = (Trace::open(&path), Trace::open(&converted(&path, "zstd", folder.path())));
    let (old, new) = (old.expect("readable"), new.expect("readable"));
    for (old, new) in old.pages().iter().zip(new.pages()) {
        assert_eq!(old.len(), new.len());
        let len = usize::try_from(old.len()).expect("short");
        let mut whole = vec![0; len];
        assert_eq!(old.read_at(0, &mut whole).expect("readable"), len);
        for at in (0..len).step_by(3000).rev() {
            let mut part = vec![0; 50_001];
            let count = new.read_at(at as u64, &mut part).expect("readable");
            assert_eq!(part[..count], whole[at..len.min(at + 50_001)], "{at}");
        }
    }
}

/// What is damaged in a chunk is missing, and what is not is there.
#[test]
fn a_damaged_chunk_costs_its_pages_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v6.dat");
    fs::write(&path, real()).expect("written");
    let path = converted(&path, "zstd", folder.path());
    let whole = Trace::open(&path).expect("readable");
    let all = events(&whole);
    let mut bytes = fs::read(&path).expect("there");
    // A frame of zstd (RFC 8878) in the pages: behind the count of chunks and two lengths at the
    // beginning of a page of the file.
    let magic = b"\x28\xb5\x2f\xfd";
    let is_frame = |at: &usize| bytes[*at..].starts_with(magic);
    let frame = (12..bytes.len()).step_by(PAGE_SIZE).rfind(is_frame).expect("frames");
    // A bit of its head that has to be 0. What is changed behind it may well be unpacked: there is
    // no checksum.
    bytes[frame + 4] |= 8;
    let damaged = Trace::from_trace_dat_bytes(bytes).expect("readable");
    let found = events(&damaged);
    let mut lost = 0;
    let mut read = damaged.events().expect("readable");
    while let Some(item) = read.next().expect("readable") {
        if let Item::Lost(loss) = item {
            assert_eq!(loss.reason, LossReason::Damaged);
            lost += 1;
        }
    }
    assert!(lost > 0 && found.len() < all.len() && !found.is_empty(), "{lost}, {}", found.len());
    let mut left = all.iter();
    assert!(found.iter().all(|event| left.any(|other| other == event)), "in the same order");
}

/// Linux of a 32-bit machine: the clock stands behind the table of pages.
#[test]
fn a_trace_of_a_32_bit_machine_is_read() {
    let bytes = unpack(include_bytes!("data/32-bit-clock-behind-table.dat.xz"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.dat");
    fs::write(&path, &bytes).expect("written");
    let trace = Trace::open(&path).expect("readable");
    assert_eq!(trace.metadata().clock, "local");
    assert_eq!(trace.page_layout().commit_size, 4);
    let ours: Vec<String> = events(&trace).into_iter().map(micros).collect();
    let theirs = report(&path, &[]);
    assert_eq!(ours.len(), 1154);
    assert_eq!(ours, theirs);
}

/// The time in seconds and microseconds, as trace-cmd prints clocks of nanoseconds.
fn micros(line: String) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let ns: u64 = words[2].parse().expect("a time");
    let us = (ns + 500) / 1000;
    words[2] = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    words.join(" ")
}

/// An instance alone has events: `trace-cmd record -B foo`.
#[test]
fn buffers_of_instances_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v6.dat");
    fs::write(&path, unpack(include_bytes!("data/buffers-v6.dat.xz"))).expect("written");
    let seven = converted(&path, "zstd", folder.path());
    for path in [&path, &seven] {
        let file = TraceFile::open(path).expect("readable");
        assert_eq!(file.buffers().collect::<Vec<_>>(), ["", "foo"]);
        let main = Trace::open(path).expect("readable");
        let open = TraceFile::open(path).expect("readable");
        let foo = open.into_buffer("foo").expect("there").expect("readable");
        let text = report(path, &[]);
        let theirs = |of_foo: bool| {
            let mut command = Command::new("trace-cmd");
            let all = run(command.args(["report", "-R"]).arg(path), "trace-cmd");
            let lines = all.lines().filter(|line| line.contains("] "));
            let mine = lines.zip(&text).filter(|(line, _)| line.contains("foo:") == of_foo);
            mine.map(|(_, event)| event.clone()).collect::<Vec<_>>()
        };
        let ours = |trace: &Trace| events(trace).into_iter().map(micros).collect::<Vec<_>>();
        assert!(!ours(&main).is_empty() && !ours(&foo).is_empty());
        assert_eq!(ours(&main), theirs(false));
        assert_eq!(ours(&foo), theirs(true));
        assert!(TraceFile::open(path).expect("readable").into_buffer("bar").is_none());
    }
}

/// Pages of 16 KiB, as some machines have them.
#[test]
fn pages_of_another_size_are_read() {
    let mut small = Builder::new(2);
    for turn in 0..500_u64 {
        small.switch(1, 1000 + turn * 10, 1, 11).switch(1, 1005 + turn * 10, 1, 0);
    }
    let large = |pages: Vec<u8>| {
        let each = pages.chunks(PAGE_SIZE);
        let grown = each.map(|page| [page, &vec![0; 3 * PAGE_SIZE]].concat());
        ByteSource::bytes(grown.collect::<Vec<_>>().concat())
    };
    let header_page = HEADER_PAGE.replace("size:4080", "size:16368").into();
    let metadata = Metadata { header_page, ..small.metadata() };
    let pages = small.pages().into_iter().map(large).collect();
    let trace = Trace::new(metadata, pages).expect("good");
    assert_eq!(items(&trace), items(&small.build()));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v6.dat");
    trace.write_trace_dat(&mut fs::File::create(&path).expect("a file")).expect("written");
    let read = Trace::open(&path).expect("readable");
    assert_eq!(items(&read), items(&small.build()));
    let seven = Trace::open(&converted(&path, "zlib", folder.path())).expect("readable");
    assert_eq!(items(&seven), items(&small.build()));
}

#[test]
fn a_file_without_names_of_threads_is_read() {
    let metadata = Metadata { comms: Vec::new(), ..Builder::new(1).metadata() };
    let mut builder = Builder::new(1);
    builder.switch(0, 1000, 1, 11);
    let pages = builder.pages().into_iter().map(ByteSource::bytes).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v6.dat");
    let trace = Trace::new(metadata, pages).expect("good");
    trace.write_trace_dat(&mut fs::File::create(&path).expect("a file")).expect("written");
    for path in [&path, &converted(&path, "none", folder.path())] {
        let trace = Trace::open(path).expect("readable");
        assert_eq!((items(&trace).len(), trace.comms().get(11)), (1, None));
    }
}

#[test]
fn what_is_no_trace_dat_is_called_by_its_name() {
    for (bytes, words) in [
        (&b"PERFILE2xxxxxxxx"[..], &["perf.data", "trace-cmd record"][..]),
        (b"\xfd7zXZ\0xxxxxxxx", &["xz -d"]),
        (b"\x1f\x8b\x08xxxxxxxx", &["gzip -d"]),
        (b"\x28\xb5\x2f\xfdxxxxxxxx", &["zstd -d"]),
        (b"# tracer: nop\n#\n", &["as text"]),
        (b"\x17\x08\x44tracing6\0\x01\x08", &["byte 12", "big-endian"]),
        (b"\x17\x08\x44tracing8\0\0\x08", &["byte 10", "version 6 or 7"]),
        (b"\x17\x08\x44tracing7\0\0\x08\0\x10\0\0lz9\x001.0\0", &["lz9", "--compression none"]),
        (b"", &["byte 0"]),
    ] {
        let error = Trace::from_trace_dat_bytes(bytes.to_vec()).expect_err("refused").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

/// Progress is told of the bytes as they are unpacked, which is what pages are counted in.
#[test]
fn progress_comes_to_the_pages() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("v6.dat");
    fs::write(&path, real()).expect("written");
    let trace = Trace::open(&converted(&path, "zlib", folder.path())).expect("readable");
    let seen = Arc::new(Mutex::new(0));
    let told = seen.clone();
    let trace = trace.watched(move |bytes| *told.lock().expect("unharmed") += bytes);
    items(&trace);
    assert_eq!(*seen.lock().expect("unharmed"), trace.pages_bytes());
}
