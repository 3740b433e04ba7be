// SPDX-License-Identifier: Apache-2.0
//! The archive: entries are appended as they are added, so each file is copied once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::header::{ALIGNMENT, HEADER_LEN, Header, MODE_OFFSET, TRAILER};
use crate::{InitrdError, closure};

/// File types in the mode field, as in `stat(2)`.
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_CHAR_DEVICE: u32 = 0o020_000;

/// The permission part of a mode, with setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o7777;

/// Longest name the kernel's unpacker takes, terminating NUL included (`PATH_MAX`).
const NAME_MAX_LEN: usize = 4096;

/// The finished archive is padded to whole blocks, as cpio(1) does.
const BLOCK_LEN: usize = 512;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    /// What is in the archive already, by its path without the leading slash.
    entries: HashMap<String, Entry>,
    last_inode: u32,
}

#[derive(Debug)]
struct Entry {
    /// Where its header begins.
    offset: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Directory {
        /// Made only because something lies below it; its mode is still open.
        implied: bool,
    },
    /// A library of this machine; two executables may both bring it.
    Library {
        host: PathBuf,
    },
    Other,
}

impl Archive {
    /// An archive with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory. Parents that are not there yet are made with mode 755.
    pub fn dir(&mut self, path: &str, mode: u32) -> Result<(), InitrdError> {
        let name = clean(path)?;
        let header =
            Header { mode: TYPE_DIRECTORY | mode & PERMISSIONS, links: 2, ..Header::default() };
        if let Some(Entry { offset, kind: Kind::Directory { implied: implied @ true } }) =
            self.entries.get_mut(&name)
        {
            *implied = false;
            let at = *offset + MODE_OFFSET;
            self.bytes[at..at + 8].copy_from_slice(format!("{:08X}", header.mode).as_bytes());
            return Ok(());
        }
        self.add(name, header, &[], Kind::Directory { implied: false })
    }

    /// Adds a regular file with these contents.
    pub fn file(
        &mut self,
        path: &str,
        mode: u32,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), InitrdError> {
        let header = Header { mode: TYPE_FILE | mode & PERMISSIONS, links: 1, ..Header::default() };
        self.add(clean(path)?, header, contents.as_ref(), Kind::Other)
    }

    /// Adds a regular file with the contents of a file of this machine, read straight into
    /// the archive.
    pub fn file_from(
        &mut self,
        path: &str,
        mode: u32,
        host: impl AsRef<Path>,
    ) -> Result<(), InitrdError> {
        self.host_file(clean(path)?, mode, host.as_ref(), Kind::Other)
    }

    /// Adds a symbolic link that points to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), InitrdError> {
        if target.is_empty() || target.len() >= NAME_MAX_LEN || target.contains('\0') {
            let reason = "the target of a symbolic link is 1 to 4095 bytes without NUL";
            return Err(InitrdError::BadPath { path: path.into(), reason });
        }
        let header = Header { mode: TYPE_SYMLINK | 0o777, links: 1, ..Header::default() };
        self.add(clean(path)?, header, target.as_bytes(), Kind::Other)
    }

    /// Adds a character device node.
    pub fn char_device(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), InitrdError> {
        let mode = TYPE_CHAR_DEVICE | mode & PERMISSIONS;
        let header = Header { mode, links: 1, device: (major, minor), ..Header::default() };
        self.add(clean(path)?, header, &[], Kind::Other)
    }

    /// Adds what every first process expects: the mount points, `/dev/console` and `/dev/null`.
    ///
    /// Without the two nodes Rust's standard library aborts before `main`: as PID 1 it finds
    /// its three standard streams closed and cannot open `/dev/null` in their place.
    pub fn standard_nodes(&mut self) -> Result<(), InitrdError> {
        for path in ["/dev", "/proc", "/run", "/sys"] {
            self.dir(path, 0o755)?;
        }
        self.dir("/tmp", 0o1777)?;
        self.char_device("/dev/console", 0o600, 5, 1)?;
        self.char_device("/dev/null", 0o666, 1, 3)
    }

    /// Adds an executable of this machine, and its interpreter and shared libraries where it
    /// is linked dynamically. Libraries that an earlier executable brought are shared.
    pub fn add_executable(
        &mut self,
        path: &str,
        host: impl AsRef<Path>,
    ) -> Result<(), InitrdError> {
        let host = host.as_ref();
        self.host_file(clean(path)?, 0o755, host, Kind::Other)?;
        for library in closure(host)? {
            let guest = library.guest.to_str().ok_or_else(|| InitrdError::BadPath {
                path: library.guest.display().to_string(),
                reason: "not UTF-8",
            })?;
            let name = clean(guest)?;
            match self.entries.get(&name) {
                Some(Entry { kind: Kind::Library { host }, .. }) if *host == library.host => {}
                _ => {
                    let kind = Kind::Library { host: library.host.clone() };
                    self.host_file(name, 0o755, &library.host, kind)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the archive and hands it over.
    pub fn finish(mut self) -> Vec<u8> {
        self.append_header(Header { links: 1, ..Header::default() }, TRAILER);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_LEN), 0);
        self.bytes
    }

    /// Adds the contents of the file `host` under `name`.
    fn host_file(
        &mut self,
        name: String,
        mode: u32,
        host: &Path,
        kind: Kind,
    ) -> Result<(), InitrdError> {
        let mut file = File::open(host).map_err(InitrdError::read(host))?;
        let metadata = file.metadata().map_err(InitrdError::read(host))?;
        if !metadata.is_file() {
            let source = io::Error::other("not a regular file");
            return Err(InitrdError::Read { path: host.into(), source });
        }
        let size = size_field(&name, metadata.len())?;
        let header =
            Header { mode: TYPE_FILE | mode & PERMISSIONS, links: 1, size, ..Header::default() };
        self.open_entry(name.clone(), header, kind)?;
        let copied = self.append_exactly(&mut file, size).map_err(InitrdError::read(host));
        if copied.is_err()
            && let Some(half) = self.entries.remove(&name)
        {
            self.bytes.truncate(half.offset);
        }
        copied
    }

    /// Appends exactly `size` bytes of `file`: the header already says how many.
    fn append_exactly(&mut self, file: &mut File, size: u32) -> io::Result<()> {
        let size = u64::from(size);
        let read = file.take(size).read_to_end(&mut self.bytes)?;
        if u64::try_from(read).is_ok_and(|read| read == size) {
            self.align();
            return Ok(());
        }
        Err(io::Error::other(format!("became shorter while it was read ({read} of {size} bytes)")))
    }

    /// Adds one entry with contents that are in memory.
    fn add(
        &mut self,
        name: String,
        mut header: Header,
        contents: &[u8],
        kind: Kind,
    ) -> Result<(), InitrdError> {
        header.size = size_field(&name, u64::try_from(contents.len()).unwrap_or(u64::MAX))?;
        self.open_entry(name, header, kind)?;
        self.bytes.extend_from_slice(contents);
        self.align();
        Ok(())
    }

    /// Appends the header of a new entry, and its missing parents before it.
    fn open_entry(&mut self, name: String, header: Header, kind: Kind) -> Result<(), InitrdError> {
        if self.entries.contains_key(&name) {
            return Err(InitrdError::Duplicate { path: name });
        }
        self.make_parents(&name)?;
        let offset = self.append_header(header, &name);
        self.entries.insert(name, Entry { offset, kind });
        Ok(())
    }

    /// The kernel makes no parents by itself: it drops a file whose directory is missing.
    fn make_parents(&mut self, name: &str) -> Result<(), InitrdError> {
        for (slash, _) in name.match_indices('/') {
            let parent = &name[..slash];
            match self.entries.get(parent) {
                Some(Entry { kind: Kind::Directory { .. }, .. }) => {}
                Some(_) => {
                    return Err(InitrdError::ParentNotADirectory {
                        path: name.into(),
                        parent: parent.into(),
                    });
                }
                None => {
                    let header =
                        Header { mode: TYPE_DIRECTORY | 0o755, links: 2, ..Header::default() };
                    let offset = self.append_header(header, parent);
                    let kind = Kind::Directory { implied: true };
                    self.entries.insert(parent.into(), Entry { offset, kind });
                }
            }
        }
        Ok(())
    }

    /// Appends a header with its name, and says where it begins.
    fn append_header(&mut self, header: Header, name: &str) -> usize {
        let offset = self.bytes.len();
        self.last_inode += 1;
        // `clean` has limited the length.
        let name_len = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let header = Header { inode: self.last_inode, name_len, ..header };
        self.bytes.reserve(HEADER_LEN + name.len() + 1 + ALIGNMENT);
        self.bytes.extend_from_slice(header.to_text().as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        offset
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// A path as the archive stores it: relative, without empty, `.` or `..` components.
fn clean(path: &str) -> Result<String, InitrdError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return bad_path("`..` could leave the archive; write the path without it", path);
    }
    if path.contains('\0') {
        return bad_path("contains a NUL byte", path);
    }
    let name = parts.join("/");
    if name.len() >= NAME_MAX_LEN {
        return bad_path("longer than the 4095 bytes the kernel unpacks", path);
    }
    if name.is_empty() || name == TRAILER {
        return bad_path("cannot be the name of an entry", path);
    }
    Ok(name)
}

fn bad_path(reason: &'static str, path: &str) -> Result<String, InitrdError> {
    Err(InitrdError::BadPath { path: path.into(), reason })
}

/// The size of an entry, if its field can hold it.
fn size_field(name: &str, size: u64) -> Result<u32, InitrdError> {
    u32::try_from(size).map_err(|_| InitrdError::TooLarge { path: name.into(), size })
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
