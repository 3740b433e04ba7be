// SPDX-License-Identifier: Apache-2.0
//! What the transport asks of a device.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::ring::Ring;

/// A queue whose notifications go to an I/O thread instead of ending in an exit to user space.
#[derive(Clone, Debug)]
pub struct IoEvent {
    /// Index of the queue: its transport knows where the guest writes what to notify it.
    pub queue: u32,
    /// To be registered as ioeventfd there.
    pub event: Arc<EventFd>,
}

/// All that a device receives when its driver is ready. It is the device's until reset.
#[derive(Debug)]
pub struct Activation {
    /// The negotiated features, a subset of what was offered.
    pub features: u64,
    /// The queues in order of their index, checked; `None` for those the driver left unused.
    pub rings: Vec<Option<Ring>>,
}

impl Activation {
    /// Takes the ring of queue `index`, if the driver uses it.
    pub fn take(&mut self, index: usize) -> Option<Ring> {
        self.rings.get_mut(index).and_then(Option::take)
    }
}

/// A virtio device, seen from its transport.
///
/// ```text
///              activate (DRIVER_OK, all queues valid)
///   ┌──────────┐ ───────────────────────────────────► ┌───────────┐ ──┐
///   │ Inactive │   rings move into the device         │ Activated │   │ notify
///   └──────────┘ ◄─────────────────────────────────── └───────────┘ ◄─┘
///      │     ▲       reset (Status = 0): rings are dropped
///      └─────┘
///       reset
/// ```
///
/// The state is in the types: a [`Ring`] exists only between `activate` and `reset`, so an
/// inactive device has no queue to touch by mistake. The transport calls `activate` only when
/// inactive, `notify` only when activated, and `reset` in both.
///
/// All methods run on vCPU threads, with the transport locked: none may block.
pub trait VirtioDevice: Send {
    /// DeviceID (virtio 1.2, section 5).
    fn id(&self) -> u32;

    /// The device's own feature bits. The transport adds those of the ring.
    fn features(&self) -> u64;

    /// QueueNumMax of every queue.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space. Read-only for the guest.
    fn config(&self) -> &[u8];

    /// The queues that are served by an I/O thread.
    fn io_events(&self) -> Vec<IoEvent>;

    /// Starts the device.
    fn activate(&mut self, activation: Activation);

    /// The driver has made buffers available in queue `queue`. May be spurious.
    fn notify(&mut self, queue: usize);

    /// Stops the device and drops its rings. Afterwards it never writes guest memory.
    fn reset(&mut self);
}
