// SPDX-License-Identifier: Apache-2.0
//! A KVM microVM for x86-64 Linux. Knows nothing of benchmarks.
#![cfg(target_arch = "x86_64")]

pub mod bus;
pub mod memory;
pub mod virtio;
