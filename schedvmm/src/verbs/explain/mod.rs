// SPDX-License-Identifier: Apache-2.0
//! `schedvmm explain` of a result; of a trace from anywhere: [`trace`].

mod trace;

use std::io::{self, Write};
use std::path::Path;

use ftrace::FtraceError;
use ftrace::attribution::Explanation;
use results::json;
use results::model::{CoreFigures, Explained, LocatedGap, Numbers, RunResult, RunTimes};
use results::saved::Saved;
use serde::Serialize;

use crate::cli::ExplainArgs;
use crate::explain::any_trace::AnyTrace;
use crate::explain::question::Question;
use crate::explain::whole::Whole;
use crate::explain::{picture, text};
use crate::progress::Progress;
use crate::status::{ExitStatus, Failure};
use crate::terminal::{self, Plain};

/// Version of what `schedvmm explain --json` prints.
const SCHEMA: &str = "schedvmm-explanation/2";

/// Explains a gap of a result.
///
/// # Errors
/// No such result, gap or trace; a file that cannot be written.
pub fn run(args: &ExplainArgs) -> Result<ExitStatus, Failure> {
    if AnyTrace::is_at(&args.result) {
        return trace::run(args);
    }
    if let Some(option) = args.of_traces() {
        return Err(Failure::request(format!(
            "{option} is of traces, and {} is a result; leave it out, or name the trace",
            args.result.display()
        )));
    }
    let saved = Saved::open(&args.result)?;
    let result = &saved.result;
    let path = saved.trace_path()?;
    if let Some(file) = &args.perfetto {
        saved.spare("--perfetto", file)?;
    }
    let question = Question::new(result, &path, &Progress::new())?;
    if let Some(path) = &args.perfetto {
        write_perfetto(&question, &saved.gaps()?, path)?;
    }
    let mut out = Plain::stdout();
    let printed = if args.run {
        let whole = Whole::read(&question)?;
        if args.json {
            Printed { run: Some(&whole.times), ..Printed::new(&question, result, &path) }
                .write(&mut out)
        } else {
            let doubt = if whole.times.forced_idle.is_empty() {
                String::new()
            } else {
                no_measurement(result)
            };
            write!(out, "{}{whole}{doubt}", remarks(&question)).map_err(FtraceError::from)
        }
    } else {
        let gap = choose(args, &saved)?;
        let (explained, found) = question.explain(&gap)?;
        if args.json {
            Printed { gap: Some(&explained), ..Printed::new(&question, result, &path) }
                .write(&mut out)
        } else if args.text {
            let range = gap.tsc_begin..=gap.tsc_end;
            text::write_events(question.trace(), question.units(), range, &mut out)
        } else {
            write_screen(&question, (&explained, &found), result, &mut out)
                .map_err(FtraceError::from)
        }
    };
    match printed.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => {}
        Err(FtraceError::Write(error)) => terminal::taken(Err(error))?,
        Err(error) => return Err(error.into()),
    }
    Ok(ExitStatus::Pass)
}

/// The object that `--json` prints: the answer has one of the two last keys.
#[derive(Serialize)]
struct Printed<'a> {
    schema: &'static str,
    trace: &'a Path,
    torn: Option<&'a str>,
    remark: Option<&'a str>,
    core_figures: &'a CoreFigures,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<&'a Explained>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a RunTimes>,
}

impl<'a> Printed<'a> {
    /// What every answer begins with.
    fn new(question: &'a Question, result: &'a RunResult, trace: &'a Path) -> Self {
        Self {
            schema: SCHEMA,
            trace,
            torn: question.torn(),
            remark: question.remark(),
            core_figures: &result.core_figures,
            gap: None,
            run: None,
        }
    }

    fn write(&self, out: &mut impl Write) -> Result<(), FtraceError> {
        json::write(&mut *out, self).map_err(io::Error::from)?;
        Ok(writeln!(out)?)
    }
}

/// Lines about a trace that is not all there, or may be another's; else nothing.
fn remarks(question: &Question) -> String {
    let torn = question.torn().map(|why| format!("The trace is not all there: {why}."));
    let remarks = torn.into_iter().chain(question.remark().map(str::to_owned));
    remarks.map(|remark| format!("{remark}\n\n")).collect()
}

/// A line about forced idle that is no measurement; else nothing.
fn no_measurement(result: &RunResult) -> String {
    let why = result.core_figures.why_not();
    why.map_or_else(String::new, |why| format!("\nForced idle is no measurement here: {why}.\n"))
}

/// The gap that was asked for.
fn choose(args: &ExplainArgs, saved: &Saved) -> Result<LocatedGap, Failure> {
    if let Some(number) = args.gap {
        let gaps = saved.gaps()?;
        let gap = number.checked_sub(1).and_then(|index| gaps.get(index));
        return gap.copied().ok_or_else(|| {
            Failure::request(format!("--gap {number}: gaps.csv has gaps 1 to {}", gaps.len()))
        });
    }
    if let Some(who) = &args.thread {
        let who = Numbers::parse(who)
            .map_err(|why| Failure::request(format!("--thread {who}: {why}")))?;
        let gaps = saved.gaps()?.into_iter().filter(|gap| gap.who == who);
        return gaps
            .max_by_key(|gap| (saved.result.counts(gap), gap.length_ns))
            .ok_or_else(|| Failure::request(format!("--thread {who}: {}", saved.why_no_gap(who))));
    }
    let hit = saved.result.threshold_hit.filter(|_| !args.longest);
    hit.or(saved.result.longest_gap).ok_or_else(|| Failure::request("this result has no gap"))
}

/// Paragraph and table.
fn write_screen(
    question: &Question,
    (explained, found): (&Explained, &Explanation),
    result: &RunResult,
    out: &mut impl Write,
) -> io::Result<()> {
    writeln!(out, "{}{}\n", remarks(question), explained.paragraph)?;
    write!(out, "{}", found.table(question.context(), question.units()))?;
    let doubt = if explained.is_forced_idle() { no_measurement(result) } else { String::new() };
    write!(out, "{doubt}")
}

/// Writes a Perfetto file with all gaps that the trace has something about.
fn write_perfetto(question: &Question, gaps: &[LocatedGap], path: &Path) -> Result<(), Failure> {
    let begin = question.trace().begin()?.unwrap_or(u64::MAX);
    let in_trace: Vec<_> = gaps.iter().filter(|gap| gap.tsc_end >= begin).copied().collect();
    let found = question.explanations(&in_trace)?;
    let (context, units) = (question.context(), question.units());
    picture::write_file(path, |out| {
        question.reading("perfetto", |trace| trace.write_perfetto(&found, context, units, out))
    })
}
