// SPDX-License-Identifier: Apache-2.0
//! What surrounds the product: set-up of a machine, test kernels, and a host with KVM where
//! there is none. The integration tests use the same [`host::EmulatedHost`] as the commands.

pub mod artifacts;
pub mod bench;
pub mod demo;
pub mod host;
pub mod house;
pub mod kernel;
pub mod kernels;
mod lock;
pub mod process;
pub mod project;
pub mod setup;
pub mod test;
pub mod venue;
