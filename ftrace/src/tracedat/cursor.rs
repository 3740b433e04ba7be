// SPDX-License-Identifier: Apache-2.0
//! Takes numbers and texts out of a file, one behind the other.

use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::trace::MAX_SMALL_BYTES;

/// A place in a file, or in a section of it that was unpacked.
#[derive(Debug)]
pub(super) struct Cursor {
    whole: ByteSource,
    pub(super) position: u64,
    /// What errors call the part; empty where the file has none.
    section: &'static str,
    /// Where the section is in the file, if its bytes are not the file's.
    at: Option<u64>,
}

impl Cursor {
    /// From `position` of a file on.
    pub(super) fn new(whole: ByteSource, position: u64, section: &'static str) -> Self {
        Self { whole, position, section, at: None }
    }

    /// From the beginning of a section on that was compressed at `at` of the file.
    pub(super) fn unpacked(bytes: ByteSource, at: u64, section: &'static str) -> Self {
        Self { whole: bytes, position: 0, section, at: Some(at) }
    }

    /// All bytes that it is in.
    pub(super) fn whole(&self) -> &ByteSource {
        &self.whole
    }

    /// What errors call the part from here on.
    pub(super) fn call(&mut self, section: &'static str) {
        self.section = section;
    }

    /// An error at this place.
    pub(super) fn broken(&self, reason: impl AsRef<str>) -> FtraceError {
        self.broken_at(self.position, reason)
    }

    /// An error at another one.
    pub(super) fn broken_at(&self, position: u64, reason: impl AsRef<str>) -> FtraceError {
        let reason = reason.as_ref();
        let (offset, inside) = match self.at {
            Some(at) => (at, format!(", byte {position} of it unpacked")),
            None => (position, String::new()),
        };
        let reason = match self.section {
            "" => reason.to_owned(),
            section => format!("section `{section}`{inside}: {reason}"),
        };
        FtraceError::TraceDat { offset, reason }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FtraceError> {
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
            let what = if self.at.is_some() { "section" } else { "file" };
            return Err(self.broken(format!("the {what} ends here, in the middle of something")));
        }
        self.position += count as u64;
        Ok(())
    }

    pub(super) fn u16(&mut self) -> Result<u16, FtraceError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FtraceError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FtraceError> {
        self.array().map(u64::from_le_bytes)
    }

    /// `size` bytes, after a look whether there are as many.
    pub(super) fn bytes(
        &mut self,
        what: &'static str,
        size: u64,
        limit: u64,
    ) -> Result<Vec<u8>, FtraceError> {
        FtraceError::check_size(what, size, limit)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn sized_u64(
        &mut self,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, FtraceError> {
        let size = self.u64()?;
        self.bytes(what, size, limit)
    }

    pub(super) fn expect(&mut self, expected: &[u8], what: &str) -> Result<(), FtraceError> {
        let at = self.position;
        let found = self.bytes("word", expected.len() as u64, MAX_SMALL_BYTES)?;
        if found != expected {
            return Err(self.broken_at(at, format!("here should be {what}")));
        }
        Ok(())
    }

    /// Text up to a NUL.
    pub(super) fn text(&mut self) -> Result<String, FtraceError> {
        /// The kernel's systems have names of up to 20 bytes, its buffers of up to 255.
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
    pub(super) fn region_u32(&mut self) -> Result<ByteSource, FtraceError> {
        let len = u64::from(self.u32()?);
        let region = self.part(self.position, len)?;
        self.position += len;
        Ok(region)
    }

    pub(super) fn part(&self, offset: u64, len: u64) -> Result<ByteSource, FtraceError> {
        match offset.checked_add(len) {
            // Where nothing is, there is no place for it either.
            _ if len == 0 => Ok(ByteSource::default()),
            Some(end) if end <= self.whole.len() => Ok(self.whole.part(offset, len)),
            _ => Err(self.broken(format!("{len} bytes from byte {offset} on are not in the file"))),
        }
    }

    /// Passes over what readers need not know.
    pub(super) fn skip(&mut self, len: u64) -> Result<(), FtraceError> {
        self.part(self.position, len)?;
        self.position += len;
        Ok(())
    }
}
