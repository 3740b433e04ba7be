// SPDX-License-Identifier: Apache-2.0
//! Damaged and hostile traces: whatever the bytes, reading ends, in bounded memory, without a
//! panic, and gaps still close. Mutations come from seeds, and a failure prints its seed. The
//! seeds are the same ones in every run, so that a run fails for what changed in the project;
//! `FTRACE_FUZZ_SECONDS=60 cargo nextest run -p ftrace --test hostile` tries new ones for so long
//! per test. A seed that fails goes to `SEEDS`.

mod common;

use std::time::{Duration, Instant};

use common::{Builder, HEADER_EVENT, HEADER_PAGE, unpack, version_7};
use ftrace::attribution::{Context, Gap, Topology, Units, explain};
use ftrace::dump::{Dump, DumpWriter, Section};
use ftrace::{
    ByteSource, EventFormat, FormatFile, Item, Metadata, Slice, Trace, Wanted, co_run, lanes, waits,
};

/// Seeds that are always tried: some of each kind of mutation, and those that failed once.
const SEEDS: [u64; 9] = [0, 1, 2, 3, 0xDEAD, 0xBEEF, 1 << 40, u64::MAX, 0xC35C_BFE0_0B0F];
/// How many more seeds each test tries, if it has the time.
const MORE: usize = 500;
const TIME: Duration = Duration::from_secs(10);

/// Numbers that look random (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a usize")
    }

    /// Changes bytes in one of several ways.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 => bytes.truncate(at),
                2 => {
                    // Numbers at the edges, where lengths and offsets go wrong.
                    let edge = [0, 1, 3, 4, 0x7F, 0x7FFF_FFFF, u32::MAX, 1 << 31, 1 << 30];
                    let value = edge[self.below(edge.len())].to_le_bytes();
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].copy_from_slice(&value[..end - at]);
                }
                3 => {
                    let from = self.below(bytes.len());
                    let length = self.below(64).min(bytes.len() - from.max(at));
                    bytes.copy_within(from..from + length, at);
                }
                4 => {
                    let noise: Vec<u8> = self.next().to_le_bytes().to_vec();
                    bytes.splice(at..at, noise);
                }
                _ => {
                    let end = (at + self.below(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
    }
}

/// Tries the kept seeds and the usual ones, or the kept ones and new ones for the time asked for.
fn with_seeds(mut attempt: impl FnMut(&mut Random)) {
    let mut attempt = |seed: u64| {
        // Shown only if the test fails.
        println!("seed {seed:#x}");
        // Zero would stay zero.
        attempt(&mut Random(seed.wrapping_mul(2).wrapping_add(1)));
    };
    SEEDS.into_iter().for_each(&mut attempt);
    let start = Instant::now();
    let Ok(seconds) = std::env::var("FTRACE_FUZZ_SECONDS") else {
        let usual = (1 << 20..).take(MORE);
        return usual.take_while(|_| start.elapsed() < TIME).for_each(attempt);
    };
    let time = Duration::from_secs(seconds.parse().expect("FTRACE_FUZZ_SECONDS is a number"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = u64::from(now.expect("after 1970").subsec_nanos()) << 20;
    (first..).take_while(|_| start.elapsed() < time).for_each(attempt);
}

fn sample() -> Builder {
    let mut trace = Builder::new(4);
    for turn in 0..300_u64 {
        let time = 1000 + turn * 40_000_000;
        trace.wake(0, time, "sched_waking", 11, 2).migrate(0, time + 1, 11, 2, 3);
        trace.wake(0, time + 2, "sched_wakeup", 11, 3);
        trace.switch(2, time + 9, 256, 21).switch(3, time + 10, 1, 11);
        trace.event(3, time + 12, "softirq_entry", &[("vec", 3.into())]);
        trace.event(3, time + 13, "softirq_exit", &[("vec", 3.into())]);
        trace.switch(3, time + 20, 256, 0).switch(2, time + 30, 1, 0);
        if turn % 50 == 0 {
            trace.lose(3, Some(turn));
        }
    }
    trace
}

/// Reads all of a trace in every way there is. What comes out must hold together.
fn use_up(trace: &Trace) {
    let bytes: u64 = trace.pages().iter().map(ByteSource::len).sum();
    let mut events = trace.events().expect("in memory");
    let mut items = 0_u64;
    while let Some(item) = events.next().expect("in memory") {
        items += 1;
        if let Item::Record(record) = item
            && let Some(event) = trace.formats().event_of(record.data)
        {
            for field in &event.fields {
                let range = field.range(record.data);
                assert_eq!(field.bytes(record.data).map(<[u8]>::len), range.map(|r| r.len()));
                let _ = field.int().and_then(|int| int.get(record.data));
            }
        }
    }
    // An entry has a word; a page may be damaged, and follow a loss.
    assert!(items <= bytes / 4 + 2, "{items} items in {bytes} bytes");
    let context = Context {
        topology: Topology::from_cores([&[0, 1][..], &[2, 3]]),
        groups: [(11, 1), (21, 2)].into(),
        core_scheduling: true,
        max_segments: 50,
        ..Context::default()
    };
    let gaps = [(11, 0, u64::MAX), (21, 1000, 12_000_000_000), (0, 500, 90_000_000), (11, 7, 7)]
        .map(|(tid, begin, end)| Gap { tid, begin, end });
    let found = explain(trace, &gaps, &context).expect("in memory");
    for explanation in &found {
        let sum: u64 = explanation.parts.iter().map(|part| part.ticks).sum();
        assert_eq!(sum, explanation.gap.end - explanation.gap.begin, "{explanation:#?}");
    }
    let wanted = Wanted { worst: 1000, ..Wanted::default() };
    let waited = waits(trace, &wanted).expect("in memory");
    assert!(waited.records <= items && waited.worst.len() <= 1000, "{waited:?}");
    assert!(waited.worst.iter().all(|wait| wait.begin <= wait.end && wait.tid != 0), "{waited:?}");
    let window = 1000..12_000_000_000;
    let shown = lanes(trace, window.clone(), &[0, 2, 3, 9000], 40).expect("in memory");
    for lane in shown.cpus.values() {
        assert!(lane.slices.len() <= 40 && lane.slices.iter().all(|s| s.begin < s.end));
        assert!(lane.slices.windows(2).all(|pair| pair[0].end <= pair[1].begin), "{lane:?}");
        let inside = |slice: &Slice| window.start <= slice.begin && slice.end <= window.end;
        assert!(lane.slices.iter().all(inside), "{lane:?}");
    }
    let beside = co_run(trace, &context, 0..u64::MAX).expect("in memory");
    co_run(trace, &context, 0..6_000_000_000).expect("in memory");
    assert!(beside.keys().all(|tid| context.groups.contains_key(tid)), "{beside:?}");
    let mut out = Vec::new();
    trace.write_perfetto(&found, &context, Units::tsc(1000), &mut out).expect("in memory");
    let most = bytes * 64 + (1 << 16);
    assert!(out.len() as u64 <= most, "{} bytes from {bytes}", out.len());
}

#[test]
fn mutated_pages_are_read_to_their_end() {
    let builder = sample();
    let pages = builder.pages();
    with_seeds(|random| {
        let mut pages = pages.clone();
        for _ in 0..=random.below(3) {
            let cpu = random.below(pages.len());
            random.mutate(&mut pages[cpu]);
        }
        let pages = pages.into_iter().map(ByteSource::bytes).collect();
        use_up(&Trace::new(builder.metadata(), pages).expect("the metadata is good"));
    });
}

/// Events name CPUs, of which there may be any number; and gaps may be asked for that cannot be.
#[test]
fn an_event_may_name_any_cpu() {
    for cpu in [3, 4, 8191, 8192, 8193, 9000, 0x7FFF_FFFF, 0x8000_0000, u32::MAX] {
        let mut trace = Builder::new(4);
        // The first that is heard of a thread is where it comes from.
        trace.migrate(0, 1000, 11, cpu, 2).migrate(1, 1000, 21, 2, cpu);
        trace.wake(0, 1001, "sched_waking", 22, cpu).wake(1, 1002, "sched_wakeup", 22, cpu);
        trace.switch(2, 5000, 1, 11).switch(2, 6000, 0, 21);
        use_up(&trace.build());
        let gaps = [(11, 0, 9000), (22, 10, 9000), (21, 7000, 6999)];
        let gaps = gaps.map(|(tid, begin, end)| Gap { tid, begin, end });
        let context = Context { max_segments: 9, ..Context::default() };
        let found = explain(&trace.build(), &gaps, &context).expect("in memory");
        for (explanation, length) in found.iter().zip([9000, 8990, 0]) {
            let sum: u64 = explanation.parts.iter().map(|part| part.ticks).sum();
            assert_eq!(sum, length, "{cpu}: {explanation:#?}");
            let _ = explanation.paragraph(&context, Units::tsc(1));
        }
    }
}

#[test]
fn pages_of_noise_are_read_to_their_end() {
    let builder = sample();
    with_seeds(|random| {
        let page = |random: &mut Random| -> Vec<u8> {
            let mut page: Vec<u8> = (0..512).flat_map(|_| random.next().to_le_bytes()).collect();
            // A length that is none would end the page at once.
            page[8..16].copy_from_slice(&(random.next() & 0xFF8).to_le_bytes());
            page
        };
        let pages =
            (0..2).map(|_| ByteSource::bytes([page(random), page(random)].concat())).collect();
        use_up(&Trace::new(builder.metadata(), pages).expect("the metadata is good"));
    });
}

#[test]
fn mutated_trace_dats_are_read_or_refused() {
    let mut whole = Vec::new();
    let trace = sample().build();
    trace.write_trace_dat(&mut whole).expect("in memory");
    let headers = whole.windows(10).position(|part| part == b"flyrecord\0").expect("in it") + 80;
    let (mut read, mut refused) = (0, 0);
    with_seeds(|random| {
        let mut head = whole[..headers].to_vec();
        random.mutate(&mut head);
        let bytes = [&head, &whole[headers..]].concat();
        match Trace::from_trace_dat_bytes(bytes) {
            Ok(trace) => {
                use_up(&trace);
                read += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    });
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

/// The sample as a guest sends it.
fn dump(metadata: &Metadata, pages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut dump = DumpWriter::new(&mut bytes).expect("in memory");
    let mut section = |section: Section<'_>, contents: &[u8]| {
        dump.section(section, contents).expect("in memory");
    };
    section(Section::HeaderPage, &metadata.header_page);
    section(Section::HeaderEvent, &metadata.header_event);
    for file in &metadata.formats {
        section(Section::Format { system: &file.system }, &file.text);
    }
    section(Section::Clock, b"x86-tsc");
    section(Section::Stats { cpu: 3 }, b"entries: 9\noverrun: 1\n");
    for (cpu, pages) in (0..).zip(pages) {
        dump.pages(cpu, &mut pages.as_slice()).expect("in memory");
    }
    dump.finish().expect("in memory");
    bytes
}

#[test]
fn mutated_dumps_are_read_or_refused() {
    let whole = dump(&sample().metadata(), &sample().pages());
    let (mut read, mut torn, mut refused) = (0, 0, 0);
    with_seeds(|random| {
        let mut bytes = whole.clone();
        // Most of it is pages; the frames before them are where lengths are.
        if random.below(2) == 0 {
            let mut head = bytes[..bytes.len() / 4].to_vec();
            random.mutate(&mut head);
            bytes.splice(..bytes.len() / 4, head);
        } else {
            random.mutate(&mut bytes);
        }
        match Dump::from_bytes(bytes) {
            Ok(dump) => {
                use_up(dump.trace());
                read += 1;
                torn += u32::from(dump.torn().is_some());
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    });
    assert!(read > 0 && torn > 0 && refused > 0, "{read} read, {torn} torn, {refused} refused");
}

#[test]
fn a_dump_of_very_many_frames_is_read_in_time() {
    let mut metadata = sample().metadata();
    metadata.header_page = [HEADER_PAGE.as_bytes(), &vec![b'\n'; 60_000]].concat();
    let mut bytes = dump(&metadata, &[]);
    // Frames of pages without a page, in place of the trailer.
    let frame = [9_u32.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    bytes.truncate(bytes.len() - 32);
    bytes.extend(frame.repeat(500_000));
    let begin = Instant::now();
    let dump = Dump::from_bytes(bytes).expect("readable");
    assert!(dump.torn().is_some_and(|why| why.contains("ends")));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

/// Kept inputs, and real traces: mutated like the others, so that what the kernel writes and
/// [`Builder`] does not is tried, too.
#[test]
fn mutated_real_traces_are_read_or_refused() {
    let real =
        [&include_bytes!("data/linux-6.12.dat.xz")[..], include_bytes!("data/linux-6.1.dat.xz")];
    let corpus = real.map(unpack);
    for bytes in &corpus {
        use_up(&Trace::from_trace_dat_bytes(bytes.clone()).expect("a good one"));
    }
    with_seeds(|random| {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        random.mutate(&mut bytes);
        match Trace::from_trace_dat_bytes(bytes) {
            Ok(trace) => use_up(&trace),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

/// Whether it could be opened; then it can be read, too.
fn open_and_use(bytes: Vec<u8>) -> bool {
    match Trace::from_trace_dat_bytes(bytes) {
        Ok(trace) => {
            use_up(&trace);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

#[test]
fn mutated_files_of_version_7_are_read_or_refused() {
    let corpus = ["none", "zlib", "zstd"].map(|name| version_7(&sample().build(), name));
    let (mut read, mut refused) = (0, 0);
    with_seeds(|random| {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        random.mutate(&mut bytes);
        *if open_and_use(bytes) { &mut read } else { &mut refused } += 1;
    });
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

/// Each way to cut a small file off, and each single bit of what is not padding.
#[test]
fn no_cut_and_no_flipped_bit_is_more_than_an_error() {
    let mut small = Builder::new(2);
    small.wake(0, 1000, "sched_waking", 11, 1).switch(1, 1010, 1, 11).switch(1, 1020, 1, 0);
    for compression in ["zstd", "zlib", "none"] {
        let whole = version_7(&small.build(), compression);
        assert!(open_and_use(whole.clone()), "{compression}");
        let step = 1 + whole.len() / 4000;
        for cut in (0..whole.len()).step_by(step) {
            match Trace::from_trace_dat_bytes(whole[..cut].to_vec()) {
                Ok(trace) => use_up(&trace),
                Err(error) => assert!(error.to_string().contains("byte"), "{cut}: {error}"),
            }
        }
        let begin = Instant::now();
        let mut flipped = 0;
        for at in (0..whole.len()).filter(|at| whole[*at] != 0) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                open_and_use(bytes);
                flipped += 1;
            }
            if begin.elapsed() > TIME {
                break;
            }
        }
        assert!(flipped > 1000, "{flipped}");
    }
}

/// Many chunks, buffers or sections in few bytes take no time and no memory of note.
#[test]
fn a_small_file_is_no_large_trace() {
    let whole = version_7(&sample().build(), "zstd");
    let magic = b"\x28\xb5\x2f\xfd";
    let frames: Vec<usize> =
        (0..whole.len() - 4).filter(|at| whole[*at..].starts_with(magic)).collect();
    let begin = Instant::now();
    for frame in frames {
        // The two lengths before it, and the count of chunks before them.
        for (at, value) in [(8, 0_u32), (4, u32::MAX), (4, 1 << 30), (4, 0), (12, u32::MAX)] {
            let mut bytes = whole.clone();
            bytes[frame - at..frame - at + 4].copy_from_slice(&value.to_le_bytes());
            open_and_use(bytes);
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn mutated_formats_are_read_or_refused() {
    let formats = sample().metadata().formats;
    with_seeds(|random| {
        let FormatFile { system, mut text } = formats[random.below(formats.len())].clone();
        random.mutate(&mut text);
        let file = FormatFile { system, text };
        if let Ok(event) = EventFormat::parse(&file) {
            // Bytes of no meaning, short and long, under a format of no meaning.
            let record: Vec<u8> =
                (0..random.below(20)).flat_map(|_| random.next().to_le_bytes()).collect();
            for field in &event.fields {
                assert!(field.bytes(&record).is_none_or(|bytes| bytes.len() <= record.len()));
                let _ = field.int().map(|int| (int.get(&record), int.get_i32(&record)));
            }
        }
        let mut metadata = sample().metadata();
        metadata.formats.push(file);
        metadata.header_page = HEADER_PAGE.into();
        random.mutate(&mut metadata.header_page);
        metadata.header_event = HEADER_EVENT.into();
        random.mutate(&mut metadata.header_event);
        if let Ok(trace) =
            Trace::new(metadata, sample().pages().into_iter().map(ByteSource::bytes).collect())
        {
            use_up(&trace);
        }
    });
}

#[test]
fn sizes_that_would_need_much_memory_are_refused() {
    let mut whole = Vec::new();
    sample().build().write_trace_dat(&mut whole).expect("in memory");
    let find = |part: &[u8]| {
        whole.windows(part.len()).position(|window| window == part).expect("in it") + part.len()
    };
    // Lengths and counts, each as large as can be.
    for at in [find(b"header_page\0"), find(b"header_event\0"), find(b"sched\0"), find(b"irq\0")] {
        let mut bad = whole.clone();
        bad[at..at + 4].copy_from_slice(&[0xFF; 4]);
        let error = Trace::from_trace_dat_bytes(bad).expect_err("too much").to_string();
        assert!(error.contains("limit"), "{error}");
    }
    let pages = vec![ByteSource::default(); 8193];
    let error = Trace::new(sample().metadata(), pages).expect_err("too many CPUs").to_string();
    assert!(error.contains("8193"), "{error}");
    // As many CPUs as may be, with pages as large as may be.
    let mut metadata = sample().metadata();
    metadata.header_page = HEADER_PAGE.replace("size:4080", "size:1048560").into();
    let page: ByteSource = ByteSource::bytes(*b"x");
    let trace = Trace::new(metadata, vec![page; 8192]).expect("possible");
    let error = trace.events().expect_err("8 GiB").to_string();
    assert!(error.contains("page size"), "{error}");
}
