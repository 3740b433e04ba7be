// SPDX-License-Identifier: Apache-2.0
//! Files of the kernel: its file systems, device nodes, and how it wants to be written to.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{self, CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// Mounts a virtual file system; one that is mounted there already is fine.
pub fn mount(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    match rustix::mount::mount(kind, target, kind, MountFlags::empty(), options.as_c_str()) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a character device node, for a kernel without devtmpfs.
pub fn make_node(path: &Path, major: u32, minor: u32) -> io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(fs::mknodat(CWD, path, FileType::CharacterDevice, mode, fs::makedev(major, minor))?)
}

/// Opens a file for writing only, as most kernel files want it.
pub fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Writes a kernel file that must exist, in one write, as a shell's `echo` does.
pub fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).truncate(true).open(path);
    file?.write_all(text.as_bytes())
}
