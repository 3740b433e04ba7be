// SPDX-License-Identifier: Apache-2.0
//! The same load and the same meter on the kernel that runs already: no machine, no root.

mod prepare;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;
use std::{fs, io};

use gaps::record::GapRecord;
use gaps::tsc::clock_ns;
use protocol::error::Owner;
use protocol::job::Job;
use protocol::message::{self, Message, Setup, ThresholdHit, Tick, TraceProgress};
use results::folder::{self, Folder};
use results::host_cpus::HostCpus;
use results::model::{Entered, KernelFacts, Machine, Target, Trace, TraceVia};
use vmm::vcpu::sched;
use vmm::x86_64::notes;
use workload::error::LoadError;
use workload::kernel::info;
use workload::observer::{Observer, Outcome, Prepared};
use workload::tracing::Tracing;
use workload::{noise_floor, setup, supervisor};

use crate::caller::Caller;
use crate::cli::{CapArgs, HostArgs, ShowVm};
use crate::compose::Origin;
use crate::deliver::Checkpoints;
use crate::disk::{Disk, Short};
use crate::measurement::{Measurement, Span, millis};
use crate::overrun::Overrun;
use crate::service::Event;
use crate::session::{Limits, Session};
use crate::show::{Show, Style};
use crate::signals::{self, OnLeave};
use crate::sinks::TraceSink;
use crate::status::{ExitStatus, Failure, OrFail, chain};
use crate::trace_file::{Arrival, TraceFile};
use crate::verbs::host::prepare::{Prepare, Ready};
use crate::verdict::{End, judge};
use crate::wall::WallLimit;
use crate::{facts, printer};

/// Signals on their way to the load's supervisor.
const EVENTS_IN_FLIGHT: usize = 16;

/// Measures the running kernel.
///
/// # Errors
/// What kept it from giving an answer, with the status it deserves.
pub fn run(args: &HostArgs) -> Result<ExitStatus, Failure> {
    let begin = Instant::now();
    let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
    signals::forward(events).or_fail(Owner::Host)?;
    let plan = Prepare::plan(args)?;
    folder::check(args.show.output.as_deref())?;
    let caller = Caller::admit(plan.demand(args.load.allow_quota))?;
    TraceFile::check(args.trace.trace_file.as_deref())?;
    let started_utc = folder::started_utc();
    let mut folder = Folder::create(args.show.output.as_deref(), &started_utc.replace(':', ""))?;
    folder.limit_gaps(args.show.caps.max_gaps_csv_kib.saturating_mul(1024));
    let trace_file = TraceFile::new(args.trace.trace_file.as_deref(), folder.path());
    let show = Show::new(Style::of(&args.show), ShowVm::None);
    // What is not measuring keeps off the CPUs that are measured, if there are others.
    let measured: Vec<_> = plan.job.load.cpus.iter().map(|cpu| *cpu as usize).collect();
    sched::keep_off(&measured);
    printer::keep_off(&measured);
    let mut origin = Origin {
        kernel: running_kernel(&folder),
        machine: Machine { summary: plan.summary(), vm: None },
        // None of ours lie between.
        host_cpus: HostCpus { emulated: facts::emulated(), vcpus: None },
        terms: args.load.terms(facts::on_hardware()),
        limits: args.load.fail_if.clone(),
        started_utc,
        ..Origin::new(Target::Host)
    };
    origin.notes.extend(facts::emulation_note());
    origin.notes.extend(plan.notes.iter().cloned());
    origin.notes.extend(caller.notes());
    show.notes(&origin.notes);
    let measurement = Measurement {
        job: plan.job.clone(),
        session: Session::new(limits(&plan.job), begin),
        origin,
        caller,
        show,
        folder,
        checkpoints: Checkpoints::default(),
        built_ms: 0,
    };
    let bounds = Bounds::of(&args.show.caps, &plan, begin, measurement.folder.path())?;
    let mut run = Run::new(measurement, inbox, bounds, trace_file);
    run.tell(Message::Hello(info::hello(clock_ns(libc::CLOCK_BOOTTIME))));
    run.measurement.built_ms = millis(begin.elapsed());
    let end = run.measure(&plan);
    let Run { mut measurement, trace, .. } = run;
    let span = Span { begin, decided: Instant::now() };
    let terms = measurement.origin.terms;
    let verdict = judge(&measurement.session, &measurement.job, terms, &end, "");
    let (mut result, verdict) = measurement.result(verdict, trace, span);
    // That it could not be written has been told, and the answer stands.
    let _ = measurement.deliver(&mut result);
    Ok(verdict.status())
}

/// What is known of the running kernel; its configuration is copied into the folder.
fn running_kernel(folder: &Folder) -> KernelFacts {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (config, config_source) = folder.copy_config(release.trim()).unzip();
    KernelFacts {
        entered: Entered::Running,
        build_id: fs::read("/sys/kernel/notes").ok().and_then(|all| notes::build_id(&all)),
        config,
        config_source,
        ..KernelFacts::default()
    }
}

fn limits(job: &Job) -> Limits {
    let load = &job.load;
    Limits {
        threads: load.threads(),
        records_per_thread: load.records_per_thread as usize,
        // Nothing boots.
        boot: std::time::Duration::ZERO,
        vms: 0,
        allow_degraded: false,
    }
}

/// What a run may take.
struct Bounds {
    wall: WallLimit,
    disk: Disk,
    max_trace_kib: u64,
}

impl Bounds {
    /// Of a run that began at `begin`, with its result in `folder`.
    fn of(caps: &CapArgs, plan: &Prepare, begin: Instant, folder: &Path) -> Result<Self, Failure> {
        let limit = caps.wall_limit.unwrap_or_else(|| plan.wall_limit());
        let wall = WallLimit::start(limit, begin).or_fail(Owner::Host)?;
        let disk = Disk::of(folder, caps.min_free_kib);
        Ok(Self { wall, disk, max_trace_kib: caps.max_trace_kib })
    }
}

/// A run under way.
struct Run {
    measurement: Measurement,
    inbox: Receiver<Event>,
    signal: Option<i32>,
    bounds: Bounds,
    overrun: Option<Overrun>,
    short: Option<Short>,
    trace: Trace,
    trace_file: TraceFile,
}

impl Run {
    fn new(
        measurement: Measurement,
        inbox: Receiver<Event>,
        bounds: Bounds,
        trace_file: TraceFile,
    ) -> Self {
        let trace = Trace::default();
        let (signal, overrun, short) = (None, None, None);
        Self { measurement, inbox, signal, bounds, overrun, short, trace, trace_file }
    }

    /// Takes a message as if an agent had sent it, and shows what is worth it.
    fn tell(&mut self, message: Message) {
        if let Some(notice) = self.measurement.session.message(message, Instant::now()) {
            self.measurement.announce(&notice);
        }
    }

    /// From the preparations to the end of the load, with everything put back as it was.
    fn measure(&mut self, plan: &Prepare) -> End {
        let ready = match plan.ready() {
            Ok(ready) => ready,
            Err(failure) => {
                self.tell(Message::Failed(failure));
                return End::Finished;
            }
        };
        let Ready { mut context, mut setup, tracing, restore } = ready;
        let job = self.measurement.job.clone();
        let described = setup::describe_quiet(&mut setup, &job, &mut context);
        let outcome = described.and_then(|()| {
            let tracing = tracing.as_ref().map(|instance| instance.tracing());
            let mut observer = Reporter { run: self, setup, tracing, on_leave: None };
            supervisor::run(&job.load, &context, &mut observer)
        });
        if let Some(instance) = &tracing {
            // At a hit the load has stopped it already.
            let _ = instance.tracing().stop();
        }
        let meanwhile = self.measurement.caller.load_ended();
        self.take_outcome(outcome);
        self.measurement.judge_others(meanwhile, Vec::new());
        let hit = self.measurement.session.hit.is_some();
        if let Some(instance) = tracing.as_ref().filter(|it| it.tracing().is_wanted(hit)) {
            self.take_trace(instance.tracing());
        }
        restore.undo().into_iter().for_each(|note| self.measurement.note(note));
        self.tell(Message::Bye);
        match (self.signal, self.overrun, self.short.take()) {
            (Some(signal), ..) => End::Signal(signal),
            (None, Some(over), _) => End::Overrun(over),
            (None, None, Some(short)) => End::NoRoom(short),
            (None, None, None) => End::Finished,
        }
    }

    /// Takes the load's report, and its fault.
    fn take_outcome(&mut self, outcome: Result<Outcome, LoadError>) {
        let fault = match outcome {
            Ok(Outcome { mut report, fault }) => {
                if fault.is_none() && self.signal.is_none() {
                    noise_floor::measure_after(&mut report, &self.measurement.job);
                }
                self.tell(Message::Finished(report));
                fault
            }
            Err(error) => Some(error),
        };
        if let Some(error) = fault {
            let (owner, text) = (error.owner(), chain(error));
            self.tell(Message::Failed(message::Failure { owner, text }));
        }
    }

    /// Writes the trace to its file.
    fn take_trace(&mut self, tracing: &Tracing) {
        let estimate_bytes = tracing.estimate_bytes();
        self.tell(Message::Trace(TraceProgress::Begin { estimate_bytes }));
        let (mut sink, written) =
            TraceSink::new(self.trace_file.raw().to_owned(), self.bounds.max_trace_kib);
        let Measurement { session, job, show, .. } = &self.measurement;
        let taken = tracing.send(&job.load.cpus, &mut sink);
        let bytes = written.load(Ordering::Acquire);
        let sent = taken.as_ref().ok().copied();
        let error = taken.err().map(|error| error.to_string());
        let (gaps, clock) = (&session.gaps, self.measurement.clock());
        let arrival = Arrival { via: TraceVia::File, bytes, sent, error, gaps, clock };
        self.trace = self.trace_file.receive(&arrival, show);
        if let Some(note) = &self.trace.note {
            show.remark(note);
        }
        self.tell(Message::Trace(TraceProgress::End { bytes }));
    }
}

/// Takes what the load gives.
struct Reporter<'a> {
    run: &'a mut Run,
    setup: Setup,
    tracing: Option<&'a Tracing>,
    /// Kills the load's processes if this one leaves at once.
    on_leave: Option<OnLeave>,
}

impl Observer for Reporter<'_> {
    fn prepared(&mut self, prepared: &Prepared) -> io::Result<()> {
        setup::threads_stand(&mut self.setup, prepared, self.tracing);
        Ok(())
    }

    fn released(&mut self, tsc_start: u64) -> io::Result<()> {
        self.setup.tsc_start = tsc_start;
        self.run.tell(Message::Ready(self.setup.clone()));
        Ok(())
    }

    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()> {
        self.run.measurement.session.keep(thread, records);
        Ok(())
    }

    fn demand(&mut self, thread: u32, spans: &[gaps::span::Span]) -> io::Result<()> {
        self.run.measurement.session.keep_demand(thread, spans);
        Ok(())
    }

    fn tick(&mut self, tick: Tick) -> io::Result<()> {
        self.run.tell(Message::Tick(tick));
        Ok(())
    }

    fn hit(&mut self, hit: ThresholdHit) -> io::Result<()> {
        self.run.tell(Message::ThresholdHit(hit));
        Ok(())
    }

    fn stop_requested(&mut self) -> bool {
        for event in self.run.inbox.try_iter() {
            if let Event::Signal(signal) = event {
                self.run.signal.get_or_insert(signal);
            }
        }
        let run = &mut self.run;
        if run.overrun.is_none() {
            run.overrun = run.bounds.wall.overrun(Instant::now(), run.measurement.session.stage());
        }
        if run.short.is_none() {
            run.short = run.bounds.disk.poll(Instant::now(), run.measurement.session.stage());
        }
        run.signal.is_some() || run.overrun.is_some() || run.short.is_some()
    }

    fn processes(&mut self, pids: &[u32]) {
        let pids = pids.to_vec();
        // Before the kernel does: they have files of the trace buffers open.
        self.on_leave = Some(OnLeave::new(move || {
            pids.into_iter().for_each(signals::kill);
            Vec::new()
        }));
    }
}
