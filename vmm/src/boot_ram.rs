// SPDX-License-Identifier: Apache-2.0
//! Guest RAM before there is a guest: plain memory with one owner.
//!
//! Memory that a vCPU or a device can write is never a Rust slice: it changes behind the
//! compiler's back. So there are two types. [`BootRam`] is filled through slices, and no virtual
//! machine knows of it. [`BootRam::share`] gives it away for a [`GuestRam`], which is read and
//! written by copying only.
//!
//! A slice ends with the sharing:
//!
//! ```compile_fail,E0505
//! # use vmm::boot_ram::BootRam;
//! # fn f(vm: &kvm_ioctls::VmFd) {
//! let mut ram = BootRam::allocate(64).unwrap();
//! let low = ram.low_mut();
//! let shared = unsafe { ram.share(vm) }.unwrap();
//! low[0] = 1;
//! # }
//! ```
//!
//! And shared memory has none to give:
//!
//! ```compile_fail,E0599
//! # use vmm::boot_ram::BootRam;
//! # fn f(vm: &kvm_ioctls::VmFd) {
//! let ram = BootRam::allocate(64).unwrap();
//! let mut shared = unsafe { ram.share(vm) }.unwrap();
//! shared.low_mut()[0] = 1;
//! # }
//! ```
//!
//! The same in the right order compiles:
//!
//! ```no_run
//! # use vmm::boot_ram::BootRam;
//! # fn f(vm: &kvm_ioctls::VmFd) {
//! let mut ram = BootRam::allocate(64).unwrap();
//! ram.low_mut()[0] = 1;
//! let shared = unsafe { ram.share(vm) }.unwrap();
//! # }
//! ```

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::slice;

use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::{self, GuestRam, MemoryError};

/// Guest RAM that nothing but its owner can touch. It cannot be cloned, and hands out no
/// [`GuestRam`] before it is shared.
#[derive(Debug)]
pub struct BootRam {
    ram: GuestRam,
}

impl BootRam {
    /// Reserves `mib` MiB of guest RAM. Pages are allocated by the host on first touch.
    ///
    /// # Errors
    /// The host has not enough address space or overcommit left.
    pub fn allocate(mib: u64) -> Result<Self, MemoryError> {
        Ok(Self { ram: memory::allocate(mib)? })
    }

    /// RAM from address 0 to the MMIO gap.
    pub fn low(&self) -> &[u8] {
        let (start, len) = self.low_range();
        // SAFETY: the range is mapped, and stays so as long as `self`. Nobody else has the
        // mapping: `self` is not shared yet, and it is not being written, because all that
        // writes it takes `&mut self`.
        unsafe { slice::from_raw_parts(start, len) }
    }

    /// RAM from one address to another, as far as it lies below the MMIO gap.
    pub(crate) fn low_between(&self, (from, to): (u64, u64)) -> &[u8] {
        let low = self.low();
        let to = place(to, low.len());
        &low[place(from, to)..to]
    }

    /// The same, to be filled.
    pub(crate) fn low_between_mut(&mut self, (from, to): (u64, u64)) -> &mut [u8] {
        let low = self.low_mut();
        let to = place(to, low.len());
        &mut low[place(from, to)..to]
    }

    /// All of it, to be filled.
    pub fn low_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.low_range();
        // SAFETY: as in `low`; and `&mut self` says that there is no other slice of it.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    fn low_range(&self) -> (*mut u8, usize) {
        let Some(region) = self.ram.iter().next() else {
            return (std::ptr::NonNull::dangling().as_ptr(), 0);
        };
        (region.as_ptr(), usize::try_from(self.low_end()).unwrap_or(0))
    }

    /// End of the RAM below the MMIO gap.
    pub fn low_end(&self) -> u64 {
        memory::low_end(&self.ram)
    }

    /// Maps `len` bytes of `file`, from `offset` on, privately over RAM at `gpa`; all three are
    /// whole pages.
    ///
    /// # Errors
    /// The range is not RAM, or the kernel's reason.
    pub(crate) fn map_over(
        &mut self,
        gpa: u64,
        file: &File,
        offset: u64,
        len: usize,
    ) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let slice = self.ram.get_slice(GuestAddress(gpa), len).map_err(io::Error::other)?;
        let at = slice.ptr_guard_mut();
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED);
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the range lies in one region of `ram` (checked by `get_slice`), which owns it
        // and unmaps it whole; nobody else knows it, and `&mut self` says that there is no
        // slice of it.
        let mapped = unsafe {
            libc::mmap(at.as_ptr().cast(), len, protection, flags, file.as_raw_fd(), offset)
        };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives all of it to `vm`, slot by slot in address order. From now on it is the guest's.
    ///
    /// # Errors
    /// KVM's reason for refusing a slot.
    ///
    /// # Safety
    /// What is returned, or a clone of it, lives as long as a vCPU of `vm` runs: the guest would
    /// go on writing where it was.
    pub unsafe fn share(self, vm: &VmFd) -> Result<GuestRam, MemoryError> {
        // SAFETY: the caller's promise.
        unsafe { memory::register(vm, &self.ram) }?;
        Ok(self.ram)
    }

    /// The same without a virtual machine.
    #[cfg(test)]
    pub(crate) fn into_inner(self) -> GuestRam {
        self.ram
    }
}

/// A guest address as a place in memory of which there is so much.
fn place(at: u64, most: usize) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX).min(most)
}

/// Memory without the zeros at its end.
pub(crate) fn without_zeros(memory: &[u8]) -> &[u8] {
    let used = memory.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &memory[..used]
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn what_was_filled_in_is_there_when_it_is_shared() {
        let mut ram = BootRam::allocate(32).expect("memory");
        assert_eq!((ram.low_end(), ram.low().len()), (32 << 20, 32 << 20));
        ram.low_mut()[0x1000..0x1003].copy_from_slice(&[1, 2, 3]);
        assert_eq!(ram.low()[0x0fff..0x1004], [0, 1, 2, 3, 0]);
        let shared = ram.into_inner();
        assert_eq!(shared.read_obj::<u8>(GuestAddress(0x1002)).expect("RAM"), 3);
    }
}
