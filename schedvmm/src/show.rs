// SPDX-License-Identifier: Apache-2.0
//! What the user sees. Output that cannot be written (a closed pipe) is lost, and the run
//! goes on: its results are in the folder.

mod screen;

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use protocol::message::{ThresholdHit, Tick};
use protocol::vm::VmPhase;
use results::clock::Clock;
use results::json;
use results::model::{Answer, RunResult};

pub use self::screen::{noise_words, warmup_line};
use self::screen::{screen, verdict_line};
use crate::cli::{ShowArgs, ShowVm};
use crate::progress::Progress;
use crate::session::Notice;
use crate::terminal::{self, one_line};
use crate::units::show_ns;

/// Which lines go to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Our own.
    Screen,
    /// Those of the original benchmark.
    Compat,
    /// Nothing but result.json at the end.
    Json,
    /// Nothing: whoever does many runs shows what they come to.
    Quiet,
}

impl Style {
    /// The style that the options ask for.
    pub fn of(args: &ShowArgs) -> Self {
        match (args.quiet, args.json, args.compat) {
            (true, ..) => Self::Quiet,
            (_, true, _) => Self::Json,
            (.., true) => Self::Compat,
            _ => Self::Screen,
        }
    }

    /// Whether stdout is for people, and they want to know what goes on.
    fn is_told(self) -> bool {
        matches!(self, Self::Screen | Self::Compat)
    }
}

/// The terminal: lines on stdout, a progress bar on stderr where that is a terminal.
pub struct Show {
    style: Style,
    show_vm: ShowVm,
    bar: Progress,
    waiting_for: RefCell<String>,
}

impl Show {
    /// Output in this style; of virtual machines, with the lines of these.
    pub fn new(style: Style, show_vm: ShowVm) -> Self {
        Self::on(Progress::new(), style, show_vm)
    }

    fn on(bar: Progress, style: Style, show_vm: ShowVm) -> Self {
        Self { style, show_vm, bar, waiting_for: RefCell::default() }
    }

    /// One line on stdout, the progress bar out of its way.
    pub fn line(&self, text: &str) {
        self.bar.aside(|| {
            terminal::out(text);
        });
    }

    /// One line on stderr, for a person only.
    pub fn remark(&self, text: &str) {
        self.bar.aside(|| {
            terminal::err(&format!("schedvmm: {text}"));
        });
    }

    /// Starts a phase of so many steps.
    pub fn phase(&self, name: &'static str, steps: u64) {
        self.bar.phase(name, steps);
    }

    /// Moves the bar.
    pub fn progress(&self, step: u64) {
        self.bar.at(step);
    }

    /// The bar, for what takes long.
    pub fn bar(&self) -> &Progress {
        &self.bar
    }

    /// Remarks for a person; whoever reads JSON finds them there.
    pub fn notes(&self, notes: &[String]) {
        if self.style.is_told() {
            notes.iter().for_each(|note| self.remark(&one_line(note)));
        }
    }

    /// What is worth showing at once.
    pub fn notice(&self, notice: &Notice, clock: Clock<'_>, duration: Duration) {
        match notice {
            Notice::Alive => {}
            Notice::Started => self.phase("run", duration.as_secs()),
            Notice::Second(tick) => {
                self.second(*tick, clock);
                self.progress(u64::from(tick.second));
            }
            Notice::Line(..) if !self.style.is_told() => {}
            Notice::Line(None, line) => self.line(&one_line(&line.text)),
            Notice::Line(Some(vm), line) => match self.show_vm {
                ShowVm::All => self.line(&format!("VM {vm}: {}", one_line(&line.text))),
                // The kernel's own format, and nothing before it.
                ShowVm::Only(only) if only == *vm => self.line(&one_line(&line.text)),
                ShowVm::Only(_) | ShowVm::None => {}
            },
            Notice::Waiting(for_what) => self.waiting(for_what),
            Notice::Vm(status) => {
                if let Some(fault) = &status.fault
                    && status.phase == VmPhase::Ended
                    && self.style.is_told()
                {
                    self.remark(&format!("VM {} {}", status.vm, one_line(fault)));
                }
            }
            Notice::VmConsole(..) | Notice::TraceInMemory => {}
            Notice::Hit(hit) => self.hit(*hit, clock),
            Notice::TraceComing(bytes) => self.phase("dump", *bytes),
        }
    }

    /// On a terminal the bar moves; elsewhere a line tells when something has changed.
    fn waiting(&self, for_what: &str) {
        let mut last = self.waiting_for.borrow_mut();
        if *last != for_what && self.style.is_told() {
            self.remark(&format!("waiting for {}", one_line(for_what)));
            for_what.clone_into(&mut last);
        }
    }

    /// The line of one second.
    fn second(&self, tick: Tick, clock: Clock<'_>) {
        let ticks = tick.longest.map_or(0, |gap| gap.record.ticks());
        let ns = clock.ns(ticks);
        match self.style {
            Style::Json | Style::Quiet => {}
            Style::Compat => self.line(&compat_second(ns, ticks, tick.online)),
            Style::Screen => {
                let gap = tick.longest.map_or_else(
                    || "no gap".to_owned(),
                    |gap| {
                        format!(
                            "longest gap {:>9}  {}",
                            show_ns(ns),
                            clock.name_of(gap.thread as usize)
                        )
                    },
                );
                self.line(&format!("{:>4} s  {gap}  {} online", tick.second, tick.online));
            }
        }
    }

    /// The gap that ends the run.
    fn hit(&self, hit: ThresholdHit, clock: Clock<'_>) {
        let record = hit.gap.record;
        let ns = clock.ns(record.ticks());
        match self.style {
            Style::Json | Style::Quiet => {}
            Style::Compat => {
                self.line(&format!("diff: {}ms", ns / 1_000_000));
                self.line(&format!("TID: {}", hit.tid));
                self.line(&format!("TSC: {}", record.tsc_end));
            }
            Style::Screen => self.line(&format!(
                "gap over the threshold: {} in {} (tid {})",
                show_ns(ns),
                clock.name_of(hit.gap.thread as usize),
                hit.tid
            )),
        }
    }

    /// Prints a result that could not be written, unless it has been printed anyway.
    pub fn rescue(&self, result: &RunResult) {
        if self.style != Style::Json {
            self.json(result);
        }
    }

    fn json(&self, result: &RunResult) {
        match json::pretty(result) {
            Ok(text) => self.line(&text),
            Err(error) => self.remark(&format!("cannot print the result: {error}")),
        }
    }

    /// The end: a screen, or the whole result as JSON.
    pub fn end(&self, result: &RunResult, folder: &Path) {
        self.bar.done();
        match self.style {
            // The original's lines have no place for a verdict; one that is plain needs none.
            Style::Compat if is_plain(result) => {}
            Style::Compat => self.remark(&verdict_line(result, result.job.load.threshold)),
            Style::Screen => self.line(&screen(result, folder)),
            Style::Json => self.json(result),
            Style::Quiet => {}
        }
    }
}

/// What a run prints at its end, for who wants it again.
pub fn end_of(result: &RunResult, folder: &Path) -> String {
    screen(result, folder)
}

/// Whether nothing is to be said of a result beside its figures.
fn is_plain(result: &RunResult) -> bool {
    let answer = matches!(result.verdict, Answer::Pass | Answer::OverThreshold);
    answer && result.reason.is_empty() && !result.cosched.missing
}

fn compat_second(ns: u64, ticks: u64, online: u32) -> String {
    format!("Max latency: {} ms ({ticks} ticks, {online} online)", ns / 1_000_000)
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;
    use crate::testing;

    #[test]
    fn every_phase_has_its_bar() {
        let terminal = InMemoryTerm::new(5, 80);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let show = Show::on(Progress::on(target), Style::Json, ShowVm::None);
        let shows = |name: &str, done: usize| {
            show.bar.force_draw();
            let (text, bar) = (terminal.contents(), "=".repeat(done));
            assert!(text.contains(name) && text.contains(&format!("[{bar}>")), "{name}: {text}");
        };
        let load = testing::load(1, 1, 1);
        let clock = Clock::new(1_000_000, 0, &load);
        let seconds = Duration::from_secs(20);
        show.phase("boot", 40);
        show.progress(4);
        shows("boot", 4);
        show.notice(&Notice::Started, clock, seconds);
        show.notice(&Notice::Second(Tick { second: 10, ..Tick::default() }), clock, seconds);
        shows("run", 20);
        show.notice(&Notice::TraceComing(8 << 20), clock, seconds);
        show.progress(6 << 20);
        shows("dump", 30);
        show.bar().done();
        assert_eq!(terminal.contents(), "");
    }

    #[test]
    fn compat_is_the_originals_line() {
        let line = compat_second(47_900_000, 119_754_120, 16);
        assert_eq!(line, "Max latency: 47 ms (119754120 ticks, 16 online)");
    }
}
