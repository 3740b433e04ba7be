// SPDX-License-Identifier: Apache-2.0
//! Magic numbers of kernel files.

/// Of an ELF file.
pub(super) const ELF_MAGIC: &[u8] = b"\x7fELF";
/// At 0x1fe of a bzImage, as of every boot sector.
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// At 0x202 of a bzImage: "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
/// No kernel image is larger, packed or unpacked, without the sections for debuggers. Kernels with
/// KASAN and most drivers built in come to 260 to 300 MiB of code and data.
pub const MAX_IMAGE_BYTES: u64 = 320 << 20;
/// Nor does any hold more than so many times the bytes it is packed in; kernels come to 3 to 13.
const MAX_RATIO: u64 = 100;
/// Below this the ratio does not matter.
const FEW_BYTES: u64 = 32 << 20;
/// xz and lzma unpack some 30 MB a second of what is packed: a kernel of theirs is not larger.
pub(super) const MAX_XZ_BYTES: usize = 64 << 20;

/// Most bytes that a kernel of `packed` bytes unpacks to.
pub(super) fn most_unpacked(packed: usize) -> u64 {
    (packed as u64).saturating_mul(MAX_RATIO).clamp(FEW_BYTES, MAX_IMAGE_BYTES)
}

/// True if there would be a boot header but for a few bits of its magic numbers: a damaged file, and
/// not one of another kind.
pub(super) fn is_almost_bzimage(bytes: &[u8]) -> bool {
    const FEW: u32 = 4;
    let (Some(flag), Some(magic)) = (bytes.get(0x1fe..0x200), bytes.get(0x202..0x206)) else {
        return false;
    };
    let pairs = flag.iter().zip(BOOT_FLAG.to_le_bytes());
    let pairs = pairs.chain(magic.iter().zip(HEADER_MAGIC.to_le_bytes()));
    let wrong: u32 = pairs.map(|(is, wanted)| (is ^ wanted).count_ones()).sum();
    (1..=FEW).contains(&wrong)
}

/// True if there is a boot header.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x1fe..0x200) == Some(&BOOT_FLAG.to_le_bytes())
        && bytes.get(0x202..0x206) == Some(&HEADER_MAGIC.to_le_bytes())
}
