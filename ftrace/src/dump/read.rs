// SPDX-License-Identifier: Apache-2.0
//! Reads a dump.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{END_BYTES, HEADER_BYTES, KIND_END, KIND_PAGES, MAGIC, MAX_FRAME_BYTES, Section};
use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::format::{FormatFile, MAX_FORMATS_BYTES};
use crate::ring::PageLayout;
use crate::trace::{MAX_COMMS_BYTES, MAX_CPUS, MAX_SMALL_BYTES, Metadata, Trace};
use crate::trace_id::TraceId;

/// Frames, at most: 256 GiB of pages as [`super::DumpWriter`] writes them, and what is held of
/// each is 16 bytes.
const MAX_FRAMES: u64 = 1 << 20;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Statistics of a CPU's ring buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CpuStats {
    /// The CPU.
    pub cpu: u32,
    /// Events in its buffer.
    pub events: u64,
    /// Events that later ones took the place of.
    pub overwritten: u64,
    /// Events that were not recorded.
    pub dropped: u64,
}

/// A dump, and the trace in it.
#[derive(Debug)]
pub struct Dump {
    trace: Trace,
    stats: Vec<CpuStats>,
    torn: Option<String>,
}

impl Dump {
    /// Opens a dump and verifies its checksum.
    ///
    /// # Errors
    /// [`FtraceError::ReadFile`]; [`FtraceError::Dump`] for what is no dump; and those of
    /// [`Trace::new`] where it ended before the pages began.
    pub fn open(path: &Path) -> Result<Self, FtraceError> {
        Self::read(ByteSource::open(path)?)
    }

    /// Like [`Self::open`], for a dump in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, FtraceError> {
        Self::read(ByteSource::bytes(bytes))
    }

    /// Whether a file begins like a dump.
    ///
    /// # Errors
    /// [`FtraceError::ReadFile`].
    pub fn is_at(path: &Path) -> Result<bool, FtraceError> {
        let mut magic = [0; MAGIC.len()];
        let read = ByteSource::open(path)?.read_at(0, &mut magic);
        Ok(read.map_err(FtraceError::read_file(path))? == MAGIC.len() && magic == *MAGIC)
    }

    /// The trace; of a torn dump, as much as there is.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What the CPUs' buffers said, in order of the CPUs.
    pub fn stats(&self) -> &[CpuStats] {
        &self.stats
    }

    /// Why the dump is not what was sent, or not all of it.
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    fn read(whole: ByteSource) -> Result<Self, FtraceError> {
        let chunk = vec![0; CHUNK_BYTES];
        let mut reader = Reader { whole, position: 0, checksum: crc32fast::Hasher::new(), chunk };
        let mut found = Found::default();
        let torn = reader.frames(&mut found)?;
        let Reader { whole, .. } = reader;
        let mut stats: Vec<_> = found.stats.into_values().collect();
        stats.sort_by_key(|stats| stats.cpu);
        let pages = found.pages.into_iter().map(|parts| whole.scattered(parts)).collect();
        Ok(Self { trace: Trace::new(found.metadata, pages)?, stats, torn })
    }
}

/// Contents of the frames.
#[derive(Default)]
struct Found {
    metadata: Metadata,
    formats_bytes: u64,
    /// Size of a page by `metadata.header_page`, once it was needed: to find it out for each of
    /// a million frames would take minutes.
    page_bytes: Option<u64>,
    /// Of each CPU: places in the file, with their lengths.
    pages: Vec<Vec<(u64, u64)>>,
    stats: BTreeMap<u32, CpuStats>,
}

struct Reader {
    whole: ByteSource,
    position: u64,
    checksum: crc32fast::Hasher,
    /// For pages on their way into the checksum.
    chunk: Vec<u8>,
}

impl Reader {
    fn broken(&self, reason: impl Into<String>) -> FtraceError {
        FtraceError::Dump { offset: self.position, reason: reason.into() }
    }

    /// Reads as much of `buffer` as there is, into the checksum as well.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, FtraceError> {
        let count = self
            .whole
            .read_at(self.position, buffer)
            .map_err(|error| self.broken(format!("it cannot be read: {error}")))?;
        self.position += count as u64;
        self.checksum.update(&buffer[..count]);
        Ok(count)
    }

    /// Takes frame after frame; why the dump is torn, if it is.
    fn frames(&mut self, found: &mut Found) -> Result<Option<String>, FtraceError> {
        let mut magic = [0; MAGIC.len()];
        self.fill(&mut magic)?;
        if magic != *MAGIC {
            self.position = 0;
            return Err(self.broken("here should be the first bytes of a dump"));
        }
        for _ in 0..MAX_FRAMES {
            let (begin, so_far) = (self.position, self.checksum.clone().finalize());
            let mut header = [0; HEADER_BYTES];
            if self.fill(&mut header)? < HEADER_BYTES {
                return Ok(Some(format!("it ends after {} bytes", self.whole.len())));
            }
            let (kind, number) =
                (u32::from_le_bytes(word_at(0, &header)), u32::from_le_bytes(word_at(4, &header)));
            let length = u64::from(u32::from_le_bytes(word_at(8, &header)));
            if word_at(12, &header) != [0; 4] || length > MAX_FRAME_BYTES {
                return Ok(Some(format!("it is damaged at byte {begin}")));
            }
            if kind == KIND_END {
                return self.end(begin, so_far);
            }
            let got = if kind == KIND_PAGES {
                self.pages(number, length, found)?
            } else {
                self.section(kind, number, length, found)?
            };
            if got < length {
                return Ok(Some(format!("it ends after {} bytes", self.whole.len())));
            }
        }
        Err(FtraceError::TooLarge { what: "frames", size: MAX_FRAMES + 1, limit: MAX_FRAMES })
    }

    /// Compares the trailer with what came before it.
    fn end(&mut self, bytes: u64, checksum: u32) -> Result<Option<String>, FtraceError> {
        let mut trailer = [0; END_BYTES];
        let complete = self.fill(&mut trailer)? == END_BYTES;
        let expected = [&bytes.to_le_bytes()[..], &checksum.to_le_bytes(), &[0; 4]].concat();
        Ok(match (complete, trailer[..] == expected) {
            (false, _) => Some(format!("it ends after {} bytes", self.whole.len())),
            (true, false) => Some("its checksum is wrong: it is damaged".into()),
            (true, true) if self.position < self.whole.len() => {
                Some(format!("something follows its trailer at byte {}", self.position))
            }
            (true, true) => None,
        })
    }

    /// Notes where pages are, whole ones; the bytes there are of the frame.
    fn pages(&mut self, cpu: u32, length: u64, found: &mut Found) -> Result<u64, FtraceError> {
        FtraceError::check_size("number of a CPU", cpu.into(), (MAX_CPUS - 1).into())?;
        let begin = self.position;
        let mut chunk = std::mem::take(&mut self.chunk);
        let mut got = 0;
        while got < length {
            let wanted = usize::try_from(length - got).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            match self.fill(&mut chunk[..wanted])? {
                0 => break,
                count => got += count as u64,
            }
        }
        self.chunk = chunk;
        let page_bytes = match found.page_bytes {
            Some(bytes) => bytes,
            None => PageLayout::parse(&found.metadata.header_page)?.page_size as u64,
        };
        found.page_bytes = Some(page_bytes);
        let whole_pages = got - got % page_bytes.max(1);
        if whole_pages > 0 {
            let index = cpu as usize;
            if found.pages.len() <= index {
                found.pages.resize(index + 1, Vec::new());
            }
            found.pages[index].push((begin, whole_pages));
        }
        Ok(got)
    }

    /// Takes what is no pages; the bytes there are of it. What is not all there is left out.
    fn section(
        &mut self,
        kind: u32,
        number: u32,
        length: u64,
        found: &mut Found,
    ) -> Result<u64, FtraceError> {
        let mut contents = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let got = self.fill(&mut contents)? as u64;
        if got < length {
            return Ok(got);
        }
        let metadata = &mut found.metadata;
        if is_kind(Section::HeaderPage, kind) {
            metadata.header_page = within_limit(contents, MAX_SMALL_BYTES)?;
            found.page_bytes = None;
        } else if is_kind(Section::HeaderEvent, kind) {
            metadata.header_event = within_limit(contents, MAX_SMALL_BYTES)?;
        } else if is_kind(Section::Format { system: "" }, kind) {
            found.formats_bytes += length;
            FtraceError::check_size("formats in bytes", found.formats_bytes, MAX_FORMATS_BYTES)?;
            let end = contents.iter().position(|&byte| byte == 0).unwrap_or(contents.len());
            let format = contents.split_off((end + 1).min(contents.len()));
            metadata
                .formats
                .push(FormatFile { system: trimmed_text(&contents[..end]), text: format });
        } else if is_kind(Section::Comms, kind) {
            metadata.comms = within_limit(contents, MAX_COMMS_BYTES)?;
        } else if is_kind(Section::Kallsyms, kind) {
            metadata.kallsyms = ByteSource::bytes(contents);
        } else if is_kind(Section::PrintkFormats, kind) {
            metadata.printk_formats = ByteSource::bytes(contents);
        } else if is_kind(Section::Clock, kind) {
            metadata.clock = trimmed_text(&within_limit(contents, MAX_SMALL_BYTES)?);
        } else if is_kind(Section::Uname, kind) {
            metadata.uname = trimmed_text(&within_limit(contents, MAX_SMALL_BYTES)?);
        } else if is_kind(Section::Id, kind) {
            let number = contents.as_slice().try_into().map(u64::from_le_bytes);
            metadata.id = number.ok().and_then(TraceId::of);
        } else if is_kind(Section::Stats { cpu: 0 }, kind) && number < MAX_CPUS {
            found.stats.insert(number, CpuStats::parse(number, &trimmed_text(&contents)));
        }
        // Kinds that a later version adds are passed over.
        Ok(got)
    }
}

fn word_at(at: usize, header: &[u8; 16]) -> [u8; 4] {
    [header[at], header[at + 1], header[at + 2], header[at + 3]]
}

/// The contents, or an error if they are longer than the limit in bytes.
fn within_limit(contents: Vec<u8>, limit: u64) -> Result<Vec<u8>, FtraceError> {
    FtraceError::check_size("section in bytes", contents.len() as u64, limit)?;
    Ok(contents)
}

fn trimmed_text(contents: &[u8]) -> String {
    String::from_utf8_lossy(contents).trim().to_owned()
}

fn is_kind(section: Section<'_>, kind: u32) -> bool {
    section.code().0 == kind
}

impl CpuStats {
    /// Reads `per_cpu/cpuN/stats`.
    fn parse(cpu: u32, text: &str) -> Self {
        Self {
            cpu,
            events: number_after("entries:", text),
            overwritten: number_after("overrun:", text),
            dropped: number_after("dropped events:", text),
        }
    }
}

/// The number behind a name at the start of a line, or 0.
fn number_after(name: &str, text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
