// SPDX-License-Identifier: Apache-2.0
//! What a driver writes where: the registers of each transport, by their meaning.

use virtio_bindings::bindings::virtio_mmio::*;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Lcg;
use crate::bus::BusDevice;
use crate::config::Transport;
use crate::memory::GuestRam;
use crate::virtio::common::Common;
use crate::virtio::device::VirtioDevice;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::mmio::{MMIO_WINDOW_BYTES, MmioTransport};
use crate::virtio::queue_setup::{Half, QueueField};

pub(in crate::virtio) mod pci;

/// A transport as its driver uses it.
pub(in crate::virtio) trait Registers: BusDevice {
    fn common(&self) -> &Common;
    /// What the kernel does before a driver, at any time.
    fn bring_up(&mut self) {}
    fn status(&mut self) -> u32;
    fn set_status(&mut self, status: u32);
    fn offered_features(&mut self, page: u32) -> u32;
    fn choose_features(&mut self, page: u32, bits: u32);
    fn select_queue(&mut self, index: u32);
    fn queue_max(&mut self) -> u32;
    fn queue_ready(&mut self) -> u32;
    fn write_queue(&mut self, field: QueueField, value: u32);
    /// Gives the configuration and the selected queue their interrupts, after each reset.
    fn map_configuration(&mut self) {}
    fn map_queue(&mut self) {}
    fn ring_bell(&mut self, queue: u32);
    /// Reads what the interrupt was for.
    fn interrupt_status(&mut self) -> u32;
    /// Where the device's configuration is.
    fn configuration(&self) -> u64;
    /// One access somewhere, of some width.
    fn attack(&mut self, random: &mut Lcg, values: &[u32]);
}

pub(super) fn new(
    transport: Transport,
    ram: GuestRam,
    device: Box<dyn VirtioDevice>,
) -> Box<dyn Registers> {
    match transport {
        Transport::Mmio => {
            let interrupt = Interrupt::line(EventFd::new(EFD_NONBLOCK).unwrap());
            Box::new(MmioTransport::new(ram, device, interrupt))
        }
        Transport::Pci => Box::new(pci::probed(ram, device)),
    }
}

/// A read or write, as the numbers have it, of any width up to 8 at `offset`.
pub(super) fn access(
    device: &mut (impl BusDevice + ?Sized),
    random: &mut Lcg,
    values: &[u32],
    (offset, width): (u64, u64),
) {
    let length = if random.below(8) == 0 { random.below(9) } else { width };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&random.pick(values).to_le_bytes());
    let bytes = &mut bytes[..usize::try_from(length).unwrap()];
    if random.below(4) == 0 {
        device.read(offset, bytes);
    } else {
        device.write(offset, bytes);
    }
}

impl MmioTransport {
    pub(in crate::virtio) fn get(&mut self, register: u32) -> u32 {
        let mut bytes = [0xff; 4];
        self.read(register.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(in crate::virtio) fn set(&mut self, register: u32, value: u32) {
        self.write(register.into(), &value.to_le_bytes());
    }
}

impl Registers for MmioTransport {
    fn common(&self) -> &Common {
        self.common()
    }

    fn status(&mut self) -> u32 {
        self.get(VIRTIO_MMIO_STATUS)
    }

    fn set_status(&mut self, status: u32) {
        self.set(VIRTIO_MMIO_STATUS, status);
    }

    fn offered_features(&mut self, page: u32) -> u32 {
        self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, page);
        self.get(VIRTIO_MMIO_DEVICE_FEATURES)
    }

    fn choose_features(&mut self, page: u32, bits: u32) {
        self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
        self.set(VIRTIO_MMIO_DRIVER_FEATURES, bits);
    }

    fn select_queue(&mut self, index: u32) {
        self.set(VIRTIO_MMIO_QUEUE_SEL, index);
    }

    fn queue_max(&mut self) -> u32 {
        self.get(VIRTIO_MMIO_QUEUE_NUM_MAX)
    }

    fn queue_ready(&mut self) -> u32 {
        self.get(VIRTIO_MMIO_QUEUE_READY)
    }

    fn write_queue(&mut self, field: QueueField, value: u32) {
        let register = match field {
            QueueField::Size => VIRTIO_MMIO_QUEUE_NUM,
            QueueField::Ready => VIRTIO_MMIO_QUEUE_READY,
            QueueField::Table(Half::Low) => VIRTIO_MMIO_QUEUE_DESC_LOW,
            QueueField::Table(Half::High) => VIRTIO_MMIO_QUEUE_DESC_HIGH,
            QueueField::Driver(Half::Low) => VIRTIO_MMIO_QUEUE_AVAIL_LOW,
            QueueField::Driver(Half::High) => VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
            QueueField::Device(Half::Low) => VIRTIO_MMIO_QUEUE_USED_LOW,
            QueueField::Device(Half::High) => VIRTIO_MMIO_QUEUE_USED_HIGH,
        };
        self.set(register, value);
    }

    fn ring_bell(&mut self, queue: u32) {
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    }

    fn interrupt_status(&mut self) -> u32 {
        self.get(VIRTIO_MMIO_INTERRUPT_STATUS)
    }

    fn configuration(&self) -> u64 {
        VIRTIO_MMIO_CONFIG.into()
    }

    fn attack(&mut self, random: &mut Lcg, values: &[u32]) {
        let offset = match random.below(8) {
            0 => random.next() << 33 | random.next(),
            1 => random.below(MMIO_WINDOW_BYTES),
            2 => VIRTIO_MMIO_STATUS.into(),
            _ => 4 * random.below(0x44),
        };
        access(self, random, values, (offset, 4));
    }
}
