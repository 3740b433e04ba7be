// SPDX-License-Identifier: Apache-2.0
//! A bar on stderr, where that is a terminal, for what takes long.

use std::io::{self, IsTerminal};
use std::mem;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use rustix::termios;

use crate::printer::{self, Stream};

/// Draws a second, as indicatif has it on a terminal.
const FRAMES_PER_SECOND: u8 = 20;
/// Where a terminal does not tell how large it is.
const USUAL_SIZE: (u16, u16) = (80, 24);
/// A terminal that has taken so little of what was printed is not drawn on.
const MAX_UNDRAWN_BYTES: usize = 16 << 10;

/// The bar. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// One that is to be seen on a terminal only.
    #[expect(clippy::disallowed_methods, reason = "a question; the bar's words are ours")]
    pub fn new() -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::term_like_with_hz(
                Box::new(BarTerminal::default()),
                FRAMES_PER_SECOND,
            )
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::on(target)
    }

    /// One that is to be seen there.
    pub fn on(terminal: ProgressDrawTarget) -> Self {
        Self { bar: ProgressBar::with_draw_target(None, terminal) }
    }

    /// Starts a phase of so many steps.
    pub fn phase(&self, name: &'static str, steps: u64) {
        // The template is a constant of ours; a fault in it would only cost the bar.
        let style = ProgressStyle::with_template("{msg:>8} [{bar:40}] {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("=> "));
        self.bar.reset();
        self.bar.set_message(name);
        self.bar.set_length(steps.max(1));
        // However short it is: frames are drawn some times a second otherwise.
        self.bar.force_draw();
    }

    /// Moves the bar on by so many steps, if there is one.
    pub fn add(&self, steps: u64) {
        if self.bar.length().is_some() {
            self.bar.inc(steps);
        }
    }

    /// Moves the bar.
    pub fn at(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Takes the bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
        self.bar.unset_length();
    }

    /// Shows the bar now, not only when its time has come.
    #[cfg(test)]
    pub fn force_draw(&self) {
        self.bar.force_draw();
    }

    /// Writes something else, the bar out of its way.
    pub fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }
}

/// The terminal on stderr, as indicatif draws on it: by way of the printer, which does not block.
#[derive(Debug, Default)]
struct BarTerminal {
    frame: Mutex<String>,
}

impl BarTerminal {
    fn add(&self, text: &str) -> io::Result<()> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }

    /// Moves the cursor (ECMA-48, 8.3.18 to 8.3.22).
    fn go(&self, steps: usize, way: char) -> io::Result<()> {
        if steps == 0 { Ok(()) } else { self.add(&format!("\x1b[{steps}{way}")) }
    }
}

/// Columns and rows of stderr.
#[expect(clippy::disallowed_methods, reason = "a question")]
fn size() -> (u16, u16) {
    let size = termios::tcgetwinsize(io::stderr()).ok().filter(|size| size.ws_col > 0);
    size.map_or(USUAL_SIZE, |size| (size.ws_col, size.ws_row))
}

impl TermLike for BarTerminal {
    fn width(&self) -> u16 {
        size().0
    }

    fn height(&self) -> u16 {
        size().1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text)?;
        self.add("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let frame = mem::take(&mut *self.frame.lock().unwrap_or_else(PoisonError::into_inner));
        if !frame.is_empty() && printer::pending_bytes() < MAX_UNDRAWN_BYTES {
            printer::print(Stream::Err, frame.into_bytes());
        }
        Ok(())
    }
}
