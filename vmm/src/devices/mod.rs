// SPDX-License-Identifier: Apache-2.0
//! Devices on the port bus.

pub mod i8042;
pub mod power;
pub mod serial;
