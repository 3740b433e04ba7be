// SPDX-License-Identifier: Apache-2.0
//! Drivers that break every rule. Nothing panics, hangs, grows, or takes another port along.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::ring::walked;
use crate::virtio::testing::{INDIRECT, Lcg, RAM_BYTES, WRITE, descriptor, write_table};

over_both_transports! {
    control_messages_that_make_no_sense_are_counted,
    a_control_message_may_come_in_pieces,
    device_ready_floods_cost_nothing,
    an_answer_that_does_not_fit_stays_owed,
    receive_chains_of_the_wrong_kind_are_returned_empty,
    transmit_chains_of_any_shape_come_back,
    no_bell_holds_its_vcpu_for_long,
    a_chain_is_trusted_up_to_the_first_bad_descriptor,
    a_chain_of_4_gib_is_streamed_not_collected,
    a_jump_of_the_index_breaks_one_queue_and_asks_for_a_reset,
    a_head_out_of_the_table_breaks_the_queue,
    random_bytes_in_all_rings_are_survived,
}

const NEEDS_RESET: u32 = 0x40;

/// A queue full of chains of 65,535 descriptors, each of them of the direction that is not looked for:
/// one bell looks at a small part of them, whichever queue it is of.
fn no_bell_holds_its_vcpu_for_long(transport: Transport) {
    for (queue, flags) in [(TX0, WRITE), (TX0, 0), (CTL_TX, WRITE), (CTL_RX, 0), (RX1, 0)] {
        let mut bench = Bench::running(transport);
        let table = 24 << 20;
        write_table(&bench.driver.ram, table, &vec![(table, 1, flags); 65_535]);
        for _ in 0..bench.driver.queues[queue].size - 1 {
            bench.driver.post(queue, &[(table, 65_535 * 16, INDIRECT)]);
        }
        // Something to be sent for the queues that receive.
        walked::take();
        bench.control.send("control", &[7; 60_000]).unwrap();
        bench.say_unheard(1, PORT_READY, 1);
        bench.driver.kick_always(queue);
        let steps = walked::take();
        assert!(steps > 0 && steps <= 4 * 1024, "queue {queue}, flags {flags}: {steps} steps");
    }
}

/// That the console and the control port still work.
fn assert_alive(bench: &mut Bench) {
    let before = bench.sinks[1].taken().len();
    let head = bench.driver.send(TX0, b"still here");
    assert_eq!(bench.driver.used(TX0), Some((head, 0)));
    bench.driver.send(TX1, b"still here");
    bench.work();
    assert_eq!(bench.sinks[1].taken().len(), before + 10);
}

fn control_messages_that_make_no_sense_are_counted(transport: Transport) {
    let mut bench = Bench::running(transport);
    let nonsense = [
        (3, PORT_READY, 1),
        (u32::MAX, PORT_OPEN, 1),
        (0x8000_0000, PORT_READY, 0),
        (0, PORT_ADD, 1),
        (0, PORT_NAME, 1),
        (0, 2, 1),
        (0, 5, 1),
        (0, 8, 1),
        (1, u16::MAX, u16::MAX),
        (1, PORT_OPEN, 7),
    ];
    for (id, event, value) in nonsense {
        bench.say(id, event, value);
    }
    assert_eq!(bench.control.stats().guest_errors, nonsense.len() as u64);
    for length in 0..8 {
        let head = bench.driver.send(CTL_TX, &[0; 8][..length]);
        assert_eq!(bench.driver.used(CTL_TX), Some((head, 0)));
    }
    assert_eq!(bench.control.stats().guest_errors, nonsense.len() as u64 + 8);
    assert_alive(&mut bench);
}

fn a_control_message_may_come_in_pieces(transport: Transport) {
    let mut bench = Bench::running(transport);
    let base = Driver::buffers(CTL_TX) + 0x1_0000;
    bench.driver.ram.write_slice(&[1, 0, 0, 0, 6, 0, 0, 0], GuestAddress(base)).unwrap();
    bench.driver.post(CTL_TX, &[(base, 3, 0), (base + 3, 4, 0), (base + 7, 100, 0)]);
    bench.driver.kick(CTL_TX);
    assert!(!bench.control.port_open("control"));
}

fn device_ready_floods_cost_nothing(transport: Transport) {
    let mut bench = Bench::new(transport);
    bench.driver.start(ALL_FEATURES);
    for _ in 0..20_000 {
        bench.say(0, DEVICE_READY, 1);
        bench.say(1, PORT_READY, 1);
        bench.say(1, PORT_OPEN, 1);
        bench.say(1, PORT_OPEN, 0);
    }
    // What is owed in the end is one answer of each kind, not 20,000.
    for _ in 0..32 {
        bench.driver.post_receive(CTL_RX, 4096);
    }
    let heard: Vec<_> =
        std::iter::from_fn(|| bench.heard()).map(|(id, event, ..)| (id, event)).collect();
    assert_eq!(heard, [(0, PORT_ADD), (1, PORT_NAME), (1, PORT_OPEN), (2, PORT_ADD)]);
    assert_eq!(bench.control.stats(), ConsoleStats::default());
}

fn an_answer_that_does_not_fit_stays_owed(transport: Transport) {
    let mut bench = Bench::new(transport);
    bench.driver.start(ALL_FEATURES);
    bench.driver.post_receive(CTL_RX, 4);
    // No writable byte at all, and one that is not in RAM.
    bench.driver.post(CTL_RX, &[(Driver::buffers(CTL_RX), 4096, 0)]);
    bench.driver.post(CTL_RX, &[(RAM_BYTES, 4096, WRITE)]);
    bench.driver.post(CTL_RX, &[(u64::MAX, 4096, WRITE)]);
    bench.say(1, PORT_READY, 1);
    for _ in 0..4 {
        assert_eq!(bench.driver.used(CTL_RX).map(|(_, length)| length), Some(0));
    }
    assert_eq!(bench.control.stats().guest_errors, 4);
    bench.driver.post_receive(CTL_RX, 4096);
    assert_eq!(bench.heard(), Some((1, PORT_NAME, 1, "control".to_owned())));
}

fn receive_chains_of_the_wrong_kind_are_returned_empty(transport: Transport) {
    let mut bench = Bench::running(transport);
    let base = Driver::buffers(RX1);
    bench.driver.post(RX1, &[(base, 64, 0)]);
    bench.driver.post(RX1, &[(base, 0, WRITE)]);
    bench.driver.post(RX1, &[(RAM_BYTES - 2, 64, WRITE)]);
    bench.driver.post(RX1, &[(base, 64, 0), (base + 64, 4, WRITE), (base + 68, 64, WRITE)]);
    bench.driver.kick_always(RX1);
    bench.control.send("control", b"letter").unwrap();
    let lengths: Vec<_> =
        std::iter::from_fn(|| bench.driver.used(RX1)).map(|(_, length)| length).collect();
    // The third had two good bytes, the last took the rest.
    assert_eq!(lengths, [0, 0, 2, 4]);
    assert_eq!(bench.control.pending("control"), 0);
    let mut end = [0; 4];
    bench.driver.ram.read_slice(&mut end, GuestAddress(base + 64)).unwrap();
    assert_eq!(&end, b"tter");
}

fn transmit_chains_of_any_shape_come_back(transport: Transport) {
    for queue in [TX0, TX1, CTL_TX] {
        let mut bench = Bench::running(transport);
        let base = Driver::buffers(queue);
        let table = base + 0x1_0000;
        let q = bench.driver.queues[queue].clone();
        // A loop of two descriptors, and one onto itself.
        for (n, next) in [(10, 11), (11, 10), (12, 12)] {
            let bytes = descriptor((base, 8, 1), next);
            bench.driver.ram.write_slice(&bytes, GuestAddress(q.table + 16 * n)).unwrap();
        }
        bench.driver.publish(queue, 10);
        bench.driver.publish(queue, 12);
        // Next points out of the table.
        let bytes = descriptor((base, 8, 1), 60_000);
        bench.driver.ram.write_slice(&bytes, GuestAddress(q.table + 16 * 13)).unwrap();
        bench.driver.publish(queue, 13);
        // Indirect: length no multiple of 16, empty, not in RAM, nested, 65,535 empty entries.
        bench.driver.post(queue, &[(table, 17, INDIRECT)]);
        bench.driver.post(queue, &[(table, 0, INDIRECT)]);
        bench.driver.post(queue, &[(RAM_BYTES, 1600, INDIRECT)]);
        bench.driver.post_indirect(queue, table, &[(base, 1, 0), (table, 32, INDIRECT)]);
        let long = vec![(base, 0, 0); 65_535];
        bench.driver.post_indirect(queue, 24 << 20, &long);
        // Write-only, nothing at all, 4 GiB, not in RAM, end of the address space.
        bench.driver.post(queue, &[(base, 8, WRITE)]);
        bench.driver.kick_always(queue);
        bench.work();
        let mut heads = 9;
        while bench.driver.used(queue).is_some() {
            heads -= 1;
        }
        for desc in [(base, 0, 0), (base, u32::MAX, 0), (RAM_BYTES, 8, 0), (u64::MAX - 4, 8, 0)] {
            bench.driver.post(queue, &[desc]);
            heads += 1;
        }
        bench.driver.kick_always(queue);
        bench.work();
        while bench.driver.used(queue).is_some() {
            heads -= 1;
        }
        assert_eq!(heads, 0, "queue {queue}");
        assert_eq!(bench.driver.status(), 15);
        assert_alive(&mut bench);
    }
}

fn a_chain_is_trusted_up_to_the_first_bad_descriptor(transport: Transport) {
    for bad in [(RAM_BYTES, 4, 0), (RAM_BYTES - 2, 4, 0), (5 << 20, u32::MAX - 8, 0)] {
        let mut bench = Bench::running(transport);
        let base = Driver::buffers(TX1);
        bench.driver.ram.write_slice(b"abcd", GuestAddress(base)).unwrap();
        let head = bench.driver.post(TX1, &[(base, 2, 0), bad, (base + 2, 2, 0)]);
        bench.driver.kick(TX1);
        bench.work();
        assert_eq!(bench.sinks[1].taken(), b"ab");
        assert_eq!(bench.driver.used(TX1), Some((head, 0)));
        assert_eq!(bench.control.stats().guest_errors, 1);
    }
}

fn a_chain_of_4_gib_is_streamed_not_collected(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.sinks[0].plan([]);
    // Half of RAM, over and over: more than 2^32 bytes, where the crate ends the chain.
    let pieces = vec![(0, 1 << 20, 0); 5000];
    bench.driver.post_indirect(TX0, 24 << 20, &pieces);
    bench.driver.kick(TX0);
    assert!(bench.driver.used(TX0).is_some());
    // On the vCPU thread a chain is cut short.
    assert_eq!(bench.sinks[0].taken().len(), 64 << 10);
    assert!(bench.control.stats().dropped_bytes > 0);
}

fn a_jump_of_the_index_breaks_one_queue_and_asks_for_a_reset(transport: Transport) {
    for queue in [RX1, TX2, CTL_RX] {
        let mut bench = Bench::running(transport);
        bench.driver.queues[queue].avail_index += 5000;
        bench.driver.publish(queue, 0);
        bench.driver.kick_always(queue);
        bench.control.send("control", b"x").unwrap();
        bench.say(0, PORT_READY, 1);
        bench.work();
        assert_eq!(bench.driver.status(), 15 | NEEDS_RESET, "queue {queue}");
        assert_eq!(bench.driver.registers.interrupt_status() & 2, 2);
        assert!(bench.control.drained("bulk"));
        assert_alive(&mut bench);
        bench.driver.start(ALL_FEATURES);
        bench.shake_hands();
        assert_alive(&mut bench);
    }
}

fn a_head_out_of_the_table_breaks_the_queue(transport: Transport) {
    for queue in [TX0, TX1, CTL_TX] {
        let mut bench = Bench::running(transport);
        bench.driver.publish(queue, 256);
        bench.driver.kick_always(queue);
        bench.work();
        assert_eq!(bench.driver.status(), 15 | NEEDS_RESET);
        assert_eq!(bench.driver.used(queue), None);
    }
}

fn random_bytes_in_all_rings_are_survived(transport: Transport) {
    let mut random = Lcg(2);
    for _ in 0..60 {
        let mut bench = Bench::running(transport);
        for _ in 0..20 {
            scribble(&mut bench, &mut random);
            let queue = usize::try_from(random.below(8)).unwrap();
            bench.driver.kick_always(queue);
            let _ = bench.control.send("control", b"some input");
            bench.events.run_with_timeout(0).unwrap();
        }
        bench.driver.start(ALL_FEATURES);
        bench.work_with_retries();
        bench.shake_hands();
        assert_alive(&mut bench);
        // `write` of a test sink collects; keep the test's memory small.
        bench.sinks.iter().for_each(|sink| sink.bytes.lock().unwrap().clear());
    }
}

/// Puts noise into one descriptor table and its available ring: addresses and indices that are
/// often nearly right, as those find more than pure noise.
fn scribble(bench: &mut Bench, random: &mut Lcg) {
    let queue = usize::try_from(random.below(8)).unwrap();
    let q = bench.driver.queues[queue].clone();
    for n in 0..u64::from(q.size) {
        let address = random.pick(&[q.table, q.avail, q.used, 0, RAM_BYTES - 4, u64::MAX, 5 << 20]);
        let length = random.pick(&[0, 1, 16, 64, 4096, u32::MAX]);
        let flags = u16::try_from(random.below(8)).unwrap();
        let next = u16::try_from(random.below(u64::from(q.size) + 1)).unwrap();
        let bytes = descriptor((address, length, flags), next);
        bench.driver.ram.write_slice(&bytes, GuestAddress(q.table + 16 * n)).unwrap();
        let head = u16::try_from(random.below(u64::from(q.size) + 1)).unwrap();
        bench.driver.ram.write_obj(head, GuestAddress(q.avail + 4 + 2 * n)).unwrap();
    }
    let step = u16::try_from(random.below(u64::from(q.size) + 2)).unwrap();
    bench.driver.queues[queue].avail_index = q.avail_index.wrapping_add(step);
    bench.driver.publish(queue, 0);
}
