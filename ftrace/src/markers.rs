// SPDX-License-Identifier: Apache-2.0
//! Markers of one's own in a trace, as if they had been written into `trace_marker`.

use crate::byte_source::ByteSource;
use crate::error::FtraceError;
use crate::format::EventFormat;
use crate::ring::{EntryLayout, PageLayout};
use crate::trace::Trace;

/// Longest text of a marker, in bytes: the kernel's pages hold longer ones.
const MAX_TEXT_BYTES: usize = 255;
/// The word before each entry, in bytes.
const WORD: usize = 4;

impl Trace {
    /// The same trace with more markers, in a lane of their own behind the last CPU's, where
    /// viewers show them beside the CPUs: times by the trace clock, and texts, which are cut at
    /// 255 bytes. Without the format of `ftrace/print`, which all kernels have, it stays as it
    /// is.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn with_markers(&self, markers: &[(u64, String)]) -> Result<Self, FtraceError> {
        let Some(format) = self.formats().event("ftrace", "print") else { return Ok(self.clone()) };
        let mut order: Vec<&(u64, String)> = markers.iter().collect();
        order.sort_by_key(|(time, _)| *time);
        let address = marker_address(self.metadata().kallsyms.clone());
        let mut pages = Pages::new(*self.page_layout(), self.entry_layout());
        for (time, text) in order {
            pages.push(*time, &record(format, address, text));
        }
        let lanes = self.pages().iter().cloned().chain([ByteSource::bytes(pages.finish())]);
        Self::new(self.metadata().clone(), lanes.collect())
    }
}

/// Where `tracing_mark_write` is, by the lines that [`crate::marker_symbol`] finds: viewers name
/// it, as they do with the kernel's markers. 0 where not known.
fn marker_address(kallsyms: ByteSource) -> u64 {
    let mut line = [0; 64];
    let count = kallsyms.read_at(0, &mut line).unwrap_or(0);
    let text = String::from_utf8_lossy(&line[..count]);
    let word = text.split_ascii_whitespace().next().unwrap_or_default();
    u64::from_str_radix(word, 16).unwrap_or(0)
}

/// The data of a marker, by the idle thread, which is in nobody's way.
fn record(format: &EventFormat, address: u64, text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(MAX_TEXT_BYTES)];
    let (at, _) = field_place("buf", format).unwrap_or((16, 0));
    let mut data = vec![0; at];
    put_field("common_type", &format.id.to_le_bytes(), &mut data, format);
    put_field("ip", &address.to_le_bytes(), &mut data, format);
    data.extend(text);
    data.extend(b"\n\0");
    data.resize(data.len().next_multiple_of(WORD), 0);
    data
}

/// Offset and size of a field in the record.
fn field_place(name: &str, format: &EventFormat) -> Option<(usize, usize)> {
    format.field(name).map(|field| (field.offset, field.size))
}

/// Writes as much of the value as the field holds.
fn put_field(name: &str, value: &[u8], data: &mut [u8], format: &EventFormat) {
    if let Some((offset, size)) = field_place(name, format)
        && let Some(room) = data.get_mut(offset..offset + size.min(value.len()))
    {
        room.copy_from_slice(&value[..room.len()]);
    }
}

/// Ring-buffer pages in the making.
struct Pages {
    layout: PageLayout,
    entries: EntryLayout,
    done: Vec<u8>,
    /// The page that is being filled; empty before its first entry.
    page: Vec<u8>,
    time: u64,
}

impl Pages {
    fn new(layout: PageLayout, entries: EntryLayout) -> Self {
        Self { layout, entries, done: Vec::new(), page: Vec::new(), time: 0 }
    }

    /// Adds an entry; times do not go back.
    fn push(&mut self, time: u64, data: &[u8]) {
        let room = self.layout.page_size.saturating_sub(self.page.len());
        // Its head, its length, and what its time may take before it.
        if self.page.is_empty() || room < data.len() + 4 * WORD {
            self.close();
            self.page = vec![0; self.layout.data_offset];
            let at = self.layout.timestamp_offset;
            self.page[at..at + 8].copy_from_slice(&time.to_le_bytes());
            self.time = time;
        }
        let bits = 32 - self.entries.type_bits;
        let delta = time - self.time;
        let (low, high) = (delta & ((1 << bits) - 1), delta >> bits);
        let mut words = Vec::new();
        if high == 0 {
            words.push(event_head(0, low, self.entries.type_bits));
        } else {
            words.extend([
                event_head(self.entries.time_extend, low, self.entries.type_bits),
                saturated(high),
                event_head(0, 0, self.entries.type_bits),
            ]);
        }
        // The length has itself in it.
        words.push(saturated((data.len() + WORD) as u64));
        self.page.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.page.extend(data);
        self.time = time;
    }

    /// Finishes the page.
    fn close(&mut self) {
        if self.page.is_empty() {
            return;
        }
        let length = (self.page.len() - self.layout.data_offset) as u64;
        let (at, size) = (self.layout.commit_offset, self.layout.commit_size);
        self.page[at..at + size].copy_from_slice(&length.to_le_bytes()[..size]);
        self.page.resize(self.layout.page_size, 0);
        self.done.append(&mut self.page);
    }

    fn finish(mut self) -> Vec<u8> {
        self.close();
        self.done
    }
}

/// The word that begins an event of the ring buffer.
fn event_head(kind: u32, delta: u64, type_bits: u32) -> u32 {
    saturated(delta) << type_bits | kind
}

fn saturated(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
