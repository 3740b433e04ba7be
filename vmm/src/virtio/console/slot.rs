// SPDX-License-Identifier: Apache-2.0
//! The transmit ring of a generic port.

use crate::virtio::ring::Ring;

/// The transmit ring of a generic port, between the thread that resets the device and the one
/// that works through the ring.
#[derive(Debug, Default)]
pub(super) struct TransmitSlot {
    pub(super) ring: Option<Ring>,
    /// Changes with every reset and activation: chains of another generation are not returned.
    pub(super) generation: u64,
    /// Chains that the worker has popped and not yet returned.
    pub(super) in_flight: usize,
}

impl TransmitSlot {
    /// The driver is ready (or gone: `None`). Chains in flight are the worker's to forget.
    pub(super) fn replace(&mut self, ring: Option<Ring>) {
        self.ring = ring;
        self.generation += 1;
        self.in_flight = 0;
    }

    /// Whether all that the guest has sent was written.
    pub(super) fn drained(&self) -> bool {
        self.in_flight == 0 && self.ring.as_ref().is_none_or(Ring::is_empty)
    }
}
