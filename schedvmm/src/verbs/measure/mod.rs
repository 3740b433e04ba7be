// SPDX-License-Identifier: Apache-2.0
//! The main job: one kernel, one machine, one load, one result.

mod cmdline;
mod conclude;
mod console;
mod describe;
mod ending;
mod loading;
pub mod nested;
pub mod plan;
pub mod repeated;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use protocol::error::Owner;
use protocol::frame::encode_command;
use protocol::message::Command;
use protocol::names::{CONTROL_PORT, TRACE_PORT};
use results::folder::{Folder, FolderError};
use results::model::{LostPin, RunResult, Stage};
use vmm::config::Transport;
use vmm::vcpu::{ExitReason, VcpuEnd, sched};
use vmm::vm::{Parts, Running, Vm};

use self::console::{Console, ports};
use self::ending::Ending;
use self::loading::{Laid, Opened};
use crate::caller::{Caller, Meanwhile};
use crate::cli::RunArgs;
use crate::compose::Origin;
use crate::disk::Disk;
use crate::host_steal::HostEvidence;
use crate::kernel::Known;
use crate::machine;
use crate::mapped_trace::TraceMemory;
use crate::measurement::{Measurement, Span, millis};
use crate::service::{self, Attendant, Event};
use crate::session::{GRACE, Notice};
use crate::sinks::TraceSink;
use crate::status::{ExitStatus, Failure, OrFail};
use crate::trace_file::TraceFile;
use crate::verbs::measure::plan::Plan;
use crate::verdict::End;
use crate::wall::WallLimit;
use crate::{facts, footprint, printer, signals};

/// Messages on their way to the main thread; beyond, the guest waits.
const EVENTS_IN_FLIGHT: usize = 256;
/// Interval at which the main thread looks at the console and the deadlines.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Does the main job.
///
/// # Errors
/// What kept it from giving an answer, with the status it deserves.
pub fn run(args: &RunArgs) -> Result<ExitStatus, Failure> {
    let begin = Instant::now();
    let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
    signals::forward(events.clone()).or_fail(Owner::Host)?;
    let mut plan = Plan::make(args)?;
    let caller = Caller::admit(plan.demand())?;
    sched::keep_off(&plan.placement.pins);
    printer::keep_off(&plan.placement.pins);
    let mut notes: Vec<String> = facts::emulation_note().into_iter().collect();
    // 1. Host, kernel, modules, initrd: in memory, and found to do.
    let opened = Opened::new(&mut plan, &mut notes)?;
    let laid = Laid::new(&mut plan, &opened, None)?;
    let known = laid.examine(&plan, &opened, &mut notes)?;
    // 2. to 4. The machine, and the measurement in it.
    let built = Built::new(plan, caller, &opened, Ready { laid, known, notes }, events.clone())?;
    // The file's bytes have served; memory beside guest RAM is kept small.
    drop(opened);
    // 5. The first guest instruction.
    let mut attempt = built.start(events, begin)?;
    attempt.measurement.built_ms = millis(begin.elapsed());
    Ok(attempt.watch(&inbox, begin).status)
}

/// A kernel in a machine's memory that will do.
struct Ready {
    laid: Laid,
    known: Known,
    /// What is to be said of all that.
    notes: Vec<String>,
}

/// A machine before its first instruction, and all that watches it.
struct Built {
    plan: Plan,
    measurement: Measurement,
    console: Console,
    trace_file: TraceFile,
    trace_written: Arc<AtomicU64>,
    trace_memory: Option<TraceMemory>,
    vm: Vm,
}

/// What a run has come to.
struct Concluded {
    status: ExitStatus,
    result: RunResult,
    /// Whether the result is in its folder.
    kept: Result<(), FolderError>,
}

impl Built {
    /// From what is in memory to a machine before its first instruction.
    fn new(
        plan: Plan,
        caller: Caller,
        opened: &Opened,
        ready: Ready,
        events: SyncSender<Event>,
    ) -> Result<Self, Failure> {
        let Ready { laid, known, mut notes } = ready;
        let Opened { hypervisor, kernel, drivers, .. } = opened;
        let modules = &drivers.modules;
        let mut taken = vec![known.line(kernel)];
        taken.extend(opened.taken());
        // 2. What can be refused has been: the result's folder, and where the ports lead.
        let stamp = plan.started_utc.replace(':', "");
        let mut folder = Folder::create(plan.args.show.output.as_deref(), &stamp)?;
        folder.limit_gaps(plan.args.show.caps.max_gaps_csv_kib.saturating_mul(1024));
        let trace_file = TraceFile::new(plan.args.trace.trace_file.as_deref(), folder.path());
        let console = Console::default();
        let (trace_sink, trace_path, trace_written) =
            TraceSink::later(plan.args.show.caps.max_trace_kib);
        // Nobody else has told it a place.
        let _ = trace_path.set(trace_file.raw().to_owned());
        let ports = ports(console.ring.clone(), events, trace_sink);
        let trace_memory = plan.trace_memory(kernel.image.version());
        // 3. The machine.
        let (config, loaded) = laid.into_parts();
        let serial = config.serial.then(|| Box::new(console.ring.clone()) as _);
        let vm = Vm::build(hypervisor, &config, Parts { loaded, ports, serial })
            .map_err(|error| machine::build_failure(&kernel.path, error))?;
        // 4. The measurement, which begins with the boot.
        notes.extend(plan.placement.notes.iter().cloned());
        notes.extend(vm.kernel().note.clone());
        notes.extend(modules.note());
        notes.extend(caller.notes());
        let facts = plan.kernel_facts(kernel, known, &vm, &folder);
        let origin = Origin { notes, ..plan.origin(facts, plan.describe(&vm, modules)) };
        let measurement = plan.measurement(origin, caller, folder, &taken);
        Ok(Self { plan, measurement, console, trace_file, trace_written, trace_memory, vm })
    }

    /// To the first guest instruction, of a run that began at `begin`.
    fn start(self, events: SyncSender<Event>, begin: Instant) -> Result<Attempt, Failure> {
        let Self { plan, measurement, console, trace_file, trace_written, trace_memory, vm } = self;
        let found = vm.facts();
        let wall = WallLimit::start(plan.wall_limit(), begin).or_fail(Owner::Host)?;
        footprint::give_back();
        let disk = Disk::of(measurement.folder.path(), plan.args.show.caps.min_free_kib);
        let running = vm.start(service::tell_end(events))?;
        let host_evidence = plan.host_evidence(&running, found);
        let mut attempt = Attempt {
            plan,
            measurement,
            meanwhile: None,
            console,
            trace_file,
            trace_written,
            trace_seen: 0,
            trace_memory,
            ring_answer: None,
            cmdline_fault: None,
            running,
            host_evidence,
            transport: found.transport,
            wall,
            disk,
            ending: None,
            stopped_in: None,
        };
        let note = attempt.host_evidence.note();
        note.into_iter().for_each(|note| attempt.measurement.note(note));
        Ok(attempt)
    }
}

/// A machine that runs, and the measurement in it.
struct Attempt {
    plan: Plan,
    measurement: Measurement,
    /// What others did while the load ran, once it has ended.
    meanwhile: Option<(Meanwhile, Vec<LostPin>)>,
    console: Console,
    trace_file: TraceFile,
    trace_written: Arc<AtomicU64>,
    /// How much of it has been seen to arrive.
    trace_seen: u64,
    trace_memory: Option<TraceMemory>,
    /// Why the ring buffers cannot be read in guest memory, once that was asked.
    ring_answer: Option<Result<(), String>>,
    /// Difference between the kernel's command line and the one it was given.
    cmdline_fault: Option<String>,
    running: Running,
    host_evidence: HostEvidence,
    transport: Transport,
    wall: WallLimit,
    disk: Disk,
    /// Why the agent was told to end early, and until when it may answer.
    ending: Option<(Ending, Instant)>,
    /// Time that the machine took to stop, once it has.
    stopped_in: Option<Duration>,
}

impl Attempt {
    /// From the first guest instruction to the result.
    fn watch(mut self, inbox: &Receiver<Event>, begin: Instant) -> Concluded {
        let end = service::serve(&mut self, inbox, POLL_INTERVAL);
        let decided = Instant::now();
        self.look_around();
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

    fn look(&mut self) -> Option<End> {
        let now = Instant::now();
        if matches!(self.measurement.session.stage(), Stage::Finish | Stage::PowerOff) {
            self.look_around();
        }
        self.drain_console();
        self.host_evidence.look();
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
            None if let Some(short) = self.disk.look(now, session.stage()) => {
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
