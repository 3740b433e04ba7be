// SPDX-License-Identifier: Apache-2.0
//! The kernel's meter from its start to its report: reads its lines and hands on what they
//! say.
//!
//! All of this runs on the measured CPUs, for there are no others. It costs the measurement
//! nothing: hwlat has interrupts off while it measures, and for osnoise it is one more
//! thread, seen and counted as `interference`. It wakes for lines and once a second.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gaps::tsc::{self, Anchor, ns_to_ticks, ticks_to_ns};
use protocol::cpu_list::CpuSet;
use protocol::duration::as_ns;
use protocol::job::{LoadSpec, MeterMode};
use protocol::message::{Gap, LineGap, MeterLine, ThresholdHit};
use protocol::report::{LoadReport, MeterReport, TscReport};
use rustix::event::{self, PollFd, PollFlags, Timespec};

use crate::context::WorkloadContext;
use crate::error::{LoadError, MeterError};
use crate::kernel_meter::lines::{Context, LineBuffer, Parsed, parse};
use crate::kernel_meter::place::{Placed, Placing, WallClock};
use crate::kernel_meter::tallies::{self, Tallies, ThreadTime};
use crate::kernel_meter::tracer::Tracer;
use crate::observer::{Observer, Outcome, Prepared};
use crate::supervisor::tsc_frequency;

/// Longest sleep: how late a request to stop is seen.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What one read takes at most; the kernel gives a page.
const READ_BYTES: usize = 8 << 10;

/// Reads between two looks at the clock: a kernel that writes faster than we read must not
/// keep us for ever.
const READS: usize = 64;

/// Measures until the load's duration is over, a gap passes the threshold, or the observer
/// wants to stop.
pub fn run(
    tracer: &Tracer,
    load: &LoadSpec,
    context: &WorkloadContext,
    observer: &mut dyn Observer,
) -> Result<Outcome, LoadError> {
    let mut sources = context.tsc;
    let choice = tsc_frequency(&mut sources)?;
    let file = tracer.pipe();
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&file);
    let pipe = open.map_err(|source| MeterError::File { file, value: String::new(), source })?;
    observer.prepared(&Prepared {
        affinity: load.cpus.iter().map(|&cpu| CpuSet::from_iter([cpu])).collect(),
        tsc_khz: choice.khz,
        ..Prepared::default()
    })?;
    let tsc_start = tsc::read().tsc;
    let width = Duration::from_micros(tracer.facts.width_us.unwrap_or(0));
    let mut run = Run {
        tracer,
        load,
        pipe,
        lines: LineBuffer::default(),
        placing: Placing { khz: choice.khz, tsc_start, width },
        tallies: Tallies::new(load, choice.khz),
        report: MeterReport::default(),
        hit_tsc: None,
    };
    let (begin, anchor) = (Instant::now(), Anchor::now());
    tracer.start()?;
    observer.released(tsc_start)?;
    let ended = run.until_end(begin, observer);
    // Before the threads are gone; the window under way is not in it.
    let times = tallies::times(Path::new("/proc"), tracer.which, &load.cpus);
    let stopped = tracer.stop();
    let tsc_end = tsc::read().tsc;
    sources.slope_khz = anchor.slope_khz(&Anchor::now()).or(sources.slope_khz);
    // What was written until then.
    let drained = run.read(observer, usize::MAX);
    run.report.unread_lines += u64::from(run.lines.is_torn());
    let report = run.finish(tsc_end, &times, TscReport::new(choice, &sources));
    let fault = ended.and(stopped.map_err(LoadError::from)).and(drained).err();
    Ok(Outcome { report, fault })
}

struct Run<'a> {
    tracer: &'a Tracer,
    load: &'a LoadSpec,
    pipe: File,
    lines: LineBuffer,
    placing: Placing,
    tallies: Tallies,
    report: MeterReport,
    /// When the gap ended that passed the threshold, once it has been told.
    hit_tsc: Option<u64>,
}

impl Run<'_> {
    fn until_end(&mut self, begin: Instant, observer: &mut dyn Observer) -> Result<(), LoadError> {
        let deadline = begin + self.load.duration;
        let mut second = 0;
        loop {
            self.read(observer, READS)?;
            if self.hit_tsc.is_some() || observer.stop_requested() {
                return Ok(());
            }
            let now = Instant::now();
            let next_tick = begin + Duration::from_secs(second + 1);
            // Before the deadline: the last second of a run ends with it.
            if now >= next_tick {
                second += 1;
                observer.tick(self.tallies.tick(u32::try_from(second).unwrap_or(u32::MAX)))?;
                continue;
            }
            if now >= deadline {
                return Ok(());
            }
            self.wait(next_tick.min(deadline).min(now + POLL_INTERVAL) - now)?;
        }
    }

    /// Waits for a line, but not for longer than this.
    fn wait(&self, at_most: Duration) -> io::Result<()> {
        // Not 0, which would spin.
        let timeout = Timespec::try_from(at_most + Duration::from_millis(1));
        let timeout = timeout.map_err(io::Error::other)?;
        match event::poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(_) => Ok(()),
            Err(error) => unless(io::ErrorKind::Interrupted, error.into()),
        }
    }

    /// Reads what is there, in at most so many reads.
    fn read(&mut self, observer: &mut dyn Observer, most: usize) -> Result<(), LoadError> {
        let mut bytes = [0; READ_BYTES];
        for _ in 0..most {
            let length = match self.pipe.read(&mut bytes) {
                // The kernel calls it the end when it is switched off and empty.
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) => return Ok(unless(io::ErrorKind::WouldBlock, error)?),
            };
            self.report.unread_lines += u64::from(self.lines.push(&bytes[..length]));
            let clock = WallClock::now();
            while let Some(line) = self.lines.next_line() {
                self.line(&String::from_utf8_lossy(&line), clock, observer)?;
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        text: &str,
        clock: WallClock,
        observer: &mut dyn Observer,
    ) -> Result<(), LoadError> {
        self.report.lines += 1;
        let found = match parse(text) {
            Parsed::Hwlat(at, sample) => Some((at, self.placing.hwlat(at, sample, clock))),
            Parsed::Osnoise(at, sample) => Some((at, self.placing.osnoise(at, sample))),
            Parsed::Lost(events) => {
                // Where the kernel lost count, it was one at least.
                self.report.lost_events = self.report.lost_events.saturating_add(events.max(1));
                None
            }
            Parsed::Damaged => {
                self.report.unread_lines += 1;
                None
            }
            Parsed::Other => None,
        };
        let gap = match found {
            Some((at, placed)) => self.gap(at, placed, observer)?,
            None => None,
        };
        Ok(observer.line(MeterLine { text: text.into(), gap })?)
    }

    fn gap(
        &mut self,
        at: Context,
        placed: Option<Placed>,
        observer: &mut dyn Observer,
    ) -> io::Result<Option<LineGap>> {
        let taken = placed.and_then(|placed| Some((placed, self.tallies.gap(at.pid, &placed)?)));
        let Some((placed, (thread, keep))) = taken else {
            self.report.unread_lines += 1;
            return Ok(None);
        };
        if keep {
            observer.gaps(thread, &[placed.record])?;
        }
        let gap = Gap { thread, record: placed.record };
        let limit = self.load.threshold.map(|limit| ns_to_ticks(as_ns(limit), self.placing.khz));
        if limit.is_some_and(|limit| gap.record.ticks() > limit) && self.hit_tsc.is_none() {
            self.hit_tsc = Some(gap.record.tsc_end);
            // At once, and not after the lines that follow.
            observer.hit(ThresholdHit { tid: at.pid, gap })?;
        }
        Ok(Some(LineGap { gap, earlier_ticks: placed.earlier_ticks, more: placed.more }))
    }

    fn finish(mut self, tsc_end: u64, times: &[Option<ThreadTime>], tsc: TscReport) -> LoadReport {
        let elapsed_ticks = tsc_end.saturating_sub(self.placing.tsc_start);
        let guess = self.measured_ticks(elapsed_ticks);
        let (which, khz) = (self.tracer.which, self.placing.khz);
        let guess_ns = ticks_to_ns(guess, khz);
        let busy: Vec<_> = times
            .iter()
            .map(|time| {
                let told = time.map(|time| ns_to_ticks(time.measured_ns(which, guess_ns), khz));
                told.unwrap_or(guess).min(elapsed_ticks)
            })
            .collect();
        let threads = self.tallies.threads(times, &busy);
        self.tallies.complete(&mut self.report);
        let report =
            LoadReport { tsc_end, tsc, threads, meter: Some(self.report), ..LoadReport::default() };
        match self.hit_tsc {
            Some(hit_tsc) => report.until(self.placing.tsc_start, hit_tsc),
            None => report,
        }
    }

    /// For how long each CPU was measured, where the scheduler does not tell: the width of
    /// each window, as if none had been late.
    fn measured_ticks(&self, elapsed_ticks: u64) -> u64 {
        let facts = &self.tracer.facts;
        let (window, width) = (facts.window_us.unwrap_or(1), facts.width_us.unwrap_or(1));
        let in_turn = facts.mode == Some(MeterMode::RoundRobin);
        let cpus = if in_turn { self.load.cpus.len() as u64 } else { 1 };
        let product = u128::from(elapsed_ticks) * u128::from(width);
        let ticks = product / (u128::from(window) * u128::from(cpus)).max(1);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// An error, unless it is of this kind.
fn unless(kind: io::ErrorKind, error: io::Error) -> io::Result<()> {
    if error.kind() == kind { Ok(()) } else { Err(error) }
}
