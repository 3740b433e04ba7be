// SPDX-License-Identifier: Apache-2.0
//! A machine that runs: attended from its first instruction to its result.

mod cmdline;
mod conclude;
mod ending;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use protocol::frame::encode_command;
use protocol::message::Command;
use protocol::names::{CONTROL_PORT, TRACE_PORT};
use results::folder::FolderError;
use results::model::{LostPin, RunResult, Stage};
use vmm::config::Transport;
use vmm::vcpu::{ExitReason, VcpuEnd};
use vmm::vm::Running;

use self::ending::Ending;
use super::console::Console;
use super::plan::Plan;
use crate::caller::Meanwhile;
use crate::disk::Disk;
use crate::host_steal::HostEvidence;
use crate::mapped_trace::TraceMemory;
use crate::measurement::{Measurement, Span};
use crate::service::{self, Attendant, Event};
use crate::session::{GRACE, Notice};
use crate::status::ExitStatus;
use crate::trace_file::TraceFile;
use crate::verdict::End;
use crate::wall::WallLimit;

/// Interval at which the main thread looks at the console and the deadlines.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A machine that runs, and the measurement in it.
pub(super) struct Attempt {
    pub(super) plan: Plan,
    pub(super) measurement: Measurement,
    /// What others did while the load ran, once it has ended.
    pub(super) meanwhile: Option<(Meanwhile, Vec<LostPin>)>,
    pub(super) console: Console,
    pub(super) trace_file: TraceFile,
    pub(super) trace_written: Arc<AtomicU64>,
    /// How much of it has been seen to arrive.
    pub(super) trace_seen: u64,
    pub(super) trace_memory: Option<TraceMemory>,
    /// Why the ring buffers cannot be read in guest memory, once that was asked.
    pub(super) ring_answer: Option<Result<(), String>>,
    /// Difference between the kernel's command line and the one it was given.
    pub(super) cmdline_fault: Option<String>,
    pub(super) running: Running,
    pub(super) host_evidence: HostEvidence,
    pub(super) transport: Transport,
    pub(super) wall: WallLimit,
    pub(super) disk: Disk,
    /// Why the agent was told to end early, and until when it may answer.
    pub(super) ending: Option<(Ending, Instant)>,
    /// Time that the machine took to stop, once it has.
    pub(super) stopped_in: Option<Duration>,
}

impl Attempt {
    /// From the first guest instruction to the result.
    pub(super) fn watch(mut self, inbox: &Receiver<Event>, begin: Instant) -> Concluded {
        let end = service::serve(&mut self, inbox, POLL_INTERVAL);
        let decided = Instant::now();
        self.sample_host();
        // Only a guest that does not answer has something to tell by its registers.
        let mut ends = self.stop(inbox, decided, matches!(end, End::Late(_)));
        self.drain_console();
        // A kernel that has died before its console has drawn why.
        let drawn = self.console.drawn.take(&self.running);
        self.log(&drawn);
        if let Some(rest) = self.console.lines.rest() {
            self.measurement.show.remark(&rest);
        }
        if let End::Vcpu(end) = &end {
            ends.push(end.clone());
        }
        self.conclude(&end, ends, Span { begin, decided })
    }

    /// Stops the machine and returns the ends of its vCPUs. What it says meanwhile is taken.
    fn stop(&mut self, inbox: &Receiver<Event>, decided: Instant, dump: bool) -> Vec<VcpuEnd> {
        let mut garbled = None;
        let session = &mut self.measurement.session;
        let stopped = service::stop(&mut self.running, inbox, dump, |bytes| {
            if let Err(error) = session.take(bytes, decided) {
                garbled.get_or_insert(error);
            }
        });
        if let Some(error) = garbled {
            self.measurement.note(format!("the guest's last words made no sense: {error}"));
        }
        // The results stand, whatever became of the machine.
        self.stopped_in = stopped.took.as_ref().ok().copied();
        let fault = stopped.took.err();
        fault.into_iter().for_each(|error| self.measurement.note(error.to_string()));
        stopped.ends
    }

    /// What of the guest's messages wants more than to be told.
    fn control(&mut self, bytes: &[u8]) -> Option<End> {
        let notices = match self.measurement.session.take(bytes, Instant::now()) {
            Ok(notices) => notices,
            Err(error) => return Some(End::Garbled(error.to_string())),
        };
        notices.into_iter().for_each(|notice| self.announce(&notice));
        self.cmdline_fault.take().map(End::NotAsTold)
    }

    /// Asks the agent to end early. False if it cannot answer yet.
    fn ask_to_stop(&self) -> bool {
        self.measurement.session.stage() == Stage::Run && self.tell(Command::Stop)
    }

    /// Ends the run, at once where nobody can be asked to.
    fn end_early(&mut self, ending: Ending) -> Option<End> {
        if !self.ask_to_stop() {
            return Some(ending.into());
        }
        self.ending = Some((ending, Instant::now() + GRACE));
        None
    }

    /// Sends the agent a command. False if it takes none.
    fn tell(&self, command: Command) -> bool {
        let console = self.running.console();
        encode_command(command).is_ok_and(|frame| console.send(CONTROL_PORT, &frame).is_ok())
    }

    fn announce(&mut self, notice: &Notice) {
        match notice {
            Notice::Alive => self.compare_cmdlines(),
            Notice::VmConsole(vm, bytes) => {
                if let Err(error) = self.measurement.folder.log_vm(*vm, bytes) {
                    let note = format!("a VM's console is incomplete: {error}");
                    self.measurement.note_once(note);
                }
            }
            Notice::TraceInMemory => self.answer_about_ring(),
            Notice::Started | Notice::Second(_) => {
                self.host_evidence.judge(&mut self.measurement.session);
            }
            _ => {}
        }
        self.measurement.announce(notice);
    }

    /// Shows how far it is, for who waits.
    fn show_progress(&mut self, now: Instant) {
        let Measurement { session, show, .. } = &mut self.measurement;
        let written = self.trace_written.load(Ordering::Acquire);
        if written != self.trace_seen {
            self.trace_seen = written;
            session.progressed(now);
            show.progress(written);
        }
        if session.stage() == Stage::Boot {
            show.progress(now.duration_since(session.entered[0].1).as_secs());
        }
    }

    fn drain_console(&mut self) {
        let bytes = self.console.drawn.before(self.console.ring.take(), &self.running);
        self.log(&bytes);
    }

    /// Keeps what the kernel has said.
    fn log(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.console.tail.push(bytes);
        if self.plan.args.machine.debug_boot
            && let Some(lines) = self.console.lines.push(bytes)
        {
            self.measurement.show.remark(lines.trim_end());
        }
        let room = self.plan.args.show.caps.max_console_kib.saturating_mul(1024);
        let bytes = self.console.within(bytes, room);
        if self.console.dropped_bytes > 0 {
            let note = "console.log is full (--max-console): what came after it is dropped";
            self.measurement.note_once(note.to_owned());
        }
        if let Err(error) = self.measurement.folder.log(bytes)
            && !std::mem::replace(&mut self.console.lost, true)
        {
            self.measurement.note(format!("console.log is incomplete: {error}"));
        }
    }
}

impl Attendant for Attempt {
    type End = End;

    fn event(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Control(bytes) => self.control(&bytes),
            Event::Vcpu(end) => (end.reason != ExitReason::Stopped)
                .then(|| Ending::or(self.ending.as_ref(), End::Vcpu(end))),
            // There is no second one: the process leaves at once then.
            Event::Signal(signal) => self.end_early(Ending::Signal(signal)),
        }
    }

    fn poll(&mut self) -> Option<End> {
        let now = Instant::now();
        if matches!(self.measurement.session.stage(), Stage::Finish | Stage::PowerOff) {
            self.sample_host();
        }
        self.drain_console();
        self.host_evidence.sample();
        self.show_progress(now);
        let session = &self.measurement.session;
        match &self.ending {
            // The guest's own end comes with its results, as asked.
            Some((ending, deadline)) if session.bye || now >= *deadline => {
                return Some(ending.clone().into());
            }
            None if let Some(over) = self.wall.overrun(now, session.stage()) => {
                return self.end_early(Ending::Overrun(over));
            }
            None if let Some(short) = self.disk.poll(now, session.stage()) => {
                return self.end_early(Ending::NoRoom(short));
            }
            _ => {}
        }
        if session.report.is_some() && self.running.console().port_error(TRACE_PORT).is_some() {
            // The agent waits for a port that takes nothing any more.
            return Some(Ending::or(self.ending.as_ref(), End::TraceLost));
        }
        (now >= session.deadline())
            .then(|| Ending::or(self.ending.as_ref(), End::Late(session.stage())))
    }

    fn gone(&mut self) -> End {
        Ending::or(self.ending.as_ref(), End::Gone)
    }
}

/// What a run has come to.
pub(super) struct Concluded {
    pub(super) status: ExitStatus,
    pub(super) result: RunResult,
    /// Whether the result is in its folder.
    pub(super) kept: Result<(), FolderError>,
}
