// SPDX-License-Identifier: Apache-2.0
//! Reads trace.dat.

use std::path::Path;
use std::sync::Arc;

use super::{
    FLYRECORD, FTRACE_SYSTEM, HEADER_EVENT, HEADER_PAGE, LATENCY, MAGIC, OPTIONS, VERSION, option,
};
use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::format::{FormatFile, MAX_FORMAT_BYTES, MAX_FORMATS_BYTES};
use crate::trace::{MAX_COMMS_BYTES, MAX_CPUS, MAX_SMALL_BYTES, Metadata, Trace, clock_in_use};
use crate::trace_id::TraceId;

/// Format files, at most; Linux 6.18 has 2 000.
const MAX_FORMAT_FILES: u64 = 1 << 15;
/// Options, at most; trace-cmd writes about twelve.
const MAX_OPTIONS: usize = 4096;

impl Trace {
    /// Opens a trace.dat of version 6, little-endian. Pages are not read yet.
    ///
    /// Of a file with several buffers (tracing instances), the main one is taken.
    ///
    /// # Errors
    /// [`FtraceError::ReadFile`]; [`FtraceError::TraceDat`] for what is no such file, with the
    /// place where that shows; and those of [`Self::new`].
    pub fn open(path: &Path) -> Result<Self, FtraceError> {
        Self::from_trace_dat(ByteSource::open(path)?)
    }

    /// Like [`Self::open`], for a trace.dat in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_trace_dat_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, FtraceError> {
        Self::from_trace_dat(ByteSource::bytes(bytes))
    }

    fn from_trace_dat(whole: ByteSource) -> Result<Self, FtraceError> {
        let mut reader = Reader { whole, position: 0 };
        reader.preamble()?;
        let mut metadata = Metadata {
            header_page: reader.named(HEADER_PAGE)?,
            header_event: reader.named(HEADER_EVENT)?,
            formats: reader.formats()?,
            ..Metadata::default()
        };
        metadata.kallsyms = reader.region_u32()?;
        metadata.printk_formats = reader.region_u32()?;
        metadata.comms = reader.sized_u64("comms in bytes", MAX_COMMS_BYTES)?;
        let cpus = reader.u32()?;
        FtraceError::check_size("number of CPUs", cpus.into(), MAX_CPUS.into())?;
        if reader.options(&mut metadata)? {
            let pages = (0..cpus).map(|_| reader.table_entry()).collect::<Result<_, _>>()?;
            return Self::new(metadata, pages);
        }
        Err(reader.broken("it holds text instead of pages; record without a latency tracer"))
    }
}

struct Reader {
    whole: ByteSource,
    position: u64,
}

impl Reader {
    fn broken(&self, reason: impl Into<String>) -> FtraceError {
        FtraceError::TraceDat { offset: self.position, reason: reason.into() }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FtraceError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), FtraceError> {
        let count = self
            .whole
            .read_at(self.position, bytes)
            .map_err(|error| self.broken(format!("it cannot be read: {error}")))?;
        if count < bytes.len() {
            return Err(self.broken("the file ends here, in the middle of something"));
        }
        self.position += count as u64;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, FtraceError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FtraceError> {
        self.array().map(u64::from_le_bytes)
    }

    /// `size` bytes, after a look whether the file has as many.
    fn bytes(&mut self, what: &'static str, size: u64, limit: u64) -> Result<Vec<u8>, FtraceError> {
        FtraceError::check_size(what, size, limit)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn sized_u64(&mut self, what: &'static str, limit: u64) -> Result<Vec<u8>, FtraceError> {
        let size = self.u64()?;
        self.bytes(what, size, limit)
    }

    fn expect(&mut self, expected: &[u8], what: &str) -> Result<(), FtraceError> {
        let at = self.position;
        let found = self.bytes("word", expected.len() as u64, MAX_SMALL_BYTES)?;
        if found != expected {
            self.position = at;
            return Err(self.broken(format!("here should be {what}")));
        }
        Ok(())
    }

    fn preamble(&mut self) -> Result<(), FtraceError> {
        self.expect(MAGIC, "the first bytes of a trace.dat")?;
        let advice =
            "version 6 (make one of another version with `trace-cmd convert --file-version 6`)";
        self.expect(VERSION, advice)?;
        let [endian, _long_size] = self.array()?;
        if endian != 0 {
            return Err(self.broken("it is of a big-endian machine; those are not supported"));
        }
        // The size of the pages is in `header_page` too, and there it is the kernel's word.
        self.u32().map(drop)
    }

    /// A header file after its name.
    fn named(&mut self, name: &[u8]) -> Result<Vec<u8>, FtraceError> {
        self.expect(name, &format!("`{}`", String::from_utf8_lossy(&name[..name.len() - 1])))?;
        self.sized_u64("header in bytes", MAX_SMALL_BYTES)
    }

    fn formats(&mut self) -> Result<Vec<FormatFile>, FtraceError> {
        let mut files = Vec::new();
        let mut total = 0;
        self.formats_of(FTRACE_SYSTEM, &mut files, &mut total)?;
        let systems = self.u32()?;
        FtraceError::check_size("number of event systems", systems.into(), MAX_FORMAT_FILES)?;
        for _ in 0..systems {
            let system = self.text()?;
            self.formats_of(&system, &mut files, &mut total)?;
        }
        Ok(files)
    }

    fn formats_of(
        &mut self,
        system: &str,
        files: &mut Vec<FormatFile>,
        total: &mut u64,
    ) -> Result<(), FtraceError> {
        let count = u64::from(self.u32()?) + files.len() as u64;
        FtraceError::check_size("number of formats", count, MAX_FORMAT_FILES)?;
        while (files.len() as u64) < count {
            let text = self.sized_u64("event format in bytes", MAX_FORMAT_BYTES)?;
            *total += text.len() as u64;
            FtraceError::check_size("event formats in bytes", *total, MAX_FORMATS_BYTES)?;
            files.push(FormatFile { system: system.to_owned(), text });
        }
        Ok(())
    }

    /// Text up to a NUL.
    fn text(&mut self) -> Result<String, FtraceError> {
        /// The kernel's systems have names of up to 20 bytes.
        const LONGEST: usize = 255;
        let mut text = Vec::new();
        loop {
            match self.array()? {
                [0] => return Ok(String::from_utf8_lossy(&text).into_owned()),
                [byte] => text.push(byte),
            }
            if text.len() > LONGEST {
                return Err(self.broken("a name does not end"));
            }
        }
    }

    /// A part of the file that is left where it is, after its 32-bit length.
    fn region_u32(&mut self) -> Result<ByteSource, FtraceError> {
        let len = u64::from(self.u32()?);
        let region = self.part(self.position, len)?;
        self.position += len;
        Ok(region)
    }

    fn part(&self, offset: u64, len: u64) -> Result<ByteSource, FtraceError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.whole.len() => Ok(self.whole.part(offset, len)),
            _ => Err(self.broken(format!("{len} bytes from byte {offset} on are not in the file"))),
        }
    }

    /// Reads options up to what follows them; whether that is pages.
    fn options(&mut self, metadata: &mut Metadata) -> Result<bool, FtraceError> {
        let mut word = self.array()?;
        if word == *OPTIONS {
            for count in 0.. {
                let number = u16::from_le_bytes(self.array()?);
                if number == option::DONE {
                    break;
                }
                if count == MAX_OPTIONS {
                    return Err(self.broken("its options do not end"));
                }
                self.option(number, metadata)?;
            }
            word = self.array()?;
        }
        match &word {
            FLYRECORD => Ok(true),
            LATENCY => Ok(false),
            _ => Err(self.broken("here should be options or pages")),
        }
    }

    fn option(&mut self, number: u16, metadata: &mut Metadata) -> Result<(), FtraceError> {
        let size = u64::from(self.u32()?);
        if ![option::TRACECLOCK, option::UNAME, option::TRACEID].contains(&number) {
            // Readers skip what they do not know.
            self.part(self.position, size)?;
            self.position += size;
            return Ok(());
        }
        let value = self.bytes("option in bytes", size, MAX_SMALL_BYTES)?;
        let text = String::from_utf8_lossy(&value);
        let text = text.trim_end_matches('\0').trim();
        match number {
            option::TRACECLOCK => metadata.clock = clock_in_use(text),
            option::TRACEID => {
                let number = value.as_slice().try_into().map(u64::from_le_bytes);
                metadata.id = number.ok().and_then(TraceId::of);
            }
            _ => metadata.uname = text.to_owned(),
        }
        Ok(())
    }

    /// Where the pages of the next CPU are.
    fn table_entry(&mut self) -> Result<ByteSource, FtraceError> {
        let (offset, len) = (self.u64()?, self.u64()?);
        self.part(offset, len)
    }
}
