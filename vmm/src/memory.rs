// SPDX-License-Identifier: Apache-2.0
//! Guest physical memory: RAM around the MMIO gap, its memory slots and its backing.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::x86_64::layout;

/// The guest's RAM, shared with it: read and written by copying, never as a slice. Cloning shares
/// the mapping. It comes out of a [`BootRam`](crate::boot_ram::BootRam).
pub type GuestRam = GuestMemoryMmap<()>;

/// Errors of guest memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// Anonymous memory could not be reserved.
    #[error("cannot reserve {mib} MiB of guest memory; ask for less with --memory")]
    Map {
        /// Size asked for.
        mib: u64,
        /// Reason.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// KVM refused a memory slot.
    #[error("KVM refused memory slot {slot} at {gpa:#x}, {len:#x} bytes")]
    Slot {
        /// Slot number.
        slot: u32,
        /// Guest physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// Reason.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Splits `size` bytes of RAM into the ranges below and above the MMIO gap.
pub fn ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(layout::MMIO_GAP_START.0);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((layout::MMIO_GAP_END, size - low));
    }
    ranges
}

/// Reserves guest RAM, see [`BootRam::allocate`](crate::boot_ram::BootRam::allocate).
pub(crate) fn allocate(mib: u64) -> Result<GuestRam, MemoryError> {
    let ranges = ranges(mib << 20)
        .into_iter()
        .map(|(start, len)| {
            let len = usize::try_from(len).map_err(|_| {
                map_error(vm_memory::mmap::FromRangesError::InvalidGuestRegion, mib)
            })?;
            Ok((start, len))
        })
        .collect::<Result<Vec<_>, MemoryError>>()?;
    let ram = GuestRam::from_ranges(&ranges).map_err(|source| map_error(source, mib))?;
    for region in ram.iter() {
        advise(region.as_ptr(), region.len());
    }
    Ok(ram)
}

fn map_error(source: vm_memory::mmap::FromRangesError, mib: u64) -> MemoryError {
    MemoryError::Map { mib, source }
}

/// Asks for transparent huge pages (fewer nested page faults, each of which would look like
/// a scheduling gap) and keeps guest RAM out of core dumps. Both are advice: a host without
/// them runs the guest all the same.
fn advise(host: *mut u8, len: u64) {
    let Ok(len) = usize::try_from(len) else { return };
    // SAFETY: the range is one mapping that `from_ranges` has just made and still owns.
    unsafe {
        libc::madvise(host.cast(), len, libc::MADV_HUGEPAGE);
        libc::madvise(host.cast(), len, libc::MADV_DONTDUMP);
    }
}

/// Gives all of `ram` to the virtual machine, slot by slot in address order.
///
/// # Safety
/// `ram`, or a clone of it, lives as long as a vCPU of `vm` runs.
pub(crate) unsafe fn register(vm: &VmFd, ram: &GuestRam) -> Result<(), MemoryError> {
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let (gpa, len) = (region.start_addr().raw_value(), region.len());
        let slot_region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped for `len` bytes, and stays so by the caller's promise.
        unsafe { vm.set_user_memory_region(slot_region) }.map_err(|source| MemoryError::Slot {
            slot,
            gpa,
            len,
            source,
        })?;
    }
    Ok(())
}

/// End of the RAM below the MMIO gap.
pub fn low_end(ram: &GuestRam) -> u64 {
    ram.iter().next().map_or(0, GuestMemoryRegion::len)
}

/// Resident memory of this process outside `ram`, in KiB, from /proc/self/smaps.
pub fn resident_beyond(ram: &GuestRam) -> Option<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let guest: Vec<_> = ram
        .iter()
        .map(|region| {
            let start = region.as_ptr() as u64;
            start..start.saturating_add(region.len())
        })
        .collect();
    Some(resident_outside(&smaps, &guest))
}

/// Sums the `Rss:` lines of all mappings that begin outside `ranges`.
fn resident_outside(smaps: &str, ranges: &[std::ops::Range<u64>]) -> u64 {
    let mut counts = false;
    let mut sum_kib = 0;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or("");
        if let Some((start, _)) = first.split_once('-') {
            let start = u64::from_str_radix(start, 16).unwrap_or(0);
            counts = !ranges.iter().any(|range| range.contains(&start));
        } else if first == "Rss:" && counts {
            let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok());
            sum_kib += kib.unwrap_or(0);
        }
    }
    sum_kib
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_mmio_gap_free() {
        let gib = 1 << 30;
        assert_eq!(ranges(2 * gib), [(GuestAddress(0), 2 * gib)]);
        assert_eq!(ranges(3 * gib), [(GuestAddress(0), 3 * gib)]);
        assert_eq!(ranges(4 * gib), [(GuestAddress(0), 3 * gib), (GuestAddress(4 * gib), gib)]);
        for mib in [1u64, 128, 3071, 3072, 3073, 1 << 20] {
            assert_eq!(ranges(mib << 20).iter().map(|r| r.1).sum::<u64>(), mib << 20);
        }
    }

    #[test]
    fn guest_ram_is_left_out_of_the_resident_sum() {
        let smaps = "1000-2000 r-xp 0 00:00 0 /x\nSize: 4 kB\nRss: 4 kB\n\
            7f00-8f00 rw-p 0 00:00 0\nRss: 900 kB\nPss: 900 kB\n9000-a000 rw-p 0 0 0\nRss: 8 kB\n";
        assert_eq!(resident_outside(smaps, std::slice::from_ref(&(0x7f00..0x8f00))), 12);
        assert_eq!(resident_outside(smaps, &[]), 912);
        let ram = allocate(32).expect("memory");
        assert!(resident_beyond(&ram).expect("smaps") > 100);
    }
}
