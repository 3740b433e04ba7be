// SPDX-License-Identifier: Apache-2.0
//! Guest to host: the console's output inline, the other ports' on threads of their own.
//!
//! hvc spins with interrupts off until its 16 bytes are consumed (__send_to_port in
//! drivers/char/virtio_console.c). Handing them to a thread would make the guest wait for the
//! host's scheduler, the very thing we measure. So the vCPU that rings the bell copies them to
//! memory itself: one exit, no wake-up.
//!
//! A generic port carries bulk data to a sink that may block. Its [`PortWorker`] owns the sink;
//! the ring stays in a [`TransmitSlot`](super::slot::TransmitSlot) that is locked for moments only,
//! never across a write.
//!
//! What a stream costs its guest is exits: one for a notification, and three for an interrupt,
//! since the driver reads and writes a register of ours for it. So a worker in a stream looks into
//! the ring by itself from time to time, and the driver is interrupted when it waits for room, or
//! when the stream has ended.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vm_memory::Bytes;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::batch::Batch;
use super::counters::{Counters, lock};
use super::port::Port;
use super::shared::Shared;
use crate::virtio::ring::{Budget, Chain, Ring};

/// Chains that a worker takes before it lets others on its thread have their turn.
const CHAINS_PER_WAKE: usize = 64;

/// How long a worker waits when its sink would block.
const RETRY: Duration = Duration::from_millis(5);

/// So many bytes since it last slept, and a worker takes them for part of a stream. Shorter are
/// messages, whose sender may wait for an answer.
const STREAM_BYTES: usize = 16 << 10;

/// How long a worker waits for more of a stream without a notification. A guest that sends 5 GB a
/// second fills half of the ring in the meantime, and notifies then.
const LINGER: Duration = Duration::from_millis(1);

/// The console's output. Lives in the device, on vCPU threads.
pub(super) struct ConsoleOutput {
    ring: Option<Ring>,
    sink: Box<dyn Write + Send>,
}

impl ConsoleOutput {
    pub(super) fn new(sink: Box<dyn Write + Send>) -> Self {
        Self { ring: None, sink }
    }

    pub(super) fn attach(&mut self, ring: Option<Ring>) {
        self.ring = ring;
    }

    /// Moves what the guest has printed to the sink. Linux sends one chain of 16 bytes and waits for
    /// it. The rest of one that is longer than the budget is dropped; more chains than that, which
    /// only several CPUs without a lock can post, stay until the next bell.
    pub(super) fn drain(&mut self, counters: &Counters, budget: &mut Budget) {
        let Some(ring) = self.ring.as_mut() else { return };
        while budget.chain() {
            let Some(chain) = ring.pop_or_wait() else { break };
            let head = chain.head_index();
            copy_out(&chain, self.sink.as_mut(), counters, budget);
            ring.complete(head, 0);
        }
        ring.notify_driver();
    }
}

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOutput").field("ring", &self.ring).finish_non_exhaustive()
    }
}

/// Copies the readable part of `chain` to `sink` by way of the stack: these are short, and a
/// sink in memory must not see bytes that the guest still changes.
fn copy_out(chain: &Chain, sink: &mut dyn Write, counters: &Counters, budget: &mut Budget) {
    let ram = chain.memory();
    let mut buffer = [0; 1024];
    for descriptor in budget.walk(chain) {
        if descriptor.is_write_only() {
            continue;
        }
        let length = descriptor.len() as usize;
        let mut address = descriptor.addr();
        let mut left = budget.bytes(length);
        counters.dropped(length - left);
        while left > 0 {
            let wanted = left.min(buffer.len());
            let read = ram.read(&mut buffer[..wanted], address).unwrap_or(0);
            if read == 0 {
                counters.guest_error();
                return;
            }
            let taken = sink.write(&buffer[..read]).unwrap_or(0).min(read);
            counters.dropped(read - taken);
            left -= read;
            address.0 = address.0.wrapping_add(read as u64);
        }
    }
}

/// The I/O side of one generic port: add it to the [`EventManager`](event_manager::EventManager)
/// of the thread that shall write to the port's sink.
pub struct PortWorker {
    shared: Arc<Shared>,
    id: usize,
    sink: Box<dyn Write + Send>,
    timer: TimerFd,
    batch: Batch,
    generation: u64,
    failed: bool,
    /// Written since the worker last had nothing to do.
    stream_bytes: usize,
}

/// What became of one round of work.
enum Round {
    /// The ring is empty.
    Idle,
    /// The sink is full.
    Blocked,
    /// So many chains were returned.
    Moved(usize),
}

impl PortWorker {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: usize,
        sink: Box<dyn Write + Send>,
        timer: TimerFd,
    ) -> Self {
        let batch = Batch::default();
        Self { shared, id, sink, timer, batch, generation: 0, failed: false, stream_bytes: 0 }
    }

    /// The name of the port.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.port().name
    }

    fn port(&self) -> &Port {
        &self.shared.ports[self.id]
    }

    /// Works until the ring is empty, the sink is full, or it is the others' turn.
    fn serve(&mut self) {
        let mut budget = CHAINS_PER_WAKE;
        while budget > 0 {
            match self.round() {
                Round::Idle if self.rest() => return,
                Round::Idle => {}
                Round::Blocked if self.wake_after(RETRY) => return,
                Round::Blocked => {}
                // A round of a long chain returns none and is work all the same.
                Round::Moved(chains) => budget = budget.saturating_sub(chains.max(1)),
            }
        }
        self.port().wake();
    }

    /// Nothing to do: true once somebody will wake us, false if chains have arrived after all.
    fn rest(&mut self) -> bool {
        let streaming = std::mem::take(&mut self.stream_bytes) >= STREAM_BYTES;
        if streaming && !self.wake_after(LINGER) {
            return false;
        }
        let mut slot = lock(&self.shared.ports[self.id].transmit);
        let Some(ring) = slot.ring.as_mut() else { return true };
        if streaming {
            ring.wait_for_half();
            return true;
        }
        ring.notify_driver();
        !ring.wait()
    }

    /// Whether the timer will wake us; without it the port has failed.
    fn wake_after(&mut self, time: Duration) -> bool {
        let set = self.timer.reset(time, None);
        set.map_err(|error| self.fail(io::Error::from(error))).is_ok()
    }

    /// Takes chains, writes once, returns the chains that are done.
    fn round(&mut self) -> Round {
        self.take_chains();
        if self.batch.is_empty() {
            return Round::Idle;
        }
        let written = if self.failed {
            let bytes = self.batch.discard(&self.shared.counters);
            self.shared.counters.dropped(bytes);
            Ok(bytes)
        } else {
            self.batch.write_to(self.sink.as_mut(), &self.shared.counters)
        };
        let moved = self.return_chains();
        match written {
            Ok(bytes) => {
                self.stream_bytes = self.stream_bytes.saturating_add(bytes);
                Round::Moved(moved)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Round::Moved(moved),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Round::Blocked,
            Err(error) => {
                self.fail(error);
                Round::Moved(moved)
            }
        }
    }

    /// Fills the batch from the ring.
    fn take_chains(&mut self) {
        let mut slot = lock(&self.shared.ports[self.id].transmit);
        if slot.generation != self.generation {
            self.batch.clear();
            self.generation = slot.generation;
        }
        let Some(ring) = slot.ring.as_mut() else { return };
        while self.batch.open_chains() < CHAINS_PER_WAKE {
            let Some(chain) = ring.pop() else { break };
            self.batch.push(chain, ring.ram());
        }
        slot.in_flight = self.batch.open_chains();
    }

    /// Returns the chains that are done, unless a reset has taken them from us.
    fn return_chains(&mut self) -> usize {
        let mut slot = lock(&self.shared.ports[self.id].transmit);
        if slot.generation != self.generation {
            self.batch.clear();
            return 0;
        }
        let mut returned = 0;
        if let Some(ring) = slot.ring.as_mut() {
            while let Some(head) = self.batch.pop_finished() {
                ring.complete(head, 0);
                returned += 1;
            }
            ring.notify_full_driver();
        }
        slot.in_flight = self.batch.open_chains();
        returned
    }

    /// The sink is lost: remembers why, tells the guest, and from now on discards.
    fn fail(&mut self, error: io::Error) {
        self.failed = true;
        let port = &self.shared.ports[self.id];
        // The first error is the one that counts.
        let _ = port.error.set(Arc::new(error));
        lock(&self.shared.control).close(self.id, &self.shared.ports, &self.shared.counters);
    }
}

/// Which of a worker's descriptors an event is about.
const KICK: u32 = 0;
const TIMER: u32 = 1;

impl MutEventSubscriber for PortWorker {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        // Both are only wake-ups: an error here means that another read has emptied them.
        if events.data() == TIMER {
            let _ = self.timer.clear();
        } else {
            let _ = self.port().kick.read();
        }
        self.serve();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let kick = Events::with_data(self.port().kick.as_ref(), KICK, EventSet::IN);
        let timer = Events::with_data(&self.timer, TIMER, EventSet::IN);
        if let Err(error) = ops.add(kick).and_then(|()| ops.add(timer)) {
            self.fail(io::Error::other(error));
        }
    }
}

impl fmt::Debug for PortWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortWorker").field("name", &self.name()).finish_non_exhaustive()
    }
}
