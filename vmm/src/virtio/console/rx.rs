// SPDX-License-Identifier: Apache-2.0
//! Host to guest: bytes wait here until the guest has opened the port and posted buffers.

use std::collections::VecDeque;

use super::counters::Counters;
use crate::virtio::ring::{self, Budget, Ring};

/// Most bytes that wait for one port. We send the guest commands, not bulk data.
pub const MAX_PENDING_BYTES: usize = 64 << 10;

/// The receiving side of one port. Everything here is a short copy: callers on any thread may
/// deliver, so there is no thread to wake.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    ring: Option<Ring>,
    guest_open: bool,
    pending: VecDeque<u8>,
}

impl Receiver {
    /// The driver is ready. Without MULTIPORT there is nobody to say "open": it always is.
    pub(super) fn attach(&mut self, ring: Option<Ring>, guest_open: bool) {
        self.ring = ring;
        self.guest_open = guest_open;
    }

    /// The driver is gone. What it has not seen stays for the next one.
    pub(super) fn detach(&mut self) {
        self.ring = None;
        self.guest_open = false;
    }

    /// Whether a program in the guest holds the port open.
    pub(super) fn guest_open(&self) -> bool {
        self.guest_open
    }

    pub(super) fn set_guest_open(&mut self, open: bool) {
        self.guest_open = open;
    }

    /// Bytes that wait.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Appends all of `bytes` or nothing; false if they do not fit.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= MAX_PENDING_BYTES - self.pending.len();
        if fits {
            self.pending.extend(bytes);
        }
        fits
    }

    /// Fills the guest's buffers. The driver throws away what arrives while nobody has the port
    /// open (in_intr in drivers/char/virtio_console.c), so nothing is sent before. What is beyond
    /// the budget, which only a driver that posts useless buffers gets to, goes out with the next
    /// bytes to send.
    pub(super) fn deliver(&mut self, counters: &Counters, budget: &mut Budget) {
        let Some(ring) = self.ring.as_mut().filter(|_| self.guest_open) else { return };
        loop {
            let (front, _) = self.pending.as_slices();
            if front.is_empty() || !budget.has_bytes() || !budget.chain() {
                break;
            }
            let Some(chain) = ring.pop_or_wait() else { break };
            let head = chain.head_index();
            let written = ring::scatter(&chain, front, budget);
            budget.bytes(written);
            if written == 0 {
                counters.guest_error();
            }
            self.pending.drain(..written);
            // At most MAX_PENDING_BYTES.
            ring.complete(head, u32::try_from(written).unwrap_or(u32::MAX));
        }
        ring.notify_driver();
    }
}
