// SPDX-License-Identifier: Apache-2.0
//! PID 1: from the first mount to the power-off.

use std::{
    error::Error,
    fs,
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use gaps::{
    bench,
    record::GapRecord,
    tsc::{Sources, clock_ns},
};
use thiserror::Error;

use crate::{
    cpus::CpuSet,
    frame::{Decoder, encode_gaps, encode_message},
    job::{CONTROL_PORT, JOB_PATH, Job},
    load::{self, LoadError, Observer, Prepared, Surroundings},
    port::{Port, PortError, PortReader},
    system::{self, MountError},
    wire::{Command, Failure, FailureKind, Message, Setup, ThresholdHit, Tick},
};

/// Why the agent cannot go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// A vital file system is missing.
    #[error("the guest cannot be prepared")]
    Mount(#[from] MountError),
    /// A port is missing.
    #[error("there is no way to the host")]
    Port(#[from] PortError),
    /// The job cannot be read.
    #[error("the job in {JOB_PATH} cannot be read")]
    Job(#[source] io::Error),
    /// The load failed.
    #[error("the load failed")]
    Load(#[from] LoadError),
    /// The host takes nothing any more.
    #[error("results cannot be sent")]
    Send(#[from] io::Error),
}

impl AgentError {
    /// Whose fault it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Mount(_) | Self::Port(_) => FailureKind::Kernel,
            Self::Job(_) | Self::Send(_) => FailureKind::Internal,
            Self::Load(error) => error.kind(),
        }
    }

    fn failure(&self) -> Failure {
        Failure { kind: self.kind(), text: chain(self) }
    }
}

/// An error with all its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The whole life of PID 1. Ends with the machine switched off, whatever happens.
pub fn run_as_pid1() -> ! {
    let uptime_ns = clock_ns(libc::CLOCK_BOOTTIME);
    system::power_off_on_panic();
    if let Err(error) = serve(uptime_ns) {
        system::say(&chain(&error));
    }
    system::power_off()
}

/// Everything between the channel's begin and end. An error means that the host could not
/// be told.
fn serve(uptime_ns: u64) -> Result<(), AgentError> {
    system::mount_all()?;
    let mut host = Host { port: Port::open(CONTROL_PORT)? };
    host.send(&Message::Hello(system::hello(uptime_ns)))?;
    if let Err(error) = work(&mut host) {
        system::say(&chain(&error));
        host.send(&Message::Failed(error.failure()))?;
    }
    Ok(host.send(&Message::Bye)?)
}

fn work(host: &mut Host) -> Result<(), AgentError> {
    let job = read_job().map_err(AgentError::Job)?;
    keep_off(&job.load.cpus)?;
    let stop = listen(host.port.reader()?)?;
    let tsc = Sources::known(job.host_tsc_khz);
    let surroundings = Surroundings { tsc, ..Surroundings::plain(job.host_tsc_khz) };
    let setup = Setup { cosched: "none".into(), cgroup: "none".into(), ..Setup::default() };
    let mut observer = Reporter { host, stop, setup, pids: Vec::new() };
    let outcome = load::run(&job.load, &surroundings, &mut observer)?;
    host.send(&Message::Finished(outcome.report))?;
    outcome.fault.map_or(Ok(()), |fault| Err(fault.into()))
}

fn read_job() -> io::Result<Job> {
    serde_json::from_slice(&fs::read(JOB_PATH)?).map_err(io::Error::other)
}

/// Keeps this thread, and all it starts from now on, off the CPUs that are measured.
fn keep_off(measured: &[u32]) -> io::Result<()> {
    let online = CpuSet::online()?;
    let rest = online.without(&measured.iter().copied().collect());
    // A machine of which everything is measured has no place left to keep to.
    if rest.is_empty() { Ok(()) } else { rest.confine_this_thread() }
}

/// Listens for the host's commands in a thread of its own.
fn listen(mut port: PortReader) -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let ear = move || {
        let mut decoder = Decoder::default();
        let mut bytes = [0; 4096];
        // Ends when the host has closed the port, or talks nonsense: the load goes on, and
        // the results are sent if the host still takes them.
        while let Ok(length @ 1..) = port.read(&mut bytes) {
            decoder.push(&bytes[..length]);
            while let Ok(Some(command)) = decoder.next_command() {
                match command {
                    Command::Stop => flag.store(true, Relaxed),
                }
            }
        }
    };
    thread::Builder::new().name("agent-ear".into()).spawn(ear)?;
    Ok(stop)
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
    stop: Arc<AtomicBool>,
    setup: Setup,
    pids: Vec<u32>,
}

impl Observer for Reporter<'_> {
    fn prepared(&mut self, prepared: &Prepared) -> io::Result<()> {
        self.setup.cookies.clone_from(&prepared.cookies);
        self.setup.affinity = prepared.affinity.iter().map(CpuSet::to_string).collect();
        self.setup.tsc_khz = prepared.tsc_khz;
        self.setup.notes.extend_from_slice(&prepared.notes);
        self.setup.iteration_ticks = iteration_ticks();
        Ok(())
    }

    fn released(&mut self, tsc_start: u64) -> io::Result<()> {
        self.setup.tsc_start = tsc_start;
        self.host.send(&Message::Ready(self.setup.clone()))
    }

    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()> {
        let frame = encode_gaps(thread, records).map_err(io::Error::other)?;
        self.host.port.write_all(&frame)
    }

    fn tick(&mut self, tick: Tick) -> io::Result<()> {
        system::reap_strangers(&self.pids);
        self.host.send(&Message::Tick(tick))
    }

    fn hit(&mut self, hit: ThresholdHit) -> io::Result<()> {
        self.host.send(&Message::ThresholdHit(hit))
    }

    fn stop_requested(&mut self) -> bool {
        self.stop.load(Relaxed)
    }

    fn processes(&mut self, pids: &[u32]) {
        self.pids = pids.to_vec();
    }
}

/// Cost of one turn of the meter's loop, measured on a CPU that is not measured.
fn iteration_ticks() -> u64 {
    /// About 5 ms in all.
    const BATCHES: usize = 30;
    let ticks = bench::meter(BATCHES).meter.median_ticks.round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cost of some tens to thousands of ticks; `as` saturates"
    )]
    let ticks = ticks as u64;
    ticks
}
