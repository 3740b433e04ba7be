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

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use vmm::x86_64::packed;

pub use self::contents::{Contents, KERNEL, Release};
pub use self::siblings::siblings;
use crate::plain_file;

const DEB_MAGIC: &[u8] = b"!<arch>\ndebian-binary";
/// No package of a kernel unpacks to more; a bound for hostile ones.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;

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

/// An ar archive of a version, the archive control.tar, and data.tar with the files.
fn deb(file: impl Read, visitor: &mut Visitor<'_>) -> io::Result<()> {
    let mut archive = ar::Archive::new(file);
    while let Some(member) = archive.next_entry() {
        let member = member?;
        if !member.header().identifier().starts_with(b"data.tar") {
            continue;
        }
        let mut data = tar::Archive::new(unpacked(BufReader::new(member))?);
        for entry in data.entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                visitor(&path, &mut entry)?;
            }
        }
        return Ok(());
    }
    Err(invalid("it has no data.tar"))
}

#[cfg(test)]
mod tests;
