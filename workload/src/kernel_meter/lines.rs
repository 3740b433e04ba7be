// SPDX-License-Identifier: Apache-2.0
//! Lines of `trace_pipe`: put together from reads of any size, and understood.
//!
//! The text is the kernel's own (kernel/trace/trace_output.c, `trace_print_context` and
//! `trace_hwlat_print`; include/trace/events/osnoise.h), on kernels from 5.4 on:
//!
//! ```text
//!           hwlatd-73      [001] d.... 81923475123: #3     inner/outer(us):  190/4021  ts:1700000000.123456789 count:2 nmi-total:9 nmi-count:1
//!        osnoise/1-93      [001] d.... 81923475123: sample_threshold: start 12.345678901 duration 1500000 ns interference 0
//! CPU:1 [LOST 17 EVENTS]
//! ```
//!
//! The flags have four to six characters, `count:` came with 5.7, the two about NMIs are
//! there only where there were any. A name may have spaces, dashes and brackets in it, so
//! that what comes before the colon is read from its end.

/// The kernel makes a line in a buffer of 4 or 8 KiB (`TRACE_SEQ_BUFFER_SIZE`).
const MAX_LINE_BYTES: usize = 8 << 10;

/// Puts lines together from pieces.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    taken: usize,
    /// In the middle of a line that is too long to be one.
    skipping: bool,
}

impl LineBuffer {
    /// Adds what was read. True where a line is beyond any that the kernel writes, and its
    /// beginning was thrown away.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        let bytes = match bytes.iter().position(|&byte| byte == b'\n') {
            // The rest of such a line is no line of its own.
            None if self.skipping => return false,
            Some(end) if self.skipping => &bytes[end + 1..],
            _ => bytes,
        };
        self.bytes.extend_from_slice(bytes);
        let last = self.bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.skipping = self.bytes.len() - last > MAX_LINE_BYTES;
        if self.skipping {
            self.bytes.truncate(last);
        }
        self.skipping
    }

    /// The next whole line, without its line feed.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let rest = &self.bytes[self.taken..];
        let length = rest.iter().position(|&byte| byte == b'\n')?;
        let line = rest[..length].to_vec();
        self.taken += length + 1;
        Some(line)
    }

    /// True if a line has begun that has no end yet.
    pub fn is_torn(&self) -> bool {
        self.taken < self.bytes.len() || self.skipping
    }
}

/// What comes before the text of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Thread that wrote it; for the meters, the measuring kernel thread.
    pub pid: u32,
    /// Its CPU.
    pub cpu: u32,
    /// When it was written, on the trace clock: with `x86-tsc` the TSC.
    pub tsc: u64,
}

/// The longest gaps of one window of hwlat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HwlatSample {
    /// The longest between two readings in one iteration of its loop, in microseconds.
    pub inner_us: u64,
    /// The longest from one iteration to the next. It may be another gap or none; so the two are
    /// never added.
    pub outer_us: u64,
    /// Wall clock, nanoseconds since 1970: with `count`, at the end of the first gap above
    /// the floor; without, at the end of the window.
    pub wall_ns: u64,
    /// Iterations with a gap above the floor; `None` before Linux 5.7.
    pub count: Option<u64>,
    /// Non-maskable interrupts in the window.
    pub nmi_count: u64,
    /// What they took, in microseconds; `None` where the kernel cannot tell.
    pub nmi_total_us: Option<u64>,
}

/// One gap that osnoise saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsnoiseSample {
    /// Its length.
    pub duration_ns: u64,
    /// Interrupts and threads of this kernel that ran within it.
    pub interference: u64,
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A window of hwlat with a gap above its floor.
    Hwlat(Context, HwlatSample),
    /// A gap that osnoise saw.
    Osnoise(Context, OsnoiseSample),
    /// Events were overwritten before they were read; 0 where the kernel lost count, too.
    Lost(u64),
    /// It begins as one of these, and does not go on like it.
    Damaged,
    /// Any other line: osnoise's sum of a period, a remark.
    Other,
}

const HWLAT: &str = "inner/outer(us):";
const OSNOISE: &str = "sample_threshold:";

/// Understands one line.
pub fn parse(line: &str) -> Parsed {
    if let Some(lost) = lost(line) {
        return Parsed::Lost(lost);
    }
    let whole = if let Some(at) = line.rfind(HWLAT) {
        hwlat(&line[..at], &line[at + HWLAT.len()..])
    } else if let Some(at) = line.rfind(OSNOISE) {
        osnoise(&line[..at], &line[at + OSNOISE.len()..])
    } else {
        return Parsed::Other;
    };
    whole.unwrap_or(Parsed::Damaged)
}

/// `CPU:1 [LOST 17 EVENTS]`, or `CPU:1 [LOST EVENTS]` where their number is not known.
fn lost(line: &str) -> Option<u64> {
    let (cpu, rest) = line.strip_prefix("CPU:")?.split_once(" [LOST ")?;
    number(cpu)?;
    match rest.strip_suffix("EVENTS]")?.trim_end() {
        "" => Some(0),
        count => number(count),
    }
}

fn hwlat(before: &str, after: &str) -> Option<Parsed> {
    // The sequence number is part of the text: `… TIME: #3     `.
    let (context, sequence) = before.rsplit_once('#')?;
    number(sequence.trim_end())?;
    let context = context.trim_end().strip_suffix(':').and_then(parse_context)?;
    let mut words = after.split_ascii_whitespace();
    let (inner, outer) = words.next()?.split_once('/')?;
    let wall_ns = wall_ns(words.next()?.strip_prefix("ts:")?)?;
    let mut sample = HwlatSample {
        inner_us: number(inner)?,
        outer_us: number(outer)?,
        wall_ns,
        count: None,
        nmi_count: 0,
        nmi_total_us: None,
    };
    for word in words {
        let (name, value) = word.split_once(':')?;
        let value = number(value)?;
        match name {
            "count" => sample.count = Some(value),
            "nmi-total" => sample.nmi_total_us = Some(value),
            "nmi-count" => sample.nmi_count = value,
            // A field of a kernel to come.
            _ => {}
        }
    }
    Some(Parsed::Hwlat(context, sample))
}

fn osnoise(before: &str, after: &str) -> Option<Parsed> {
    let context = before.trim_end().strip_suffix(':').and_then(parse_context)?;
    let words: Vec<_> = after.split_ascii_whitespace().collect();
    let ["start", start, "duration", duration, "ns", "interference", interference] = words[..]
    else {
        return None;
    };
    let (seconds, fraction) = start.split_once('.')?;
    (number(seconds).is_some() && number(fraction).is_some()).then_some(())?;
    let duration_ns = number(duration)?;
    let sample = OsnoiseSample { duration_ns, interference: number(interference)? };
    Some(Parsed::Osnoise(context, sample))
}

/// `NAME-PID [CPU] FLAGS TIME`, with `(TGID)` or without, with flags or without.
fn parse_context(text: &str) -> Option<Context> {
    let mut words = text.split_ascii_whitespace().rev();
    let tsc = number(words.next()?)?;
    // The flags are between; there are none of them with `irq-info` switched off.
    let cpu = words
        .by_ref()
        .take(2)
        .find_map(|word| number(word.strip_prefix('[')?.strip_suffix(']')?))?;
    let task = words.find(|word| !word.starts_with('(') && !word.ends_with(')'))?;
    let (_, pid) = task.rsplit_once('-')?;
    Some(Context { pid: u32::try_from(number(pid)?).ok()?, cpu: u32::try_from(cpu).ok()?, tsc })
}

/// `SECONDS.NANOSECONDS`, all nine digits of them.
fn wall_ns(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    let fraction = number(fraction).filter(|_| fraction.len() == 9)?;
    number(seconds)?.checked_mul(1_000_000_000)?.checked_add(fraction)
}

/// Decimal digits and nothing else: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
