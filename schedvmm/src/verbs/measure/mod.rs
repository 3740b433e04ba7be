// SPDX-License-Identifier: Apache-2.0
//! The main job: one kernel, one machine, one load, one result.

mod cmdline;
mod conclude;
mod loading;
pub mod nested;
pub mod plan;
mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use protocol::error::Owner;
use protocol::frame::encode_command;
use protocol::message::Command;
use protocol::names::{CONTROL_PORT, TRACE_PORT};
use results::clock::Clock;
use results::folder::Folder;
use results::model::{KernelFacts, LostPin, Machine, Pins, Stage};
use vmm::config::Transport;
use vmm::vcpu::{ExitReason, VcpuEnd, sched};
use vmm::virtio::console::{PortKind, PortSpec};
use vmm::vm::{Parts, Running, Vm};

use self::loading::{Laid, Opened};
use crate::absence::HostEvidence;
use crate::analysis::parted::clock_of;
use crate::caller::{Caller, Meanwhile};
use crate::cli::RunArgs;
use crate::deliver::Checkpoints;
use crate::machine;
use crate::mapped_trace::TraceMemory;
use crate::session::{Event, GRACE, Notice, Session};
use crate::show::Show;
use crate::sinks::{ConsoleRing, ControlSink, Tail, TraceSink, WholeLines};
use crate::status::{ExitStatus, Failure, OrFail};
use crate::trace_file::TraceFile;
use crate::verbs::measure::plan::Plan;
use crate::verdict::End;
use crate::{facts, footprint, signals};

/// Name of the console port.
const CONSOLE_PORT: &str = "schedvmm.console";
/// Messages on their way to the main thread; beyond, the guest waits.
const EVENTS_IN_FLIGHT: usize = 256;
/// How often the main thread looks at the console and the deadlines.
const BEAT: Duration = Duration::from_millis(50);

/// How often it looks whether the machine has stopped.
const STOP_BEAT: Duration = Duration::from_millis(1);

/// Does the main job.
///
/// # Errors
/// What kept it from giving an answer, with the status it deserves.
pub fn run(args: &RunArgs) -> Result<ExitStatus, Failure> {
    let begin = Instant::now();
    let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
    signals::forward(events.clone()).or_fail(Owner::Host)?;
    let plan = Plan::make(args)?;
    let caller = Caller::admit(plan.demand())?;
    sched::keep_off(&plan.placement.pins);
    let mut attempt = Attempt::prepare(plan, caller, events)?;
    attempt.built_ms = millis(begin.elapsed());
    Ok(attempt.watch(&inbox, begin))
}

/// A machine that runs, and all that is known of it.
struct Attempt {
    plan: Plan,
    caller: Caller,
    pins: Pins,
    /// What others did while the load ran, once it has ended.
    meanwhile: Option<(Meanwhile, Vec<LostPin>)>,
    show: Show,
    folder: Folder,
    console: ConsoleRing,
    tail: Tail,
    lines: WholeLines,
    trace_file: TraceFile,
    trace_written: Arc<AtomicU64>,
    trace_memory: Option<TraceMemory>,
    /// Why the ring buffers cannot be read in guest memory, once that was asked.
    ring_answer: Option<Result<(), String>>,
    /// How the kernel's command line is another than the one it was given.
    cmdline_fault: Option<String>,
    session: Session,
    running: Running,
    host_evidence: HostEvidence,
    transport: Transport,
    kernel: KernelFacts,
    machine: Machine,
    /// How long the machine took to stop, once it has.
    stopped_in: Option<Duration>,
    notes: Vec<String>,
    built_ms: u64,
    console_lost: bool,
    checkpoints: Checkpoints,
}

impl Attempt {
    /// From the plan to the first guest instruction.
    fn prepare(mut plan: Plan, caller: Caller, events: SyncSender<Event>) -> Result<Self, Failure> {
        let mut notes: Vec<String> = facts::emulation_note().into_iter().collect();
        let opened = Opened::new(&mut plan, &mut notes)?;
        let laid = Laid::new(&mut plan, &opened)?;
        let known = laid.examine(&plan, &opened, &mut notes)?;
        let mut taken = vec![known.line(&opened.kernel)];
        taken.extend(laid.taken());
        // Only now: what can be refused has been.
        let stamp = plan.started_utc.replace(':', "");
        let folder = Folder::create(plan.args.show.output.as_deref(), &stamp)?;
        let trace_file = TraceFile::new(plan.args.trace.trace_file.as_deref(), folder.path());
        let console = ConsoleRing::default();
        let (trace_sink, trace_path, trace_written) = TraceSink::later();
        // Nobody else has told it a place.
        let _ = trace_path.set(trace_file.raw().to_owned());
        let ports = ports(console.clone(), events.clone(), trace_sink);
        let trace_memory = plan.trace_memory(opened.kernel.image.version());
        let Opened { hypervisor, kernel, modules, .. } = opened;
        let (config, loaded) = laid.into_parts();
        let serial = config.serial.then(|| Box::new(console.clone()) as _);
        let vm = Vm::build(&hypervisor, &config, Parts { loaded, ports, serial })
            .map_err(|error| machine::build_failure(&kernel.path, error))?;
        notes.extend(plan.placement.notes.iter().cloned());
        notes.extend(vm.kernel().note.clone());
        notes.extend(modules.note());
        notes.extend(caller.notes());
        let facts = loading::kernel_facts(&plan, &kernel, known, &vm, &folder);
        // The file's bytes have served; memory beside guest RAM is kept small.
        drop(kernel);
        let machine = plan.describe(&vm, &modules);
        let found = vm.facts();
        let limits = plan.limits();
        let show = Show::new(plan::style(&plan.args.show), plan.args.nested.show_vm);
        show.notes(&taken);
        show.notes(&notes);
        show.phase("boot", limits.boot.as_secs());
        let session = Session::new(limits, Instant::now());
        footprint::give_back();
        let running = vm.start(move |end| {
            // Nobody listens any more once the run has ended.
            let _ = events.send(Event::Vcpu(end));
        })?;
        let host_evidence = plan.host_evidence(&running, found);
        let mut attempt = Self {
            plan,
            caller,
            pins: Pins::default(),
            meanwhile: None,
            show,
            folder,
            console,
            tail: Tail::default(),
            lines: WholeLines::default(),
            trace_file,
            trace_written,
            trace_memory,
            ring_answer: None,
            cmdline_fault: None,
            session,
            running,
            host_evidence,
            transport: found.transport,
            kernel: facts,
            machine,
            stopped_in: None,
            notes,
            built_ms: 0,
            console_lost: false,
            checkpoints: Checkpoints::default(),
        };
        attempt.host_evidence.note().into_iter().for_each(|note| attempt.note(note));
        Ok(attempt)
    }

    /// From the first guest instruction to the exit status.
    fn watch(mut self, inbox: &Receiver<Event>, begin: Instant) -> ExitStatus {
        let end = self.events(inbox);
        let decided = Instant::now();
        self.look_around();
        // Only a guest that does not answer has something to tell by its registers.
        let mut ends = self.stop(inbox, decided, matches!(end, End::Late(_)));
        self.drain_console();
        if let Some(rest) = self.lines.rest() {
            self.show.remark(&rest);
        }
        if let End::Vcpu(end) = &end {
            ends.push(end.clone());
        }
        self.conclude(&end, ends, decided, begin)
    }

    /// Stops the machine and returns the ends of its vCPUs. What it says meanwhile is taken:
    /// a thread that finds the inbox full does not end.
    fn stop(&mut self, inbox: &Receiver<Event>, decided: Instant, dump: bool) -> Vec<VcpuEnd> {
        let mut ends: Vec<VcpuEnd> = Vec::new();
        let Self { running, session, .. } = self;
        let mut garbled = None;
        let mut take = |event| match event {
            Event::Vcpu(end) => ends.push(end),
            Event::Control(bytes) => {
                if let Err(error) = session.take(&bytes, decided) {
                    garbled.get_or_insert(error);
                }
            }
            Event::Signal(_) => {}
        };
        let stopped = thread::scope(|scope| {
            let stop = scope.spawn(|| running.stop(dump));
            while !stop.is_finished() {
                if let Ok(event) = inbox.recv_timeout(STOP_BEAT) {
                    take(event);
                }
            }
            stop.join()
        });
        inbox.try_iter().for_each(take);
        if let Some(error) = garbled {
            self.note(format!("the guest's last words made no sense: {error}"));
        }
        // The results stand, whatever became of the machine.
        let stopped = match stopped {
            Ok(stopped) => stopped.map_err(|error| error.to_string()),
            Err(_) => Err("stopping the machine panicked: this is a defect, report it".into()),
        };
        self.stopped_in = stopped.as_ref().ok().copied();
        stopped.err().into_iter().for_each(|error| self.note(error));
        ends
    }

    /// Serves events until there is an end.
    fn events(&mut self, inbox: &Receiver<Event>) -> End {
        let mut traced = 0;
        let mut signalled: Option<(i32, Instant)> = None;
        loop {
            match inbox.recv_timeout(BEAT) {
                Ok(Event::Control(bytes)) => match self.session.take(&bytes, Instant::now()) {
                    Ok(notices) => {
                        notices.into_iter().for_each(|notice| self.announce(&notice));
                        if let Some(fault) = self.cmdline_fault.take() {
                            return End::NotAsTold(fault);
                        }
                    }
                    Err(error) => return End::Garbled(error.to_string()),
                },
                Ok(Event::Vcpu(end)) if end.reason == ExitReason::Stopped => {}
                Ok(Event::Vcpu(end)) => return End::Vcpu(end),
                Ok(Event::Signal(signal)) => {
                    // There is no second one: the process leaves at once then.
                    if !self.ask_to_stop() {
                        return End::Signal(signal);
                    }
                    signalled = Some((signal, Instant::now() + GRACE));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return End::Gone;
                }
            }
            let now = Instant::now();
            if matches!(self.session.stage(), Stage::Finish | Stage::PowerOff) {
                self.look_around();
            }
            self.drain_console();
            self.host_evidence.look();
            let written = self.trace_written.load(Ordering::Acquire);
            if written != traced {
                traced = written;
                self.session.progressed(now);
                self.show.progress(written);
            }
            if self.session.stage() == Stage::Boot {
                self.show.progress(now.duration_since(self.session.entered[0].1).as_secs());
            }
            match signalled {
                // The guest's own end comes with its results, as asked.
                Some((signal, _)) if self.session.bye => return End::Signal(signal),
                Some((signal, deadline)) if now >= deadline => return End::Signal(signal),
                _ => {}
            }
            if self.session.report.is_some()
                && self.running.console().port_error(TRACE_PORT).is_some()
            {
                // The agent waits for a port that takes nothing any more.
                return End::TraceLost;
            }
            if now >= self.session.deadline() {
                return End::Late(self.session.stage());
            }
        }
    }

    /// Asks the agent to end early. False if it cannot answer yet.
    fn ask_to_stop(&self) -> bool {
        self.session.stage() == Stage::Run && self.tell(Command::Stop)
    }

    /// Sends the agent a command. False if it takes none.
    fn tell(&self, command: Command) -> bool {
        let console = self.running.console();
        encode_command(command).is_ok_and(|frame| console.send(CONTROL_PORT, &frame).is_ok())
    }

    fn announce(&mut self, notice: &Notice) {
        if let Notice::Started = notice {
            self.caller.load_begins();
            // Now: who wants the trace need not wait for the end of a run without it.
            self.session.notes_at_start().into_iter().for_each(|note| self.note(note));
        }
        if let Notice::Alive = notice {
            self.compare_cmdlines();
        }
        if let Notice::VmConsole(vm, bytes) = notice
            && let Err(error) = self.folder.log_vm(*vm, bytes)
        {
            self.note_once(format!("a VM's console is incomplete: {error}"));
        }
        if let Notice::TraceInMemory = notice {
            self.answer_about_ring();
        }
        self.show.notice(notice, self.clock(), self.plan.job.load.duration);
        if let Notice::Started | Notice::Second(_) = notice {
            self.checkpoint();
        }
    }

    /// What was measured until now outlives this process.
    fn checkpoint(&mut self) {
        let begin = Instant::now();
        self.host_evidence.judge(&mut self.session.gaps);
        let result = self.checkpoints.result_is_due().then(|| self.result_so_far());
        let clock = clock_of(&self.session, &self.plan.job.load);
        let gaps = (self.session.gaps.as_slice(), clock);
        let lost = self.checkpoints.keep(&mut self.folder, gaps, result.as_ref(), begin);
        lost.into_iter().for_each(|note| self.note(note));
    }

    fn clock(&self) -> Clock<'_> {
        clock_of(&self.session, &self.plan.job.load)
    }

    fn drain_console(&mut self) {
        let bytes = self.console.take();
        if bytes.is_empty() {
            return;
        }
        self.tail.push(&bytes);
        if self.plan.args.machine.debug_boot
            && let Some(lines) = self.lines.push(&bytes)
        {
            self.show.remark(lines.trim_end());
        }
        if let Err(error) = self.folder.log(&bytes)
            && !std::mem::replace(&mut self.console_lost, true)
        {
            self.note(format!("console.log is incomplete: {error}"));
        }
    }

    fn note_once(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.note(note);
        }
    }

    /// Tells what came up after the start, and keeps it for the result.
    fn note(&mut self, note: String) {
        self.show.notes(std::slice::from_ref(&note));
        self.notes.push(note);
    }
}

fn ports(console: ConsoleRing, events: SyncSender<Event>, trace: TraceSink) -> Vec<PortSpec> {
    let port = |name: &str, kind, sink| PortSpec { name: name.to_owned(), kind, sink };
    vec![
        port(CONSOLE_PORT, PortKind::Console, Box::new(console)),
        port(CONTROL_PORT, PortKind::Generic, Box::new(ControlSink(events))),
        port(TRACE_PORT, PortKind::Generic, Box::new(trace)),
    ]
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
