// SPDX-License-Identifier: Apache-2.0
//! Entries of one ring-buffer page.
//!
//! Layout: `include/linux/ring_buffer.h`; flags, time stamps and lengths:
//! `ring_buffer_read_page`, `rb_event_length`, `rb_fix_abs_ts` and `check_buffer` in
//! `kernel/trace/ring_buffer.c`.

use std::ops::Range;

use super::layout::{EntryLayout, PageLayout};

/// In the commit word: events were lost between the page before and this one.
const MISSED_EVENTS: u32 = 1 << 31;
/// In the commit word: how many follows the data, as a `long`.
const MISSED_STORED: u32 = 1 << 30;
/// Bits of an absolute time stamp that an entry has room for; the rest is as in the time
/// stamp before it (5.18 and later; older kernels leave them out).
const ABSOLUTE_BITS: u32 = 59;
/// The word before each entry.
const WORD: usize = 4;

/// Events that were lost between a page and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// None.
    None,
    /// The kernel overwrote or dropped events: so many, where it says how many.
    Overwritten(Option<u64>),
}

/// What the next step in a page came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A record: its bytes in the page are `begin..end`.
    Record { begin: usize, end: usize },
    /// No more entries.
    End,
    /// The entry contradicts the page.
    Damaged,
}

/// A position in a page.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageCursor {
    /// Where the next entry's word is.
    position: usize,
    /// End of the data in use.
    end: usize,
    /// Time of the last entry, or of the page.
    pub time: u64,
}

#[inline]
fn word(page: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*page.get(at..)?.first_chunk()?))
}

#[inline]
fn long(page: &[u8], at: usize, size: usize) -> Option<u64> {
    if size == 8 {
        return Some(u64::from_le_bytes(*page.get(at..)?.first_chunk()?));
    }
    word(page, at).map(u64::from)
}

impl PageCursor {
    /// Begins a page of `layout.page_size` bytes; `None` if its header contradicts its size.
    pub(crate) fn begin(page: &[u8], layout: &PageLayout) -> Option<(Self, Missed)> {
        let time = long(page, layout.timestamp_offset, 8)?;
        // The flags are in the low half whatever the size: bits 30 and 31 of an int.
        let commit = word(page, layout.commit_offset)?;
        let length = usize::try_from(commit & !(MISSED_EVENTS | MISSED_STORED)).ok()?;
        let end = layout.data_offset.checked_add(length)?;
        if end > layout.page_size || end > page.len() {
            return None;
        }
        let missed = match (commit & MISSED_EVENTS != 0, commit & MISSED_STORED != 0) {
            (false, _) => Missed::None,
            (true, false) => Missed::Overwritten(None),
            (true, true) => Missed::Overwritten(long(page, end, layout.commit_size)),
        };
        Some((Self { position: layout.data_offset, end, time }, missed))
    }

    /// Goes on to the next record.
    #[inline]
    pub(crate) fn step(&mut self, page: &[u8], layout: &EntryLayout) -> Step {
        while self.position < self.end {
            let Some(head) = word(page, self.position) else { return Step::Damaged };
            let kind = head & ((1 << layout.type_bits) - 1);
            let delta = head >> layout.type_bits;
            let body = self.position + WORD;
            if kind <= layout.max_data {
                return self.record(page, kind, delta, body).unwrap_or(Step::Damaged);
            }
            // What is left has one word of payload, except padding to the end of the page.
            if kind == layout.padding && delta == 0 {
                self.position = self.end;
                return Step::End;
            }
            let Some(payload) = word(page, body).filter(|_| body + WORD <= self.end) else {
                return Step::Damaged;
            };
            self.position = body + WORD;
            let long = (u64::from(payload) << (32 - layout.type_bits)) + u64::from(delta);
            if kind == layout.time_extend {
                self.time = self.time.wrapping_add(long);
            } else if Some(kind) == layout.time_stamp {
                self.time = with_high_bits(long, self.time);
            } else if kind == layout.padding {
                // A discarded event; the payload is its length behind the first word. Later
                // times count from it, except that a time of 0 had to be written as 1.
                let Some(next) = payload_end(body, payload, self.end) else { return Step::Damaged };
                self.position = next;
                self.time = self.time.wrapping_add(if delta == 1 { 0 } else { delta.into() });
            } else {
                return Step::Damaged;
            }
        }
        Step::End
    }

    /// A data entry; `None` if it does not fit.
    #[inline]
    fn record(&mut self, page: &[u8], kind: u32, delta: u32, body: usize) -> Option<Step> {
        let Range { start: begin, end } = if kind == 0 {
            let length = word(page, body)?;
            body + WORD..payload_end(body, length, self.end).filter(|_| length >= 4)?
        } else {
            body..body + WORD * usize::try_from(kind).ok()?
        };
        if end > self.end {
            return None;
        }
        // Entries begin at multiples of a word.
        self.position = begin + (end - begin).next_multiple_of(WORD);
        self.time = self.time.wrapping_add(delta.into());
        Some(Step::Record { begin, end })
    }
}

/// `body` plus a length from the page, unless that leaves the page's data.
#[inline]
fn payload_end(body: usize, length: u32, limit: usize) -> Option<usize> {
    let end = body.checked_add(usize::try_from(length).ok()?)?;
    (end <= limit).then_some(end)
}

/// An absolute time stamp of 59 bits, completed from the time before it.
fn with_high_bits(absolute: u64, before: u64) -> u64 {
    let high = before >> ABSOLUTE_BITS;
    if high == 0 {
        return absolute;
    }
    let time = absolute & ((1 << ABSOLUTE_BITS) - 1) | high << ABSOLUTE_BITS;
    if time < before { time.wrapping_add(1 << ABSOLUTE_BITS) } else { time }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: PageLayout = PageLayout {
        timestamp_offset: 0,
        commit_offset: 8,
        commit_size: 8,
        data_offset: 16,
        page_size: 512,
    };
    const ENTRY: EntryLayout = EntryLayout {
        type_bits: 5,
        padding: 29,
        time_extend: 30,
        time_stamp: Some(31),
        max_data: 28,
    };

    fn head(kind: u32, delta: u32) -> u32 {
        kind | delta << 5
    }

    /// A page of these words, and what is in it: times and words of the records, and the end.
    fn walk(time: u64, flags: u32, words: &[u32]) -> (Vec<(u64, Vec<u8>)>, Step, Missed) {
        let mut page = time.to_le_bytes().to_vec();
        let length = u32::try_from(words.len() * WORD).expect("short");
        page.extend((length | flags).to_le_bytes());
        page.extend([0; 4]);
        page.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        page.extend(77_u64.to_le_bytes());
        page.resize(PAGE.page_size, 0);
        let (mut cursor, missed) = PageCursor::begin(&page, &PAGE).expect("a page");
        let mut records = Vec::new();
        loop {
            match cursor.step(&page, &ENTRY) {
                Step::Record { begin, end } => {
                    records.push((cursor.time, page[begin..end].to_vec()));
                }
                other => return (records, other, missed),
            }
        }
    }

    #[test]
    fn data_has_two_forms_of_length() {
        let (records, end, missed) = walk(
            100,
            0,
            &[head(1, 5), 0xAA, head(0, 7), 4 + 6, 0x0403_0201, 0x0605, head(2, 1), 1, 2],
        );
        assert_eq!(records[0], (105, vec![0xAA, 0, 0, 0]));
        assert_eq!(records[1], (112, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(records[2].0, 113);
        assert_eq!((records.len(), end, missed), (3, Step::End, Missed::None));
    }

    #[test]
    fn time_comes_in_four_ways() {
        let (records, end, _) = walk(
            1000,
            0,
            &[
                // 2 << 27 and 3 more since 1000.
                head(30, 3),
                2,
                head(1, 4),
                0,
                // A discarded event of two words, 9 ticks later, and one at the same time.
                head(29, 9),
                8,
                0,
                head(29, 1),
                4,
                head(1, 1),
                0,
                // An absolute time, and a record 1 tick after.
                head(31, 6),
                5,
                head(1, 1),
                0,
            ],
        );
        let first = 1000 + (2 << 27) + 3 + 4;
        let times: Vec<u64> = records.iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [first, first + 10, (5 << 27) + 7]);
        assert_eq!(end, Step::End);
    }

    #[test]
    fn absolute_times_keep_the_bits_they_have_no_room_for() {
        let high = 3 << 59;
        assert_eq!(with_high_bits(7, 5), 7);
        assert_eq!(with_high_bits(7, high | 5), high | 7);
        assert_eq!(with_high_bits(3, high | 5), (4 << 59) | 3);
        assert_eq!(with_high_bits(7, 0x1F << 59 | 9), 7);
    }

    #[test]
    fn padding_ends_the_page_and_losses_are_told() {
        let (records, end, missed) =
            walk(0, 1 << 31 | 1 << 30, &[head(1, 1), 9, head(29, 0), 0, 0]);
        assert_eq!((records.len(), end, missed), (1, Step::End, Missed::Overwritten(Some(77))));
        let (.., missed) = walk(0, 1 << 31, &[]);
        assert_eq!(missed, Missed::Overwritten(None));
    }

    #[test]
    fn pages_of_32_bit_kernels_have_a_shorter_header() {
        let layout = PageLayout { commit_size: 4, data_offset: 12, ..PAGE };
        let mut page = 50_u64.to_le_bytes().to_vec();
        page.extend((8_u32 | 3 << 30).to_le_bytes());
        page.extend([head(1, 5), 0xAB, 6].map(u32::to_le_bytes).concat());
        page.resize(layout.page_size, 0);
        let (mut cursor, missed) = PageCursor::begin(&page, &layout).expect("a page");
        assert_eq!(missed, Missed::Overwritten(Some(6)));
        assert_eq!(cursor.step(&page, &ENTRY), Step::Record { begin: 16, end: 20 });
        assert_eq!((cursor.time, cursor.step(&page, &ENTRY)), (55, Step::End));
    }

    #[test]
    fn entries_that_leave_the_page_are_damage() {
        for words in [
            &[head(28, 0), 0][..],
            &[head(0, 0), 3, 0],
            &[head(0, 0), 13, 0],
            &[head(0, 0), u32::MAX, 0],
            &[head(0, 0)],
            &[head(29, 1), 500],
            &[head(29, 1)],
            &[head(30, 1)],
        ] {
            let (records, end, _) = walk(0, 0, words);
            assert_eq!((records.len(), end), (0, Step::Damaged), "{words:?}");
        }
        let mut page = vec![0; PAGE.page_size];
        page[8..12].copy_from_slice(&497_u32.to_le_bytes());
        assert!(PageCursor::begin(&page, &PAGE).is_none());
        assert!(PageCursor::begin(&page[..10], &PAGE).is_none());
    }
}
