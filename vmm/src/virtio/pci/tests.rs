// SPDX-License-Identifier: Apache-2.0
//! What only virtio-pci has: capabilities, its BAR, MSI-X, the window through the configuration.

use super::*;
use crate::virtio::testing::{
    ALL_FEATURES, Driver, F_VERSION_1, PCI_BASE, Registers, pci_get as get, pci_set as set,
    pci_transport, ram,
};
use crate::virtio::tests::Probe;

fn probed() -> (PciTransport, Probe) {
    let probe = Probe::default();
    let mut transport = pci_transport(ram(), Box::new(probe.clone()));
    transport.bring_up();
    (transport, probe)
}

fn config<const N: usize>(transport: &mut PciTransport, offset: u8) -> [u8; N] {
    let mut bytes = [0xff; N];
    for (at, byte) in (offset..).zip(&mut bytes) {
        let mut one = [0xff];
        transport.read_config(at, &mut one);
        *byte = one[0];
    }
    bytes
}

/// What `pci_find_capability` and `vp_modern_probe` read: ID or type, bar, offset, length.
fn capabilities(transport: &mut PciTransport) -> Vec<(u8, u8, u8, u32, u32)> {
    let mut found = Vec::new();
    let [mut at] = config(transport, 0x34);
    while at != 0 {
        let [id, next, _, kind, bar] = config(transport, at);
        let offset = u32::from_le_bytes(config(transport, at + 8));
        let length = u32::from_le_bytes(config(transport, at + 12));
        found.push((id, kind, bar, offset, length));
        at = next;
    }
    found
}

#[test]
fn a_kernel_finds_all_structures() {
    let (mut pci, _) = probed();
    assert_eq!(config(&mut pci, 0), [0xf4, 0x1a, 0x6a, 0x10]);
    // Revision, class, subsystem, and no interrupt pin.
    assert_eq!(config(&mut pci, 8), [1, 0, 0, 0xff]);
    assert_eq!(config(&mut pci, 0x2c), [0xf4, 0x1a, 0x40, 0]);
    assert_eq!(config(&mut pci, 0x3c), [0; 4]);
    let found = capabilities(&mut pci);
    let vendor = found.iter().filter(|(id, ..)| *id == 9).map(|c| (c.1, c.2, c.3, c.4));
    let vendor: Vec<_> = vendor.collect();
    assert_eq!(
        vendor,
        [(1, 0, 0, 56), (2, 0, 0x400, 8), (3, 0, 0x100, 1), (4, 0, 0x200, 6), (5, 0, 0, 0)]
    );
    // The table's size is told less one.
    assert_eq!(found[0].0, 0x11);
    assert_eq!(config(&mut pci, 0x42), [1, 0x80]);
    assert_eq!(config(&mut pci, 0x44), [0, 0x10, 0, 0, 0, 0x18, 0, 0]);
    // The multiplier behind the notification capability.
    assert_eq!(config(&mut pci, 0x5c + 16), [4, 0, 0, 0]);
    assert_eq!(pci.common().invalid_accesses(), 0);
}

#[test]
fn a_console_is_what_drivers_look_for() {
    let id = identity(VIRTIO_ID_CONSOLE);
    assert_eq!((id.vendor, id.device, id.class), (0x1af4, 0x1043, 0x0780));
}

#[test]
fn registers_take_their_own_width_only() {
    let (mut pci, probe) = probed();
    set(&mut pci, 22, 2, 1);
    assert_eq!((get(&mut pci, 18, 2), get(&mut pci, 24, 2), get(&mut pci, 30, 2)), (2, 256, 1));
    assert_eq!(get(&mut pci, 26, 2), 0xffff);
    set(&mut pci, 22, 2, 7);
    assert_eq!((get(&mut pci, 24, 2), get(&mut pci, 26, 2)), (0, 0xffff));
    assert_eq!(pci.common().invalid_accesses(), 0);
    let mut invalid = 0;
    for (offset, width) in [(0, 1), (0, 2), (2, 4), (16, 4), (18, 1), (20, 2), (20, 4), (21, 2)]
        .into_iter()
        .chain([(24, 4), (30, 4), (32, 8), (34, 4), (40, 2), (56, 2), (60, 4), (0x101, 1)])
        .chain([(0x100, 4), (0x401, 2), (0x400, 4), (0x410, 1), (0x1000, 2), (0x1808, 4)])
    {
        let mut data = vec![0xff; width];
        pci.read(offset, &mut data);
        assert_eq!(data, vec![0; width], "{offset:#x}");
        pci.write(offset, &vec![1; width]);
        invalid += 2;
        assert_eq!(pci.common().invalid_accesses(), invalid, "{offset:#x} {width}");
    }
    assert_eq!((pci.status(), probe.0.lock().unwrap().resets), (0, 0));
    // What can be read only.
    for (offset, width) in [(4, 4), (18, 2), (21, 1), (30, 2), (0x100, 1), (0x1800, 8)] {
        pci.write(offset, &vec![0xff; width]);
        invalid += 1;
        assert_eq!(pci.common().invalid_accesses(), invalid, "{offset:#x}");
    }
}

#[test]
fn nobody_answers_elsewhere_or_without_memory_space() {
    let (mut pci, _) = probed();
    assert_eq!(get(&mut pci, 18, 2), 2);
    pci.write_config(4, &[4, 0]);
    assert_eq!(get(&mut pci, 18, 2), 0xffff);
    set(&mut pci, 20, 1, 1);
    pci.write_config(4, &[6, 0]);
    assert_eq!(pci.status(), 0);
    pci.write_config(0x10, &0xe000_0000u32.to_le_bytes());
    assert_eq!(get(&mut pci, 18, 2), 0xffff);
    pci.write_config(0x10, &PCI_BASE.to_le_bytes());
    assert_eq!(get(&mut pci, 18, 2), 2);
}

#[test]
fn the_window_in_the_configuration_reaches_the_bar() {
    let (mut pci, _) = probed();
    let window = |pci: &mut PciTransport, bar: u8, offset: u32, length: u32| {
        let at = pci.window;
        pci.write_config(at + 4, &[bar]);
        pci.write_config(at + 8, &offset.to_le_bytes());
        pci.write_config(at + 12, &length.to_le_bytes());
    };
    let data = pci.window + 16;
    let read = |pci: &mut PciTransport| {
        let mut bytes = [0; 4];
        pci.read_config(data, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    // Memory space need not be enabled for it.
    pci.write_config(4, &[0, 0]);
    window(&mut pci, 0, 18, 2);
    assert_eq!(read(&mut pci) & 0xffff, 2);
    window(&mut pci, 0, 20, 1);
    pci.write_config(data, &[1]);
    assert_eq!(read(&mut pci) & 0xff, 1);
    window(&mut pci, 0, 0, 4);
    pci.write_config(data, &1u32.to_le_bytes());
    window(&mut pci, 0, 4, 4);
    // The features of page 1.
    assert_eq!(read(&mut pci), 1);
    assert_eq!(pci.common().invalid_accesses(), 0);
    let beyond = [(1, 0, 4), (0, 0, 0), (0, 0, 3), (0, 0, 8), (0, 2, 4), (0, 0x2000, 4)];
    for (bar, offset, length) in beyond.into_iter().chain([(0, u32::MAX, 1), (0, 0, u32::MAX)]) {
        let before = pci.common().invalid_accesses();
        window(&mut pci, bar, offset, length);
        read(&mut pci);
        pci.write_config(data, &[0; 4]);
        assert_eq!(pci.common().invalid_accesses(), before + 2, "{bar} {offset:#x} {length:#x}");
    }
    assert_eq!(pci.status(), 0xff, "nobody answers without memory space");
    pci.write_config(4, &[6, 0]);
    assert_eq!(pci.status(), 1);
}

#[test]
fn isr_is_cleared_by_reading() {
    let (mut pci, _) = probed();
    let interrupt = pci.common().interrupt().clone();
    interrupt.used_buffers(0);
    interrupt.config_changed();
    assert_eq!((get(&mut pci, 0x100, 1), get(&mut pci, 0x100, 1)), (3, 0));
    assert_eq!(get(&mut pci, 21, 1), 1);
}

#[test]
fn a_queue_that_is_enabled_stays_so() {
    let mut driver = Driver::new(crate::config::Transport::Pci, Box::new(Probe::default()));
    assert!(driver.negotiate(F_VERSION_1));
    driver.set_up_queues();
    driver.registers.select_queue(1);
    let invalid = driver.common().invalid_accesses();
    for value in [0, 2, 3] {
        driver.registers.write_queue(QueueField::Ready, value);
    }
    assert_eq!(driver.common().invalid_accesses(), invalid + 3);
    assert_eq!(driver.registers.queue_ready(), 1);
}

#[test]
fn without_msix_nothing_is_sent_and_the_status_tells() {
    let (mut pci, _) = probed();
    pci.write_config(0x42, &[1, 0]);
    set(&mut pci, 16, 2, 0);
    let interrupt = pci.common().interrupt().clone();
    interrupt.device_needs_reset();
    assert!(!interrupt.has_come());
    assert_eq!(pci.status(), 0x40);
    assert_eq!(get(&mut pci, 0x100, 1), 2);
    // Enabled again, and what comes now is sent.
    pci.write_config(0x42, &[1, 0x80]);
    assert!(!interrupt.has_come());
    interrupt.config_changed();
    assert!(interrupt.has_come());
}

#[test]
fn each_source_has_the_message_that_its_driver_gave_it() {
    let mut driver = Driver::new(
        crate::config::Transport::Pci,
        Box::new(crate::virtio::console::tests::console(&Default::default())),
    );
    driver.start(ALL_FEATURES);
    assert!(!driver.interrupt.has_come());
    driver.interrupt.used_buffers(5);
    assert!(driver.interrupt.has_come());
    driver.set_status(0);
    // Reset takes the mapping away.
    driver.interrupt.used_buffers(5);
    driver.interrupt.config_changed();
    assert!(!driver.interrupt.has_come());
}

/// A host without memory for a route.
struct Full;

impl MsiRouter for Full {
    fn route(&mut self, _gsi: u32, _message: crate::msi::Message) -> std::io::Result<()> {
        Err(std::io::ErrorKind::OutOfMemory.into())
    }
}

#[test]
fn a_message_that_cannot_be_routed_breaks_the_device() {
    let events = std::array::from_fn(|_| EventFd::new(0).unwrap());
    let mut pci =
        PciTransport::new(ram(), Box::new(Probe::default()), PCI_BASE, events, Box::new(Full));
    pci.bring_up();
    assert_eq!(pci.status(), 0x40);
}
