// SPDX-License-Identifier: Apache-2.0
//! Writes a dump.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{HEADER_BYTES, KIND_END, KIND_PAGES, MAGIC, MAX_FRAME_BYTES, Section};

/// Bytes of pages in one frame, about.
const PAGES_BYTES: usize = 256 << 10;
/// Room for one page: the kernel's largest sub-buffers have 64 KiB.
const PAGE_ROOM: usize = 64 << 10;

/// Writes the frames of a dump, each with one `write_all`.
#[derive(Debug)]
pub struct DumpWriter<W> {
    out: W,
    checksum: crc32fast::Hasher,
    bytes: u64,
    /// One frame, header included.
    frame: Vec<u8>,
}

impl DumpWriter<File> {
    /// Goes on with a dump that has come to no end, behind its last whole frame.
    ///
    /// # Errors
    /// What the file system says; and if this is no dump, or one that has its trailer.
    pub fn resume(path: &Path) -> io::Result<Self> {
        let mut out = OpenOptions::new().read(true).write(true).open(path)?;
        let mut reader = BufReader::new(&out);
        let mut magic = [0; MAGIC.len()];
        reader.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(io::Error::other("this is no dump"));
        }
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&magic);
        let mut bytes = magic.len() as u64;
        let mut frame = Vec::new();
        while next_frame(&mut reader, &mut frame)? {
            if frame[..4] == KIND_END.to_le_bytes() {
                return Err(io::Error::other("the dump has ended already"));
            }
            checksum.update(&frame);
            bytes += frame.len() as u64;
        }
        out.set_len(bytes)?;
        out.seek(SeekFrom::Start(bytes))?;
        Ok(Self { out, checksum, bytes, frame })
    }
}

/// Reads the next frame, header included; false if it is not all there.
fn next_frame(reader: &mut impl Read, frame: &mut Vec<u8>) -> io::Result<bool> {
    frame.clear();
    reader.take(HEADER_BYTES as u64).read_to_end(frame)?;
    let Some(length) = frame.get(8..HEADER_BYTES).and_then(|bytes| bytes.first_chunk()) else {
        return Ok(false);
    };
    let length = u64::from_le_bytes(*length);
    Ok(length <= MAX_FRAME_BYTES && reader.take(length).read_to_end(frame)? as u64 == length)
}

impl<W: Write> DumpWriter<W> {
    /// Begins a dump.
    ///
    /// # Errors
    /// What the writer says; this holds for all that follows.
    pub fn new(out: W) -> io::Result<Self> {
        let mut this =
            Self { out, checksum: crc32fast::Hasher::new(), bytes: 0, frame: MAGIC.to_vec() };
        this.send()?;
        Ok(this)
    }

    /// Writes what is no pages.
    ///
    /// # Errors
    /// What the writer says.
    pub fn section(&mut self, section: Section<'_>, contents: &[u8]) -> io::Result<()> {
        self.frame.resize(HEADER_BYTES, 0);
        if let Section::Format { system } = section {
            self.frame.extend(system.as_bytes());
            self.frame.push(0);
        }
        self.frame.extend(contents);
        let (kind, number) = section.code();
        self.close(kind, number)
    }

    /// Copies a CPU's pages until there are no more; the bytes copied. `raw` is to be a
    /// `trace_pipe_raw` that does not block, which hands out one page in each read.
    ///
    /// # Errors
    /// What reader or writer say.
    pub fn pages(&mut self, cpu: u32, raw: &mut impl Read) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let bytes = self.fill(raw)?;
            if bytes == 0 {
                return Ok(total);
            }
            self.frame.truncate(HEADER_BYTES + bytes);
            self.close(KIND_PAGES, cpu)?;
            total += bytes as u64;
        }
    }

    /// Fills the frame with pages, as many as there are and fit; their bytes.
    fn fill(&mut self, raw: &mut impl Read) -> io::Result<usize> {
        self.frame.resize(HEADER_BYTES + PAGES_BYTES, 0);
        let room = &mut self.frame[HEADER_BYTES..];
        let mut bytes = 0;
        while bytes + PAGE_ROOM <= room.len() {
            match raw.read(&mut room[bytes..]) {
                Ok(0) => break,
                Ok(count) => bytes += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// Writes the header into the frame, and sends it.
    fn close(&mut self, kind: u32, number: u32) -> io::Result<()> {
        let length = (self.frame.len() - HEADER_BYTES) as u64;
        self.frame[..4].copy_from_slice(&kind.to_le_bytes());
        self.frame[4..8].copy_from_slice(&number.to_le_bytes());
        self.frame[8..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        self.out.write_all(&self.frame)?;
        self.checksum.update(&self.frame);
        self.bytes += self.frame.len() as u64;
        Ok(())
    }

    /// Bytes written by now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the trailer; the length of the whole dump in bytes.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(mut self) -> io::Result<u64> {
        let checksum = self.checksum.clone().finalize();
        self.frame.resize(HEADER_BYTES, 0);
        self.frame.extend(self.bytes.to_le_bytes());
        self.frame.extend(checksum.to_le_bytes());
        self.frame.extend([0; 4]);
        self.close(KIND_END, 0)?;
        self.out.flush()?;
        Ok(self.bytes)
    }
}
