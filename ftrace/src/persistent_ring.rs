// SPDX-License-Identifier: Apache-2.0
//! Ring buffers in memory that the traced kernel was told to use (`trace_instance=NAME@PLACE`,
//! Linux 6.12), read from outside: of a kernel that has stopped, whatever it stopped for.
//!
//! One after the other, for each CPU that the kernel counts with (kernel/trace/ring_buffer.c of
//! Linux 6.12, `struct ring_buffer_meta` and `rb_range_meta`):
//!
//! ```text
//!   magic: i32  struct_size: i32  text_addr data_addr first_buffer head_buffer commit_buffer: u64
//!   subbuf_size: u32  nr_subbufs: u32  buffers: [i32; nr_subbufs]
//!   up to the next multiple of subbuf_size: nothing
//!   nr_subbufs sub-buffers, which are the pages that trace_pipe_raw hands out
//! ```
//!
//! `buffers[0]` is the number of the reader's sub-buffer, the others are those of the ring in order.
//! Records begin in the one at the address `head_buffer`. Later kernels have another layout.

use std::io::{self, Read};

use crate::error::FtraceError;

/// RING_BUFFER_META_MAGIC.
const MAGIC: u32 = 0x0bad_feed;
/// Size of the structure without `buffers`.
const META_BYTES: usize = 56;
/// Sizes of sub-buffers (`buffer_subbuf_size_kb`): powers of two from a page on.
const MIN_SUBBUF_BYTES: u32 = 4 << 10;
const MAX_SUBBUF_BYTES: u32 = 64 << 10;
/// Time stamp and length, before the records of a sub-buffer.
const HEADER_BYTES: usize = 16;
/// The part of the length word that is a length; flags are above (RB_MISSED_MASK).
const LENGTH_MASK: u64 = (1 << 30) - 1;

/// The memory: reads as many bytes as the buffer has from an offset, or fails.
type Memory<'a> = dyn Fn(u64, &mut [u8]) -> io::Result<()> + 'a;

/// All ring buffers in a piece of memory.
pub struct PersistentRings<'a> {
    memory: &'a Memory<'a>,
    cpus: Vec<Ring>,
}

/// One CPU's.
#[derive(Debug)]
struct Ring {
    /// Where its first sub-buffer is.
    subbufs: u64,
    subbuf_bytes: u32,
    /// Numbers of its sub-buffers in order, from the oldest.
    order: Vec<u32>,
}

impl std::fmt::Debug for PersistentRings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PersistentRings").field("cpus", &self.cpus.len()).finish_non_exhaustive()
    }
}

impl<'a> PersistentRings<'a> {
    /// Finds them in `bytes` bytes of memory, those of `at_least` CPUs.
    ///
    /// # Errors
    /// [`FtraceError::Mapped`] where memory is not as Linux 6.12 lays it out.
    pub fn find(memory: &'a Memory<'a>, bytes: u64, at_least: u32) -> Result<Self, FtraceError> {
        let mut cpus = Vec::new();
        let mut at = 0;
        while let Some((ring, end)) = ring(memory, at, bytes, cpus.is_empty())? {
            cpus.push(ring);
            at = end;
        }
        let found = Self { memory, cpus };
        if found.cpus() < at_least {
            let reason = format!("only {} of {at_least} CPUs have one", found.cpus());
            return Err(FtraceError::Mapped { offset: at, reason });
        }
        Ok(found)
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> u32 {
        // Each has at least a page of the memory, of which there are less than 2^32.
        u32::try_from(self.cpus.len()).unwrap_or(u32::MAX)
    }

    /// The pages of one CPU from the oldest on, one with each read, as `trace_pipe_raw` hands them
    /// out; none for a CPU that there is not.
    pub fn pages(&self, cpu: u32) -> impl Read + '_ {
        Pages { memory: self.memory, ring: self.cpus.get(cpu as usize), next: 0 }
    }
}

/// The ring whose description is at `at`, and where the next one's would be. What is there may be
/// nothing: the kernel needs not all of the memory.
fn ring(
    memory: &Memory<'_>,
    at: u64,
    bytes: u64,
    first: bool,
) -> Result<Option<(Ring, u64)>, FtraceError> {
    let mut meta = [0; META_BYTES];
    if bytes.saturating_sub(at) < META_BYTES as u64 {
        return if first { Err(wrong("there is no room for one".into(), at)) } else { Ok(None) };
    }
    memory(at, &mut meta).map_err(|error| unreadable(error, at))?;
    let [magic, struct_bytes] = [0, 4].map(|at| word(&meta, at));
    if magic != MAGIC && !first {
        return Ok(None);
    }
    if magic != MAGIC || struct_bytes as usize != META_BYTES {
        return Err(wrong(format!("it begins with {magic:#x}, {struct_bytes} bytes long"), at));
    }
    let [first_buffer, head_buffer] = [24, 32].map(|at| long(&meta, at));
    let [subbuf_bytes, count] = [48, 52].map(|at| word(&meta, at));
    let is_size = (MIN_SUBBUF_BYTES..=MAX_SUBBUF_BYTES).contains(&subbuf_bytes);
    if !is_size || !subbuf_bytes.is_power_of_two() {
        return Err(wrong(format!("a sub-buffer of {subbuf_bytes} bytes"), at));
    }
    let each = u64::from(subbuf_bytes);
    let subbufs = (at + META_BYTES as u64 + 4 * u64::from(count)).next_multiple_of(each);
    let end = subbufs + each * u64::from(count);
    if count < 2 || end > bytes {
        return Err(wrong(format!("{count} sub-buffers do not fit"), at));
    }
    let mut numbers = vec![0; 4 * count as usize];
    memory(at + META_BYTES as u64, &mut numbers).map_err(|error| unreadable(error, at))?;
    let mut order: Vec<u32> = numbers.chunks_exact(4).map(|bytes| word(bytes, 0)).skip(1).collect();
    let head = head_buffer.wrapping_sub(first_buffer) / each;
    let Some(oldest) = order.iter().position(|&number| u64::from(number) == head) else {
        return Err(wrong(format!("sub-buffer {head}, the oldest, is not among its {count}"), at));
    };
    if order.iter().any(|&number| number >= count) {
        return Err(wrong(format!("a sub-buffer beyond its {count}"), at));
    }
    order.rotate_left(oldest);
    let ring = Ring { subbufs, subbuf_bytes, order };
    for &number in &ring.order {
        let mut head = [0; HEADER_BYTES];
        memory(ring.place(number), &mut head).map_err(|error| unreadable(error, at))?;
        if ring.used(&head).is_none() {
            return Err(wrong(format!("sub-buffer {number} has more than fits"), at));
        }
    }
    Ok(Some((ring, end)))
}

fn unreadable(error: io::Error, at: u64) -> FtraceError {
    wrong(format!("memory cannot be read: {error}"), at)
}

/// The error of a ring at that place in memory.
fn wrong(reason: String, at: u64) -> FtraceError {
    FtraceError::Mapped { offset: at, reason }
}

impl Ring {
    /// Where a sub-buffer is.
    fn place(&self, number: u32) -> u64 {
        self.subbufs + u64::from(number) * u64::from(self.subbuf_bytes)
    }

    /// Number of bytes of records in the sub-buffer that begins so, if that many fit.
    fn used(&self, subbuf: &[u8]) -> Option<u64> {
        let used = long(subbuf, 8) & LENGTH_MASK;
        (used + HEADER_BYTES as u64 <= u64::from(self.subbuf_bytes)).then_some(used)
    }
}

/// The 4 bytes at `at`, which are there.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The 8 bytes at `at`, which are there.
fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// See [`PersistentRings::pages`].
struct Pages<'a> {
    memory: &'a Memory<'a>,
    ring: Option<&'a Ring>,
    next: usize,
}

impl Read for Pages<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(ring) = self.ring else { return Ok(0) };
        let bytes = ring.subbuf_bytes as usize;
        let Some(page) = buffer.get_mut(..bytes) else {
            return Err(io::Error::other(format!("a buffer of less than {bytes} bytes")));
        };
        while let Some(&number) = ring.order.get(self.next) {
            self.next += 1;
            (self.memory)(ring.place(number), page)?;
            // Sub-buffers that were not written since the buffer was cleared have no records, and
            // lie between the newest and the oldest.
            if ring.used(page).is_some_and(|used| used > 0) {
                return Ok(bytes);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two CPUs of four sub-buffers; the second one's ring has gone round, and was read from.
    fn memory() -> Vec<u8> {
        let mut memory = vec![0; 64 << 10];
        let mut ring = |at: usize, head: u64, buffers: [u32; 4], stamps: [u64; 4]| {
            let subbufs = (at + META_BYTES + 16).next_multiple_of(4096);
            let mut put = |at: usize, bytes: &[u8]| {
                memory[at..at + bytes.len()].copy_from_slice(bytes);
            };
            put(at, &MAGIC.to_le_bytes());
            put(at + 4, &56u32.to_le_bytes());
            put(at + 24, &0xffff_c900_0000_1000u64.to_le_bytes());
            put(at + 32, &(0xffff_c900_0000_1000 + head * 4096).to_le_bytes());
            put(at + 48, &4096u32.to_le_bytes());
            put(at + 52, &4u32.to_le_bytes());
            for (n, (number, stamp)) in buffers.into_iter().zip(stamps).enumerate() {
                put(at + META_BYTES + 4 * n, &number.to_le_bytes());
                put(subbufs + 4096 * n, &stamp.to_le_bytes());
                put(subbufs + 4096 * n + 8, &u64::from(stamp > 0).to_le_bytes());
            }
            subbufs + 4 * 4096
        };
        let next = ring(0, 1, [0, 1, 2, 3], [0, 10, 20, 0]);
        ring(next, 0, [2, 3, 1, 0], [40, 60, 5, 50]);
        memory
    }

    fn stamps(memory: &[u8]) -> Result<Vec<Vec<u64>>, FtraceError> {
        let read = |at: u64, buffer: &mut [u8]| {
            let at = usize::try_from(at).expect("small");
            let bytes = memory.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        };
        let rings = PersistentRings::find(&read, memory.len() as u64, 2)?;
        let stamps = |cpu| {
            let (mut pages, mut page, mut stamps) = (rings.pages(cpu), [0; 65536], Vec::new());
            while pages.read(&mut page).expect("in memory") > 0 {
                stamps.push(long(&page, 0));
            }
            stamps
        };
        Ok((0..=rings.cpus()).map(stamps).collect())
    }

    #[test]
    fn pages_come_from_the_oldest_on_and_empty_ones_do_not() {
        let expected = [vec![10, 20], vec![40, 50, 60], vec![]];
        assert_eq!(stamps(&memory()).expect("as the kernel lays it out"), expected);
    }

    #[test]
    fn what_no_kernel_writes_is_an_error_and_never_read_beyond() {
        let cases = [
            (0, 1, "begins with"),
            (4, 60, "60 bytes long"),
            (33, 0xff, "the oldest"),
            (48, 1, "sub-buffer of 4097"),
            (50, 2, "sub-buffer of"),
            (52, 0, "do not fit"),
            (54, 1, "do not fit"),
            (64, 9, "beyond its 4"),
            (3 * 4096 + 9, 0x10, "sub-buffer 2 has more than fits"),
            // The second one's, which is then none.
            (5 * 4096, 1, "only 1 of 2 CPUs"),
        ];
        for (at, value, reason) in cases {
            let mut memory = memory();
            memory[at] = value;
            let error = stamps(&memory).expect_err("damaged").to_string();
            assert!(error.contains(reason), "{at}: {error}");
        }
        assert!(stamps(&[]).is_err());
        // Any byte, in any way: an answer, and no panic.
        for at in (0..2048).chain(0x5000..0x5100) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut memory = memory();
                memory[at] = value;
                let _ = stamps(&memory);
            }
        }
    }
}
