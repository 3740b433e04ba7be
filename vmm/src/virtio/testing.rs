// SPDX-License-Identifier: Apache-2.0
//! A driver in the same process: what the Linux driver does to the registers and rings, and all
//! that it would never do, over either transport.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex};

use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_NEXT;
use vm_memory::{Bytes, GuestAddress};

use super::common::Common;
use super::device::VirtioDevice;
use super::interrupt::Interrupt;
use super::queue_setup::{Half, QueueField};
use crate::config::Transport;
use crate::memory::GuestRam;

mod registers;

pub(super) use registers::Registers;
pub(super) use registers::pci::{
    BASE as PCI_BASE, get as pci_get, new as pci_transport, set as pci_set,
};

pub(super) const RAM_BYTES: u64 = 32 << 20;
/// RAM is two regions that touch here, so that a buffer can lie in both.
pub(super) const RAM_SEAM: u64 = 16 << 20;

pub(super) const F_VERSION_1: u64 = 1 << 32;
pub(super) const F_EVENT_IDX: u64 = 1 << 29;
pub(super) const F_INDIRECT: u64 = 1 << 28;
pub(super) const F_MULTIPORT: u64 = 1 << 1;
pub(super) const ALL_FEATURES: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT | F_MULTIPORT | 1;

const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Queue `n` has its rings at 1 MiB + n * 64 KiB, and buffers from 4 MiB + n * 512 KiB.
const RINGS: u64 = 1 << 20;
const RINGS_STRIDE: u64 = 64 << 10;
const BUFFERS: u64 = 4 << 20;
const BUFFERS_STRIDE: u64 = 512 << 10;

/// One descriptor: address, length, flags without NEXT.
pub(super) type Desc = (u64, u32, u16);

pub(super) fn ram() -> GuestRam {
    GuestRam::from_ranges(&[
        (GuestAddress(0), usize::try_from(RAM_SEAM).unwrap()),
        (GuestAddress(RAM_SEAM), usize::try_from(RAM_BYTES - RAM_SEAM).unwrap()),
    ])
    .unwrap()
}

/// The driver's view of one queue.
#[derive(Clone, Debug)]
pub(super) struct DriverQueue {
    pub(super) size: u16,
    pub(super) table: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
    pub(super) avail_index: u16,
    pub(super) seen_used: u16,
    pub(super) next_descriptor: u16,
}

impl DriverQueue {
    /// A queue whose three parts lie in the 64 KiB from `base`.
    pub(super) fn at(base: u64, size: u16) -> Self {
        Self {
            size,
            table: base,
            avail: base + 0x8000,
            used: base + 0xc000,
            avail_index: 0,
            seen_used: 0,
            next_descriptor: 0,
        }
    }
}

/// A guest with one virtio device.
pub(super) struct Driver {
    pub(super) ram: GuestRam,
    pub(super) registers: Box<dyn Registers>,
    pub(super) interrupt: Interrupt,
    pub(super) queues: Vec<DriverQueue>,
    pub(super) features: u64,
    /// Notifications sent.
    pub(super) kicks: u64,
}

impl Driver {
    pub(super) fn new(transport: Transport, device: Box<dyn VirtioDevice>) -> Self {
        let ram = ram();
        let registers = registers::new(transport, ram.clone(), device);
        let interrupt = registers.common().interrupt().clone();
        Self { ram, registers, interrupt, queues: Vec::new(), features: 0, kicks: 0 }
    }

    pub(super) fn common(&self) -> &Common {
        self.registers.common()
    }

    pub(super) fn status(&mut self) -> u32 {
        self.registers.status()
    }

    pub(super) fn set_status(&mut self, status: u32) {
        self.registers.set_status(status);
    }

    /// Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK; true if they were accepted.
    pub(super) fn negotiate(&mut self, features: u64) -> bool {
        self.set_status(0);
        assert_eq!(self.status(), 0);
        self.registers.map_configuration();
        self.set_status(1);
        self.set_status(3);
        self.features = features;
        let bytes = features.to_le_bytes();
        for page in 0..2u32 {
            let at = 4 * page as usize;
            let bits = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            self.registers.choose_features(page, bits);
        }
        self.set_status(11);
        self.status() == 11
    }

    /// Sets up all queues at their largest size.
    pub(super) fn set_up_queues(&mut self) {
        self.queues.clear();
        for index in 0.. {
            self.registers.select_queue(index);
            let size = self.registers.queue_max();
            if size == 0 {
                break;
            }
            assert_eq!(self.registers.queue_ready(), 0);
            let base = RINGS + RINGS_STRIDE * u64::from(index);
            let queue = DriverQueue::at(base, u16::try_from(size).unwrap());
            let zeros = vec![0; usize::try_from(RINGS_STRIDE).unwrap()];
            self.ram.write_slice(&zeros, GuestAddress(base)).unwrap();
            self.describe(&queue, size);
            self.queues.push(queue);
        }
    }

    /// Writes the registers of the selected queue.
    pub(super) fn describe(&mut self, queue: &DriverQueue, size: u32) {
        self.registers.map_queue();
        self.registers.write_queue(QueueField::Size, size);
        for (field, value) in [
            (QueueField::Table as fn(Half) -> QueueField, queue.table),
            (QueueField::Driver, queue.avail),
            (QueueField::Device, queue.used),
        ] {
            let low = u32::try_from(value & 0xffff_ffff).unwrap();
            self.registers.write_queue(field(Half::Low), low);
            self.registers.write_queue(field(Half::High), u32::try_from(value >> 32).unwrap());
        }
        self.registers.write_queue(QueueField::Ready, 1);
    }

    /// From power-on to DRIVER_OK.
    pub(super) fn start(&mut self, features: u64) {
        assert!(self.negotiate(features));
        self.set_up_queues();
        self.set_status(15);
        assert_eq!(self.status(), 15);
        assert!(self.common().activated());
    }

    /// Where queue `queue` may have its buffers.
    pub(super) fn buffers(queue: usize) -> u64 {
        BUFFERS + BUFFERS_STRIDE * queue as u64
    }

    /// Puts a chain into the table and makes it available. Returns its head.
    pub(super) fn post(&mut self, queue: usize, chain: &[Desc]) -> u16 {
        let q = &mut self.queues[queue];
        let slot = |n: usize| (q.next_descriptor + u16::try_from(n).unwrap()) % q.size;
        let head = slot(0);
        for (n, &(address, length, flags)) in chain.iter().enumerate() {
            let next = if n + 1 < chain.len() { NEXT } else { 0 };
            let bytes = descriptor((address, length, flags | next), slot(n + 1));
            let at = q.table + 16 * u64::from(slot(n));
            self.ram.write_slice(&bytes, GuestAddress(at)).unwrap();
        }
        q.next_descriptor = slot(chain.len());
        self.publish(queue, head);
        head
    }

    /// Puts `table` at `address` and a chain of one indirect descriptor into the queue.
    pub(super) fn post_indirect(&mut self, queue: usize, address: u64, table: &[Desc]) -> u16 {
        write_table(&self.ram, address, table);
        self.post(queue, &[(address, u32::try_from(16 * table.len()).unwrap(), INDIRECT)])
    }

    /// Makes the chain at `head` available.
    pub(super) fn publish(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        let at = q.avail + 4 + 2 * u64::from(q.avail_index % q.size);
        self.ram.write_obj(head, GuestAddress(at)).unwrap();
        q.avail_index = q.avail_index.wrapping_add(1);
        let index = GuestAddress(q.avail + 2);
        self.ram.store(q.avail_index, index, Ordering::SeqCst).unwrap();
        fence(Ordering::SeqCst);
    }

    /// Whether the device wants to hear of the last chain (virtqueue_kick_prepare).
    fn kick_wanted(&self, queue: usize) -> bool {
        let q = &self.queues[queue];
        if self.features & F_EVENT_IDX == 0 {
            return self.ram.read_obj::<u16>(GuestAddress(q.used)).unwrap() & 1 == 0;
        }
        let at = q.used + 4 + 8 * u64::from(q.size);
        let event: u16 = self.ram.load(GuestAddress(at), Ordering::SeqCst).unwrap();
        event == q.avail_index.wrapping_sub(1)
    }

    /// Notifies the device as a driver does: after each chain, when it is wanted.
    pub(super) fn kick(&mut self, queue: usize) {
        if self.kick_wanted(queue) {
            self.kick_always(queue);
        }
    }

    pub(super) fn kick_always(&mut self, queue: usize) {
        self.kicks += 1;
        let number = u32::try_from(queue).unwrap();
        match self.common().io_events().iter().find(|event| event.queue == number) {
            Some(io_event) => io_event.event.write(1).unwrap(),
            None => self.registers.ring_bell(number),
        }
    }

    /// Sends `bytes` as one chain of one buffer, and kicks.
    pub(super) fn send(&mut self, queue: usize, bytes: &[u8]) -> u16 {
        let slot = u64::from(self.queues[queue].avail_index % self.queues[queue].size);
        let address = Self::buffers(queue) + slot * 2048;
        self.ram.write_slice(bytes, GuestAddress(address)).unwrap();
        let head = self.post(queue, &[(address, u32::try_from(bytes.len()).unwrap(), 0)]);
        self.kick(queue);
        head
    }

    /// Posts a receive buffer of `length` bytes, and kicks.
    pub(super) fn post_receive(&mut self, queue: usize, length: u32) {
        let slot = u64::from(self.queues[queue].avail_index % self.queues[queue].size);
        self.post(queue, &[(Self::buffers(queue) + slot * 4096, length, WRITE)]);
        self.kick(queue);
    }

    /// The next chain the device has returned: head and length (virtqueue_get_buf).
    pub(super) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let q = &mut self.queues[queue];
        let index: u16 = self.ram.load(GuestAddress(q.used + 2), Ordering::SeqCst).unwrap();
        if index == q.seen_used {
            return None;
        }
        let at = q.used + 4 + 8 * u64::from(q.seen_used % q.size);
        let [head, length] = self.ram.read_obj::<[u32; 2]>(GuestAddress(at)).unwrap();
        q.seen_used = q.seen_used.wrapping_add(1);
        // "Interrupt me for the next one": used_event.
        let event = GuestAddress(q.avail + 4 + 2 * u64::from(q.size));
        self.ram.store(q.seen_used, event, Ordering::SeqCst).unwrap();
        Some((u16::try_from(head).unwrap(), length))
    }

    /// The next received bytes, found in the buffer that was returned.
    pub(super) fn received(&mut self, queue: usize) -> Option<Vec<u8>> {
        let (head, length) = self.used(queue)?;
        let at = self.queues[queue].table + 16 * u64::from(head);
        let address: u64 = self.ram.read_obj(GuestAddress(at)).unwrap();
        let mut bytes = vec![0; length as usize];
        self.ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        Some(bytes)
    }
}

/// The bytes of a descriptor.
pub(super) fn descriptor((address, length, flags): Desc, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// Writes an indirect table whose entries are chained in order.
pub(super) fn write_table(ram: &GuestRam, address: u64, table: &[Desc]) {
    for (n, &(buffer, length, flags)) in table.iter().enumerate() {
        let next = if n + 1 < table.len() { u16::try_from(VRING_DESC_F_NEXT).unwrap() } else { 0 };
        let bytes = descriptor((buffer, length, flags | next), u16::try_from(n + 1).unwrap());
        ram.write_slice(&bytes, GuestAddress(address + 16 * n as u64)).unwrap();
    }
}

/// What a [`TestSink`] does with one write.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Takes this many bytes at most.
    Take(usize),
    /// Fails.
    Fail(ErrorKind),
}

/// A sink that remembers, and that can be told to misbehave. Clones are the same sink.
#[derive(Clone, Debug, Default)]
pub(super) struct TestSink {
    pub(super) bytes: Arc<Mutex<Vec<u8>>>,
    pub(super) script: Arc<Mutex<VecDeque<Step>>>,
    /// How many writes there were.
    pub(super) writes: Arc<Mutex<usize>>,
}

impl TestSink {
    pub(super) fn taken(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    pub(super) fn plan(&self, steps: impl IntoIterator<Item = Step>) {
        self.script.lock().unwrap().extend(steps);
    }

    fn allowance(&self) -> io::Result<usize> {
        match self.script.lock().unwrap().pop_front() {
            None => Ok(usize::MAX),
            Some(Step::Take(bytes)) => Ok(bytes),
            Some(Step::Fail(kind)) => Err(kind.into()),
        }
    }
}

impl Write for TestSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.writes.lock().unwrap() += 1;
        let taken = bytes.len().min(self.allowance()?);
        self.bytes.lock().unwrap().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Numbers that look random and are the same each time (Knuth's MMIX generator).
#[derive(Debug)]
pub(super) struct Lcg(pub(super) u64);

impl Lcg {
    pub(super) fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// Makes tests of functions that take a transport: each over both.
macro_rules! over_both_transports {
    ($($test:ident),+ $(,)?) => {
        mod over_mmio {
            $(#[test] fn $test() { super::$test(crate::config::Transport::Mmio); })+
        }
        mod over_pci {
            $(#[test] fn $test() { super::$test(crate::config::Transport::Pci); })+
        }
    };
}
pub(super) use over_both_transports;
