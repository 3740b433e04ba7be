// SPDX-License-Identifier: Apache-2.0
//! The trace on this side: the stream as it comes, verified, and made a trace.dat.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ftrace::dump::Dump;
use ftrace::{FtraceError, Trace};
use gaps::record::GapRecord;
use results::clock::Clock;
use results::folder::create_fresh;
use results::model::{self, TraceForm, TraceVia};

use crate::owner::file_failure;
use crate::show::Show;
use crate::status::{Failure, chain};
use crate::units::show_ns;

/// Its name in the result folder.
const NAME: &str = "trace.dat";
/// Suffix of the stream's file after the trace's name.
const RAW_SUFFIX: &str = ".raw";
/// What an unfinished trace.dat has after its name.
const PART_SUFFIX: &str = ".part";

/// Gaps that are marked in a trace, at most.
const MAX_MARKED_GAPS: usize = 10_000;

/// Where the trace of a run goes.
pub struct TraceFile {
    path: PathBuf,
    raw: PathBuf,
}

/// What came.
pub struct Arrival<'a> {
    /// How.
    pub via: TraceVia,
    /// How much was written.
    pub bytes: u64,
    /// Amount sent, where the sender came to its end.
    pub sent: Option<u64>,
    /// What went wrong on the way.
    pub error: Option<String>,
    /// The gaps of each thread.
    pub gaps: &'a [Vec<GapRecord>],
    /// Their clock.
    pub clock: Clock<'a>,
}

impl TraceFile {
    /// At the place named, or in the result folder.
    pub fn new(named: Option<&Path>, folder: &Path) -> Self {
        let path = named.map_or_else(|| folder.join(NAME), Path::to_owned);
        let raw = with_suffix(&path, RAW_SUFFIX);
        Self { path, raw }
    }

    /// The file of the stream as it comes.
    pub fn raw(&self) -> &Path {
        &self.raw
    }

    /// Finds out whether the file named can be written, before anything is measured for it. A
    /// file that was not there is not there afterwards.
    ///
    /// # Errors
    /// It cannot be written beside, or is none that can be replaced.
    pub fn check(named: Option<&Path>) -> Result<(), Failure> {
        let Some(path) = named else { return Ok(()) };
        check_writable(path).map_err(|error| file_failure(&error, "write", path))
    }

    /// Verifies what came, and makes a trace.dat of it, with markers where gaps begin and end.
    /// What is torn stays as it came.
    pub fn receive(&self, arrival: &Arrival<'_>, show: &Show) -> model::Trace {
        let Arrival { via, bytes, .. } = *arrival;
        let mut trace =
            model::Trace { via: Some(via), shipped_bytes: bytes, ..model::Trace::default() };
        let raw = self.raw.display();
        if bytes == 0 {
            // Nothing came where nothing was to come, or nothing could be written.
            trace.via = None;
            trace.note = arrival.error.as_ref().map(|error| format!("no trace: {raw}: {error}"));
            return trace;
        }
        trace.file = Some(raw.to_string());
        trace.form = Some(TraceForm::Raw);
        trace.bytes = bytes;
        let dump = match Dump::open(&self.raw) {
            Ok(dump) => dump,
            Err(error) => {
                let why = arrival.error.clone().unwrap_or_else(|| chain(&error));
                trace.note = Some(format!("the trace is cut, and cannot be read: {raw}: {why}"));
                return trace;
            }
        };
        trace.cpus = dump.stats().to_vec();
        let torn = match (&arrival.error, dump.torn()) {
            (Some(error), _) => Some(format!("the trace is cut: {raw}: {error}")),
            (None, Some(why)) if arrival.sent.is_none() => Some(format!(
                "the trace is cut: the guest ended early ({why}); what came is in {raw}"
            )),
            (None, Some(why)) => Some(format!("the trace is damaged: {why}; it is in {raw}")),
            (None, None) => None,
        };
        trace.complete = torn.is_none();
        if torn.is_some() {
            trace.note = torn;
            return trace;
        }
        let marked = with_gaps(dump.trace(), arrival.gaps, arrival.clock);
        match marked.and_then(|trace| self.convert(&trace, show)) {
            Ok(length) => {
                trace.file = Some(self.path.display().to_string());
                trace.form = Some(TraceForm::TraceDat);
                trace.bytes = length;
                // It has served; if it cannot go, it does no harm.
                let _ = fs::remove_file(&self.raw);
            }
            Err(error) => {
                let (path, error) = (self.path.display(), chain(&error));
                trace.note = Some(format!("cannot write {path}: {error}; the trace is in {raw}"));
            }
        }
        trace
    }

    /// Writes the trace.dat; it is there whole or not at all.
    fn convert(&self, trace: &Trace, show: &Show) -> Result<u64, FtraceError> {
        let part = with_suffix(&self.path, PART_SUFFIX);
        let pages: u64 = trace.pages().iter().map(ftrace::ByteSource::len).sum();
        show.phase("trace", pages);
        let written = create_fresh(&part).map_err(FtraceError::from).and_then(|file| {
            let mut out = Watched { out: BufWriter::new(file), bytes: 0, show };
            let length = trace.write_trace_dat(&mut out)?;
            fs::rename(&part, &self.path)?;
            Ok(length)
        });
        if written.is_err() {
            // Nothing of use is in it; if it cannot go either, it stays.
            let _ = fs::remove_file(&part);
        }
        written
    }
}

fn check_writable(path: &Path) -> Result<(), io::Error> {
    if path.exists() && !path.is_file() {
        let text = "it is there, and no regular file; name another with --trace-file";
        return Err(io::Error::other(text));
    }
    let raw = with_suffix(path, RAW_SUFFIX);
    for path in [path, &raw] {
        let is_new = !path.exists();
        OpenOptions::new().append(true).create(true).open(path)?;
        if is_new {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The trace with two markers for each gap that began in it; of very many gaps, for the
/// longest ones.
fn with_gaps(
    trace: &Trace,
    gaps: &[Vec<GapRecord>],
    clock: Clock<'_>,
) -> Result<Trace, FtraceError> {
    let Some(begin) = trace.begin()? else { return Ok(trace.clone()) };
    let all = gaps
        .iter()
        .enumerate()
        .flat_map(|(thread, gaps)| gaps.iter().map(move |gap| (thread, gap)));
    let mut seen: Vec<_> = all.filter(|(_, gap)| gap.tsc_begin >= begin).collect();
    seen.sort_by_key(|(_, gap)| std::cmp::Reverse(gap.ticks()));
    seen.truncate(MAX_MARKED_GAPS);
    let markers: Vec<_> = seen.into_iter().flat_map(|item| gap_markers(item, &clock)).collect();
    trace.with_markers(&markers)
}

fn gap_markers((thread, gap): (usize, &GapRecord), clock: &Clock<'_>) -> [(u64, String); 2] {
    let length = show_ns(clock.ns(gap.ticks()));
    [
        (gap.tsc_begin, marker_text("begins", &length, thread, clock)),
        (gap.tsc_end, marker_text("has ended", &length, thread, clock)),
    ]
}

fn marker_text(what: &str, length: &str, thread: usize, clock: &Clock<'_>) -> String {
    format!("gap of {} in {} {what}", length.trim(), clock.name_of(thread))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Shows how far the writing is.
struct Watched<'a> {
    out: BufWriter<File>,
    bytes: u64,
    show: &'a Show,
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.bytes += count as u64;
        self.show.progress(self.bytes);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
