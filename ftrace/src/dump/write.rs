// SPDX-License-Identifier: Apache-2.0
//! Writes a dump.

use std::io::{self, Read, Write};

use super::{HEADER_BYTES, KIND_END, KIND_PAGES, MAGIC, Section};

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
        self.close(section.code())
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
            self.close((KIND_PAGES, cpu))?;
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
    fn close(&mut self, (kind, number): (u32, u32)) -> io::Result<()> {
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
        self.close((KIND_END, 0))?;
        self.out.flush()?;
        Ok(self.bytes)
    }
}
