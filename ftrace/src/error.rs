// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with a trace.

use std::io;
use std::path::PathBuf;

/// Why a trace could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FtraceError {
    /// `events/header_page` or `events/header_event` is not what any kernel writes.
    #[error("the trace's `{file}` cannot be used: {reason}")]
    Header {
        /// `header_page` or `header_event`.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An event's `format` file is not what any kernel writes.
    #[error("event format `{event}` cannot be used: {reason}")]
    Format {
        /// System and name of the event, as far as they could be read.
        event: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is no trace.dat, or is damaged.
    #[error("trace.dat, byte {offset}: {reason}")]
    TraceDat {
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The file is no dump, or cannot be read.
    #[error("dump, byte {offset}: {reason}")]
    Dump {
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// Memory does not have the ring buffers that it should.
    #[error("ring buffer in memory, byte {offset}: {reason}; Linux 6.12's layout is known")]
    Mapped {
        /// Where in the memory, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// More than this crate is willing to hold in memory.
    #[error("the trace's {what} is {size}; the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A file could not be read.
    #[error("cannot read `{}`", .path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The pages of one CPU could not be read.
    #[error("cannot read the trace pages of CPU {cpu}")]
    ReadPages {
        /// The CPU.
        cpu: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file that was to be made could not be written.
    #[error("cannot write the trace")]
    Write(#[from] io::Error),
}

impl FtraceError {
    /// For `map_err` on whatever reads `path`.
    pub(crate) fn read_file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::ReadFile { path, source }
    }

    /// An error unless `size` is within `limit`.
    pub(crate) fn check_size(what: &'static str, size: u64, limit: u64) -> Result<(), Self> {
        if size > limit {
            return Err(Self::TooLarge { what, size, limit });
        }
        Ok(())
    }
}
