// SPDX-License-Identifier: Apache-2.0
//! Modern virtio over PCI (virtio 1.2, 4.1), with MSI-X and without INTx.
//!
//! The driver's side is drivers/virtio/virtio_pci_modern.c. All registers lie in one BAR:
//!
//! ```text
//!  BAR 0   0x0000  common configuration      0x0100  ISR status
//!          0x0200  device configuration      0x0400  notifications, 4 bytes a queue
//!          0x1000  MSI-X table               0x1800  MSI-X pending bits
//! ```
//!
//! The MSI-X structures have a page of their own, as they must (PCI Local Bus 3.0, 6.8.2). A
//! register takes accesses of its own width (virtio 1.2, 4.1.3.1); any other access reads zero,
//! writes nothing and is counted.
//!
//! # Where the BAR is
//!
//! The host bridge forwards one window, just as large as the BAR, which is therefore in its place
//! or nowhere. Elsewhere, or without memory space enabled, the device does not answer.

pub(super) mod msix;

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::eventfd::EventFd;

use self::msix::{Messages, NO_VECTOR, PENDING_BYTES, TABLE_BYTES, VECTORS};
use super::common::Common;
use super::device::VirtioDevice;
use super::interrupt::Interrupt;
use super::queue_setup::{Half, QueueField};
use super::source::Source;
use crate::bus::BusDevice;
use crate::devices::pci::{ConfigSpace, Identity, PciFunction};
use crate::memory::GuestRam;
use crate::msi::{FIRST_GSI, MsiRouter};

/// Size of the BAR: two pages.
pub const BAR_BYTES: u32 = 0x2000;

/// Global system interrupt of the first message; the others follow.
pub const MSI_GSI: u32 = FIRST_GSI;

/// Where the bell of queue 0 is in the BAR. That of queue n is `n * NOTIFY_STRIDE` further: the
/// ioeventfds are to be registered there, for any value.
pub const NOTIFY_OFFSET: u64 = 0x400;
/// `notify_off_multiplier`: an address for each queue, so that KVM need not look at what is
/// written.
pub const NOTIFY_STRIDE: u64 = 4;

const COMMON_OFFSET: u64 = 0;
/// Up to and including `queue_device`: what follows is for features that are not offered.
const COMMON_BYTES: u64 = 56;
const ISR_OFFSET: u64 = 0x100;
const DEVICE_OFFSET: u64 = 0x200;
const TABLE_OFFSET: u64 = 0x1000;
const PENDING_OFFSET: u64 = 0x1800;

/// PCI vendor ID of all virtio devices.
const VENDOR: u16 = 0x1af4;
/// PCI device ID of virtio device 0 (4.1.2.1).
const FIRST_DEVICE: u16 = 0x1040;
/// No less for devices without the legacy interface (4.1.2.1).
const SUBSYSTEM: u16 = 0x40;
/// No less for devices without the legacy interface (4.1.2.1).
const REVISION: u8 = 1;
/// Class of a console: communication controller, other.
const CLASS_COMMUNICATION: u16 = 0x0780;
/// Class of other devices.
const CLASS_OTHER: u16 = 0xff00;

/// Capability IDs.
const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;

/// `cfg_type` of the vendor capabilities (4.1.4).
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;
/// `struct virtio_pci_cap`.
const CAP_BYTES: u8 = 16;

/// Message control: table size less one, then these.
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// A device behind a PCI function.
pub struct PciTransport {
    common: Common,
    config: ConfigSpace,
    base: u32,
    messages: Arc<Messages>,
    router: Box<dyn MsiRouter>,
    /// Where message control is in the configuration space.
    message_control: u8,
    /// Where VIRTIO_PCI_CAP_PCI_CFG is.
    window: u8,
}

impl PciTransport {
    /// Puts a function in front of `device`, its BAR at `base`. Writing `events[n]` is to raise
    /// GSI [`MSI_GSI`]` + n`, which `router` makes a message.
    #[must_use]
    pub fn new(
        ram: GuestRam,
        device: Box<dyn VirtioDevice>,
        base: u32,
        events: [EventFd; VECTORS],
        router: Box<dyn MsiRouter>,
    ) -> Self {
        let messages = Arc::new(Messages::new(events, device.queue_sizes().len()));
        let mut config = ConfigSpace::new(identity(device.id()));
        config.add_bar(base, BAR_BYTES);
        let message_control = add_msix(&mut config);
        let window = add_structures(&mut config, device.as_ref());
        let interrupt = Interrupt::messages(Arc::clone(&messages));
        let common = Common::new(ram, device, interrupt);
        Self { common, config, base, messages, router, message_control, window }
    }

    /// The device and what its driver has made of it. The ioeventfds belong where each queue has
    /// its bell, see [`NOTIFY_OFFSET`].
    #[must_use]
    pub fn common(&self) -> &Common {
        &self.common
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let allowed = match offset {
            COMMON_OFFSET..ISR_OFFSET => match self.common_register(offset, data.len()) {
                Some(value) => {
                    data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
                    true
                }
                None => false,
            },
            ISR_OFFSET..DEVICE_OFFSET => match (offset, &mut *data) {
                (ISR_OFFSET, [isr]) => {
                    // Two bits are all there are.
                    [*isr, ..] = self.common.interrupt().take_status().to_le_bytes();
                    true
                }
                _ => false,
            },
            DEVICE_OFFSET..NOTIFY_OFFSET => {
                self.common.read_config(offset - DEVICE_OFFSET, data);
                true
            }
            TABLE_OFFSET..PENDING_OFFSET => self.messages.read_table(offset - TABLE_OFFSET, data),
            PENDING_OFFSET.. => self.messages.read_pending(offset - PENDING_OFFSET, data),
            // A bell has nothing to tell.
            NOTIFY_OFFSET..TABLE_OFFSET => false,
        };
        self.common.invalid_accesses += u64::from(!allowed);
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let allowed = match offset {
            COMMON_OFFSET..ISR_OFFSET => self.write_common(offset, data),
            NOTIFY_OFFSET..TABLE_OFFSET => self.notify(offset - NOTIFY_OFFSET, data),
            TABLE_OFFSET..PENDING_OFFSET => {
                let written = self.messages.write_table(offset - TABLE_OFFSET, data);
                self.route();
                written
            }
            // Nothing else is the driver's to write.
            _ => false,
        };
        self.common.invalid_accesses += u64::from(!allowed);
    }

    /// The register of the common configuration (4.1.4.3) at `offset`, if it is so wide.
    fn common_register(&mut self, offset: u64, width: usize) -> Option<u32> {
        let common = &self.common;
        Some(match (offset, width) {
            (0, 4) => common.device_features_page,
            (4, 4) => common.device_features(),
            (8, 4) => common.driver_features_page,
            (12, 4) => common.driver_features(),
            (16, 2) => self.messages.vector(Source::Configuration).into(),
            (18, 2) => u32::try_from(common.queues()).ok()?,
            (20, 1) => common.status(),
            (21, 1) => common.interrupt().config_generation(),
            (22, 2) => common.queue_select,
            (24, 2) => common.read_queue(QueueField::Size),
            (26, 2) => common
                .queue_index()
                .map_or(NO_VECTOR, |index| self.messages.vector(Source::Queue(index)))
                .into(),
            (28, 2) => common.read_queue(QueueField::Ready),
            // `queue_notify_off`: each has its own bell.
            (30, 2) => common.queue_index().map_or(0, |_| common.queue_select),
            (32.., 4) => common.read_queue(address_field(offset)?),
            _ => return None,
        })
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) -> bool {
        let mut bytes = [0; 4];
        let Some(low) = bytes.get_mut(..data.len()) else { return false };
        low.copy_from_slice(data);
        let value = u32::from_le_bytes(bytes);
        let [a, b, ..] = bytes;
        let vector = u16::from_le_bytes([a, b]);
        let common = &mut self.common;
        match (offset, data.len()) {
            (0, 4) => common.device_features_page = value,
            (8, 4) => common.driver_features_page = value,
            (12, 4) => return common.write_driver_features(value),
            (16, 2) => self.messages.set_vector(Source::Configuration, vector),
            (20, 1) => return common.write_status(value),
            (22, 2) => common.queue_select = value,
            (24, 2) => return common.write_queue(QueueField::Size, value),
            (26, 2) => match common.queue_index() {
                Some(index) => self.messages.set_vector(Source::Queue(index), vector),
                None => return false,
            },
            // Once enabled a queue stays so until reset: 0 is not to be written (4.1.4.3.2).
            (28, 2) => return value == 1 && common.write_queue(QueueField::Ready, value),
            (32.., 4) => {
                return address_field(offset).is_some_and(|field| common.write_queue(field, value));
            }
            _ => return false,
        }
        true
    }

    /// The address tells which queue; the driver writes that into it as well (4.1.5.2).
    fn notify(&mut self, offset: u64, data: &[u8]) -> bool {
        if data.len() != 2 || !offset.is_multiple_of(NOTIFY_STRIDE) {
            return false;
        }
        usize::try_from(offset / NOTIFY_STRIDE).is_ok_and(|index| self.common.notify(index))
    }

    /// Makes every message that may be sent known to KVM.
    fn route(&mut self) {
        while let Some((vector, message)) = self.messages.unrouted() {
            let gsi = MSI_GSI + u32::try_from(vector).unwrap_or(0);
            if self.router.route(gsi, message).is_err() {
                // The host has no memory. All that a driver can be told is that the device is
                // broken, in its status.
                self.common.interrupt().device_needs_reset();
                return;
            }
            self.messages.routed(vector, message);
        }
    }

    /// What VIRTIO_PCI_CAP_PCI_CFG means at the moment: offset in the BAR and length.
    fn window_access(&self) -> Option<(u64, usize)> {
        let [bar] = self.config.get(self.window + 4);
        let (offset, length) = (
            window_field(8, &self.config, self.window),
            window_field(12, &self.config, self.window),
        );
        let inside = offset.checked_add(length).is_some_and(|end| end <= BAR_BYTES);
        let allowed = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length);
        (bar == 0 && inside && allowed).then_some((offset.into(), length as usize))
    }

    /// Where `pci_cfg_data` is.
    fn window_data(&self) -> u8 {
        self.window + CAP_BYTES
    }

    fn answers(&self) -> bool {
        self.config.decoded_bar() == Some(self.base)
    }
}

/// A field of the capability that is a window into the BARs.
fn window_field(at: u8, config: &ConfigSpace, window: u8) -> u32 {
    u32::from_le_bytes(config.get(window + at))
}

/// True if an access touches the `size` bytes from `start` on.
fn touches(offset: u8, length: usize, start: u8, size: usize) -> bool {
    let (offset, start) = (usize::from(offset), usize::from(start));
    offset < start + size && start < offset + length
}

impl PciFunction for PciTransport {
    fn read_config(&mut self, offset: u8, data: &mut [u8]) {
        if touches(offset, data.len(), self.window_data(), 4) {
            // Reading the data is reading the BAR (4.1.4.9.1).
            if let Some((at, length)) = self.window_access() {
                let mut bytes = [0; 4];
                self.read_bar(at, &mut bytes[..length]);
                self.config.set(self.window_data(), &bytes[..length]);
            } else {
                self.common.invalid_accesses += 1;
            }
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
        if touches(offset, data.len(), self.message_control, 2) {
            let control = u16::from_le_bytes(self.config.get(self.message_control));
            self.messages.set_control(control & MSIX_ENABLE != 0, control & MSIX_MASK_ALL != 0);
            self.route();
        }
        if touches(offset, data.len(), self.window_data(), 4) {
            if let Some((at, length)) = self.window_access() {
                let bytes: [u8; 4] = self.config.get(self.window_data());
                self.write_bar(at, &bytes[..length]);
            } else {
                self.common.invalid_accesses += 1;
            }
        }
    }
}

impl BusDevice for PciTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if self.answers() {
            self.read_bar(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if self.answers() {
            self.write_bar(offset, data);
        }
    }
}

/// The half of an address at `offset`.
fn address_field(offset: u64) -> Option<QueueField> {
    Some(match offset {
        32 => QueueField::Table(Half::Low),
        36 => QueueField::Table(Half::High),
        40 => QueueField::Driver(Half::Low),
        44 => QueueField::Driver(Half::High),
        48 => QueueField::Device(Half::Low),
        52 => QueueField::Device(Half::High),
        _ => return None,
    })
}

fn identity(virtio_id: u32) -> Identity {
    Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE + u16::try_from(virtio_id).unwrap_or(0),
        subsystem: SUBSYSTEM,
        revision: REVISION,
        class: if virtio_id == VIRTIO_ID_CONSOLE { CLASS_COMMUNICATION } else { CLASS_OTHER },
    }
}

/// Adds the MSI-X capability; returns where its message control is.
fn add_msix(config: &mut ConfigSpace) -> u8 {
    let table_size = u16::try_from(VECTORS - 1).unwrap_or(0).to_le_bytes();
    // Both structures lie in BAR 0, whose number is in the lowest bits of the offsets.
    let body = [&table_size[..], &low_word(TABLE_OFFSET), &low_word(PENDING_OFFSET)].concat();
    let control = config.add_capability(CAP_MSIX, &body) + 2;
    config.allow(control, &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes());
    control
}

fn low_word(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(0).to_le_bytes()
}

/// Adds the vendor capabilities of 4.1.4; returns where VIRTIO_PCI_CAP_PCI_CFG is.
fn add_structures(config: &mut ConfigSpace, device: &dyn VirtioDevice) -> u8 {
    let bells = NOTIFY_STRIDE * device.queue_sizes().len() as u64;
    let configuration = device.config().len() as u64;
    add_structure(CFG_COMMON, COMMON_OFFSET, COMMON_BYTES, &[], config);
    let stride = u32::try_from(NOTIFY_STRIDE).unwrap_or(0).to_le_bytes();
    add_structure(CFG_NOTIFY, NOTIFY_OFFSET, bells, &stride, config);
    add_structure(CFG_ISR, ISR_OFFSET, 1, &[], config);
    add_structure(CFG_DEVICE, DEVICE_OFFSET, configuration, &[], config);
    let window = add_structure(CFG_PCI, 0, 0, &[0; 4], config);
    // The driver's: bar, offset, length and data.
    config.allow(window + 4, &[0xff]);
    config.allow(window + 8, &[0xff; 12]);
    window
}

/// Adds the capability that tells where a structure lies; returns its place.
fn add_structure(kind: u8, offset: u64, length: u64, more: &[u8], config: &mut ConfigSpace) -> u8 {
    let capability_bytes = CAP_BYTES + u8::try_from(more.len()).unwrap_or(0);
    // cap_len, cfg_type, bar, id, padding, then offset and length.
    let head = [capability_bytes, kind, 0, 0, 0, 0];
    let body = [&head[..], &low_word(offset), &low_word(length), more].concat();
    config.add_capability(CAP_VENDOR, &body)
}

// What lies one behind the other does not overlap.
const _: () = {
    assert!(COMMON_BYTES <= ISR_OFFSET);
    assert!(TABLE_OFFSET + TABLE_BYTES as u64 <= PENDING_OFFSET);
    assert!(PENDING_OFFSET + PENDING_BYTES as u64 <= BAR_BYTES as u64);
};

#[cfg(test)]
mod tests;
