// SPDX-License-Identifier: Apache-2.0
//! Names of threads: the kernel's `saved_cmdlines`.

use rustc_hash::FxHashMap;

/// Names kept, at most; the kernel keeps 128 unless told otherwise.
const MAX_NAMES: usize = 1 << 17;
/// The kernel's `TASK_COMM_LEN`, without the NUL.
const MAX_NAME_BYTES: usize = 15;

/// Names of threads by number.
#[derive(Clone, Debug, Default)]
pub struct Comms(FxHashMap<i32, Box<str>>);

impl Comms {
    /// Reads `saved_cmdlines`: lines of a thread's number and its name. Lines of another form
    /// are not names, and are left out.
    pub fn parse(text: &[u8]) -> Self {
        let lines = text.split(|&byte| byte == b'\n').take(MAX_NAMES);
        Self(lines.filter_map(parse_line).collect())
    }

    /// The name of a thread, where the kernel kept it.
    pub fn get(&self, pid: i32) -> Option<&str> {
        self.0.get(&pid).map(AsRef::as_ref)
    }
}

fn parse_line(line: &[u8]) -> Option<(i32, Box<str>)> {
    let line = line.trim_ascii_start();
    let (pid, name) = line.split_at(line.iter().position(|&byte| byte == b' ')?);
    let pid = std::str::from_utf8(pid).ok()?.parse().ok()?;
    let name = &name[1..];
    let name = String::from_utf8_lossy(&name[..name.len().min(MAX_NAME_BYTES)]);
    Some((pid, name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_spaces() {
        let comms = Comms::parse(b"12 kworker/0:1\n  7 a b c\nnonsense\n9\n8 \xFFx\n-1 <...>\n");
        assert_eq!(comms.get(12), Some("kworker/0:1"));
        assert_eq!(comms.get(7), Some("a b c"));
        assert_eq!(comms.get(9), None);
        assert_eq!(comms.get(8), Some("\u{FFFD}x"));
    }
}
