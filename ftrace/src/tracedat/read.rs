// SPDX-License-Identifier: Apache-2.0
//! Reads trace.dat.

use std::path::Path;
use std::sync::Arc;

use super::cursor::Cursor;
use super::file::Buffer;
use super::parts::{Version, preamble};
use super::{v6, v7};
use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::trace::{Metadata, Trace};

/// A trace.dat: one trace for each ring buffer that it holds. Nothing of the pages is read yet.
#[derive(Debug)]
pub struct TraceFile {
    metadata: Metadata,
    buffers: Vec<Buffer>,
}

impl TraceFile {
    /// Opens a trace.dat of version 6 or 7, little-endian.
    ///
    /// # Errors
    /// [`FtraceError::ReadFile`]; [`FtraceError::TraceDat`] for what is no such file, with the
    /// place where that shows; [`FtraceError::TooLarge`].
    pub fn open(path: &Path) -> Result<Self, FtraceError> {
        Self::read(ByteSource::open(path)?)
    }

    /// Like [`Self::open`], for a trace.dat in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, FtraceError> {
        Self::read(ByteSource::bytes(bytes))
    }

    fn read(whole: ByteSource) -> Result<Self, FtraceError> {
        let mut cursor = Cursor::new(whole, 0, "");
        let (metadata, buffers) = match preamble(&mut cursor)? {
            Version::Six => v6::read(cursor)?,
            Version::Seven => v7::read(cursor)?,
        };
        Ok(Self { metadata, buffers })
    }

    /// The names of its buffers that hold anything, in the order of the file. The main one is
    /// called `""`, the others are instances.
    pub fn buffers(&self) -> impl Iterator<Item = &str> {
        self.buffers.iter().filter(|buffer| buffer.has_pages()).map(|buffer| buffer.name.as_str())
    }

    /// The trace of the buffer of that name; `None` where there is none.
    ///
    /// # Errors
    /// Those of [`Trace::new`].
    pub fn into_buffer(self, name: &str) -> Option<Result<Trace, FtraceError>> {
        let Self { metadata, buffers } = self;
        let buffer = buffers.into_iter().find(|buffer| buffer.name == name)?;
        Some(trace(metadata, buffer))
    }

    /// The trace of the main buffer, or where that is empty, of the first that is not.
    ///
    /// # Errors
    /// Those of [`Trace::new`].
    pub fn into_main(self) -> Result<Trace, FtraceError> {
        let Self { metadata, mut buffers } = self;
        // The main one is the first of a file, where it is there at all.
        buffers.sort_by_key(|buffer| !buffer.name.is_empty());
        let Some(index) = buffers.iter().position(Buffer::has_pages) else {
            let first = buffers.into_iter().next().map(|main| main.pages);
            return Trace::new(metadata, first.unwrap_or_default());
        };
        trace(metadata, buffers.swap_remove(index))
    }
}

fn trace(metadata: Metadata, buffer: Buffer) -> Result<Trace, FtraceError> {
    let Buffer { name, clock, page_size, pages } = buffer;
    let clock = if clock.is_empty() { metadata.clock } else { clock };
    let trace = Trace::new(Metadata { clock, ..metadata }, pages)?;
    // `header_page` is of the main buffer; instances may have pages of another size.
    match page_size.filter(|_| !name.is_empty()).and_then(|size| usize::try_from(size).ok()) {
        Some(page_size) => trace.with_page_size(page_size),
        None => Ok(trace),
    }
}

impl Trace {
    /// Opens a trace.dat of version 6 or 7, little-endian. Pages are not read yet.
    ///
    /// Of a file with several buffers (tracing instances) the main one is taken, or where that is
    /// empty, the first that is not; [`TraceFile`] has all of them.
    ///
    /// # Errors
    /// [`FtraceError::ReadFile`]; [`FtraceError::TraceDat`] for what is no such file, with the
    /// place where that shows; and those of [`Self::new`].
    pub fn open(path: &Path) -> Result<Self, FtraceError> {
        TraceFile::open(path)?.into_main()
    }

    /// Like [`Self::open`], for a trace.dat in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_trace_dat_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, FtraceError> {
        TraceFile::from_bytes(bytes)?.into_main()
    }
}
