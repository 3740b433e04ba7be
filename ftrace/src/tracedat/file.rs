// SPDX-License-Identifier: Apache-2.0
//! A trace.dat with all its buffers.

use crate::byte_source::ByteSource;

/// A ring buffer of the file: the main one, whose name is empty, or an instance of tracefs.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) name: String,
    pub(super) clock: String,
    /// Length of its pages in bytes, where the file says so beside `header_page`.
    pub(super) page_size: Option<u32>,
    /// By CPU.
    pub(super) pages: Vec<ByteSource>,
}

impl Buffer {
    /// Whether any CPU has pages.
    pub(super) fn has_pages(&self) -> bool {
        self.pages.iter().any(|pages| !pages.is_empty())
    }
}
