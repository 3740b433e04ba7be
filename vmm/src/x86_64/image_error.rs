// SPDX-License-Identifier: Apache-2.0
//! Why a file cannot be booted.

use std::fmt;

use thiserror::Error;

/// Why a file cannot be booted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ImageError {
    /// No bytes.
    #[error("the file is empty; give a bzImage or a vmlinux")]
    Empty,
    /// Ends before a header does, or before the kernel it announces.
    #[error(
        "the file is truncated: {what} needs {needed} bytes, the file has {got}; copy it again"
    )]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// Bytes it needs.
        needed: u64,
        /// Bytes there are.
        got: u64,
    },
    /// Neither a bzImage nor an ELF file.
    #[error(
        "this is no Linux kernel: it starts with bytes {0:02x?} and has no boot header; give a bzImage or a vmlinux"
    )]
    NotAKernel(Vec<u8>),
    /// Something else that is known.
    #[error("{0}")]
    Other(Other),
    /// From before kernels said whether they have a 64-bit entry point.
    #[error(
        "this kernel has boot protocol {major}.{minor:02}: it is older than Linux 3.8, or of 32 bits; give \
         one for x86-64, of Linux 5.4 or later"
    )]
    TooOld {
        /// Before the dot.
        major: u8,
        /// Behind it.
        minor: u8,
    },
    /// 32-bit.
    #[error("this is a 32-bit kernel ({0}); build it with CONFIG_64BIT=y")]
    Not64Bit(&'static str),
    /// ELF of another architecture.
    #[error(
        "this ELF file is for {name} (machine {number}), not for x86-64; give an x86-64 kernel",
        name = machine_name(*.0),
        number = .0
    )]
    OtherMachine(u16),
    /// Some other lie.
    #[error("the kernel image is damaged: {0}")]
    Damaged(String),
}

/// Something that is no kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// What it is, with its article.
    pub what: String,
    /// What to do with it.
    pub advice: String,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this is {}, not a kernel that can be booted as it is: {}",
            self.what, self.advice
        )
    }
}

/// The architecture of an ELF file's machine number, where it has kernels.
pub(super) fn machine_name(machine: u16) -> &'static str {
    match machine {
        3 => "32-bit x86",
        8 => "MIPS",
        20 => "32-bit PowerPC",
        21 => "64-bit PowerPC",
        22 => "s390",
        40 => "32-bit ARM",
        183 => "arm64",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => "another architecture",
    }
}

pub(super) fn truncated(what: &'static str, needed: usize, got: usize) -> ImageError {
    ImageError::Truncated { what, needed: needed as u64, got: got as u64 }
}
