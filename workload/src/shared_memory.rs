// SPDX-License-Identifier: Apache-2.0
//! The memory that the load's processes and their supervisor share.
//!
//! A file mapping, so that it works on a kernel without memfd:
//!
//! ```text
//!     Control | GroupSlot x groups | ThreadSlot x threads | SpanCell x threads x span_room
//!         | RecordCell x threads x room
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::slice;

use gaps::tally::RecordCell;
use protocol::group_process::Size;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use thiserror::Error;

use crate::slots::{Control, GroupSlot, SpanCell, ThreadSlot};

/// Alignment of every part: two cache lines, because CPUs fetch them in pairs.
const ALIGN: usize = 128;

/// Why the shared memory cannot be had.
#[derive(Debug, Error)]
pub enum SharedError {
    /// The size cannot even be expressed.
    #[error("{threads} threads with {records} records each do not fit into memory")]
    TooLarge {
        /// Threads asked for.
        threads: usize,
        /// Records for each thread.
        records: u32,
    },
    /// It does not fit into the file system.
    #[error(
        "{bytes} bytes of record memory cannot be allocated; ask for fewer records or more memory"
    )]
    Allocate {
        /// Size of the file.
        bytes: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be mapped.
    #[error("{bytes} bytes of record memory cannot be mapped")]
    Map {
        /// Size of the mapping.
        bytes: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened.
    #[error("the shared memory {path} cannot be opened")]
    Open {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where each part of the mapping begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    groups: usize,
    group_slots: usize,
    threads: usize,
    thread_slots: usize,
    span_room: usize,
    spans: usize,
    room: usize,
    records: usize,
    bytes: usize,
}

impl Layout {
    fn of(size: Size) -> Option<Self> {
        let Size { groups, threads, .. } = size;
        let (room, span_room) = (size.records as usize, size.spans as usize);
        let group_slots = size_of::<Control>().next_multiple_of(ALIGN);
        let thread_slots = group_slots.checked_add(groups.checked_mul(size_of::<GroupSlot>())?)?;
        let spans = thread_slots.checked_add(threads.checked_mul(size_of::<ThreadSlot>())?)?;
        let of_spans = threads.checked_mul(span_room)?.checked_mul(size_of::<SpanCell>())?;
        let records = spans.checked_add(of_spans)?.checked_next_multiple_of(ALIGN)?;
        let cells = threads.checked_mul(room)?.checked_mul(size_of::<RecordCell>())?;
        let bytes = records.checked_add(cells)?.checked_next_multiple_of(4096)?;
        // No object may be larger than isize::MAX, which slices rely on.
        isize::try_from(bytes).ok()?;
        Some(Self {
            groups,
            group_slots,
            threads,
            thread_slots,
            span_room,
            spans,
            room,
            records,
            bytes,
        })
    }
}

/// The mapping.
#[derive(Debug)]
pub struct Shared {
    base: NonNull<u8>,
    layout: Layout,
    owns: PhantomData<Control>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and everything in it is atomic.
unsafe impl Send for Shared {}

// SAFETY: as above: shared references give access to atomics only.
unsafe impl Sync for Shared {}

impl Shared {
    /// Makes the file, with all its memory allocated, and maps it.
    pub fn create(path: &Path, size: Size) -> Result<Self, SharedError> {
        let layout = Self::layout(size)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let open = options.open(path);
        let mut file = open.map_err(|source| Self::open_error(path, source))?;
        allocate(&mut file, layout.bytes)
            .map_err(|source| SharedError::Allocate { bytes: layout.bytes, source })?;
        Self::map(&file, layout)
    }

    /// Maps a file that [`Shared::create`] made for the same load.
    pub fn open(path: &Path, size: Size) -> Result<Self, SharedError> {
        let layout = Self::layout(size)?;
        let open = OpenOptions::new().read(true).write(true).open(path);
        let file = open.map_err(|source| Self::open_error(path, source))?;
        let length = file.metadata().map_err(|source| Self::open_error(path, source))?.len();
        if usize::try_from(length).ok() != Some(layout.bytes) {
            let text = format!("it has {length} bytes where {} are expected", layout.bytes);
            return Err(Self::open_error(path, io::Error::other(text)));
        }
        Self::map(&file, layout)
    }

    fn layout(size: Size) -> Result<Layout, SharedError> {
        Layout::of(size)
            .ok_or(SharedError::TooLarge { threads: size.threads, records: size.records })
    }

    fn open_error(path: &Path, source: io::Error) -> SharedError {
        SharedError::Open { path: path.display().to_string(), source }
    }

    fn map(file: &File, layout: Layout) -> Result<Self, SharedError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // Populated, so that no burst meets a page fault.
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), layout.bytes, protection, flags, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            return Err(map_error(layout.bytes));
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| map_error(layout.bytes))?;
        Ok(Self { base, layout, owns: PhantomData })
    }

    /// What steers all threads.
    pub fn control(&self) -> &Control {
        self.slice::<Control>(0, 1).first().expect("the mapping begins with one")
    }

    /// One slot for each group.
    pub fn groups(&self) -> &[GroupSlot] {
        self.slice(self.layout.group_slots, self.layout.groups)
    }

    /// One slot for each thread, group by group.
    pub fn threads(&self) -> &[ThreadSlot] {
        self.slice(self.layout.thread_slots, self.layout.threads)
    }

    /// Record memory of one thread; empty for a thread that does not exist.
    pub fn records(&self, thread: usize) -> &[RecordCell] {
        let all = self.slice(self.layout.records, self.layout.threads * self.layout.room);
        all.chunks(self.layout.room.max(1)).nth(thread).unwrap_or_default()
    }

    /// Memory for the times in which one thread wants to run; empty for one that does not exist.
    pub fn spans(&self, thread: usize) -> &[SpanCell] {
        let all = self.slice(self.layout.spans, self.layout.threads * self.layout.span_room);
        all.chunks(self.layout.span_room.max(1)).nth(thread).unwrap_or_default()
    }

    /// Addresses of the whole mapping.
    pub fn mapping(&self) -> Range<usize> {
        let base = self.base.as_ptr().expose_provenance();
        base..base + self.layout.bytes
    }

    /// Addresses of the pages that the process with these threads uses: all slots, and their
    /// times and records.
    pub fn used_by(&self, threads: Range<usize>) -> [Range<usize>; 3] {
        const PAGE_BYTES: usize = 4096;
        let Range { start: base, end } = self.mapping();
        let own = [
            (self.layout.spans, self.layout.span_room * size_of::<SpanCell>()),
            (self.layout.records, self.layout.room * size_of::<RecordCell>()),
        ];
        let [spans, records] = own.map(|(first, of_thread)| {
            let begin = base + first + threads.start * of_thread;
            begin..begin + threads.len() * of_thread
        });
        // Each ends where the next begins, maybe within a page.
        [base..base + self.layout.spans, spans, records].map(|Range { start, end: last }| {
            let start = start / PAGE_BYTES * PAGE_BYTES;
            start..last.next_multiple_of(PAGE_BYTES).min(end).max(start)
        })
    }

    /// `T` must be one of the types of the layout, at its place.
    fn slice<T>(&self, offset: usize, count: usize) -> &[T] {
        assert!(offset.is_multiple_of(align_of::<T>()));
        assert!(offset + count * size_of::<T>() <= self.layout.bytes);
        // SAFETY: the range lies in the mapping (asserted), the mapping is page-aligned and
        // the offset aligned (asserted), and it lives as long as `self`. All types of the
        // layout consist of atomics, for which any bits are a value and which other threads
        // and processes may change meanwhile.
        unsafe { slice::from_raw_parts(self.base.add(offset).cast::<T>().as_ptr(), count) }
    }
}

fn map_error(bytes: usize) -> SharedError {
    SharedError::Map { bytes, source: io::Error::last_os_error() }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this size, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.layout.bytes) };
    }
}

/// Gives the file its size with all memory allocated: a hole would become a SIGBUS in the
/// middle of the measurement when memory runs out.
fn allocate(file: &mut File, bytes: usize) -> io::Result<()> {
    match rustix::fs::fallocate(&*file, FallocateFlags::empty(), 0, bytes as u64) {
        Ok(()) => Ok(()),
        // ramfs, where there is no tmpfs: its pages are allocated when they are written.
        Err(Errno::OPNOTSUPP) => {
            io::copy(&mut io::Read::take(io::repeat(0), bytes as u64), file)?;
            file.flush()
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::State;
    use protocol::cpu_list::CpuSet;
    use protocol::error::Owner;
    use std::sync::atomic::Ordering::Relaxed;

    fn size(groups: usize, threads: usize, records: u32) -> Size {
        Size { groups, threads, records, spans: 3 }
    }

    #[test]
    fn two_mappings_of_one_file_see_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shared");
        let size = size(2, 6, 5);
        let one = Shared::create(&path, size).unwrap();
        let two = Shared::open(&path, size).unwrap();
        assert_eq!((two.groups().len(), two.threads().len()), (2, 6));
        assert_eq!(two.records(5).len(), 5);
        assert_eq!(two.records(6).len(), 0);
        two.groups()[1].fail(Owner::Host, "no way");
        assert_eq!(one.groups()[1].failure(), Some((Owner::Host, "no way".into())));
        assert_eq!(one.groups()[0].failure(), None);
        let cpus: CpuSet = "0,63-64,1023".parse().unwrap();
        two.threads()[5].affinity.store(&cpus);
        two.threads()[5].set_state(State::Done);
        assert_eq!(one.threads()[5].affinity.load(), cpus);
        assert_eq!(
            (one.threads()[5].state(), one.threads()[4].state()),
            (State::Done, State::Absent)
        );
        two.control().stop();
        assert_eq!(one.control().stop.load(Relaxed), 1);
        Shared::create(&path, size).expect_err("the file is there already");
    }

    #[test]
    fn a_process_uses_all_slots_and_its_own_records() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::create(&directory.path().join("shared"), size(2, 6, 1000)).unwrap();
        let all = shared.mapping();
        let [slots, spans, own] = shared.used_by(2..4);
        let span = |thread: usize| std::ptr::from_ref(&shared.spans(thread)[2]).addr();
        assert_eq!((shared.spans(5).len(), shared.spans(6).len()), (3, 0));
        assert!(spans.contains(&span(2)) && spans.contains(&span(3)));
        assert_eq!(slots.start, all.start);
        let address = |cell: &RecordCell| std::ptr::from_ref(cell).addr();
        let slot = std::ptr::from_ref(&shared.threads()[5]).addr();
        assert!(slots.contains(&slot) && slots.end <= all.end);
        for (thread, is_own) in [(2, true), (3, true), (5, false)] {
            let records = shared.records(thread);
            let (first, last) = (address(&records[0]), address(&records[999]));
            assert_eq!(own.contains(&first) && own.contains(&last), is_own, "{thread}");
        }
        assert!(own.len() < 3 * 1000 * size_of::<RecordCell>());
        let last = shared.used_by(0..6)[2].clone();
        assert_eq!(last.end, all.end);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shared");
        let huge = size(usize::MAX, usize::MAX, u32::MAX);
        assert!(matches!(Shared::create(&path, huge), Err(SharedError::TooLarge { .. })));
        let large = size(1024, 1024 * 1024, u32::MAX);
        assert!(matches!(Shared::create(&path, large), Err(SharedError::Allocate { .. })));
        assert!(matches!(Shared::open(&path, size(1, 1, 1)), Err(SharedError::Open { .. })));
    }

    #[test]
    fn no_room_for_records_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let shared = Shared::create(&directory.path().join("shared"), size(1, 1, 0)).unwrap();
        assert_eq!(shared.records(0).len(), 0);
    }
}
