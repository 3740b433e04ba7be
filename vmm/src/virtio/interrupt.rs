// SPDX-License-Identifier: Apache-2.0
//! What a device can tell its driver: used buffers, changed configuration, "reset me".
//!
//! Over MMIO all three share one interrupt line. The driver learns which it was from
//! InterruptStatus and clears the bits through InterruptACK (virtio 1.2, 4.2.2): two MMIO exits for
//! each interrupt, which is why [`Ring`](super::Ring) asks EVENT_IDX before raising any. Over PCI
//! the message itself says which it was, and costs no exit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use virtio_bindings::bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

use super::pci::msix::Messages;
use super::source::Source;

/// The device's interrupt and the registers that belong to it. Clones share it.
///
/// vCPU threads (register reads, inline queues) and I/O threads use it at once.
#[derive(Clone, Debug)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: Path,
    status: AtomicU32,
    needs_reset: AtomicBool,
    config_generation: AtomicU32,
    raised: AtomicU64,
}

/// How it reaches the guest.
#[derive(Debug)]
enum Path {
    /// One line for everything, lock-free.
    Line(EventFd),
    /// MSI-X.
    Messages(Arc<Messages>),
}

impl Interrupt {
    /// A line that is raised by writing `event`, which the caller has registered as irqfd.
    #[must_use]
    pub fn line(event: EventFd) -> Self {
        Self::new(Path::Line(event))
    }

    /// Messages, as the driver sets them up.
    pub(super) fn messages(messages: Arc<Messages>) -> Self {
        Self::new(Path::Messages(messages))
    }

    fn new(path: Path) -> Self {
        Self {
            shared: Arc::new(Shared {
                path,
                status: AtomicU32::new(0),
                needs_reset: AtomicBool::new(false),
                config_generation: AtomicU32::new(0),
                raised: AtomicU64::new(0),
            }),
        }
    }

    /// How often it was raised since the machine was made.
    #[must_use]
    pub fn raised(&self) -> u64 {
        self.shared.raised.load(Ordering::Relaxed)
    }

    /// Tells the driver that the used ring of queue `queue` has advanced.
    pub fn used_buffers(&self, queue: usize) {
        self.raise(Source::Queue(queue));
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self) {
        self.shared.config_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(Source::Configuration);
    }

    /// Declares that the driver broke the device and has to reset it (DEVICE_NEEDS_RESET).
    ///
    /// Once per reset: a driver that keeps breaking things is not sent a storm of interrupts.
    pub fn device_needs_reset(&self) {
        if !self.shared.needs_reset.swap(true, Ordering::SeqCst) {
            // A device that sets DEVICE_NEEDS_RESET after DRIVER_OK must send a configuration
            // change notification (virtio 1.2, 2.1.2).
            self.config_changed();
        }
    }

    /// Whether the device has asked for a reset.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.shared.needs_reset.load(Ordering::SeqCst)
    }

    /// InterruptStatus.
    pub(super) fn status(&self) -> u32 {
        self.shared.status.load(Ordering::SeqCst)
    }

    /// ISR status over PCI: reading it clears it (virtio 1.2, 4.1.4.5).
    pub(super) fn take_status(&self) -> u32 {
        self.shared.status.swap(0, Ordering::SeqCst)
    }

    /// InterruptACK.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.shared.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// ConfigGeneration.
    pub(super) fn config_generation(&self) -> u32 {
        self.shared.config_generation.load(Ordering::SeqCst)
    }

    /// Device reset: nothing is pending any more.
    pub(super) fn reset(&self) {
        self.shared.status.store(0, Ordering::SeqCst);
        self.shared.needs_reset.store(false, Ordering::SeqCst);
        if let Path::Messages(messages) = &self.shared.path {
            messages.reset();
        }
    }

    fn raise(&self, source: Source) {
        // The bit first: the guest may run its handler before `write` returns, and a handler
        // that finds no bit set calls the interrupt spurious. 100,000 of those and Linux turns
        // the line off for good (kernel/irq/spurious.c).
        let bit = match source {
            Source::Configuration => VIRTIO_MMIO_INT_CONFIG,
            Source::Queue(_) => VIRTIO_MMIO_INT_VRING,
        };
        self.shared.status.fetch_or(bit, Ordering::SeqCst);
        self.shared.raised.fetch_add(1, Ordering::Relaxed);
        match &self.shared.path {
            // Can only fail when the counter is full, that is, when the line is raised already.
            Path::Line(event) => drop(event.write(1)),
            Path::Messages(messages) => messages.raise(source),
        }
    }

    /// Whether the guest has been interrupted since the last call.
    #[cfg(test)]
    pub(super) fn has_come(&self) -> bool {
        match &self.shared.path {
            Path::Line(event) => event.read().is_ok(),
            Path::Messages(messages) => messages.have_come(),
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn bits_are_set_acknowledged_and_reset() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::line(event.try_clone().unwrap());
        interrupt.used_buffers(0);
        interrupt.config_changed();
        assert_eq!(interrupt.status(), 3);
        assert_eq!(event.read().unwrap(), 2);
        interrupt.acknowledge(1);
        assert_eq!(interrupt.status(), 2);
        interrupt.used_buffers(7);
        assert_eq!((interrupt.take_status(), interrupt.status()), (3, 0));
        interrupt.used_buffers(7);
        interrupt.reset();
        assert_eq!(interrupt.status(), 0);
    }

    #[test]
    fn needs_reset_interrupts_once_per_reset() {
        let interrupt = Interrupt::line(EventFd::new(EFD_NONBLOCK).unwrap());
        for _ in 0..1000 {
            interrupt.device_needs_reset();
        }
        assert_eq!(interrupt.raised(), 1);
        assert_eq!(interrupt.config_generation(), 1);
        interrupt.reset();
        assert!(!interrupt.needs_reset());
        interrupt.device_needs_reset();
        assert_eq!(interrupt.raised(), 2);
    }
}
