// SPDX-License-Identifier: Apache-2.0
//! The queue registers: written one by one, judged together at DRIVER_OK.

use thiserror::Error;
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

/// Half of a 64-bit address: no transport writes more than 32 bits at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Low,
    High,
}

/// What a driver says of a queue: the registers of both transports, by their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueField {
    /// QueueNum, `queue_size`: entries.
    Size,
    /// QueueReady, `queue_enable`.
    Ready,
    /// QueueDesc, `queue_desc`.
    Table(Half),
    /// QueueDriver, `queue_driver`.
    Driver(Half),
    /// QueueDevice, `queue_device`.
    Device(Half),
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
    /// A queue as it is after reset: of its largest size (`queue_size`, virtio 1.2, 4.1.4.3).
    pub(super) fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size.into(), ready: false, table: 0, driver: 0, device: 0 }
    }

    /// QueueNumMax.
    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }

    /// True if the driver uses it.
    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    /// What was written.
    pub(super) fn read(&self, field: QueueField) -> u32 {
        match field {
            QueueField::Size => self.size,
            QueueField::Ready => self.ready.into(),
            QueueField::Table(half) => read_half(self.table, half),
            QueueField::Driver(half) => read_half(self.driver, half),
            QueueField::Device(half) => read_half(self.device, half),
        }
    }

    /// Takes one field; false if it is not to be written now.
    pub(super) fn write(&mut self, field: QueueField, value: u32) -> bool {
        if field == QueueField::Ready {
            self.ready = value & 1 != 0;
            return true;
        }
        // A ready queue has left the driver's hands (4.1.4.3.2, 4.2.2.2).
        if self.ready {
            return false;
        }
        match field {
            QueueField::Size | QueueField::Ready => self.size = value,
            QueueField::Table(half) => write_half(&mut self.table, half, value),
            QueueField::Driver(half) => write_half(&mut self.driver, half, value),
            QueueField::Device(half) => write_half(&mut self.device, half, value),
        }
        true
    }

    /// The queue that was described, if it is one.
    pub(super) fn build(&self, index: usize, ram: &GuestRam) -> Result<Queue, ActivationError> {
        let queue = self.described().map_err(|source| ActivationError::Layout { index, source })?;
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

    /// The queue as the driver described it, not yet checked against RAM.
    fn described(&self) -> Result<Queue, virtio_queue::Error> {
        let mut queue = Queue::new(self.max_size)?;
        // A size that is no u16 is as invalid as 0 is.
        queue.try_set_size(u16::try_from(self.size).unwrap_or(0))?;
        queue.try_set_desc_table_address(GuestAddress(self.table))?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
        queue.try_set_used_ring_address(GuestAddress(self.device))?;
        queue.set_ready(true);
        Ok(queue)
    }
}

fn read_half(address: u64, half: Half) -> u32 {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    u32::from_le_bytes(match half {
        Half::Low => [a, b, c, d],
        Half::High => [e, f, g, h],
    })
}

fn write_half(address: &mut u64, half: Half, value: u32) {
    *address = match half {
        Half::Low => *address & !0xffff_ffff | u64::from(value),
        Half::High => *address & 0xffff_ffff | u64::from(value) << 32,
    };
}
