// SPDX-License-Identifier: Apache-2.0
//! A run of bytes that need not be in memory: a part of a file, or a buffer.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::FtraceError;

/// Bytes that are read where and when they are needed.
#[derive(Clone, Debug)]
pub struct ByteSource(Source);

#[derive(Clone, Debug)]
enum Source {
    File { file: Arc<File>, offset: u64, len: u64 },
    Bytes { bytes: Arc<[u8]>, offset: usize, len: usize },
    Scattered { whole: Arc<ByteSource>, parts: Arc<[Part]>, offset: u64, len: u64 },
    Pieces { pieces: Arc<dyn Pieces>, offset: u64, len: u64 },
}

/// Bytes that come in pieces, each of which costs something to get at: those of a compressed
/// file.
pub(crate) trait Pieces: fmt::Debug + Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Reads from `position` until `buffer` is full or there is nothing left; the number of bytes.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// As many bytes from `position` on as end with a piece, at most `most`; `most` where the
    /// first piece is longer.
    fn whole_pieces(&self, position: u64, most: usize) -> io::Result<usize>;

    /// The longest piece, in bytes.
    fn longest(&self) -> usize;
}

/// A run of bytes of another region.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where it is in the region that it is a part of.
    begin: u64,
    /// Where it is in the other one.
    at: u64,
}

impl ByteSource {
    /// `len` bytes of a regular file from `offset` on. What lies behind the file's end is
    /// missing when it is read, not here.
    pub fn file(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self(Source::File { file, offset, len })
    }

    /// All of a regular file.
    ///
    /// # Errors
    /// [`FtraceError::ReadFile`].
    pub fn open(path: &Path) -> Result<Self, FtraceError> {
        open_whole(path).map_err(FtraceError::read_file(path))
    }

    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self(Source::Bytes { offset: 0, len: bytes.len(), bytes })
    }

    /// All of what comes in pieces.
    pub(crate) fn pieces(pieces: Arc<dyn Pieces>) -> Self {
        let len = pieces.len();
        Self(Source::Pieces { pieces, offset: 0, len })
    }

    /// How much to read at `position` at a time, up to `most` bytes, so that nothing has to be
    /// made twice.
    pub(crate) fn convenient(&self, position: u64, most: usize) -> io::Result<usize> {
        match &self.0 {
            Source::Pieces { pieces, offset, .. } => {
                pieces.whole_pieces(offset.saturating_add(position), most)
            }
            Source::File { .. } | Source::Bytes { .. } | Source::Scattered { .. } => Ok(most),
        }
    }

    /// What a buffer needs for [`Self::convenient`] to be of use, in bytes.
    pub(crate) fn longest_piece(&self) -> usize {
        match &self.0 {
            Source::Pieces { pieces, .. } => pieces.longest(),
            Source::File { .. } | Source::Bytes { .. } | Source::Scattered { .. } => 0,
        }
    }

    /// The bytes at these places of it (position and length each), one after the other.
    pub(crate) fn scattered(&self, places: Vec<(u64, u64)>) -> Self {
        let mut len: u64 = 0;
        let parts: Vec<Part> = places
            .into_iter()
            .map(|(at, bytes)| {
                let begin = len;
                len = len.saturating_add(bytes);
                Part { begin, at }
            })
            .collect();
        let (whole, parts) = (Arc::new(self.clone()), parts.into());
        Self(Source::Scattered { whole, parts, offset: 0, len })
    }

    /// `len` bytes of it from `offset` on, or as many as it has.
    pub(crate) fn part(&self, offset: u64, len: u64) -> Self {
        let skip = offset.min(self.len());
        let len = len.min(self.len() - skip);
        Self(match &self.0 {
            Source::File { file, offset, .. } => {
                Source::File { file: file.clone(), offset: offset.saturating_add(skip), len }
            }
            Source::Bytes { bytes, offset, .. } => Source::Bytes {
                bytes: bytes.clone(),
                offset: offset + to_usize(skip),
                len: to_usize(len),
            },
            Source::Scattered { whole, parts, offset, .. } => {
                let (whole, parts) = (whole.clone(), parts.clone());
                Source::Scattered { whole, parts, offset: offset + skip, len }
            }
            Source::Pieces { pieces, offset, .. } => {
                Source::Pieces { pieces: pieces.clone(), offset: offset + skip, len }
            }
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Source::File { len, .. }
            | Source::Scattered { len, .. }
            | Source::Pieces { len, .. } => *len,
            Source::Bytes { len, .. } => *len as u64,
        }
    }

    /// True if there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads from `position` (in bytes) until `buffer` is full or the region ends; the number
    /// of bytes read.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(position);
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let buffer = &mut buffer[..wanted];
        match &self.0 {
            Source::Bytes { bytes, offset, len } => {
                let begin = offset + usize::try_from(position).unwrap_or(usize::MAX).min(*len);
                buffer.copy_from_slice(&bytes[begin..begin + wanted]);
                Ok(wanted)
            }
            Source::Scattered { whole, parts, offset, .. } => {
                read_parts(whole, parts, offset.saturating_add(position), buffer)
            }
            Source::Pieces { pieces, offset, .. } => {
                pieces.read_at(offset.saturating_add(position), buffer)
            }
            Source::File { file, offset, .. } => {
                let mut done = 0;
                while done < wanted {
                    let Some(at) = offset.checked_add(position + done as u64) else { break };
                    match file.read_at(&mut buffer[done..], at) {
                        Ok(0) => break,
                        Ok(count) => done += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(done)
            }
        }
    }

    /// A reader from the beginning on.
    pub fn reader(&self) -> ByteSourceReader<'_> {
        ByteSourceReader { region: self, position: 0 }
    }
}

fn open_whole(path: &Path) -> io::Result<ByteSource> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok(ByteSource::file(Arc::new(file), 0, len))
}

/// A number within a buffer in memory, which fits.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Fills `buffer` from the parts from `position` on.
fn read_parts(
    whole: &ByteSource,
    parts: &[Part],
    position: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut done = 0;
    let mut index = parts.partition_point(|part| part.begin <= position).saturating_sub(1);
    while done < buffer.len() && index < parts.len() {
        let within = position + done as u64 - parts[index].begin;
        let end = parts.get(index + 1).map_or(u64::MAX, |next| next.begin);
        let left = end - parts[index].begin - within;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len() - done);
        let place = parts[index].at.saturating_add(within);
        let count = whole.read_at(place, &mut buffer[done..done + wanted])?;
        done += count;
        if count < wanted {
            break;
        }
        index += 1;
    }
    Ok(done)
}

impl Default for ByteSource {
    fn default() -> Self {
        Self::bytes([])
    }
}

/// Reads a [`ByteSource`] in order.
#[derive(Debug)]
pub struct ByteSourceReader<'a> {
    region: &'a ByteSource,
    position: u64,
}

impl io::Read for ByteSourceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.region.read_at(self.position, buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn parts_of_files_and_memory_read_alike() -> io::Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(b"0123456789")?;
        let file = Arc::new(file);
        let regions = [
            ByteSource::file(file.clone(), 2, 5),
            ByteSource::bytes(*b"23456"),
            ByteSource::file(file.clone(), 0, 10).part(2, 5),
            ByteSource::bytes(*b"xx23456").part(1, 100).part(1, 5),
            ByteSource::file(file.clone(), 0, 10).scattered(vec![(2, 1), (3, 3), (6, 1)]),
            ByteSource::bytes(*b"45.23.6").scattered(vec![(3, 2), (0, 2), (6, 1)]),
            ByteSource::bytes(*b"23x456").scattered(vec![(1, 1), (0, 2), (3, 3)]).part(1, 9),
        ];
        for region in regions {
            let mut text = String::new();
            region.reader().read_to_string(&mut text)?;
            assert_eq!((text.as_str(), region.len()), ("23456", 5));
            let mut buffer = [0; 4];
            assert_eq!(region.read_at(3, &mut buffer)?, 2);
            assert_eq!(&buffer[..2], b"56");
            assert_eq!(region.read_at(u64::MAX, &mut buffer)?, 0);
        }
        // A file that is shorter than promised, and an offset beyond all files.
        let mut buffer = [0; 4];
        assert_eq!(ByteSource::file(file.clone(), 8, 100).read_at(0, &mut buffer)?, 2);
        assert_eq!(ByteSource::file(file, u64::MAX, 100).read_at(1, &mut buffer)?, 0);
        Ok(())
    }
}
