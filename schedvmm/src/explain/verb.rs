// SPDX-License-Identifier: Apache-2.0
//! `schedvmm explain`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use ftrace::FtraceError;
use ftrace::attribution::Explanation;
use serde_json::json;

use super::{Explained, Question, SCHEMA, text};
use crate::cli::ExplainArgs;
use crate::status::{ExitStatus, Failure, OrFail};
use crate::stored::{self, Stored, StoredGap};

/// Explains a gap of a result.
///
/// # Errors
/// No such result, gap or trace; a file that cannot be written.
pub fn run(args: &ExplainArgs) -> Result<ExitStatus, Failure> {
    let (stored, folder) = Stored::open(&args.result)?;
    let path = stored.trace_path(&folder)?;
    let gap = choose(args, &stored, &folder)?;
    let question = Question::new(&stored, &path)?;
    let (explained, found) = question.explain(&gap)?;
    if let Some(path) = &args.perfetto {
        let gaps = stored::gaps(&folder)?;
        write_perfetto(&question, &gaps, path)?;
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if args.json {
        let all = json!({
            "schema": SCHEMA,
            "trace": path,
            "torn": question.torn(),
            "gap": explained,
        });
        serde_json::to_writer_pretty(&mut out, &all)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
            .map_err(FtraceError::from)
    } else if args.text {
        text::write_events(&question, &gap, &mut out)
    } else {
        write_screen(&question, &explained, &found, &mut out).map_err(FtraceError::from)
    };
    match printed.and_then(|()| Ok(out.flush()?)) {
        // A closed stdout takes the text; the status tells all the same.
        Ok(()) | Err(FtraceError::Write(_)) => Ok(ExitStatus::Pass),
        Err(error) => Err(error).or_fail(ExitStatus::Usage),
    }
}

/// The gap that was asked for.
fn choose(args: &ExplainArgs, stored: &Stored, folder: &Path) -> Result<StoredGap, Failure> {
    let usage = |text: String| Failure::new(ExitStatus::Usage, text);
    if let Some(number) = args.gap {
        let gaps = stored::gaps(folder)?;
        let gap = number.checked_sub(1).and_then(|index| gaps.get(index));
        return gap.copied().ok_or_else(|| {
            usage(format!("--gap {number}: gaps.csv has gaps 1 to {}", gaps.len()))
        });
    }
    if let Some(thread) = args.thread {
        let gaps = stored::gaps(folder)?.into_iter().filter(|gap| gap.thread == thread);
        return gaps.max_by_key(|gap| gap.length_ns).ok_or_else(|| {
            let threads = stored.threads.len();
            usage(format!(
                "--thread {thread}: no gap of it in gaps.csv; there are {threads} threads, from 0"
            ))
        });
    }
    let hit = stored.threshold_hit.filter(|_| !args.longest);
    hit.or(stored.longest_gap).ok_or_else(|| usage("this result has no gap".into()))
}

/// Paragraph and table.
fn write_screen(
    question: &Question,
    explained: &Explained,
    found: &Explanation,
    out: &mut impl Write,
) -> io::Result<()> {
    if let Some(why) = question.torn() {
        writeln!(out, "The trace is not all there: {why}.\n")?;
    }
    writeln!(out, "{}\n", explained.paragraph)?;
    write!(out, "{}", found.table(question.context(), question.units()))
}

/// Writes a Perfetto file with all gaps that the trace has something about.
fn write_perfetto(question: &Question, gaps: &[StoredGap], path: &Path) -> Result<(), Failure> {
    let fault = |error: FtraceError| {
        let text = format!("cannot write {}: {error}", path.display());
        Failure::new(ExitStatus::Usage, text)
    };
    let begin = question.begin().or_fail(ExitStatus::Usage)?;
    let in_trace: Vec<_> = gaps.iter().filter(|gap| gap.tsc_end >= begin).copied().collect();
    let found = question.explanations(&in_trace).or_fail(ExitStatus::Usage)?;
    let file = File::create(path).map_err(FtraceError::from).map_err(fault)?;
    let mut out = BufWriter::new(file);
    question
        .trace()
        .write_perfetto(&found, question.context(), question.units(), &mut out)
        .and_then(|()| Ok(out.flush()?))
        .map_err(fault)
}
