// SPDX-License-Identifier: Apache-2.0
//! A queue in use: the split virtqueue of virtio 1.2, section 2.7, seen from the device.
//!
//! [`virtio_queue::Queue`] does the ring arithmetic. [`Ring`] adds what every user needs beside
//! it: the memory, the interrupt, and one answer to a driver that breaks the rules. A broken
//! ring yields nothing any more and the device asks for a reset; the other rings live on.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::interrupt::Interrupt;
use crate::memory::GuestRam;

/// A descriptor chain that keeps the memory it points into alive.
///
/// Walking one always ends, but not soon: the crate bounds it by the size of its table, 65,535
/// at most. On a vCPU thread a [`Budget`] does.
pub type Chain = DescriptorChain<Arc<GuestRam>>;

/// VRING_AVAIL_F_NO_INTERRUPT: "do not interrupt me" without EVENT_IDX (virtio 1.2, 2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// How many descriptors of a chain are looked at on a vCPU thread, of either direction. The Linux
/// console driver puts a message or buffer into one, and at most two when it crosses a page.
pub const MAX_SMALL_DESCRIPTORS: u32 = 32;

/// Chains and descriptors that one exit looks at, of all queues together: some 0.1 ms.
const MAX_STEPS: u32 = 1024;
/// Bytes that it copies.
const MAX_BYTES: usize = 64 << 10;

/// What one exit of a vCPU may still cost. A vCPU in our hands can neither run nor be stopped, so
/// whatever a driver has put into its queues, all walks of one exit together come to an end. What
/// is left over waits for the next notification; the Linux driver never has so much in flight.
#[derive(Debug)]
pub struct Budget {
    steps: u32,
    bytes: usize,
}

impl Budget {
    /// Of an exit that has just begun.
    #[must_use]
    pub fn of_an_exit() -> Self {
        Self { steps: MAX_STEPS, bytes: MAX_BYTES }
    }

    /// Whether there is enough for one more chain, however long it is.
    pub fn chain(&mut self) -> bool {
        let is_enough = self.steps > MAX_SMALL_DESCRIPTORS;
        if is_enough {
            self.steps -= 1;
        }
        is_enough
    }

    /// The beginning of a chain, as far as it is looked at.
    pub fn walk(&mut self, chain: &Chain) -> impl Iterator<Item = Descriptor> + use<> {
        // Each is paid for, also one of the wrong direction.
        let most = self.steps.min(MAX_SMALL_DESCRIPTORS);
        self.steps -= most;
        chain.clone().take(most as usize).inspect(|_| walked::one())
    }

    /// Whether a byte may still be copied.
    #[must_use]
    pub fn has_bytes(&self) -> bool {
        self.bytes > 0
    }

    /// Of so many bytes, those that may be copied, and now are.
    pub fn bytes(&mut self, wanted: usize) -> usize {
        let granted = wanted.min(self.bytes);
        self.bytes -= granted;
        granted
    }
}

/// A validated queue, from DRIVER_OK until reset.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    /// Its number among the device's queues.
    index: usize,
    ram: Arc<GuestRam>,
    interrupt: Interrupt,
    used_advanced: bool,
    /// Index of the used ring when the driver was last told of it.
    announced: Wrapping<u16>,
    broken: bool,
}

impl Ring {
    /// Puts queue `index` of a device to use, which has been checked to lie in `ram`.
    pub(super) fn new(
        queue: Queue,
        index: usize,
        ram: Arc<GuestRam>,
        interrupt: Interrupt,
    ) -> Self {
        let announced = Wrapping(queue.next_used());
        Self { queue, index, ram, interrupt, used_advanced: false, announced, broken: false }
    }

    /// The memory that the chains point into.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The next chain that the driver has made available.
    pub fn pop(&mut self) -> Option<Chain> {
        if self.broken {
            return None;
        }
        // `iter` compares the driver's index with ours: a jump by more than the size of the
        // queue is an error here, and otherwise the number of chains is bounded by that size.
        let Ok(mut available) = self.queue.iter(Arc::clone(&self.ram)) else {
            self.fail();
            return None;
        };
        // A head outside of the table yields a chain without descriptors, and breaks the ring when
        // it is returned.
        available.next()
    }

    /// As [`pop`](Self::pop); when there is none, asks the driver to notify us of the next.
    pub fn pop_or_wait(&mut self) -> Option<Chain> {
        self.pop().or_else(|| if self.wait() { self.pop() } else { None })
    }

    /// Asks the driver for a notification. True if buffers have arrived in the meantime: the
    /// notification for those will not come, so the caller has to look again.
    pub fn wait(&mut self) -> bool {
        if self.broken {
            return false;
        }
        self.queue.enable_notification(self.ram.as_ref()).unwrap_or_else(|_| {
            self.fail();
            false
        })
    }

    /// Asks the driver for no notification before it has filled half of the ring: for a device that
    /// looks again by itself in the meantime. A driver without EVENT_IDX notifies as ever.
    pub fn wait_for_half(&mut self) {
        if self.broken || !self.queue.event_idx_enabled() {
            return;
        }
        let size = self.queue.size();
        // struct virtq_used: flags and index, 2 bytes each, `size` entries of 8, avail_event.
        let event = self.queue.used_ring() + 4 + 8 * u64::from(size);
        let index = self.queue.next_avail().wrapping_add(size / 2);
        if self.ram.store(index.to_le(), GuestAddress(event), Ordering::Relaxed).is_err() {
            self.fail();
        }
    }

    /// Returns the chain that starts at `head`, with `written` bytes written into it.
    pub fn complete(&mut self, head: u16, written: u32) {
        if self.broken {
            return;
        }
        match self.queue.add_used(self.ram.as_ref(), head, written) {
            Ok(()) => self.used_advanced = true,
            Err(_) => self.fail(),
        }
    }

    /// Interrupts the driver, if chains were returned since the last call and it wants to know.
    pub fn notify_driver(&mut self) {
        if self.broken || !std::mem::take(&mut self.used_advanced) {
            return;
        }
        self.announced = Wrapping(self.queue.next_used());
        if self.interrupt_suppressed() {
            return;
        }
        match self.queue.needs_notification(self.ram.as_ref()) {
            Ok(true) => self.interrupt.used_buffers(self.index),
            Ok(false) => {}
            Err(_) => self.fail(),
        }
    }

    /// As [`notify_driver`](Self::notify_driver), but leaves a driver alone that still has room in
    /// the ring, and one that has none until half of it is free. The driver hears of the rest when
    /// `notify_driver` is called, which has to be soon.
    ///
    /// A driver that found the ring full did so after it had seen a used index no older than the
    /// announced one: since then it has made a whole ring of chains available. It is not missed:
    /// either its last chain is seen here, or our used index there, as each side writes first, and
    /// looks at the other's index behind a barrier.
    pub fn notify_full_driver(&mut self) {
        fence(Ordering::SeqCst);
        let Ok(available) = self.queue.avail_idx(self.ram.as_ref(), Ordering::Relaxed) else {
            self.fail();
            return;
        };
        let size = self.queue.size();
        let held = (available - Wrapping(self.queue.next_used())).0;
        if (available - self.announced).0 >= size && held <= size / 2 {
            self.notify_driver();
        }
    }

    /// Whether every chain that the driver has made available was popped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.broken
            || self
                .queue
                .avail_idx(self.ram.as_ref(), Ordering::Acquire)
                .is_ok_and(|index| index == Wrapping(self.queue.next_avail()))
    }

    /// The flag is for drivers without EVENT_IDX. `needs_notification` does not know it.
    fn interrupt_suppressed(&self) -> bool {
        !self.queue.event_idx_enabled()
            && self
                .ram
                .load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::Acquire)
                .is_ok_and(|flags| u16::from_le(flags) & AVAIL_F_NO_INTERRUPT != 0)
    }

    fn fail(&mut self) {
        self.broken = true;
        self.interrupt.device_needs_reset();
    }
}

/// Copies the readable part of `chain` into `buffer`, as much as fits; returns the length.
pub fn gather(chain: &Chain, buffer: &mut [u8], budget: &mut Budget) -> usize {
    let ram = chain.memory();
    let mut filled = 0;
    for descriptor in budget.walk(chain).filter(|descriptor| !descriptor.is_write_only()) {
        let rest = &mut buffer[filled..];
        let wanted = rest.len().min(descriptor.len() as usize);
        let read = ram.read(&mut rest[..wanted], descriptor.addr()).unwrap_or(0);
        filled += read;
        if read < wanted || filled == buffer.len() {
            break;
        }
    }
    filled
}

/// Copies `data` into the writable part of `chain`, as much as fits; returns the length.
pub fn scatter(chain: &Chain, data: &[u8], budget: &mut Budget) -> usize {
    let ram = chain.memory();
    let mut written = 0;
    for descriptor in budget.walk(chain).filter(|descriptor| descriptor.is_write_only()) {
        let rest = &data[written..];
        let wanted = rest.len().min(descriptor.len() as usize);
        let copied = ram.write(&rest[..wanted], descriptor.addr()).unwrap_or(0);
        written += copied;
        if copied < wanted || written == data.len() {
            break;
        }
    }
    written
}

/// How many descriptors this thread has looked at, for tests.
pub(super) mod walked {
    #[cfg(test)]
    use std::cell::Cell;

    #[cfg(test)]
    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn one() {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
    }

    #[cfg(test)]
    pub(in crate::virtio) fn take() -> u64 {
        STEPS.take()
    }
}
