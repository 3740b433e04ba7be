// SPDX-License-Identifier: Apache-2.0
//! The JSON of an explained trace.

use std::io::{self, Write};
use std::path::Path;

use ftrace::attribution::Units;
use ftrace::{FtraceError, Losses, WaitKind, WaitSum, Waiter};
use results::json;
use results::model::{ExplainedClause, ExplainedPart};
use serde::Serialize;

use super::Found;
use super::words::{Missing, missing, why_unexplained};
use crate::explain::account::Account;

/// Version of what is printed.
const SCHEMA: &str = "schedvmm-trace-explanation/1";

/// The whole answer.
#[derive(Serialize)]
struct Answer<'a> {
    schema: &'static str,
    trace: &'a Path,
    buffer: &'a str,
    other_buffers: &'a [String],
    torn: Option<&'a str>,
    kernel: Option<&'a str>,
    clock: Option<&'a str>,
    cpus: usize,
    records: u64,
    begin_ns: u64,
    length_ns: u64,
    losses: Losses,
    not_recorded: Vec<Missing>,
    threads: Vec<ThreadAnswer<'a>>,
    threads_left_out: u64,
    waits: Vec<WaitAnswer>,
}

/// A thread.
#[derive(Serialize)]
struct ThreadAnswer<'a> {
    tid: i32,
    name: &'a str,
    wakeup: SumAnswer,
    preemption: SumAnswer,
    unknown: u64,
}

/// Its waits of one kind.
#[derive(Serialize)]
struct SumAnswer {
    count: u64,
    total_ns: u64,
    longest_ns: u64,
}

impl SumAnswer {
    fn of(sum: &WaitSum, units: Units) -> Self {
        let (total_ns, longest_ns) = (units.ns(sum.ticks), units.ns(sum.longest));
        Self { count: sum.count, total_ns, longest_ns }
    }
}

/// A wait.
#[derive(Serialize)]
struct WaitAnswer {
    number: usize,
    tid: i32,
    name: String,
    kind: WaitKind,
    cpu: u32,
    ended: bool,
    begin_ticks: u64,
    end_ticks: u64,
    begin_ns: u64,
    length_ns: u64,
    /// Why nothing follows.
    unexplained: Option<&'static str>,
    paragraph: String,
    clauses: Vec<ExplainedClause>,
    parts: Vec<ExplainedPart>,
    unknown_share: f64,
    migrations: u64,
}

/// Prints what was found.
pub fn write(found: &Found, path: &Path, out: &mut impl Write) -> Result<(), FtraceError> {
    let Found { trace, waits, .. } = found;
    let (units, metadata) = (trace.units(), trace.trace().metadata());
    let (first, last) = waits.span.unwrap_or_default();
    let answer = Answer {
        schema: SCHEMA,
        trace: path,
        buffer: trace.buffer(),
        other_buffers: trace.others(),
        torn: trace.torn(),
        kernel: Some(metadata.uname.as_str()).filter(|uname| !uname.is_empty()),
        clock: Some(metadata.clock.as_str()).filter(|clock| !clock.is_empty()),
        cpus: trace.trace().pages().len(),
        records: waits.records,
        begin_ns: units.ns(first),
        length_ns: units.ns(last - first),
        losses: waits.losses,
        not_recorded: missing(&waits.recorded),
        threads: waits.threads.iter().map(|(tid, who)| thread(*tid, who, units)).collect(),
        threads_left_out: waits.threads_left_out,
        waits: answers(found),
    };
    json::write(&mut *out, &answer).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

fn thread(tid: i32, waiter: &Waiter, units: Units) -> ThreadAnswer<'_> {
    ThreadAnswer {
        tid,
        name: &waiter.name,
        wakeup: SumAnswer::of(&waiter.wakeup, units),
        preemption: SumAnswer::of(&waiter.preemption, units),
        unknown: waiter.unknown,
    }
}

fn answers(found: &Found) -> Vec<WaitAnswer> {
    let units = found.trace.units();
    let mut answers = Vec::new();
    for (number, wait, explanation) in &found.chosen {
        let account = Account::of(explanation, &found.context, units);
        let unexplained = why_unexplained(wait);
        let Account { paragraph, clauses, parts, unknown_share } = match unexplained {
            None => account,
            Some(why) => Account {
                paragraph: why.to_owned(),
                clauses: Vec::new(),
                parts: Vec::new(),
                unknown_share: 1.0,
            },
        };
        answers.push(WaitAnswer {
            number: *number,
            tid: wait.tid,
            name: explanation.name.clone(),
            kind: wait.kind,
            cpu: wait.cpu,
            ended: wait.ended,
            begin_ticks: wait.begin,
            end_ticks: wait.end,
            begin_ns: units.ns(wait.begin),
            length_ns: units.ns(wait.ticks()),
            unexplained,
            paragraph,
            clauses,
            parts,
            unknown_share,
            migrations: explanation.migrations,
        });
    }
    answers
}
