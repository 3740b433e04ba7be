// SPDX-License-Identifier: Apache-2.0
//! Chains on their way to a sink, by way of a copy: a slice of guest memory would be one that the
//! guest changes under its reader, which no `&[u8]` may be.
//!
//! ```text
//!  chains     [ c4 c5 c6 … ]            popped, not yet walked
//!  walking       c3                     half of its descriptors are in `pieces`
//!  pieces     [ data data end(c2) data data data … ]
//!               ▲ the next byte to write
//!  finished   [ c0 c1 ]                 their `end` was passed
//!  copy       data data data            the bytes of one write
//! ```
//!
//! All are bounded. The position is kept by dropping what was written from the front, so a
//! short write, a full sink and a chain of 65,535 descriptors are all the same case.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::counters::Counters;
use crate::memory::GuestRam;
use crate::virtio::ring::Chain;

/// Most pieces looked at for one write: a list of more would take longer to make than a write of
/// short ones saves.
const MAX_PIECES: usize = 128;

/// Most bytes of one write: as many as the driver sends at once (port_fops_write in
/// drivers/char/virtio_console.c). The guest has its buffers back so much the sooner, and in the
/// emulated host the same dump in writes of 2 MiB took two to three times as long.
const MAX_WRITE_BYTES: usize = 32 << 10;

/// Most descriptors walked for one write: those of the wrong direction are no pieces, and a chain of
/// 65,535 of them is not to keep the other ports of the thread waiting.
const MAX_STEPS: usize = 4096;

/// Chains being written to a sink.
#[derive(Debug, Default)]
pub(super) struct Batch {
    ram: Option<Arc<GuestRam>>,
    chains: VecDeque<Chain>,
    walking: Option<Walk>,
    pieces: VecDeque<Piece>,
    finished: VecDeque<u16>,
    open_chains: usize,
    copy: Vec<u8>,
}

/// A chain that is being taken apart.
#[derive(Debug)]
struct Walk {
    head: u16,
    rest: Chain,
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
        self.fill();
        if self.copy.is_empty() {
            return Ok(0);
        }
        let written = sink.write(&self.copy)?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        let written = written.min(self.copy.len());
        self.advance(written);
        Ok(written)
    }

    /// Drops what could be written; returns how many bytes that were.
    pub(super) fn discard(&mut self, counters: &Counters) -> usize {
        self.walk(counters);
        let bytes = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Data { length, .. } => *length,
                Piece::End { .. } => 0,
            })
            .sum();
        self.advance(bytes);
        bytes
    }

    /// Takes chains apart until there is enough for a write.
    fn walk(&mut self, counters: &Counters) {
        let Some(ram) = &self.ram else { return };
        let mut steps = 0;
        while self.pieces.len() < MAX_PIECES && steps < MAX_STEPS {
            steps += 1;
            let Some(walk) = self.walking.as_mut() else {
                let Some(chain) = self.chains.pop_front() else { break };
                let head = chain.head_index();
                self.walking = Some(Walk { head, rest: chain });
                continue;
            };
            if let Some(descriptor) = walk.rest.next() {
                if descriptor.is_write_only() || resolve(ram, descriptor, &mut self.pieces) {
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

    /// Copies the bytes of the next write. What a sink did not take is copied again: it may be full
    /// for long, and a chain that is taken away meanwhile leaves nothing behind.
    fn fill(&mut self) {
        self.copy.clear();
        let Some(ram) = &self.ram else { return };
        for piece in &self.pieces {
            let Piece::Data { address, length } = *piece else { continue };
            let from = self.copy.len();
            let length = length.min(MAX_WRITE_BYTES - from);
            self.copy.resize(from + length, 0);
            // `resolve` has found this range in RAM, and RAM stays.
            if ram.read_slice(&mut self.copy[from..], address).is_err() {
                self.copy.truncate(from);
            }
            if self.copy.len() < from + length || self.copy.len() == MAX_WRITE_BYTES {
                return;
            }
        }
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
