// SPDX-License-Identifier: Apache-2.0
//! The trace on its way out: the raw pages, and all that is needed to read them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ftrace::dump::{DumpWriter, Section};
use ftrace::marker_symbol;

use crate::kernel::info;
use crate::tracing::Tracing;

/// The kernel hands out header files in the first read only, whatever its size.
const HEADER_ROOM: usize = 64 << 10;

/// Systems whose events are sent whatever is traced: markers are among them.
const ALWAYS: &str = "ftrace";

/// Addresses and names of the kernel's functions.
const KALLSYMS: &str = "/proc/kallsyms";

/// See [`Tracing::send`].
pub(super) fn send(tracing: &Tracing, first: &[u32], sink: &mut impl Write) -> io::Result<u64> {
    rest(tracing, first, head(tracing, sink)?)
}

/// See [`Tracing::send_rest`].
pub(super) fn rest<W: Write>(
    tracing: &Tracing,
    first: &[u32],
    mut dump: DumpWriter<W>,
) -> io::Result<u64> {
    comms(tracing, &mut dump)?;
    // What the kernel says of a buffer before its pages are taken out of it.
    stats(tracing, &mut dump)?;
    let mut cpus = tracing.cpus();
    cpus.sort_by_key(|cpu| !first.contains(cpu));
    for cpu in cpus {
        let path = tracing.per_cpu(cpu).join("trace_pipe_raw");
        let raw = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let mut raw = named(&path, raw)?;
        dump.pages(cpu, &mut raw)?;
    }
    dump.finish()
}

/// See [`Tracing::send_stats`].
pub(super) fn stats<W: Write>(tracing: &Tracing, dump: &mut DumpWriter<W>) -> io::Result<()> {
    for cpu in tracing.cpus() {
        let path = tracing.per_cpu(cpu).join("stats");
        dump.section(Section::Stats { cpu }, &named(&path, fs::read(&path))?)?;
    }
    Ok(())
}

/// Names of threads, as the kernel knows them by now.
pub(super) fn comms<W: Write>(tracing: &Tracing, dump: &mut DumpWriter<W>) -> io::Result<()> {
    let path = main_root(&tracing.root).join("saved_cmdlines");
    dump.section(Section::Comms, &fs::read(path).unwrap_or_default())
}

/// See [`Tracing::send_head`].
pub(super) fn head<W: Write>(tracing: &Tracing, sink: W) -> io::Result<DumpWriter<W>> {
    let mut dump = DumpWriter::new(sink)?;
    metadata(tracing, &mut dump)?;
    Ok(dump)
}

/// Everything but the pages.
fn metadata<W: Write>(tracing: &Tracing, dump: &mut DumpWriter<W>) -> io::Result<()> {
    // An instance has no files that are about the whole kernel.
    let root = main_root(&tracing.root);
    let headers = [(Section::HeaderPage, "header_page"), (Section::HeaderEvent, "header_event")];
    for (section, file) in headers {
        let path = root.join("events").join(file);
        dump.section(section, &named(&path, read_at_once(&path))?)?;
    }
    dump.section(Section::Clock, tracing.clock.as_deref().unwrap_or_default().as_bytes())?;
    dump.section(Section::Uname, uname().as_bytes())?;
    if let Some(id) = tracing.id {
        dump.section(Section::Id, &id.number().to_le_bytes())?;
    }
    // An event may have been asked for twice, as its system and by name.
    let mut formats = BTreeSet::new();
    let traced = tracing.events.iter().map(String::as_str);
    for event in [ALWAYS].into_iter().chain(traced) {
        let system = event.split(':').next().unwrap_or_default();
        formats.extend(format_files(&root, event)?.into_iter().map(|path| (system, path)));
    }
    for (system, path) in formats {
        dump.section(Section::Format { system }, &named(&path, fs::read(&path))?)?;
    }
    // Viewers do without these.
    dump.section(
        Section::PrintkFormats,
        &fs::read(root.join("printk_formats")).unwrap_or_default(),
    )?;
    comms(tracing, dump)?;
    let symbols = File::open(KALLSYMS).and_then(|file| marker_symbol(BufReader::new(file)));
    dump.section(Section::Kallsyms, &symbols.unwrap_or_default())
}

/// The tracing file system itself, for an instance of it.
fn main_root(root: &Path) -> PathBuf {
    let instances = root.parent().filter(|parent| parent.ends_with("instances"));
    instances.and_then(Path::parent).unwrap_or(root).to_owned()
}

/// The format files of a system, or of a single `system:event`.
fn format_files(root: &Path, event: &str) -> io::Result<Vec<PathBuf>> {
    let events = root.join("events");
    if let Some((system, event)) = event.split_once(':') {
        return Ok(vec![events.join(system).join(event).join("format")]);
    }
    let folder = events.join(event);
    let mut files = Vec::new();
    for entry in named(&folder, fs::read_dir(&folder))? {
        let path = entry?.path().join("format");
        if path.exists() {
            files.push(path);
        }
    }
    Ok(files)
}

fn read_at_once(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_ROOM];
    let count = File::open(path)?.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn uname() -> String {
    ["ostype", "osrelease", "version"].map(info::sysctl).join(" ")
}

fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// `bytes: 123` in a CPU's statistics: what is in its buffer, without the pages' heads.
pub(super) fn bytes(stats: &str) -> u64 {
    let mut lines = stats.lines();
    let count = lines.find_map(|line| line.strip_prefix("bytes:")?.trim().parse().ok());
    count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;
    use ftrace::dump::Dump;
    use protocol::job::{TraceDump, TraceSpec};

    const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
        \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
        \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
        \tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";
    const HEADER_EVENT: &str = "# compressed entry header\n\ttype_len    :    5 bits\n\
        \ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n\
        \tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n\
        \tdata max type_len  == 28\n";

    fn format(name: &str, id: u16) -> String {
        format!(
            "name: {name}\nID: {id}\nformat:\n\
             \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n"
        )
    }

    #[test]
    fn a_dump_has_all_that_is_needed_and_the_measured_cpus_first() {
        let page = String::from_utf8(vec![b'p'; 4096]).unwrap();
        let print = format("print", 5);
        let (switch, waking) = (format("sched_switch", 300), format("sched_waking", 301));
        let (irq, other) = (format("irq_handler_entry", 400), format("irq_handler_exit", 401));
        let root = tree(&[
            ("tracing_on", "0"),
            ("current_tracer", "nop"),
            ("events/enable", "0"),
            ("events/header_page", HEADER_PAGE),
            ("events/header_event", HEADER_EVENT),
            ("events/ftrace/print/format", &print),
            ("events/sched/enable", "0"),
            ("events/sched/sched_waking/enable", "0"),
            ("events/sched/sched_switch/format", &switch),
            ("events/sched/sched_waking/format", &waking),
            ("events/irq/irq_handler_entry/enable", "0"),
            ("events/irq/irq_handler_entry/format", &irq),
            ("events/irq/irq_handler_exit/format", &other),
            ("saved_cmdlines", "7 seven\n"),
            ("trace_clock", ""),
            ("buffer_size_kb", ""),
            ("trace", ""),
            ("per_cpu/cpu0/stats", "entries: 100\noverrun: 5\nbytes: 5000\n"),
            ("per_cpu/cpu0/trace_pipe_raw", &page.repeat(3)),
            ("per_cpu/cpu1/stats", "entries: 20\n"),
            ("per_cpu/cpu1/trace_pipe_raw", &page),
        ]);
        let events =
            vec!["sched".into(), "irq:irq_handler_entry".into(), "sched:sched_waking".into()];
        let spec = TraceSpec {
            events,
            buffer_kib: 64,
            dump: TraceDump::Always,
            required: false,
            id: ftrace::TraceId::of(5),
        };
        let tracing = Tracing::prepare(root.path(), &spec);
        assert!(tracing.is_wanted(false));
        let mut bytes = Vec::new();
        let length = tracing.send(&[1], &mut bytes).unwrap();
        assert_eq!(length, bytes.len() as u64);
        let dump = Dump::from_bytes(bytes.clone()).unwrap();
        assert_eq!(dump.torn(), None);
        let metadata = dump.trace().metadata();
        assert_eq!(metadata.formats.len(), 4);
        assert_eq!(metadata.comms, b"7 seven\n");
        assert!(metadata.uname.starts_with("Linux "));
        assert_eq!(metadata.id, ftrace::TraceId::of(5));
        assert_eq!((dump.stats()[0].events, dump.stats()[0].overwritten), (100, 5));
        let lengths: Vec<u64> = dump.trace().pages().iter().map(ftrace::ByteSource::len).collect();
        assert_eq!(lengths, [3 * 4096, 4096]);
        // Torn after the first CPU's pages, which are those of CPU 1.
        let torn = Dump::from_bytes(bytes[..bytes.len() - 2 * 4096].to_vec()).unwrap();
        assert!(torn.torn().is_some());
        assert_eq!(torn.trace().pages()[1].len(), 4096);
    }

    #[test]
    fn instances_use_the_kernels_own_files() {
        let root = Path::new("/sys/kernel/tracing");
        assert_eq!(main_root(&root.join("instances/x")), root);
        assert_eq!(main_root(root), root);
    }
}
