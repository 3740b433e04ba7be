// SPDX-License-Identifier: Apache-2.0
//! The register file against a device that checks how it is treated.

use std::sync::{Arc, Mutex};

use super::*;
use crate::virtio::device::Activation;
use crate::virtio::testing::{
    ALL_FEATURES, Driver, DriverQueue, F_EVENT_IDX, F_MULTIPORT, F_VERSION_1, Lcg, RAM_BYTES,
    TestSink,
};

const NEEDS_RESET: u32 = 0x40;

/// What a [`Probe`] has seen.
#[derive(Debug, Default)]
struct Seen {
    active: bool,
    activations: u32,
    resets: u32,
    rings: Vec<bool>,
    features: u64,
    notified: Vec<usize>,
}

/// A device that fails the test when the transport breaks the promises of [`VirtioDevice`].
#[derive(Clone, Debug, Default)]
struct Probe(Arc<Mutex<Seen>>);

impl VirtioDevice for Probe {
    fn id(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 256]
    }

    fn config(&self) -> &[u8] {
        &[1, 2, 3, 4, 5, 6]
    }

    fn io_events(&self) -> Vec<IoEvent> {
        Vec::new()
    }

    fn activate(&mut self, activation: Activation) {
        let mut seen = self.0.lock().unwrap();
        assert!(!seen.active);
        seen.active = true;
        seen.activations += 1;
        seen.features = activation.features;
        seen.rings = activation.rings.iter().map(Option::is_some).collect();
    }

    fn notify(&mut self, queue: usize) {
        let mut seen = self.0.lock().unwrap();
        assert!(seen.active && queue < 2);
        seen.notified.push(queue);
    }

    fn reset(&mut self) {
        let mut seen = self.0.lock().unwrap();
        seen.active = false;
        seen.resets += 1;
    }
}

fn probe() -> (Driver, Arc<Mutex<Seen>>) {
    let probe = Probe::default();
    (Driver::new(Box::new(probe.clone())), probe.0)
}

#[test]
fn identity() {
    let (mut driver, _) = probe();
    assert_eq!(driver.get(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.get(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_eq!(driver.get(VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    assert_eq!(driver.get(VIRTIO_MMIO_SHM_BASE_HIGH), u32::MAX);
    assert_eq!(driver.get(VIRTIO_MMIO_CONFIG_GENERATION), 0);
    driver.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_FEATURES), 0x3000_0002);
    driver.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_FEATURES), 1);
    driver.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    driver.set(VIRTIO_MMIO_QUEUE_SEL, 2);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    driver.set(VIRTIO_MMIO_QUEUE_SEL, u32::MAX);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(driver.transport.invalid_accesses(), 0);
}

#[test]
fn accesses_of_other_widths_and_places_do_nothing() {
    let (mut driver, seen) = probe();
    let mut invalid = 0;
    for (offset, length) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0x70, 0), (0x71, 4)] {
        let mut data = vec![0xff; length];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; length]);
        driver.transport.write(offset, &data);
        invalid += 2;
        assert_eq!(driver.transport.invalid_accesses(), invalid);
    }
    // One byte of Status would be ACKNOWLEDGE; eight bytes too.
    driver.transport.write(0x70, &[1]);
    driver.transport.write(0x70, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 0);
    assert_eq!(seen.lock().unwrap().resets, 0);
}

#[test]
fn configuration_is_read_in_any_width_and_ends() {
    let (mut driver, _) = probe();
    let mut read = |offset, length| {
        let mut data = vec![0xff; length];
        driver.transport.read(offset, &mut data);
        data
    };
    assert_eq!(read(0x100, 1), [1]);
    assert_eq!(read(0x102, 2), [3, 4]);
    assert_eq!(read(0x104, 4), [5, 6, 0, 0]);
    assert_eq!(read(0x101, 8), [2, 3, 4, 5, 6, 0, 0, 0]);
    assert_eq!(read(0x106, 1), [0]);
    assert_eq!(read(u64::MAX, 4), [0; 4]);
    driver.transport.write(0x100, &[9]);
    assert_eq!(driver.get(0x100), 0x0403_0201);
}

#[test]
fn the_way_up_is_one_bit_at_a_time() {
    let (mut driver, seen) = probe();
    for (from, wrong) in [(0, 3), (0, 15), (0, 2), (1, 5), (1, 9), (3, 7), (3, 15), (3, 1)] {
        driver.set(VIRTIO_MMIO_STATUS, 0);
        for step in [1, 3].into_iter().take_while(|step| *step <= from) {
            driver.set(VIRTIO_MMIO_STATUS, step);
        }
        assert_eq!(driver.get(VIRTIO_MMIO_STATUS), from);
        driver.set(VIRTIO_MMIO_STATUS, wrong);
        assert_eq!(driver.get(VIRTIO_MMIO_STATUS), from, "{from} -> {wrong}");
    }
    assert_eq!(driver.transport.invalid_accesses(), 8);
    driver.start(F_VERSION_1);
    let seen = seen.lock().unwrap();
    assert_eq!((seen.activations, seen.features), (1, F_VERSION_1));
    // All queues are rung once, without the driver.
    assert_eq!(seen.notified, [0, 1]);
}

#[test]
fn features_that_we_do_not_have_or_need_are_decided_at_features_ok() {
    let (mut driver, _) = probe();
    assert!(!driver.negotiate(0));
    assert!(!driver.negotiate(F_EVENT_IDX));
    assert!(!driver.negotiate(F_VERSION_1 | 1));
    assert!(!driver.negotiate(F_VERSION_1 | 1 << 34));
    assert!(driver.negotiate(F_VERSION_1 | F_MULTIPORT));
    // Too late for another choice.
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES, 0);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    assert!(driver.transport.activated());
}

#[test]
fn failed_sticks_until_reset() {
    let (mut driver, seen) = probe();
    driver.negotiate(F_VERSION_1);
    driver.set(VIRTIO_MMIO_STATUS, 11 | 0x80);
    driver.set(VIRTIO_MMIO_STATUS, 15 | 0x80);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 11 | 0x80);
    assert_eq!(seen.lock().unwrap().activations, 0);
    driver.start(F_VERSION_1);
}

#[test]
fn queue_registers_are_the_drivers_between_features_ok_and_driver_ok() {
    let (mut driver, seen) = probe();
    let queue = DriverQueue::at(0x10_0000, 16);
    driver.describe(&queue, 16);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert!(driver.negotiate(F_VERSION_1));
    driver.describe(&queue, 16);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 1);
    // A ready queue does not move.
    let before = driver.transport.invalid_accesses();
    driver.set(VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffff_ffff);
    driver.set(VIRTIO_MMIO_QUEUE_NUM, 3);
    assert_eq!(driver.transport.invalid_accesses(), before + 2);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    // Queue 1 was left alone, and is nobody's problem.
    assert_eq!(seen.lock().unwrap().rings, [true, false]);
    driver.set(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 1);
    driver.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
}

#[test]
fn queues_that_are_not_sound_are_refused_at_driver_ok() {
    let good = DriverQueue::at(0x10_0000, 16);
    let at = |table, avail, used| DriverQueue { table, avail, used, ..good.clone() };
    let cases = [
        (good.clone(), 0),
        (good.clone(), 3),
        (good.clone(), 32),
        (good.clone(), 0x1_0010),
        (good.clone(), u32::MAX),
        (at(0x10_0008, good.avail, good.used), 16),
        (at(good.table, good.avail + 1, good.used), 16),
        (at(good.table, good.avail, good.used + 2), 16),
        (at(RAM_BYTES - 128, good.avail, good.used), 16),
        (at(good.table, RAM_BYTES - 4, good.used), 16),
        (at(good.table, good.avail, RAM_BYTES), 16),
        (at(u64::MAX - 15, good.avail, good.used), 16),
        (at(good.table, u64::MAX - 1, good.used), 16),
        (at(good.table, good.avail, 0xd000_0000), 16),
    ];
    let (mut driver, seen) = probe();
    for (queue, size) in cases {
        assert!(driver.negotiate(F_VERSION_1));
        driver.set(VIRTIO_MMIO_QUEUE_SEL, 0);
        driver.describe(&queue, size);
        driver.set(VIRTIO_MMIO_STATUS, 15);
        let status = driver.get(VIRTIO_MMIO_STATUS);
        assert_eq!(status, 15 | NEEDS_RESET, "{queue:?} {size}");
        assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
        assert!(driver.transport.activation_error().is_some());
        // Dead until reset: neither a bell nor another bit wakes it.
        driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        driver.set(VIRTIO_MMIO_STATUS, 15);
    }
    assert_eq!(seen.lock().unwrap().activations, 0);
    driver.start(F_VERSION_1);
    assert!(driver.transport.activation_error().is_none());
}

#[test]
fn a_fault_names_the_queue_and_the_address() {
    let (mut driver, _) = probe();
    driver.negotiate(F_VERSION_1);
    driver.describe(&DriverQueue::at(0xd000_0000, 16), 16);
    driver.set(VIRTIO_MMIO_STATUS, 15);
    let text = driver.transport.activation_error().unwrap().to_string();
    assert!(text.contains("queue 0") && text.contains("0xd0000000"), "{text}");
}

#[test]
fn bells_ring_only_when_somebody_is_at_home() {
    let (mut driver, seen) = probe();
    driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    driver.start(F_VERSION_1);
    driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
    driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, u32::MAX);
    assert_eq!(seen.lock().unwrap().notified, [0, 1, 1]);
    assert_eq!(driver.transport.invalid_accesses(), 3);
    driver.set(VIRTIO_MMIO_STATUS, 0);
    driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    assert_eq!(seen.lock().unwrap().notified, [0, 1, 1]);
}

#[test]
fn reset_is_complete_and_repeatable() {
    let (mut driver, seen) = probe();
    for round in 1..=3 {
        driver.start(F_VERSION_1);
        driver.interrupt.used_buffers();
        driver.interrupt.device_needs_reset();
        for _ in 0..2 {
            driver.set(VIRTIO_MMIO_STATUS, 0);
            assert_eq!(driver.get(VIRTIO_MMIO_STATUS), 0);
            assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
        }
        assert!(!seen.lock().unwrap().active);
        assert_eq!(seen.lock().unwrap().activations, round);
    }
}

/// Any sequence of accesses leaves a transport that a well-behaved driver can bring up.
#[test]
fn random_accesses_never_panic_and_never_stick() {
    const VALUES: [u32; 14] =
        [0, 1, 2, 3, 4, 8, 11, 15, 16, 0x80, 0x100_0000, 0x10_0000, 0x3000_0002, u32::MAX];
    let mut random = Lcg(1);
    for console in [false, true] {
        let (device, seen): (Box<dyn VirtioDevice>, _) = if console {
            (Box::new(crate::virtio::console::tests::console(&TestSink::default())), None)
        } else {
            let probe = Probe::default();
            (Box::new(probe.clone()), Some(probe.0))
        };
        let mut driver = Driver::new(device);
        for _ in 0..100 {
            // Half of the time from a state that is worth attacking.
            if random.below(2) == 0 {
                driver.negotiate(if console { ALL_FEATURES } else { F_VERSION_1 });
            }
            for _ in 0..500 {
                random_access(&mut driver, &mut random, &VALUES);
                if let Some(seen) = &seen {
                    assert_eq!(seen.lock().unwrap().active, driver.transport.activated());
                }
            }
            driver.start(if console { ALL_FEATURES } else { F_VERSION_1 });
        }
    }
}

fn random_access(driver: &mut Driver, random: &mut Lcg, values: &[u32]) {
    let offset = match random.below(8) {
        0 => random.next() << 33 | random.next(),
        1 => random.below(MMIO_WINDOW_BYTES),
        2 => VIRTIO_MMIO_STATUS.into(),
        _ => 4 * random.below(0x44),
    };
    let length = if random.below(8) == 0 { random.below(9) } else { 4 };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&random.pick(values).to_le_bytes());
    let bytes = &mut bytes[..usize::try_from(length).unwrap()];
    if random.below(4) == 0 {
        driver.transport.read(offset, bytes);
    } else {
        driver.transport.write(offset, bytes);
    }
}
