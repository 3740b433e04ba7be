// SPDX-License-Identifier: Apache-2.0
//! The kernel file: which kind it is, and whether its headers tell the truth.
//!
//! Sources: Linux Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header"); ELF-64
//! Object File Format. Every length in the file is a claim to be checked.

use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;
use vm_memory::ByteValued;

use crate::x86_64::not_a_kernel::{self, Other};
use crate::x86_64::{layout, lint, wrapped};

/// Offset of the setup header in a bzImage.
const HEADER_START: usize = 0x1f1;
/// Offset of the byte that tells how far the header reaches beyond 0x202.
const HEADER_JUMP: usize = 0x201;
/// End of the magic number in the header.
const HEADER_MIN_END: usize = 0x206;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const SECTOR: usize = 512;
/// First protocol version with `xloadflags` (Linux 3.8).
const VERSION_XLOADFLAGS: u16 = 0x20c;
/// xloadflags bit 0: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
pub(super) const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_HEADER_LEN: usize = 64;
const ELF_SEGMENT_LEN: usize = 56;
const ELF_CLASS_64: u8 = 2;
const ELF_LITTLE_ENDIAN: u8 = 1;
const ELF_BIG_ENDIAN: u8 = 2;
const ELF_I386: u16 = 3;
const ELF_X86_64: u16 = 62;
const ELF_LOAD: u32 = 1;
const ELF_NOTE: u32 = 4;
/// More program headers than any kernel has; a bound for hostile files.
const MAX_SEGMENTS: usize = 64;
/// No kernel image is larger; a bound for hostile files.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;

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
    /// 32-bit or too old.
    #[error("this is a 32-bit kernel ({0}); build it with CONFIG_64BIT=y")]
    Not64Bit(&'static str),
    /// ELF of another architecture.
    #[error(
        "this ELF file is for {name} (machine {number}), not for x86-64; give an x86-64 kernel",
        name = not_a_kernel::machine_name(*.0),
        number = .0
    )]
    OtherMachine(u16),
    /// Some other lie.
    #[error("the kernel image is damaged: {0}")]
    Damaged(String),
}

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

/// One loadable part of an ELF kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// Guest physical address.
    pub address: u64,
    /// Bytes in the file.
    pub file_len: u64,
    /// Bytes in memory; the rest is zero.
    pub memory_len: u64,
}

impl Segment {
    /// First guest physical address after the segment.
    pub fn end(&self) -> u64 {
        self.address + self.memory_len
    }

    /// Whether bytes of the file, and not the zeros after them, are at `address`.
    fn holds(&self, address: u64) -> bool {
        (self.address..self.address + self.file_len).contains(&address)
    }
}

/// What an ELF kernel wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfKernel {
    /// Physical entry point.
    pub entry: u64,
    /// Loadable segments in ascending order of address.
    pub segments: Vec<Segment>,
    /// First guest physical address and bytes of its notes, which lie in one of the segments.
    pub notes: Option<(u64, u64)>,
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
        const MOST_BYTES: usize = 64;
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
        let text = &text[..text.len().min(MOST_BYTES + 1)];
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
        if bytes.starts_with(b"MZ") && bytes.len() < HEADER_MIN_END {
            return Err(truncated("the boot header", HEADER_MIN_END, bytes.len()));
        }
        Err(match not_a_kernel::recognise(&bytes) {
            Some(other) => ImageError::Other(other),
            None => ImageError::NotAKernel(bytes[..bytes.len().min(4)].to_vec()),
        })
    }
}

/// Whether there is a boot header.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    let magic = |at, len| bytes.get(at..at + len);
    magic(0x1fe, 2) == Some(&BOOT_FLAG.to_le_bytes())
        && magic(0x202, 4) == Some(&HEADER_MAGIC.to_le_bytes())
}

fn truncated(what: &'static str, needed: usize, got: usize) -> ImageError {
    ImageError::Truncated { what, needed: needed as u64, got: got as u64 }
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
        return Err(ImageError::Not64Bit("boot protocol before 2.12, no 64-bit entry point"));
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

/// Checks an ELF kernel's headers and lists its segments.
///
/// # Errors
/// Any header that a loader could stumble over, or a segment outside `[1 MiB, 1 GiB)`, the
/// range the kernel is entered with mapped.
pub fn parse_elf(bytes: &[u8]) -> Result<ElfKernel, ImageError> {
    let damaged = |text: String| ImageError::Damaged(text);
    if bytes.len() < ELF_HEADER_LEN {
        return Err(truncated("the ELF header", ELF_HEADER_LEN, bytes.len()));
    }
    if !bytes.starts_with(ELF_MAGIC) {
        return Err(damaged("the unpacked payload is no ELF file".into()));
    }
    let machine = u16_at(bytes, 18);
    if bytes[5] == ELF_BIG_ENDIAN {
        return Err(ImageError::OtherMachine(machine.swap_bytes()));
    }
    if machine != ELF_X86_64 && machine != ELF_I386 {
        return Err(ImageError::OtherMachine(machine));
    }
    if bytes[4] != ELF_CLASS_64 || machine == ELF_I386 {
        return Err(ImageError::Not64Bit("ELF class 32"));
    }
    if let Some(other) = not_a_kernel::recognise(bytes) {
        return Err(ImageError::Other(other));
    }
    let (entry, table) = (u64_at(bytes, 24), u64_at(bytes, 32));
    let (entry_len, count) = (usize::from(u16_at(bytes, 54)), usize::from(u16_at(bytes, 56)));
    if entry_len != ELF_SEGMENT_LEN || count == 0 || count > MAX_SEGMENTS {
        return Err(damaged(format!("{count} program headers of {entry_len} bytes")));
    }
    let table_end = table.saturating_add((count * ELF_SEGMENT_LEN) as u64);
    if table_end > bytes.len() as u64 {
        let got = bytes.len() as u64;
        return Err(ImageError::Truncated {
            what: "the program header table",
            needed: table_end,
            got,
        });
    }
    // Bounded by the file's length just above.
    #[allow(clippy::cast_possible_truncation)]
    let headers = &bytes[table as usize..table_end as usize];
    let (mut segments, mut notes) = (Vec::new(), None);
    for raw in headers.chunks_exact(ELF_SEGMENT_LEN) {
        match u32_at(raw, 0) {
            ELF_LOAD => segments.push(check_segment(raw, bytes.len() as u64)?),
            ELF_NOTE => notes = Some((u64_at(raw, 24), u64_at(raw, 32))),
            _ => {}
        }
    }
    segments.retain(|segment: &Segment| segment.memory_len > 0);
    segments.sort_unstable_by_key(|segment| segment.address);
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].end() > pair[1].address) {
        return Err(damaged(format!("segments overlap at {:#x}", pair[1].address)));
    }
    // Not the segment's flags: the kernel is entered with a map of its loader's, in which all is
    // executable, and since Linux 6.18 its entry code lies in a segment without PF_X.
    if !segments.iter().any(|segment| segment.holds(entry)) {
        return Err(damaged(format!("nothing is loaded at its entry point {entry:#x}")));
    }
    // What lies elsewhere in the file is not in memory, and so is none of the kernel's own.
    let notes = notes.filter(|(start, len)| {
        let last = len.checked_sub(1).and_then(|len| start.checked_add(len));
        last.is_some_and(|last| {
            segments.iter().any(|segment| segment.holds(*start) && segment.holds(last))
        })
    });
    Ok(ElfKernel { entry, segments, notes })
}

fn check_segment(raw: &[u8], file_len: u64) -> Result<Segment, ImageError> {
    let segment = Segment {
        offset: u64_at(raw, 8),
        address: u64_at(raw, 24),
        file_len: u64_at(raw, 32),
        memory_len: u64_at(raw, 40),
    };
    let Segment { offset, address, .. } = segment;
    let file_end = offset.saturating_add(segment.file_len);
    if file_end > file_len {
        return Err(ImageError::Truncated { what: "a segment", needed: file_end, got: file_len });
    }
    if segment.file_len > segment.memory_len {
        return Err(ImageError::Damaged(format!(
            "segment at {address:#x} has more file than memory"
        )));
    }
    let end = address.saturating_add(segment.memory_len);
    if address < layout::HIGH_RAM_START.0 || end > layout::IDENTITY_MAP_END.0 {
        return Err(ImageError::Damaged(format!(
            "segment [{address:#x}, {end:#x}) lies outside [1 MiB, 1 GiB)"
        )));
    }
    Ok(segment)
}

/// `memory` as an ELF kernel of one segment at `address`, entered at its first byte: for
/// guests of a few instructions.
pub fn flat_kernel(address: u32, memory: &[u8]) -> Vec<u8> {
    let headers = ELF_HEADER_LEN + ELF_SEGMENT_LEN;
    let mut file = vec![0; headers];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, ELF_MAGIC);
    put(4, &[ELF_CLASS_64, ELF_LITTLE_ENDIAN, 1]);
    put(16, &[2, 0]); // ET_EXEC
    put(18, &ELF_X86_64.to_le_bytes());
    put(20, &[1]);
    put(24, &u64::from(address).to_le_bytes());
    put(32, &(ELF_HEADER_LEN as u64).to_le_bytes());
    put(54, &[56, 0, 1]); // one program header of 56 bytes
    let len = (memory.len() as u64).to_le_bytes();
    let segment = ELF_HEADER_LEN;
    put(segment, &ELF_LOAD.to_le_bytes());
    put(segment + 4, &[7]); // read, write, execute
    put(segment + 8, &(headers as u64).to_le_bytes());
    put(segment + 24, &u64::from(address).to_le_bytes());
    put(segment + 32, &len);
    put(segment + 40, &len);
    file.extend_from_slice(memory);
    file
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

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
        assert!(matches!(error(old), ImageError::Not64Bit(_)));
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
