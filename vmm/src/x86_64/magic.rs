// SPDX-License-Identifier: Apache-2.0
//! What kernel files begin with.

/// Of an ELF file.
pub(super) const ELF_MAGIC: &[u8] = b"\x7fELF";
/// At 0x1fe of a bzImage, as of every boot sector.
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// At 0x202 of a bzImage: "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
/// No kernel image is larger; a bound for hostile files.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// Whether there is a boot header.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    let magic = |at, len| bytes.get(at..at + len);
    magic(0x1fe, 2) == Some(&BOOT_FLAG.to_le_bytes())
        && magic(0x202, 4) == Some(&HEADER_MAGIC.to_le_bytes())
}
