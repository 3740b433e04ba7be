// SPDX-License-Identifier: Apache-2.0
//! The way to the terminal. Guests, traces and files name threads, kernels and reasons as they
//! like; whatever of it is printed goes through here, and no character of it commands a terminal
//! or turns the direction of a line. Files keep what was said, with such characters escaped where
//! the format can.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Whether a letter does something to a terminal, or to how others are read, in place of being
/// shown: control characters (C0, DEL, C1), and those that Unicode has for formatting (category
/// Cf: directions, joiners, tags) and for separating lines (U+2028, U+2029).
fn commands(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

/// A text of several lines as it can be printed: what would command is shown as `\x1b` or
/// `\u{202e}`; line feeds and tabs stay.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| matches!(letter, '\n' | '\t'))
}

/// A text that is one line, and stays one: line feeds are shown, too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

fn escaped(text: &str, stays: fn(char) -> bool) -> Cow<'_, str> {
    let is_shown = |letter: char| commands(letter) && !stays(letter);
    if !text.contains(is_shown) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 16);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        // Writing to a String does not fail.
        let _ = match letter {
            // The end of a line, as consoles have it.
            '\r' if stays('\n') && letters.peek() == Some(&'\n') => Ok(()),
            '\0'..='\u{ff}' if is_shown(letter) => write!(plain, "\\x{:02x}", u32::from(letter)),
            _ if is_shown(letter) => write!(plain, "\\u{{{:x}}}", u32::from(letter)),
            _ => plain.write_char(letter),
        };
    }
    plain.into()
}

/// A line on stdout. A closed one takes the text: files and the status tell all the same.
#[expect(clippy::disallowed_methods, reason = "this is the way")]
pub fn out(text: &str) {
    line(io::stdout(), text);
}

/// A line on stderr, for a person.
#[expect(clippy::disallowed_methods, reason = "this is the way")]
pub fn err(text: &str) {
    line(io::stderr(), text);
}

fn line(mut to: impl Write, text: &str) {
    let text = plain(text);
    #[cfg(test)]
    if tests::keep(&text) {
        return;
    }
    let _ = writeln!(to, "{text}");
}

#[cfg(test)]
pub use tests::kept;

/// Text that comes in pieces, made plain on its way.
pub struct Plain<W: Write> {
    out: W,
    /// The beginning of a letter, or of a line's end.
    pending: Vec<u8>,
}

impl Plain<BufWriter<Stdout>> {
    /// On the way to stdout, in large pieces.
    #[expect(clippy::disallowed_methods, reason = "made plain on the way")]
    pub fn stdout() -> Self {
        Self::new(BufWriter::new(io::stdout()))
    }
}

impl<W: Write> Plain<W> {
    /// On the way to there.
    pub fn new(out: W) -> Self {
        Self { out, pending: Vec::new() }
    }

    /// There is no more.
    ///
    /// # Errors
    /// What was written cannot be taken.
    pub fn finish(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.pending);
        self.out.write_all(plain(&String::from_utf8_lossy(&rest)).as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        let whole = whole_letters(&self.pending);
        let ready: Vec<u8> = self.pending.drain(..whole).collect();
        self.out.write_all(plain(&String::from_utf8_lossy(&ready)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How many bytes are there before a letter of UTF-8, or the two of a line's end, that goes on in
/// the next piece.
fn whole_letters(bytes: &[u8]) -> usize {
    for (back, byte) in (1..=3).zip(bytes.iter().rev()) {
        let length = match byte {
            b'\r' if back == 1 => 2,
            0x80..0xc0 => continue,
            0xc0..0xe0 => 2,
            0xe0..0xf0 => 3,
            0xf0..0xf8 => 4,
            _ => 1,
        };
        return if length > back { bytes.len() - back } else { bytes.len() };
    }
    bytes.len()
}

/// A value as JSON for people, of which no character commands a terminal that shows it: what
/// would is escaped as JSON has it.
///
/// # Errors
/// Those of the value, or of the writer.
pub fn write_json(out: impl Write, value: &impl Serialize) -> serde_json::Result<()> {
    let formatter = Escaping(PrettyFormatter::new());
    value.serialize(&mut Serializer::with_formatter(out, formatter))
}

/// The same as a text.
///
/// # Errors
/// Those of the value.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    write_json(&mut bytes, value)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Escaping(PrettyFormatter<'static>);

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(commands) {
            out.write_all(&rest.as_bytes()[..at])?;
            let mut letters = rest[at..].chars();
            let mut units = [0; 2];
            for unit in letters.next().map_or(&[][..], |letter| letter.encode_utf16(&mut units)) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = letters.as_str();
        }
        out.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::Value;

    use super::*;

    thread_local! {
        /// What this thread has printed, while that is kept.
        static KEPT: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    pub(super) fn keep(text: &str) -> bool {
        KEPT.with_borrow_mut(|kept| kept.as_mut().map(|kept| *kept += &format!("{text}\n")))
            .is_some()
    }

    /// Does something, and keeps what this thread prints meanwhile.
    pub fn kept<T>(body: impl FnOnce() -> T) -> (T, String) {
        KEPT.set(Some(String::new()));
        let done = body();
        (done, KEPT.take().unwrap_or_default())
    }

    const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{7}a\u{7f}\0\u{202e}b\u{200b}\u{e0041}\u{2028}c\rd";

    #[test]
    fn what_commands_is_shown() {
        assert_eq!(
            plain(HOSTILE),
            r"\x1b[2J\x9b31m\x07a\x7f\x00\u{202e}b\u{200b}\u{e0041}\u{2028}c\x0dd"
        );
        assert_eq!(plain("ä\tb\r\nµ — 日本\n"), "ä\tb\nµ — 日本\n");
        assert_eq!(one_line("a\tb\r\n"), r"a\x09b\x0d\x0a");
        assert!(matches!(plain("plain\ntext"), Cow::Borrowed(_)));
    }

    #[test]
    fn pieces_do_not_break_letters() {
        let text = format!("x\r\n{HOSTILE}ä日\u{1f600}\r");
        for size in 1..=text.len() {
            let mut out = Plain::new(Vec::new());
            text.as_bytes().chunks(size).for_each(|piece| out.write_all(piece).expect("a Vec"));
            out.finish().expect("a Vec");
            assert_eq!(String::from_utf8(out.out).expect("UTF-8"), plain(&text), "{size}");
        }
        let mut out = Plain::new(Vec::new());
        for piece in [&b"\xff\xe2\x80"[..], b"x\xf0\x9f", b"\x98", b""] {
            out.write_all(piece).expect("a Vec");
        }
        out.finish().expect("a Vec");
        assert_eq!(String::from_utf8(out.out).expect("UTF-8"), "\u{fffd}\u{fffd}x\u{fffd}");
    }

    #[test]
    fn json_says_the_same_and_commands_nothing() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, 1, null, { "a": [] }], "b": {} });
        let text = json(&value).expect("JSON");
        assert_eq!(plain(&text), text);
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
        let harmless = serde_json::json!({ "a": [1, { "ä": "\n" }], "b": [] });
        assert_eq!(
            json(&harmless).expect("JSON"),
            serde_json::to_string_pretty(&harmless).expect("JSON")
        );
    }
}
