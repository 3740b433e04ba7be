// SPDX-License-Identifier: Apache-2.0
//! The queue registers: written one by one, judged together at DRIVER_OK.

use thiserror::Error;
use virtio_bindings::bindings::virtio_mmio::{
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::memory::GuestRam;

/// Why a device could not be activated with what the driver had set up.
#[derive(Debug, Error)]
pub enum ActivationError {
    /// A size or address that no queue can have.
    #[error("queue {index} cannot be set up")]
    Layout {
        /// Index of the queue.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: virtio_queue::Error,
    },
    /// A part of the queue is outside RAM.
    #[error(
        "queue {index} with {size} entries is not in RAM: \
         table {table:#x}, driver area {driver:#x}, device area {device:#x}"
    )]
    NotInRam {
        /// Index of the queue.
        index: usize,
        /// Number of its entries.
        size: u16,
        /// Guest address of the descriptor table.
        table: u64,
        /// Guest address of the driver area (available ring).
        driver: u64,
        /// Guest address of the device area (used ring).
        device: u64,
    },
}

/// What the driver has written about one queue. It means nothing until DRIVER_OK.
#[derive(Debug)]
pub(super) struct QueueSetup {
    max_size: u16,
    size: u32,
    ready: bool,
    table: u64,
    driver: u64,
    device: u64,
}

impl QueueSetup {
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, size: 0, ready: false, table: 0, driver: 0, device: 0 }
    }

    /// QueueNumMax.
    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }

    /// QueueReady.
    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    /// Takes one register; false if it is none of a queue's or not to be written now.
    pub(super) fn write(&mut self, register: u32, value: u32) -> bool {
        if register == VIRTIO_MMIO_QUEUE_READY {
            self.ready = value & 1 != 0;
            return true;
        }
        // A ready queue has left the driver's hands (4.2.2.2).
        if self.ready {
            return false;
        }
        match register {
            VIRTIO_MMIO_QUEUE_NUM => self.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut self.table, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut self.table, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut self.driver, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut self.driver, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut self.device, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut self.device, value),
            _ => return false,
        }
        true
    }

    /// The queue that was described, if it is one.
    pub(super) fn build(&self, index: usize, ram: &GuestRam) -> Result<Queue, ActivationError> {
        let described = || {
            let mut queue = Queue::new(self.max_size)?;
            // A size that is no u16 is as invalid as 0 is.
            queue.try_set_size(u16::try_from(self.size).unwrap_or(0))?;
            queue.try_set_desc_table_address(GuestAddress(self.table))?;
            queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
            queue.try_set_used_ring_address(GuestAddress(self.device))?;
            queue.set_ready(true);
            Ok(queue)
        };
        let queue = described().map_err(|source| ActivationError::Layout { index, source })?;
        if queue.is_valid(ram) {
            return Ok(queue);
        }
        Err(ActivationError::NotInRam {
            index,
            size: queue.size(),
            table: self.table,
            driver: self.driver,
            device: self.device,
        })
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}
