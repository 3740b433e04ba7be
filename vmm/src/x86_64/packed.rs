// SPDX-License-Identifier: Apache-2.0
//! Whole files that are packed, as a stream: their size is not known before the end.

use std::io::{self, BufRead, Read};

use liblzma::stream::{CONCATENATED, Stream};

use crate::x86_64::payload::{Format, XZ_MEMORY_LIMIT};

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
