// SPDX-License-Identifier: Apache-2.0
//! Kernels and modules in packages that were not unpacked: .deb and .rpm. A package is read from
//! its beginning to its end, and nothing is written anywhere.
//!
//! - `contents`: what a package has of a kernel
//! - `rpm`: the format of RPM
//! - `siblings`: packages of the same kernel in the same folder
//!
//! Source: deb(5). Every length in a package is a claim to be checked.

mod contents;
mod rpm;
mod siblings;

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use tar::{EntryType, PaxExtensions};
use vmm::x86_64::packed;

pub use self::contents::{Contents, KERNEL, Kernel, Release};
pub use self::siblings::siblings;
use crate::plain_file;

const DEB_MAGIC: &[u8] = b"!<arch>\ndebian-binary";
/// No package of a kernel unpacks to more; a bound for hostile ones.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;
/// No path is longer (`PATH_MAX`).
const MAX_PATH_BYTES: u64 = 4096;
/// What fills an archive up behind its end has no more.
const MAX_FILLER_BYTES: u64 = 1 << 20;

/// A package that does not unpack.
#[derive(Debug, thiserror::Error)]
#[error(
    "package {} cannot be read: {reason}; copy it again, or give a folder that it was unpacked into",
    .path.display()
)]
pub struct PackageError {
    /// The package.
    path: PathBuf,
    /// What is wrong with it.
    reason: String,
}

/// A package.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Deb,
    Rpm,
}

/// Whether a file of this name should be a package.
pub fn is_name(name: &OsStr) -> bool {
    let suffix = Path::new(name).extension();
    suffix.is_some_and(|suffix| suffix == "deb" || suffix == "rpm")
}

/// What is shown each regular file of a package: its path from the root, and its bytes.
pub type Visitor<'a> = dyn FnMut(&str, &mut dyn Read) -> io::Result<()> + 'a;

impl Package {
    /// The package at `path`, if it is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        plain_file::open(path)?.take(DEB_MAGIC.len() as u64).read_to_end(&mut head)?;
        let kind = if head == DEB_MAGIC {
            Kind::Deb
        } else if head.starts_with(rpm::MAGIC) {
            Kind::Rpm
        } else {
            return Ok(None);
        };
        Ok(Some(Self { path: path.to_owned(), kind }))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shows each regular file in it, in their order.
    ///
    /// # Errors
    /// The package is damaged, or `visitor` has had enough of it.
    pub fn visit(&self, visitor: &mut Visitor<'_>) -> Result<(), PackageError> {
        let read =
            plain_file::open(&self.path).map(BufReader::new).and_then(|file| match self.kind {
                Kind::Deb => deb(file, &mut |path, file| visitor(relative(path), file)),
                Kind::Rpm => rpm::files(file, &mut |path, file| visitor(relative(path), file)),
            });
        read.map_err(|error| self.damaged(error.to_string()))
    }

    /// What is in it of kernels; of modules it keeps the bytes of those that `is_wanted` by name.
    ///
    /// # Errors
    /// The package is damaged.
    pub fn contents(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Contents, PackageError> {
        let mut contents = Contents::default();
        self.visit(&mut |path, file| contents.take(path, file, &is_wanted))?;
        Ok(contents)
    }

    /// An error of what is in it.
    fn damaged(&self, reason: String) -> PackageError {
        PackageError { path: self.path.clone(), reason }
    }
}

/// The path below the root: tools differ in how paths begin.
fn relative(path: &str) -> &str {
    path.trim_start_matches("./").trim_start_matches('/')
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// What is packed in `packed`, or `packed` itself.
fn unpacked<'a>(mut packed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let head = packed.fill_buf()?;
    let reader: Box<dyn Read + 'a> = match packed::format(head) {
        // No kernel is packed so, but packages are.
        None if head.starts_with(b"BZh") => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
        None => Box::new(packed),
        Some(format) => packed::reader(format, packed)?,
    };
    Ok(Box::new(reader.take(MAX_UNPACKED_BYTES)))
}

/// Reads what is behind the end of an archive. Nothing of it is of use, but a decoder compares its
/// checksum only when it is read to its end, and what was cut off is missed only there.
///
/// # Errors
/// What is packed is damaged, or goes on.
fn drain(archive: impl Read) -> io::Result<()> {
    match io::copy(&mut archive.take(MAX_FILLER_BYTES + 1), &mut io::sink())? {
        ..=MAX_FILLER_BYTES => Ok(()),
        _ => Err(invalid("its archive goes on behind its end")),
    }
}

/// A file of an archive, which does not end before it has as many bytes as its header claims.
struct Whole<R> {
    file: R,
    left_bytes: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 && !buffer.is_empty() && self.left_bytes > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left_bytes = self.left_bytes.saturating_sub(read as u64);
        Ok(read)
    }
}

/// An ar archive of a version, the archive control.tar, and data.tar with the files.
fn deb(file: impl Read, visitor: &mut Visitor<'_>) -> io::Result<()> {
    let mut archive = ar::Archive::new(file);
    while let Some(member) = archive.next_entry() {
        let member = member?;
        if !member.header().identifier().starts_with(b"data.tar") {
            continue;
        }
        let left_bytes = member.header().size();
        let member = BufReader::new(Whole { file: member, left_bytes });
        let mut data = tar::Archive::new(unpacked(member)?);
        tar_files(&mut data, visitor)?;
        return drain(data.into_inner());
    }
    Err(invalid("it has no data.tar"))
}

/// The files of a tar archive. Long names stand before their files, as files of GNU's or POSIX's kind;
/// they are read here, since the library takes memory for whatever length they have.
fn tar_files(data: &mut tar::Archive<impl Read>, visitor: &mut Visitor<'_>) -> io::Result<()> {
    let mut long_path = None;
    for entry in data.entries()?.raw(true) {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let mut name = name_in(&mut entry)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                long_path = Some(name);
                continue;
            }
            EntryType::XHeader => {
                let extensions = name_in(&mut entry)?;
                let extensions = PaxExtensions::new(&extensions).collect::<io::Result<Vec<_>>>()?;
                let path = extensions.iter().find(|it| it.key_bytes() == b"path");
                long_path = path.map(|it| it.value_bytes().to_vec()).or(long_path);
                continue;
            }
            // Names of what is linked to come before their entry, too.
            EntryType::GNULongLink | EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let path = long_path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        if entry.header().entry_type().is_file() {
            visitor(&String::from_utf8_lossy(&path), &mut entry)?;
        }
    }
    Ok(())
}

/// What is said of a file before it.
fn name_in(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(2 * MAX_PATH_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > 2 * MAX_PATH_BYTES {
        return Err(invalid("a file in it has too long a name"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
