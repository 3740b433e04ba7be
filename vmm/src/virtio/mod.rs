// SPDX-License-Identifier: Apache-2.0
//! virtio over MMIO: one transport, one device.
//!
//! ```text
//!  vCPU thread            MmioTransport ──────► dyn VirtioDevice (Console)
//!  (MMIO exit)   bus ───► registers             queues as `Ring`s, made at DRIVER_OK
//!                └─ Common: status machine,     │
//!                   features, queue set-up      │
//!                                               ├─ inline: console output, control, receive
//!  I/O thread    ioeventfd (QueueNotify) ─────► └─ PortWorker: output of the other ports
//!
//!  guest IRQ  ◄── irqfd ◄── Interrupt ◄── Ring::notify_driver
//! ```
//!
//! Read in this order: [`device`] (what a device is, with its life drawn), `common` (status,
//! features, queues), [`mmio`] (its registers), [`ring`] (a queue in use), [`interrupt`], then
//! [`console`].
//!
//! Section numbers are those of *Virtual I/O Device (VIRTIO) Version 1.2*, OASIS, 2022. Kernel
//! paths are those of Linux 6.12.

mod common;
pub mod console;
pub mod device;
pub mod interrupt;
pub mod mmio;
mod queue_setup;
pub mod ring;
#[cfg(test)]
mod testing;

pub use device::{Activation, IoEvent, VirtioDevice};
pub use interrupt::Interrupt;
pub use mmio::MmioTransport;
pub use queue_setup::ActivationError;
pub use ring::{Chain, Ring};
