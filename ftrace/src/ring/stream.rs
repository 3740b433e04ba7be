// SPDX-License-Identifier: Apache-2.0
//! The pages of one CPU, entry by entry, through a buffer of fixed size.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::layout::{EntryLayout, PageLayout};
use super::page::{Missed, PageCursor, Step};
use crate::byte_source::ByteSource;

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// The kernel overwrote or dropped them.
    Overwritten,
    /// A page contradicts itself; what could be read of it was.
    Damaged,
    /// The data ends within a page.
    Truncated,
}

/// Events of one CPU are missing, from `after` until its next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The CPU.
    pub cpu: u32,
    /// Time of its last record before, in units of the trace clock; 0 where there is none.
    pub after: u64,
    /// How many, where the kernel says so.
    pub events: Option<u64>,
    /// Why.
    pub reason: LossReason,
}

/// Is told of all bytes of pages that are read, some hundred thousand at a time.
#[derive(Clone, Default)]
pub(crate) struct Watch(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl Watch {
    pub(crate) fn new(watch: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    fn tell(&self, bytes: usize) {
        if let Some(watch) = &self.0 {
            watch(bytes as u64);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Watch" } else { "nobody" })
    }
}

/// What a stream stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A record: these bytes of [`CpuStream::bytes`].
    Record { begin: usize, end: usize },
    /// Missing events.
    Lost { events: Option<u64>, reason: LossReason },
}

/// One CPU's entries in order.
#[derive(Debug)]
pub(crate) struct CpuStream {
    region: ByteSource,
    watch: Watch,
    page_layout: PageLayout,
    entry_layout: EntryLayout,
    /// A whole number of pages.
    buffer: Vec<u8>,
    /// Bytes of the buffer in use.
    filled: usize,
    /// Where in the region the buffer's end is.
    read_to: u64,
    /// Where in the buffer the current page is, unless between pages.
    page: Option<usize>,
    /// Where in the buffer the next page is.
    next_page: usize,
    cursor: PageCursor,
    /// Time of the last record; 0 before the first.
    last_time: u64,
    head: Head,
    ended: bool,
}

impl CpuStream {
    /// Reads `region` through a buffer of `buffer_size` bytes, rounded down to whole pages
    /// but at least one if there is anything to read.
    pub(crate) fn new(
        region: ByteSource,
        watch: Watch,
        (page_layout, entry_layout): (PageLayout, EntryLayout),
        buffer_size: usize,
    ) -> Self {
        let at_least = usize::from(!region.is_empty());
        let at_most = if region.is_empty() { 0 } else { buffer_size / page_layout.page_size };
        let pages = at_most.max(at_least);
        Self {
            region,
            watch,
            page_layout,
            entry_layout,
            buffer: vec![0; pages * page_layout.page_size],
            filled: 0,
            read_to: 0,
            page: None,
            next_page: 0,
            cursor: PageCursor::default(),
            last_time: 0,
            head: Head::Record { begin: 0, end: 0 },
            ended: false,
        }
    }

    /// What [`Self::advance`] came to.
    #[inline]
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// The buffer that [`Head::Record`] points into.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Goes on to the next head; its time, or `None` at the end. The time of missing events
    /// is that of the last record before them.
    #[inline]
    pub(crate) fn advance(&mut self) -> io::Result<Option<u64>> {
        loop {
            if let Some(at) = self.page {
                let page = &self.buffer[at..at + self.page_layout.page_size];
                match self.cursor.step(page, &self.entry_layout) {
                    Step::Record { begin, end } => {
                        self.head = Head::Record { begin: at + begin, end: at + end };
                        self.last_time = self.cursor.time;
                        return Ok(Some(self.last_time));
                    }
                    Step::End => self.page = None,
                    Step::Damaged => {
                        self.page = None;
                        return Ok(Some(self.lost(None, LossReason::Damaged)));
                    }
                }
            } else if self.ended {
                return Ok(None);
            } else if let Some(head) = self.open_page()? {
                return Ok(Some(head));
            }
        }
    }

    fn lost(&mut self, events: Option<u64>, reason: LossReason) -> u64 {
        self.head = Head::Lost { events, reason };
        self.last_time
    }

    /// Opens the next page, or notes the end; the time of a loss, if there is one before it.
    fn open_page(&mut self) -> io::Result<Option<u64>> {
        let size = self.page_layout.page_size;
        if self.next_page + size > self.filled && !self.fill()? {
            self.ended = true;
            let rest = self.filled > self.next_page || self.read_to < self.region.len();
            return Ok(rest.then(|| self.lost(None, LossReason::Truncated)));
        }
        let at = self.next_page;
        self.next_page += size;
        match PageCursor::begin(&self.buffer[at..at + size], &self.page_layout) {
            None => Ok(Some(self.lost(None, LossReason::Damaged))),
            Some((cursor, missed)) => {
                self.cursor = cursor;
                self.page = Some(at);
                Ok(match missed {
                    Missed::None => None,
                    Missed::Overwritten(events) => Some(self.lost(events, LossReason::Overwritten)),
                })
            }
        }
    }

    /// Reads on when all pages of the buffer are done; whether there is a whole page now.
    fn fill(&mut self) -> io::Result<bool> {
        let wanted = self.region.convenient(self.read_to, self.buffer.len())?;
        self.filled = self.region.read_at(self.read_to, &mut self.buffer[..wanted])?;
        self.read_to += self.filled as u64;
        self.watch.tell(self.filled);
        self.next_page = 0;
        Ok(self.filled >= self.page_layout.page_size)
    }
}
