// SPDX-License-Identifier: Apache-2.0
//! Devices on their way into a machine: onto its buses, and their events to KVM.

use std::io::Write;
use std::sync::{Arc, Mutex};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::Buses;
use crate::devices::pci::{PciBus, SharedFunction};
use crate::devices::serial::Serial;
use crate::error::BuildError;
use crate::kvm::failed;
use crate::memory::GuestRam;
use crate::msi::KvmRoutes;
use crate::virtio::mmio::QUEUE_NOTIFY_OFFSET;
use crate::virtio::pci::{BAR_BYTES, MSI_GSI, NOTIFY_OFFSET, NOTIFY_STRIDE};
use crate::virtio::{Interrupt, MmioTransport, PciTransport, VirtioDevice};
use crate::x86_64::acpi::MmioSlot;
use crate::x86_64::layout;

/// Where the console is among virtio-mmio devices.
pub const CONSOLE_SLOT: MmioSlot =
    MmioSlot { base: layout::narrow(layout::VIRTIO_MMIO.0), gsi: layout::VIRTIO_MMIO_GSI };
/// Where its registers are on a PCI bus.
pub const PCI_WINDOW: u32 = layout::narrow(layout::PCI_WINDOW.0);

/// An eventfd that raises `gsi`.
fn irqfd(vm: &VmFd, gsi: u32) -> Result<EventFd, BuildError> {
    let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(BuildError::EventFd)?;
    vm.register_irqfd(&event, gsi).map_err(failed("KVM_IRQFD"))?;
    Ok(event)
}

/// A 16550 on the port bus.
pub fn serial(vm: &VmFd, buses: &mut Buses, sink: Box<dyn Write + Send>) -> Result<(), BuildError> {
    let serial = Arc::new(Mutex::new(Serial::new(irqfd(vm, layout::SERIAL_GSI)?, sink)));
    buses.pio.insert(layout::SERIAL_PORT.into(), layout::SERIAL_PORTS.into(), serial)?;
    Ok(())
}

/// `device` behind virtio-mmio registers.
pub fn mmio_device(
    vm: &VmFd,
    buses: &mut Buses,
    ram: &GuestRam,
    device: Box<dyn VirtioDevice>,
) -> Result<(), BuildError> {
    let interrupt = Interrupt::line(irqfd(vm, CONSOLE_SLOT.gsi)?);
    let transport = MmioTransport::new(ram.clone(), device, interrupt);
    let base = u64::from(CONSOLE_SLOT.base);
    let notify = IoEventAddress::Mmio(base + QUEUE_NOTIFY_OFFSET);
    for io_event in transport.common().io_events() {
        vm.register_ioevent(&io_event.event, &notify, io_event.queue)
            .map_err(failed("KVM_IOEVENTFD"))?;
    }
    buses.mmio.insert(base, layout::VIRTIO_MMIO_SIZE, Arc::new(Mutex::new(transport)))?;
    Ok(())
}

/// A PCI bus with `device` at 00:01.0.
pub fn pci_device(
    vm: &Arc<VmFd>,
    buses: &mut Buses,
    ram: &GuestRam,
    device: Box<dyn VirtioDevice>,
) -> Result<(), BuildError> {
    let events = [irqfd(vm, MSI_GSI)?, irqfd(vm, MSI_GSI + 1)?];
    let routes = Box::new(KvmRoutes::new(Arc::clone(vm)));
    let transport = PciTransport::new(ram.clone(), device, PCI_WINDOW, events, routes);
    let base = u64::from(PCI_WINDOW);
    for io_event in transport.common().io_events() {
        // Its BAR can be nowhere else. Where a guest takes it away and still writes there, a
        // worker looks into its queue for nothing.
        let bell = base + NOTIFY_OFFSET + NOTIFY_STRIDE * u64::from(io_event.queue);
        vm.register_ioevent(&io_event.event, &IoEventAddress::Mmio(bell), NoDatamatch)
            .map_err(failed("KVM_IOEVENTFD"))?;
    }
    let transport = Arc::new(Mutex::new(transport));
    buses.mmio.insert(base, BAR_BYTES.into(), transport.clone())?;
    let bus = Arc::new(Mutex::new(PciBus::new([transport as SharedFunction])));
    let port = layout::PCI_CONFIG_PORT.into();
    buses.pio.insert(port, layout::PCI_CONFIG_PORTS.into(), bus)?;
    Ok(())
}
