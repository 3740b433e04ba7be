// SPDX-License-Identifier: Apache-2.0
//! One field of an event: how its line in a format file is read, and how its value is taken
//! from a record.
//!
//! Lines: `f_show` in the kernel's `kernel/trace/trace_events.c`. Dynamic arrays:
//! `include/trace/stages/stage1_struct_define.h` (`__data_loc`, 2.6.31 and later, and
//! `__rel_loc`, 5.17 and later).

use std::ops::Range;

/// Place and size of a field's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldKind {
    /// One number of `size` bytes.
    Scalar,
    /// `size` bytes: an array of fixed length, or a structure.
    Array,
    /// `char buf[]`: from `offset` to the end of the record.
    Rest,
    /// `__data_loc`: a 32-bit word at `offset` that holds the position in the record (low
    /// half) and the length in bytes (high half).
    DataLoc,
    /// `__rel_loc`: the same, but the position counts from the end of the word.
    RelLoc,
}

/// One field of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, without array brackets.
    pub name: String,
    /// Its C type, without array brackets after the name.
    pub type_name: String,
    /// Where it begins in a record, in bytes.
    pub offset: usize,
    /// Its length in bytes; of a dynamic array's descriptor where it is one; 0 for
    /// [`FieldKind::Rest`].
    pub size: usize,
    /// True if numbers in it have a sign.
    pub signed: bool,
    /// Place of its bytes.
    pub kind: FieldKind,
}

impl Field {
    /// Reads one line of a format file; `None` where the line describes no field.
    ///
    /// `\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;`
    pub(crate) fn parse(line: &str) -> Option<Result<Self, String>> {
        let line = line.trim_start();
        let rest = line.strip_prefix("field:").or_else(|| line.strip_prefix("field special:"))?;
        Some(Self::parse_after_prefix(rest))
    }

    fn parse_after_prefix(rest: &str) -> Result<Self, String> {
        let mut parts = rest.split(';').map(str::trim);
        let declaration = parts.next().unwrap_or_default();
        let mut field = Self::parse_declaration(declaration)?;
        let (mut offset, mut size) = (None, None);
        for part in parts {
            let Some((key, value)) = part.split_once(':') else { continue };
            match key {
                "offset" => offset = value.parse().ok(),
                "size" => size = value.parse().ok(),
                "signed" => field.signed = value == "1",
                _ => {}
            }
        }
        field.offset = offset.ok_or_else(|| unusable("offset", &field.name))?;
        field.size = size.ok_or_else(|| unusable("size", &field.name))?;
        if field.offset > MAX_RECORD_BYTES || field.size > MAX_RECORD_BYTES {
            return Err(format!("field `{}` lies outside any record", field.name));
        }
        if field.size == 0 {
            field.kind = FieldKind::Rest;
        }
        if matches!(field.kind, FieldKind::DataLoc | FieldKind::RelLoc) && field.size != 4 {
            return Err(format!("dynamic array `{}` has no 32-bit descriptor", field.name));
        }
        Ok(field)
    }

    /// `char prev_comm[16]`, `__data_loc char[] name`, `unsigned long ip`.
    fn parse_declaration(text: &str) -> Result<Self, String> {
        let (before_brackets, is_array) = match text.strip_suffix(']') {
            Some(open) => (open.rsplit_once('[').ok_or("`]` without `[`")?.0.trim_end(), true),
            None => (text, false),
        };
        let name_at =
            before_brackets.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_').len();
        let (type_name, name) = before_brackets.split_at(name_at);
        if name.is_empty() || type_name.trim().is_empty() {
            return Err(format!("`{text}` is not a type and a name"));
        }
        let kind = match type_name.split_whitespace().next() {
            Some("__data_loc") => FieldKind::DataLoc,
            Some("__rel_loc") => FieldKind::RelLoc,
            _ if is_array => FieldKind::Array,
            _ => FieldKind::Scalar,
        };
        let (name, type_name) = (name.to_owned(), type_name.trim().to_owned());
        Ok(Self { name, type_name, offset: 0, size: 0, signed: false, kind })
    }

    /// True if its bytes are text that ends at the first NUL.
    pub fn is_text(&self) -> bool {
        let of_char = self.type_name.split([' ', '[']).any(|word| word == "char")
            && !self.type_name.contains('*');
        of_char && self.kind != FieldKind::Scalar && !self.type_name.contains("unsigned")
    }

    /// Where its bytes are in a record of `record.len()` bytes; `None` if not inside it.
    pub fn range(&self, record: &[u8]) -> Option<Range<usize>> {
        let fixed = self.offset..self.offset + self.size;
        let range = match self.kind {
            FieldKind::Scalar | FieldKind::Array => fixed,
            FieldKind::Rest => self.offset..record.len(),
            FieldKind::DataLoc | FieldKind::RelLoc => {
                let word = record.get(fixed.clone())?;
                let position = usize::from(u16::from_le_bytes([word[0], word[1]]));
                let length = usize::from(u16::from_le_bytes([word[2], word[3]]));
                let base = if self.kind == FieldKind::RelLoc { fixed.end } else { 0 };
                base + position..base + position + length
            }
        };
        (range.start <= range.end && range.end <= record.len()).then_some(range)
    }

    /// Its bytes; `None` if the record is too short for them.
    pub fn bytes<'a>(&self, record: &'a [u8]) -> Option<&'a [u8]> {
        record.get(self.range(record)?)
    }

    /// Its bytes up to the first NUL; `None` if the record is too short for them.
    pub fn text_bytes<'a>(&self, record: &'a [u8]) -> Option<&'a [u8]> {
        let bytes = self.bytes(record)?;
        Some(memchr::memchr(0, bytes).map_or(bytes, |end| &bytes[..end]))
    }

    /// A reader of its number; `None` unless it is a number of 1, 2, 4 or 8 bytes.
    pub fn int(&self) -> Option<IntField> {
        let width = match (self.kind, self.size) {
            (FieldKind::Scalar, 1) => Width::One,
            (FieldKind::Scalar, 2) => Width::Two,
            (FieldKind::Scalar, 4) => Width::Four,
            (FieldKind::Scalar, 8) => Width::Eight,
            _ => return None,
        };
        Some(IntField { offset: self.offset, width, signed: self.signed })
    }
}

fn unusable(what: &str, field: &str) -> String {
    format!("field `{field}` has no usable {what}")
}

/// No record is longer than the largest sub-buffer a kernel makes (`RB_WRITE_MASK` in
/// `kernel/trace/ring_buffer.c`).
pub(crate) const MAX_RECORD_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    One,
    Two,
    Four,
    Eight,
}

/// Where a number is in a record, resolved once and read often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntField {
    offset: usize,
    width: Width,
    signed: bool,
}

impl IntField {
    /// The number, sign-extended to 64 bits if it has a sign; `None` if the record is too
    /// short.
    #[inline]
    pub fn get(self, record: &[u8]) -> Option<i64> {
        let at = record.get(self.offset..)?;
        Some(match (self.width, self.signed) {
            (Width::Four, true) => i64::from(i32::from_le_bytes(*at.first_chunk()?)),
            (Width::Four, false) => i64::from(u32::from_le_bytes(*at.first_chunk()?)),
            (Width::Eight, _) => i64::from_le_bytes(*at.first_chunk()?),
            (Width::Two, true) => i64::from(i16::from_le_bytes(*at.first_chunk()?)),
            (Width::Two, false) => i64::from(u16::from_le_bytes(*at.first_chunk()?)),
            (Width::One, true) => i64::from(i8::from_le_bytes(*at.first_chunk()?)),
            (Width::One, false) => i64::from(u8::from_le_bytes(*at.first_chunk()?)),
        })
    }

    /// The number as an `i32`, such as a thread's or a CPU's; `None` if the record is too
    /// short or the number too large.
    #[inline]
    pub fn get_i32(self, record: &[u8]) -> Option<i32> {
        i32::try_from(self.get(record)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(line: &str) -> Field {
        Field::parse(line).expect("a field").expect("a good one")
    }

    #[test]
    fn lines_of_all_kinds_are_read() {
        let plain = field("\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;");
        assert_eq!(
            (plain.name.as_str(), plain.type_name.as_str()),
            ("common_type", "unsigned short")
        );
        assert_eq!((plain.kind, plain.offset, plain.size), (FieldKind::Scalar, 0, 2));

        let array = field("\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;");
        assert_eq!((array.name.as_str(), array.kind), ("prev_comm", FieldKind::Array));
        assert!(array.is_text());
        let named = field("field:char comm[TASK_COMM_LEN];\toffset:8;\tsize:16;\tsigned:1;");
        assert_eq!((named.name.as_str(), named.signed), ("comm", true));

        let dynamic = field("\tfield:__data_loc char[] name;\toffset:12;\tsize:4;\tsigned:0;");
        assert_eq!((dynamic.name.as_str(), dynamic.kind), ("name", FieldKind::DataLoc));
        assert!(dynamic.is_text());
        let rest = field("\tfield:char buf[];\toffset:16;\tsize:0;\tsigned:0;");
        assert_eq!((rest.name.as_str(), rest.kind), ("buf", FieldKind::Rest));
        let pointer = field("\tfield:const char * s;\toffset:8;\tsize:8;\tsigned:0;");
        assert!(!pointer.is_text() && pointer.int().is_some());
        assert!(Field::parse("print fmt: \"field:x\"").is_none());
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        for (line, word) in [
            ("field:int x;\tsize:4;\tsigned:1;", "offset"),
            ("field:int x;\toffset:-4;\tsize:4;", "offset"),
            ("field:int x;\toffset:0;\tsize:99999999999999999999;", "size"),
            ("field:int x;\toffset:0;\tsize:9999999;", "outside"),
            ("field:int;\toffset:0;\tsize:4;", "type and a name"),
            ("field:int x];\toffset:0;\tsize:4;", "without"),
            ("field:__data_loc char[] x;\toffset:0;\tsize:8;", "32-bit"),
        ] {
            let error = Field::parse(line).expect("a field").expect_err(line);
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn values_are_taken_from_inside_the_record_only() {
        let record = [0, 0, 8, 0, 3, 0, b'x', 0, b'a', b'b', 0];
        let absolute = field("field:__data_loc char[] s;\toffset:2;\tsize:4;\tsigned:0;");
        assert_eq!(absolute.bytes(&record), Some(&b"ab\0"[..]));
        assert_eq!(absolute.text_bytes(&record), Some(&b"ab"[..]));
        assert_eq!(absolute.bytes(&record[..10]), None);
        // The word ends at 6; 2 bytes on is 8.
        let relative = field("field:__rel_loc char[] s;\toffset:2;\tsize:4;\tsigned:0;");
        let mut moved = record;
        moved[2] = 2;
        assert_eq!(relative.bytes(&moved), Some(&b"ab\0"[..]));
        let number =
            field("field:short n;\toffset:9;\tsize:2;\tsigned:1;").int().expect("a number");
        assert_eq!(number.get(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFE, 0xFF]), Some(-2));
        assert_eq!(number.get(&record[..10]), None);
        let wide = field("field:u64 n;\toffset:0;\tsize:8;\tsigned:0;").int().expect("a number");
        assert_eq!(wide.get_i32(&[0xFF; 8]), Some(-1));
        assert_eq!(wide.get_i32(&[1, 0, 0, 0, 1, 0, 0, 0]), None);
    }
}
