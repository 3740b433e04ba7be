// SPDX-License-Identifier: Apache-2.0
//! Machines to test in: set-up of what they need, test kernels, and a host with KVM where there is
//! none. The product uses it in its tests only.

pub mod artifacts;
pub mod host;
pub mod kernel;
mod lock;
pub mod process;
pub mod project;
pub mod setup;
pub mod venue;
