// SPDX-License-Identifier: Apache-2.0
//! `schedvmm report`: a run, or many, as one HTML file. It needs no network and no script; whatever a
//! guest or a trace said is escaped by [`maud`], and the page forbids itself to load anything.
//!
//! - `why`: what the trace says about the worst gap
//! - `page`: the document; `facts`, `machines`: its tables
//! - `sides`, `trials`: the page of many trials
//! - `distribution`, `timeline`: the pictures; `svg`: their axes

mod distribution;
mod facts;
pub mod page;
mod sides;
pub mod svg;
mod timeline;
mod trials;
mod vms;
mod why;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use maud::Markup;
use protocol::index::GroupIndex;
use results::folder::create_fresh;
use results::matrix::Matrix;
use results::model::{Numbers, RunResult};
use results::saved::Saved;
use results::set_file::SetFile as _;

use self::sides::Sides;
use self::why::Why;
use crate::cli::ReportArgs;
use crate::owner::of_file;
use crate::status::{ExitStatus, Failure};
use crate::terminal;
use crate::verbs::matrix;

/// Name of the report in its result folder.
const FILE: &str = "report.html";

/// Writes the report of a result folder (or its result.json), of trials, a comparison or a matrix, or of
/// trials beside others: to `output`, or into the first folder.
///
/// # Errors
/// It is nothing of ours, they cannot be compared, or the report cannot be written.
pub fn run(args: &ReportArgs) -> Result<ExitStatus, Failure> {
    let first = args.results.first().map_or(Path::new(""), PathBuf::as_path);
    let output = args.output.as_deref();
    let (page, folder) = if args.results.len() > 1 || sides::is_many(first) {
        let sides = Sides::read(&args.results, args.metric)?;
        (trials::render(&sides), first.to_owned())
    } else if Matrix::is_in(first) {
        (matrix::page(&Matrix::open(first)?), first.to_owned())
    } else {
        of_run(first, output)?
    };
    write(&page.into_string(), &folder, output)
}

/// Of one run.
fn of_run(path: &Path, output: Option<&Path>) -> Result<(Markup, PathBuf), Failure> {
    let mut saved = Saved::open(path)?;
    if let Some(file) = output {
        saved.spare("--output", file)?;
    }
    complete_from_gaps(&mut saved);
    let why = why_of(&saved);
    Ok((page::render(&saved.result, &why), saved.folder))
}

/// What the trace of a run says of its worst gap.
fn why_of(saved: &Saved) -> Result<Why, String> {
    match saved.result.gap() {
        None if saved.result.setup.is_none() => Err("nothing was measured".to_owned()),
        None => Err("there was no gap".to_owned()),
        Some(gap) => why::read(saved, gap).map_err(|why| why.to_string()),
    }
}

/// Writes a page.
fn write(html: &str, folder: &Path, output: Option<&Path>) -> Result<ExitStatus, Failure> {
    // Nor is any character of it there to turn the page's words around.
    let html = terminal::plain(html);
    if output.is_some_and(|output| output.as_os_str() == "-") {
        terminal::whole(html.as_bytes())?;
        return Ok(ExitStatus::Pass);
    }
    let output = output.map_or_else(|| folder.join(FILE), Path::to_owned);
    write_whole(&output, html.as_bytes()).map_err(|error| {
        let text = format!("cannot write {}: {error}; name another --output", output.display());
        Failure::new(of_file(&error), text)
    })?;
    terminal::out(&format!("report   {}", output.display()));
    Ok(ExitStatus::Pass)
}

/// Fills in histograms of threads that did not report: the guest ended before, and only single
/// gaps had arrived.
fn complete_from_gaps(saved: &mut Saved) {
    if saved.result.threads.iter().all(|thread| thread.complete) {
        return;
    }
    let Ok(gaps) = saved.gaps() else { return };
    let mut lengths: BTreeMap<Numbers, BTreeMap<u64, u64>> = BTreeMap::new();
    for gap in gaps.into_iter().filter(|gap| saved.result.counts(gap)) {
        *lengths.entry(gap.who).or_default().entry(gap.length_ns).or_default() += 1;
    }
    for thread in saved.result.threads.iter_mut().filter(|thread| !thread.complete) {
        let found = lengths.remove(&thread.who).unwrap_or_default();
        thread.report.gap_histogram_ns = found.into_iter().collect();
    }
}

/// What the group with this number is called.
fn group_name(result: &RunResult, group: u32) -> String {
    let group = GroupIndex::of_number(group);
    group.map_or_else(|| "a group without a number".into(), |it| result.kind().group_name(it))
}

/// Writes a file that is there whole or not at all. What is there and no regular file (a device, a
/// pipe) takes the bytes, and is not replaced.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return fs::write(path, bytes);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = create_fresh(part.as_ref())
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // Nothing of use is in it; if it cannot go either, it stays.
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Whoever is root would replace /dev/null for all others.
    #[test]
    fn what_is_no_file_takes_the_report_and_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        let reader = thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).expect("read")
        });
        write_whole(&pipe, b"page").expect("written");
        assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo());
        assert_eq!(reader.join().expect("no panic"), b"page");
        let file = dir.path().join("file");
        for text in [&b"old"[..], b"new"] {
            write_whole(&file, text).expect("written");
            assert_eq!(fs::read(&file).expect("read"), text);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2);
    }
}
