// SPDX-License-Identifier: Apache-2.0
//! What can go wrong while an archive is composed.

use std::io;
use std::path::PathBuf;

/// Why an archive or a library closure could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// The path cannot be stored, or the kernel could not unpack it.
    #[error("archive path `{path}`: {reason}")]
    BadPath {
        /// The path as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two entries want the same path.
    #[error("archive path `{path}` is there twice; leave one of the two out")]
    Duplicate {
        /// The path both entries want.
        path: String,
    },
    /// An entry lies below something that is no directory.
    #[error(
        "archive path `{path}`: its parent `{parent}` is in the archive, but not as a directory"
    )]
    ParentNotADirectory {
        /// The path that was to be added.
        path: String,
        /// The entry in its way.
        parent: String,
    },
    /// The newc header has eight hexadecimal digits for a file's size.
    #[error(
        "archive path `{path}`: {size} bytes, but a newc archive holds files up to 4 GiB - 1; leave it out or split it"
    )]
    TooLarge {
        /// The path that was to be added.
        path: String,
        /// Size of its contents in bytes.
        size: u64,
    },
    /// A file of this machine could not be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not an executable or library this machine could run.
    #[error("`{}` is not an x86-64 ELF executable or library: {reason}", .path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A library is needed that this machine does not have.
    #[error(
        "library `{name}`, needed by `{}`, is in none of: {}; install the package it belongs to",
        .needed_by.display(),
        .searched.join(", ")
    )]
    MissingLibrary {
        /// The name as the needing file has it.
        name: String,
        /// The file that asks for it.
        needed_by: PathBuf,
        /// The directories that were searched, in order.
        searched: Vec<String>,
    },
}

impl InitrdError {
    /// For `map_err` on whatever reads `path`.
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }
}
