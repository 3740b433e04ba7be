// SPDX-License-Identifier: Apache-2.0
//! Version 6: all parts one behind the other, and behind them the pages.

use super::cursor::Cursor;
use super::file::Buffer;
use super::parts::{FormatReader, MAX_OPTIONS, headers, shared_option};
use super::{FLYRECORD, LATENCY, MAX_BUFFERS, OPTIONS, option};
use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::trace::{MAX_COMMS_BYTES, MAX_CPUS, MAX_SMALL_BYTES, Metadata, clock_in_use};

/// What comes before the pages, and between the tables of where they are.
struct File {
    cursor: Cursor,
    metadata: Metadata,
    cpus: u32,
    /// The clock may stand behind the table.
    has_clock: bool,
    /// Names of buffers, and where their tables are.
    buffers: Vec<(String, u64)>,
    /// Length of all pages so far.
    pages_bytes: u64,
}

/// Reads all but the pages, behind the preamble.
pub(super) fn read(mut cursor: Cursor) -> Result<(Metadata, Vec<Buffer>), FtraceError> {
    let mut metadata = Metadata::default();
    headers(&mut cursor, &mut metadata)?;
    let mut formats = FormatReader::default();
    formats.own(&mut cursor)?;
    formats.systems(&mut cursor)?;
    metadata.formats = formats.files;
    metadata.kallsyms = cursor.region_u32()?;
    metadata.printk_formats = cursor.region_u32()?;
    metadata.comms = cursor.sized_u64("comms in bytes", MAX_COMMS_BYTES)?;
    let cpus = cursor.u32()?;
    let mut file =
        File { cursor, metadata, cpus, has_clock: false, buffers: Vec::new(), pages_bytes: 0 };
    let mut buffers = vec![file.buffer(String::new())?];
    for (name, at) in std::mem::take(&mut file.buffers) {
        file.cursor.position = at;
        buffers.push(file.buffer(name)?);
    }
    Ok((file.metadata, buffers))
}

impl File {
    /// Options and table of a buffer, and its clock.
    fn buffer(&mut self, name: String) -> Result<Buffer, FtraceError> {
        let clock = std::mem::take(&mut self.metadata.clock);
        if !self.options()? {
            let why = "it holds text instead of pages; record without a latency tracer";
            return Err(self.cursor.broken(why));
        }
        FtraceError::check_size("number of CPUs", self.cpus.into(), MAX_CPUS.into())?;
        let pages = (0..self.cpus).map(|_| self.table_entry()).collect::<Result<_, _>>()?;
        if self.has_clock
            && let Some(behind) = self.clock_behind()
        {
            self.metadata.clock = behind;
        }
        if self.metadata.clock.is_empty() {
            self.metadata.clock = clock;
        }
        let clock = self.metadata.clock.clone();
        Ok(Buffer { name, clock, page_size: None, pages })
    }

    /// Reads options up to what follows them; whether that is pages.
    fn options(&mut self) -> Result<bool, FtraceError> {
        let at = self.cursor.position;
        let mut word = self.cursor.array()?;
        if word == *OPTIONS {
            for count in 0.. {
                let number = self.cursor.u16()?;
                if number == option::DONE {
                    break;
                }
                if count == MAX_OPTIONS {
                    return Err(self.cursor.broken("its options do not end"));
                }
                self.option(number)?;
            }
            word = self.cursor.array()?;
        }
        match &word {
            FLYRECORD => Ok(true),
            LATENCY => Ok(false),
            _ => Err(self.cursor.broken_at(at, "here should be options or pages")),
        }
    }

    fn option(&mut self, number: u16) -> Result<(), FtraceError> {
        let at = self.cursor.position;
        match number {
            option::BUFFER => {
                let size = u64::from(self.cursor.u32()?);
                let value = self.cursor.bytes("option in bytes", size, MAX_SMALL_BYTES)?;
                if let Some((offset, name)) = value.split_first_chunk() {
                    let name = String::from_utf8_lossy(name);
                    let name = name.trim_end_matches('\0').to_owned();
                    self.buffers.push((name, u64::from_le_bytes(*offset)));
                }
                let count = self.buffers.len() as u64;
                return FtraceError::check_size("number of buffers", count, MAX_BUFFERS);
            }
            option::CPUCOUNT => {
                let size = self.cursor.u32()?;
                if size == 4 {
                    // The tables have one entry for each of these.
                    self.cpus = self.cursor.u32()?;
                    return Ok(());
                }
                self.cursor.position = at;
            }
            option::TRACECLOCK => self.has_clock = true,
            _ => {}
        }
        shared_option(number, &mut self.cursor, &mut self.metadata)
    }

    /// Where the pages of the next CPU are.
    fn table_entry(&mut self) -> Result<ByteSource, FtraceError> {
        let (offset, len) = (self.cursor.u64()?, self.cursor.u64()?);
        let part = self.cursor.part(offset, len)?;
        self.pages_bytes = self.pages_bytes.saturating_add(len);
        if self.pages_bytes > self.cursor.whole().len() {
            return Err(self.cursor.broken("pages of several CPUs are in one place"));
        }
        Ok(part)
    }

    /// The clocks behind a table, in the words of the file `trace_clock`; `None` where it is
    /// something else that stands there.
    fn clock_behind(&mut self) -> Option<String> {
        let size = self.cursor.u64().ok()?;
        let text = self.cursor.bytes("clocks in bytes", size, MAX_SMALL_BYTES).ok()?;
        let text = String::from_utf8(text).ok()?;
        (text.contains('[') && text.contains(']')).then(|| clock_in_use(&text))
    }
}
