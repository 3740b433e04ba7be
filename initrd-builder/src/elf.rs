// SPDX-License-Identifier: Apache-2.0
//! The dynamic section of an executable or library, as the dynamic loader reads it.

use std::path::{Path, PathBuf};

use object::LittleEndian;
use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, EM_X86_64, FileHeader64, ProgramHeader64,
};
use object::read::StringTable;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

use crate::InitrdError;

/// The part of a file's dynamic section that a library search needs.
#[derive(Debug, Default)]
pub(crate) struct Dynamic {
    /// The loader it names in PT_INTERP; `None` for static executables and most libraries.
    pub interpreter: Option<PathBuf>,
    /// DT_NEEDED, in order.
    pub needed: Vec<String>,
    /// DT_RPATH, split at colons.
    pub rpath: Vec<String>,
    /// DT_RUNPATH, split at colons; where it exists, DT_RPATH does not count.
    pub runpath: Option<Vec<String>>,
}

impl Dynamic {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, InitrdError> {
        let data = std::fs::read(path).map_err(InitrdError::read(path))?;
        Self::parse(&data).map_err(|reason| InitrdError::NotElf { path: path.into(), reason })
    }

    /// Reads a whole file from memory. The `object` crate checks every bound.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, String> {
        let header =
            FileHeader64::<LittleEndian>::parse(data).map_err(|error| error.to_string())?;
        let endian = header.endian().map_err(|error| error.to_string())?;
        if header.e_machine.get(endian) != EM_X86_64 {
            return Err(format!("its machine number is {}", header.e_machine.get(endian)));
        }
        let segments = header.program_headers(endian, data).map_err(|error| error.to_string())?;
        let mut dynamic = Self::default();
        for segment in segments {
            if let Some(path) = segment.interpreter(endian, data).map_err(|e| e.to_string())? {
                dynamic.interpreter = Some(PathBuf::from(text(path)?));
            }
            let entries = segment.dynamic(endian, data).map_err(|error| error.to_string())?;
            for (tag, value) in
                entries.map(|e| strings(e, segments, data)).transpose()?.unwrap_or_default()
            {
                match tag {
                    DT_NEEDED => dynamic.needed.push(value),
                    DT_RPATH => dynamic.rpath = split(&value),
                    DT_RUNPATH => dynamic.runpath = Some(split(&value)),
                    _ => {}
                }
            }
        }
        Ok(dynamic)
    }
}

/// The entries of a dynamic section whose value is a string.
fn strings(
    entries: &[object::elf::Dyn64<LittleEndian>],
    segments: &[ProgramHeader64<LittleEndian>],
    data: &[u8],
) -> Result<Vec<(u32, String)>, String> {
    let endian = LittleEndian;
    let (Some(address), Some(size)) =
        (dynamic_value(DT_STRTAB, &endian, entries), dynamic_value(DT_STRSZ, &endian, entries))
    else {
        return Ok(Vec::new());
    };
    // The table is named by its address in memory; a segment says where that is in the file.
    let table = segments
        .iter()
        .find_map(|segment| segment.data_range(endian, data, address, size).ok().flatten())
        .ok_or("its string table lies outside the file")?;
    let table = StringTable::new(table, 0, size);
    let mut found = Vec::new();
    for entry in entries.iter().take_while(|e| e.tag32(endian) != Some(object::elf::DT_NULL)) {
        let Some(tag @ (DT_NEEDED | DT_RPATH | DT_RUNPATH)) = entry.tag32(endian) else { continue };
        let string = entry.string(endian, table).map_err(|error| error.to_string())?;
        found.push((tag, text(string)?));
    }
    Ok(found)
}

fn dynamic_value(
    tag: u32,
    endian: &LittleEndian,
    entries: &[object::elf::Dyn64<LittleEndian>],
) -> Option<u64> {
    entries.iter().find(|e| e.tag32(*endian) == Some(tag)).map(|e| e.d_val(*endian))
}

fn split(path: &str) -> Vec<String> {
    path.split(':').filter(|directory| !directory.is_empty()).map(String::from).collect()
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| format!("a name in it is no text: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own test executable: whatever way it is linked, it is an ELF file at hand.
    fn own_bytes() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn not_elf_is_an_error() {
        for data in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0; 64]] {
            assert!(Dynamic::parse(data).is_err());
        }
        assert!(Dynamic::read(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_truncated_file_never_panics() {
        let data = own_bytes();
        for len in (0..1024).chain([4096, data.len() / 2]) {
            let _ = Dynamic::parse(&data[..len]);
        }
    }

    #[test]
    fn a_damaged_file_never_panics() {
        let Ok(data) = std::fs::read("/bin/ls") else { return };
        // Every byte of the ELF and program headers, and of the dynamic section's surroundings.
        for at in (0..900).chain(data.len().saturating_sub(12_000)..data.len()) {
            for value in [0x00, 0x7f, 0xff] {
                let mut damaged = data.clone();
                damaged[at] = value;
                let _ = Dynamic::parse(&damaged);
            }
        }
    }

    #[test]
    fn paths_are_split_at_colons() {
        assert_eq!(split("/a::$ORIGIN/b:"), ["/a", "$ORIGIN/b"]);
    }
}
