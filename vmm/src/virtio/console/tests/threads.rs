// SPDX-License-Identifier: Apache-2.0
//! Workers on threads of their own, as in a machine: no lost wake-ups, no waiting for a sink.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::*;

over_both_transports! {
    no_wake_up_is_lost_in_either_direction,
    no_wake_up_is_lost_in_a_stream_of_large_pieces,
    no_wake_up_is_lost_on_a_single_cpu,
    a_chain_posted_while_the_worker_goes_to_sleep_is_not_forgotten,
    what_was_sent_before_a_reset_reaches_the_sink,
    a_sink_that_hangs_stops_nobody_else_not_even_a_reset,
}

/// Waits for the device's interrupt as a sleeping writer does: a lost one fails the test.
fn wait_for_interrupt(driver: &Driver) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !driver.interrupt.has_come() {
        assert!(Instant::now() < deadline, "the interrupt was lost");
        thread::yield_now();
    }
}

fn spawn(worker: PortWorker) {
    thread::spawn(move || {
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(worker);
        loop {
            events.run().unwrap();
        }
    });
}

fn no_wake_up_is_lost_in_either_direction(transport: Transport) {
    stream_to_a_worker(transport, 4, 100_000);
}

fn no_wake_up_is_lost_in_a_stream_of_large_pieces(transport: Transport) {
    stream_to_a_worker(transport, 16 << 10, 5_000);
}

/// A monitor whose threads share one CPU with its writer: each runs only when the other waits.
fn no_wake_up_is_lost_on_a_single_cpu(transport: Transport) {
    // SAFETY: an all-zero set of CPUs is an empty one.
    let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: takes nothing.
    let here = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap();
    // SAFETY: `here` is a CPU, and so lies in the set.
    unsafe { libc::CPU_SET(here, &mut cpus) };
    // SAFETY: the set is as long as it is said to be; 0 is this thread, whose children inherit it.
    let set = unsafe { libc::sched_setaffinity(0, size_of_val(&cpus), &raw const cpus) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    stream_to_a_worker(transport, 4, 100_000);
    stream_to_a_worker(transport, 16 << 10, 5_000);
}

/// Sends so many messages of so many bytes, numbered, as fast as there is room.
fn stream_to_a_worker(transport: Transport, bytes: usize, messages: u32) {
    let sinks: Vec<_> = NAMES.iter().map(|_| TestSink::default()).collect();
    let handles = Console::new(specs(&sinks)).unwrap();
    handles.workers.into_iter().for_each(spawn);
    let mut driver = Driver::new(transport, Box::new(handles.console));
    driver.start(ALL_FEATURES);
    let size = driver.queues[TX2].size;
    let mut expected = Vec::new();
    let mut in_flight = 0;
    for n in 0..messages {
        while in_flight == size {
            // Look, then sleep: what the driver does under its lock.
            while driver.used(TX2).is_some() {
                in_flight -= 1;
            }
            if in_flight == size {
                wait_for_interrupt(&driver);
            }
        }
        let message = n.to_le_bytes().repeat(bytes / 4);
        let address = Driver::buffers(TX2) + u64::from(n) % u64::from(size) * bytes as u64;
        driver.ram.write_slice(&message, GuestAddress(address)).unwrap();
        driver.post(TX2, &[(address, u32::try_from(bytes).unwrap(), 0)]);
        driver.kick(TX2);
        expected.extend(message);
        in_flight += 1;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !handles.control.drained("bulk") {
        assert!(Instant::now() < deadline, "the last kick was lost");
        thread::yield_now();
    }
    assert!(sinks[2].taken() == expected);
}

fn a_chain_posted_while_the_worker_goes_to_sleep_is_not_forgotten(transport: Transport) {
    let sinks: Vec<_> = NAMES.iter().map(|_| TestSink::default()).collect();
    let handles = Console::new(specs(&sinks)).unwrap();
    handles.workers.into_iter().for_each(spawn);
    let mut driver = Driver::new(transport, Box::new(handles.console));
    driver.start(ALL_FEATURES);
    // The next chain comes when the last one is returned: just then the worker looks into the
    // ring once more, and asks for a notification. A different delay each time hits every point.
    for n in 0..40_000u32 {
        for _ in 0..n % 199 {
            std::hint::spin_loop();
        }
        driver.send(TX1, b".");
        let deadline = Instant::now() + Duration::from_secs(10);
        while driver.used(TX1).is_none() {
            assert!(Instant::now() < deadline, "chain {n} was forgotten");
            std::hint::spin_loop();
        }
    }
    assert_eq!(sinks[1].taken().len(), 40_000);
}

/// A kernel that powers off resets the device at once, whatever was sent just before.
fn what_was_sent_before_a_reset_reaches_the_sink(transport: Transport) {
    let sinks: Vec<_> = NAMES.iter().map(|_| TestSink::default()).collect();
    let handles = Console::new(specs(&sinks)).unwrap();
    let mut driver = Driver::new(transport, Box::new(handles.console));
    let mut expected = 0;
    let mut workers = handles.workers;
    let mut started = Vec::new();
    for round in 0..20 {
        driver.start(ALL_FEATURES);
        for _ in 0..8 {
            driver.send(TX1, b"last words");
            expected += 10;
        }
        if round == 0 {
            // As late as on a busy machine: the reset has begun by then.
            let late = workers.remove(0);
            started.push(thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                spawn(late);
            }));
        }
        driver.set_status(0);
        assert_eq!(sinks[1].taken().len(), expected, "round {round}");
    }
    started.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A sink that says when it is entered, and stays until told to go on.
struct Gate {
    entered: Sender<()>,
    go_on: Receiver<()>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.entered.send(()).unwrap();
        self.go_on.recv().unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn a_sink_that_hangs_stops_nobody_else_not_even_a_reset(transport: Transport) {
    let sinks: Vec<_> = NAMES.iter().map(|_| TestSink::default()).collect();
    let (entered, wait_entered) = channel();
    let (let_go, go_on) = channel();
    let mut specs = specs(&sinks);
    specs[2].sink = Box::new(Gate { entered, go_on });
    let mut handles = Console::new(specs).unwrap();
    handles.console.reset_timeout = Duration::from_millis(20);
    let mut bench = Bench {
        driver: Driver::new(transport, Box::new(handles.console)),
        control: handles.control,
        events: EventManager::new().unwrap(),
        sinks,
    };
    for worker in handles.workers {
        if worker.name() == "bulk" {
            spawn(worker);
        } else {
            bench.events.add_subscriber(worker);
        }
    }
    bench.driver.start(ALL_FEATURES);
    bench.shake_hands();
    bench.driver.send(TX2, b"stuck");
    wait_entered.recv().unwrap();
    // The ring is empty, but not all is written.
    assert!(!bench.control.drained("bulk"));
    // All of this happens while the worker sits in its write.
    bench.driver.send(TX0, b"console");
    bench.driver.send(TX1, b"control");
    bench.work();
    assert_eq!(bench.sinks[0].taken(), b"console");
    assert_eq!(bench.sinks[1].taken(), b"control");
    bench.say(2, PORT_OPEN, 0);
    bench.driver.send(TX2, b"waiting");
    assert!(!bench.control.drained("bulk"));
    bench.driver.start(ALL_FEATURES);
    bench.shake_hands();
    assert!(bench.control.drained("bulk"));
    bench.driver.send(TX2, b"new");
    // The old write ends; its chain must not show up in the new ring.
    let_go.send(()).unwrap();
    wait_entered.recv().unwrap();
    assert_eq!(bench.driver.used(TX2), None);
    let_go.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !bench.control.drained("bulk") {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    assert!(bench.driver.used(TX2).is_some());
    assert_eq!(bench.driver.used(TX2), None);
}
