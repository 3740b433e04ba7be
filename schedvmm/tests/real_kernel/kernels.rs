// SPDX-License-Identifier: Apache-2.0
//! Test kernels with a few bytes changed: kernels that hang, crash or lack a driver, without
//! another build. The changes are made in the host, by shell words made here.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _};

/// A jump to itself.
pub const HANG: &[u8] = &[0xeb, 0xfe];
/// Back to the caller, with nothing done.
pub const RETURN: &[u8] = &[0xc3];
/// An invalid instruction: an oops, or, without an IDT, a triple fault.
pub const CRASH: &[u8] = &[0x0f, 0x0b];

/// The vmlinux that lies beside a test kernel's bzImage.
pub fn vmlinux(bzimage: &Path) -> Result<PathBuf, String> {
    let path = bzimage.with_file_name("vmlinux");
    if path.is_file() { Ok(path) } else { Err(format!("no kernel at {}", path.display())) }
}

/// Where a function of a vmlinux is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the kernel's address space.
    pub address: u64,
    /// In the file.
    pub offset: u64,
}

/// Where the function `symbol` is.
pub fn function(vmlinux: &[u8], symbol: &str) -> Result<Place, String> {
    let elf = ElfFile64::<Endianness>::parse(vmlinux).map_err(|error| error.to_string())?;
    let address = elf
        .symbols()
        .find(|found| found.name() == Ok(symbol))
        .map(|found| found.address())
        .ok_or_else(|| format!("vmlinux has no symbol {symbol}"))?;
    let endian = elf.endian();
    let headers = elf.elf_header().program_headers(endian, vmlinux);
    for header in headers.map_err(|error| error.to_string())? {
        let (start, len) = (header.p_vaddr(endian), header.p_filesz(endian));
        if (start..start + len).contains(&address) {
            return Ok(Place { address, offset: address - start + header.p_offset(endian) });
        }
    }
    Err(format!("{symbol} at {address:#x} is in no segment of vmlinux"))
}

/// Shell words that make `copy` of `file` with these bytes changed.
pub fn patched(file: &str, copy: &str, changes: &[(u64, &[u8])]) -> String {
    let mut script = format!("cp {file} {copy}\n");
    for (offset, bytes) in changes {
        let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
        // Writing to a String does not fail.
        let _ = writeln!(
            script,
            "printf '{octal}' | dd of={copy} bs=1 seek={offset} conv=notrunc 2> /dev/null"
        );
    }
    script
}

/// A text that a kernel has only with the driver for virtio-mmio built in: the ID it binds to, so
/// that the driver finds no device without it.
pub const MMIO_DRIVER: &str = "LNRO0005";
/// The same for virtio-pci: its name.
pub const PCI_DRIVER: &str = "virtio-pci";

/// Shell words that make `copy` of a vmlinux, which is at `file` there, without these texts. It has
/// no configuration either, so that it is judged by its drivers' own texts.
pub fn lacking(vmlinux: &[u8], file: &str, copy: &str, texts: &[&str]) -> String {
    let texts = ["IKCFG_ST"].iter().chain(texts);
    let changes: Vec<_> = texts.flat_map(|text| without(vmlinux, text)).collect();
    patched(file, copy, &changes)
}

/// Changes that take the first letter of every `text` away.
pub fn without<'a>(file: &[u8], text: &str) -> Vec<(u64, &'a [u8])> {
    everywhere(file, text.as_bytes(), b"X")
}

/// Changes that begin every `part` with `bytes`.
pub fn everywhere<'a>(file: &[u8], part: &[u8], bytes: &'a [u8]) -> Vec<(u64, &'a [u8])> {
    memchr::memmem::find_iter(file, part).map(|offset| (offset as u64, bytes)).collect()
}

/// The compressed kernel in a bzImage, from its boot header (boot.rst, "payload_offset").
pub fn payload(bzimage: &[u8]) -> Result<std::ops::Range<u64>, String> {
    let word = |at: usize| -> Option<u64> {
        Some(u64::from(u32::from_le_bytes(bzimage.get(at..at + 4)?.try_into().ok()?)))
    };
    let read = || {
        let setup = (u64::from(*bzimage.get(0x1f1)?) + 1) * 512;
        let (offset, len) = (word(0x248)?, word(0x24c)?);
        Some(setup + offset..setup + offset + len)
    };
    read().ok_or_else(|| "the test kernel has no boot header".to_owned())
}

/// A file's bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
