// SPDX-License-Identifier: Apache-2.0
//! Port and MMIO buses: an address, a device, nothing else.

use std::sync::{Arc, Mutex};

/// A device that answers reads and writes at an offset into its range.
///
/// Called on vCPU threads with the guest's own offset and length: an implementation checks
/// both and never panics.
pub trait BusDevice: Send {
    /// Fills `data` from `offset`. The bus has filled it with 0xff beforehand.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`, written at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device shared between the bus and its other users.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;
