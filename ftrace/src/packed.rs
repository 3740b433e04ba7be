// SPDX-License-Identifier: Apache-2.0
//! Compressed parts of a trace.dat: chunks, each compressed by itself, one behind the other, with
//! their lengths before them.
//!
//! They are unpacked where and when they are read, by one state for all parts of a file. Where
//! they lie is looked up once, and every [`STRIDE`]th is remembered, so that a file of any size
//! takes little memory.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::bulk::Decompressor;

use crate::byte_source::{ByteSource, Pieces};

/// Two lengths before each chunk, 32 bits each: compressed, and not.
pub(crate) const HEAD_BYTES: u64 = 8;
/// Chunks from one that is remembered to the next.
const STRIDE: u64 = 64;
/// What is in the place of a chunk that cannot be unpacked: no page of a ring buffer, so that its
/// reader notices that something is missing, and how many pages.
const NO_PAGE: u8 = 0xFF;
/// Compressed bytes that are kept a buffer for.
const KEPT_BYTES: usize = 1 << 20;

/// A compression, with its state.
pub(crate) struct Codec(Mutex<Machine>);

struct Machine {
    kind: Kind,
    /// Compressed bytes of one chunk.
    input: Vec<u8>,
}

enum Kind {
    Zstd(Decompressor<'static>),
    Zlib(Decompress),
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl Codec {
    /// By the name that files have for it; `None` for another.
    pub(crate) fn of_name(name: &str) -> io::Result<Option<Self>> {
        let kind = match name {
            "zstd" => Kind::Zstd(Decompressor::new()?),
            "zlib" => Kind::Zlib(Decompress::new(true)),
            _ => return Ok(None),
        };
        Ok(Some(Self(Mutex::new(Machine { kind, input: Vec::new() }))))
    }

    /// Unpacks the chunk at this place of the file, which is to fill `output`; whether it did.
    pub(crate) fn unpack(
        &self,
        file: &ByteSource,
        packed: Range<u64>,
        output: &mut [u8],
    ) -> io::Result<bool> {
        let mut machine = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Machine { kind, input } = &mut *machine;
        let len = usize::try_from(packed.end - packed.start).unwrap_or(usize::MAX);
        input.resize(len, 0);
        let count = file.read_at(packed.start, input)?;
        let done = count == len && kind.unpack(input, output);
        if len > KEPT_BYTES {
            *input = Vec::new();
        }
        Ok(done)
    }
}

impl Kind {
    /// Whether `input` comes to as many bytes as `output` has.
    fn unpack(&mut self, input: &[u8], output: &mut [u8]) -> bool {
        let wanted = output.len();
        match self {
            Self::Zstd(zstd) => {
                zstd.decompress_to_buffer(input, output).is_ok_and(|count| count == wanted)
            }
            Self::Zlib(zlib) => {
                zlib.reset(true);
                let status = zlib.decompress(input, output, FlushDecompress::Finish);
                matches!(status, Ok(Status::StreamEnd)) && zlib.total_out() == wanted as u64
            }
        }
    }
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    /// Its place among all chunks.
    number: u64,
    /// Where its bytes begin among the unpacked ones.
    at: u64,
    /// Where its head is in the file.
    head: u64,
    /// Compressed length.
    packed: u32,
    /// Length.
    len: u32,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.at + u64::from(self.len)
    }

    fn range(&self) -> Range<u64> {
        let begin = self.head + HEAD_BYTES;
        begin..begin + u64::from(self.packed)
    }
}

/// What chunks of a region may be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Length of one, at most, in bytes.
    pub chunk: u32,
    /// Each has a multiple of so many bytes.
    pub multiple: u32,
}

/// Chunks that make one run of bytes.
#[derive(Debug)]
pub(crate) struct Packed {
    file: ByteSource,
    codec: Arc<Codec>,
    /// Where the last chunk ends in the file.
    end: u64,
    /// Every [`STRIDE`]th.
    marks: Vec<Chunk>,
    /// The one that was read last.
    last: Mutex<Chunk>,
    len: u64,
    longest: u32,
}

impl Packed {
    /// `count` chunks, the first one's head at `range.start`; none goes beyond `range.end`.
    ///
    /// # Errors
    /// The place in the file, and what is wrong there.
    pub(crate) fn find(
        file: &ByteSource,
        codec: &Arc<Codec>,
        (range, count): (Range<u64>, u32),
        limits: Limits,
    ) -> Result<Self, (u64, String)> {
        let mut marks = Vec::new();
        let mut next = Chunk { head: range.start, ..Chunk::default() };
        let (mut at, mut longest) = (0, 0);
        for number in 0..u64::from(count) {
            let head = next.head;
            let chunk = read_head(file, Chunk { number, at, head, ..Chunk::default() })
                .map_err(|error| (head, format!("it cannot be read: {error}")))?
                .filter(|chunk| chunk.range().end <= range.end)
                .ok_or_else(|| {
                    let why = format!("chunk {} of {count} goes beyond its end", number + 1);
                    (head, why)
                })?;
            let Limits { chunk: most, multiple } = limits;
            let last = number + 1 == u64::from(count);
            let odd = !last && !chunk.len.is_multiple_of(multiple.max(1));
            if chunk.packed == 0 || chunk.len == 0 || chunk.len > most || odd {
                let len = chunk.len;
                return Err((head, format!("chunk {} cannot have {len} bytes", number + 1)));
            }
            // Compression that makes longer what cannot be made shorter adds less than that.
            if u64::from(chunk.packed) > u64::from(chunk.len) + u64::from(chunk.len) / 8 + 1024 {
                let packed = chunk.packed;
                let why = format!("chunk {} has {packed} bytes for {}", number + 1, chunk.len);
                return Err((head, why));
            }
            if number.is_multiple_of(STRIDE) {
                marks.push(chunk);
            }
            longest = longest.max(chunk.len);
            at = chunk.end();
            next = Chunk { head: chunk.range().end, ..chunk };
        }
        let last = Mutex::new(marks.first().copied().unwrap_or_default());
        let (file, codec) = (file.clone(), codec.clone());
        Ok(Self { file, codec, end: range.end, marks, last, len: at, longest })
    }

    /// Length of all chunks together, unpacked.
    pub(crate) fn unpacked_bytes(&self) -> u64 {
        self.len
    }

    /// Where the compressed bytes of the first chunk are.
    pub(crate) fn single(&self) -> Option<Range<u64>> {
        self.marks.first().map(Chunk::range)
    }

    /// The chunk that has the byte at `position`; `None` behind the last one.
    fn locate(&self, position: u64) -> io::Result<Option<Chunk>> {
        if position >= self.len {
            return Ok(None);
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = self.marks.partition_point(|mark| mark.at <= position).saturating_sub(1);
        let Some(&mark) = self.marks.get(mark) else { return Ok(None) };
        let is_near = mark.number <= last.number && last.at <= position;
        let mut chunk = if is_near { last } else { mark };
        while chunk.end() <= position {
            let next = Chunk {
                number: chunk.number + 1,
                at: chunk.end(),
                head: chunk.range().end,
                ..Chunk::default()
            };
            // As when it was looked at first, unless the file has changed.
            let found = read_head(&self.file, next)?;
            let changed = || io::Error::other("the file has changed while it was read");
            chunk = found
                .filter(|chunk| chunk.range().end <= self.end && chunk.len <= self.longest)
                .ok_or_else(changed)?;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = chunk;
        Ok(Some(chunk))
    }

    fn unpack(&self, chunk: &Chunk, output: &mut [u8]) -> io::Result<()> {
        if !self.codec.unpack(&self.file, chunk.range(), output)? {
            output.fill(NO_PAGE);
        }
        Ok(())
    }
}

/// The two lengths at a chunk's head; `None` where the file ends before, or the chunk is empty.
fn read_head(file: &ByteSource, chunk: Chunk) -> io::Result<Option<Chunk>> {
    let mut head = [[0; 4]; 2];
    if file.read_at(chunk.head, head.as_flattened_mut())? < head.as_flattened().len() {
        return Ok(None);
    }
    let [packed, len] = head.map(u32::from_le_bytes);
    Ok(Some(Chunk { packed, len, ..chunk }))
}

impl Pieces for Packed {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let position = position.saturating_add(done as u64);
            let Some(chunk) = self.locate(position)? else { break };
            let len = usize::try_from(chunk.len).unwrap_or(usize::MAX);
            let skip = usize::try_from(position - chunk.at).unwrap_or(len);
            let room = &mut buffer[done..];
            let count = room.len().min(len.saturating_sub(skip));
            if count == 0 {
                break;
            }
            if count == len {
                self.unpack(&chunk, &mut room[..count])?;
            } else {
                let mut whole = vec![0; len];
                self.unpack(&chunk, &mut whole)?;
                room[..count].copy_from_slice(&whole[skip..skip + count]);
            }
            done += count;
        }
        Ok(done)
    }

    fn whole_pieces(&self, position: u64, most: usize) -> io::Result<usize> {
        let mut end = position;
        let mut first = None;
        while let Some(chunk) = self.locate(end)? {
            first.get_or_insert(chunk);
            if chunk.end() - position > most as u64 {
                break;
            }
            end = chunk.end();
        }
        // That is where reading goes on.
        if let Some(first) = first {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = first;
        }
        Ok(usize::try_from(end - position).ok().filter(|count| *count > 0).unwrap_or(most))
    }

    fn longest(&self) -> usize {
        usize::try_from(self.longest).unwrap_or(usize::MAX)
    }
}
