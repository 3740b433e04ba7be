// SPDX-License-Identifier: Apache-2.0
//! A trace from anywhere, without a result: it has to say itself what its times are.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ftrace::attribution::{Context, Explanation, Gap, Units, explain};
use ftrace::dump::Dump;
use ftrace::{FtraceError, Trace, TraceFile, Waits, Wanted};

use crate::progress::Progress;
use crate::status::Failure;

/// What options call the buffer that has no name.
const MAIN: &str = "main";
/// Clocks of nanoseconds (`trace_clocks` in the kernel's `kernel/trace/trace.c`).
const OF_NANOSECONDS: [&str; 7] = ["local", "global", "perf", "mono", "mono_raw", "boot", "tai"];
/// Clocks that are of no use: one counts events, the other hundredths of a second.
const OF_NO_USE: [&str; 2] = ["counter", "uptime"];
/// The TSC, which trace-cmd may say the speed of; with the second name it does.
const TSC: [&str; 2] = ["x86-tsc", "tsc2nsec"];

/// A trace that belongs to no result.
pub struct AnyTrace {
    trace: Trace,
    torn: Option<String>,
    buffer: String,
    others: Vec<String>,
    units: Units,
    progress: Progress,
}

impl AnyTrace {
    /// Whether this is a file that is no result.json, and so is to be a trace.
    pub fn is_at(path: &Path) -> bool {
        if !path.is_file() || path.extension().is_some_and(|extension| extension == "json") {
            return false;
        }
        let mut first = [0; 64];
        let count = File::open(path).and_then(|mut file| file.read(&mut first)).unwrap_or(0);
        let begins = first[..count].iter().find(|byte| !byte.is_ascii_whitespace());
        begins.is_none_or(|byte| *byte != b'{')
    }

    /// Opens a trace.dat, or a stream as a guest sends it: the buffer of that name, or the main
    /// one. `clock_khz` is for clocks that count ticks.
    ///
    /// # Errors
    /// It cannot be read, has no such buffer, or does not say what its times are.
    pub fn open(
        path: &Path,
        buffer: Option<&str>,
        clock_khz: Option<u64>,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        let opened = if Dump::is_at(path)? { of_dump(path)? } else { of_file(path, buffer)? };
        let Opened { trace, torn, buffer, others } = opened;
        let units = units(&trace, clock_khz)?;
        let (bar, progress) = (progress.clone(), progress.clone());
        let trace = trace.watched(move |bytes| bar.add(bytes));
        Ok(Self { trace, torn, buffer, others, units, progress })
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Why it is not all there, if so.
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    /// What options call the buffer.
    pub fn buffer(&self) -> &str {
        &self.buffer
    }

    /// Other buffers of the file that have anything.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// Length of a tick.
    pub fn units(&self) -> Units {
        self.units
    }

    /// Does what reads the trace once, and may take long, in sight of the user.
    pub fn reading<T>(&self, name: &'static str, read: impl FnOnce(&Trace) -> T) -> T {
        self.progress.phase(name, self.trace.pages_bytes());
        let found = read(&self.trace);
        self.progress.done();
        found
    }

    /// Who waited.
    ///
    /// # Errors
    /// The trace cannot be read, or does not have what it takes.
    pub fn waits(&self, wanted: &Wanted) -> Result<Waits, Failure> {
        let found = self.reading("waits", |trace| ftrace::waits(trace, wanted))?;
        if found.records == 0 {
            return Err(Failure::request(format!(
                "this trace has no events in its buffer `{}`: nothing was traced, or into another",
                self.buffer
            )));
        }
        if !found.recorded.switches {
            return Err(Failure::request(
                "this trace has no sched_switch, without which nobody knows who ran: `trace-cmd record \
                 -e sched -e irq -e irq_vectors` records it, and what else is of use",
            ));
        }
        Ok(found)
    }

    /// Explains gaps, in their order, with so many pieces of each, and what is known of the
    /// threads: their names.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn explanations(
        &self,
        gaps: &[Gap],
        names: &Waits,
        max_segments: usize,
    ) -> Result<(Vec<Explanation>, Context), FtraceError> {
        let context = Context { max_segments, ..Context::default() };
        let mut found = self.reading("explain", |trace| explain(trace, gaps, &context))?;
        for explanation in &mut found {
            // Files need not have the names of threads; switches do.
            if let Some(thread) = names.threads.get(&explanation.gap.tid) {
                explanation.name.clone_from(&thread.name);
            }
        }
        Ok((found, context))
    }
}

/// A trace, and what is to be said of its file.
struct Opened {
    trace: Trace,
    torn: Option<String>,
    buffer: String,
    others: Vec<String>,
}

fn of_dump(path: &Path) -> Result<Opened, Failure> {
    let dump = Dump::open(path)?;
    let torn = dump.torn().map(str::to_owned);
    Ok(Opened { trace: dump.trace().clone(), torn, buffer: MAIN.into(), others: Vec::new() })
}

fn of_file(path: &Path, wanted: Option<&str>) -> Result<Opened, Failure> {
    let file = TraceFile::open(path)?;
    let names: Vec<String> = file.buffers().map(called).collect();
    let buffer = match wanted {
        Some(name) => name.to_owned(),
        None if names.len() > 1 && !names.iter().any(|name| name == MAIN) => {
            return Err(Failure::request(format!(
                "this trace has several buffers, and its main one is empty: name one of them with \
                 --buffer: {}",
                names.join(", ")
            )));
        }
        // The main one, or the only one.
        None => {
            names.iter().find(|name| *name == MAIN).or(names.first()).map_or(MAIN, |n| n).into()
        }
    };
    let own_name = if buffer == MAIN { "" } else { buffer.as_str() };
    let Some(trace) = file.into_buffer(own_name) else {
        return Err(Failure::request(format!(
            "--buffer {buffer}: this trace has none of that name; those with events are: {}",
            names.join(", ")
        )));
    };
    let others = names.into_iter().filter(|name| *name != buffer).collect();
    Ok(Opened { trace: trace?, torn: None, buffer, others })
}

fn called(name: &str) -> String {
    if name.is_empty() { MAIN.into() } else { name.to_owned() }
}

/// What the clock counts.
fn units(trace: &Trace, clock_khz: Option<u64>) -> Result<Units, Failure> {
    let metadata = trace.metadata();
    let clock = metadata.clock.as_str();
    if OF_NO_USE.contains(&clock) {
        return Err(Failure::request(format!(
            "the clock of this trace is `{clock}`, which tells no lengths of time: record with \
             another (`trace-cmd record -C mono`)"
        )));
    }
    if let Some(khz) = clock_khz {
        return Ok(Units::tsc(khz));
    }
    if let Some(scale) = metadata.tsc_scale.filter(|_| TSC.contains(&clock)) {
        return Ok(Units::tsc(scale.khz()));
    }
    // Files of old have none, and then it was this one.
    if clock.is_empty() || OF_NANOSECONDS.contains(&clock) {
        return Ok(Units::nanoseconds());
    }
    Err(Failure::request(format!(
        "the clock of this trace is `{clock}`, and the trace does not say how fast it counts: say \
         so with --clock-khz"
    )))
}
