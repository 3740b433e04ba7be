// SPDX-License-Identifier: Apache-2.0
//! Layout of a kernel's ring-buffer pages, as `events/header_page` and
//! `events/header_event` say.
//!
//! Sources: `ring_buffer_print_page_header` and `ring_buffer_print_entry_header` in the
//! kernel's `kernel/trace/ring_buffer.c`.

use crate::error::FtraceError;
use crate::format::{Field, MAX_RECORD_BYTES};

/// Where things are in a page. All offsets and sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLayout {
    /// Where the 64-bit time stamp is.
    pub timestamp_offset: usize,
    /// Where the commit word is: the number of data bytes in use, and two flags.
    pub commit_offset: usize,
    /// 4 or 8: the kernel's `long`.
    pub commit_size: usize,
    /// Where the data begins.
    pub data_offset: usize,
    /// The whole page (sub-buffer).
    pub page_size: usize,
}

/// Pages are no smaller than this.
const MIN_PAGE_SIZE: usize = 512;

impl PageLayout {
    /// Reads `events/header_page`.
    ///
    /// # Errors
    /// [`FtraceError::Header`] where a field is missing or contradicts another.
    pub fn parse(text: &[u8]) -> Result<Self, FtraceError> {
        let text = String::from_utf8_lossy(text);
        let mut fields = Vec::new();
        // There are four; `overwrite` is for the kernel's own use.
        for field in text.lines().filter_map(Field::parse).take(16) {
            fields.push(field.map_err(|reason| broken_page_header(&reason))?);
        }
        let (timestamp, commit, data) = (
            page_field("timestamp", &fields)?,
            page_field("commit", &fields)?,
            page_field("data", &fields)?,
        );
        if timestamp.size != 8 {
            return Err(broken_page_header("the time stamp has not 64 bits"));
        }
        if ![4, 8].contains(&commit.size) {
            return Err(broken_page_header("the commit word has neither 32 nor 64 bits"));
        }
        let header_end = (timestamp.offset + 8).max(commit.offset + commit.size);
        if data.offset < header_end {
            return Err(broken_page_header("the data overlaps the header"));
        }
        let this = Self {
            timestamp_offset: timestamp.offset,
            commit_offset: commit.offset,
            commit_size: commit.size,
            data_offset: data.offset,
            page_size: 0,
        };
        this.with_page_size(data.offset + data.size)
    }

    /// The same with pages of another size.
    pub(crate) fn with_page_size(self, page_size: usize) -> Result<Self, FtraceError> {
        if !(MIN_PAGE_SIZE.max(self.data_offset)..=MAX_RECORD_BYTES).contains(&page_size) {
            return Err(broken_page_header(&format!("pages of {page_size} bytes do not exist")));
        }
        Ok(Self { page_size, ..self })
    }
}

fn broken_page_header(reason: &str) -> FtraceError {
    FtraceError::Header { file: "header_page", reason: reason.to_owned() }
}

fn page_field<'a>(name: &str, fields: &'a [Field]) -> Result<&'a Field, FtraceError> {
    let field = fields.iter().find(|field| field.name == name);
    field.ok_or_else(|| broken_page_header(&format!("it has no field `{name}`")))
}

/// Layout of the 32-bit word before each entry, and its types.
///
/// The word's low `type_bits` bits are the type, the others the time since the entry before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryLayout {
    /// Bits of the type.
    pub type_bits: u32,
    /// Type of padding; with a time of 0 it fills the rest of the page.
    pub padding: u32,
    /// Type of an entry that holds more bits of the time since the entry before.
    pub time_extend: u32,
    /// Type of an entry that holds a time by itself; kernels before 4.17 have none.
    pub time_stamp: Option<u32>,
    /// Types from 1 to this are data of as many 32-bit words; type 0 is data whose length in
    /// bytes, with that word, is in the word that follows.
    pub max_data: u32,
}

impl EntryLayout {
    /// Reads `events/header_event`.
    ///
    /// # Errors
    /// [`FtraceError::Header`] where something is missing or contradicts something else.
    pub fn parse(text: &[u8]) -> Result<Self, FtraceError> {
        let text = String::from_utf8_lossy(text);
        let this = Self {
            type_bits: needed_number("type_len", ":", &text)?,
            padding: needed_number("padding", ": type ==", &text)?,
            time_extend: needed_number("time_extend", ": type ==", &text)?,
            time_stamp: number_after("time_stamp", ": type ==", &text),
            max_data: needed_number("data max type_len", "==", &text)?,
        };
        let time_bits = needed_number("time_delta", ":", &text)?;
        if this.type_bits.checked_add(time_bits) != Some(32) || !(1..32).contains(&this.type_bits) {
            return Err(broken_event_header("type and time do not fill 32 bits"));
        }
        let mut types = vec![this.padding, this.time_extend];
        types.extend(this.time_stamp);
        let distinct = types.iter().enumerate().all(|(i, kind)| !types[..i].contains(kind));
        if !distinct || types.iter().any(|kind| *kind <= this.max_data) {
            return Err(broken_event_header("its types overlap"));
        }
        Ok(this)
    }
}

fn broken_event_header(reason: &str) -> FtraceError {
    FtraceError::Header { file: "header_event", reason: reason.to_owned() }
}

/// The number behind a name and a separator in one of the lines.
fn number_after(name: &str, before: &str, text: &str) -> Option<u32> {
    let rest = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
    let rest = rest.trim_start().strip_prefix(before)?.trim_start();
    rest.split_whitespace().next()?.parse::<u32>().ok()
}

fn needed_number(name: &str, before: &str, text: &str) -> Result<u32, FtraceError> {
    number_after(name, before, text)
        .ok_or_else(|| broken_event_header(&format!("it does not say `{name}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
        \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
        \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
        \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";
    const EVENT: &str = "# compressed entry header\n\
        \ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n\
        \tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n\
        \tdata max type_len  == 28\n";

    #[test]
    fn the_kernels_headers_are_read() -> Result<(), FtraceError> {
        let page = PageLayout::parse(PAGE.as_bytes())?;
        assert_eq!((page.timestamp_offset, page.commit_offset, page.commit_size), (0, 8, 8));
        assert_eq!((page.data_offset, page.page_size), (16, 4096));
        let entry = EntryLayout::parse(EVENT.as_bytes())?;
        let expected = EntryLayout {
            type_bits: 5,
            padding: 29,
            time_extend: 30,
            time_stamp: Some(31),
            max_data: 28,
        };
        assert_eq!(entry, expected);
        let old = EVENT.replace("\ttime_stamp : type == 31\n", "");
        assert_eq!(EntryLayout::parse(old.as_bytes())?.time_stamp, None);
        Ok(())
    }

    #[test]
    fn contradictions_in_headers_are_refused() {
        for (from, to, word) in [
            ("timestamp", "time", "timestamp"),
            ("size:8;\tsigned:0", "size:4;\tsigned:0", "64 bits"),
            ("size:8;\tsigned:1", "size:2;\tsigned:1", "neither"),
            ("offset:16", "offset:8", "overlaps"),
            ("4080", "40", "do not exist"),
            ("4080", "1048576", "do not exist"),
        ] {
            let error = PageLayout::parse(PAGE.replacen(from, to, 1).as_bytes()).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
        for (from, to, word) in [
            ("27", "28", "32 bits"),
            ("padding", "filler", "padding"),
            ("== 30", "== 29", "overlap"),
            ("== 28", "== 29", "overlap"),
        ] {
            let error = EntryLayout::parse(EVENT.replacen(from, to, 1).as_bytes()).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
