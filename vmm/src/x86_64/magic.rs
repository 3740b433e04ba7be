// SPDX-License-Identifier: Apache-2.0
//! Magic numbers of kernel files.

/// Of an ELF file.
pub(super) const ELF_MAGIC: &[u8] = b"\x7fELF";
/// At 0x1fe of a bzImage, as of every boot sector.
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// At 0x202 of a bzImage: "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
/// No kernel image is larger; a bound for hostile files.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// True if there is a boot header.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x1fe..0x200) == Some(&BOOT_FLAG.to_le_bytes())
        && bytes.get(0x202..0x206) == Some(&HEADER_MAGIC.to_le_bytes())
}
