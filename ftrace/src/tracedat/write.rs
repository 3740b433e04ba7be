// SPDX-License-Identifier: Apache-2.0
//! Writes trace.dat.

use std::io::{self, Write};

use super::{FLYRECORD, FTRACE_SYSTEM, HEADER_EVENT, HEADER_PAGE, MAGIC, OPTIONS, VERSION, option};
use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::format::FormatFile;
use crate::trace::{Metadata, Trace};

/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 << 10;

impl Trace {
    /// Writes the trace as trace.dat, version 6, front to back; returns its length in bytes.
    /// Markers need the line of `tracing_mark_write` in [`Metadata::kallsyms`] to be shown
    /// by that name; [`marker_symbol`](crate::marker_symbol) finds it.
    ///
    /// # Errors
    /// [`FtraceError::Write`], also when a source turns out shorter than it was;
    /// [`FtraceError::TooLarge`] for what the format has no room for.
    pub fn write_trace_dat(&self, out: &mut impl Write) -> Result<u64, FtraceError> {
        let mut out = Counting { out, count: 0 };
        self.write_headers(&mut out)?;
        self.write_pages(&mut out)?;
        out.flush()?;
        Ok(out.count)
    }

    fn write_headers<W: Write>(&self, out: &mut Counting<W>) -> Result<(), FtraceError> {
        let metadata = self.metadata();
        out.write_all(MAGIC)?;
        out.write_all(VERSION)?;
        // Little-endian, and 8 bytes to a long of the traced user space.
        out.write_all(&[0, 8])?;
        out.u32("page size", self.page_layout().page_size)?;
        out.write_all(HEADER_PAGE)?;
        out.sized_u64(&metadata.header_page)?;
        out.write_all(HEADER_EVENT)?;
        out.sized_u64(&metadata.header_event)?;
        write_formats(out, &metadata.formats)?;
        for (what, region) in
            [("kallsyms", &metadata.kallsyms), ("printk formats", &metadata.printk_formats)]
        {
            out.u32(what, usize::try_from(region.len()).unwrap_or(usize::MAX))?;
            out.region(region)?;
        }
        out.sized_u64(&metadata.comms)?;
        out.u32("number of CPUs", self.pages().len())?;
        out.write_all(OPTIONS)?;
        write_options(out, metadata, self.pages().len())?;
        Ok(())
    }

    /// The table of where each CPU's pages are, and the pages, each CPU's aligned to a page.
    fn write_pages<W: Write>(&self, out: &mut Counting<W>) -> Result<(), FtraceError> {
        out.write_all(FLYRECORD)?;
        let page_size = self.page_layout().page_size as u64;
        let mut at = out.count + 16 * self.pages().len() as u64;
        for region in self.pages() {
            at = at.next_multiple_of(page_size);
            out.write_all(&at.to_le_bytes())?;
            out.write_all(&region.len().to_le_bytes())?;
            at += region.len();
        }
        for region in self.pages() {
            let padding = out.count.next_multiple_of(page_size) - out.count;
            io::copy(&mut io::Read::take(io::repeat(0), padding), out)?;
            out.region(region)?;
        }
        Ok(())
    }
}

fn write_formats<W: Write>(out: &mut Counting<W>, files: &[FormatFile]) -> Result<(), FtraceError> {
    let mut systems: Vec<&str> = Vec::new();
    for file in files {
        if file.system != FTRACE_SYSTEM && !systems.contains(&file.system.as_str()) {
            systems.push(&file.system);
        }
    }
    let ftrace = of_system(FTRACE_SYSTEM, files);
    out.u32("number of formats", ftrace.len())?;
    for file in ftrace {
        out.sized_u64(&file.text)?;
    }
    out.u32("number of event systems", systems.len())?;
    for system in systems {
        // The name ends at the first NUL, so it must have none of its own.
        out.write_all(system.replace('\0', "?").as_bytes())?;
        out.write_all(&[0])?;
        let files = of_system(system, files);
        out.u32("number of formats", files.len())?;
        for file in files {
            out.sized_u64(&file.text)?;
        }
    }
    Ok(())
}

fn of_system<'a>(system: &str, files: &'a [FormatFile]) -> Vec<&'a FormatFile> {
    files.iter().filter(|file| file.system == system).collect()
}

fn write_options<W: Write>(
    out: &mut Counting<W>,
    metadata: &Metadata,
    cpus: usize,
) -> Result<(), FtraceError> {
    let mut options = Vec::new();
    if !metadata.clock.is_empty() {
        // Readers look for the brackets of the file `trace_clock`.
        options.push((option::TRACECLOCK, c_string(&format!("[{}]", metadata.clock))));
    }
    if !metadata.uname.is_empty() {
        options.push((option::UNAME, c_string(&metadata.uname)));
    }
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    options.push((option::CPUCOUNT, cpus.to_le_bytes().to_vec()));
    options.push((option::VERSION, c_string(concat!("ftrace ", env!("CARGO_PKG_VERSION")))));
    if let Some(id) = metadata.id {
        options.push((option::TRACEID, id.number().to_le_bytes().to_vec()));
    }
    for (number, value) in options {
        out.write_all(&number.to_le_bytes())?;
        out.u32("option", value.len())?;
        out.write_all(&value)?;
    }
    out.write_all(&option::DONE.to_le_bytes())?;
    Ok(())
}

/// The text with a NUL at its end.
fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// A writer that knows how far it is.
struct Counting<W> {
    out: W,
    count: u64,
}

impl<W: Write> Counting<W> {
    fn u32(&mut self, what: &'static str, value: usize) -> Result<(), FtraceError> {
        let size = value as u64;
        FtraceError::check_size(what, size, u32::MAX.into())?;
        self.write_all(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes())?;
        Ok(())
    }

    fn sized_u64(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(&(bytes.len() as u64).to_le_bytes())?;
        self.write_all(bytes)
    }

    /// All of a region, or an error: its length is in the file already.
    fn region(&mut self, region: &ByteSource) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut position = 0;
        while position < region.len() {
            let count = region.read_at(position, &mut buffer)?;
            if count == 0 {
                let text = "the trace's source is shorter than it was";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            self.write_all(&buffer[..count])?;
            position += count as u64;
        }
        Ok(())
    }
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
