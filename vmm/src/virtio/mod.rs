// SPDX-License-Identifier: Apache-2.0
//! virtio over MMIO or PCI: two transports, one device.
//!
//! ```text
//!  vCPU thread   bus ───► MmioTransport ─┐
//!  (exit)                 PciTransport  ─┴────► dyn VirtioDevice (Console)
//!                registers, and behind them     queues as `Ring`s, made at DRIVER_OK
//!                Common: status machine,        │
//!                features, queue set-up         ├─ inline: console output, control, receive
//!  I/O thread    ioeventfd (a queue's bell) ──► └─ PortWorker: output of the other ports
//!
//!  guest IRQ  ◄── irqfd ◄── Interrupt (line or messages) ◄── Ring::notify_driver
//! ```
//!
//! Read in this order: [`device`] (what a device is, with its life drawn), [`common`]
//! (status, features, queues), [`mmio`] and [`pci`] (their registers), [`ring`] (a queue in use),
//! [`interrupt`], then [`console`].
//!
//! Section numbers are those of *Virtual I/O Device (VIRTIO) Version 1.2*, OASIS, 2022. Kernel
//! paths are those of Linux 6.12.

pub mod common;
pub mod console;
pub mod device;
pub mod interrupt;
pub mod mmio;
pub mod pci;
mod queue_setup;
pub mod ring;
mod source;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use device::{Activation, IoEvent, VirtioDevice};
pub use interrupt::Interrupt;
pub use mmio::MmioTransport;
pub use pci::PciTransport;
pub use queue_setup::ActivationError;
pub use ring::{Chain, Ring};
