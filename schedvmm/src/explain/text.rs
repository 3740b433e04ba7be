// SPDX-License-Identifier: Apache-2.0
//! The events of a gap as lines of text.

use std::io::{self, Write};
use std::ops::RangeInclusive;

use ftrace::attribution::Units;
use ftrace::{EventFormat, FtraceError, Item, Record, Trace};

use crate::terminal::one_line;

/// Fields that all events have begin so; the line shows them elsewhere.
const COMMON: &str = "common_";

/// Prints the events of all CPUs from a gap's beginning to its end: time since the beginning in
/// microseconds, CPU, thread, event and fields.
///
/// # Errors
/// The trace cannot be read, or nothing takes the text.
pub fn write_events(
    trace: &Trace,
    units: Units,
    gap: RangeInclusive<u64>,
    out: &mut impl Write,
) -> Result<(), FtraceError> {
    let comms = trace.comms();
    let mut events = trace.events()?;
    while let Some(item) = events.next()? {
        let record = match item {
            Item::Record(record) => record,
            Item::Lost(lost) => {
                if gap.contains(&lost.after) {
                    writeln!(out, "{:>26} events of CPU {} are missing", "", lost.cpu)?;
                }
                continue;
            }
        };
        if record.time > *gap.end() {
            break;
        }
        if record.time < *gap.start() {
            continue;
        }
        let ns = units.ns(record.time - *gap.start());
        let pid = trace.formats().pid(record.data).unwrap_or_default();
        let name = if pid == 0 { "idle" } else { comms.get(pid).unwrap_or("?") };
        let name = one_line(name);
        write!(out, "{:>10}.{:03} us [{:03}] {name}-{pid} ", ns / 1000, ns % 1000, record.cpu)?;
        match trace.formats().event_of(record.data) {
            Some(event) => write_event(event, &record, out)?,
            None => write!(out, "an event of unknown format")?,
        }
        writeln!(out)?;
    }
    Ok(())
}

fn write_event(event: &EventFormat, record: &Record, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{}:", event.name)?;
    for field in event.fields.iter().filter(|field| !field.name.starts_with(COMMON)) {
        if let Some(int) = field.int() {
            match int.get(record.data) {
                Some(value) => write!(out, " {}={value}", field.name)?,
                None => write!(out, " {}=?", field.name)?,
            }
        } else if let Some(text) = field.text_bytes(record.data) {
            // Whoever named a thread, or wrote a marker, does not write a line of its own.
            write!(out, " {}={}", field.name, one_line(&String::from_utf8_lossy(text)))?;
        }
    }
    Ok(())
}
