// SPDX-License-Identifier: Apache-2.0
//! Files that a user names, or that lie beside one: regular ones, and no more of them than there
//! can be. A device may have no end, a pipe may never begin, and a sparse file be larger than
//! memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Opens it to read.
///
/// # Errors
/// It is not there, or no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Looked at before and after: opening may do something to a device, and a pipe waits for
    // whoever writes into it, but not so.
    let metadata = std::fs::metadata(path)?;
    check(&metadata)?;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| denied(error, metadata.permissions().mode()))?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Why this user may not read it, where its mode tells.
fn denied(error: io::Error, mode: u32) -> io::Error {
    const READ_BY_ALL: u32 = 0o444;
    if error.kind() != io::ErrorKind::PermissionDenied || mode & READ_BY_ALL == READ_BY_ALL {
        return error;
    }
    let mode = mode & 0o7777;
    let text = format!(
        "its mode is {mode:04o}, which leaves this user out: copy it with `sudo`, or let all read it"
    );
    io::Error::new(error.kind(), text)
}

fn check(metadata: &std::fs::Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is no regular file")) }
}

/// All of it, if it has at most so many bytes.
///
/// # Errors
/// It cannot be read, or has more.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more shows that there are more.
    open(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::other(format!("it has more than {} MiB", max_bytes >> 20)));
    }
    Ok(bytes)
}

/// The same of a text; what is no UTF-8 in it is replaced.
///
/// # Errors
/// As for [`read`].
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    read(path, max_bytes).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_beginning_or_no_end_is_not_read() {
        let folder = tempfile::tempdir().expect("tempdir");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a pipe");
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let error = read(path, 10).expect_err("no regular file").to_string();
            assert!(error.contains("no regular file"), "{}: {error}", path.display());
        }
        let sparse = folder.path().join("sparse");
        File::create(&sparse).and_then(|file| file.set_len(1 << 40)).expect("made");
        let error = read(&sparse, 1 << 20).expect_err("1 TiB").to_string();
        assert_eq!(error, "it has more than 1 MiB");
        std::fs::write(folder.path().join("text"), b"a\xffb").expect("written");
        let text = |most| read_text(&folder.path().join("text"), most);
        assert_eq!(text(3).expect("read"), "a\u{fffd}b");
        assert!(text(2).is_err());
    }
}
