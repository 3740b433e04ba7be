// SPDX-License-Identifier: Apache-2.0
//! The registers of virtio-pci, after the kernel has found the function and enabled its MSI-X.

use std::io;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Registers, access};
use crate::bus::BusDevice;
use crate::devices::pci::PciFunction;
use crate::memory::GuestRam;
use crate::msi::{Message, MsiRouter};
use crate::virtio::common::Common;
use crate::virtio::device::VirtioDevice;
use crate::virtio::pci::{BAR_BYTES, NOTIFY_OFFSET, NOTIFY_STRIDE, PciTransport};
use crate::virtio::queue_setup::{Half, QueueField};
use crate::virtio::testing::Lcg;

pub(in crate::virtio) const BASE: u32 = 0xd000_0000;

/// Takes every message.
struct Router;

impl MsiRouter for Router {
    fn route(&mut self, _gsi: u32, _message: Message) -> io::Result<()> {
        Ok(())
    }
}

/// As after power-on.
pub(in crate::virtio) fn new(ram: GuestRam, device: Box<dyn VirtioDevice>) -> PciTransport {
    let events = std::array::from_fn(|_| EventFd::new(EFD_NONBLOCK).unwrap());
    PciTransport::new(ram, device, BASE, events, Box::new(Router))
}

/// As the kernel's probe leaves it: memory space enabled, both messages set up.
pub(super) fn probed(ram: GuestRam, device: Box<dyn VirtioDevice>) -> PciTransport {
    let mut transport = new(ram, device);
    transport.bring_up();
    transport
}

/// Reads a register of `width` bytes.
pub(in crate::virtio) fn get(transport: &mut PciTransport, offset: u64, width: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes[..width].fill(0xff);
    transport.read(offset, &mut bytes[..width]);
    u32::from_le_bytes(bytes)
}

/// Writes a register of `width` bytes.
pub(in crate::virtio) fn set(transport: &mut PciTransport, offset: u64, width: usize, value: u32) {
    transport.write(offset, &value.to_le_bytes()[..width]);
}

/// Where a field is, and how wide.
fn place(field: QueueField) -> (u64, usize) {
    match field {
        QueueField::Size => (24, 2),
        QueueField::Ready => (28, 2),
        QueueField::Table(Half::Low) => (32, 4),
        QueueField::Table(Half::High) => (36, 4),
        QueueField::Driver(Half::Low) => (40, 4),
        QueueField::Driver(Half::High) => (44, 4),
        QueueField::Device(Half::Low) => (48, 4),
        QueueField::Device(Half::High) => (52, 4),
    }
}

impl Registers for PciTransport {
    fn common(&self) -> &Common {
        self.common()
    }

    fn bring_up(&mut self) {
        self.write_config(0x10, &BASE.to_le_bytes());
        self.write_config(4, &[6, 0]);
        for vector in 0..2 {
            for (word, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x40 + vector), (12, 0)] {
                set(self, 0x1000 + 16 * u64::from(vector) + word, 4, value);
            }
        }
        // Message control, of the first capability.
        self.write_config(0x42, &[0x01, 0x80]);
    }

    fn status(&mut self) -> u32 {
        get(self, 20, 1)
    }

    fn set_status(&mut self, status: u32) {
        set(self, 20, 1, status);
    }

    fn offered_features(&mut self, page: u32) -> u32 {
        set(self, 0, 4, page);
        get(self, 4, 4)
    }

    fn choose_features(&mut self, page: u32, bits: u32) {
        set(self, 8, 4, page);
        set(self, 12, 4, bits);
    }

    fn select_queue(&mut self, index: u32) {
        set(self, 22, 2, index);
    }

    fn queue_max(&mut self) -> u32 {
        get(self, 24, 2)
    }

    fn queue_ready(&mut self) -> u32 {
        get(self, 28, 2)
    }

    fn write_queue(&mut self, field: QueueField, value: u32) {
        let (offset, width) = place(field);
        set(self, offset, width, value);
    }

    fn map_configuration(&mut self) {
        set(self, 16, 2, 0);
        assert_eq!(get(self, 16, 2), 0);
    }

    fn map_queue(&mut self) {
        set(self, 26, 2, 1);
        assert_eq!(get(self, 26, 2), 1);
    }

    fn ring_bell(&mut self, queue: u32) {
        // As the driver does: the queue's own address, its index in 16 bits.
        set(self, NOTIFY_OFFSET + NOTIFY_STRIDE * u64::from(queue), 2, queue);
    }

    fn interrupt_status(&mut self) -> u32 {
        get(self, 0x100, 1)
    }

    fn configuration(&self) -> u64 {
        0x200
    }

    fn attack(&mut self, random: &mut Lcg, values: &[u32]) {
        let (offset, width) = match random.below(8) {
            0 => (random.next() << 33 | random.next(), 4),
            1 => (random.below(BAR_BYTES.into()), 4),
            2 => (20, 1),
            3 => random.pick(&[(0x100, 1), (0x1000, 4), (0x101c, 4), (0x1800, 8), (0x404, 2)]),
            4 => {
                attack_configuration(self, random, values);
                return;
            }
            5 => (16 + 2 * random.below(8), 2),
            _ => (4 * random.below(16), 4),
        };
        access(self, random, values, (offset, width));
    }
}

/// An access as the bus lets it through: within a doubleword. The window into the BAR, and what
/// switches the function off, are met more often than the rest.
fn attack_configuration(transport: &mut PciTransport, random: &mut Lcg, values: &[u32]) {
    let register = match random.below(4) {
        0 => 4 * random.below(64),
        1 => random.pick(&[0x04, 0x10, 0x40]),
        _ => 0x90 + 4 * random.below(5),
    };
    let byte = random.below(4);
    let length = usize::try_from(1 + random.below(4 - byte)).unwrap();
    let offset = u8::try_from(register + byte).unwrap();
    // Offsets and lengths that the window can have.
    let small = u32::try_from(random.below(0x80)).unwrap();
    let any = random.pick(values);
    let value = random.pick(&[any, small, 1, 2, 4, BAR_BYTES - 4]);
    let mut data = value.to_le_bytes();
    if random.below(3) == 0 {
        transport.read_config(offset, &mut data[..length]);
    } else {
        transport.write_config(offset, &data[..length]);
    }
}
