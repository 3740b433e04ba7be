// SPDX-License-Identifier: Apache-2.0
//! Protocol buffers' wire format, as much of it as is written here.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

/// Bytes reserved for the length of a nested message. Lengths may have leading zeros, so one
/// that is not known yet gets room for the largest.
const LENGTH_BYTES: usize = 4;
/// What such a length can say, at most.
const MAX_LENGTH: usize = (1 << (7 * LENGTH_BYTES)) - 1;

const VARINT: u32 = 0;
const BYTES: u32 = 2;

/// A message that is being written to the end of a buffer.
pub(super) struct Message<'a>(&'a mut Vec<u8>);

impl<'a> Message<'a> {
    /// A message that begins where the buffer ends.
    pub(super) fn at_end_of(buffer: &'a mut Vec<u8>) -> Self {
        Self(buffer)
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(low_bits(value) | 0x80);
            value >>= 7;
        }
        self.0.push(low_bits(value));
    }

    fn tag(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    /// A `uint32`, `uint64`, `bool` or enumeration.
    pub(super) fn uint(&mut self, field: u32, value: impl Into<u64>) -> &mut Self {
        self.tag(field, VARINT);
        self.varint(value.into());
        self
    }

    /// An `int32` or `int64`.
    pub(super) fn int(&mut self, field: u32, value: impl Into<i64>) -> &mut Self {
        self.uint(field, value.into().cast_unsigned())
    }

    /// A `string`.
    pub(super) fn text(&mut self, field: u32, text: &str) -> &mut Self {
        self.bytes(field, text.as_bytes())
    }

    /// A `string` from a kernel's NUL-padded text; what is not UTF-8 is replaced.
    pub(super) fn c_text(&mut self, field: u32, text: &[u8]) -> &mut Self {
        let end = memchr::memchr(0, text).unwrap_or(text.len());
        self.text(field, &String::from_utf8_lossy(&text[..end]))
    }

    /// Fields that are written already.
    pub(super) fn append(&mut self, fields: &[u8]) -> &mut Self {
        self.0.extend_from_slice(fields);
        self
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.tag(field, BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// A nested message of less than 256 MiB; a longer one is left out.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Message)) -> &mut Self {
        let begin = self.0.len();
        self.tag(field, BYTES);
        let at = self.0.len();
        self.0.extend([0; LENGTH_BYTES]);
        write(&mut Message(self.0));
        let length = self.0.len() - at - LENGTH_BYTES;
        if length > MAX_LENGTH {
            self.0.truncate(begin);
            return self;
        }
        for (index, byte) in self.0[at..at + LENGTH_BYTES].iter_mut().enumerate() {
            let more = if index + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            *byte = low_bits((length >> (7 * index)) as u64) | more;
        }
        self
    }
}

/// The lowest seven bits.
fn low_bits(value: u64) -> u8 {
    u8::try_from(value & 0x7F).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_format_come_out() {
        let mut buffer = Vec::new();
        Message(&mut buffer).uint(1, 150_u64).text(2, "testing").int(3, -2);
        let expected = b"\x08\x96\x01\x12\x07testing\x18\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(buffer, expected);
        buffer.clear();
        Message(&mut buffer).message(3, |inner| {
            inner.uint(1, 150_u64);
        });
        assert_eq!(buffer, b"\x1a\x83\x80\x80\x00\x08\x96\x01");
        buffer.clear();
        Message(&mut buffer).c_text(1, b"a\xFFb\0\0");
        assert_eq!(buffer, "\x0a\x05a\u{FFFD}b".as_bytes());
    }
}
