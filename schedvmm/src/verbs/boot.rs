// SPDX-License-Identifier: Apache-2.0
//! `schedvmm boot`: a kernel and an initrd of the user's own, until the machine ends.
//! Nothing is measured; it shows whether, and how fast, a kernel comes up in our machine.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use protocol::error::Owner;
use vmm::config::{Config, Topology};
use vmm::kvm::Hypervisor;
use vmm::load::{self, Initrd, Kernel};
use vmm::vcpu::{ExitReason, VcpuEnd, sched};
use vmm::virtio::console::{self, PortKind, PortSpec};
use vmm::vm::{Parts, Vm};

use crate::cli::{BootArgs, MachineArgs};
use crate::owner::file_failure;
use crate::printer::Stream;
use crate::service::{self, Attendant, Event};
use crate::sinks::ConsoleRing;
use crate::status::{ExitStatus, Failure, OrFail, Owned};
use crate::terminal::Plain;
use crate::{kernel, machine, placement, plain_file, printer, signals};

/// Interval at which the console is shown.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Events on their way to the main thread: one a vCPU, and signals.
const EVENTS_IN_FLIGHT: usize = 1024;

/// Bytes of the console that wait for who reads it, beside those in the ring.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// An initrd lies below 4 GiB.
const MAX_INITRD_BYTES: u64 = 4 << 30;

/// Refuses modules, which are for an initrd of ours.
fn check_modules(args: &BootArgs) -> Result<(), Failure> {
    if args.machine.modules.is_empty() {
        return Ok(());
    }
    Err(Failure::request(
        "--modules goes into the initrd of a measurement, and this one is your own: put them into \
         it, with a program that loads them",
    ))
}

/// The machine, as far as the options tell.
fn config(args: &MachineArgs) -> Config {
    let topology = Topology { cpus: args.cpus, threads_per_core: args.threads_per_core };
    Config {
        pv: args.pv,
        serial: args.debug_boot,
        transport: args.transport.asked(),
        rng_seed: machine::rng_seed(),
        boot: args.boot.into(),
        pins: placement::choose(args.pin.as_ref(), topology).pins,
        ..Config::new(topology, args.memory)
    }
}

/// Boots and shows the console on stdout.
///
/// # Errors
/// The machine could not be made, or ended by accident.
pub fn run(args: &BootArgs) -> Result<ExitStatus, Failure> {
    let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
    signals::forward(events.clone()).or_fail(Owner::Host)?;
    let machine = &args.machine;
    let mut config = config(machine);
    // The request first, whatever the kernel and the host are like.
    config.validate()?;
    if machine.pin.is_some() {
        placement::check("--pin", &config.pins)?;
    }
    check_modules(args)?;
    let console = ConsoleRing::default();
    console::check(&ports(&args.port, &console, |_| Ok(Box::new(io::sink())))?)?;
    let hypervisor = Hypervisor::open(Path::new(vmm::kvm::DEVICE))?;
    let kernel = kernel::open(&args.kernel, &[])?;
    let version = kernel.image.version();
    machine::check_pv(&kernel.path, machine.pv, version)?;
    let initrd = match &args.initrd {
        Some(path) => plain_file::read(path, MAX_INITRD_BYTES)
            .map_err(|error| file_failure(&error, "read initrd", path))?,
        None => Vec::new(),
    };
    config.cmdline = machine::cmdline(machine, &[], version, None);
    sched::keep_off(&config.pins);
    printer::keep_off(&config.pins);
    let ports = ports(&args.port, &console, |path| {
        let file = File::create(path).map_err(|error| file_failure(&error, "write", path))?;
        Ok(Box::new(file))
    })?;
    let serial = config.serial.then(|| Box::new(console.clone()) as _);
    let kernel_path = kernel.path.clone();
    let loaded = load::fill(&config, Kernel::Image(&kernel.image), Initrd::Bytes(&initrd));
    let loaded = loaded.map_err(|error| unbuilt(error, &kernel_path))?;
    drop((kernel, initrd));
    let vm = Vm::build(&hypervisor, &config, Parts { loaded, ports, serial })
        .map_err(|error| unbuilt(error, &kernel_path))?;
    let mut running = vm.start(service::tell_end(events))?;
    let deadline = Instant::now() + machine.boot_timeout;
    let mut screen = Screen { output: Output::new(), console, deadline, args: machine };
    let end = service::serve(&mut screen, &inbox, POLL_INTERVAL);
    let stopped = service::stop(&mut running, &inbox, false, |_| {});
    screen.show();
    screen.output.finish();
    stopped.took?;
    for (name, file) in &args.port {
        if let Some(error) = running.console().port_error(name) {
            let text = format!("port {name}: cannot write {}: {error}", file.display());
            return Err(Failure::host(text));
        }
    }
    end
}

fn unbuilt(error: vmm::vm::BuildError, kernel_path: &Path) -> Failure {
    machine::build_failure(kernel_path, error)
}

/// The console, and the ports asked for with their files, which `open` opens.
fn ports(
    asked: &[(String, PathBuf)],
    console: &ConsoleRing,
    open: impl Fn(&Path) -> Result<Box<dyn Write + Send>, Failure>,
) -> Result<Vec<PortSpec>, Failure> {
    let mut ports = vec![PortSpec {
        name: "console".into(),
        kind: PortKind::Console,
        sink: Box::new(console.clone()),
    }];
    for (name, path) in asked {
        let sink = open(path)?;
        ports.push(PortSpec { name: name.clone(), kind: PortKind::Generic, sink });
    }
    Ok(ports)
}

/// Shows the console until the machine ends, somebody ends it, or time is up.
struct Screen<'a> {
    output: Output,
    console: ConsoleRing,
    deadline: Instant,
    args: &'a MachineArgs,
}

impl Screen<'_> {
    fn show(&mut self) {
        // What a terminal does not take waits in the ring, and is dropped there with a mark.
        if printer::pending_bytes() >= MAX_PENDING_BYTES {
            return;
        }
        let bytes = self.console.take();
        if !bytes.is_empty() {
            self.output.write(&bytes);
        }
    }
}

impl Attendant for Screen<'_> {
    type End = Result<ExitStatus, Failure>;

    fn event(&mut self, event: Event) -> Option<Self::End> {
        match event {
            Event::Vcpu(VcpuEnd { reason: ExitReason::PowerOff | ExitReason::Reset, .. }) => {
                Some(Ok(ExitStatus::Pass))
            }
            Event::Vcpu(VcpuEnd { cpu, reason, state, .. }) => {
                let text = format!("vCPU {cpu} ended: {reason}\n{}", state.unwrap_or_default());
                Some(Err(Failure::new(reason.owner(), text)))
            }
            Event::Signal(signal) => Some(Ok(ExitStatus::of_signal(signal))),
            Event::Control(_) => None,
        }
    }

    fn poll(&mut self) -> Option<Self::End> {
        self.show();
        (Instant::now() >= self.deadline).then(|| {
            let timeout = self.args.boot_timeout;
            let text = format!("the machine has not ended within {timeout:?} (--boot-timeout)");
            Err(Failure::kernel(text))
        })
    }

    fn gone(&mut self) -> Self::End {
        Err(Failure::internal("all vCPU threads are gone"))
    }
}

/// The console on its way to stdout: plain text for a terminal, as it is for anything else. A
/// closed stdout takes what is shown; the machine goes on.
enum Output {
    Terminal(Plain<Printed>),
    Other(Printed),
}

/// By way of the printer, which does not block.
struct Printed;

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        printer::print(Stream::Out, bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    #[expect(clippy::disallowed_methods, reason = "what is no terminal has the bytes as they are")]
    fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        if is_terminal { Self::Terminal(Plain::new(Printed)) } else { Self::Other(Printed) }
    }

    fn write(&mut self, bytes: &[u8]) {
        let out: &mut dyn Write = match self {
            Self::Terminal(plain) => plain,
            Self::Other(other) => other,
        };
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    }

    fn finish(&mut self) {
        if let Self::Terminal(plain) = self {
            let _ = plain.finish();
        }
    }
}
