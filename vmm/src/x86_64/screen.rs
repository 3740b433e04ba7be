// SPDX-License-Identifier: Apache-2.0
//! A text screen that nobody looks at: memory where a kernel with CONFIG_EARLY_PRINTK draws what it
//! has to say before it has a console. Drawing is writing to RAM, and costs no exit, where a 16550
//! costs two for each character and hundreds for its probing.
//!
//! Source: Linux arch/x86/kernel/early_printk.c, `early_vga_write` and `setup_early_printk`.

use linux_loader::loader::bootparam::screen_info;

/// Cells in a row. All rows fill the window of text screens, which ends at 0xc_0000.
const COLUMNS: u8 = 128;
const ROWS: u8 = 128;
/// A character and its colours.
const CELL_BYTES: usize = 2;
/// Bytes of the screen, from [`layout::SCREEN`](super::layout::SCREEN) on.
pub const SCREEN_BYTES: usize = COLUMNS as usize * ROWS as usize * CELL_BYTES;

/// A text screen that early messages are drawn on, from its first row down.
const IS_TEXT: u8 = 1;
/// EGA's 320x200, a mode that the kernel's own driver of VGA does not take
/// (drivers/video/console/vgacon.c, `vgacon_startup`): it would look for more of VGA than there is.
const MODE_LEFT_ALONE: u8 = 0x0d;

/// The screen as the kernel is told of it.
pub fn info() -> screen_info {
    screen_info {
        orig_video_mode: MODE_LEFT_ALONE,
        orig_video_cols: COLUMNS,
        orig_video_lines: ROWS,
        orig_video_isVGA: IS_TEXT,
        ..screen_info::default()
    }
}

/// What is drawn on it: its rows up to the last one that has something, each without the spaces at
/// its end, and those of one line as one. Nothing where nothing was drawn.
pub fn text(cells: &[u8]) -> String {
    let mut text = String::new();
    let mut empty_rows = 0;
    for row in cells.chunks(usize::from(COLUMNS) * CELL_BYTES) {
        let drawn: String = row.chunks(CELL_BYTES).map(|cell| character(cell[0])).collect();
        let trimmed = drawn.trim_end();
        if trimmed.is_empty() {
            empty_rows += 1;
            continue;
        }
        text.extend(std::iter::repeat_n('\n', std::mem::take(&mut empty_rows)));
        if is_full(row, trimmed.len()) {
            text.push_str(&drawn);
        } else {
            text.push_str(trimmed);
            text.push('\n');
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Whether a line fills this row and goes on in the next: something is drawn in its last cell, a
/// space at most, where the kernel has drawn one there.
fn is_full(row: &[u8], trimmed_len: usize) -> bool {
    let columns = usize::from(COLUMNS);
    let is_drawn = row.get((columns - 1) * CELL_BYTES).is_some_and(|character| *character != 0);
    is_drawn && trimmed_len + 1 >= columns
}

/// Whatever a guest draws, a terminal gets printable characters.
fn character(byte: u8) -> char {
    match byte {
        0 | b' ' => ' ',
        byte if byte.is_ascii_graphic() => byte.into(),
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::layout;

    #[test]
    fn the_screen_fills_the_window_of_text_screens() {
        assert_eq!((layout::SCREEN.0, SCREEN_BYTES), (0xb_8000, 0x8000));
        const { assert!(layout::SCREEN.0 >= layout::LOW_RESERVED_START.0) };
        const { assert!(layout::SCREEN.0 + SCREEN_BYTES as u64 <= layout::ACPI.0) };
    }

    #[test]
    fn a_long_line_is_one_line() {
        let mut cells = vec![0; SCREEN_BYTES];
        let (long, other) = ("words ".repeat(64), format!("ab{}", "words ".repeat(64)));
        let columns = usize::from(COLUMNS);
        assert!(other[..columns].ends_with(' ') && !long[..columns].ends_with(' '));
        // The third line ends with its row, and an empty row is below it, as the kernel draws it.
        let lines = [&other[..199], &long[..columns * 2 - 7], &long[..columns], "last"];
        for (row, line) in [0, 2, 4, 6].into_iter().zip(lines) {
            for (at, byte) in line.bytes().enumerate() {
                let cell = (row * columns + at) * CELL_BYTES;
                cells[cell..cell + CELL_BYTES].copy_from_slice(&[byte, 7]);
            }
        }
        let text = text(&cells);
        let read: Vec<_> = text.lines().collect();
        assert_eq!(read, lines);
    }

    #[test]
    fn what_was_drawn_is_read_in_rows() {
        assert_eq!(text(&[0; SCREEN_BYTES]), "");
        let mut cells = vec![0; SCREEN_BYTES];
        let mut draw = |row: usize, text: &[u8]| {
            for (column, byte) in text.iter().enumerate() {
                let at = (row * usize::from(COLUMNS) + column) * CELL_BYTES;
                cells[at..at + CELL_BYTES].copy_from_slice(&[*byte, 7]);
            }
        };
        draw(0, b"[    0.1] one  ");
        draw(2, b"two\x1b[2J\xff");
        draw(127, b"last");
        let text = text(&cells);
        assert!(text.starts_with("[    0.1] one\n\ntwo?[2J?\n\n"), "{text}");
        assert!(text.ends_with("\nlast\n") && text.lines().count() == 128, "{text}");
    }
}
