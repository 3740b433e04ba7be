// SPDX-License-Identifier: Apache-2.0
//! Why a result cannot be read, or used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A text is no gaps.csv.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GapsError {
    /// What is needed is not there.
    #[error("it has no column {0}")]
    Column(&'static str),
    /// A line is none of its.
    #[error("line {number} is no gap: {line}")]
    Line {
        /// Counted from 1, with the heading.
        number: usize,
        /// The line.
        line: String,
    },
}

/// A result, or a file beside it, is not what it should be.
#[derive(Debug, Error)]
pub enum ResultError {
    /// It is not there, or nobody may read it.
    #[error("cannot read {}: {why}; name a result folder or its result.json", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason.
        why: io::Error,
    },
    /// It is there, and something else.
    #[error("{} is no result.json of schedvmm: {why}", .path.display())]
    NoResult {
        /// The file.
        path: PathBuf,
        /// How that is known.
        why: String,
    },
    /// A version that this program does not know.
    #[error(
        "{} is of schema `{schema}`; this program knows schedvmm-result/1 to schedvmm-result/4",
        .path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// As it says.
        schema: String,
    },
    /// The file with its single gaps cannot be read.
    #[error("{}: {why}", .path.display())]
    GapsFile {
        /// The file.
        path: PathBuf,
        /// Reason.
        why: io::Error,
    },
    /// That file is none.
    #[error("{}: {why}", .path.display())]
    Gaps {
        /// The file.
        path: PathBuf,
        /// Reason.
        why: GapsError,
    },
    /// It has no trace.
    #[error("this result has no trace: {0}")]
    NoTrace(String),
    /// It had one.
    #[error("the trace {} is gone, and is not beside the result", .0.display())]
    TraceGone(PathBuf),
    /// The trace there is another one.
    #[error(
        "{} is the trace of another run: its identity is {found}, and the one of this result's \
         trace is {wanted}; put that one in its place",
        .path.display()
    )]
    OtherTrace {
        /// The trace.
        path: PathBuf,
        /// Its identity.
        found: String,
        /// The one of the result.
        wanted: String,
    },
    /// What is to be written would take the place of what the run has left.
    #[error("{option} {} is a file of the result; name another", .path.display())]
    OwnFile {
        /// The option that names it.
        option: String,
        /// The file.
        path: PathBuf,
    },
}

/// A folder with many runs has no file that tells of them, or none that is known here.
#[derive(Debug, Error)]
pub enum SetError {
    /// It is not there, or nobody may read it.
    #[error("cannot read {}: {why}; name a folder of `schedvmm {verb}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason.
        why: io::Error,
        /// Which verb makes one.
        verb: &'static str,
    },
    /// It is there, and something else.
    #[error("{} is no {name} of schedvmm: {why}", .path.display())]
    NoSet {
        /// The file.
        path: PathBuf,
        /// What such files are called.
        name: &'static str,
        /// How that is known.
        why: String,
    },
    /// A version that this program does not know.
    #[error("{} is of schema `{schema}`; this program knows {known}", .path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// As it says.
        schema: String,
        /// What is known.
        known: &'static str,
    },
}
