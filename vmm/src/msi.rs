// SPDX-License-Identifier: Apache-2.0
//! Message-signalled interrupts through KVM: which eventfd sends which message.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_IOAPIC_NUM_PINS, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

/// First interrupt that is no pin of the I/O APIC.
pub const FIRST_GSI: u32 = KVM_IOAPIC_NUM_PINS;

/// A message: a write of `data` to an address that local APICs listen to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Bits 0 to 31 of the address.
    pub address_low: u32,
    /// Bits 32 to 63 of it.
    pub address_high: u32,
    /// What is written.
    pub data: u32,
}

/// Who makes an interrupt of ours a message.
pub trait MsiRouter: Send {
    /// From now on, raising `gsi` sends `message`.
    ///
    /// # Errors
    /// The host has no memory for it.
    fn route(&mut self, gsi: u32, message: Message) -> io::Result<()>;
}

/// The routes of a virtual machine: the pins of its I/O APIC, and messages.
pub struct KvmRoutes {
    vm: Arc<VmFd>,
    messages: BTreeMap<u32, Message>,
}

impl KvmRoutes {
    /// Routes of `vm`, which has KVM's interrupt controllers.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, messages: BTreeMap::new() }
    }
}

impl MsiRouter for KvmRoutes {
    fn route(&mut self, gsi: u32, message: Message) -> io::Result<()> {
        self.messages.insert(gsi, message);
        let entries = entries(&self.messages);
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.vm.set_gsi_routing(&table).map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}

/// The whole table, which KVM only takes as such. Pins are GSIs one by one, as KVM has it before
/// anybody sets a table; those of the PIC are left out, which no kernel uses on reduced hardware.
fn entries(messages: &BTreeMap<u32, Message>) -> Vec<kvm_irq_routing_entry> {
    let pins = (0..KVM_IOAPIC_NUM_PINS).map(|pin| {
        let mut entry = kvm_irq_routing_entry {
            gsi: pin,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Default::default()
        };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin };
        entry
    });
    let messages = messages.iter().map(|(gsi, message)| {
        let mut entry =
            kvm_irq_routing_entry { gsi: *gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
        entry.u.msi = kvm_irq_routing_msi {
            address_lo: message.address_low,
            address_hi: message.address_high,
            data: message.data,
            ..Default::default()
        };
        entry
    });
    pins.chain(messages).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_keep_their_routes_beside_messages() {
        let message = Message { address_low: 0xfee0_1000, address_high: 1, data: 0x41 };
        let entries = entries(&BTreeMap::from([(FIRST_GSI + 1, message)]));
        assert_eq!(entries.len(), 25);
        for (pin, entry) in (0..24).zip(&entries) {
            // SAFETY: the type says that it is a pin.
            let chip = unsafe { entry.u.irqchip };
            assert_eq!((entry.gsi, entry.type_, chip.irqchip, chip.pin), (pin, 1, 2, pin));
        }
        // SAFETY: the type says that it is a message.
        let msi = unsafe { entries[24].u.msi };
        assert_eq!((entries[24].gsi, entries[24].type_), (25, 2));
        assert_eq!((msi.address_lo, msi.address_hi, msi.data), (0xfee0_1000, 1, 0x41));
    }
}
