// SPDX-License-Identifier: Apache-2.0
//! A trace: what the kernel said about its format, and the pages of each CPU.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::byte_source::ByteSource;
use crate::comms::Comms;
use crate::error::FtraceError;
use crate::format::{FormatFile, Formats, MAX_FORMATS_BYTES};
use crate::ring::{EntryLayout, Events, Item, PageLayout, Watch};
use crate::trace_id::TraceId;

/// Longest `header_page`, `header_event`, clock name and `uname`, in bytes.
pub(crate) const MAX_SMALL_BYTES: u64 = 64 << 10;
/// Longest `saved_cmdlines`, in bytes: about 200 000 names.
pub(crate) const MAX_COMMS_BYTES: u64 = 4 << 20;
/// Most CPUs: the kernel's largest `NR_CPUS` on any architecture. Beyond, no CPU has pages, and
/// an event that names one is none.
pub(crate) const MAX_CPUS: u32 = 8192;

/// Everything about a trace but its pages. The texts are as the kernel wrote them.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// `events/header_page`. The kernel hands it out in the first read only, whatever its
    /// size, so it wants a large buffer; `header_event` as well.
    pub header_page: Vec<u8>,
    /// `events/header_event`.
    pub header_event: Vec<u8>,
    /// `events/*/*/format` of the events in the trace, or of more.
    pub formats: Vec<FormatFile>,
    /// `saved_cmdlines`, or empty.
    pub comms: Vec<u8>,
    /// `/proc/kallsyms`, or the lines of it that matter, or empty. Viewers name the functions
    /// in records by it, such as `tracing_mark_write` in each marker.
    pub kallsyms: ByteSource,
    /// `printk_formats`, or empty.
    pub printk_formats: ByteSource,
    /// The trace clock in use, such as `x86-tsc`; empty where not known.
    pub clock: String,
    /// How its ticks become nanoseconds, where the clock is the TSC and the trace says so.
    pub tsc_scale: Option<TscScale>,
    /// The traced system, in the words of `uname`; empty where not known.
    pub uname: String,
    /// What tells the trace from others, where it has been given something.
    pub id: Option<TraceId>,
}

/// How ticks of the TSC become nanoseconds: times `multiplier`, shifted right by `shift` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscScale {
    multiplier: u32,
    shift: u32,
}

impl TscScale {
    /// From the two numbers; `None` where no TSC is so fast or slow.
    pub fn of(multiplier: u32, shift: u32) -> Option<Self> {
        let this = Self { multiplier, shift };
        (multiplier > 0 && shift < 64 && this.khz() > 0).then_some(this)
    }

    /// Ticks in a millisecond, rounded.
    pub fn khz(self) -> u64 {
        let multiplier = u128::from(self.multiplier);
        let khz = ((1_000_000 << self.shift) + multiplier / 2) / multiplier;
        u64::try_from(khz).unwrap_or(0)
    }
}

/// A trace that can be read any number of times.
#[derive(Clone, Debug)]
pub struct Trace {
    metadata: Metadata,
    pages: Vec<ByteSource>,
    page_layout: PageLayout,
    entry_layout: EntryLayout,
    formats: Formats,
    watch: Watch,
}

impl Trace {
    /// Puts a trace together; `pages[n]` are the raw pages of CPU n, empty where it has none.
    ///
    /// # Errors
    /// Where the metadata is of no use: [`FtraceError::Header`], [`FtraceError::Format`],
    /// [`FtraceError::TooLarge`].
    pub fn new(metadata: Metadata, pages: Vec<ByteSource>) -> Result<Self, FtraceError> {
        FtraceError::check_size("number of CPUs", pages.len() as u64, MAX_CPUS.into())?;
        let page_layout = PageLayout::parse(&metadata.header_page)?;
        let entry_layout = EntryLayout::parse(&metadata.header_event)?;
        let formats = Formats::parse(&metadata.formats)?;
        let watch = Watch::default();
        Ok(Self { metadata, pages, page_layout, entry_layout, formats, watch })
    }

    /// Reads a copy of the tracing file system: a folder with regular files of the same names
    /// and contents as in `/sys/kernel/tracing`.
    ///
    /// It needs `events/header_page`, `events/header_event`, `events/*/*/format` and
    /// `per_cpu/cpuN/trace_pipe_raw`; it uses, if there, `saved_cmdlines`, `trace_clock`,
    /// `printk_formats`, and beside them `kallsyms` and `uname`.
    ///
    /// # Errors
    /// [`FtraceError::ReadFile`], and those of [`Self::new`].
    pub fn from_directory(root: &Path) -> Result<Self, FtraceError> {
        let events = root.join("events");
        let metadata = Metadata {
            header_page: read(&events.join("header_page"), MAX_SMALL_BYTES)?,
            header_event: read(&events.join("header_event"), MAX_SMALL_BYTES)?,
            formats: read_formats(&events)?,
            comms: read_if_there(&root.join("saved_cmdlines"), MAX_COMMS_BYTES)?,
            kallsyms: source_if_there(&root.join("kallsyms"))?,
            printk_formats: source_if_there(&root.join("printk_formats"))?,
            clock: clock_in_use(&String::from_utf8_lossy(&optional_file("trace_clock", root)?)),
            uname: String::from_utf8_lossy(&optional_file("uname", root)?).trim().to_owned(),
            ..Metadata::default()
        };
        Self::new(metadata, per_cpu_pages(&root.join("per_cpu"))?)
    }

    /// The same with pages of another size.
    pub(crate) fn with_page_size(self, page_size: usize) -> Result<Self, FtraceError> {
        let page_layout = self.page_layout.with_page_size(page_size)?;
        Ok(Self { page_layout, ..self })
    }

    /// From now on tells, whenever bytes of its pages have been read, how many they were: each
    /// reading of all events comes to [`Self::pages_bytes`]. For a display of progress.
    #[must_use]
    pub fn watched(self, watch: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { watch: Watch::new(watch), ..self }
    }

    /// What belongs to the trace beside its pages.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The raw pages, by CPU.
    pub fn pages(&self) -> &[ByteSource] {
        &self.pages
    }

    /// Length of the pages of all CPUs together, in bytes.
    pub fn pages_bytes(&self) -> u64 {
        self.pages.iter().map(ByteSource::len).sum()
    }

    /// Where things are in a page.
    pub fn page_layout(&self) -> &PageLayout {
        &self.page_layout
    }

    /// Layout of the word before each record.
    pub(crate) fn entry_layout(&self) -> EntryLayout {
        self.entry_layout
    }

    /// The formats of its events.
    pub fn formats(&self) -> &Formats {
        &self.formats
    }

    /// Names of threads, as far as the kernel kept them.
    pub fn comms(&self) -> Comms {
        Comms::parse(&self.metadata.comms)
    }

    /// When its first record was, by the trace clock; `None` without records.
    ///
    /// # Errors
    /// As [`Self::events`].
    pub fn begin(&self) -> Result<Option<u64>, FtraceError> {
        let mut events = self.events()?;
        while let Some(item) = events.next()? {
            if let Item::Record(record) = item {
                return Ok(Some(record.time));
            }
        }
        Ok(None)
    }

    /// Its records in order of time, from the beginning.
    ///
    /// # Errors
    /// [`FtraceError::ReadPages`]; [`FtraceError::TooLarge`] where one page of each CPU is
    /// more than this crate is willing to hold.
    pub fn events(&self) -> Result<Events, FtraceError> {
        Events::new(&self.pages, self.page_layout, self.entry_layout, &self.watch)
    }
}

fn optional_file(name: &str, root: &Path) -> Result<Vec<u8>, FtraceError> {
    read_if_there(&root.join(name), MAX_SMALL_BYTES)
}

/// `local [global] counter …`: the one in brackets; else a lone word.
pub(crate) fn clock_in_use(text: &str) -> String {
    let mut words = text.split_ascii_whitespace();
    let in_brackets = words.clone().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    in_brackets.or_else(|| words.next()).unwrap_or_default().to_owned()
}

/// A file's contents, up to `limit` bytes.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FtraceError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(FtraceError::read_file(path))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(FtraceError::read_file(path))?;
    FtraceError::check_size("file in bytes", bytes.len() as u64, limit)?;
    Ok(bytes)
}

fn read_if_there(path: &Path, limit: u64) -> Result<Vec<u8>, FtraceError> {
    if path.exists() { read(path, limit) } else { Ok(Vec::new()) }
}

fn source_if_there(path: &Path) -> Result<ByteSource, FtraceError> {
    if path.exists() { ByteSource::open(path) } else { Ok(ByteSource::default()) }
}

/// The folders in a folder, with their names, in order of the names.
fn folders(path: &Path) -> Result<Vec<(String, PathBuf)>, FtraceError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path).map_err(FtraceError::read_file(path))? {
        let entry = entry.map_err(FtraceError::read_file(path))?;
        if entry.path().is_dir() {
            folders.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    folders.sort();
    Ok(folders)
}

fn read_formats(events: &Path) -> Result<Vec<FormatFile>, FtraceError> {
    let mut files = Vec::new();
    let mut left = MAX_FORMATS_BYTES;
    for (system, folder) in folders(events)? {
        for (_, event) in folders(&folder)? {
            let path = event.join("format");
            if path.exists() {
                let text = read(&path, left)?;
                left -= text.len() as u64;
                files.push(FormatFile { system: system.clone(), text });
            }
        }
    }
    Ok(files)
}

fn per_cpu_pages(per_cpu: &Path) -> Result<Vec<ByteSource>, FtraceError> {
    let mut pages = Vec::new();
    for (name, folder) in folders(per_cpu)? {
        let Some(cpu) = name.strip_prefix("cpu").and_then(|cpu| cpu.parse::<u64>().ok()) else {
            continue;
        };
        FtraceError::check_size("number of a CPU", cpu, (MAX_CPUS - 1).into())?;
        let index = usize::try_from(cpu).unwrap_or(usize::MAX);
        if pages.len() <= index {
            pages.resize(index + 1, ByteSource::default());
        }
        pages[index] = source_if_there(&folder.join("trace_pipe_raw"))?;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_in_brackets_is_the_one_in_use() {
        assert_eq!(clock_in_use("local [x86-tsc] mono\n"), "x86-tsc");
        assert_eq!(clock_in_use("mono\n"), "mono");
        assert_eq!(clock_in_use(""), "");
    }
}
