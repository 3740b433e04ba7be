// SPDX-License-Identifier: Apache-2.0
//! Chains on their way to a sink, without a copy of our own.
//!
//! ```text
//!  chains     [ c4 c5 c6 … ]            popped, not yet walked
//!  walking       c3                     half of its descriptors are in `pieces`
//!  pieces     [ data data end(c2) data data data … ]
//!               ▲ the next byte to write
//!  finished   [ c0 c1 ]                 their `end` was passed
//! ```
//!
//! All are bounded. The position is kept by dropping what was written from the front, so a
//! short write, a full sink and a chain of 65,535 descriptors are all the same case.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::sync::Arc;

use virtio_queue::DescriptorChainRwIter;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::port::Counters;
use crate::memory::GuestRam;
use crate::virtio::ring::Chain;

/// Most slices of one write, far below the kernel's limit (UIO_MAXIOV in include/uapi/linux/uio.h):
/// a list of more would take longer to make than a write of short ones saves.
const MAX_SLICES: usize = 128;

/// A write of so many bytes is long enough: as many as the driver sends at once (port_fops_write in
/// drivers/char/virtio_console.c). The guest has its buffers back so much the sooner, and in the
/// emulated host the same dump in writes of 2 MiB took two to three times as long.
const ENOUGH_BYTES: usize = 32 << 10;

/// Most bytes of one write, so that one call stays in the order of a millisecond.
const MAX_WRITE_BYTES: usize = 4 << 20;

/// Chains being written to a sink.
#[derive(Debug, Default)]
pub(super) struct Batch {
    ram: Option<Arc<GuestRam>>,
    chains: VecDeque<Chain>,
    walking: Option<Walk>,
    pieces: VecDeque<Piece>,
    finished: VecDeque<u16>,
    open_chains: usize,
}

/// A chain that is being taken apart.
#[derive(Debug)]
struct Walk {
    head: u16,
    rest: DescriptorChainRwIter<Arc<GuestRam>>,
}

/// A step on the way through the chains.
#[derive(Clone, Copy, Debug)]
enum Piece {
    /// Bytes to write: within one region of RAM, never empty.
    Data { address: GuestAddress, length: usize },
    /// All of the chain that starts at `head` is written.
    End { head: u16 },
}

impl Batch {
    /// Adds a chain that points into `ram`.
    pub(super) fn push(&mut self, chain: Chain, ram: &Arc<GuestRam>) {
        self.ram.get_or_insert_with(|| Arc::clone(ram));
        self.chains.push_back(chain);
        self.open_chains += 1;
    }

    /// Chains that were added and not yet returned by [`pop_finished`](Self::pop_finished).
    pub(super) fn open_chains(&self) -> usize {
        self.open_chains
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open_chains == 0
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The head of the next chain of which all is written.
    pub(super) fn pop_finished(&mut self) -> Option<u16> {
        let head = self.finished.pop_front()?;
        self.open_chains -= 1;
        Some(head)
    }

    /// Writes once, and keeps what `sink` did not take; returns how many bytes it took.
    pub(super) fn write_to(
        &mut self,
        sink: &mut dyn Write,
        counters: &Counters,
    ) -> io::Result<usize> {
        self.walk(counters);
        let Some(ram) = &self.ram else { return Ok(0) };
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let (count, total) = self.slices(ram, &mut slices);
        if total == 0 {
            return Ok(0);
        }
        let written = sink.write_vectored(&slices[..count])?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        let written = written.min(total);
        self.advance(written);
        Ok(written)
    }

    /// Drops what could be written; returns how many bytes that were.
    pub(super) fn discard(&mut self, counters: &Counters) -> usize {
        self.walk(counters);
        let length = |piece: &Piece| match piece {
            Piece::Data { length, .. } => *length,
            Piece::End { .. } => 0,
        };
        let bytes = self.pieces.iter().map(length).sum();
        self.advance(bytes);
        bytes
    }

    /// Takes chains apart until there is enough for a write.
    fn walk(&mut self, counters: &Counters) {
        let Some(ram) = &self.ram else { return };
        while self.pieces.len() < MAX_SLICES {
            let Some(walk) = self.walking.as_mut() else {
                let Some(chain) = self.chains.pop_front() else { break };
                let head = chain.head_index();
                self.walking = Some(Walk { head, rest: chain.readable() });
                continue;
            };
            if let Some(descriptor) = walk.rest.next() {
                if resolve(ram, descriptor, &mut self.pieces) {
                    continue;
                }
                counters.guest_error();
            }
            // The end of the chain, or of what of it can be trusted.
            self.pieces.push_back(Piece::End { head: walk.head });
            self.walking = None;
        }
        self.advance(0);
    }

    /// The next write: how many slices were filled in, and how many bytes they hold.
    fn slices<'a>(&self, ram: &'a GuestRam, slices: &mut [IoSlice<'a>]) -> (usize, usize) {
        let (mut count, mut total) = (0, 0);
        for piece in &self.pieces {
            let Piece::Data { address, length } = *piece else { continue };
            let length = length.min(MAX_WRITE_BYTES - total);
            let Some(slice) = slices.get_mut(count).filter(|_| total < ENOUGH_BYTES) else { break };
            // `resolve` has found this range in one region, and regions stay.
            let Ok(memory) = ram.get_slice(address, length) else { break };
            // SAFETY: `memory` is `length` mapped bytes that stay mapped while `ram` is
            // borrowed, which 'a says. Any value is a valid byte. The guest may write them while
            // the sink reads: it is outside this program, like another process that shares the
            // mapping, and `PortSpec::sink` demands that a sink trusts no byte it has not copied.
            *slice = IoSlice::new(unsafe {
                std::slice::from_raw_parts(memory.ptr_guard().as_ptr(), length)
            });
            count += 1;
            total += length;
        }
        (count, total)
    }

    /// Moves on by `bytes`, and past all ends that come next.
    fn advance(&mut self, mut bytes: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            match piece {
                Piece::End { head } => self.finished.push_back(*head),
                Piece::Data { length, .. } if *length <= bytes => bytes -= *length,
                Piece::Data { address, length } => {
                    address.0 += bytes as u64;
                    *length -= bytes;
                    return;
                }
            }
            self.pieces.pop_front();
        }
    }
}

/// Appends what `descriptor` covers, region by region; false if it is not all in RAM.
fn resolve(ram: &GuestRam, descriptor: Descriptor, pieces: &mut VecDeque<Piece>) -> bool {
    let mut address = descriptor.addr();
    let length = descriptor.len() as usize;
    if !ram.check_range(address, length) {
        return false;
    }
    for region in ram.get_slices(address, length).flatten() {
        pieces.push_back(Piece::Data { address, length: region.len() });
        address.0 += region.len() as u64;
    }
    true
}
