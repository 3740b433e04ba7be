// SPDX-License-Identifier: Apache-2.0
//! Devices on the port bus, and the PCI bus behind it.

pub mod i8042;
pub mod pci;
pub mod power;
pub mod serial;
