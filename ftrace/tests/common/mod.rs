// SPDX-License-Identifier: Apache-2.0
//! Constructed traces: a small kernel that writes ring-buffer pages.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::Read;
use std::process::Command;

use ftrace::{ByteSource, FormatFile, Metadata, Trace, TraceId};

pub const PAGE_SIZE: usize = 4096;
const HEADER_SIZE: usize = 16;

/// What a program prints. It fails where the program is missing, and says where it comes from:
/// a test that looks at nothing is worse than one that fails.
pub fn run(command: &mut Command, package: &str) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let hint = format!("`{program}` is needed: install the package `{package}`");
    let output = command.output().expect(&hint);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Unpacks what xz packed.
pub fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    liblzma::read::XzDecoder::new(packed).read_to_end(&mut bytes).expect("unpacked");
    bytes
}

pub const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
    \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
    \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
    \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";
pub const HEADER_EVENT: &str = "# compressed entry header\n\
    \ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n\
    \tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n\
    \tdata max type_len  == 28\n";

/// Fields of an event behind the common ones: declaration before and after the name, size.
type Spec =
    (&'static str, &'static str, u16, &'static [(&'static str, &'static str, &'static str, usize)]);

const INT: (&str, &str, usize) = ("int", "", 4);
const COMM: (&str, &str, usize) = ("char", "[16]", 16);

macro_rules! fields {
    ($($name:literal: $kind:expr),* $(,)?) => { &[$(($kind.0, $name, $kind.1, $kind.2)),*] };
}

const SPECS: [Spec; 12] = [
    (
        "sched",
        "sched_switch",
        300,
        fields!("prev_comm": COMM, "prev_pid": INT, "prev_prio": INT,
        "prev_state": ("long", "", 8), "next_comm": COMM, "next_pid": INT, "next_prio": INT),
    ),
    (
        "sched",
        "sched_waking",
        301,
        fields!("comm": COMM, "pid": INT, "prio": INT, "target_cpu": INT),
    ),
    (
        "sched",
        "sched_wakeup",
        302,
        fields!("comm": COMM, "pid": INT, "prio": INT, "target_cpu": INT),
    ),
    (
        "sched",
        "sched_wakeup_new",
        303,
        fields!("comm": COMM, "pid": INT, "prio": INT, "target_cpu": INT),
    ),
    (
        "sched",
        "sched_migrate_task",
        304,
        fields!("comm": COMM, "pid": INT, "prio": INT, "orig_cpu": INT, "dest_cpu": INT),
    ),
    ("irq", "irq_handler_entry", 305, fields!("irq": INT, "name": ("__data_loc char[]", "", 4))),
    ("irq", "irq_handler_exit", 306, fields!("irq": INT, "ret": INT)),
    ("irq", "softirq_entry", 307, fields!("vec": ("unsigned int", "", 4))),
    ("irq", "softirq_exit", 308, fields!("vec": ("unsigned int", "", 4))),
    ("irq_vectors", "local_timer_entry", 309, fields!("vector": INT)),
    ("irq_vectors", "local_timer_exit", 310, fields!("vector": INT)),
    ("ftrace", "print", 5, fields!("ip": ("unsigned long", "", 8), "buf": ("char", "[]", 0))),
];

/// A value of a field.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    Number(i64),
    Text(&'a str),
}

impl From<i32> for Value<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

/// Where the fields of an event are. In a mirrored trace they stand in the other order, as
/// they might in some other kernel.
fn layout(
    spec: &Spec,
    mirrored: bool,
) -> Vec<(&'static str, &'static str, &'static str, usize, usize)> {
    let mut fields: Vec<_> = spec.3.to_vec();
    let flexible = fields.iter().any(|field| field.3 == 0);
    if mirrored && !flexible {
        fields.reverse();
    }
    let mut offset = 8;
    fields
        .into_iter()
        .map(|(before, name, after, size)| {
            offset = offset_aligned(offset, before, size);
            let place = (before, name, after, offset, size);
            offset += size;
            place
        })
        .collect()
}

fn offset_aligned(offset: usize, kind: &str, size: usize) -> usize {
    if kind == "char" { offset } else { offset.next_multiple_of(size.max(1)) }
}

fn format_file(spec: &Spec, mirrored: bool) -> FormatFile {
    let (system, name, id, _) = spec;
    let mut text = format!(
        "name: {name}\nID: {id}\nformat:\n\
         \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
         \tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n\
         \tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n\
         \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
    );
    for (before, name, after, offset, size) in layout(spec, mirrored) {
        let signed = u8::from(["int", "long"].contains(&before));
        text += &format!(
            "\tfield:{before} {name}{after};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n"
        );
    }
    text += match *name {
        "print" => "\nprint fmt: \"%ps: %s\", (void *)REC->ip, REC->buf\n",
        _ => "\nprint fmt: \"%s\", \"\"\n",
    };
    FormatFile { system: (*system).into(), text: text.into_bytes() }
}

#[derive(Clone, Default)]
struct CpuPages {
    pages: Vec<u8>,
    current: i32,
    last_time: u64,
    /// Data of the page being written, with its time; `None` between pages.
    open: Option<(u64, Vec<u8>)>,
    /// Losses before the page that comes next.
    missed: Option<Option<u64>>,
}

impl CpuPages {
    fn close(&mut self) {
        let Some((time, mut data)) = self.open.take() else { return };
        let mut flags = 0_u32;
        let length = u32::try_from(data.len()).expect("a page");
        if let Some(missed) = self.missed.take() {
            flags |= 1 << 31;
            if let Some(count) = missed {
                flags |= 1 << 30;
                data.extend(count.to_le_bytes());
            }
        }
        let at = self.pages.len();
        self.pages.extend(time.to_le_bytes());
        self.pages.extend(u64::from(length | flags).to_le_bytes());
        self.pages.extend(data);
        self.pages.resize(at + PAGE_SIZE, 0);
    }

    fn push(&mut self, time: u64, record: &[u8]) {
        assert!(time >= self.last_time, "events of a CPU are in order");
        // Entry word, length word, extended time; and the count of losses after the data.
        let most = record.len() + 4 + 4 + 8 + 8;
        if self.open.as_ref().is_some_and(|(_, data)| HEADER_SIZE + data.len() + most > PAGE_SIZE) {
            self.close();
        }
        let (page_time, data) = self.open.get_or_insert((time, Vec::new()));
        let mut delta = if data.is_empty() { time - *page_time } else { time - self.last_time };
        if delta >= 1 << 27 {
            let low = u32::try_from(delta & ((1 << 27) - 1)).expect("27 bits");
            let high = u32::try_from(delta >> 27).expect("32 bits");
            data.extend((30 | low << 5).to_le_bytes());
            data.extend(high.to_le_bytes());
            delta = 0;
        }
        let delta = u32::try_from(delta).expect("27 bits");
        let words = u32::try_from(record.len().div_ceil(4)).expect("short");
        if words <= 28 {
            data.extend((words | delta << 5).to_le_bytes());
        } else {
            data.extend((delta << 5).to_le_bytes());
            data.extend((words * 4 + 4).to_le_bytes());
        }
        data.extend(record);
        data.resize(data.len().next_multiple_of(4), 0);
        self.last_time = time;
    }
}

/// Writes a trace, event by event; each CPU in order of time.
#[derive(Clone)]
pub struct Builder {
    cpus: Vec<CpuPages>,
    mirrored: bool,
}

impl Builder {
    /// All CPUs idle.
    pub fn new(cpus: usize) -> Self {
        Self { cpus: vec![CpuPages::default(); cpus], mirrored: false }
    }

    /// The same events, other formats.
    pub fn mirrored(mut self) -> Self {
        self.mirrored = true;
        self
    }

    pub fn event(
        &mut self,
        cpu: usize,
        time: u64,
        name: &str,
        values: &[(&str, Value)],
    ) -> &mut Self {
        let spec = SPECS.iter().find(|spec| spec.1 == name).expect("a known event");
        let fields = layout(spec, self.mirrored);
        let mut record = spec.2.to_le_bytes().to_vec();
        record.extend([0; 2]);
        record.extend(self.cpus[cpu].current.to_le_bytes());
        let end = fields.iter().map(|field| field.3 + field.4).max().unwrap_or(8);
        record.resize(end, 0);
        for (name, value) in values {
            let (before, _, _, offset, size) =
                *fields.iter().find(|field| field.1 == *name).expect("a field of the event");
            match value {
                Value::Number(number) => {
                    record[offset..offset + size].copy_from_slice(&number.to_le_bytes()[..size]);
                }
                Value::Text(text) if before.starts_with("__data_loc") || size == 0 => {
                    let (at, length) = (record.len(), text.len() + 1);
                    record.extend(text.as_bytes());
                    record.push(0);
                    if size == 4 {
                        let word = u32::try_from(at | length << 16).expect("short");
                        record[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
                    }
                }
                Value::Text(text) => {
                    record[offset..offset + text.len()].copy_from_slice(text.as_bytes());
                }
            }
        }
        self.cpus[cpu].push(time, &record);
        self
    }

    /// A switch from what runs to `next`; threads are called `t<tid>`, CPU's idle threads
    /// `swapper/<cpu>`.
    pub fn switch(&mut self, cpu: usize, time: u64, prev_state: i32, next: i32) -> &mut Self {
        self.switch_named(cpu, time, prev_state, next, &name(cpu, next))
    }

    pub fn switch_named(
        &mut self,
        cpu: usize,
        time: u64,
        prev_state: i32,
        next: i32,
        next_comm: &str,
    ) -> &mut Self {
        let prev = self.cpus[cpu].current;
        let values: [(&str, Value); 7] = [
            ("prev_comm", Value::Text(&name(cpu, prev))),
            ("prev_pid", prev.into()),
            ("prev_prio", 120.into()),
            ("prev_state", prev_state.into()),
            ("next_comm", next_comm.into()),
            ("next_pid", next.into()),
            ("next_prio", 120.into()),
        ];
        self.event(cpu, time, "sched_switch", &values);
        self.cpus[cpu].current = next;
        self
    }

    /// `sched_waking`, `sched_wakeup` or `sched_wakeup_new`.
    pub fn wake(&mut self, cpu: usize, time: u64, event: &str, tid: i32, target: u32) -> &mut Self {
        let values: [(&str, Value); 4] = [
            ("comm", Value::Text(&name(cpu, tid))),
            ("pid", tid.into()),
            ("prio", 120.into()),
            ("target_cpu", target.into()),
        ];
        self.event(cpu, time, event, &values)
    }

    pub fn migrate(&mut self, cpu: usize, time: u64, tid: i32, from: u32, to: u32) -> &mut Self {
        let values: [(&str, Value); 4] = [
            ("pid", tid.into()),
            ("prio", 120.into()),
            ("orig_cpu", from.into()),
            ("dest_cpu", to.into()),
        ];
        self.event(cpu, time, "sched_migrate_task", &values)
    }

    /// What runs on a CPU that nobody saw being switched to.
    pub fn set_current(&mut self, cpu: usize, tid: i32) -> &mut Self {
        self.cpus[cpu].current = tid;
        self
    }

    /// Events are lost here.
    pub fn lose(&mut self, cpu: usize, count: Option<u64>) -> &mut Self {
        self.cpus[cpu].close();
        self.cpus[cpu].missed = Some(count);
        self
    }

    pub fn pages(&self) -> Vec<Vec<u8>> {
        let close = |cpu: &CpuPages| {
            let mut cpu = cpu.clone();
            cpu.close();
            cpu.pages
        };
        self.cpus.iter().map(close).collect()
    }

    pub fn metadata(&self) -> Metadata {
        Metadata {
            header_page: HEADER_PAGE.into(),
            header_event: HEADER_EVENT.into(),
            formats: SPECS.iter().map(|spec| format_file(spec, self.mirrored)).collect(),
            comms: b"1 init\n".to_vec(),
            kallsyms: ByteSource::bytes(
                *b"ffffffff81000000 t tracing_mark_write\nffffffff81001000 t x\n",
            ),
            clock: "x86-tsc".into(),
            uname: "Linux 6.12.0 constructed".into(),
            id: TraceId::of(0x0123_4567_89AB_CDEF),
            ..Metadata::default()
        }
    }

    pub fn build(&self) -> Trace {
        let pages = self.pages().into_iter().map(ByteSource::bytes).collect();
        Trace::new(self.metadata(), pages).expect("a good trace")
    }
}

fn name(cpu: usize, tid: i32) -> String {
    if tid == 0 { format!("swapper/{cpu}") } else { format!("t{tid}") }
}

/// Numbers of the sections of version 7.
const SECTIONS: [u16; 6] = [16, 17, 18, 19, 20, 21];
/// Pages of a chunk, as trace-cmd has it.
const CHUNK_PAGES: usize = 10;

/// A trace of one buffer in version 7 (trace-cmd.dat.v7(5)).
pub fn version_7(trace: &Trace, compression: &str) -> Vec<u8> {
    let metadata = trace.metadata();
    let mut out = b"\x17\x08\x44tracing7\0\0\x08\0\x10\0\0".to_vec();
    out.extend(format!("{compression}\x001.0\0").as_bytes());
    let first_options = out.len();
    out.extend([0; 8]);
    let mut options = Vec::new();
    for number in SECTIONS {
        let at = out.len() as u64;
        put_section(number, &section_7(number, metadata), compression, &mut out);
        put_option(number, &at.to_le_bytes(), &mut options);
    }
    put_option(4, format!("[{}]\0", metadata.clock).as_bytes(), &mut options);
    put_option(5, format!("{}\0", metadata.uname).as_bytes(), &mut options);
    if let Some(id) = metadata.id {
        put_option(11, &id.number().to_le_bytes(), &mut options);
    }
    let buffer = put_buffer(trace, compression, &mut out);
    put_option(3, &buffer, &mut options);
    put_option(0, &0_u64.to_le_bytes(), &mut options);
    let at = out.len() as u64;
    out[first_options..first_options + 8].copy_from_slice(&at.to_le_bytes());
    put_section(0, &options, compression, &mut out);
    out
}

/// What is in a section.
fn section_7(number: u16, metadata: &Metadata) -> Vec<u8> {
    let mut text = Vec::new();
    match number {
        16 => {
            let headers =
                [("header_page", &metadata.header_page), ("header_event", &metadata.header_event)];
            for (name, header) in headers {
                text.extend(name.as_bytes());
                text.push(0);
                text.extend((header.len() as u64).to_le_bytes());
                text.extend(header);
            }
        }
        17 => put_formats("ftrace", metadata, &mut text),
        18 => {
            let mut systems: Vec<_> = metadata.formats.iter().map(|file| &*file.system).collect();
            systems.retain(|system| *system != "ftrace");
            systems.dedup();
            text.extend(u32::try_from(systems.len()).expect("few").to_le_bytes());
            for system in systems {
                text.extend(system.as_bytes());
                text.push(0);
                put_formats(system, metadata, &mut text);
            }
        }
        19 | 20 => {
            let source = if number == 19 { &metadata.kallsyms } else { &metadata.printk_formats };
            text.extend(u32::try_from(source.len()).expect("short").to_le_bytes());
            source.reader().read_to_end(&mut text).expect("readable");
        }
        _ => {
            text.extend((metadata.comms.len() as u64).to_le_bytes());
            text.extend(&metadata.comms);
        }
    }
    text
}

fn put_formats(system: &str, metadata: &Metadata, text: &mut Vec<u8>) {
    let files: Vec<_> = metadata.formats.iter().filter(|file| file.system == system).collect();
    text.extend(u32::try_from(files.len()).expect("few").to_le_bytes());
    for file in files {
        text.extend((file.text.len() as u64).to_le_bytes());
        text.extend(&file.text);
    }
}

fn put_option(number: u16, value: &[u8], options: &mut Vec<u8>) {
    options.extend(number.to_le_bytes());
    options.extend(u32::try_from(value.len()).expect("short").to_le_bytes());
    options.extend(value);
}

fn put_section(number: u16, contents: &[u8], compression: &str, out: &mut Vec<u8>) {
    let chunk = (compression != "none").then(|| chunk(contents, compression));
    let contents = chunk.as_deref().unwrap_or(contents);
    out.extend(number.to_le_bytes());
    out.extend(u16::from(chunk.is_some()).to_le_bytes());
    out.extend([0; 4]);
    out.extend((contents.len() as u64).to_le_bytes());
    out.extend(contents);
}

/// Bytes compressed by themselves, with both lengths before them.
fn chunk(bytes: &[u8], compression: &str) -> Vec<u8> {
    let packed = match compression {
        "zstd" => zstd::bulk::compress(bytes, 3).expect("packed"),
        "zlib" => {
            let level = flate2::Compression::default();
            let mut packed = Vec::new();
            let mut reader = flate2::read::ZlibEncoder::new(bytes, level);
            reader.read_to_end(&mut packed).expect("packed");
            packed
        }
        other => panic!("no compression {other}"),
    };
    let lengths = [packed.len(), bytes.len()].map(|len| u32::try_from(len).expect("short"));
    [lengths[0].to_le_bytes().to_vec(), lengths[1].to_le_bytes().to_vec(), packed].concat()
}

/// The pages with their section; what the option says of them.
fn put_buffer(trace: &Trace, compression: &str, out: &mut Vec<u8>) -> Vec<u8> {
    let page_size = trace.page_layout().page_size;
    let mut option = (out.len() as u64).to_le_bytes().to_vec();
    option.extend(format!("\0{}\0", trace.metadata().clock).as_bytes());
    let numbers =
        [page_size, trace.pages().len()].map(|number| u32::try_from(number).expect("small"));
    option.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    let head = out.len();
    out.extend([3, 0, u8::from(compression != "none"), 0]);
    out.extend([0; 12]);
    for (cpu, source) in (0_u32..).zip(trace.pages()) {
        out.resize(out.len().next_multiple_of(page_size), 0);
        let at = out.len();
        let mut pages = Vec::new();
        source.reader().read_to_end(&mut pages).expect("readable");
        if compression == "none" || pages.is_empty() {
            out.extend(&pages);
        } else {
            let chunks = pages.chunks(CHUNK_PAGES * page_size);
            out.extend(u32::try_from(chunks.len()).expect("few").to_le_bytes());
            chunks.for_each(|pages| out.extend(chunk(pages, compression)));
        }
        option.extend(cpu.to_le_bytes());
        option.extend([at as u64, (out.len() - at) as u64].iter().flat_map(|n| n.to_le_bytes()));
    }
    let len = (out.len() - head - 16) as u64;
    out[head + 8..head + 16].copy_from_slice(&len.to_le_bytes());
    option
}

/// Every item of a trace, as text.
pub fn items(trace: &Trace) -> Vec<String> {
    let mut events = trace.events().expect("readable");
    let mut items = Vec::new();
    while let Some(item) = events.next().expect("readable") {
        items.push(format!("{item:?}"));
    }
    items
}
