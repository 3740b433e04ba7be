// SPDX-License-Identifier: Apache-2.0
//! Version 7: sections in any order, which options lead to, and which may be compressed.

use std::ops::Range;
use std::sync::Arc;

use super::cursor::Cursor;
use super::file::Buffer;
use super::parts::{FormatReader, MAX_OPTIONS, headers, shared_option};
use super::{MAX_BUFFERS, option};
use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::format::{MAX_FORMATS_BYTES, MAX_RECORD_BYTES};
use crate::packed::{Codec, HEAD_BYTES, Limits, Packed};
use crate::trace::{MAX_COMMS_BYTES, MAX_CPUS, Metadata};

/// Length of a section's head, in bytes.
const SECTION_BYTES: u64 = 16;
/// Flag of a section: it is compressed.
const COMPRESSED: u16 = 1;
/// Options sections, at most: trace-cmd writes one for each buffer and one more.
const MAX_SECTIONS: usize = 512;
/// One of these, unpacked, at most.
const MAX_OPTIONS_BYTES: u32 = 1 << 20;
/// Another section that is read at once, unpacked, at most.
const MAX_SECTION_BYTES: u32 = 13 << 20;
/// One that is read when somebody wants it, such as a kernel's symbols.
const MAX_LAZY_BYTES: u32 = 32 << 20;
/// Pages of a chunk, at most: trace-cmd makes them of ten. What few bytes of a file can come to is
/// bounded by it.
const MAX_CHUNK_PAGES: u32 = 64;
/// The same in bytes, whatever the pages are.
const MAX_CHUNK_BYTES: u32 = 4 << 20;

/// One file that is being read.
struct File {
    whole: ByteSource,
    codec: Option<Arc<Codec>>,
    metadata: Metadata,
    formats: FormatReader,
    buffers: Vec<Buffer>,
    options: usize,
    /// Sections that were read, by number.
    seen: Vec<u16>,
    /// Length in the file of all pages so far.
    pages_bytes: u64,
}

/// Where a section's contents are.
struct Section {
    /// Where its head is.
    at: u64,
    /// Where they begin.
    begin: u64,
    /// Their length in the file.
    len: u64,
    compressed: bool,
}

/// Reads all but the pages, behind the preamble.
pub(super) fn read(mut cursor: Cursor) -> Result<(Metadata, Vec<Buffer>), FtraceError> {
    let at = cursor.position;
    let (name, _version) = (cursor.text()?, cursor.text()?);
    let codec = match name.as_str() {
        "none" => None,
        _ => Some(Arc::new(codec(&name, at, &cursor)?)),
    };
    let mut next = cursor.u64()?;
    let mut file = File {
        whole: cursor.whole().clone(),
        codec,
        metadata: Metadata::default(),
        formats: FormatReader::default(),
        buffers: Vec::new(),
        options: 0,
        seen: Vec::new(),
        pages_bytes: 0,
    };
    for _ in 0..MAX_SECTIONS {
        next = file.options(next)?;
        if next == 0 {
            let File { mut metadata, formats, buffers, .. } = file;
            metadata.formats = formats.files;
            return Ok((metadata, buffers));
        }
    }
    cursor.call("options");
    Err(cursor.broken_at(next, "the sections of options do not end"))
}

fn codec(name: &str, at: u64, cursor: &Cursor) -> Result<Codec, FtraceError> {
    let codec = Codec::of_name(name).map_err(|error| cursor.broken_at(at, error.to_string()))?;
    codec.ok_or_else(|| {
        let why = format!(
            "it is compressed by `{name}`, and zstd and zlib are known here: write it anew \
             with `trace-cmd convert --compression none`"
        );
        cursor.broken_at(at, why)
    })
}

impl File {
    /// Looks at the head of the section at `at`, which is to have this number.
    fn section(
        &self,
        at: u64,
        number: u16,
        name: &'static str,
    ) -> Result<(Section, Cursor), FtraceError> {
        let mut cursor = Cursor::new(self.whole.clone(), at, name);
        let (found, flags) = (cursor.u16()?, cursor.u16()?);
        let (_description, len) = (cursor.u32()?, cursor.u64()?);
        if found != number {
            return Err(cursor.broken_at(at, format!("here should be number {number}")));
        }
        let begin = at + SECTION_BYTES;
        let compressed = flags & COMPRESSED != 0;
        if compressed && self.codec.is_none() {
            return Err(cursor.broken_at(at, "it is compressed, and the file says by nothing"));
        }
        // Its length is written last: a file whose writer died has none there.
        cursor.part(begin, len)?;
        Ok((Section { at, begin, len, compressed }, cursor))
    }

    /// A cursor at the contents of a section that is read at once.
    fn contents(&self, at: u64, number: u16, name: &'static str) -> Result<Cursor, FtraceError> {
        let (section, cursor) = self.section(at, number, name)?;
        let Some(codec) = self.codec.as_ref().filter(|_| section.compressed) else {
            let part = self.whole.part(0, section.begin + section.len);
            return Ok(Cursor::new(part, section.begin, name));
        };
        let most = if number == option::DONE { MAX_OPTIONS_BYTES } else { MAX_SECTION_BYTES };
        let packed = packed(&section, codec, most, &cursor)?;
        let mut bytes = vec![0; usize::try_from(packed.unpacked_bytes()).unwrap_or_default()];
        let range = packed.single().unwrap_or_default();
        let done = codec.unpack(&self.whole, range, &mut bytes);
        if !done.map_err(|error| cursor.broken(format!("it cannot be read: {error}")))? {
            return Err(cursor.broken_at(section.at, "it cannot be unpacked: it is damaged"));
        }
        Ok(Cursor::unpacked(ByteSource::bytes(bytes), section.at, name))
    }

    /// What is behind a 32-bit length in a section that is read when somebody wants it.
    fn lazy(&self, at: u64, number: u16, name: &'static str) -> Result<ByteSource, FtraceError> {
        let (section, mut cursor) = self.section(at, number, name)?;
        match self.codec.as_ref().filter(|_| section.compressed) {
            None => cursor.region_u32(),
            Some(codec) => {
                let packed = packed(&section, codec, MAX_LAZY_BYTES, &cursor)?;
                let source = ByteSource::pieces(Arc::new(packed));
                Ok(source.part(4, source.len()))
            }
        }
    }

    /// Reads a section of options, and what they lead to; where the next one is, or 0.
    fn options(&mut self, at: u64) -> Result<u64, FtraceError> {
        let mut cursor = self.contents(at, option::DONE, "options")?;
        loop {
            let number = cursor.u16()?;
            self.options += 1;
            if self.options > MAX_OPTIONS {
                return Err(cursor.broken("its options do not end"));
            }
            if number == option::DONE {
                let size = cursor.u32()?;
                return if size == 8 { cursor.u64() } else { Ok(0) };
            }
            if number == option::BUFFER || number == option::BUFFER_TEXT {
                let size = u64::from(cursor.u32()?);
                let end = cursor.position.saturating_add(size);
                self.buffer(number, &mut cursor)?;
                cursor.position = end;
            } else if (option::HEADER_INFO..=option::CMDLINES).contains(&number) {
                let size = u64::from(cursor.u32()?);
                let end = cursor.position.saturating_add(size);
                let section = cursor.u64()?;
                if self.seen.contains(&number) {
                    return Err(cursor.broken(format!("section {number} is there twice")));
                }
                self.seen.push(number);
                self.leads_to(number, section)?;
                cursor.position = end;
            } else {
                shared_option(number, &mut cursor, &mut self.metadata)?;
            }
        }
    }

    /// Reads the section that an option leads to.
    fn leads_to(&mut self, number: u16, at: u64) -> Result<(), FtraceError> {
        match number {
            option::HEADER_INFO => {
                let mut cursor = self.contents(at, number, "header info")?;
                headers(&mut cursor, &mut self.metadata)
            }
            option::FTRACE_EVENTS => {
                let mut cursor = self.contents(at, number, "ftrace event formats")?;
                self.formats.own(&mut cursor)
            }
            option::EVENT_FORMATS => {
                let mut cursor = self.contents(at, number, "event formats")?;
                self.formats.systems(&mut cursor)
            }
            option::KALLSYMS => {
                self.metadata.kallsyms = self.lazy(at, number, "kallsyms")?;
                Ok(())
            }
            option::PRINTK => {
                self.metadata.printk_formats = self.lazy(at, number, "printk formats")?;
                Ok(())
            }
            option::CMDLINES => {
                let mut cursor = self.contents(at, number, "command lines")?;
                self.metadata.comms = cursor.sized_u64("comms in bytes", MAX_COMMS_BYTES)?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reads what an option says of a buffer, and finds its pages.
    fn buffer(&mut self, number: u16, cursor: &mut Cursor) -> Result<(), FtraceError> {
        FtraceError::check_size("number of buffers", self.buffers.len() as u64 + 1, MAX_BUFFERS)?;
        let at = cursor.u64()?;
        let (name, clock) = (cursor.text()?, cursor.text()?);
        if number == option::BUFFER_TEXT {
            // Text of a latency tracer; there are no pages.
            return Ok(());
        }
        let page_size = cursor.u32()?;
        let count = cursor.u32()?;
        FtraceError::check_size("number of CPUs", count.into(), MAX_CPUS.into())?;
        if !(1..=MAX_RECORD_BYTES as u64).contains(&page_size.into()) {
            return Err(cursor.broken(format!("pages of {page_size} bytes do not exist")));
        }
        let (section, _) = self.section(at, option::BUFFER, "buffer")?;
        let mut pages: Vec<ByteSource> = Vec::new();
        for _ in 0..count {
            let cpu = cursor.u32()?;
            FtraceError::check_size("number of a CPU", cpu.into(), (MAX_CPUS - 1).into())?;
            let (offset, len) = (cursor.u64()?, cursor.u64()?);
            let index = usize::try_from(cpu).unwrap_or(usize::MAX);
            if pages.len() <= index {
                pages.resize(index + 1, ByteSource::default());
            }
            if !pages[index].is_empty() {
                return Err(cursor.broken(format!("CPU {cpu} is twice in a buffer")));
            }
            pages[index] =
                self.pages(&section, offset..offset.saturating_add(len), page_size, cursor)?;
        }
        self.buffers.push(Buffer { name, clock, page_size: Some(page_size), pages });
        Ok(())
    }

    /// The pages of one CPU, at this place of the file.
    fn pages(
        &mut self,
        section: &Section,
        place: Range<u64>,
        page_size: u32,
        cursor: &Cursor,
    ) -> Result<ByteSource, FtraceError> {
        let (offset, len) = (place.start, place.end - place.start);
        let file = Cursor::new(self.whole.clone(), offset, "buffer");
        let region = file.part(offset, len)?;
        self.pages_bytes = self.pages_bytes.saturating_add(len);
        if self.pages_bytes > self.whole.len() {
            return Err(cursor.broken("pages of several CPUs are in one place"));
        }
        let Some(codec) = self.codec.as_ref().filter(|_| section.compressed && len > 0) else {
            return Ok(region);
        };
        if len < 4 {
            return Err(cursor.broken(format!("{len} bytes have no compressed pages")));
        }
        let mut head = Cursor::new(self.whole.clone(), offset, "buffer");
        let count = head.u32()?;
        let chunk = page_size.saturating_mul(MAX_CHUNK_PAGES).min(MAX_CHUNK_BYTES);
        let limits = Limits { chunk, multiple: page_size };
        // The length has the count in it, or has not: trace-cmd 3.1 leaves it out.
        let chunks = (offset + 4..(offset + 4 + len).min(self.whole.len()), count);
        let packed = Packed::find(&self.whole, codec, chunks, limits)
            .map_err(|(at, why)| file.broken_at(at, why))?;
        Ok(ByteSource::pieces(Arc::new(packed)))
    }
}

/// The one chunk of a compressed section.
fn packed(
    section: &Section,
    codec: &Arc<Codec>,
    most: u32,
    cursor: &Cursor,
) -> Result<Packed, FtraceError> {
    if section.len < HEAD_BYTES {
        return Err(cursor.broken_at(section.at, "it is too short to be compressed"));
    }
    let range = section.begin..section.begin + section.len;
    let limits = Limits { chunk: most, multiple: 1 };
    Packed::find(cursor.whole(), codec, (range, 1), limits)
        .map_err(|(at, why)| cursor.broken_at(at, why))
}

/// Formats are the largest of what is read at once.
const _: () = assert!(MAX_SECTION_BYTES as u64 > MAX_FORMATS_BYTES);
