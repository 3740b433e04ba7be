// SPDX-License-Identifier: Apache-2.0
//! What an explained trace is for people.

use std::cmp::Reverse;
use std::io::{self, Write};

use ftrace::attribution::{Cause, Explanation, Units};
use ftrace::{Recorded, Wait, WaitKind, WaitSum, Waits};
use serde::Serialize;

use super::Found;
use crate::cli::ExplainArgs;
use crate::terminal::one_line;

/// Threads in the table.
const MAX_LINES: usize = 20;

/// Something that a trace cannot tell, because it was not recorded.
#[derive(Serialize)]
pub struct Missing {
    what: &'static str,
    option: &'static str,
}

/// What a trace with these events cannot tell.
pub fn missing(recorded: &Recorded) -> Vec<Missing> {
    let Recorded { waking, wakeups, migrations, interrupts, .. } = *recorded;
    let all = [
        (
            waking || wakeups,
            "when threads were woken: no wait after a wake-up is known",
            "-e sched:sched_waking -e sched:sched_wakeup -e sched:sched_wakeup_new",
        ),
        (
            wakeups || !waking,
            "when a woken thread was in a queue: all of such a wait is `being woken`",
            "-e sched:sched_wakeup -e sched:sched_wakeup_new",
        ),
        (
            migrations,
            "when a waiting thread was moved: who ran instead is not known if it was",
            "-e sched:sched_migrate_task",
        ),
        (interrupts, "what interrupts took", "-e irq -e irq_vectors"),
    ];
    let missing = all.into_iter().filter(|(is_there, ..)| !is_there);
    missing.map(|(_, what, option)| Missing { what, option }).collect()
}

/// Why nobody can say what took the time of a wait; `None` where the trace tells.
pub fn why_unexplained(wait: &Wait) -> Option<&'static str> {
    wait.moved_unseen.then_some(
        "It ran on another CPU than it had waited for, and when it was moved was not recorded: who \
         ran instead is not known (-e sched:sched_migrate_task).",
    )
}

/// Prints what was found.
pub fn write(found: &Found, args: &ExplainArgs, out: &mut impl Write) -> io::Result<()> {
    let one = args.gap.is_some() || args.longest;
    if !one {
        write_head(found, out)?;
        write_threads(found.waits, found.trace.units(), out)?;
    }
    for (number, wait, explanation) in &found.chosen {
        if !one {
            writeln!(out)?;
        }
        write_wait(found, (*number, wait, explanation), out)?;
        if one && why_unexplained(wait).is_none() {
            let units = found.trace.units();
            write!(out, "\n{}", explanation.table(&found.context, units))?;
        }
    }
    if found.chosen.is_empty() {
        writeln!(out, "\nNo wait of known length lies in what was asked for.")?;
    }
    write_doubts(found, out)
}

/// What trace it is, and what is missing of it.
fn write_head(found: &Found, out: &mut impl Write) -> io::Result<()> {
    let Found { trace, waits, .. } = found;
    let (units, metadata) = (trace.units(), trace.trace().metadata());
    let (first, last) = waits.span.unwrap_or_default();
    let kernel = if metadata.uname.is_empty() { "an unnamed system" } else { &metadata.uname };
    let clock = match metadata.clock.as_str() {
        "" => "a clock without a name, taken for one of nanoseconds".to_owned(),
        name => format!("the clock {name}"),
    };
    writeln!(
        out,
        "{} events of {} CPUs, {} to {} s by {clock}; {}",
        waits.records,
        trace.trace().pages().len(),
        seconds(first, units),
        seconds(last, units),
        one_line(kernel)
    )?;
    if !trace.others().is_empty() {
        let others = trace.others().join(", ");
        let buffer = one_line(trace.buffer());
        writeln!(
            out,
            "Buffer `{buffer}`; others have events, too (--buffer): {}",
            one_line(&others)
        )?;
    }
    if let Some(why) = trace.torn() {
        writeln!(out, "The trace is not all there: {why}.")?;
    }
    let losses = &waits.losses;
    if losses.places > 0 {
        let counted = match losses.events {
            0 => String::new(),
            events => format!(" (the kernel counted {events} events there)"),
        };
        let damaged = match losses.damaged_pages {
            0 => String::new(),
            pages => format!(", {pages} of them pages that are damaged"),
        };
        writeln!(
            out,
            "Events are missing at {} places{counted}{damaged}: waits across them are not counted.",
            losses.places
        )?;
    }
    if waits.threads_left_out > 0 {
        writeln!(out, "There were too many threads: some are left out.")?;
    }
    for Missing { what, option } in missing(&waits.recorded) {
        writeln!(out, "Not recorded: {what} ({option}).")?;
    }
    Ok(())
}

/// The threads that waited longest at a time.
fn write_threads(waits: &Waits, units: Units, out: &mut impl Write) -> io::Result<()> {
    let mut order: Vec<_> = waits.threads.iter().filter(|(_, who)| who.longest() > 0).collect();
    order.sort_by_key(|(tid, who)| (Reverse(who.longest()), **tid));
    if order.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nWaits in milliseconds; the thread with the longest one first:\n")?;
    writeln!(
        out,
        "                          after it was woken             after it was preempted\n    tid  \
         name             times      total    longest    times      total    longest  unknown"
    )?;
    for (tid, who) in order.iter().take(MAX_LINES) {
        write!(out, "{tid:>7}  {:<15}", one_line(&who.name))?;
        for WaitSum { count, ticks, longest } in [who.wakeup, who.preemption] {
            write!(out, "{count:>7}{:>11.3}{:>11.3}  ", units.ms(ticks), units.ms(longest))?;
        }
        writeln!(out, "{:>7}", who.unknown)?;
    }
    if order.len() > MAX_LINES {
        writeln!(out, "{} more threads (--json has them all)", order.len() - MAX_LINES)?;
    }
    Ok(())
}

fn write_wait(
    found: &Found,
    (number, wait, explanation): (usize, &Wait, &Explanation),
    out: &mut impl Write,
) -> io::Result<()> {
    let units = found.trace.units();
    let after = match wait.kind {
        WaitKind::Wakeup => "after it was woken",
        WaitKind::Preemption => "after it was preempted",
    };
    let (begin, cpu) = (seconds(wait.begin, units), wait.cpu);
    write!(out, "{number}. At {begin} s, {after}, on CPU {cpu}: ")?;
    match why_unexplained(wait) {
        Some(why) => {
            let (name, tid, ms) = (&explanation.name, wait.tid, units.ms(wait.ticks()));
            write!(out, "{} (tid {tid}) waited {ms:.3} ms. {why}", one_line(name))?;
        }
        None => write!(out, "{}", one_line(&explanation.paragraph(&found.context, units)))?,
    }
    match explanation.migrations {
        0 => {}
        1 => write!(out, " It was moved to another CPU once.")?,
        times => write!(out, " It was moved to another CPU {times} times.")?,
    }
    if !wait.ended {
        write!(out, " It still waited when the trace ended.")?;
    }
    writeln!(out)
}

/// What no trace can tell of the waits that are shown.
fn write_doubts(found: &Found, out: &mut impl Write) -> io::Result<()> {
    let idle = |cause: &Cause| matches!(cause, Cause::Idle { .. });
    let is_idle = found.chosen.iter().any(|(.., explanation)| explanation.ticks_of(idle) > 0);
    if is_idle {
        writeln!(
            out,
            "\nNo event says why a CPU was idle although a thread was in its queue: it may just have \
             been on its way out of idle, forced idle (core scheduling), or the thread's cgroup \
             throttled (cpu.max)."
        )?;
    }
    Ok(())
}

/// A time as `trace-cmd report` prints it: rounded to microseconds.
fn seconds(ticks: u64, units: Units) -> String {
    let us = units.ns(ticks).saturating_add(500) / 1000;
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}
