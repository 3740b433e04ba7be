// SPDX-License-Identifier: Apache-2.0
//! The records of all CPUs in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::layout::{EntryLayout, PageLayout};
use super::stream::{CpuStream, Head, Lost, Watch};
use crate::byte_source::ByteSource;
use crate::error::FtraceError;

/// Buffers of all CPUs together, in bytes, unless single pages need more.
const BUFFERS_BYTES: usize = 16 << 20;
/// Buffer of one CPU, at most.
const BUFFER_BYTES: usize = 256 << 10;
/// What single pages of all CPUs may need.
const MAX_PAGES_BYTES: u64 = 32 << 20;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The CPU that wrote it.
    pub cpu: u32,
    /// When, in units of the trace clock.
    pub time: u64,
    /// Its fields; see [`crate::Formats`].
    pub data: &'a [u8],
}

/// What a trace consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An event.
    Record(Record<'a>),
    /// Events that are missing. It stands where the last record of that CPU stood: right
    /// behind it, or first of all.
    Lost(Lost),
}

/// Reads the records of all CPUs in order of time, in bounded memory.
#[derive(Debug)]
pub struct Events {
    streams: Vec<CpuStream>,
    /// Time and CPU of each stream that has not ended; the earliest on top.
    order: BinaryHeap<Reverse<(u64, u32)>>,
    /// Whether the topmost stream's head has been handed out.
    taken: bool,
}

impl Events {
    /// `pages[n]` are the pages of CPU n; `watch` is told what is read.
    pub(crate) fn new(
        pages: &[ByteSource],
        page_layout: PageLayout,
        entry_layout: EntryLayout,
        watch: &Watch,
    ) -> Result<Self, FtraceError> {
        let cpus = pages.iter().filter(|region| !region.is_empty()).count().max(1);
        let least = cpus as u64 * page_layout.page_size as u64;
        FtraceError::check_size("CPUs times page size in bytes", least, MAX_PAGES_BYTES)?;
        let share = BUFFERS_BYTES / cpus;
        let mut this = Self { streams: Vec::new(), order: BinaryHeap::new(), taken: false };
        for (cpu, region) in (0..).zip(pages) {
            let layouts = (page_layout, entry_layout);
            let buffer_size = BUFFER_BYTES.max(region.longest_piece()).min(share);
            let mut stream = CpuStream::new(region.clone(), watch.clone(), layouts, buffer_size);
            let time = stream.advance().map_err(|source| FtraceError::ReadPages { cpu, source })?;
            this.streams.push(stream);
            this.order.extend(time.map(|time| Reverse((time, cpu))));
        }
        Ok(this)
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// [`FtraceError::ReadPages`]. Damage is no error but an [`Item::Lost`].
    #[inline]
    #[allow(clippy::should_implement_trait, reason = "an iterator could not lend its buffer")]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, FtraceError> {
        if std::mem::take(&mut self.taken)
            && let Some(mut top) = self.order.peek_mut()
        {
            let Reverse((_, cpu)) = *top;
            let stream = &mut self.streams[cpu as usize];
            match stream.advance().map_err(|source| FtraceError::ReadPages { cpu, source })? {
                Some(time) => *top = Reverse((time, cpu)),
                None => {
                    PeekMut::pop(top);
                }
            }
        }
        let Some(&Reverse((time, cpu))) = self.order.peek() else { return Ok(None) };
        self.taken = true;
        Ok(Some(self.head(time, cpu)))
    }

    #[inline]
    fn head(&self, time: u64, cpu: u32) -> Item<'_> {
        let stream = &self.streams[cpu as usize];
        match stream.head() {
            Head::Record { begin, end } => {
                Item::Record(Record { cpu, time, data: &stream.bytes()[begin..end] })
            }
            Head::Lost { events, reason } => Item::Lost(Lost { cpu, after: time, events, reason }),
        }
    }

    /// What stands first on each CPU that has anything left, in no order. Before the first
    /// call of [`Self::next`], a record here means that nothing was lost before it.
    pub fn heads(&self) -> impl Iterator<Item = Item<'_>> {
        self.order.iter().map(|&Reverse((time, cpu))| self.head(time, cpu))
    }
}
