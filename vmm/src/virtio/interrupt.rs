// SPDX-License-Identifier: Apache-2.0
//! What a device can tell its driver: used buffers, changed configuration, "reset me".
//!
//! All three share one interrupt line. The driver learns which it was from InterruptStatus and
//! clears the bits through InterruptACK (virtio 1.2, 4.2.2): two MMIO exits for each interrupt,
//! which is why [`Ring`](super::Ring) asks EVENT_IDX before raising any.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use virtio_bindings::bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// The device's interrupt line and the registers that belong to it. Clones share the line.
///
/// Lock-free: vCPU threads (register reads, inline queues) and I/O threads use it at once.
#[derive(Clone, Debug)]
pub struct Interrupt {
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    event: EventFd,
    status: AtomicU32,
    needs_reset: AtomicBool,
    config_generation: AtomicU32,
    raised: AtomicU64,
}

impl Interrupt {
    /// An interrupt that is raised by writing `event`, which the caller has registered as irqfd.
    #[must_use]
    pub fn new(event: EventFd) -> Self {
        Self {
            line: Arc::new(Line {
                event,
                status: AtomicU32::new(0),
                needs_reset: AtomicBool::new(false),
                config_generation: AtomicU32::new(0),
                raised: AtomicU64::new(0),
            }),
        }
    }

    /// The eventfd behind the line, to be registered as irqfd.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.line.event
    }

    /// How often the line was raised since the machine was made.
    #[must_use]
    pub fn raised(&self) -> u64 {
        self.line.raised.load(Ordering::Relaxed)
    }

    /// Tells the driver that a used ring has advanced.
    pub fn used_buffers(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self) {
        self.line.config_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Declares that the driver broke the device and has to reset it (DEVICE_NEEDS_RESET).
    ///
    /// Once per reset: a driver that keeps breaking things is not sent a storm of interrupts.
    pub fn device_needs_reset(&self) {
        if !self.line.needs_reset.swap(true, Ordering::SeqCst) {
            // A device that sets DEVICE_NEEDS_RESET after DRIVER_OK must send a configuration
            // change notification (virtio 1.2, 2.1.2).
            self.config_changed();
        }
    }

    /// Whether the device has asked for a reset.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.line.needs_reset.load(Ordering::SeqCst)
    }

    /// InterruptStatus.
    pub(super) fn status(&self) -> u32 {
        self.line.status.load(Ordering::SeqCst)
    }

    /// InterruptACK.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.line.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// ConfigGeneration.
    pub(super) fn config_generation(&self) -> u32 {
        self.line.config_generation.load(Ordering::SeqCst)
    }

    /// Device reset: nothing is pending any more.
    pub(super) fn reset(&self) {
        self.line.status.store(0, Ordering::SeqCst);
        self.line.needs_reset.store(false, Ordering::SeqCst);
    }

    fn raise(&self, bit: u32) {
        // The bit first: the guest may run its handler before `write` returns, and a handler
        // that finds no bit set calls the interrupt spurious. 100,000 of those and Linux turns
        // the line off for good (kernel/irq/spurious.c).
        self.line.status.fetch_or(bit, Ordering::SeqCst);
        self.line.raised.fetch_add(1, Ordering::Relaxed);
        // Can only fail when the counter is full, that is, when the line is raised already.
        let _ = self.line.event.write(1);
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn bits_are_set_acknowledged_and_reset() {
        let interrupt = Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap());
        interrupt.used_buffers();
        interrupt.config_changed();
        assert_eq!(interrupt.status(), 3);
        assert_eq!(interrupt.event().read().unwrap(), 2);
        interrupt.acknowledge(1);
        assert_eq!(interrupt.status(), 2);
        interrupt.reset();
        assert_eq!(interrupt.status(), 0);
    }

    #[test]
    fn needs_reset_interrupts_once_per_reset() {
        let interrupt = Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap());
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
