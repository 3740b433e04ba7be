// SPDX-License-Identifier: Apache-2.0
//! What the simulated machine sends, as records on its disk: one after another behind what it has
//! booted from, each a sector of header and whole sectors of data.
//!
//! A record is there when the sum over it is right; until then whoever reads comes again. So
//! nothing is ever written twice, and nothing has to be told that is not on the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::image::SECTOR;

/// Begins each record.
const MAGIC: [u8; 8] = *b"outbox 1";
/// Most bytes of data in one record.
pub(super) const MAX_DATA: usize = 64 * 1024;
/// Most bytes of a record, header and padding included.
pub(super) const MAX_RECORD: usize = SECTOR + MAX_DATA;

/// What a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::host) enum Channel {
    /// The command's standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// `/out` as an archive.
    Out,
    /// Status lines.
    Status,
}

impl Channel {
    /// All of them, by number.
    pub(super) const ALL: [Self; 4] = [Self::Stdout, Self::Stderr, Self::Out, Self::Status];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Lays out the record number `sequence` in `buffer`, of `MAX_RECORD` bytes; its length.
pub(super) fn encode(buffer: &mut [u8], sequence: u64, channel: Channel, data: &[u8]) -> usize {
    assert!(data.len() <= MAX_DATA, "a record of {} bytes", data.len());
    let len = SECTOR + data.len().next_multiple_of(SECTOR);
    buffer[..len].fill(0);
    buffer[SECTOR..SECTOR + data.len()].copy_from_slice(data);
    buffer[..8].copy_from_slice(&MAGIC);
    buffer[8..16].copy_from_slice(&sequence.to_le_bytes());
    // At most MAX_DATA, by the assertion.
    let data_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    buffer[16..20].copy_from_slice(&data_len.to_le_bytes());
    buffer[20] = channel as u8;
    let sum = sum(&buffer[..SECTOR + data.len()]);
    buffer[24..28].copy_from_slice(&sum.to_le_bytes());
    len
}

/// The sum over a record whose own field of it counts as zero.
fn sum(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..24]);
    hasher.update(&record[28..]);
    hasher.finalize()
}

/// A number of a header.
fn word(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]))
}

/// Reads records as they come.
pub(super) struct Reader {
    disk: File,
    /// Where the next one begins, in bytes.
    at: u64,
    sequence: u64,
    buffer: Vec<u8>,
}

impl Reader {
    /// Of the records on `disk` from this sector on.
    pub(super) fn new(disk: File, first_sector: u64) -> Self {
        Self { disk, at: first_sector * SECTOR as u64, sequence: 0, buffer: vec![0; MAX_RECORD] }
    }

    /// The next record, if it is there whole.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<(Channel, &[u8])>> {
        let header = &mut self.buffer[..SECTOR];
        self.disk.read_exact_at(header, self.at)?;
        let (len, expected) = (word(header, 16) as usize, word(header, 24));
        let sequence = u64::from(word(header, 8)) | u64::from(word(header, 12)) << 32;
        let channel = Channel::of(header[20]);
        let (Some(channel), true) =
            (channel, header[..8] == MAGIC && sequence == self.sequence && len <= MAX_DATA)
        else {
            return Ok(None);
        };
        let data = &mut self.buffer[SECTOR..SECTOR + len];
        self.disk.read_exact_at(data, self.at + SECTOR as u64)?;
        if sum(&self.buffer[..SECTOR + len]) != expected {
            return Ok(None);
        }
        self.at += (SECTOR + len.next_multiple_of(SECTOR)) as u64;
        self.sequence += 1;
        Ok(Some((channel, &self.buffer[SECTOR..SECTOR + len])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 1 MiB of zeros.
    fn disk() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file
    }

    #[test]
    fn records_come_in_order_and_whole() {
        let disk = disk();
        let mut reader = Reader::new(disk.try_clone().unwrap(), 3);
        assert_eq!(reader.next().unwrap(), None);
        let large = vec![7; MAX_DATA];
        let sent: [(Channel, &[u8]); 4] = [
            (Channel::Status, b"{}\n"),
            (Channel::Out, &large),
            (Channel::Stdout, b""),
            (Channel::Stderr, &large[..SECTOR]),
        ];
        let mut at = 3 * SECTOR as u64;
        let mut buffer = vec![0; MAX_RECORD];
        for (sequence, (channel, data)) in sent.into_iter().enumerate() {
            let len = encode(&mut buffer, sequence as u64, channel, data);
            disk.write_all_at(&buffer[..len], at).unwrap();
            at += len as u64;
        }
        for expected in sent {
            assert_eq!(reader.next().unwrap(), Some(expected));
        }
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn a_record_of_which_a_sector_is_missing_is_not_there_yet() {
        let disk = disk();
        let mut reader = Reader::new(disk.try_clone().unwrap(), 0);
        let mut buffer = vec![0; MAX_RECORD];
        let len = encode(&mut buffer, 0, Channel::Stdout, &[1; 2000]);
        disk.write_all_at(&buffer[..len - SECTOR], 0).unwrap();
        assert_eq!(reader.next().unwrap(), None);
        disk.write_all_at(&buffer[..len], 0).unwrap();
        assert_eq!(reader.next().unwrap(), Some((Channel::Stdout, &[1; 2000][..])));
    }

    #[test]
    fn what_is_no_record_is_none() {
        let disk = disk();
        let mut buffer = vec![0; MAX_RECORD];
        let len = encode(&mut buffer, 5, Channel::Stdout, b"of another number");
        disk.write_all_at(&buffer[..len], 0).unwrap();
        assert_eq!(Reader::new(disk.try_clone().unwrap(), 0).next().unwrap(), None);
        encode(&mut buffer, 0, Channel::Stdout, b"of a channel that is none");
        buffer[20] = 9;
        disk.write_all_at(&buffer[..len], 0).unwrap();
        assert_eq!(Reader::new(disk.try_clone().unwrap(), 0).next().unwrap(), None);
    }
}
