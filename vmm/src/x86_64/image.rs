// SPDX-License-Identifier: Apache-2.0
//! The kernel file: which kind it is, and whether its headers tell the truth.
//!
//! Sources: Linux Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header").
//! Every length in the file is a claim to be checked.

use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use crate::x86_64::elf::parse_elf;
use crate::x86_64::image_error::{ImageError, truncated};
use crate::x86_64::magic::{ELF_MAGIC, is_almost_bzimage, is_bzimage};
use crate::x86_64::{lint, not_a_kernel, wrapped};

/// Offset of the setup header in a bzImage.
const HEADER_START: usize = 0x1f1;
/// Offset of the byte that tells how far the header reaches beyond 0x202.
const HEADER_JUMP: usize = 0x201;
/// End of the magic number in the header.
const HEADER_MIN_END: usize = 0x206;
const SECTOR: usize = 512;
/// First protocol version with `xloadflags` (Linux 3.8).
const VERSION_XLOADFLAGS: u16 = 0x20c;
/// xloadflags bit 0: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;

/// A kernel file whose headers have been checked.
#[derive(Debug)]
pub enum KernelImage {
    /// A bzImage.
    BzImage(BzImage),
    /// An uncompressed ELF kernel.
    Vmlinux(Vec<u8>),
}

/// A bzImage and where its parts lie.
#[derive(Debug)]
pub struct BzImage {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Its setup header.
    pub header: setup_header,
    /// Compressed kernel, in `bytes`; empty if the header names none.
    pub payload: Range<usize>,
}

impl BzImage {
    /// All that follows the setup sectors: the stub with the compressed kernel in it.
    pub fn protected(&self) -> &[u8] {
        let setup_sectors = setup_sectors(&self.header);
        self.bytes.get((setup_sectors + 1) * SECTOR..).unwrap_or_default()
    }
}

/// Sectors of real-mode code after the first one; 0 stands for 4 (boot.rst).
fn setup_sectors(header: &setup_header) -> usize {
    if header.setup_sects == 0 { 4 } else { header.setup_sects.into() }
}

impl KernelImage {
    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::BzImage(image) => &image.bytes,
            Self::Vmlinux(bytes) => bytes,
        }
    }

    /// Version and patch level, as in 6.12, where it tells its release.
    pub fn version(&self) -> Option<(u32, u32)> {
        let release = self.release()?;
        let mut numbers =
            release.split(|char: char| !char.is_ascii_digit()).map(|digits| digits.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    }

    /// What `uname -r` says in it, from a bzImage's header, or from the banner that is somewhere in
    /// a vmlinux.
    pub fn release(&self) -> Option<String> {
        /// `__NEW_UTS_LEN` (include/uapi/linux/utsname.h).
        const MAX_BYTES: usize = 64;
        let banner;
        let text = match self {
            // Offset of the text, less 0x200 (boot.rst, "kernel_version"); 0 for none.
            Self::BzImage(BzImage { bytes, header, .. }) => {
                bytes.get(usize::from(header.kernel_version).checked_sub(1)? + 1 + SECTOR..)?
            }
            Self::Vmlinux(bytes) => {
                banner = lint::banner(bytes)?;
                banner.strip_prefix(lint::BANNER)?.as_bytes()
            }
        };
        let text = &text[..text.len().min(MAX_BYTES + 1)];
        let end = text.iter().position(|byte| matches!(byte, b' ' | 0))?;
        std::str::from_utf8(&text[..end]).ok().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// Where the memory ends that it takes before it manages any: from the header of a bzImage
    /// (boot.rst, `init_size`), from the segments of a vmlinux.
    pub fn memory_end(&self) -> u64 {
        match self {
            Self::BzImage(BzImage { header, .. }) => {
                let (start, size) = (header.pref_address, header.init_size);
                start.saturating_add(u64::from(size))
            }
            Self::Vmlinux(bytes) => parse_elf(bytes)
                .ok()
                .and_then(|kernel| Some(kernel.segments.last()?.end()))
                .unwrap_or_default(),
        }
    }

    /// Recognises a kernel, unwrapped where it is in a [wrapping](wrapped), and checks its
    /// headers.
    ///
    /// # Errors
    /// What is wrong with the file, as the user should read it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let (bytes, _) = wrapped::unwrap(bytes)?;
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        if bytes.starts_with(ELF_MAGIC) {
            parse_elf(&bytes)?;
            return Ok(Self::Vmlinux(bytes));
        }
        if is_bzimage(&bytes) {
            return parse_bzimage(bytes).map(Self::BzImage);
        }
        if is_almost_bzimage(&bytes) {
            let text = "bits of the magic numbers in its boot header are wrong; copy it again";
            return Err(ImageError::Damaged(text.into()));
        }
        if bytes.starts_with(b"MZ") && bytes.len() < HEADER_MIN_END {
            return Err(truncated("the boot header", HEADER_MIN_END, bytes.len()));
        }
        if let Some(text) = not_a_kernel::damage(&bytes) {
            return Err(ImageError::Damaged(text));
        }
        Err(match not_a_kernel::recognise(&bytes) {
            Some(other) => ImageError::Other(other),
            None => ImageError::NotAKernel(bytes[..bytes.len().min(4)].to_vec()),
        })
    }
}

fn parse_bzimage(bytes: Vec<u8>) -> Result<BzImage, ImageError> {
    let header_end = 0x202 + usize::from(bytes[HEADER_JUMP]);
    let raw = bytes
        .get(HEADER_START..header_end)
        .ok_or_else(|| truncated("the boot header", header_end, bytes.len()))?;
    let mut header = setup_header::default();
    let known = raw.len().min(size_of::<setup_header>());
    header.as_mut_slice()[..known].copy_from_slice(&raw[..known]);

    let version = header.version;
    if version < VERSION_XLOADFLAGS {
        let [minor, major] = version.to_le_bytes();
        return Err(ImageError::TooOld { major, minor });
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ImageError::Not64Bit("its header has no 64-bit entry point"));
    }
    let setup_len = (setup_sectors(&header) + 1) * SECTOR;
    let syssize = header.syssize;
    let needed = setup_len as u64 + u64::from(syssize) * 16;
    // A file may be longer than announced (signatures are appended), never shorter. syssize
    // is rounded up to 16 bytes, which the file need not be.
    if needed > bytes.len() as u64 + 15 {
        let got = bytes.len() as u64;
        return Err(ImageError::Truncated { what: "the kernel its header announces", needed, got });
    }
    let (offset, len) = (header.payload_offset, header.payload_length);
    let start = setup_len as u64 + u64::from(offset);
    let end = start + u64::from(len);
    if end > bytes.len() as u64 {
        let got = bytes.len() as u64;
        return Err(ImageError::Truncated { what: "the compressed payload", needed: end, got });
    }
    // Both are below the file's length, which is a usize.
    #[allow(clippy::cast_possible_truncation)]
    let payload = start as usize..end as usize;
    Ok(BzImage { bytes, header, payload })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::x86_64::elf::{ELF_HEADER_LEN, ELF_SEGMENT_LEN, flat_kernel};
    use crate::x86_64::magic::{BOOT_FLAG, HEADER_MAGIC};

    /// A bzImage with this payload and nothing else.
    pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
        let payload_len = u32::try_from(payload.len()).expect("small");
        let mut bytes = vec![0u8; 5 * SECTOR];
        bytes[0x1fe..0x200].copy_from_slice(&BOOT_FLAG.to_le_bytes());
        bytes[HEADER_JUMP] = 0x66;
        bytes[0x202..0x206].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        bytes[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        bytes[0x236] = 1;
        bytes[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        bytes[0x24c..0x250].copy_from_slice(&payload_len.to_le_bytes());
        bytes[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        bytes[0x1f4..0x1f8].copy_from_slice(&(payload_len / 16).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn error(bytes: Vec<u8>) -> ImageError {
        KernelImage::parse(bytes).expect_err("must be refused")
    }

    #[test]
    fn good_images_are_recognised() {
        assert!(matches!(
            KernelImage::parse(flat_kernel(0x100_0000, &[0xf4])),
            Ok(KernelImage::Vmlinux(_))
        ));
        let Ok(KernelImage::BzImage(image)) = KernelImage::parse(bzimage(&[7; 64])) else {
            panic!("not recognised")
        };
        assert_eq!(image.bytes[image.payload], [7; 64]);
    }

    #[test]
    fn bad_files_are_told_apart() {
        assert_eq!(error(Vec::new()), ImageError::Empty);
        assert_eq!(error(b"no\0kernel".to_vec()), ImageError::NotAKernel(b"no\0k".to_vec()));
        assert!(matches!(error(b"no kernel".to_vec()), ImageError::Other(_)));
        assert!(matches!(error(b"MZ\0\0".to_vec()), ImageError::Truncated { .. }));
        let mut cut = bzimage(&[7; 640]);
        cut.truncate(cut.len() - 100);
        assert!(matches!(error(cut), ImageError::Truncated { .. }));
        let mut old = bzimage(&[]);
        old[0x206] = 0x0a;
        let text = error(old).to_string();
        assert!(text.contains("boot protocol 2.10") && text.contains("Linux 3.8"), "{text}");
        let mut narrow = bzimage(&[]);
        narrow[0x236] = 0;
        assert!(matches!(error(narrow), ImageError::Not64Bit(_)));
    }

    #[test]
    fn lying_elf_headers_are_refused() {
        let damage = |at: usize, with: &[u8]| {
            let mut bytes = flat_kernel(0x100_0000, &[0xf4; 16]);
            bytes[at..at + with.len()].copy_from_slice(with);
            error(bytes)
        };
        assert_eq!(damage(4, &[1]), ImageError::Not64Bit("ELF class 32"));
        assert_eq!(damage(18, &[183]), ImageError::OtherMachine(183));
        assert!(matches!(damage(56, &[0xff, 0xff]), ImageError::Damaged(_)));
        assert!(matches!(damage(32, &[0xff; 8]), ImageError::Truncated { .. }));
        assert!(matches!(damage(64 + 8, &[0xff; 8]), ImageError::Truncated { .. }));
        assert!(matches!(damage(64 + 24, &0x7000u64.to_le_bytes()), ImageError::Damaged(_)));
        assert!(matches!(damage(64 + 40, &[0xff; 8]), ImageError::Damaged(_)));
    }

    #[test]
    fn an_entry_point_is_where_something_is_loaded() {
        // As Linux 6.18 and later: the entry lies in the data segment, after 4 KiB of text.
        const START: u64 = 0x100_0000;
        let elf = |entry: u64| {
            let code = [0xf4; 16];
            let mut file = vec![0; ELF_HEADER_LEN + 2 * ELF_SEGMENT_LEN];
            file[..ELF_HEADER_LEN].copy_from_slice(&flat_kernel(0, &[])[..ELF_HEADER_LEN]);
            file[24..32].copy_from_slice(&entry.to_le_bytes());
            file[56] = 2;
            let (read_execute, read_write) = (5u32, 6u32);
            for (at, address, flags) in
                [(64, START, read_execute), (120, START + 0x1000, read_write)]
            {
                file[at] = 1;
                file[at + 4..at + 8].copy_from_slice(&flags.to_le_bytes());
                let (offset, memory) = (ELF_HEADER_LEN as u64 + 2 * 56, 0x800u64);
                for (field, value) in [(8, offset), (24, address), (32, 16), (40, memory)] {
                    file[at + field..at + field + 8].copy_from_slice(&u64::to_le_bytes(value));
                }
            }
            file.extend_from_slice(&code);
            parse_elf(&file).map(|kernel| kernel.entry)
        };
        for entry in [START, START + 15, START + 0x1000, START + 0x100f] {
            assert_eq!(elf(entry), Ok(entry));
        }
        // Zeros that the loader adds, a hole between segments, and addresses beside them.
        for entry in [START - 1, START + 16, START + 0x900, START + 0x1010, START + 0x1800, 0] {
            let text = elf(entry).expect_err("nothing there").to_string();
            assert!(text.contains(&format!("its entry point {entry:#x}")), "{text}");
        }
    }

    #[test]
    fn no_prefix_or_flipped_bit_panics() {
        for image in [flat_kernel(0x100_0000, &[0xf4; 16]), bzimage(&[7; 64])] {
            for len in 0..image.len() {
                let _ = KernelImage::parse(image[..len].to_vec());
            }
            for bit in 0..image.len().min(0x300) * 8 {
                let mut bent = image.clone();
                bent[bit / 8] ^= 1 << (bit % 8);
                let _ = KernelImage::parse(bent);
            }
        }
    }
}
