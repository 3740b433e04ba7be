// SPDX-License-Identifier: Apache-2.0
//! Both transports, against a device that checks how it is treated.

use std::sync::{Arc, Mutex};

use super::device::{Activation, IoEvent, VirtioDevice};
use super::queue_setup::{Half, QueueField};
use super::testing::{
    ALL_FEATURES, Driver, DriverQueue, F_EVENT_IDX, F_MULTIPORT, F_VERSION_1, Lcg, RAM_BYTES,
    TestSink, over_both_transports,
};
use crate::config::Transport;

const NEEDS_RESET: u32 = 0x40;

over_both_transports! {
    identity,
    configuration_is_read_in_any_width_and_ends,
    the_way_up_is_one_bit_at_a_time,
    features_that_we_do_not_have_or_need_are_decided_at_features_ok,
    failed_sticks_until_reset,
    queue_registers_are_the_drivers_between_features_ok_and_driver_ok,
    queues_that_are_not_sound_are_refused_at_driver_ok,
    a_fault_names_the_queue_and_the_address,
    bells_ring_only_when_somebody_is_at_home,
    reset_is_complete_and_repeatable,
    random_accesses_never_panic_and_never_stick,
}

/// What a [`Probe`] has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) active: bool,
    activations: u32,
    pub(super) resets: u32,
    rings: Vec<bool>,
    features: u64,
    pub(super) notified: Vec<usize>,
}

/// A device that fails the test when the transport breaks the promises of [`VirtioDevice`].
#[derive(Clone, Debug, Default)]
pub(super) struct Probe(pub(super) Arc<Mutex<Seen>>);

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

fn probe(transport: Transport) -> (Driver, Arc<Mutex<Seen>>) {
    let probe = Probe::default();
    (Driver::new(transport, Box::new(probe.clone())), probe.0)
}

fn identity(transport: Transport) {
    let (mut driver, _) = probe(transport);
    let registers = &mut driver.registers;
    let features = [0, 1, 2].map(|page| registers.offered_features(page));
    assert_eq!(features, [0x3000_0002, 1, 0]);
    for (queue, size) in [(0, 16), (1, 256), (2, 0), (0xffff, 0)] {
        registers.select_queue(queue);
        assert_eq!((registers.queue_max(), registers.queue_ready()), (size, 0));
    }
    assert_eq!(driver.common().invalid_accesses(), 0);
}

fn configuration_is_read_in_any_width_and_ends(transport: Transport) {
    let (mut driver, _) = probe(transport);
    let at = driver.registers.configuration();
    let mut read = |offset, length| {
        let mut data = vec![0xff; length];
        driver.registers.read(offset, &mut data);
        data
    };
    assert_eq!(read(at, 1), [1]);
    assert_eq!(read(at + 2, 2), [3, 4]);
    assert_eq!(read(at + 4, 4), [5, 6, 0, 0]);
    assert_eq!(read(at + 1, 8), [2, 3, 4, 5, 6, 0, 0, 0]);
    assert_eq!(read(at + 6, 1), [0]);
    assert_eq!(read(u64::MAX, 4), [0; 4]);
    driver.registers.write(at, &[9]);
    let mut data = [0; 4];
    driver.registers.read(at, &mut data);
    assert_eq!(data, [1, 2, 3, 4]);
}

fn the_way_up_is_one_bit_at_a_time(transport: Transport) {
    let (mut driver, seen) = probe(transport);
    for (from, wrong) in [(0, 3), (0, 15), (0, 2), (1, 5), (1, 9), (3, 7), (3, 15), (3, 1)] {
        driver.set_status(0);
        for step in [1, 3].into_iter().take_while(|step| *step <= from) {
            driver.set_status(step);
        }
        assert_eq!(driver.status(), from);
        driver.set_status(wrong);
        assert_eq!(driver.status(), from, "{from} -> {wrong}");
    }
    assert_eq!(driver.common().invalid_accesses(), 8);
    driver.start(F_VERSION_1);
    let seen = seen.lock().unwrap();
    assert_eq!((seen.activations, seen.features), (1, F_VERSION_1));
    // All queues are rung once, without the driver.
    assert_eq!(seen.notified, [0, 1]);
}

fn features_that_we_do_not_have_or_need_are_decided_at_features_ok(transport: Transport) {
    let (mut driver, _) = probe(transport);
    assert!(!driver.negotiate(0));
    assert!(!driver.negotiate(F_EVENT_IDX));
    assert!(!driver.negotiate(F_VERSION_1 | 1));
    assert!(!driver.negotiate(F_VERSION_1 | 1 << 34));
    assert!(driver.negotiate(F_VERSION_1 | F_MULTIPORT));
    // Too late for another choice.
    driver.registers.choose_features(1, 0);
    driver.set_status(15);
    assert!(driver.common().activated());
}

fn failed_sticks_until_reset(transport: Transport) {
    let (mut driver, seen) = probe(transport);
    driver.negotiate(F_VERSION_1);
    driver.set_status(11 | 0x80);
    driver.set_status(15 | 0x80);
    driver.set_status(15);
    assert_eq!(driver.status(), 11 | 0x80);
    assert_eq!(seen.lock().unwrap().activations, 0);
    driver.start(F_VERSION_1);
}

fn queue_registers_are_the_drivers_between_features_ok_and_driver_ok(transport: Transport) {
    let (mut driver, seen) = probe(transport);
    let queue = DriverQueue::at(0x10_0000, 16);
    driver.describe(&queue, 16);
    assert_eq!(driver.registers.queue_ready(), 0);
    assert!(driver.negotiate(F_VERSION_1));
    driver.describe(&queue, 16);
    assert_eq!(driver.registers.queue_ready(), 1);
    // A ready queue does not move.
    let before = driver.common().invalid_accesses();
    driver.registers.write_queue(QueueField::Table(Half::High), 0xffff_ffff);
    driver.registers.write_queue(QueueField::Size, 3);
    assert_eq!(driver.common().invalid_accesses(), before + 2);
    driver.set_status(15);
    // Queue 1 was left alone, and is nobody's problem.
    assert_eq!(seen.lock().unwrap().rings, [true, false]);
    driver.registers.write_queue(QueueField::Ready, 0);
    assert_eq!(driver.registers.queue_ready(), 1);
    driver.set_status(0);
    assert_eq!(driver.registers.queue_ready(), 0);
}

fn queues_that_are_not_sound_are_refused_at_driver_ok(transport: Transport) {
    let good = DriverQueue::at(0x10_0000, 16);
    let at = |table, avail, used| DriverQueue { table, avail, used, ..good.clone() };
    let cases = [
        (good.clone(), 0),
        (good.clone(), 3),
        (good.clone(), 32),
        (good.clone(), 0xfff0),
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
    let (mut driver, seen) = probe(transport);
    for (queue, size) in cases {
        assert!(driver.negotiate(F_VERSION_1));
        driver.registers.select_queue(0);
        driver.describe(&queue, size);
        driver.set_status(15);
        let status = driver.status();
        assert_eq!(status, 15 | NEEDS_RESET, "{queue:?} {size}");
        assert!(driver.interrupt.has_come());
        assert_eq!(driver.registers.interrupt_status(), 2);
        assert!(driver.common().activation_error().is_some());
        // Dead until reset: neither a bell nor another bit wakes it.
        driver.registers.ring_bell(0);
        driver.set_status(15);
    }
    assert_eq!(seen.lock().unwrap().activations, 0);
    driver.start(F_VERSION_1);
    assert!(driver.common().activation_error().is_none());
}

fn a_fault_names_the_queue_and_the_address(transport: Transport) {
    let (mut driver, _) = probe(transport);
    driver.negotiate(F_VERSION_1);
    driver.describe(&DriverQueue::at(0xd000_0000, 16), 16);
    driver.set_status(15);
    let text = driver.common().activation_error().unwrap().to_string();
    assert!(text.contains("queue 0") && text.contains("0xd0000000"), "{text}");
}

fn bells_ring_only_when_somebody_is_at_home(transport: Transport) {
    let (mut driver, seen) = probe(transport);
    driver.registers.ring_bell(0);
    driver.start(F_VERSION_1);
    driver.registers.ring_bell(1);
    driver.registers.ring_bell(2);
    driver.registers.ring_bell(u32::MAX);
    assert_eq!(seen.lock().unwrap().notified, [0, 1, 1]);
    assert_eq!(driver.common().invalid_accesses(), 3);
    driver.set_status(0);
    driver.registers.ring_bell(1);
    assert_eq!(seen.lock().unwrap().notified, [0, 1, 1]);
}

fn reset_is_complete_and_repeatable(transport: Transport) {
    let (mut driver, seen) = probe(transport);
    for round in 1..=3 {
        driver.start(F_VERSION_1);
        driver.interrupt.used_buffers(0);
        driver.interrupt.device_needs_reset();
        for _ in 0..2 {
            driver.set_status(0);
            assert_eq!(driver.status(), 0);
            assert_eq!(driver.registers.interrupt_status(), 0);
        }
        assert!(!seen.lock().unwrap().active);
        assert_eq!(seen.lock().unwrap().activations, round);
    }
}

/// Any sequence of accesses leaves a transport that a well-behaved driver can bring up.
fn random_accesses_never_panic_and_never_stick(transport: Transport) {
    const VALUES: [u32; 14] =
        [0, 1, 2, 3, 4, 8, 11, 15, 16, 0x80, 0x100_0000, 0x10_0000, 0x3000_0002, u32::MAX];
    let mut random = Lcg(1);
    for console in [false, true] {
        let (device, seen): (Box<dyn VirtioDevice>, _) = if console {
            (Box::new(super::console::tests::console(&TestSink::default())), None)
        } else {
            let probe = Probe::default();
            (Box::new(probe.clone()), Some(probe.0))
        };
        let mut driver = Driver::new(transport, device);
        for _ in 0..100 {
            // Half of the time from a state that is worth attacking.
            if random.below(2) == 0 {
                driver.registers.bring_up();
                driver.negotiate(if console { ALL_FEATURES } else { F_VERSION_1 });
            }
            for _ in 0..500 {
                driver.registers.attack(&mut random, &VALUES);
                if let Some(seen) = &seen {
                    assert_eq!(seen.lock().unwrap().active, driver.common().activated());
                }
            }
            driver.registers.bring_up();
            driver.start(if console { ALL_FEATURES } else { F_VERSION_1 });
        }
    }
}
