// SPDX-License-Identifier: Apache-2.0
//! A virtual machine from top to bottom: built in numbered steps, and started.

use std::io::{self, Write};
use std::slice;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::Bytes;

use crate::attach;
use crate::bus::Buses;
use crate::config::{Config, PvProfile, Transport};
use crate::devices::i8042::I8042;
use crate::devices::power::{Power, PowerSwitch};
use crate::io::IoThread;
use crate::kvm::{self, Hypervisor};
use crate::load::{self, LoadError};
use crate::loaded::LoadedKernel;
use crate::memory::GuestRam;
use crate::vcpu::sched::{SchedError, VcpuPlacement, VcpuThread};
use crate::vcpu::{Machine, Vcpu, VcpuEnd, kick};
use crate::virtio::console::{Console, ConsoleControl, ConsoleHandles, PortSpec, PortWorker};
use crate::virtio::pci::BAR_BYTES;
use crate::x86_64::acpi::{self, Devices};
use crate::x86_64::cpuid::{self, Identity};
use crate::x86_64::{gdt, layout, page_tables, reset_vector, setup_data, zero_page};

pub use crate::error::BuildError;
pub use crate::loaded::Loaded;
pub use crate::running::{Running, StopError};

/// A vCPU thread pins itself well within this time, or something is wrong.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Why a built machine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A pin.
    #[error(transparent)]
    Sched(#[from] SchedError),
    /// No thread.
    #[error("cannot start thread {name}")]
    Thread {
        /// Its name.
        name: String,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// The kick signal.
    #[error("cannot install the signal handler that stops vCPUs")]
    Signal(#[source] vmm_sys_util::errno::Error),
    /// A thread said nothing.
    #[error("thread {0} was not ready after {START_DEADLINE:?}")]
    Silent(String),
}

/// What a machine is given beside its configuration.
pub struct Parts {
    /// Its memory, filled for this very configuration.
    pub loaded: Loaded,
    /// Console ports; the first one is the console.
    pub ports: Vec<PortSpec>,
    /// Where the 16550 writes, if there is one; must not block.
    pub serial: Option<Box<dyn Write + Send>>,
}

/// A machine before its first instruction.
pub struct Vm {
    vcpus: Vec<Vcpu>,
    workers: Vec<PortWorker>,
    kernel: LoadedKernel,
    cmdline: String,
    pins: Vec<usize>,
    spread: Vec<usize>,
    cookie: bool,
    facts: Facts,
    console: ConsoleControl,
    machine: Arc<Machine>,
    vm: Arc<VmFd>,
}

/// What turned out while the machine was built.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// TSC frequency of the guest, in kHz.
    pub tsc_khz: u32,
    /// Whether every vCPU's TSC equals the host's.
    pub tsc_shared: bool,
    /// How virtio devices are reached.
    pub transport: Transport,
}

impl Vm {
    /// Builds a machine.
    ///
    /// # Errors
    /// What the configuration, the kernel file or this host makes impossible.
    pub fn build(
        hypervisor: &Hypervisor,
        config: &Config,
        parts: Parts,
    ) -> Result<Self, BuildError> {
        // 1. What can be refused before anything is made.
        config.validate()?;
        hypervisor.check_cpus(config.topology.cpus)?;
        // 2. The virtual machine, which takes its RAM over with the kernel in it. Memory slots
        // come before any device in KVM: each waits for an SRCU grace period, which takes
        // milliseconds while a device's own is pending.
        let Loaded { ram, kernel, initrd, transport } = parts.loaded;
        let vm = Arc::new(hypervisor.create_vm()?);
        // SAFETY: `Machine` has it, which every vCPU's thread holds.
        let ram = unsafe { ram.share(&vm) }?;
        // 3. Interrupt controllers, which vCPUs need to exist.
        kvm::add_interrupt_controllers(&vm)?;
        // 4. vCPUs, the boot processor first. One CPUID table, asked once.
        let supported = hypervisor.supported_cpuid()?;
        let (vcpus, facts) = add_vcpus(&vm, config, &supported, transport)?;
        // 5. Command line and boot structures, after the kernel: no segment of it can overwrite
        // them.
        let cmdline = cmdline(config, facts);
        let cmdline_len = load::cmdline(&cmdline, &kernel, &ram)?;
        let contents = zero_page::Contents {
            cmdline_len,
            initrd,
            memory_bytes: config.memory_mib << 20,
            has_screen: config.screen,
            has_rng_seed: config.rng_seed.is_some(),
        };
        ram.write_slice(&zero_page::build(kernel.header.as_ref(), contents), layout::ZERO_PAGE)?;
        write_tables(config, transport, &ram)?;
        // 6. Devices.
        let mut buses = Buses::default();
        let power = Arc::new(PowerSwitch::default());
        let switch = Arc::new(Mutex::new(Power::new(power.clone())));
        buses.pio.insert(u64::from(layout::POWER_PORT), 1, switch)?;
        let i8042 = Arc::new(Mutex::new(I8042::new(power.clone())));
        buses.pio.insert(layout::I8042_PORT.into(), layout::I8042_PORTS.into(), i8042)?;
        if let Some(sink) = parts.serial {
            attach::serial(&vm, &mut buses, sink)?;
        }
        let ConsoleHandles { console, control, workers } = Console::new(parts.ports)?;
        let device = Box::new(console);
        match transport {
            Transport::Mmio => attach::mmio_device(&vm, &mut buses, &ram, device)?,
            Transport::Pci => attach::pci_device(&vm, &mut buses, &ram, device)?,
        }
        // 7. The boot processor stands at the kernel's entry; the others wait for it.
        vcpus[0].set_entry(kernel.entry)?;
        let machine = Machine {
            buses,
            power,
            stop: AtomicBool::new(false),
            dump: AtomicBool::new(false),
            ram,
        };
        Ok(Self {
            vcpus,
            workers,
            kernel,
            cmdline,
            pins: config.pins.clone(),
            spread: config.spread.clone(),
            cookie: config.cookie,
            facts,
            console: control,
            machine: Arc::new(machine),
            vm,
        })
    }

    /// The kernel as it was loaded.
    pub fn kernel(&self) -> &LoadedKernel {
        &self.kernel
    }

    /// The kernel's command line: the configuration's, with what the machine itself has to say.
    pub fn cmdline(&self) -> &str {
        &self.cmdline
    }

    /// What turned out while the machine was built.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Lets the guest run. `on_end` is called once a vCPU, on the vCPU's thread.
    ///
    /// No guest instruction runs unless every vCPU thread is where it should be.
    ///
    /// # Errors
    /// A thread could not be started or pinned; then all of them are gone again.
    pub fn start(
        self,
        on_end: impl Fn(VcpuEnd) + Send + Sync + Clone + 'static,
    ) -> Result<Running, StartError> {
        kick::install().map_err(StartError::Signal)?;
        let io = start_io(self.workers, &self.pins)?;
        let mut running = Running {
            vcpus: Vec::new(),
            threads: Vec::new(),
            statistics: self.vcpus.iter().map(Vcpu::statistics).collect(),
            io,
            machine: self.machine,
            console: self.console,
            _vm: self.vm,
        };
        let mut gates = Vec::new();
        for vcpu in self.vcpus {
            let (gate, opened) = mpsc::channel();
            let (placed, arrival) = mpsc::channel();
            let name = format!("CPU {}/KVM", vcpu.cpu);
            let placement = VcpuPlacement {
                name: name.clone(),
                cpu: vcpu.cpu,
                cpus: self
                    .pins
                    .get(vcpu.cpu as usize)
                    .map_or(&*self.spread, slice::from_ref)
                    .to_vec(),
                // The first one makes the cookie, the others take it from there.
                cookie: self.cookie.then(|| running.threads.first().map(|first| first.tid)),
            };
            let before = wait_at_gate(placement, placed, opened);
            let thread = vcpu
                .spawn(running.machine.clone(), before, on_end.clone())
                .map_err(|source| StartError::Thread { name: name.clone(), source })?;
            running.vcpus.push((name.clone(), thread));
            // An error returns here: the gates drop, which every thread takes for a "no".
            let placed = arrival.recv_timeout(START_DEADLINE);
            running.threads.push(placed.map_err(|_| StartError::Silent(name))??);
            gates.push(gate);
        }
        for gate in gates {
            // A thread that has died since reports its own end.
            let _ = gate.send(());
        }
        Ok(running)
    }
}

/// The configuration's command line, and before it what a kernel cannot find out in this machine.
///
/// Without KVM's clock nothing tells it the TSC's frequency, and there is no PIT, HPET or PM timer
/// to measure it with: it would go without the TSC, and so without the local APIC's deadline timer
/// and any other source of ticks (arch/x86/kernel/tsc.c, `determine_cpu_tsc_frequencies`).
///
/// Without a PCI bus it need not look for one, which it does at the configuration ports.
fn cmdline(config: &Config, facts: Facts) -> String {
    let mut line = String::new();
    if let (PvProfile::Off, khz @ 1..) = (config.pv, facts.tsc_khz) {
        line.push_str(&format!("tsc_early_khz={khz} "));
    }
    if facts.transport == Transport::Mmio {
        line.push_str("pci=off ");
    }
    line + &config.cmdline
}

/// Writes what the zero page leads to, and what the boot processor is entered with.
fn write_tables(config: &Config, transport: Transport, ram: &GuestRam) -> Result<(), LoadError> {
    let devices = match transport {
        Transport::Mmio => Devices::Mmio(&[attach::CONSOLE_SLOT]),
        Transport::Pci => Devices::Pci { base: attach::PCI_WINDOW, size: BAR_BYTES },
    };
    let tables =
        acpi::tables(layout::narrow(layout::ACPI.0), config.topology, devices, config.serial);
    let descriptors: Vec<u8> = gdt::TABLE.iter().flat_map(|word| word.to_le_bytes()).collect();
    ram.write_slice(&tables, layout::ACPI)?;
    ram.write_slice(&reset_vector::CODE, layout::RESET_VECTOR)?;
    ram.write_slice(&page_tables::identity_map(), layout::PML4)?;
    ram.write_slice(&descriptors, layout::GDT)?;
    if let Some(seed) = &config.rng_seed {
        ram.write_slice(&setup_data::rng_seed(seed), layout::RNG_SEED)?;
    }
    Ok(())
}

/// What a vCPU thread does before its guest: places itself, tells so, waits for all others.
fn wait_at_gate(
    placement: VcpuPlacement,
    placed: Sender<Result<VcpuThread, SchedError>>,
    opened: Receiver<()>,
) -> impl FnOnce() -> bool + Send + 'static {
    move || placed.send(placement.apply()).is_ok() && opened.recv().is_ok()
}

/// The first port after the console shares its thread with nothing; all others, which carry
/// bulk data to files that may be slow, share another.
fn start_io(workers: Vec<PortWorker>, measured: &[usize]) -> Result<Vec<IoThread>, StartError> {
    let mut workers = workers.into_iter();
    let mut threads = Vec::new();
    let first: Vec<_> = workers.by_ref().take(1).collect();
    for (name, group) in [("vmm-io", first), ("vmm-bulk", workers.collect())] {
        if group.is_empty() {
            continue;
        }
        let group = group.into_iter().map(|worker| Box::new(worker) as crate::io::Worker).collect();
        let thread = IoThread::spawn(name, group, measured.to_vec())
            .map_err(|source| StartError::Thread { name: name.to_owned(), source })?;
        threads.push(thread);
    }
    Ok(threads)
}

fn add_vcpus(
    vm: &VmFd,
    config: &Config,
    supported: &[kvm_bindings::kvm_cpuid_entry2],
    transport: Transport,
) -> Result<(Vec<Vcpu>, Facts), BuildError> {
    let mut vcpus = Vec::new();
    let mut facts = Facts { tsc_khz: 0, tsc_shared: true, transport };
    for cpu in 0..config.topology.cpus {
        let vcpu = Vcpu::create(vm, cpu, config.topology.apic_id(cpu))?;
        facts.tsc_khz = vcpu.tsc_khz()?;
        let identity = Identity {
            cpu,
            topology: config.topology,
            pv: config.pv,
            nested: config.nested,
            tsc_khz: facts.tsc_khz,
        };
        vcpu.configure(&cpuid::table(supported, identity))?;
        facts.tsc_shared &= vcpu.share_host_tsc();
        vcpus.push(vcpu);
    }
    Ok((vcpus, facts))
}
