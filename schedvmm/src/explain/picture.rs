// SPDX-License-Identifier: Apache-2.0
//! Files for ui.perfetto.dev.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ftrace::FtraceError;

use crate::status::{Failure, Owned};

/// Makes a file, and has it written.
///
/// # Errors
/// It cannot be written, or what is written cannot be read.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), FtraceError>,
) -> Result<(), Failure> {
    let written = File::create(path).map_err(FtraceError::from).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        Ok(out.flush()?)
    });
    written.map_err(|error| {
        let text = format!("cannot write {}: {error}", path.display());
        Failure::new(error.owner(), text)
    })
}
