// SPDX-License-Identifier: Apache-2.0
//! Well-behaved drivers, and sinks that are not.

use std::io::ErrorKind;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{F_MULTIPORT, RAM_SEAM, Step};

over_both_transports! {
    the_handshake_makes_named_open_ports,
    configuration_space_tells_the_number_of_ports,
    the_driver_closes_a_port,
    console_output_is_taken_within_the_exit,
    console_output_that_its_sink_does_not_take_is_dropped_and_counted,
    a_driver_without_multiport_has_a_console_all_the_same,
    generic_output_goes_to_its_own_sink_in_order,
    a_flush_takes_what_no_bell_was_rung_for,
    chains_of_many_descriptors_direct_and_indirect_are_written_at_once,
    a_chain_longer_than_one_write_takes_several,
    a_buffer_may_lie_in_two_regions_of_ram,
    short_writes_lose_and_repeat_nothing,
    a_full_sink_is_tried_again,
    a_sink_that_fails_closes_its_port_and_no_other,
    a_sink_that_takes_nothing_is_an_error_not_a_loop,
    input_waits_for_an_open_port_and_for_buffers,
    input_is_bounded_and_taken_whole_or_not_at_all,
    reset_in_the_middle_and_a_new_driver_start_afresh,
    a_kick_before_activation_is_made_up_for,
    event_idx_spares_interrupts_and_kicks,
    receive_buffers_cost_no_exits_while_there_is_nothing_to_receive,
    without_event_idx_the_flag_suppresses_interrupts,
    a_stream_costs_its_guest_few_notifications_and_interrupts,
    a_stream_has_its_buffers_back_one_by_one,
    a_driver_that_waits_for_room_is_interrupted_when_half_of_the_ring_is_free,
}

fn the_handshake_makes_named_open_ports(transport: Transport) {
    let bench = Bench::running(transport);
    assert_eq!(bench.control.stats(), ConsoleStats::default());
    assert_eq!(bench.driver.common().invalid_accesses(), 0);
    assert!(!bench.control.port_open("nobody"));
}

fn configuration_space_tells_the_number_of_ports(transport: Transport) {
    let mut bench = Bench::new(transport);
    let at = bench.driver.registers.configuration();
    let mut get = |offset| {
        let mut bytes = [0xff; 4];
        bench.driver.registers.read(at + offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    assert_eq!((get(0), get(4)), (80 | 25 << 16, 3));
    // EMERG_WRITE is not offered.
    bench.driver.registers.write(at + 8, b"x\0\0\0");
    let mut emergency = [0xff; 4];
    bench.driver.registers.read(at + 8, &mut emergency);
    assert_eq!(emergency, [0; 4]);
}

fn the_driver_closes_a_port(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.say(1, PORT_OPEN, 0);
    assert!(!bench.control.port_open("control"));
    assert!(bench.control.port_open("bulk"));
}

fn console_output_is_taken_within_the_exit(transport: Transport) {
    let mut bench = Bench::running(transport);
    for line in ["Linux version 6.12\n", "Run /init\n"] {
        let head = bench.driver.send(TX0, line.as_bytes());
        // hvc spins for this.
        assert_eq!(bench.driver.used(TX0), Some((head, 0)));
    }
    assert_eq!(bench.sinks[0].taken(), b"Linux version 6.12\nRun /init\n");
}

fn console_output_that_its_sink_does_not_take_is_dropped_and_counted(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.sinks[0].plan([Step::Take(2), Step::Fail(ErrorKind::WouldBlock)]);
    for text in [b"12345", b"abcde", b"vwxyz"] {
        let head = bench.driver.send(TX0, text);
        assert_eq!(bench.driver.used(TX0), Some((head, 0)));
    }
    assert_eq!(bench.sinks[0].taken(), b"12vwxyz");
    assert_eq!(bench.control.stats().dropped_bytes, 8);
}

fn a_driver_without_multiport_has_a_console_all_the_same(transport: Transport) {
    let mut bench = Bench::new(transport);
    bench.driver.start(ALL_FEATURES & !F_MULTIPORT);
    bench.driver.send(TX0, b"plain");
    assert_eq!(bench.sinks[0].taken(), b"plain");
    bench.driver.post_receive(RX0, 64);
    bench.control.send("console", b"typed").unwrap();
    assert_eq!(bench.driver.received(RX0).unwrap(), b"typed");
    // Nobody serves the other queues.
    bench.driver.send(TX1, b"lost");
    bench.work();
    assert_eq!(bench.driver.used(TX1), None);
}

fn generic_output_goes_to_its_own_sink_in_order(transport: Transport) {
    let mut bench = Bench::running(transport);
    for n in 0..200u8 {
        bench.driver.send(TX1, &[n; 3]);
        bench.driver.send(TX2, &[n]);
    }
    assert!(!bench.control.drained("bulk"));
    bench.work();
    let expected: Vec<u8> = (0..200).collect();
    assert_eq!(bench.sinks[2].taken(), expected);
    assert_eq!(bench.sinks[1].taken().len(), 600);
    for _ in 0..200 {
        assert!(bench.driver.used(TX2).is_some_and(|(_, length)| length == 0));
    }
    assert!(bench.control.drained("bulk") && bench.control.drained("control"));
    assert!(bench.sinks[0].taken().is_empty());
}

fn a_flush_takes_what_no_bell_was_rung_for(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.work();
    assert!(bench.control.flushed());
    let base = Driver::buffers(TX2);
    bench.driver.ram.write_slice(b"last words", GuestAddress(base)).unwrap();
    bench.driver.post(TX2, &[(base, 10, 0)]);
    bench.work();
    assert!(bench.sinks[2].taken().is_empty(), "it came without a bell");
    assert!(!bench.control.flushed());
    bench.work();
    assert_eq!(bench.sinks[2].taken(), b"last words");
    assert!(bench.control.flushed());
}

fn chains_of_many_descriptors_direct_and_indirect_are_written_at_once(transport: Transport) {
    let mut bench = Bench::running(transport);
    let base = Driver::buffers(TX2);
    let text: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    bench.driver.ram.write_slice(&text, GuestAddress(base)).unwrap();
    bench.driver.post(TX2, &[(base, 10, 0), (base + 10, 0, 0), (base + 10, 90, 0)]);
    let pieces: Vec<_> = (0..99).map(|n| (base + 100 + 100 * n, 100, 0)).collect();
    bench.driver.post_indirect(TX2, base + 0x2_0000, &pieces);
    bench.driver.kick_always(TX2);
    bench.work();
    assert_eq!(bench.sinks[2].taken(), text);
    assert_eq!(*bench.sinks[2].writes.lock().unwrap(), 1);
    assert_eq!(bench.control.stats(), ConsoleStats::default());
}

fn a_chain_longer_than_one_write_takes_several(transport: Transport) {
    let mut bench = Bench::running(transport);
    let base = Driver::buffers(TX2);
    let pieces: Vec<_> = (0..5000).map(|n| (base + n, 1, 0)).collect();
    bench.driver.post_indirect(TX2, base + 0x2_0000, &pieces);
    bench.driver.kick_always(TX2);
    bench.work();
    assert_eq!(bench.sinks[2].taken().len(), 5000);
    assert_eq!(*bench.sinks[2].writes.lock().unwrap(), 5000usize.div_ceil(128));
    assert!(bench.driver.used(TX2).is_some());
    assert!(bench.driver.used(TX2).is_none());
}

fn a_buffer_may_lie_in_two_regions_of_ram(transport: Transport) {
    let mut bench = Bench::running(transport);
    let at = RAM_SEAM - 3;
    bench.driver.ram.write_slice(b"across", GuestAddress(at)).unwrap();
    bench.driver.post(TX1, &[(at, 6, 0)]);
    bench.driver.kick(TX1);
    bench.driver.post(TX0, &[(at, 6, 0)]);
    bench.driver.kick(TX0);
    bench.work();
    assert_eq!(bench.sinks[1].taken(), b"across");
    assert_eq!(bench.sinks[0].taken(), b"across");
}

fn short_writes_lose_and_repeat_nothing(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.sinks[2].plan((0..100).map(|n| Step::Take(1 + n % 7)));
    let mut expected = Vec::new();
    for n in 0..60u8 {
        let text = vec![n; usize::from(n % 9)];
        bench.driver.send(TX2, &text);
        expected.extend(text);
    }
    bench.work();
    assert_eq!(bench.sinks[2].taken(), expected);
    for _ in 0..60 {
        assert!(bench.driver.used(TX2).is_some());
    }
    assert!(bench.control.drained("bulk"));
}

fn a_full_sink_is_tried_again(transport: Transport) {
    let mut bench = Bench::running(transport);
    let full = Step::Fail(ErrorKind::WouldBlock);
    bench.sinks[1].plan([Step::Take(3), full, full, Step::Fail(ErrorKind::Interrupted)]);
    bench.driver.send(TX1, b"patience");
    bench.work();
    assert_eq!(bench.sinks[1].taken(), b"pat");
    assert_eq!(bench.driver.used(TX1), None);
    assert!(!bench.control.drained("control"));
    bench.work_with_retries();
    assert_eq!(bench.sinks[1].taken(), b"patience");
    assert!(bench.driver.used(TX1).is_some());
    assert!(bench.control.port_error("control").is_none());
}

fn a_sink_that_fails_closes_its_port_and_no_other(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.sinks[2].plan([Step::Take(4), Step::Fail(ErrorKind::StorageFull)]);
    bench.driver.send(TX2, b"lost and found");
    bench.work();
    assert_eq!(bench.heard(), Some((2, PORT_OPEN, 0, String::new())));
    let error = bench.control.port_error("bulk").unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    // The guest's writers are not left waiting for buffers.
    bench.driver.send(TX2, b"more");
    bench.work();
    assert!(bench.driver.used(TX2).is_some() && bench.driver.used(TX2).is_some());
    assert_eq!(bench.sinks[2].taken(), b"lost");
    assert_eq!(bench.control.stats().dropped_bytes, 14);
    assert!(bench.control.drained("bulk"));
    bench.driver.send(TX1, b"alive");
    bench.work();
    assert_eq!(bench.sinks[1].taken(), b"alive");
    // A new driver finds the port closed.
    bench.driver.start(ALL_FEATURES);
    for _ in 0..8 {
        bench.driver.post_receive(CTL_RX, 4096);
    }
    bench.say(2, PORT_READY, 1);
    assert_eq!(bench.heard(), Some((2, PORT_NAME, 1, "bulk".to_owned())));
    assert_eq!(bench.heard(), Some((2, PORT_OPEN, 0, String::new())));
}

fn a_sink_that_takes_nothing_is_an_error_not_a_loop(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.sinks[1].plan([Step::Take(0)]);
    bench.driver.send(TX1, b"x");
    bench.work();
    assert_eq!(bench.control.port_error("control").unwrap().kind(), ErrorKind::WriteZero);
}

fn input_waits_for_an_open_port_and_for_buffers(transport: Transport) {
    let mut bench = Bench::new(transport);
    bench.control.send("control", b"early ").unwrap();
    bench.driver.start(ALL_FEATURES);
    for _ in 0..4 {
        bench.driver.post_receive(RX1, 8);
    }
    assert_eq!(bench.driver.received(RX1), None);
    bench.shake_hands();
    assert_eq!(bench.driver.received(RX1).unwrap(), b"early ");
    bench.control.send("control", b"0123456789abcdefghijklmnopqrstuvwxyz").unwrap();
    for part in ["01234567", "89abcdef", "ghijklmn"] {
        assert_eq!(bench.driver.received(RX1).unwrap(), part.as_bytes());
    }
    assert_eq!(bench.driver.received(RX1), None);
    assert_eq!(bench.control.pending("control"), 12);
    // The device has asked for this notification, because it has more.
    bench.driver.post_receive(RX1, 100);
    assert_eq!(bench.driver.received(RX1).unwrap(), b"opqrstuvwxyz");
    assert_eq!(bench.control.pending("control"), 0);
}

fn input_is_bounded_and_taken_whole_or_not_at_all(transport: Transport) {
    let bench = Bench::new(transport);
    let half = vec![1; MAX_PENDING_BYTES / 2];
    bench.control.send("bulk", &half).unwrap();
    bench.control.send("bulk", &half[1..]).unwrap();
    let error = SendError::Full { port: "bulk".to_owned(), pending: MAX_PENDING_BYTES - 1 };
    assert_eq!(bench.control.send("bulk", &[1, 2]), Err(error));
    bench.control.send("bulk", &[1]).unwrap();
    let unknown = SendError::UnknownPort("nobody".to_owned());
    assert_eq!(bench.control.send("nobody", &[1]), Err(unknown));
}

fn reset_in_the_middle_and_a_new_driver_start_afresh(transport: Transport) {
    let mut bench = Bench::running(transport);
    bench.sinks[2].plan([Step::Take(3), Step::Fail(ErrorKind::WouldBlock)]);
    bench.driver.send(TX2, b"half of this");
    bench.work();
    bench.control.send("control", b"kept").unwrap();
    for _ in 0..5 {
        bench.driver.start(ALL_FEATURES);
        assert!(!bench.control.port_open("control"));
        bench.work_with_retries();
        // The chain of the old driver is not returned to the new one.
        assert_eq!(bench.driver.used(TX2), None);
        bench.shake_hands();
        bench.driver.send(TX2, b"+");
        bench.work();
        assert!(bench.driver.used(TX2).is_some());
    }
    assert_eq!(bench.sinks[2].taken(), b"hal+++++");
    bench.driver.post_receive(RX1, 64);
    assert_eq!(bench.driver.received(RX1).unwrap(), b"kept");
    bench.driver.set_status(0);
    bench.driver.set_status(0);
    assert!(bench.control.drained("bulk"));
}

fn a_kick_before_activation_is_made_up_for(transport: Transport) {
    let mut bench = Bench::new(transport);
    assert!(bench.driver.negotiate(ALL_FEATURES));
    bench.driver.set_up_queues();
    // Two vCPUs: one posts and kicks, the other is about to write DRIVER_OK.
    for queue in [TX0, TX2] {
        bench.driver.send(queue, b"early bird");
    }
    bench.work();
    bench.driver.set_status(15);
    bench.work();
    assert_eq!(bench.sinks[0].taken(), b"early bird");
    assert_eq!(bench.sinks[2].taken(), b"early bird");
}

fn event_idx_spares_interrupts_and_kicks(transport: Transport) {
    let mut bench = Bench::running(transport);
    let (raised, kicks) = (bench.driver.interrupt.raised(), bench.driver.kicks);
    for _ in 0..200 {
        bench.driver.send(TX2, b"quiet");
    }
    bench.work();
    // 200 chains were one notification, and one interrupt: the driver has seen none of them.
    assert_eq!(bench.driver.kicks - kicks, 1);
    assert_eq!(bench.driver.interrupt.raised() - raised, 1);
    // Work that returns nothing interrupts nobody.
    bench.driver.kick_always(TX2);
    bench.driver.kick_always(TX0);
    bench.work();
    assert_eq!(bench.driver.interrupt.raised() - raised, 1);
}

fn receive_buffers_cost_no_exits_while_there_is_nothing_to_receive(transport: Transport) {
    let mut bench = Bench::running(transport);
    let kicks = bench.driver.kicks;
    for _ in 0..16 {
        bench.driver.post_receive(RX1, 4096);
    }
    // One for the first, as avail_event starts at zero.
    assert_eq!(bench.driver.kicks - kicks, 1);
}

fn without_event_idx_the_flag_suppresses_interrupts(transport: Transport) {
    let mut bench = Bench::new(transport);
    bench.driver.start(ALL_FEATURES & !(1 << 29));
    bench.driver.send(TX0, b"a");
    assert_eq!(bench.driver.interrupt.raised(), 1);
    let flags = GuestAddress(bench.driver.queues[TX0].avail);
    bench.driver.ram.write_obj(1u16, flags).unwrap();
    bench.driver.send(TX0, b"b");
    assert_eq!(bench.driver.interrupt.raised(), 1);
    assert_eq!(bench.sinks[0].taken(), b"ab");
}

fn a_stream_costs_its_guest_few_notifications_and_interrupts(transport: Transport) {
    const CHAINS: usize = 2000;
    let mut bench = Bench::running(transport);
    let piece = (Driver::buffers(TX2), 32 << 10, 0);
    let (kicks_before, mut interrupts, mut in_flight) = (bench.driver.kicks, 0, 0);
    for _ in 0..CHAINS {
        bench.driver.post(TX2, &[piece]);
        bench.driver.kick(TX2);
        bench.work();
        in_flight += 1;
        // The driver takes back what it gets with each write, interrupted or not.
        while bench.driver.used(TX2).is_some() {
            in_flight -= 1;
        }
        assert!(in_flight <= 256, "the driver has no room");
        interrupts += usize::from(bench.driver.interrupt.has_come());
    }
    let kicks = bench.driver.kicks - kicks_before;
    // One each, if it were not for the stream; half of that allows for a machine that stands still.
    assert!(kicks < CHAINS as u64 / 2, "{kicks} notifications");
    assert!(interrupts < CHAINS / 2, "{interrupts} interrupts");
    // The stream's last are written and announced, although nobody rings again.
    bench.work_with_retries();
    while bench.driver.used(TX2).is_some() {
        in_flight -= 1;
    }
    assert_eq!(in_flight, 0);
    assert_eq!(bench.sinks[2].taken().len(), CHAINS << 15);
    // And the next message is heard at once.
    bench.driver.send(TX2, b"next");
    bench.work();
    assert_eq!(bench.sinks[2].taken().len(), (CHAINS << 15) + 4);
}

fn a_stream_has_its_buffers_back_one_by_one(transport: Transport) {
    let mut bench = Bench::running(transport);
    for _ in 0..4 {
        bench.driver.post(TX2, &[(Driver::buffers(TX2), 32 << 10, 0)]);
    }
    bench.driver.kick_always(TX2);
    // A sink that would take all of it at once.
    bench.sinks[2].plan([Step::Take(1 << 20), Step::Fail(ErrorKind::WouldBlock)]);
    bench.work();
    assert!(bench.driver.used(TX2).is_some());
    assert_eq!(bench.driver.used(TX2), None);
    assert_eq!(bench.sinks[2].taken().len(), 32 << 10);
    bench.work_with_retries();
    assert_eq!(bench.sinks[2].taken().len(), 128 << 10);
}

fn a_driver_that_waits_for_room_is_interrupted_when_half_of_the_ring_is_free(transport: Transport) {
    let mut bench = Bench::running(transport);
    let size = bench.driver.queues[TX2].size;
    // Those of the handshake.
    let _ = bench.driver.interrupt.has_come();
    for _ in 0..size {
        bench.driver.post(TX2, &[(Driver::buffers(TX2), 32 << 10, 0)]);
    }
    bench.driver.kick_always(TX2);
    // A sink that takes the first quarter, and no more for now.
    let quarter = (0..size / 4).map(|_| Step::Take(32 << 10));
    bench.sinks[2].plan(quarter.chain([Step::Fail(ErrorKind::WouldBlock)]));
    bench.work();
    assert!(!bench.driver.interrupt.has_come(), "too early");
    bench.work_with_retries();
    assert!(bench.driver.interrupt.has_come(), "the driver waits for ever");
    assert_eq!(bench.sinks[2].taken().len(), usize::from(size) << 15);
}
