// SPDX-License-Identifier: Apache-2.0
//! The virtio-mmio register file, version 2, and the status machine (virtio 1.2, 4.2 and 3.1).
//!
//! The driver's side is drivers/virtio/virtio_mmio.c. Registers below 0x100 are 32 bits wide
//! and are accessed as such; any other access reads zero, writes nothing and is counted.

use std::sync::Arc;

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_mmio::*;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::QueueT;

use super::device::{Activation, IoEvent, VirtioDevice};
use super::interrupt::Interrupt;
use super::queue_setup::{ActivationError, QueueSetup};
use super::ring::Ring;
use crate::bus::BusDevice;
use crate::memory::GuestRam;

/// Size of a device's MMIO window: registers and the configuration space.
pub const MMIO_WINDOW_BYTES: u64 = 0x200;

/// Offset of QueueNotify in the window: where the [`IoEvent`]s are to be registered.
pub const QUEUE_NOTIFY_OFFSET: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// "virt", little-endian.
const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// 2: not the legacy interface.
const VERSION: u32 = 2;

/// Any value: Linux only shows it. "SVMM", little-endian.
const VENDOR: u32 = u32::from_le_bytes(*b"SVMM");

/// What the transport offers for every device. EVENT_IDX is not optional here: without it each
/// returned buffer would be an interrupt, and each posted receive buffer an exit. INDIRECT_DESC
/// makes a spliced write of many pages one slot; without it the Linux driver loses what does
/// not fit (port_fops_splice_write in drivers/char/virtio_console.c).
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

const ACKNOWLEDGED: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = ACKNOWLEDGED | VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

/// A device behind virtio-mmio registers.
///
/// ```text
///  Status:  0 ──► ACKNOWLEDGE ──► DRIVER ──► FEATURES_OK ──► DRIVER_OK
///                                   │            │               │
///  writable registers:       DriverFeatures   Queue*      (notifications)
///
///  any ── write 0 ──► 0        any ── FAILED ──► stuck until 0
/// ```
///
/// Each step adds one bit; any other write is ignored and counted. FEATURES_OK stays clear when
/// the driver's choice is not ours to serve. With queues that are not sound, DRIVER_OK leads to
/// DEVICE_NEEDS_RESET instead of an activated device.
pub struct MmioTransport {
    ram: Arc<GuestRam>,
    device: Box<dyn VirtioDevice>,
    interrupt: Interrupt,
    status: u32,
    device_features_page: u32,
    driver_features_page: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueSetup>,
    activated: bool,
    activation_error: Option<ActivationError>,
    invalid_accesses: u64,
}

impl MmioTransport {
    /// Puts registers in front of `device`.
    #[must_use]
    pub fn new(ram: GuestRam, device: Box<dyn VirtioDevice>, interrupt: Interrupt) -> Self {
        let queues = device.queue_sizes().iter().map(|&max| QueueSetup::new(max)).collect();
        Self {
            ram: Arc::new(ram),
            device,
            interrupt,
            status: 0,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
            activated: false,
            activation_error: None,
            invalid_accesses: 0,
        }
    }

    /// The queues whose notifications are to be registered as ioeventfds on
    /// [`QUEUE_NOTIFY_OFFSET`]. All others are handled in the vCPU thread.
    #[must_use]
    pub fn io_events(&self) -> Vec<IoEvent> {
        self.device.io_events()
    }

    /// Whether the driver has set DRIVER_OK and the device works.
    #[must_use]
    pub fn activated(&self) -> bool {
        self.activated
    }

    /// Why the last DRIVER_OK did not activate the device.
    #[must_use]
    pub fn activation_error(&self) -> Option<&ActivationError> {
        self.activation_error.as_ref()
    }

    /// How many accesses the rules do not allow were ignored.
    #[must_use]
    pub fn invalid_accesses(&self) -> u64 {
        self.invalid_accesses
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | RING_FEATURES
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(self.queue_select).ok()?)
    }

    fn read_register(&mut self, register: u32) -> u32 {
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => {
                feature_page(self.offered_features(), self.device_features_page)
            }
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected().map_or(0, |queue| queue.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |queue| queue.ready().into()),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            VIRTIO_MMIO_STATUS => self.read_status(),
            // No shared memory regions: length and base of any are all ones (4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.config_generation(),
            _ => {
                self.invalid_accesses += 1;
                0
            }
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        let allowed = match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => {
                self.device_features_page = value;
                true
            }
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => {
                self.driver_features_page = value;
                true
            }
            VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => {
                self.queue_select = value;
                true
            }
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.interrupt.acknowledge(value);
                true
            }
            VIRTIO_MMIO_STATUS => self.write_status(value),
            // There is no shared memory region to select.
            VIRTIO_MMIO_SHM_SEL => true,
            _ => self.write_queue_register(register, value),
        };
        self.invalid_accesses += u64::from(!allowed);
    }

    fn write_driver_features(&mut self, value: u32) -> bool {
        if self.status != DRIVER {
            return false;
        }
        match self.driver_features_page {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
            1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
            // Linux 6.12 knows 64 feature bits; a driver that knows more writes zeros here.
            _ => return value == 0,
        }
        true
    }

    /// Queue registers are the driver's between FEATURES_OK and DRIVER_OK (3.1.1, step 7).
    fn write_queue_register(&mut self, register: u32, value: u32) -> bool {
        if self.status != FEATURES_OK {
            return false;
        }
        usize::try_from(self.queue_select)
            .ok()
            .and_then(|index| self.queues.get_mut(index))
            .is_some_and(|queue| queue.write(register, value))
    }

    fn notify(&mut self, queue: u32) -> bool {
        let index = queue as usize;
        if !self.activated || index >= self.queues.len() {
            return false;
        }
        self.device.notify(index);
        true
    }

    fn read_status(&self) -> u32 {
        let asked = if self.interrupt.needs_reset() { VIRTIO_CONFIG_S_NEEDS_RESET } else { 0 };
        self.status | asked
    }

    fn write_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        // A driver adds its bit to what it has read, and that may hold a bit of ours.
        let value = value & !VIRTIO_CONFIG_S_NEEDS_RESET;
        match (self.status, value) {
            (old, new) if old == new => true,
            (old, new) if new == old | VIRTIO_CONFIG_S_FAILED => {
                self.status = new;
                true
            }
            (0, ACKNOWLEDGED) | (ACKNOWLEDGED, DRIVER) => {
                self.status = value;
                true
            }
            (DRIVER, FEATURES_OK) => self.accept_features(),
            (FEATURES_OK, DRIVER_OK) => {
                self.activate();
                true
            }
            _ => false,
        }
    }

    /// The driver reads Status back: a bit that stayed clear means no (3.1.1, step 6).
    fn accept_features(&mut self) -> bool {
        let unknown = self.driver_features & !self.offered_features();
        let acceptable = unknown == 0 && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        if acceptable {
            self.status = FEATURES_OK;
        }
        acceptable
    }

    fn activate(&mut self) {
        self.status = DRIVER_OK;
        match self.rings() {
            Ok(rings) => {
                self.device.activate(Activation { features: self.driver_features, rings });
                self.activated = true;
                // Another vCPU may have rung a bell while this one was in the middle of
                // DRIVER_OK, when nobody was at home. Ring them all.
                for index in 0..self.queues.len() {
                    self.device.notify(index);
                }
            }
            Err(error) => {
                self.activation_error = Some(error);
                self.interrupt.device_needs_reset();
            }
        }
    }

    fn rings(&self) -> Result<Vec<Option<Ring>>, ActivationError> {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let ring = |(index, setup): (usize, &QueueSetup)| {
            if !setup.ready() {
                return Ok(None);
            }
            let mut queue = setup.build(index, &self.ram)?;
            queue.set_event_idx(event_idx);
            Ok(Some(Ring::new(queue, Arc::clone(&self.ram), self.interrupt.clone())))
        };
        self.queues.iter().enumerate().map(ring).collect()
    }

    /// Back to the state after power-on. At any time and any number of times (2.1.1).
    fn reset(&mut self) {
        self.device.reset();
        self.interrupt.reset();
        self.status = 0;
        self.device_features_page = 0;
        self.driver_features_page = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(|queue| *queue = QueueSetup::new(queue.max_size()));
        self.activated = false;
        self.activation_error = None;
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            read_config(self.device.config(), offset, data);
            return;
        }
        match (register(offset), <&mut [u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => *data = self.read_register(register).to_le_bytes(),
            _ => self.invalid_accesses += 1,
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= VIRTIO_MMIO_CONFIG.into() {
            // Nothing in a configuration space of ours is the driver's to write.
            self.invalid_accesses += 1;
            return;
        }
        match (register(offset), <[u8; 4]>::try_from(data)) {
            (Some(register), Ok(data)) => self.write_register(register, u32::from_le_bytes(data)),
            _ => self.invalid_accesses += 1,
        }
    }
}

/// The register at `offset`, if one can begin there.
fn register(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|register| register.is_multiple_of(4))
}

/// The 32 feature bits of page `page`.
fn feature_page(features: u64, page: u32) -> u32 {
    let bytes = features.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    match page {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

/// Copies what `config` has at `offset`; `data` stays zero past its end.
fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    let there = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
    if let Some(there) = there {
        let length = there.len().min(data.len());
        data[..length].copy_from_slice(&there[..length]);
    }
}

#[cfg(test)]
mod tests;
