// SPDX-License-Identifier: Apache-2.0
//! Guest physical memory: RAM around the MMIO gap.

/// The guest's RAM. Cloning shares the mapping.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;
