// SPDX-License-Identifier: Apache-2.0
//! The way to the terminal. Guests, traces and files name threads, kernels and reasons as they
//! like; whatever of it is printed goes through here, and no character of it commands a terminal
//! or turns the direction of a line. Files keep what was said, with such characters escaped where
//! the format can.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Stdout, Write};

use results::json::commands;

use crate::owner::of_file;
use crate::printer::{self, Stream};
use crate::status::Failure;

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
    if !text.contains(|letter: char| is_shown_escaped(letter, stays)) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 16);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        // Writing to a String does not fail.
        let _ = match letter {
            // The end of a line, as consoles have it.
            '\r' if stays('\n') && letters.peek() == Some(&'\n') => Ok(()),
            '\0'..='\u{ff}' if is_shown_escaped(letter, stays) => {
                write!(plain, "\\x{:02x}", u32::from(letter))
            }
            _ if is_shown_escaped(letter, stays) => {
                write!(plain, "\\u{{{:x}}}", u32::from(letter))
            }
            _ => plain.write_char(letter),
        };
    }
    plain.into()
}

fn is_shown_escaped(letter: char, stays: fn(char) -> bool) -> bool {
    commands(letter) && !stays(letter)
}

/// A line on stdout. A closed one takes the text: files and the status tell all the same.
pub fn out(text: &str) {
    line(Stream::Out, text);
}

/// The text that a verb was called for, as a line on stdout.
///
/// # Errors
/// As for [`whole`].
pub fn product(text: &str) -> Result<(), Failure> {
    let text = plain(text);
    #[cfg(test)]
    if tests::keep(&text) {
        return Ok(());
    }
    whole(format!("{text}\n").as_bytes())
}

/// The same, of bytes as they are.
///
/// # Errors
/// Stdout does not take it. Whoever closes that early has had enough, and that is none.
pub fn whole(bytes: &[u8]) -> Result<(), Failure> {
    taken(printer::print_whole(bytes))
}

/// Whether a verb's answer was taken.
///
/// # Errors
/// As for [`whole`].
pub fn taken(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(of_file(&error), format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// A line on stderr, for a person.
pub fn err(text: &str) {
    line(Stream::Err, text);
}

fn line(to: Stream, text: &str) {
    let text = plain(text);
    #[cfg(test)]
    if tests::keep(&text) {
        return;
    }
    printer::print(to, format!("{text}\n").into_bytes());
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

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
}
