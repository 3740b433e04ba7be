// SPDX-License-Identifier: Apache-2.0
//! `schedvmm report`: a run as one HTML file. It needs no network and no script; whatever a
//! guest or a trace said is escaped by [`maud`], and the page forbids itself to load anything.
//!
//! - `saved`: what is read of result.json
//! - `why`: what the trace says about the worst gap
//! - `page`: the document; `facts`, `machines`: its tables
//! - `distribution`, `timeline`: the pictures; `svg`: their axes

mod distribution;
mod facts;
mod machines;
mod page;
mod saved;
mod svg;
mod timeline;
mod why;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use self::saved::Saved;
use crate::owner::of_file;
use crate::status::{ExitStatus, Failure};
use crate::terminal;

/// Name of the report in its result folder.
const FILE: &str = "report.html";

/// Writes the report of a result folder (or its result.json) to `output`, or into the folder.
///
/// # Errors
/// It is no result, or the report cannot be written.
pub fn run(path: &Path, output: Option<&Path>) -> Result<ExitStatus, Failure> {
    let (mut saved, stored, folder) = Saved::open(path)?;
    saved.complete_from_gaps(&stored, &folder);
    let why = match saved.gap() {
        None => Err("there was no gap".to_owned()),
        Some(gap) => why::read(&saved, gap, &stored, &folder).map_err(|why| why.to_string()),
    };
    let html = page::render(&saved, &why).into_string();
    // Nor is any character of it there to turn the page's words around.
    let html = terminal::plain(&html);
    if output.is_some_and(|output| output.as_os_str() == "-") {
        return to_stdout(html.as_bytes());
    }
    let output = output.map_or_else(|| folder.join(FILE), Path::to_owned);
    write_whole(&output, html.as_bytes()).map_err(|error| {
        let text = format!("cannot write {}: {error}; name another --output", output.display());
        Failure::new(of_file(&error), text)
    })?;
    terminal::out(&format!("report   {}", output.display()));
    Ok(ExitStatus::Pass)
}

/// Writes the report to stdout, and nothing else. Whoever closes it early has had enough.
#[expect(clippy::disallowed_methods, reason = "the page is plain, and errors count")]
fn to_stdout(html: &[u8]) -> Result<ExitStatus, Failure> {
    let mut stdout = io::stdout();
    match stdout.write_all(html).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let text = format!("cannot write the report to stdout: {error}");
            Err(Failure::new(of_file(&error), text))
        }
        _ => Ok(ExitStatus::Pass),
    }
}

/// Writes a file that is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // Nothing of use is in it; if it cannot go either, it stays.
        let _ = fs::remove_file(&part);
    }
    written
}
