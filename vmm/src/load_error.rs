// SPDX-License-Identifier: Apache-2.0
//! Why guest memory could not be filled.

use thiserror::Error;

use crate::boot_ram::BootRam;
use crate::x86_64::image_error::ImageError;
use crate::x86_64::payload::PayloadError;

/// Why guest memory could not be filled.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel file is bad.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its payload is bad.
    #[error(transparent)]
    Payload(PayloadError),
    /// Kernel and initrd do not fit.
    #[error(
        "{memory_mib} MiB of memory are too small: kernel and initrd need {needed_mib} MiB; raise --memory"
    )]
    Memory {
        /// There is.
        memory_mib: u64,
        /// Least that works.
        needed_mib: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {len} bytes, this kernel takes {most}; shorten --append")]
    CmdlineLength {
        /// Its length.
        len: usize,
        /// The kernel's limit.
        most: usize,
    },
    /// The command line has bytes that no kernel takes.
    #[error("the kernel command line has the character {0:?}; use printable ASCII")]
    CmdlineCharacter(char),
    /// A write outside guest RAM.
    #[error("cannot write to guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}

pub(crate) fn too_small(ram: &BootRam, needed_mib: u64) -> LoadError {
    LoadError::Memory { memory_mib: ram.low_end() >> 20, needed_mib }
}
