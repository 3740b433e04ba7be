// SPDX-License-Identifier: Apache-2.0
//! PID 1: from the first mount to the power-off.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ftrace::dump::DumpWriter;
use gaps::record::GapRecord;
use gaps::span::Span;
use gaps::tsc::{self, clock_ns};
use protocol::error::chain;
use protocol::frame::{encode_demand, encode_gaps, encode_message, encode_vm_console};
use protocol::job::Job;
use protocol::message::{
    Command, Failure, Message, MeterLine, Setup, ThresholdHit, Tick, TraceProgress,
};
use protocol::names::{CONTROL_PORT, JOB_PATH, MODULES_PATH, TRACE_PORT};
use protocol::vm::VmStatus;
use thiserror::Error;
use workload::context::WorkloadContext;
use workload::error::LoadError;
use workload::ground::{self, Ground};
use workload::kernel::cgroup::Cgroups;
use workload::kernel::core_sched::{self, Arranged, CoschedError, Mechanism};
use workload::kernel::tunables::{self, TunableError};
use workload::kernel::{affinity, info};
use workload::kernel_meter::Meter;
use workload::observer::{Observer, Prepared};
use workload::tracing::Tracing;
use workload::{noise_floor, setup, supervisor};

use crate::commands::Commands;
use crate::modules::{self, ModuleError};
use crate::nested::{self, NestedError};
use crate::pid1::{self, MountError};
use crate::port::{Port, PortError};

/// Longest time for the host to read ring buffers in our memory. It takes milliseconds.
const TRACE_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the agent cannot go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// A vital file system is missing.
    #[error("the guest cannot be prepared")]
    Mount(#[from] MountError),
    /// A port is missing.
    #[error("there is no way to the host")]
    Port(#[from] PortError),
    /// A module is missing, and with it perhaps the way to the host.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The job cannot be read.
    #[error("the job in {JOB_PATH} cannot be read")]
    Job(#[source] io::Error),
    /// A tunable was asked for that makes no sense.
    #[error("the scheduler cannot be tuned so")]
    Tunable(#[from] TunableError),
    /// The cookie mechanism asked for is not there.
    #[error("core scheduling as asked for is not possible")]
    Cosched(#[from] CoschedError),
    /// The user asked for something that this kernel does not do: a group's limit, or a trace.
    #[error("{0}")]
    NotInForce(String),
    /// The trace did not get out.
    #[error("the trace cannot be sent")]
    Trace(#[source] io::Error),
    /// The load failed.
    #[error("the load failed")]
    Load(#[from] LoadError),
    /// The virtual machines of the nested target cannot be measured.
    #[error("the load failed")]
    Nested(#[from] NestedError),
    /// Nobody knows which CPUs there are.
    #[error("the CPUs that are online cannot be told")]
    Cpus(#[source] io::Error),
    /// This thread cannot keep to its CPUs.
    #[error("the agent cannot keep off the CPUs that are measured")]
    KeepOff(#[source] io::Error),
    /// The host takes nothing any more.
    #[error("results cannot be sent")]
    Send(#[from] io::Error),
}

impl AgentError {
    fn failure(&self) -> Failure {
        Failure { owner: self.owner(), text: chain(self) }
    }
}

/// The whole life of PID 1. Ends with the machine switched off, whatever happens.
pub fn run_as_pid1() -> ! {
    let uptime_ns = clock_ns(libc::CLOCK_BOOTTIME);
    pid1::power_off_on_panic();
    if let Err(error) = serve(uptime_ns) {
        pid1::say(&chain(&error));
    }
    pid1::power_off()
}

/// Everything between the channel's begin and end. An error means that the host could not
/// be told.
fn serve(uptime_ns: u64) -> Result<(), AgentError> {
    pid1::mount_all()?;
    let loaded = modules::load_all(Path::new(MODULES_PATH));
    let port = match (Port::open(CONTROL_PORT), &loaded) {
        (Ok(port), _) => port,
        // The cause of what follows from it.
        (Err(_), Err(_)) => return loaded.map(|_| ()).map_err(AgentError::from),
        (Err(error), Ok(_)) => return Err(error.into()),
    };
    if !matches!(loaded.as_deref(), Ok([])) {
        // The kernel may have started this process when it had no console.
        pid1::take_console();
    }
    let mut host = Host { port };
    host.send(&Message::Hello(info::hello(uptime_ns)))?;
    let done = loaded.map_err(AgentError::from).and_then(|_| work(&mut host));
    if let Err(error) = done {
        pid1::say(&chain(&error));
        host.send(&Message::Failed(error.failure()))?;
    }
    Ok(host.send(&Message::Bye)?)
}

fn work(host: &mut Host) -> Result<(), AgentError> {
    let job = read_job().map_err(AgentError::Job)?;
    let ground = Ground::Guest { limited_by: job.cpu_limit.clone() };
    ground::check_cpus(&job.load.cpus, &affinity::online().map_err(AgentError::Cpus)?, &ground)?;
    keep_off(&job.load.cpus)?;
    let commands = Commands::listen(host.port.reader()?)?;
    let (context, mut setup, mut tracing) = prepare(&job, ground)?;
    let meter = set_up_meter(&job, &mut setup, &mut tracing)?;
    // Before anything is measured, and before anything can go wrong.
    let head = match &tracing {
        Some(tracing) if setup.trace_ring.is_some() => Some(send_head(tracing)?),
        _ => None,
    };
    let mut observer = Reporter {
        host,
        commands: Arc::clone(&commands),
        wait_for_go: job.wait_for_go,
        setup,
        tracing: tracing.as_ref(),
        pids: Vec::new(),
        hit: false,
    };
    let result = match (&job.nested, &meter) {
        (Some(spec), _) => nested::require_kvm()
            .and_then(|()| nested::run(spec, &job.load, &context, &mut observer))
            .map_err(AgentError::from),
        (None, Some(meter)) => {
            meter.run(&job.load, &context, &mut observer).map_err(AgentError::from)
        }
        (None, None) => {
            supervisor::run(&job.load, &context, &mut observer).map_err(AgentError::from)
        }
    };
    let hit = observer.hit;
    if let Some(tracing) = &tracing {
        // At a hit the load has stopped it already; a failure leaves it running, which does
        // no harm any more.
        let _ = tracing.stop();
    }
    let mut outcome = result?;
    if outcome.fault.is_none() && !commands.has(Command::Stop) {
        noise_floor::measure_after(&mut outcome.report, &job);
    }
    host.send(&Message::Finished(outcome.report))?;
    if let Some(tracing) = tracing.filter(|tracing| tracing.is_wanted(hit)) {
        match head {
            Some(head) => leave(host, &commands, &tracing, &job.load.cpus, head)?,
            None => send_trace(host, &tracing, &job.load.cpus)?,
        }
    }
    outcome.fault.map_or(Ok(()), |fault| Err(fault.into()))
}

/// Makes the machine as the job wants it; says what became of each wish.
fn prepare(
    job: &Job,
    ground: Ground,
) -> Result<(WorkloadContext, Setup, Option<Tracing>), AgentError> {
    // A virtual machine's launcher has threads beside its vCPUs, which have a place elsewhere.
    let cpus = match job.nested {
        Some(_) => affinity::online().map_err(AgentError::Cpus)?,
        None => job.load.cpus.iter().copied().collect(),
    };
    let tunables = tunables::apply_all(Path::new("/"), &job.tune)?;
    let Arranged { mechanism, note, mut cgroups } =
        core_sched::arrange(job.cosched, core_sched::probe_prctl(), &mut |version| {
            Cgroups::mount(version, &job.load.groups, &cpus)
        })?;
    cgroups.limit(&job.load.groups).map_err(AgentError::NotInForce)?;
    let mut setup = Setup {
        cosched: mechanism.interface(),
        cosched_note: note,
        tunables,
        cgroup: cgroups.version(),
        cgroup_weights: cgroups.have_weights(),
        notes: cgroups.notes().to_vec(),
        ..Setup::default()
    };
    let mut tracing = None;
    if let Some(spec) = &job.trace {
        let found = Tracing::set_up(spec);
        setup::traces(&mut setup, spec, found.as_ref())
            .map_err(|failure| AgentError::NotInForce(failure.text))?;
        tracing = found.ok();
    }
    let mut context = WorkloadContext {
        cookie: mechanism == Mechanism::Prctl,
        cgroups: cgroups.procs(),
        trace: tracing.as_ref().map(Tracing::stop_files),
        ground,
        ..WorkloadContext::plain(job.host_tsc_khz)
    };
    setup::describe_quiet(&mut setup, job, &mut context)?;
    Ok((context, setup, tracing))
}

/// The meter that takes the load's place, where the job has one.
fn set_up_meter(
    job: &Job,
    setup: &mut Setup,
    tracing: &mut Option<Tracing>,
) -> Result<Option<Meter>, AgentError> {
    let Some(spec) = job.meter.as_ref().filter(|_| job.nested.is_none()) else { return Ok(None) };
    let meter = Meter::set_up(spec, &job.load, Tracing::root());
    let meter = meter.map_err(LoadError::from)?;
    setup.meter = Some(meter.facts().clone());
    if matches!(meter, Meter::Kernel(_)) && tracing.take().is_some() {
        setup.trace_events.clear();
        setup.trace_ring = None;
        setup.trace_note = Some("off: the kernel's tracing carries the lines of its meter".into());
    }
    Ok(Some(meter))
}

/// Sends the trace over its own port, that of the measured CPUs first.
fn send_trace(host: &mut Host, tracing: &Tracing, measured: &[u32]) -> Result<(), AgentError> {
    let head = send_head(tracing)?;
    send_rest(host, tracing, measured, head)
}

/// Sends the rest of it.
fn send_rest(
    host: &mut Host,
    tracing: &Tracing,
    measured: &[u32],
    head: DumpWriter<Port>,
) -> Result<(), AgentError> {
    let estimate_bytes = tracing.estimate_bytes();
    host.send(&Message::Trace(TraceProgress::Begin { estimate_bytes }))?;
    let bytes = tracing.send_rest(measured, head).map_err(AgentError::Trace)?;
    Ok(host.send(&Message::Trace(TraceProgress::End { bytes }))?)
}

/// Sends what is needed to read the ring buffers, which the host has in our memory.
fn send_head(tracing: &Tracing) -> Result<DumpWriter<Port>, AgentError> {
    tracing.send_head(Port::open(TRACE_PORT)?).map_err(AgentError::Trace)
}

/// Leaves the ring buffers in our memory to the host, with what the kernel says of them; sends them
/// if the host cannot read them there. A host that does not answer is left what there is.
fn leave(
    host: &mut Host,
    commands: &Commands,
    tracing: &Tracing,
    measured: &[u32],
    mut head: DumpWriter<Port>,
) -> Result<(), AgentError> {
    host.send(&Message::Trace(TraceProgress::InMemory))?;
    commands.wait_for([Command::KeepTrace, Command::SendTrace], TRACE_ANSWER_TIMEOUT);
    if commands.has(Command::SendTrace) {
        return send_rest(host, tracing, measured, head);
    }
    let bytes = tracing.send_stats(&mut head).map_err(AgentError::Trace)?;
    Ok(host.send(&Message::Trace(TraceProgress::End { bytes }))?)
}

fn read_job() -> io::Result<Job> {
    serde_json::from_slice(&fs::read(JOB_PATH)?).map_err(io::Error::other)
}

/// Keeps this thread, and all it starts from now on, off the CPUs that are measured.
fn keep_off(measured: &[u32]) -> Result<(), AgentError> {
    let online = affinity::online().map_err(AgentError::Cpus)?;
    let rest = online.without(&measured.iter().copied().collect());
    // A machine of which everything is measured has no place left to keep to.
    if rest.is_empty() {
        Ok(())
    } else {
        affinity::confine_this_thread(&rest).map_err(AgentError::KeepOff)
    }
}

/// The channel to the host.
struct Host {
    port: Port,
}

impl Host {
    fn send(&mut self, message: &Message) -> io::Result<()> {
        let frame = encode_message(message).map_err(io::Error::other)?;
        self.port.write_all(&frame)
    }
}

/// Hands on to the host what the load gives.
struct Reporter<'a> {
    host: &'a mut Host,
    commands: Arc<Commands>,
    wait_for_go: Option<Duration>,
    setup: Setup,
    tracing: Option<&'a Tracing>,
    pids: Vec<u32>,
    hit: bool,
}

impl Reporter<'_> {
    /// Waits until the host wants the load to start, or no load at all.
    fn stand(&mut self, timeout: Duration) -> io::Result<()> {
        self.host.send(&Message::Prepared)?;
        if !self.commands.wait_for([Command::Go, Command::Stop], timeout) {
            let text = format!("nobody told this guest to start within {timeout:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        self.host.send(&Message::Going { tsc: tsc::read().tsc })
    }
}

impl Observer for Reporter<'_> {
    fn prepared(&mut self, prepared: &Prepared) -> io::Result<()> {
        if let Some(timeout) = self.wait_for_go {
            self.stand(timeout)?;
        }
        setup::threads_stand(&mut self.setup, prepared, self.tracing);
        Ok(())
    }

    fn waiting(&mut self, for_what: &str) -> io::Result<()> {
        pid1::reap_strangers(&self.pids);
        self.host.send(&Message::Waiting { for_what: for_what.into() })
    }

    fn vm(&mut self, status: &VmStatus) -> io::Result<()> {
        self.host.send(&Message::Vm(Box::new(status.clone())))
    }

    fn vm_console(&mut self, vm: u32, bytes: &[u8]) -> io::Result<()> {
        let frame = encode_vm_console(vm, bytes).map_err(io::Error::other)?;
        self.host.port.write_all(&frame)
    }

    fn vm_line(&mut self, vm: u32, line: MeterLine) -> io::Result<()> {
        self.host.send(&Message::VmLine { vm, line })
    }

    fn released(&mut self, tsc_start: u64) -> io::Result<()> {
        self.setup.tsc_start = tsc_start;
        self.host.send(&Message::Ready(self.setup.clone()))
    }

    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()> {
        let frame = encode_gaps(thread, records).map_err(io::Error::other)?;
        self.host.port.write_all(&frame)
    }

    fn demand(&mut self, thread: u32, spans: &[Span]) -> io::Result<()> {
        let frame = encode_demand(thread, spans).map_err(io::Error::other)?;
        self.host.port.write_all(&frame)
    }

    fn line(&mut self, line: MeterLine) -> io::Result<()> {
        self.host.send(&Message::Line(line))
    }

    fn tick(&mut self, tick: Tick) -> io::Result<()> {
        pid1::reap_strangers(&self.pids);
        self.host.send(&Message::Tick(tick))
    }

    fn hit(&mut self, hit: ThresholdHit) -> io::Result<()> {
        self.hit = true;
        self.host.send(&Message::ThresholdHit(hit))
    }

    fn stop_requested(&mut self) -> bool {
        self.commands.has(Command::Stop)
    }

    fn processes(&mut self, pids: &[u32]) {
        self.pids = pids.to_vec();
    }
}
