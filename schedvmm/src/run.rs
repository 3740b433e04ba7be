// SPDX-License-Identifier: Apache-2.0
//! The main job: one kernel, one machine, one load, one result.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest::frame::encode_command;
use guest::job::{CONTROL_PORT, Job, LoadSpec, TRACE_PORT, TraceSpec};
use guest::wire::Command;
use serde_json::json;
use vmm::config::{Config, Topology};
use vmm::kvm::Hypervisor;
use vmm::vcpu::{ExitReason, VcpuEnd, sched};
use vmm::virtio::console::{PortKind, PortSpec};
use vmm::vm::{Parts, Running, Vm};
use vmm::x86_64::image::KernelImage;

use crate::cli::{Idle, RunArgs, Switch};
use crate::folder::{self, Folder};
use crate::placement::{self, Placement};
use crate::probe::{self, ProbeError};
use crate::result::{self, Clock, Cosched, KernelFacts, RunResult, SCHEMA, Trace};
use crate::session::{Event, GRACE, Limits, Notice, Session, Stage};
use crate::show::{Show, Style};
use crate::sinks::{ConsoleRing, ControlSink, Tail, TraceSink};
use crate::status::{ExitStatus, Failure, OrFail};
use crate::verdict::{Answer, End, judge};
use crate::{facts, machine, signals};

/// Name of the console port.
const CONSOLE_PORT: &str = "schedvmm.console";
/// Messages on their way to the main thread; beyond, the guest waits.
const EVENTS_IN_FLIGHT: usize = 256;
/// How often the main thread looks at the console and the deadlines.
const BEAT: Duration = Duration::from_millis(50);

/// Does the main job.
///
/// # Errors
/// What kept it from giving an answer, with the status it deserves.
pub fn run(args: &RunArgs) -> Result<ExitStatus, Failure> {
    let begin = Instant::now();
    let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
    signals::forward(events.clone()).or_fail(ExitStatus::Internal)?;
    let plan = Plan::make(args)?;
    sched::keep_off(&plan.placement.pins);
    let mut attempt = Attempt::prepare(plan, events)?;
    attempt.built_ms = millis(begin.elapsed());
    attempt.watch(&inbox, begin)
}

/// What the options come to, before anything is made.
struct Plan {
    args: RunArgs,
    kernel_path: PathBuf,
    topology: Topology,
    placement: Placement,
    job: Job,
    started_utc: String,
}

impl Plan {
    fn make(args: &RunArgs) -> Result<Self, Failure> {
        let usage = |text: String| Failure::new(ExitStatus::Usage, text);
        // clap requires it for the main job.
        let kernel_path = args.kernel.clone().ok_or_else(|| usage("--kernel is missing".into()))?;
        let machine = &args.machine;
        let topology = Topology { cpus: machine.cpus, threads_per_core: machine.threads_per_core };
        let load_cpus = match &args.load.load_cpus {
            None => machine::default_load_cpus(topology),
            Some(list) => list.0.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect(),
        };
        if let Some(cpu) = load_cpus.iter().find(|cpu| **cpu >= machine.cpus) {
            return Err(usage(format!(
                "--load-cpus names CPU {cpu}, the guest has 0 to {}",
                machine.cpus.saturating_sub(1)
            )));
        }
        if args.load.groups == 0 || args.load.threads == 0 {
            return Err(usage("--groups and --threads must be at least 1".into()));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            kernel_path,
            topology,
            placement: placement::choose(machine.pin.as_ref(), topology),
            job: job(args, load_cpus)?,
            started_utc: folder::utc(now.as_secs()),
            args: args.clone(),
        })
    }

    fn config(&self, kernel: &KernelImage) -> Config {
        let machine = &self.args.machine;
        Config {
            topology: self.topology,
            memory_mib: machine.memory,
            pv: machine.pv,
            nested: false,
            serial: machine.debug_boot,
            cmdline: machine::cmdline(machine, &self.job.load.cpus, kernel.version()),
            boot: machine.boot.into(),
            pins: self.placement.pins.clone(),
        }
    }
}

/// The agent's orders.
fn job(args: &RunArgs, cpus: Vec<u32>) -> Result<Job, Failure> {
    let load = &args.load;
    let buffer_kib = u32::try_from(args.trace.trace_buffer)
        .map_err(|_| Failure::new(ExitStatus::Usage, "--trace-buffer is too large"))?;
    let mut tune = if load.no_default_tune { Vec::new() } else { guest::knobs::default_tune() };
    for request in &load.tune {
        guest::knobs::check(request).or_fail(ExitStatus::Usage)?;
    }
    // A knob given by the user replaces ours of the same name.
    tune.retain(|ours| load.tune.iter().all(|theirs| theirs.name != ours.name));
    tune.extend(load.tune.iter().cloned());
    Ok(Job {
        load: LoadSpec {
            groups: load.groups,
            threads_per_group: load.threads,
            cpus,
            busy: load.busy,
            sleep: load.sleep,
            seed: load.seed,
            duration: load.duration,
            floor: load.floor,
            threshold: load.threshold.0,
            records_per_thread: load.records,
        },
        cosched: load.cosched.into(),
        tune,
        trace: (args.trace.trace == Switch::On)
            .then(|| TraceSpec { events: args.trace.trace_events.clone(), buffer_kib }),
        host_tsc_khz: None,
    })
}

/// A machine that runs, and all that is known of it.
struct Attempt {
    plan: Plan,
    show: Show,
    folder: Folder,
    console: ConsoleRing,
    tail: Tail,
    trace_path: PathBuf,
    trace_written: Arc<AtomicU64>,
    session: Session,
    running: Running,
    kernel: KernelFacts,
    machine: serde_json::Value,
    notes: Vec<String>,
    built_ms: u64,
    console_lost: bool,
}

impl Attempt {
    /// From the plan to the first guest instruction.
    fn prepare(mut plan: Plan, events: SyncSender<Event>) -> Result<Self, Failure> {
        let hypervisor = Hypervisor::open(Path::new(vmm::kvm::DEVICE)).or_fail(ExitStatus::Host)?;
        // The probe runs beside the reading of the kernel: it costs no time of its own.
        let (probed, kernel) = thread::scope(|scope| {
            let probe = scope.spawn(|| probe::run(&hypervisor, probe::PATIENCE));
            let kernel = machine::kernel(&plan.kernel_path);
            (probe.join(), kernel)
        });
        let kernel = kernel?;
        let mut notes: Vec<String> = facts::emulation_note().into_iter().collect();
        match probed {
            Ok(Ok(facts)) => plan.job.host_tsc_khz = Some(facts.tsc_khz.into()),
            Ok(Err(undecided @ ProbeError::Undecided(_))) => notes.push(undecided.to_string()),
            Ok(Err(error)) => return Err(error).or_fail(ExitStatus::Host),
            Err(_) => return Err(Failure::new(ExitStatus::Internal, "the KVM probe panicked")),
        }
        let stamp = plan.started_utc.replace(':', "");
        let folder =
            Folder::create(plan.args.show.output.as_deref(), &stamp).or_fail(ExitStatus::Usage)?;
        let trace_path =
            plan.args.trace.trace_file.clone().unwrap_or_else(|| folder.path().join("trace.txt"));

        let console = ConsoleRing::default();
        let (trace_sink, trace_written) = TraceSink::new(trace_path.clone());
        let ports = ports(console.clone(), events.clone(), trace_sink);
        let config = plan.config(&kernel);
        let initrd = machine::initrd(&plan.job)?;
        let serial = config.serial.then(|| Box::new(console.clone()) as _);
        let parts = Parts { kernel: &kernel, initrd: &initrd, ports, serial };
        let vm = Vm::build(&hypervisor, &config, parts).map_err(build_failure)?;
        drop(initrd);
        let lint = vm.lint().or_fail(ExitStatus::Untestable)?;
        notes.extend(plan.placement.note.clone());
        notes.extend(vm.kernel().note.clone());
        let kernel =
            kernel_facts(&plan.kernel_path, kernel, &vm, lint.banner, config.cmdline.clone());
        let machine = describe_machine(&plan, &config, &vm);
        let limits = Limits {
            threads: (plan.job.load.groups * plan.job.load.threads_per_group) as usize,
            records_per_thread: plan.job.load.records_per_thread as usize,
            boot: plan.args.machine.boot_timeout,
        };
        let show = Show::new(style(&plan.args));
        if show_header(&plan.args) {
            notes.iter().for_each(|note| show.remark(note));
        }
        show.phase("boot", limits.boot.as_secs());
        let session = Session::new(limits, Instant::now());
        let running = vm
            .start(move |end| {
                // Nobody listens any more once the run has ended.
                let _ = events.send(Event::Vcpu(end));
            })
            .or_fail(ExitStatus::Usage)?;
        Ok(Self {
            plan,
            show,
            folder,
            console,
            tail: Tail::default(),
            trace_path,
            trace_written,
            session,
            running,
            kernel,
            machine,
            notes,
            built_ms: 0,
            console_lost: false,
        })
    }

    /// From the first guest instruction to the exit status.
    fn watch(mut self, inbox: &Receiver<Event>, begin: Instant) -> Result<ExitStatus, Failure> {
        let end = self.events(inbox);
        let decided = Instant::now();
        // Only a guest that does not answer has something to tell by its registers.
        let stopped = self.running.stop(matches!(end, End::Late(_)));
        let mut ends: Vec<VcpuEnd> = Vec::new();
        // Other vCPUs' ends, and what was still under way on the control port.
        for event in inbox.try_iter() {
            match event {
                Event::Vcpu(end) => ends.push(end),
                Event::Control(bytes) => {
                    let _ = self.session.take(&bytes, decided);
                }
                Event::Signal(_) => {}
            }
        }
        self.drain_console();
        match stopped {
            Ok(took) => self.machine["stop_us"] = json!(took.as_micros()),
            Err(error) => self.notes.push(error.to_string()),
        }
        if let End::Vcpu(end) = &end {
            ends.push(end.clone());
        }
        self.finish(&end, ends, decided, begin)
    }

    /// Serves events until there is an end.
    fn events(&mut self, inbox: &Receiver<Event>) -> End {
        let mut traced = 0;
        let mut signalled: Option<(i32, Instant)> = None;
        loop {
            match inbox.recv_timeout(BEAT) {
                Ok(Event::Control(bytes)) => match self.session.take(&bytes, Instant::now()) {
                    Ok(notices) => notices.into_iter().for_each(|notice| self.announce(&notice)),
                    Err(error) => return End::Garbled(error.to_string()),
                },
                Ok(Event::Vcpu(end)) if end.reason == ExitReason::Stopped => {}
                Ok(Event::Vcpu(end)) => return End::Vcpu(end),
                Ok(Event::Signal(signal)) => {
                    if signalled.is_some() || !self.ask_to_stop() {
                        return End::Signal(signal);
                    }
                    signalled = Some((signal, Instant::now() + GRACE));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return End::Garbled("all threads of the machine are gone".into());
                }
            }
            let now = Instant::now();
            self.drain_console();
            let written = self.trace_written.load(Ordering::Acquire);
            if written != traced {
                traced = written;
                self.session.progressed(now);
                self.show.progress(written);
            }
            match signalled {
                // The guest's own end comes with its results, as asked.
                Some((signal, _)) if self.session.bye => return End::Signal(signal),
                Some((signal, deadline)) if now >= deadline => return End::Signal(signal),
                _ => {}
            }
            if now >= self.session.deadline() {
                return End::Late(self.session.stage());
            }
        }
    }

    /// Asks the agent to end early. False if it cannot answer yet.
    fn ask_to_stop(&self) -> bool {
        let console = self.running.console();
        self.session.stage() == Stage::Run
            && encode_command(Command::Stop)
                .is_ok_and(|frame| console.send(CONTROL_PORT, &frame).is_ok())
    }

    fn announce(&mut self, notice: &Notice) {
        let clock = self.clock();
        match notice {
            Notice::Alive => {}
            Notice::Started => {
                self.show.phase("run", self.plan.job.load.duration.as_secs());
            }
            Notice::Second(tick) => {
                self.show.second(*tick, clock);
                self.show.progress(u64::from(tick.second));
            }
            Notice::Hit(hit) => self.show.hit(*hit, clock),
            Notice::TraceComing(bytes) => self.show.phase("dump", *bytes),
        }
    }

    fn clock(&self) -> Clock {
        Clock::of(&self.session, self.plan.job.load.threads_per_group)
    }

    fn drain_console(&mut self) {
        let bytes = self.console.take();
        if bytes.is_empty() {
            return;
        }
        self.tail.push(&bytes);
        if self.plan.args.machine.debug_boot {
            self.show.remark(String::from_utf8_lossy(&bytes).trim_end());
        }
        if let Err(error) = self.folder.log(&bytes)
            && !std::mem::replace(&mut self.console_lost, true)
        {
            self.notes.push(format!("console.log is incomplete: {error}"));
        }
    }

    /// Judges, writes, shows.
    fn finish(
        mut self,
        end: &End,
        ends: Vec<VcpuEnd>,
        decided: Instant,
        begin: Instant,
    ) -> Result<ExitStatus, Failure> {
        let clock = self.clock();
        let longest = result::longest(&self.session, clock);
        let limit_ns = self.plan.job.load.threshold.map(|limit| limit.as_nanos());
        let over = limit_ns.is_some_and(|limit| {
            longest.as_ref().is_some_and(|gap| u128::from(gap.length_ns) > limit)
        });
        let verdict = judge(&self.session, end, over, &self.tail.text());
        let trace = self.trace();
        self.describe_ends(&ends);
        let threads = result::threads(&self.session, clock);
        let cookies = self.session.setup.as_ref().map_or(&[][..], |setup| &setup.cookies);
        let groups = result::groups(&threads, cookies, clock);
        let mut phases = result::phases_ms(&self.session, self.built_ms, decided);
        phases.insert("total", millis(begin.elapsed()));
        let cosched = Cosched {
            requested: json!(self.plan.job.cosched),
            mechanism: self.session.setup.as_ref().map(|setup| setup.cosched.clone()),
            note: self.session.setup.as_ref().and_then(|setup| setup.cosched_note.clone()),
            cookies: cookies.to_vec(),
        };
        self.kernel.hello = self.session.hello.clone();
        let result = RunResult {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            target: "user",
            command_line: std::env::args().collect(),
            started_utc: self.plan.started_utc.clone(),
            verdict: Answer::Untestable,
            exit_status: 0,
            reason: String::new(),
            notes: self.notes.clone(),
            longest_gap_ns: longest.as_ref().map(|gap| gap.length_ns),
            longest_gap: longest,
            kernel: std::mem::take(&mut self.kernel),
            cosched,
            setup: self.session.setup.clone(),
            job: self.plan.job.clone(),
            threads,
            groups,
            tsc: self.session.report.as_ref().map(|report| report.tsc),
            trace,
            host: facts::host(),
            machine: self.machine.clone(),
            phases_ms: phases,
        }
        .judged(&verdict);
        let written = self
            .folder
            .write_gaps(&self.session.gaps, clock)
            .and_then(|()| self.folder.write_result(&result));
        self.show.end(&result, self.folder.path());
        if verdict.answer == Answer::Untestable {
            self.explain(&ends);
        }
        written.or_fail(ExitStatus::Host)?;
        Ok(verdict.status)
    }

    /// The trace as it arrived.
    fn trace(&self) -> Trace {
        let bytes = self.trace_written.load(Ordering::Acquire);
        let complete = self.session.trace_bytes == Some(bytes) && bytes > 0;
        let error = self.running.console().port_error(TRACE_PORT);
        let note = match error {
            Some(error) => Some(format!(
                "the trace is cut: cannot write {}: {error}",
                self.trace_path.display()
            )),
            None if bytes > 0 && !complete => {
                Some("the trace is cut: the guest ended early".into())
            }
            None => self.session.setup.as_ref().and_then(|setup| setup.trace_note.clone()),
        };
        if let Some(note) = &note {
            self.show.remark(note);
        }
        let file = (bytes > 0).then(|| self.trace_path.display().to_string());
        Trace { file, bytes, complete, note }
    }

    fn describe_ends(&mut self, ends: &[VcpuEnd]) {
        let vcpu = |end: &VcpuEnd| {
            json!({
                "cpu": end.cpu,
                "end": end.reason.to_string(),
                "exits": {
                    "port_in": end.exits.port_in,
                    "port_out": end.exits.port_out,
                    "mmio_read": end.exits.mmio_read,
                    "mmio_write": end.exits.mmio_write,
                    "other": end.exits.other,
                },
                "host_run_ns": end.host_sched.map(|sched| sched.run_ns),
                "host_wait_ns": end.host_sched.map(|sched| sched.wait_ns),
                "state": end.state,
            })
        };
        let exits: u64 = ends.iter().map(|end| end.exits.total()).sum();
        let mut vcpus: Vec<_> = ends.iter().collect();
        vcpus.sort_by_key(|end| end.cpu);
        self.machine["vcpus"] = vcpus.into_iter().map(vcpu).collect();
        self.machine["exits_to_user_space"] = json!(exits);
        self.machine["resident_beyond_ram_kib"] = json!(self.running.resident_beyond_ram_kib());
        let stats = self.running.console().stats();
        self.machine["console"] =
            json!({ "guest_errors": stats.guest_errors, "dropped_bytes": stats.dropped_bytes });
    }

    /// What helps to find out why there is no answer.
    fn explain(&self, ends: &[VcpuEnd]) {
        for end in ends {
            if let Some(state) = &end.state {
                self.show.remark(&format!("state of vCPU {} ({}):\n{state}", end.cpu, end.reason));
            }
        }
        let tail = self.tail.text();
        if tail.trim().is_empty() {
            self.show.remark("the guest printed nothing; --debug-boot shows its early console");
        } else {
            self.show.remark(&format!("end of the guest's console:\n{}", tail.trim_end()));
        }
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

fn style(args: &RunArgs) -> Style {
    match (args.show.json, args.show.compat) {
        (true, _) => Style::Json,
        (_, true) => Style::Compat,
        _ => Style::Screen,
    }
}

fn show_header(args: &RunArgs) -> bool {
    !args.show.json
}

fn kernel_facts(
    path: &Path,
    image: KernelImage,
    vm: &Vm,
    banner: Option<String>,
    cmdline: String,
) -> KernelFacts {
    KernelFacts {
        path: path.display().to_string(),
        bytes: image.bytes().len() as u64,
        banner,
        entered: format!("{:?}", vm.kernel().entered).to_lowercase(),
        cmdline,
        hello: None,
    }
}

fn describe_machine(plan: &Plan, config: &Config, vm: &Vm) -> serde_json::Value {
    let args = &plan.args.machine;
    let pins = match plan.placement.pins.as_slice() {
        [] => "not pinned".to_owned(),
        pins => {
            let pins: Vec<_> = pins.iter().map(usize::to_string).collect();
            format!("pinned to host CPUs {}", pins.join(","))
        }
    };
    let idle = if args.idle == Idle::Poll { "poll" } else { "halt" };
    json!({
        "summary": format!(
            "{} vCPUs = {} cores x {} threads, {} MiB, idle {idle}, pv {}, {pins}",
            args.cpus,
            plan.topology.cores(),
            args.threads_per_core,
            args.memory,
            args.pv
        ),
        "cpus": args.cpus,
        "threads_per_core": args.threads_per_core,
        "memory_mib": args.memory,
        "idle": idle,
        "pv": config.pv.name(),
        "pins": plan.placement.pins,
        "pin_note": plan.placement.note,
        "tsc_khz": vm.facts().tsc_khz,
        "tsc_equals_host": vm.facts().tsc_shared,
    })
}

/// Whose fault a machine is that could not be built.
fn build_failure(error: vmm::vm::BuildError) -> Failure {
    use vmm::load::LoadError;
    use vmm::vm::BuildError;
    let status = match &error {
        BuildError::Config(_) => ExitStatus::Usage,
        BuildError::Kvm(_) | BuildError::Memory(_) | BuildError::EventFd(_) => ExitStatus::Host,
        BuildError::Load(load) => match load {
            LoadError::Memory { .. }
            | LoadError::CmdlineLength { .. }
            | LoadError::CmdlineCharacter(_)
            | LoadError::Cmdline(_) => ExitStatus::Usage,
            LoadError::Image(_) | LoadError::Payload(_) => ExitStatus::Untestable,
            LoadError::Loader(_) | LoadError::Write(_) => ExitStatus::Internal,
        },
        BuildError::Console(_) | BuildError::Bus(_) | BuildError::Write(_) => ExitStatus::Internal,
    };
    Failure::new(status, error)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
