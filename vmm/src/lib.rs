// SPDX-License-Identifier: Apache-2.0
//! A KVM microVM for x86-64 Linux: direct boot, hardware-reduced ACPI, virtio-console.
//!
//! Knows nothing of benchmarks. Begin with [`vm`], which makes a machine from top to bottom.
#![cfg(target_arch = "x86_64")]

mod attach;
pub mod boot_ram;
pub mod bus;
pub mod config;
pub mod devices;
mod error;
pub mod io;
pub mod kvm;
pub mod load;
mod load_error;
pub mod loaded;
pub mod memory;
pub mod msi;
mod running;
pub mod shared;
pub mod unpacked;
pub mod vcpu;
pub mod virtio;
pub mod vm;
pub mod x86_64;
