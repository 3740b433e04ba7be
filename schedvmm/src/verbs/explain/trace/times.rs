// SPDX-License-Identifier: Apache-2.0
//! Where the time of each thread of a trace went: `--run`.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use ftrace::attribution::Gap;
use ftrace::{FtraceError, Losses, Waits};
use results::json;
use results::model::Spent;
use serde::Serialize;

use crate::explain::any_trace::AnyTrace;
use crate::explain::whole;
use crate::terminal::one_line;

/// Threads that are accounted for; those that waited the least are left out.
const MAX_THREADS: usize = 1000;
/// Version of what is printed as JSON.
const SCHEMA: &str = "schedvmm-trace-times/1";

/// Where the time went.
#[derive(Serialize)]
pub struct Times<'a> {
    schema: &'static str,
    trace: &'a Path,
    begin_ns: u64,
    length_ns: u64,
    losses: Losses,
    threads: Vec<ThreadTimes>,
    threads_left_out: usize,
}

/// A thread's.
#[derive(Serialize)]
struct ThreadTimes {
    tid: i32,
    name: String,
    #[serde(flatten)]
    spent: Spent,
}

impl<'a> Times<'a> {
    /// Accounts for all threads that waited or were switched in, in what the trace has of a time.
    ///
    /// # Errors
    /// The trace cannot be read.
    pub fn read(
        trace: &AnyTrace,
        waits: &Waits,
        window: &Range<u64>,
        path: &'a Path,
    ) -> Result<Self, FtraceError> {
        let (first, last) = waits.span.unwrap_or_default();
        let begin = first.max(window.start).min(last);
        let end = last.min(window.end).max(begin);
        let mut order: Vec<_> = waits.threads.iter().collect();
        order.sort_by_key(|(tid, who)| (Reverse(who.wakeup.ticks + who.preemption.ticks), **tid));
        let threads_left_out = order.len().saturating_sub(MAX_THREADS);
        order.truncate(MAX_THREADS);
        let gaps: Vec<Gap> = order.iter().map(|(tid, _)| Gap { tid: **tid, begin, end }).collect();
        let (found, _) = trace.explanations(&gaps, waits, 0)?;
        let units = trace.units();
        let threads = found
            .iter()
            .map(|found| ThreadTimes {
                tid: found.gap.tid,
                name: found.name.clone(),
                spent: whole::spent(found, units),
            })
            .collect();
        Ok(Self {
            schema: SCHEMA,
            trace: path,
            begin_ns: units.ns(begin),
            length_ns: units.ns(end - begin),
            losses: waits.losses,
            threads,
            threads_left_out,
        })
    }

    /// Prints it as JSON.
    pub fn write_json(&self, out: &mut impl Write) -> Result<(), FtraceError> {
        json::write(&mut *out, self).map_err(io::Error::from)?;
        Ok(writeln!(out)?)
    }

    /// Prints it for people.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let length_ms = ms(self.length_ns);
        writeln!(out, "The trace has {length_ms:.1} ms of this. In milliseconds:\n")?;
        writeln!(
            out,
            "    tid  name                running      queued      asleep       other     unknown"
        )?;
        for ThreadTimes { tid, name, spent } in &self.threads {
            write!(out, "{tid:>7}  {:<15}", one_line(name))?;
            let Spent { running_ns, queued_ns, asleep_ns, other_ns, unknown_ns, .. } = *spent;
            for ns in [running_ns, queued_ns, asleep_ns, other_ns, unknown_ns] {
                write!(out, "{:>12.3}", ms(ns))?;
            }
            writeln!(out)?;
        }
        if self.threads_left_out > 0 {
            writeln!(out, "{} threads that waited less are left out", self.threads_left_out)?;
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a figure for a reader")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
