// SPDX-License-Identifier: Apache-2.0
//! The virtio-mmio register file, version 2 (virtio 1.2, 4.2).
//!
//! The driver's side is drivers/virtio/virtio_mmio.c. Registers below 0x100 are 32 bits wide
//! and are accessed as such; any other access reads zero, writes nothing and is counted.

use virtio_bindings::bindings::virtio_mmio::*;

use super::common::Common;
use super::device::VirtioDevice;
use super::interrupt::Interrupt;
use super::queue_setup::{Half, QueueField};
use crate::bus::BusDevice;
use crate::memory::GuestRam;

/// Size of a device's MMIO window: registers and the configuration space.
pub const MMIO_WINDOW_BYTES: u64 = 0x200;

/// Offset of QueueNotify in the window: where the ioeventfds are to be registered.
pub const QUEUE_NOTIFY_OFFSET: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// "virt", little-endian.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// 2: not the legacy interface.
const VERSION: u32 = 2;

/// Any value: Linux only shows it. "SVMM", little-endian.
const VENDOR: u32 = u32::from_le_bytes(*b"SVMM");

/// A device behind virtio-mmio registers.
pub struct MmioTransport {
    common: Common,
}

impl MmioTransport {
    /// Puts registers in front of `device`.
    #[must_use]
    pub fn new(ram: GuestRam, device: Box<dyn VirtioDevice>, interrupt: Interrupt) -> Self {
        Self { common: Common::new(ram, device, interrupt) }
    }

    /// The device and what its driver has made of it. The ioeventfds belong on
    /// [`QUEUE_NOTIFY_OFFSET`], 4 bytes wide, with the queue's index as datamatch.
    #[must_use]
    pub fn common(&self) -> &Common {
        &self.common
    }

    fn read_register(&mut self, register: u32) -> u32 {
        let common = &mut self.common;
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => common.device().id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => common.device_features(),
            VIRTIO_MMIO_QUEUE_NUM_MAX => common.queue().map_or(0, |queue| queue.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => common.read_queue(QueueField::Ready),
            VIRTIO_MMIO_INTERRUPT_STATUS => common.interrupt().status(),
            VIRTIO_MMIO_STATUS => common.status(),
            // No shared memory regions: length and base of any are all ones (4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            VIRTIO_MMIO_CONFIG_GENERATION => common.interrupt().config_generation(),
            _ => {
                common.invalid_accesses += 1;
                0
            }
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        let common = &mut self.common;
        let allowed = match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => {
                common.device_features_page = value;
                true
            }
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => {
                common.driver_features_page = value;
                true
            }
            VIRTIO_MMIO_DRIVER_FEATURES => common.write_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => {
                common.queue_select = value;
                true
            }
            VIRTIO_MMIO_QUEUE_NOTIFY => common.notify(value as usize),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                common.interrupt().acknowledge(value);
                true
            }
            VIRTIO_MMIO_STATUS => common.write_status(value),
            // There is no shared memory region to select.
            VIRTIO_MMIO_SHM_SEL => true,
            _ => queue_field(register).is_some_and(|field| common.write_queue(field, value)),
        };
        common.invalid_accesses += u64::from(!allowed);
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            self.common.read_config(offset, data);
            return;
        }
        match (register(offset), <&mut [u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => *data = self.read_register(register).to_le_bytes(),
            _ => self.common.invalid_accesses += 1,
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= VIRTIO_MMIO_CONFIG.into() {
            // Nothing in a configuration space of ours is the driver's to write.
            self.common.invalid_accesses += 1;
            return;
        }
        match (register(offset), <[u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => self.write_register(register, u32::from_le_bytes(data)),
            _ => self.common.invalid_accesses += 1,
        }
    }
}

/// The register at `offset`, if one can begin there.
fn register(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|register| register.is_multiple_of(4))
}

/// The writable register of a queue at `register`.
fn queue_field(register: u32) -> Option<QueueField> {
    Some(match register {
        VIRTIO_MMIO_QUEUE_NUM => QueueField::Size,
        VIRTIO_MMIO_QUEUE_READY => QueueField::Ready,
        VIRTIO_MMIO_QUEUE_DESC_LOW => QueueField::Table(Half::Low),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => QueueField::Table(Half::High),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => QueueField::Driver(Half::Low),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => QueueField::Driver(Half::High),
        VIRTIO_MMIO_QUEUE_USED_LOW => QueueField::Device(Half::Low),
        VIRTIO_MMIO_QUEUE_USED_HIGH => QueueField::Device(Half::High),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
