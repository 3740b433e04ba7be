// SPDX-License-Identifier: Apache-2.0
//! What the registers of every transport stand for: the status machine, the features, the queues
//! (virtio 1.2, 3.1). A transport decodes addresses and widths, and has no state of its own that a
//! device would care for.

use std::sync::Arc;

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::QueueT;

use super::device::{Activation, IoEvent, VirtioDevice};
use super::interrupt::Interrupt;
use super::queue_setup::{ActivationError, QueueField, QueueSetup};
use super::ring::Ring;
use crate::memory::GuestRam;

/// What the transport offers for every device. EVENT_IDX is not optional here: without it each
/// returned buffer would be an interrupt, and each posted receive buffer an exit. INDIRECT_DESC
/// makes a spliced write of many pages one slot; without it the Linux driver loses what does
/// not fit (port_fops_splice_write in drivers/char/virtio_console.c).
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

const ACKNOWLEDGED: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = ACKNOWLEDGED | VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

/// A device and what its driver has negotiated with it.
///
/// ```text
///  Status:  0 ──► ACKNOWLEDGE ──► DRIVER ──► FEATURES_OK ──► DRIVER_OK
///                                   │            │               │
///  writable registers:       driver features  queues      (notifications)
///
///  any ── write 0 ──► 0        any ── FAILED ──► stuck until 0
/// ```
///
/// Each step adds one bit; any other write is refused. FEATURES_OK stays clear when the driver's
/// choice is not ours to serve. With queues that are not sound, DRIVER_OK leads to
/// DEVICE_NEEDS_RESET instead of an activated device.
pub struct Common {
    ram: Arc<GuestRam>,
    device: Box<dyn VirtioDevice>,
    interrupt: Interrupt,
    status: u32,
    /// Which 32 of the device's feature bits are read; any value.
    pub(super) device_features_page: u32,
    /// Which 32 of the driver's feature bits are read and written; any value.
    pub(super) driver_features_page: u32,
    driver_features: u64,
    /// Which queue is meant; any value.
    pub(super) queue_select: u32,
    queues: Vec<QueueSetup>,
    activated: bool,
    activation_error: Option<ActivationError>,
    /// See [`Common::invalid_accesses`].
    pub(super) invalid_accesses: u64,
}

impl Common {
    pub(super) fn new(ram: GuestRam, device: Box<dyn VirtioDevice>, interrupt: Interrupt) -> Self {
        let queues = device.queue_sizes().iter().map(|&max| QueueSetup::new(max)).collect();
        Self {
            ram: Arc::new(ram),
            device,
            interrupt,
            status: 0,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            queue_select: 0,
            queues,
            activated: false,
            activation_error: None,
            invalid_accesses: 0,
        }
    }

    pub(super) fn device(&self) -> &dyn VirtioDevice {
        self.device.as_ref()
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The queues whose notifications are to be registered as ioeventfds, where and how the
    /// transport says. All others are handled in the vCPU thread.
    #[must_use]
    pub fn io_events(&self) -> Vec<IoEvent> {
        self.device.io_events()
    }

    /// True if the driver has set DRIVER_OK and the device works.
    #[must_use]
    pub fn activated(&self) -> bool {
        self.activated
    }

    /// Number of ignored accesses that the rules do not allow.
    #[must_use]
    pub fn invalid_accesses(&self) -> u64 {
        self.invalid_accesses
    }

    /// Why the last DRIVER_OK did not activate the device.
    #[must_use]
    pub fn activation_error(&self) -> Option<&ActivationError> {
        self.activation_error.as_ref()
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | RING_FEATURES
    }

    /// The selected page of what is offered.
    pub(super) fn device_features(&self) -> u32 {
        feature_page(self.offered_features(), self.device_features_page)
    }

    /// The selected page of what the driver has chosen.
    pub(super) fn driver_features(&self) -> u32 {
        feature_page(self.driver_features, self.driver_features_page)
    }

    /// Takes the selected page of the driver's choice; false outside of its time.
    pub(super) fn write_driver_features(&mut self, value: u32) -> bool {
        if self.status != DRIVER {
            return false;
        }
        match self.driver_features_page {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
            1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
            // Linux 6.12 knows 64 feature bits; a driver that knows more writes zeros here.
            _ => return value == 0,
        }
        true
    }

    /// Number of queues of the device.
    pub(super) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The index of the selected queue, if there is such a one.
    pub(super) fn queue_index(&self) -> Option<usize> {
        usize::try_from(self.queue_select).ok().filter(|index| *index < self.queues.len())
    }

    /// The selected queue, if there is such a one.
    pub(super) fn queue(&self) -> Option<&QueueSetup> {
        self.queues.get(self.queue_index()?)
    }

    /// A field of the selected queue; 0 where there is none.
    pub(super) fn read_queue(&self, field: QueueField) -> u32 {
        self.queue().map_or(0, |queue| queue.read(field))
    }

    /// Writes a field of the selected queue. They are the driver's between FEATURES_OK and
    /// DRIVER_OK (3.1.1, step 7); false outside of that.
    pub(super) fn write_queue(&mut self, field: QueueField, value: u32) -> bool {
        if self.status != FEATURES_OK {
            return false;
        }
        self.queue_index()
            .and_then(|index| self.queues.get_mut(index))
            .is_some_and(|queue| queue.write(field, value))
    }

    /// The driver has rung the bell of queue `index`; false where nobody is at home.
    pub(super) fn notify(&mut self, index: usize) -> bool {
        if !self.activated || index >= self.queues.len() {
            return false;
        }
        self.device.notify(index);
        true
    }

    pub(super) fn status(&self) -> u32 {
        let asked = if self.interrupt.needs_reset() { VIRTIO_CONFIG_S_NEEDS_RESET } else { 0 };
        self.status | asked
    }

    /// Goes a step; false if there is no such step from here.
    pub(super) fn write_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        // A driver adds its bit to what it has read, and that may hold a bit of ours.
        let value = value & !VIRTIO_CONFIG_S_NEEDS_RESET;
        match (self.status, value) {
            (old, new) if old == new => true,
            (old, new) if new == old | VIRTIO_CONFIG_S_FAILED => {
                self.status = new;
                true
            }
            (0, ACKNOWLEDGED) | (ACKNOWLEDGED, DRIVER) => {
                self.status = value;
                true
            }
            (DRIVER, FEATURES_OK) => self.accept_features(),
            (FEATURES_OK, DRIVER_OK) => {
                self.activate();
                true
            }
            _ => false,
        }
    }

    /// Copies what the device's configuration has at `offset`; `data` stays as it is past its end.
    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) {
        let there = usize::try_from(offset).ok().and_then(|at| self.device.config().get(at..));
        if let Some(there) = there {
            let length = there.len().min(data.len());
            data[..length].copy_from_slice(&there[..length]);
        }
    }

    /// The driver reads Status back: a bit that stayed clear means no (3.1.1, step 6).
    fn accept_features(&mut self) -> bool {
        let unknown = self.driver_features & !self.offered_features();
        let acceptable = unknown == 0 && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        if acceptable {
            self.status = FEATURES_OK;
        }
        acceptable
    }

    fn activate(&mut self) {
        self.status = DRIVER_OK;
        match self.rings() {
            Ok(rings) => {
                self.device.activate(Activation { features: self.driver_features, rings });
                self.activated = true;
                // Another vCPU may have rung a bell while this one was in the middle of
                // DRIVER_OK, when nobody was at home. Ring them all.
                for index in 0..self.queues.len() {
                    self.device.notify(index);
                }
            }
            Err(error) => {
                self.activation_error = Some(error);
                self.interrupt.device_needs_reset();
            }
        }
    }

    fn rings(&self) -> Result<Vec<Option<Ring>>, ActivationError> {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        self.queues
            .iter()
            .enumerate()
            .map(|(index, setup)| {
                if !setup.ready() {
                    return Ok(None);
                }
                let mut queue = setup.build(index, &self.ram)?;
                queue.set_event_idx(event_idx);
                Ok(Some(Ring::new(queue, index, Arc::clone(&self.ram), self.interrupt.clone())))
            })
            .collect()
    }

    /// Back to the state after power-on. At any time and any number of times (2.1.1).
    fn reset(&mut self) {
        self.device.reset();
        self.interrupt.reset();
        self.status = 0;
        self.device_features_page = 0;
        self.driver_features_page = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.queues.iter_mut().for_each(|queue| *queue = QueueSetup::new(queue.max_size()));
        self.activated = false;
        self.activation_error = None;
    }
}

/// The 32 feature bits of page `page`.
fn feature_page(features: u64, page: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match page {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}
