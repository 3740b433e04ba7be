// SPDX-License-Identifier: Apache-2.0
//! What is packed: by which program, and whole files as a stream, since their size is not known
//! before the end.

use std::fmt;
use std::io::{self, BufRead, Read};

use liblzma::stream::{CONCATENATED, Stream};

/// Memory the xz decoder may use: dictionaries of kernels are at most 128 MiB.
pub(super) const XZ_MEMORY_LIMIT: u64 = 256 << 20;

/// Compression formats, by the magic bytes lib/decompress.c knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 1952.
    Gzip,
    /// The .xz container, with the x86 branch filter.
    Xz,
    /// The .lzma container.
    Lzma,
    /// LZ4's legacy frame.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// The format of `payload`, by its first bytes.
pub fn format(payload: &[u8]) -> Option<Format> {
    const MAGICS: [(&[u8], Format); 5] = [
        (&[0x1f, 0x8b], Format::Gzip),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], Format::Xz),
        (&[0x02, 0x21, 0x4c, 0x18], Format::Lz4),
        (&[0x28, 0xb5, 0x2f, 0xfd], Format::Zstd),
        (&[0x5d, 0, 0], Format::Lzma),
    ];
    MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, format)| *format)
}

/// A decoder for `packed`, which begins with the magic bytes of `format`.
///
/// # Errors
/// There is no decoder for it (LZ4's legacy frame), or no memory for one.
pub fn reader<'a>(format: Format, packed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match format {
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Format::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_LIMIT, CONCATENATED);
            Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream?))
        }
        Format::Lzma => {
            let stream = Stream::new_lzma_decoder(XZ_MEMORY_LIMIT);
            Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream?))
        }
        Format::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        Format::Lz4 => return Err(io::ErrorKind::Unsupported.into()),
    })
}
