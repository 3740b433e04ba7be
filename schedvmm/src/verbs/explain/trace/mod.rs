// SPDX-License-Identifier: Apache-2.0
//! `schedvmm explain` of a trace from anywhere: who waited longest, and why.

mod answer;
mod times;
mod words;

use std::io::Write;
use std::path::Path;

use ftrace::attribution::{Context, Explanation, Gap};
use ftrace::{FtraceError, Wait, Waits, Wanted};

use self::times::Times;
use crate::cli::ExplainArgs;
use crate::explain::any_trace::AnyTrace;
use crate::explain::{picture, text};
use crate::progress::Progress;
use crate::status::{ExitStatus, Failure};
use crate::terminal::{self, Plain};
use crate::units;

/// Waits that are explained unless the user says how many.
const USUAL_WORST: u16 = 5;
/// Waits in a Perfetto file.
const WORST_IN_PICTURE: usize = 100;
/// The last wait that can be asked for by its number.
const MAX_GAP: usize = 10_000;
/// Pieces of each wait, for pictures.
const MAX_SEGMENTS: usize = 10_000;

/// What was found in a trace.
struct Found<'a> {
    trace: &'a AnyTrace,
    waits: &'a Waits,
    /// With the number of each, from 1.
    chosen: Vec<(usize, Wait, Explanation)>,
    context: Context,
}

/// Explains the longest waits of a trace.
///
/// # Errors
/// No such trace or wait; a file that cannot be written.
pub fn run(args: &ExplainArgs) -> Result<ExitStatus, Failure> {
    let path = &args.result;
    if let Some(file) = args.perfetto.as_ref().filter(|file| same_file(file, path)) {
        return Err(Failure::request(format!(
            "--perfetto {} is the trace itself; name another",
            file.display()
        )));
    }
    let buffer = args.buffer.as_deref();
    let trace = AnyTrace::open(path, buffer, args.clock_khz, &Progress::new())?;
    let wanted = wanted(args, &trace)?;
    let waits = trace.waits(&wanted)?;
    let places = choose(args, &waits)?;
    if let Some(file) = &args.perfetto {
        write_perfetto(&trace, &waits, file)?;
    }
    let asked: Vec<Wait> = places.iter().map(|place| waits.worst[*place]).collect();
    let mut out = Plain::stdout();
    let printed = if args.run {
        let times = Times::read(&trace, &waits, &wanted.window, path)?;
        if args.json {
            times.write_json(&mut out)
        } else {
            times.write_text(&mut out).map_err(FtraceError::from)
        }
    } else if args.text {
        let Some(wait) = asked.first() else { return Ok(ExitStatus::Pass) };
        text::write_events(trace.trace(), trace.units(), wait.begin..=wait.end, &mut out)
    } else {
        let gaps: Vec<Gap> = asked.iter().map(Wait::gap).collect();
        let (explained, context) = trace.explanations(&gaps, &waits, 0)?;
        let numbered = places.iter().map(|place| place + 1).zip(asked).zip(explained);
        let chosen = numbered.map(|((number, wait), found)| (number, wait, found)).collect();
        let found = Found { trace: &trace, waits: &waits, chosen, context };
        if args.json {
            answer::write(&found, path, &mut out)
        } else {
            words::write(&found, args, &mut out).map_err(FtraceError::from)
        }
    };
    match printed.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => {}
        Err(FtraceError::Write(error)) => terminal::taken(Err(error))?,
        Err(error) => return Err(error.into()),
    }
    Ok(ExitStatus::Pass)
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn wanted(args: &ExplainArgs, trace: &AnyTrace) -> Result<Wanted, Failure> {
    let mut wanted = Wanted { thread: args.thread.clone(), ..Wanted::default() };
    if let Some([begin, end]) = args.between.as_deref() {
        if begin >= end {
            return Err(Failure::request(format!(
                "--between {} {}: the second time is not behind the first; swap them",
                units::trace_time(*begin),
                units::trace_time(*end)
            )));
        }
        wanted.window = trace.units().ticks(*begin)..trace.units().ticks(*end);
    }
    if let Some(cpus) = &args.cpus {
        wanted.cpus = cpus.0.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect();
    }
    if let Some(number) = args.gap.filter(|number| !(1..=MAX_GAP).contains(number)) {
        return Err(Failure::request(format!("--gap {number}: waits have numbers 1 to {MAX_GAP}")));
    }
    let picture = args.perfetto.as_ref().map_or(0, |_| WORST_IN_PICTURE);
    let worst = usize::from(args.worst.unwrap_or(USUAL_WORST));
    wanted.worst = args.gap.unwrap_or(worst).max(picture);
    Ok(wanted)
}

/// Places of the waits that were asked for.
fn choose(args: &ExplainArgs, waits: &Waits) -> Result<Vec<usize>, Failure> {
    let count = waits.worst.len();
    if let Some(who) = args.thread.as_ref().filter(|_| waits.threads.is_empty()) {
        return Err(Failure::request(format!(
            "--thread {who}: no thread of this number or name waited in what was asked for; without \
             --thread all are listed"
        )));
    }
    if let Some(number) = args.gap {
        return match number.checked_sub(1).filter(|place| *place < count) {
            Some(place) => Ok(vec![place]),
            None => Err(Failure::request(format!(
                "--gap {number}: {count} waits are known in what was asked for"
            ))),
        };
    }
    let most = if args.longest || args.text { 1 } else { args.worst.unwrap_or(USUAL_WORST).into() };
    Ok((0..count.min(most)).collect())
}

/// Writes a Perfetto file with the longest waits.
fn write_perfetto(trace: &AnyTrace, waits: &Waits, path: &Path) -> Result<(), Failure> {
    let longest: Vec<Gap> = waits.worst.iter().take(WORST_IN_PICTURE).map(Wait::gap).collect();
    let (found, context) = trace.explanations(&longest, waits, MAX_SEGMENTS)?;
    let units = trace.units();
    picture::write_file(path, |out| {
        trace.reading("perfetto", |trace| trace.write_perfetto(&found, &context, units, out))
    })
}
