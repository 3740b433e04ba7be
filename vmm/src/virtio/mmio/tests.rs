// SPDX-License-Identifier: Apache-2.0
//! What only this register file has.

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::virtio::testing::{Registers, ram};
use crate::virtio::tests::Probe;

fn probed() -> (MmioTransport, Probe) {
    let probe = Probe::default();
    let interrupt = Interrupt::line(EventFd::new(EFD_NONBLOCK).unwrap());
    (MmioTransport::new(ram(), Box::new(probe.clone()), interrupt), probe)
}

#[test]
fn identity() {
    let (mut mmio, _) = probed();
    assert_eq!(mmio.get(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(mmio.get(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(mmio.get(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(mmio.get(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(mmio.get(VIRTIO_MMIO_SHM_BASE_HIGH), u32::MAX);
    assert_eq!(mmio.get(VIRTIO_MMIO_CONFIG_GENERATION), 0);
    mmio.set(VIRTIO_MMIO_QUEUE_SEL, u32::MAX);
    assert_eq!(mmio.get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(mmio.common().invalid_accesses(), 0);
}

#[test]
fn accesses_of_other_widths_and_places_do_nothing() {
    let (mut mmio, probe) = probed();
    let mut invalid = 0;
    for (offset, length) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0x70, 0), (0x71, 4)] {
        let mut data = vec![0xff; length];
        mmio.read(offset, &mut data);
        assert_eq!(data, vec![0; length]);
        mmio.write(offset, &data);
        invalid += 2;
        assert_eq!(mmio.common().invalid_accesses(), invalid);
    }
    // One byte of Status would be ACKNOWLEDGE; eight bytes too.
    mmio.write(0x70, &[1]);
    mmio.write(0x70, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(mmio.status(), 0);
    assert_eq!(probe.0.lock().unwrap().resets, 0);
}

#[test]
fn sizes_of_more_than_16_bits_are_no_sizes() {
    for size in [0x1_0010, u32::MAX] {
        let (mut mmio, _) = probed();
        for (register, value) in [
            (VIRTIO_MMIO_STATUS, 1),
            (VIRTIO_MMIO_STATUS, 3),
            (VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1),
            (VIRTIO_MMIO_DRIVER_FEATURES, 1),
            (VIRTIO_MMIO_STATUS, 11),
            (VIRTIO_MMIO_QUEUE_NUM, size),
            (VIRTIO_MMIO_QUEUE_READY, 1),
            (VIRTIO_MMIO_STATUS, 15),
        ] {
            mmio.set(register, value);
        }
        assert_eq!(mmio.status(), 15 | 0x40, "{size:#x}");
    }
}
