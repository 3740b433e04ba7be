// SPDX-License-Identifier: Apache-2.0
//! Time that a vCPU has halted: for its guest's reasons, and none of the host's. From KVM's binary
//! statistics (Linux Documentation/virt/kvm/api.rst, `KVM_GET_STATS_FD`, since 5.14; the figure
//! itself, `halt_wait_ns` of virt/kvm/kvm_main.c, since 5.15).

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl_io_nr;

/// `struct kvm_stats_header`: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
const HEADER_WORDS: usize = 6;
/// `struct kvm_stats_desc` without its name, and where in it the figure's offset is.
const DESCRIPTOR_BYTES: usize = 16;
const DESCRIPTOR_OFFSET: usize = 8;
/// More than any kernel has, so that a length that makes no sense takes no memory.
const MAX_BYTES: usize = 1 << 20;
const FIGURE: &[u8] = b"halt_wait_ns";

mod request {
    use super::ioctl_io_nr;
    ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);
}

/// The statistics of `vcpu`; `None` where KVM has none.
pub(super) fn statistics(vcpu: &VcpuFd) -> Option<File> {
    // SAFETY: the vCPU descriptor is valid; the request has no argument.
    let fd = unsafe { vmm_sys_util::ioctl::ioctl(vcpu, request::KVM_GET_STATS_FD()) };
    // SAFETY: a result that is not negative is a new descriptor, and nobody else's.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

/// The figure of one vCPU.
#[derive(Debug)]
pub struct HaltClock {
    statistics: File,
    offset: u64,
}

impl HaltClock {
    /// Finds the figure in a vCPU's statistics.
    ///
    /// # Errors
    /// They cannot be read, or KVM does not count it.
    pub(crate) fn find(statistics: &File) -> io::Result<Self> {
        let statistics = statistics.try_clone()?;
        let mut header = [0; HEADER_WORDS * 4];
        statistics.read_exact_at(&mut header, 0)?;
        let [name_size, count, descriptors, data] =
            [1, 2, 4, 5].map(|n| u32_at(&header, 4 * n).map_or(0, |word| word as usize));
        let each = DESCRIPTOR_BYTES + name_size;
        let bytes = each.checked_mul(count).filter(|&bytes| bytes <= MAX_BYTES);
        let mut table = vec![0; bytes.ok_or_else(|| io::Error::other("no table of statistics"))?];
        statistics.read_exact_at(&mut table, descriptors as u64)?;
        let found = table
            .chunks_exact(each)
            .find(|entry| {
                let name = &entry[DESCRIPTOR_BYTES..];
                name.strip_prefix(FIGURE).is_some_and(|rest| rest.first().is_none_or(|&b| b == 0))
            })
            .ok_or_else(not_counted)?;
        let within = u32_at(found, DESCRIPTOR_OFFSET).ok_or_else(not_counted)?;
        Ok(Self { statistics, offset: data as u64 + u64::from(within) })
    }

    /// Time in halts that have ended, in nanoseconds.
    ///
    /// # Errors
    /// That of pread(2).
    pub fn halted_ns(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.statistics.read_exact_at(&mut bytes, self.offset)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

fn not_counted() -> io::Error {
    io::Error::other("this host's KVM does not count halts")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Statistics as KVM lays them out: each is eight bytes, behind a header and the table.
    fn statistics(names: &[&[u8]], values: &[u64]) -> File {
        const NAME: usize = 48;
        let word = |n: usize| u32::try_from(n).expect("small").to_ne_bytes();
        let (descriptors, data) = (72, 72 + names.len() * (DESCRIPTOR_BYTES + NAME));
        let mut bytes: Vec<u8> =
            [0, NAME, names.len(), 24, descriptors, data].map(word).as_flattened().to_vec();
        bytes.resize(descriptors, 0);
        for (n, name) in names.iter().enumerate() {
            bytes.extend([word(0), word(1), word(8 * n), word(0)].as_flattened());
            bytes.extend_from_slice(name);
            bytes.resize(bytes.len() + NAME - name.len(), 0);
        }
        values.iter().for_each(|value| bytes.extend(value.to_ne_bytes()));
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("written");
        file
    }

    #[test]
    fn the_figure_is_found_by_its_whole_name() {
        let names: [&[u8]; 4] =
            [b"exits", b"halt_wait_ns_of_old", b"halt_wait_ns", b"halt_wait_hist"];
        let clock = HaltClock::find(&statistics(&names, &[1, 2, 3, 4])).expect("there");
        assert_eq!(clock.halted_ns().expect("readable"), 3);
        let told = HaltClock::find(&statistics(&names[..2], &[1, 2])).expect_err("not there");
        assert!(told.to_string().contains("does not count halts"), "{told}");
        assert!(HaltClock::find(&statistics(&[], &[])).is_err());
    }

    #[test]
    fn lengths_that_make_no_sense_are_refused() {
        for (name_size, count) in [(u32::MAX, u32::MAX), (48, u32::MAX), (48, 7)] {
            let header = [0, name_size, count, 24, 24, 24].map(u32::to_ne_bytes);
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(header.as_flattened()).expect("written");
            assert!(HaltClock::find(&file).is_err(), "{name_size} {count}");
        }
    }
}
