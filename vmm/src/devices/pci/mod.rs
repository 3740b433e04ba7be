// SPDX-License-Identifier: Apache-2.0
//! A PCI bus, found and configured through two ports (configuration mechanism #1, PCI Local Bus
//! 3.0, 3.2.2.3.2).
//!
//! ```text
//!  0xcf8  CONFIG_ADDRESS   enable | bus 0 | device | function 0 | register
//!  0xcfc  CONFIG_DATA      ──► 00:00.0 host bridge, which does nothing
//!                          ──► 00:01.0 and on: what was put there
//! ```
//!
//! There is one bus, and each device is one function. Anything else reads as all ones: nobody is
//! there. One write of an address and one access of the data belong together; a kernel holds a lock
//! for that (arch/x86/pci/direct.c).

mod config_space;

use std::sync::{Arc, Mutex, PoisonError};

pub use config_space::{ConfigSpace, Identity};

use crate::bus::BusDevice;

/// Offset of the data port among the bus's ports.
const DATA: u64 = 4;
/// CONFIG_ADDRESS: an access to the data port is one to a configuration space.
const ENABLE: u32 = 1 << 31;
/// Bits of CONFIG_ADDRESS that are there. Bits 24 to 27 are AMD's way to the extended configuration
/// space (`PCI_CONF1_ADDRESS` in arch/x86/pci/direct.c), which no function has here.
const ADDRESS_MASK: u32 = 0x8fff_fffc;

/// The host bridge that QEMU's generic PCI host has: no driver binds to it, and no kernel knows a
/// quirk of it. Class: bridge, to the host.
const HOST_BRIDGE: Identity =
    Identity { vendor: 0x1b36, device: 0x0008, subsystem: 0x1100, revision: 0, class: 0x0600 };

/// A function's configuration space, as the bus accesses it.
pub trait PciFunction: Send {
    /// Fills `data` from `offset`; both lie in one doubleword.
    fn read_config(&mut self, offset: u8, data: &mut [u8]);
    /// Takes `data`, written at `offset`; both lie in one doubleword.
    fn write_config(&mut self, offset: u8, data: &[u8]);
}

impl PciFunction for ConfigSpace {
    fn read_config(&mut self, offset: u8, data: &mut [u8]) {
        self.read(offset, data);
    }

    fn write_config(&mut self, offset: u8, data: &[u8]) {
        self.write(offset, data);
    }
}

/// A function shared between the bus and its other users.
pub type SharedFunction = Arc<Mutex<dyn PciFunction>>;

/// The bus, as the device behind its eight ports.
pub struct PciBus {
    address: u32,
    devices: Vec<SharedFunction>,
}

impl PciBus {
    /// A bus with a host bridge, and `devices` from 00:01.0 on, 31 at most.
    #[must_use]
    pub fn new(devices: impl IntoIterator<Item = SharedFunction>) -> Self {
        let bridge: SharedFunction = Arc::new(Mutex::new(ConfigSpace::new(HOST_BRIDGE)));
        Self { address: 0, devices: [bridge].into_iter().chain(devices).take(32).collect() }
    }

    /// The function and the offset that an access of `length` bytes at `port` means.
    fn target(&self, port: u64, length: usize) -> Option<(&SharedFunction, u8)> {
        let [register, function, bus, extended] = self.address.to_le_bytes();
        let byte = u8::try_from(port.checked_sub(DATA)?).ok()?;
        let in_doubleword = usize::from(byte) + length <= 4;
        // Eight functions a device.
        let (device, function) = (function >> 3, function & 7);
        let there = bus == 0 && function == 0 && extended & 0x0f == 0;
        if self.address & ENABLE == 0 || !there || !in_doubleword {
            return None;
        }
        Some((self.devices.get(usize::from(device))?, register + byte))
    }
}

impl BusDevice for PciBus {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (0, Ok(data)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *data = self.address.to_le_bytes();
        } else if let Some((function, register)) = self.target(offset, data.len()) {
            lock(function).read_config(register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // Only a whole doubleword is the address: a byte at 0xcf9 is none of the bus's.
        if let (0, Ok(data)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address = u32::from_le_bytes(data) & ADDRESS_MASK;
        } else if let Some((function, register)) = self.target(offset, data.len()) {
            lock(function).write_config(register, data);
        }
    }
}

/// A panic in one access must not turn every other access into a panic.
fn lock(function: &SharedFunction) -> std::sync::MutexGuard<'_, dyn PciFunction + 'static> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Identity =
        Identity { vendor: 0x1234, device: 0x5678, subsystem: 0x9abc, revision: 7, class: 0x0780 };

    fn bus() -> (PciBus, Arc<Mutex<ConfigSpace>>) {
        let mut config = ConfigSpace::new(DEVICE);
        config.add_bar(0xd000_0000, 0x2000);
        let function = Arc::new(Mutex::new(config));
        (PciBus::new([function.clone() as SharedFunction]), function)
    }

    fn select(bus: &mut PciBus, device: u32, register: u32) {
        bus.write(0, &(ENABLE | device << 11 | register).to_le_bytes());
    }

    fn get(bus: &mut PciBus, port: u64) -> u32 {
        let mut data = [0xff; 4];
        bus.read(port, &mut data);
        u32::from_le_bytes(data)
    }

    /// `pci_check_type1` and `pci_sanity_check` of arch/x86/pci/direct.c.
    #[test]
    fn a_kernel_finds_the_ports_and_the_bridge() {
        let (mut bus, _) = bus();
        bus.write(3, &[1]);
        assert_eq!(get(&mut bus, 0), 0);
        bus.write(0, &ENABLE.to_le_bytes());
        assert_eq!(get(&mut bus, 0), ENABLE);
        assert_eq!(get(&mut bus, 4), 0x0008_1b36);
        select(&mut bus, 0, 8);
        assert_eq!(get(&mut bus, 4) >> 16, 0x0600);
        // No interrupt pin, no second function.
        select(&mut bus, 0, 0x3c);
        assert_eq!(get(&mut bus, 4), 0);
        select(&mut bus, 0, 0x0c);
        assert_eq!(get(&mut bus, 4), 0);
    }

    #[test]
    fn devices_answer_at_their_numbers_and_nobody_elsewhere() {
        let (mut bus, _) = bus();
        select(&mut bus, 1, 0);
        assert_eq!(get(&mut bus, 4), 0x5678_1234);
        let mut byte = [0];
        bus.read(6, &mut byte);
        assert_eq!(byte, [0x78]);
        for device in 2..32 {
            select(&mut bus, device, 0);
            assert_eq!(get(&mut bus, 4), u32::MAX);
        }
        // Not enabled; another bus, function, and the extended configuration space.
        let elsewhere =
            [1 << 11, ENABLE | 1 << 16, ENABLE | 1 << 11 | 1 << 8, ENABLE | 1 << 11 | 1 << 24];
        for address in elsewhere {
            bus.write(0, &u32::to_le_bytes(address));
            assert_eq!(get(&mut bus, 4), u32::MAX, "{address:#x}");
        }
        // Across the end of the register, and what is no access at all.
        select(&mut bus, 1, 0);
        for (port, length) in [(5, 4), (7, 2), (4, 8), (1, 2), (8, 1)] {
            let mut data = vec![0xff; length];
            bus.read(port, &mut data);
            assert!(data.iter().all(|byte| *byte == 0xff), "{port} {length}");
            bus.write(port, &data);
        }
    }

    #[test]
    fn the_size_of_a_bar_is_found_and_its_place_kept() {
        let (mut bus, function) = bus();
        select(&mut bus, 1, 0x10);
        assert_eq!(get(&mut bus, 4), 0xd000_0000);
        bus.write(4, &[0xff; 4]);
        assert_eq!(get(&mut bus, 4), 0xffff_e000);
        bus.write(4, &0xd000_0000u32.to_le_bytes());
        assert_eq!(function.lock().unwrap().decoded_bar(), None);
        select(&mut bus, 1, 4);
        bus.write(4, &[0xff; 2]);
        assert_eq!(get(&mut bus, 4), 0x0406);
        assert_eq!(function.lock().unwrap().decoded_bar(), Some(0xd000_0000));
        // The other BARs are none.
        for register in (0x14..0x28).step_by(4) {
            select(&mut bus, 1, register);
            bus.write(4, &[0xff; 4]);
            assert_eq!(get(&mut bus, 4), 0);
        }
    }

    #[test]
    fn capabilities_are_a_list() {
        let (mut bus, function) = bus();
        {
            let mut config = function.lock().unwrap();
            assert_eq!(config.add_capability(0x11, &[1, 2, 3]), 0x40);
            assert_eq!(config.add_capability(0x09, &[4; 18]), 0x48);
            config.allow(0x4a, &[0xf0]);
        }
        select(&mut bus, 1, 4);
        assert_eq!(get(&mut bus, 4) >> 20 & 1, 1);
        select(&mut bus, 1, 0x34);
        assert_eq!(get(&mut bus, 4), 0x40);
        select(&mut bus, 1, 0x40);
        assert_eq!(get(&mut bus, 4), 0x0201_4811);
        select(&mut bus, 1, 0x48);
        bus.write(4, &[0xff; 4]);
        assert_eq!(get(&mut bus, 4), 0x04f4_0009);
    }
}
