// SPDX-License-Identifier: Apache-2.0
//! What versions 6 and 7 have in common: the first bytes, headers, formats, options.

use super::cursor::Cursor;
use super::{FTRACE_SYSTEM, HEADER_EVENT, HEADER_PAGE, MAGIC, option};
use crate::error::FtraceError;
use crate::format::{FormatFile, MAX_FORMAT_BYTES, MAX_FORMATS_BYTES};
use crate::trace::{MAX_SMALL_BYTES, Metadata, TscScale, clock_in_use};
use crate::trace_id::TraceId;

/// Format files, at most; Linux 6.18 has 2 000.
const MAX_FORMAT_FILES: u64 = 1 << 15;
/// Options, at most; trace-cmd writes about twelve, and one for each CPU and each buffer.
pub(super) const MAX_OPTIONS: usize = 1 << 16;

/// Files that are taken for a trace.dat: first bytes, and what to say of them.
const OTHERS: [(&[u8], &str); 5] = [
    (
        b"PERFILE2",
        "this is a perf.data, and no command makes a trace.dat of one: record with `trace-cmd \
         record -e sched -e irq`; `perf sched timehist -i FILE` shows the waits of this one",
    ),
    (b"\xfd7zXZ\0", "this is packed by xz: unpack it (`xz -d FILE`)"),
    (b"\x1f\x8b", "this is packed by gzip: unpack it (`gzip -d FILE`)"),
    (b"\x28\xb5\x2f\xfd", "this is packed by zstd: unpack it (`zstd -d FILE`)"),
    (b"# tracer:", "this is a trace as text; record with trace-cmd for a trace.dat"),
];

/// Which version a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Six,
    Seven,
}

/// The first bytes, up to the size of a page.
pub(super) fn preamble(cursor: &mut Cursor) -> Result<Version, FtraceError> {
    let mut first = [0; 9];
    let count = cursor.whole().read_at(0, &mut first).unwrap_or(0);
    if let Some((_, why)) = OTHERS.iter().find(|(magic, _)| first[..count].starts_with(magic)) {
        return Err(cursor.broken(why));
    }
    cursor.expect(MAGIC, "the first bytes of a trace.dat")?;
    let at = cursor.position;
    let version = match &cursor.array()? {
        b"6\0" => Version::Six,
        b"7\0" => Version::Seven,
        _ => {
            let advice = "here should be version 6 or 7 (make one of another version with \
                          `trace-cmd convert --file-version 7`)";
            return Err(cursor.broken_at(at, advice));
        }
    };
    let at = cursor.position;
    let [endian, _long_size] = cursor.array()?;
    if endian != 0 {
        let why = "it is of a big-endian machine; those are not supported";
        return Err(cursor.broken_at(at, why));
    }
    // The size of the pages is in `header_page` too, and there it is the kernel's word.
    cursor.u32()?;
    Ok(version)
}

/// `header_page` and `header_event`.
pub(super) fn headers(cursor: &mut Cursor, metadata: &mut Metadata) -> Result<(), FtraceError> {
    metadata.header_page = named(HEADER_PAGE, cursor)?;
    metadata.header_event = named(HEADER_EVENT, cursor)?;
    Ok(())
}

/// A header file after its name.
fn named(name: &[u8], cursor: &mut Cursor) -> Result<Vec<u8>, FtraceError> {
    cursor.expect(name, &format!("`{}`", String::from_utf8_lossy(&name[..name.len() - 1])))?;
    cursor.sized_u64("header in bytes", MAX_SMALL_BYTES)
}

/// Format files, within the limits.
#[derive(Debug, Default)]
pub(super) struct FormatReader {
    pub(super) files: Vec<FormatFile>,
    bytes: u64,
}

impl FormatReader {
    /// Those of the system `ftrace`, which has no name in the file.
    pub(super) fn own(&mut self, cursor: &mut Cursor) -> Result<(), FtraceError> {
        self.of_system(FTRACE_SYSTEM, cursor)
    }

    /// Those of all others.
    pub(super) fn systems(&mut self, cursor: &mut Cursor) -> Result<(), FtraceError> {
        let systems = cursor.u32()?;
        FtraceError::check_size("number of event systems", systems.into(), MAX_FORMAT_FILES)?;
        for _ in 0..systems {
            let system = cursor.text()?;
            self.of_system(&system, cursor)?;
        }
        Ok(())
    }

    fn of_system(&mut self, system: &str, cursor: &mut Cursor) -> Result<(), FtraceError> {
        let count = u64::from(cursor.u32()?) + self.files.len() as u64;
        FtraceError::check_size("number of formats", count, MAX_FORMAT_FILES)?;
        while (self.files.len() as u64) < count {
            let text = cursor.sized_u64("event format in bytes", MAX_FORMAT_BYTES)?;
            self.bytes += text.len() as u64;
            FtraceError::check_size("event formats in bytes", self.bytes, MAX_FORMATS_BYTES)?;
            self.files.push(FormatFile { system: system.to_owned(), text });
        }
        Ok(())
    }
}

/// Takes in an option that both versions have, or passes over it.
pub(super) fn shared_option(
    number: u16,
    cursor: &mut Cursor,
    metadata: &mut Metadata,
) -> Result<(), FtraceError> {
    let size = u64::from(cursor.u32()?);
    if ![option::TRACECLOCK, option::UNAME, option::TRACEID, option::TSC2NSEC].contains(&number) {
        // Readers skip what they do not know.
        return cursor.skip(size);
    }
    let value = cursor.bytes("option in bytes", size, MAX_SMALL_BYTES)?;
    let text = String::from_utf8_lossy(&value);
    let text = text.trim_end_matches('\0').trim();
    match number {
        option::TRACECLOCK => metadata.clock = clock_in_use(text),
        option::TRACEID => {
            let number = value.as_slice().try_into().map(u64::from_le_bytes);
            metadata.id = number.ok().and_then(TraceId::of);
        }
        option::TSC2NSEC => metadata.tsc_scale = tsc_scale(&value),
        _ => metadata.uname = text.to_owned(),
    }
    Ok(())
}

/// Multiplier and shift; what follows is an offset, which lengths of time do not need.
fn tsc_scale(value: &[u8]) -> Option<TscScale> {
    let (multiplier, rest) = value.split_first_chunk()?;
    let (shift, _) = rest.split_first_chunk()?;
    TscScale::of(u32::from_le_bytes(*multiplier), u32::from_le_bytes(*shift))
}
