// SPDX-License-Identifier: Apache-2.0
//! ELF notes: a kernel's build ID is in them, as in /sys/kernel/notes.
//!
//! Source: System V ABI, "Note Section"; elf(5), `NT_GNU_BUILD_ID`.

use std::fmt::Write as _;

const GNU_BUILD_ID: u32 = 3;
const GNU: &[u8] = b"GNU\0";
/// Longer than any digest that linkers make; a bound for hostile files.
const MAX_ID_BYTES: usize = 64;

/// The build ID in `notes`, in hexadecimal digits; `None` where there is none, or the notes lie.
pub fn build_id(mut notes: &[u8]) -> Option<String> {
    loop {
        let (words, rest) = notes.split_at_checked(12)?;
        let (name_len, len, kind) =
            (word_at(0, words) as usize, word_at(4, words) as usize, word_at(8, words));
        let (name, rest) = rest.split_at_checked(name_len)?;
        let rest = rest.get(padding(name_len)..)?;
        let (what, rest) = rest.split_at_checked(len)?;
        if kind == GNU_BUILD_ID && name == GNU && (1..=MAX_ID_BYTES).contains(&len) {
            return Some(what.iter().fold(String::new(), |mut digits, byte| {
                // Writing to a String does not fail.
                let _ = write!(digits, "{byte:02x}");
                digits
            }));
        }
        notes = rest.get(padding(len)..)?;
    }
}

fn word_at(at: usize, words: &[u8]) -> u32 {
    words[at..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Bytes after so many up to a whole number of words.
fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A note.
    pub(crate) fn note(name: &[u8], kind: u32, what: &[u8]) -> Vec<u8> {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("small").to_le_bytes();
        let mut note = [len(name), len(what), kind.to_le_bytes()].concat();
        for part in [name, what] {
            note.extend_from_slice(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_build_id_is_found_among_others() {
        let id = note(GNU, 3, &[0x2c, 0x60, 0x42, 0, 0xff]);
        let others = [note(b"Linux\0", 0x101, &[1]), note(b"Xen\0", 3, &[9; 4])].concat();
        assert_eq!(build_id(&[&others[..], &id].concat()).as_deref(), Some("2c604200ff"));
        assert_eq!(build_id(&others), None);
        assert_eq!(build_id(&note(GNU, 3, &[])), None);
    }

    #[test]
    fn no_prefix_or_flipped_bit_panics() {
        let notes = [note(b"Linux\0", 0x101, &[1]), note(GNU, 3, &[7; 20])].concat();
        for len in 0..notes.len() {
            assert_eq!(build_id(&notes[..len]), None, "{len}");
        }
        for bit in 0..notes.len() * 8 {
            let mut bent = notes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let _ = build_id(&bent);
        }
    }
}
