// SPDX-License-Identifier: Apache-2.0
//! The ELF form of a kernel: its headers, and what of it is loaded where.
//!
//! Source: ELF-64 Object File Format. Every length in the file is a claim to be checked.

use crate::x86_64::image_error::{ImageError, truncated};
use crate::x86_64::magic::ELF_MAGIC;
use crate::x86_64::{layout, not_a_kernel};

pub(super) const ELF_HEADER_LEN: usize = 64;
pub(super) const ELF_SEGMENT_LEN: usize = 56;
const ELF_CLASS_64: u8 = 2;
const ELF_LITTLE_ENDIAN: u8 = 1;
const ELF_BIG_ENDIAN: u8 = 2;
const ELF_I386: u16 = 3;
const ELF_X86_64: u16 = 62;
const ELF_LOAD: u32 = 1;
const ELF_NOTE: u32 = 4;
/// More program headers than any kernel has; a bound for hostile files.
const MAX_SEGMENTS: usize = 64;

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

    /// True if bytes of the file, and not the zeros after them, are at `address`.
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

/// Checks an ELF kernel's headers and lists its segments.
///
/// # Errors
/// Any header that a loader could stumble over, or a segment outside `[1 MiB, 1 GiB)`, the
/// range the kernel is entered with mapped.
pub fn parse_elf(bytes: &[u8]) -> Result<ElfKernel, ImageError> {
    check_kind(bytes)?;
    let entry = u64_at(bytes, 24);
    let (mut segments, mut notes) = (Vec::new(), None);
    for raw in program_headers(bytes)?.chunks_exact(ELF_SEGMENT_LEN) {
        match u32_at(raw, 0) {
            ELF_LOAD => segments.push(check_segment(raw, bytes.len() as u64)?),
            ELF_NOTE => notes = Some((u64_at(raw, 24), u64_at(raw, 32))),
            _ => {}
        }
    }
    segments.retain(|segment: &Segment| segment.memory_len > 0);
    segments.sort_unstable_by_key(|segment| segment.address);
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].end() > pair[1].address) {
        return Err(ImageError::Damaged(format!("segments overlap at {:#x}", pair[1].address)));
    }
    let in_file: u64 = segments.iter().map(|segment| segment.file_len).sum();
    if in_file > bytes.len() as u64 {
        let text = format!("its segments have {in_file} bytes, more than the file");
        return Err(ImageError::Damaged(text));
    }
    // Not the segment's flags: the kernel is entered with a map of its loader's, in which all is
    // executable, and since Linux 6.18 its entry code lies in a segment without PF_X.
    if !segments.iter().any(|segment| segment.holds(entry)) {
        return Err(ImageError::Damaged(format!(
            "nothing is loaded at its entry point {entry:#x}"
        )));
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

/// Where the first segment of a kernel is to lie, by the beginning of its file.
pub(super) fn first_address(begin: &[u8]) -> Option<u64> {
    if begin.len() < ELF_HEADER_LEN || !begin.starts_with(ELF_MAGIC) {
        return None;
    }
    let headers = program_headers(begin).ok()?.chunks_exact(ELF_SEGMENT_LEN);
    let loaded = headers.filter(|raw| u32_at(raw, 0) == ELF_LOAD && u64_at(raw, 40) > 0);
    loaded.map(|raw| u64_at(raw, 24)).min()
}

/// How many bytes of a kernel's file are loaded, or before what is, by the beginning of it: what
/// comes behind is for debuggers. `None` for what is no ELF file.
pub fn loaded_len(begin: &[u8]) -> Option<u64> {
    first_address(begin)?;
    let headers = program_headers(begin).ok()?.chunks_exact(ELF_SEGMENT_LEN);
    headers.map(|raw| u64_at(raw, 8).saturating_add(u64_at(raw, 32))).max()
}

/// Whether it is an ELF file for this architecture, and a kernel's.
fn check_kind(bytes: &[u8]) -> Result<(), ImageError> {
    if bytes.len() < ELF_HEADER_LEN {
        return Err(truncated("the ELF header", ELF_HEADER_LEN, bytes.len()));
    }
    if !bytes.starts_with(ELF_MAGIC) {
        return Err(ImageError::Damaged("the unpacked payload is no ELF file".into()));
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
    Ok(())
}

/// The table of program headers.
fn program_headers(bytes: &[u8]) -> Result<&[u8], ImageError> {
    let table = u64_at(bytes, 32);
    let (entry_len, count) = (usize::from(u16_at(bytes, 54)), usize::from(u16_at(bytes, 56)));
    if entry_len != ELF_SEGMENT_LEN || count == 0 || count > MAX_SEGMENTS {
        return Err(ImageError::Damaged(format!("{count} program headers of {entry_len} bytes")));
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
    Ok(&bytes[table as usize..table_end as usize])
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
    put(0, ELF_MAGIC, &mut file);
    put(4, &[ELF_CLASS_64, ELF_LITTLE_ENDIAN, 1], &mut file);
    put(16, &[2, 0], &mut file); // ET_EXEC
    put(18, &ELF_X86_64.to_le_bytes(), &mut file);
    put(20, &[1], &mut file);
    put(24, &u64::from(address).to_le_bytes(), &mut file);
    put(32, &(ELF_HEADER_LEN as u64).to_le_bytes(), &mut file);
    put(54, &[56, 0, 1], &mut file); // one program header of 56 bytes
    let len = (memory.len() as u64).to_le_bytes();
    let segment = ELF_HEADER_LEN;
    put(segment, &ELF_LOAD.to_le_bytes(), &mut file);
    put(segment + 4, &[7], &mut file); // read, write, execute
    put(segment + 8, &(headers as u64).to_le_bytes(), &mut file);
    put(segment + 24, &u64::from(address).to_le_bytes(), &mut file);
    put(segment + 32, &len, &mut file);
    put(segment + 40, &len, &mut file);
    file.extend_from_slice(memory);
    file
}

fn put(at: usize, bytes: &[u8], file: &mut [u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
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
