// SPDX-License-Identifier: Apache-2.0
//! Kernels in a wrapping: a file that is packed as a whole (vmlinux.zst), the section `.linux` of a
//! unified kernel image (UKI), and the payload of an EFI zboot image.
//!
//! Sources: Microsoft PE format; the UAPI group's specification of unified kernel images; Linux
//! drivers/firmware/efi/libstub/zboot-header.S. Every length in the file is a claim to be checked.

use std::fmt;
use std::io::Read;
use std::ops::Range;

use crate::x86_64::image_error::{ImageError, truncated};
use crate::x86_64::magic::{ELF_MAGIC, MAX_XZ_BYTES, is_bzimage, most_unpacked};
use crate::x86_64::packed;
use crate::x86_64::packed::Format;

/// So many bytes of what is packed are enough to see what it is.
const PEEK_BYTES: u64 = 1024;
/// More sections than any PE file has; a bound for hostile files.
const MAX_SECTIONS: usize = 96;
const SECTION_LEN: usize = 40;
const LINUX: &[u8; 8] = b".linux\0\0";
/// A UKI with a zboot image in it: no more than that.
const MAX_LAYERS: usize = 3;
/// At 4 in a zboot image; the offset of its payload is behind it, then the length.
pub(super) const ZBOOT_MAGIC: &[u8; 4] = b"zimg";

/// Wrappings of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// The file was packed.
    Packed(Format),
    /// The kernel was a section of a UKI.
    Uki,
    /// The kernel was the payload of an EFI zboot image.
    Zboot,
}

impl fmt::Display for Wrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packed(format) => write!(f, "unpacked ({format})"),
            Self::Uki => f.write_str("section .linux of a UKI"),
            Self::Zboot => f.write_str("payload of an EFI zboot image"),
        }
    }
}

/// Takes the kernel out of what is around it, and says what that was, outermost first. What is in
/// no wrapping that is known comes back as it is.
///
/// # Errors
/// The wrapping is damaged, or what is in it is larger than any kernel.
pub fn unwrap(mut bytes: Vec<u8>) -> Result<(Vec<u8>, Vec<Wrapping>), ImageError> {
    let mut wrappings = Vec::new();
    while wrappings.len() < MAX_LAYERS {
        if is_bzimage(&bytes) || bytes.starts_with(ELF_MAGIC) {
            break;
        }
        if let Some(place) = section(&bytes, LINUX) {
            bytes = bytes
                .get(place.clone())
                .map(<[u8]>::to_vec)
                .ok_or_else(|| truncated("the section .linux of a UKI", place.end, bytes.len()))?;
            wrappings.push(Wrapping::Uki);
            continue;
        }
        // One for another architecture stays what it is, and is named as that.
        if let Some(payload) = zboot(&bytes)?.filter(|payload| is_packed_kernel(payload)) {
            bytes = payload.to_vec();
            wrappings.push(Wrapping::Zboot);
        }
        let Some(format) = packed::format(&bytes).filter(|_| is_packed_kernel(&bytes)) else {
            break;
        };
        bytes = unpack(format, &bytes)?;
        wrappings.push(Wrapping::Packed(format));
    }
    Ok((bytes, wrappings))
}

/// The payload of an EFI zboot image; `None` for what is none.
fn zboot(bytes: &[u8]) -> Result<Option<&[u8]>, ImageError> {
    let is_zboot = bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(ZBOOT_MAGIC);
    let place = word_at(8, bytes).zip(word_at(12, bytes)).filter(|_| is_zboot);
    let Some((start, len)) = place else { return Ok(None) };
    let end = start.saturating_add(len);
    let payload = bytes.get(start..end);
    payload.map(Some).ok_or(truncated("the payload of an EFI zboot image", end, bytes.len()))
}

/// True if a kernel begins in what is packed here.
fn is_packed_kernel(packed: &[u8]) -> bool {
    let inside = peek(packed);
    is_bzimage(&inside) || inside.starts_with(ELF_MAGIC)
}

fn unpack(format: Format, packed: &[u8]) -> Result<Vec<u8>, ImageError> {
    if matches!(format, Format::Xz | Format::Lzma) && packed.len() > MAX_XZ_BYTES {
        let len = packed.len();
        let text = format!("it is packed ({format}) in {len} bytes, more than any kernel");
        return Err(ImageError::Damaged(text));
    }
    let most = most_unpacked(packed.len());
    let mut bytes = Vec::new();
    packed::reader(format, packed)
        .and_then(|reader| reader.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let got = bytes.len();
            ImageError::Damaged(format!(
                "it is packed ({format}), and after {got} bytes it does not unpack: {error}"
            ))
        })?;
    if bytes.len() as u64 > most {
        return Err(ImageError::Damaged(format!(
            "its {} bytes unpack to more than {most}, as those of no kernel do",
            packed.len()
        )));
    }
    Ok(bytes)
}

/// The beginning of what is packed; nothing where it cannot be unpacked.
pub(super) fn peek(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reader = packed::format(packed).and_then(|format| packed::reader(format, packed).ok());
    if let Some(reader) = reader {
        // What came out before an error is as good.
        let _ = reader.take(PEEK_BYTES).read_to_end(&mut bytes);
    }
    bytes
}

/// Where the sections of a PE file are, by name; `None` for what is no PE file. They need not lie
/// within the file.
pub(super) fn sections(bytes: &[u8]) -> Option<Vec<([u8; 8], Range<usize>)>> {
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    // e_lfanew, then the signature, the COFF header, the optional header, and the sections: name,
    // bytes in memory, address, bytes in the file, offset in the file.
    let pe = word_at(0x3c, bytes)?;
    if bytes.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let count = word_at(pe + 4, bytes)? >> 16;
    let table = pe + 24 + (word_at(pe + 20, bytes)? & 0xffff);
    Some(
        (0..count.min(MAX_SECTIONS))
            .map_while(|n| {
                let at = table + n * SECTION_LEN;
                let name = *bytes.get(at..)?.first_chunk::<8>()?;
                // What is in the file is padded to a whole number of file blocks.
                let (len, start) = (
                    word_at(at + 8, bytes)?.min(word_at(at + 16, bytes)?),
                    word_at(at + 20, bytes)?,
                );
                Some((name, start..start.checked_add(len)?))
            })
            .collect(),
    )
}

/// The little-endian word at an offset.
fn word_at(at: usize, bytes: &[u8]) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn section(bytes: &[u8], wanted: &[u8; 8]) -> Option<Range<usize>> {
    let mut sections = sections(bytes)?.into_iter();
    sections.find_map(|(name, place)| (name == *wanted).then_some(place))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;
    use crate::x86_64::elf::flat_kernel;
    use crate::x86_64::image::{KernelImage, tests::bzimage};

    /// A PE file with these sections.
    pub(crate) fn pe(sections: &[(&[u8; 8], &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x86] = u8::try_from(sections.len()).expect("few");
        bytes[0x94] = 0xf0;
        for (n, (name, content)) in sections.iter().enumerate() {
            let at = 0x80 + 24 + 0xf0 + n * SECTION_LEN;
            let word = |value: usize| u32::try_from(value).expect("small").to_le_bytes();
            let (len, start) = (content.len(), bytes.len());
            bytes[at..at + 8].copy_from_slice(*name);
            bytes[at + 8..at + 12].copy_from_slice(&word(len));
            bytes[at + 16..at + 20].copy_from_slice(&word(len.next_multiple_of(512)));
            bytes[at + 20..at + 24].copy_from_slice(&word(start));
            bytes.extend_from_slice(content);
            bytes.resize(start + len.next_multiple_of(512), 0);
        }
        bytes
    }

    fn uki(kernel: &[u8]) -> Vec<u8> {
        pe(&[(b".text\0\0\0", b"stub"), (LINUX, kernel), (b".initrd\0", b"070701")])
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(bytes).expect("gzip");
        encoder.finish().expect("gzip")
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
        encoder.write_all(bytes).expect("xz");
        encoder.finish().expect("xz")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).expect("zstd")
    }

    #[test]
    fn packed_kernels_are_unpacked() {
        for kernel in [flat_kernel(0x100_0000, &[0xf4; 5000]), bzimage(&[7; 64])] {
            let packs = [(Format::Gzip, gzip(&kernel)), (Format::Xz, xz(&kernel))];
            for (format, packed) in packs.into_iter().chain([(Format::Zstd, zstd(&kernel))]) {
                let (inside, wrappings) = unwrap(packed.clone()).expect("unpacks");
                assert!(inside == kernel, "{format:?}");
                assert_eq!(wrappings, [Wrapping::Packed(format)]);
                let image = KernelImage::parse(packed).expect("a kernel");
                assert!(image.bytes() == kernel, "{format:?}");
            }
        }
    }

    #[test]
    fn the_kernel_of_a_uki_is_taken_out() {
        let kernel = bzimage(&[7; 64]);
        let (inside, wrappings) = unwrap(uki(&kernel)).expect("a UKI");
        assert!(inside == kernel && wrappings == [Wrapping::Uki]);
        let (inside, wrappings) = unwrap(uki(&zstd(&kernel))).expect("a UKI");
        assert!(inside == kernel);
        assert_eq!(wrappings, [Wrapping::Uki, Wrapping::Packed(Format::Zstd)]);
        // Of another architecture: what is in it is named.
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.resize(0x300, 0);
        let text = KernelImage::parse(uki(&zboot)).expect_err("arm64").to_string();
        assert!(text.contains("an EFI zboot image"), "{text}");
    }

    /// An EFI zboot image with this payload, of the type `kind`.
    fn zboot(kind: &[u8], packed: &[u8]) -> Vec<u8> {
        let mut image = pe(&[(b".text\0\0\0", b"stub")]);
        let start = u32::try_from(image.len()).expect("small");
        image[4..8].copy_from_slice(ZBOOT_MAGIC);
        image[8..12].copy_from_slice(&start.to_le_bytes());
        image[12..16].copy_from_slice(&u32::try_from(packed.len()).expect("small").to_le_bytes());
        image[24..24 + kind.len()].copy_from_slice(kind);
        image.extend_from_slice(packed);
        // The length of what is packed, or a signature.
        image.extend_from_slice(&[0; 8]);
        image
    }

    #[test]
    fn the_kernel_of_a_zboot_image_is_taken_out() {
        let kernel = bzimage(&[7; 64]);
        for (kind, format, packed) in
            [(&b"gzip"[..], Format::Gzip, gzip(&kernel)), (b"zstd", Format::Zstd, zstd(&kernel))]
        {
            let image = zboot(kind, &packed);
            let (inside, wrappings) = unwrap(image.clone()).expect("zboot");
            assert!(inside == kernel, "{format:?}");
            assert_eq!(wrappings, [Wrapping::Zboot, Wrapping::Packed(format)]);
            let (inside, wrappings) = unwrap(uki(&image)).expect("zboot in a UKI");
            assert!(inside == kernel && wrappings.len() == 3, "{wrappings:?}");
        }
        // With the kernel of another architecture it is named as what it is.
        let other = zboot(b"gzip", &gzip(b"MZ arm64"));
        let text = KernelImage::parse(other).expect_err("no kernel for us").to_string();
        assert!(text.contains("an EFI zboot image, as kernels for arm64"), "{text}");
        let image = zboot(b"gzip", &gzip(&kernel));
        let cut = KernelImage::parse(image[..image.len() - 9].to_vec()).expect_err("cut");
        assert!(matches!(cut, ImageError::Truncated { .. }), "{cut}");
    }

    #[test]
    fn damaged_wrappings_are_told() {
        // Longer than a block of zstd, of which nothing comes out before its end.
        let code: Vec<u8> = (0..=255).cycle().take(400_000).collect();
        let kernel = flat_kernel(0x100_0000, &code);
        for packed in [gzip(&kernel), xz(&kernel), zstd(&kernel)] {
            let cut = packed[..packed.len() - 9].to_vec();
            let text = KernelImage::parse(cut).expect_err("cut").to_string();
            assert!(text.contains("damaged: it is packed"), "{text}");
        }
        let mut cut = uki(&kernel);
        cut.truncate(0x400 + 512 + 99);
        let text = KernelImage::parse(cut).expect_err("cut").to_string();
        assert!(text.contains("truncated: the section .linux"), "{text}");
    }

    #[test]
    fn what_is_in_no_wrapping_is_left_alone() {
        for bytes in [bzimage(&[7; 64]), b"text".to_vec(), Vec::new(), gzip(b"text"), pe(&[])] {
            assert_eq!(unwrap(bytes.clone()), Ok((bytes, Vec::new())));
        }
    }

    #[test]
    fn no_prefix_or_flipped_bit_panics() {
        let image = uki(&zboot(b"zstd", &zstd(&bzimage(&[7; 64]))));
        for len in 0..image.len() {
            let _ = unwrap(image[..len].to_vec());
        }
        for bit in 0..image.len().min(0x200) * 8 {
            let mut bent = image.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let _ = unwrap(bent);
        }
    }
}
