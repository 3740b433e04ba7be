// SPDX-License-Identifier: Apache-2.0
//! The launcher of one second-level guest. It relays between the guest and the agent beside
//! it, and keeps all its threads but the vCPUs' where it was started: off the measured CPUs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use protocol::cpu_list::CpuSet;
use protocol::frame::{Decoder, FrameError, encode_command};
use protocol::launcher::{
    LaunchSpec, LauncherCommand, Report, encode_console, encode_control, encode_report,
    next_launcher_command,
};
use protocol::message::Command;
use protocol::names::{CONSOLE_PORT, CONTROL_PORT};
use protocol::vm::VmThread;
use vmm::config::{Config, Topology};
use vmm::kvm::Hypervisor;
use vmm::load::{self, Initrd, Kernel};
use vmm::shared::{SharedInitrd, SharedKernel};
use vmm::vcpu::{ExitReason, VcpuEnd, sched};
use vmm::virtio::console::{ConsoleControl, PortKind, PortSpec};
use vmm::vm::{Parts, Running, Vm};

use super::chain;
use crate::convert;
use crate::machine::{self, EarlyVoice};
use crate::service::{self, Attendant, Event};
use crate::sinks::{ConsoleRing, ControlSink, Drawn};

/// Interval at which the console is read.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Pieces of the control port on their way to the main thread; beyond, the guest waits.
const EVENTS_IN_FLIGHT: usize = 64;
/// An agent that has taken nothing of a message for so long is gone.
const AGENT_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes taken from the agent at once.
const PIECE_BYTES: usize = 4096;
/// Longest piece of the console in one frame.
const CONSOLE_PIECE: usize = 64 << 10;

/// Makes the machine and serves it to its end.
pub fn run(spec_json: &[u8]) -> Result<(), String> {
    let spec: LaunchSpec = serde_json::from_slice(spec_json).map_err(|error| error.to_string())?;
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let agent = Agent::new(UnixStream::from(socket)).map_err(|error| error.to_string())?;
    let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
    let console = ConsoleRing::default();
    let ports = vec![
        port(CONSOLE_PORT, PortKind::Console, Box::new(console.clone())),
        port(CONTROL_PORT, PortKind::Generic, Box::new(ControlSink(events.clone()))),
    ];
    let started = build(&spec, ports, &console).and_then(|vm| {
        let facts = vm.facts();
        Ok((vm.start(service::tell_end(events)).map_err(chain)?, facts))
    });
    let (running, facts) = match started {
        Ok(started) => started,
        Err(reason) => {
            return agent.report(&Report::Ended { reason, orderly: false, state: None });
        }
    };
    agent.report(&Report::Booting {
        threads: threads(&running),
        transport: convert::transport(facts.transport),
        tsc_shared: facts.tsc_shared,
    })?;
    let end = Arc::new(AtomicBool::new(false));
    listen(&agent, &running, Arc::clone(&end))?;
    let mut relay = Relay { running, agent, console, drawn: Drawn::default(), end };
    let first = service::serve(&mut relay, &inbox, POLL_INTERVAL)?;
    let report = relay.finish(&inbox, first);
    // The machine goes after it has been told: an agent that is gone has ended it.
    relay.agent.report(&report)
}

fn port(name: &str, kind: PortKind, sink: Box<dyn Write + Send>) -> PortSpec {
    PortSpec { name: name.into(), kind, sink }
}

/// The machine. A kernel that has to load its console's driver has another way to talk until then.
fn config(spec: &LaunchSpec) -> Config {
    let voice = EarlyVoice::of(&spec.cmdline);
    Config {
        pv: convert::pv_profile(spec.pv),
        serial: voice == Some(EarlyVoice::Serial),
        screen: voice == Some(EarlyVoice::Screen),
        cmdline: spec.cmdline.clone(),
        rng_seed: machine::rng_seed(),
        spread: numbers(&spec.spread),
        cookie: spec.cookie,
        // The transport was chosen when the kernel was unpacked.
        ..Config::new(
            Topology { cpus: spec.cpus, threads_per_core: spec.threads_per_core },
            spec.memory_mib,
        )
    }
}

fn build(spec: &LaunchSpec, ports: Vec<PortSpec>, console: &ConsoleRing) -> Result<Vm, String> {
    let hypervisor = Hypervisor::open(Path::new(vmm::kvm::DEVICE)).map_err(chain)?;
    let kernel = SharedKernel::open(open(&spec.kernel_image)?).map_err(chain)?;
    let initrd = SharedInitrd::open(open(&spec.initrd)?).map_err(chain)?;
    let config = config(spec);
    let (kernel, initrd) = if spec.own_pages {
        (Kernel::Copied(&kernel), Initrd::Copied(&initrd))
    } else {
        (Kernel::Shared(&kernel), Initrd::Shared(&initrd))
    };
    let loaded = load::fill(&config, kernel, initrd).map_err(chain)?;
    let serial = config.serial.then(|| Box::new(console.clone()) as _);
    Vm::build(&hypervisor, &config, Parts { loaded, ports, serial }).map_err(chain)
}

fn open(path: &str) -> Result<File, String> {
    File::open(path).map_err(|error| format!("{path}: {error}"))
}

fn numbers(cpus: &[u32]) -> Vec<usize> {
    cpus.iter().filter_map(|cpu| usize::try_from(*cpu).ok()).collect()
}

fn threads(running: &Running) -> Vec<VmThread> {
    running
        .threads()
        .iter()
        .map(|thread| VmThread {
            tid: u32::try_from(thread.tid).unwrap_or(0),
            cookie: thread.cookie,
            ..VmThread::default()
        })
        .collect()
}

/// The way to the agent; any thread may use it.
#[derive(Clone)]
struct Agent(Arc<Mutex<UnixStream>>);

impl Agent {
    fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_write_timeout(Some(AGENT_WRITE_TIMEOUT))?;
        Ok(Self(Arc::new(Mutex::new(socket))))
    }

    fn send(&self, frame: Result<Vec<u8>, FrameError>) -> Result<(), String> {
        let frame = frame.map_err(|error| error.to_string())?;
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        socket.write_all(&frame).map_err(|error| format!("the agent does not listen: {error}"))
    }

    fn report(&self, report: &Report) -> Result<(), String> {
        self.send(encode_report(report))
    }

    fn console(&self, bytes: &[u8]) -> Result<(), String> {
        bytes.chunks(CONSOLE_PIECE).try_for_each(|piece| self.send(encode_console(piece)))
    }
}

/// Listens for commands in a thread of its own; an agent that is gone wants the end.
fn listen(agent: &Agent, running: &Running, end: Arc<AtomicBool>) -> Result<(), String> {
    let socket = agent.0.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
    let socket = socket.map_err(|error| error.to_string())?;
    let handler = CommandHandler {
        agent: agent.clone(),
        console: running.console().clone(),
        tids: running.threads().iter().map(|thread| thread.tid).collect(),
        end,
    };
    let builder = thread::Builder::new().name("l2-reader".into());
    builder.spawn(move || hear(socket, handler)).map(drop).map_err(|error| error.to_string())
}

fn hear(mut socket: UnixStream, handler: CommandHandler) {
    let mut decoder = Decoder::default();
    let mut bytes = [0; PIECE_BYTES];
    while let Ok(length @ 1..) = socket.read(&mut bytes) {
        decoder.push(&bytes[..length]);
        while let Ok(Some(command)) = next_launcher_command(&mut decoder) {
            handler.handle(&command);
        }
    }
    handler.end.store(true, Ordering::Relaxed);
}

struct CommandHandler {
    agent: Agent,
    console: ConsoleControl,
    tids: Vec<i32>,
    end: Arc<AtomicBool>,
}

impl CommandHandler {
    /// What cannot be told, the agent misses within its deadline.
    fn handle(&self, command: &LauncherCommand) {
        match command {
            LauncherCommand::Go => self.send_to_guest(Command::Go),
            LauncherCommand::Stop => self.send_to_guest(Command::Stop),
            LauncherCommand::End => self.end.store(true, Ordering::Relaxed),
            LauncherCommand::Memory => {
                let (rss_kib, pss_kib) = memory();
                let _ = self.agent.report(&Report::Memory { rss_kib, pss_kib });
            }
            LauncherCommand::Confine { cpus } => {
                let confined = self.tids.iter().zip(cpus).map(|(tid, cpus)| {
                    sched::confine(*tid, &numbers(cpus)).map_or_else(
                        |error| error.to_string(),
                        |actual| {
                            let actual = actual.iter().filter_map(|cpu| u32::try_from(*cpu).ok());
                            actual.collect::<CpuSet>().to_string()
                        },
                    )
                });
                let _ = self.agent.report(&Report::Confined { affinity: confined.collect() });
            }
        }
    }

    fn send_to_guest(&self, command: Command) {
        if let Ok(frame) = encode_command(command) {
            let _ = self.console.send(CONTROL_PORT, &frame);
        }
    }
}

/// Relays until a vCPU ends, or the end is wanted.
struct Relay {
    running: Running,
    agent: Agent,
    console: ConsoleRing,
    drawn: Drawn,
    end: Arc<AtomicBool>,
}

impl Attendant for Relay {
    /// The end of the vCPU that ended first, where one did.
    type End = Result<Option<VcpuEnd>, String>;

    fn event(&mut self, event: Event) -> Option<Self::End> {
        match event {
            Event::Control(bytes) => self.agent.send(encode_control(&bytes)).err().map(Err),
            Event::Vcpu(end) => Some(Ok(Some(end))),
            Event::Signal(_) => None,
        }
    }

    fn poll(&mut self) -> Option<Self::End> {
        match self.talk() {
            Ok(()) => self.end.load(Ordering::Relaxed).then_some(Ok(None)),
            Err(error) => Some(Err(error)),
        }
    }

    fn gone(&mut self) -> Self::End {
        Ok(None)
    }
}

impl Relay {
    /// Hands on what the guest's kernel has said.
    fn talk(&mut self) -> Result<(), String> {
        self.agent.console(&self.drawn.before(self.console.take(), &self.running))
    }

    /// Stops the machine, relays the rest, and says how it ended.
    fn finish(&mut self, inbox: &Receiver<Event>, first: Option<VcpuEnd>) -> Report {
        let Self { running, agent, .. } = self;
        // A guest that ends by itself has nothing to tell by its registers.
        let stopped = service::stop(running, inbox, first.is_none(), |bytes| {
            // An agent that is gone misses nothing.
            let _ = agent.send(encode_control(bytes));
        });
        let _ = self.talk();
        // A kernel that has died before its console has drawn why.
        let _ = self.agent.console(&self.drawn.take(&self.running));
        let first_reason = first.as_ref().map(|end| &end.reason);
        let orderly = matches!(first_reason, Some(ExitReason::PowerOff));
        let reason = match (first_reason, &stopped.took) {
            (Some(reason), _) => reason.to_string(),
            (None, Ok(_)) => "ended by the agent".into(),
            (None, Err(error)) => error.to_string(),
        };
        let state: String = first.iter().chain(&stopped.ends).filter_map(registers).collect();
        Report::Ended { reason, orderly, state: (!state.is_empty()).then_some(state) }
    }
}

/// The registers of a vCPU that was asked for them.
fn registers(end: &VcpuEnd) -> Option<String> {
    let state = end.state.as_ref()?;
    Some(format!("vCPU {} ({}):\n{state}\n", end.cpu, end.reason))
}

/// Resident memory of this process, and that with shared pages divided, in KiB.
fn memory() -> (Option<u64>, Option<u64>) {
    let Ok(text) = fs::read_to_string("/proc/self/smaps_rollup") else { return (None, None) };
    (smaps_field("Rss:", &text), smaps_field("Pss:", &text))
}

fn smaps_field(name: &str, text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use protocol::job::Pv;

    use super::*;

    #[test]
    fn the_machine_has_a_seed_for_its_kernel() {
        let spec = LaunchSpec {
            vm: 1,
            kernel_image: String::new(),
            initrd: String::new(),
            memory_mib: 64,
            own_pages: true,
            cpus: 2,
            threads_per_core: 2,
            pv: Pv::Clock,
            cmdline: "earlyprintk=vga quiet".into(),
            spread: vec![2, 3],
            cookie: true,
        };
        let config = config(&spec);
        assert!(config.rng_seed.is_some() && config.screen);
        assert_eq!(config.spread, [2, 3]);
    }
}
