// SPDX-License-Identifier: Apache-2.0
//! The files of a package of RPM: a lead, two headers, and a packed archive. That is cpio's in
//! version 4 of the format; in version 6 each file has its place in the header's list in place of a
//! name.
//!
//! Sources: docs/manual/format_v4.md, docs/manual/format_v6.md and lib/rpmfi.c of RPM.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::Range;

use super::{MAX_PATH_BYTES, Visitor, drain, invalid, unpacked};

/// Magic number of a package.
pub const MAGIC: &[u8] = b"\xed\xab\xee\xdb";
/// Of the lead.
const LEAD_LEN: u64 = 96;
/// Magic number of each header, with its version.
const HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 1];
/// Bytes before the name of each file of cpio, and the digits there that tell how long that is.
const CPIO_LEN: usize = 110;
const CPIO_NAME_LEN: Range<usize> = 94..102;
/// Magic number of each file of cpio.
const CPIO_MAGIC: &[u8; 6] = b"070701";
/// The same in version 6, before the file's place in eight hexadecimal digits.
const STRIPPED_MAGIC: &[u8; 6] = b"07070X";
/// With what fills it up to four bytes.
const STRIPPED_LEN: usize = 16;
/// RPM itself takes no larger one (lib/header.c, `headerMaxbytes`).
const MAX_HEADER_BYTES: u64 = 256 << 20;
/// Type of a file in its mode, and that of a regular one (inode(7)).
const MODE_TYPE: u64 = 0o170_000;
const MODE_REGULAR: u64 = 0o100_000;

const MODE_SYMLINK: u64 = 0o120_000;

/// Tags of the header (include/rpm/rpmtag.h).
const FILE_SIZES: u32 = 1028;
const FILE_MODES: u32 = 1030;
const FILE_INODES: u32 = 1096;
const DIR_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIR_NAMES: u32 = 1118;
const LONG_FILE_SIZES: u32 = 5008;

/// Shows all regular files of the package that `file` is.
///
/// # Errors
/// It is damaged.
pub fn files(mut file: impl BufRead, visitor: &mut Visitor<'_>) -> io::Result<()> {
    skip(&mut file, LEAD_LEN)?;
    let signature = Header::read(&mut file)?;
    // The signature alone is padded, to 8 bytes.
    skip(&mut file, signature.store.len().wrapping_neg() as u64 & 7)?;
    let header = Header::read(&mut file)?;
    let mut payload = BufReader::new(unpacked(file)?);
    let mut magic = [0; CPIO_MAGIC.len()];
    payload.read_exact(&mut magic)?;
    let payload = Cursor::new(magic).chain(payload);
    if magic == *STRIPPED_MAGIC {
        return stripped(payload, &header.files()?, visitor);
    }
    named(payload, visitor)
}

/// An archive of cpio.
fn named(mut payload: impl Read, visitor: &mut Visitor<'_>) -> io::Result<()> {
    loop {
        let mut head = [0; CPIO_LEN];
        payload.read_exact(&mut head)?;
        // The reader takes memory for a name of any length.
        let len = std::str::from_utf8(&head[CPIO_NAME_LEN]);
        let len = len.ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if len.is_none_or(|len| len > MAX_PATH_BYTES) {
            return Err(invalid("a file in it has too long a name"));
        }
        let mut member = cpio::newc::Reader::new(Cursor::new(head).chain(payload))?;
        if member.entry().is_trailer() {
            return drain(member.finish()?);
        }
        let path = member.entry().name().to_owned();
        // The last of several hard links has what is in all of them.
        let is_elsewhere = member.entry().nlink() > 1 && member.entry().file_size() == 0;
        if u64::from(member.entry().mode()) & MODE_TYPE == MODE_REGULAR && !is_elsewhere {
            visitor(&path, &mut member)?;
        }
        payload = member.finish()?.into_inner().1;
    }
}

/// An archive of files that `listed` names.
fn stripped(
    mut payload: impl Read,
    listed: &[Listed],
    visitor: &mut Visitor<'_>,
) -> io::Result<()> {
    loop {
        let mut head = [0; STRIPPED_LEN];
        payload.read_exact(&mut head)?;
        if head.starts_with(CPIO_MAGIC) {
            // The last one has a name, which says that.
            return drain(payload);
        }
        let digits = head.strip_prefix(STRIPPED_MAGIC).and_then(|rest| rest.get(..8));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let place = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let listed = place.and_then(|place| listed.get(place));
        let listed =
            listed.ok_or_else(|| invalid("it has a file that its header does not list"))?;
        let mut data = payload.by_ref().take(listed.len);
        if listed.is_regular {
            visitor(&listed.path, &mut data)?;
        }
        let rest = data.limit().saturating_add(listed.len.wrapping_neg() & 3);
        skip(&mut payload, rest)?;
    }
}

/// A file in the header.
struct Listed {
    path: String,
    /// Bytes in the archive.
    len: u64,
    /// True if it is a file, and here: the last of several hard links has what is in all of them.
    is_regular: bool,
}

/// A header: entries of a tag, a type, an offset and a count, and what they point to.
struct Header {
    entries: Vec<u8>,
    store: Vec<u8>,
}

impl Header {
    const ENTRY_LEN: u64 = 16;

    fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut intro = [0; 16];
        file.read_exact(&mut intro)?;
        if !intro.starts_with(&HEADER_MAGIC) {
            return Err(invalid("it has no RPM header"));
        }
        let (entries, store) =
            (u64::from(word(&intro[8..])) * Self::ENTRY_LEN, u64::from(word(&intro[12..])));
        if entries + store > MAX_HEADER_BYTES {
            return Err(invalid(format!("its header claims {} bytes", entries + store)));
        }
        Ok(Self { entries: read_exactly(entries, file)?, store: read_exactly(store, file)? })
    }

    /// Type, bytes from its offset on, and count of the entry with this tag.
    fn entry(&self, tag: u32) -> Option<(u32, &[u8], usize)> {
        let mut entries = self.entries.chunks_exact(16);
        let entry = entries.find(|entry| word(entry) == tag)?;
        let offset = usize::try_from(word(&entry[8..])).ok()?;
        Some((
            word(&entry[4..]),
            self.store.get(offset..)?,
            usize::try_from(word(&entry[12..])).ok()?,
        ))
    }

    /// Whole numbers of 2, 4 or 8 bytes.
    fn numbers(&self, tag: u32) -> Vec<u64> {
        let Some((kind, bytes, count)) = self.entry(tag) else { return Vec::new() };
        let width = match kind {
            3 => 2,
            4 => 4,
            5 => 8,
            _ => return Vec::new(),
        };
        bytes
            .chunks_exact(width)
            .take(count)
            .map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            .collect()
    }

    /// Texts, each with a NUL at its end.
    fn texts(&self, tag: u32) -> Vec<String> {
        let Some((_, bytes, count)) = self.entry(tag) else { return Vec::new() };
        let texts = bytes.split(|byte| *byte == 0).take(count);
        texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }

    /// All files that the package has.
    fn files(&self) -> io::Result<Vec<Listed>> {
        let [modes, inodes, folders] =
            [FILE_MODES, FILE_INODES, DIR_INDEXES].map(|tag| self.numbers(tag));
        let mut sizes = self.numbers(LONG_FILE_SIZES);
        if sizes.is_empty() {
            sizes = self.numbers(FILE_SIZES);
        }
        let folder_names = self.texts(DIR_NAMES);
        let regular =
            modes.iter().zip(&inodes).enumerate().filter(|(_, (mode, _))| is_regular(**mode));
        let last: HashMap<_, _> = regular.map(|(place, (_, inode))| (*inode, place)).collect();
        let files = self
            .texts(BASE_NAMES)
            .iter()
            .enumerate()
            .map(|(place, name)| {
                let folder = folder_names.get(usize::try_from(*folders.get(place)?).ok()?)?;
                let (mode, size) = (*modes.get(place)?, *sizes.get(place)?);
                let is_here = is_regular(mode) && last.get(inodes.get(place)?) == Some(&place);
                let len = if is_here || mode & MODE_TYPE == MODE_SYMLINK { size } else { 0 };
                Some(Listed { path: format!("{folder}{name}"), len, is_regular: is_here })
            })
            .collect::<Option<_>>();
        files.ok_or_else(|| invalid("its header does not tell of all files"))
    }
}

fn read_exactly(len: u64, file: &mut impl Read) -> Result<Vec<u8>, io::Error> {
    let mut bytes = Vec::new();
    file.by_ref().take(len).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(bytes)
}

fn is_regular(mode: u64) -> bool {
    mode & MODE_TYPE == MODE_REGULAR
}

/// The big-endian number at the beginning of `bytes`; 0 for fewer than four.
fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn skip(file: &mut impl Read, len: u64) -> io::Result<()> {
    match io::copy(&mut file.take(len), &mut io::sink())? {
        skipped if skipped < len => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
