// SPDX-License-Identifier: Apache-2.0
//! The one symbol that viewers need to show markers by name.

use std::io::{self, BufRead, Read};

/// The kernel function that writes markers (`kernel/trace/trace.c`); its address is in each.
const MARKER_FUNCTION: &str = "tracing_mark_write";

/// The lines of `/proc/kallsyms` that name the function of markers, for
/// [`crate::Metadata::kallsyms`]: that of `tracing_mark_write` and the one after it, which
/// tells viewers where the function ends. Empty if it is not there or all addresses are
/// hidden (`kptr_restrict`).
///
/// # Errors
/// What the reader says.
pub fn marker_symbol(mut kallsyms: impl BufRead) -> io::Result<Vec<u8>> {
    /// Lines are shorter than this: `KSYM_NAME_LEN` is 512.
    const LONGEST_LINE: u64 = 1024;
    let mut lines = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if kallsyms.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(lines);
        }
        if !lines.is_empty() {
            lines.append(&mut line);
            return Ok(lines);
        }
        let text = String::from_utf8_lossy(&line);
        let mut words = text.split_ascii_whitespace();
        let address = words.next().unwrap_or_default();
        if words.nth(1) == Some(MARKER_FUNCTION) && address.bytes().any(|digit| digit != b'0') {
            lines.append(&mut line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_line_is_found() -> io::Result<()> {
        let text = "ffffffff81000000 T _text\nffffffff81200000 t tracing_mark_write_x\n\
                    ffffffff812b9f30 t tracing_mark_write\nffffffff812b9f40 t next\n";
        let lines = marker_symbol(text.as_bytes())?;
        assert!(text.ends_with(&*String::from_utf8_lossy(&lines)) && lines.len() == 38 + 24);
        assert!(lines.starts_with(b"ffffffff812b9f30 t tracing_mark_write\n"));
        assert_eq!(marker_symbol(&b"0000000000000000 t tracing_mark_write\n"[..])?, b"");
        assert_eq!(marker_symbol(&b""[..])?, b"");
        Ok(())
    }
}
