// SPDX-License-Identifier: Apache-2.0
//! The main job: one kernel, one machine, one load, one result.

mod attempt;
mod console;
mod describe;
pub mod nested;
pub mod plan;
pub mod repeated;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Instant;

use protocol::error::Owner;
use results::folder::Folder;
use vmm::config::Config;
use vmm::kvm::Hypervisor;
use vmm::load::{self, Initrd, Kernel as Image};
use vmm::unpacked::Unpacked;
use vmm::vcpu::sched;
use vmm::vm::{Loaded, Parts, Vm};
use vmm::x86_64::lint::{Lint, LintError, Wanted};

use self::attempt::Attempt;
use self::console::{Console, ports};
use self::nested::Vendor;
use crate::caller::Caller;
use crate::cli::RunArgs;
use crate::compose::Origin;
use crate::disk::Disk;
use crate::kernel::{self, Kernel, KernelFileError, Known};
use crate::machine::{self, SecondLevel};
use crate::mapped_trace::TraceMemory;
use crate::measurement::{Measurement, millis};
use crate::modules::Drivers;
use crate::needs;
use crate::probe::{self, ProbeError};
use crate::service::{self, Event};
use crate::sinks::TraceSink;
use crate::status::{ExitStatus, Failure, OrFail};
use crate::trace_file::TraceFile;
use crate::verbs::measure::plan::Plan;
use crate::wall::WallLimit;
use crate::{convert, facts, footprint, printer, signals};

/// Messages on their way to the main thread; beyond, the guest waits.
const EVENTS_IN_FLIGHT: usize = 256;

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

/// The host's KVM, and the kernel with the drivers that it needs.
struct Opened {
    hypervisor: Hypervisor,
    /// With virtual machines as the load: whose virtualization the host has.
    vendor: Option<Vendor>,
    kernel: Kernel,
    drivers: Drivers,
    /// Of second-level guests, where it is another one.
    l2_kernel: Option<Kernel>,
    /// What these load.
    l2_drivers: Drivers,
}

impl Opened {
    /// Opens all of them.
    ///
    /// # Errors
    /// This host's KVM will not do, or a kernel, or its modules.
    fn new(plan: &mut Plan, notes: &mut Vec<String>) -> Result<Self, Failure> {
        let hypervisor = Hypervisor::open(Path::new(vmm::kvm::DEVICE))
            .map_err(|error| first_of_files(plan, error.into()))?;
        let vendor = plan.args.nested.nested.then(|| nested::vendor_of(&hypervisor)).transpose();
        let vendor = vendor.map_err(|error| first_of_files(plan, error))?;
        // The probe runs beside the reading of the kernel: it costs no time of its own.
        let (probed, kernel) = thread::scope(|scope| {
            let probe = scope.spawn(|| probe::run(&hypervisor, probe::PROBE_TIMEOUT));
            let kernel = kernel::open(&plan.kernel_path, &plan.args.machine.modules);
            (probe.join(), kernel)
        });
        let kernel = kernel?;
        machine::check_pv(&kernel.path, plan.args.machine.pv, kernel.image.version())?;
        let drivers = plan.drivers(&kernel, vendor)?;
        match probed {
            Ok(Ok(facts)) => plan.job.know_tsc(facts.tsc_khz.into()),
            Ok(Err(undecided @ ProbeError::Undecided(_))) => notes.push(undecided.to_string()),
            Ok(Err(error)) => return Err(first_of_files(plan, error.into())),
            Err(_) => return Err(Failure::internal("the KVM probe panicked")),
        }
        let l2_kernel = plan.args.nested.l2_kernel.as_deref();
        let l2_kernel = l2_kernel.map(|path| second_kernel(plan, path)).transpose()?;
        let l2_drivers = plan.l2_drivers(l2_kernel.as_ref().unwrap_or(&kernel))?;
        Ok(Self { hypervisor, vendor, kernel, drivers, l2_kernel, l2_drivers })
    }

    /// Which kernel was taken for second-level guests, where it is another one.
    fn taken(&self) -> Option<String> {
        let kernel = self.l2_kernel.as_ref()?;
        Some(format!("VMs: kernel {}", kernel.place()))
    }
}

/// Kernel and initrd in the machine's memory.
struct Laid {
    config: Config,
    loaded: Loaded,
}

impl Laid {
    /// Puts them there; the kernel as it was unpacked before, where it was.
    ///
    /// # Errors
    /// Memory does not hold all of it.
    fn new(plan: &mut Plan, opened: &Opened, unpacked: Option<&Unpacked>) -> Result<Self, Failure> {
        let Opened { kernel, drivers, l2_kernel, l2_drivers, .. } = opened;
        let (modules, l2_modules) = (&drivers.modules, &l2_drivers.modules);
        let mut config = plan.config(kernel.image.version());
        (config.transport, config.listed_transport) = (drivers.required(), drivers.listed());
        let second = l2_kernel.as_ref().unwrap_or(kernel);
        if let Some(nested) = &mut plan.job.nested {
            nested.transport = l2_drivers.required().map(convert::transport);
        }
        plan.size_l2(&second.image, l2_modules)?;
        plan::until_console_comes(&mut config, kernel, modules);
        plan.until_l2_consoles_come(second, l2_modules);
        let second = SecondLevel { kernel: second.image.bytes(), modules: l2_modules };
        let initrd = machine::initrd(&plan.job, modules, opened.vendor.map(|_| second))?;
        let image = unpacked.map_or(Image::Image(&kernel.image), Image::Unpacked);
        let loaded = load::fill(&config, image, Initrd::Bytes(&initrd))
            .map_err(|error| machine::build_failure(&kernel.path, error))?;
        Ok(Self { config, loaded })
    }

    /// What the kernel tells now that it is unpacked.
    ///
    /// # Errors
    /// It lacks what a run cannot do without.
    fn examine(
        &self,
        plan: &Plan,
        opened: &Opened,
        notes: &mut Vec<String>,
    ) -> Result<Known, Failure> {
        let Opened { kernel, drivers, .. } = opened;
        let modules = &drivers.modules;
        notes.extend(drivers.passed_over.clone());
        let (cpus, names) = (self.config.topology.cpus, modules.names());
        let wanted = Wanted { cpus, modules: &names, transport: drivers.required() };
        let lint = self.loaded.lint(wanted).map_err(|error| unusable(error, &kernel.path))?;
        let known = kernel.known(lint, self.loaded.build_id(), &names);
        if let Some(vendor) = opened.vendor {
            // A packed kernel tells nothing; the agent in it will.
            nested::check_kernel(
                known.options(),
                modules,
                |text: &[u8]| self.loaded.kernel_has(text) != Some(false),
                vendor,
            )
            .map_err(|error| unusable(error, &kernel.path))?;
        }
        if let Some(l2_kernel) = &opened.l2_kernel {
            notes.extend(l2_kernel.known(Lint::default(), None, &[]).notes);
        }
        notes.extend(known.notes.iter().cloned());
        notes.extend(drivers.stale(self.loaded.transport(), known.modules.as_ref()));
        let nested = plan.args.nested.nested;
        let has = needs::each_once(|text| self.loaded.kernel_has(text.as_bytes()));
        notes.extend(needs::note(&needs::assess(nested, &known, &has)));
        notes.extend(needs::contradicted(nested, &known, &has));
        Ok(known)
    }

    /// The kernel, for machines to come.
    fn unpacked(&self) -> Unpacked {
        Unpacked::of(&self.loaded)
    }

    /// What the machine is built from.
    fn into_parts(self) -> (Config, Loaded) {
        (self.config, self.loaded)
    }
}

fn unusable(error: LintError, path: &Path) -> KernelFileError {
    kernel::unusable(path, error)
}

/// The failure of this host, unless a kernel, or a module of it, is bad: that is so on any host.
fn first_of_files(plan: &Plan, failure: Failure) -> Failure {
    check_files(plan).err().unwrap_or(failure)
}

fn check_files(plan: &Plan) -> Result<(), Failure> {
    let kernel = kernel::open(&plan.kernel_path, &plan.args.machine.modules)?;
    plan.drivers(&kernel, None)?;
    plan.args.nested.l2_kernel.as_deref().map_or(Ok(()), |path| second_kernel(plan, path).map(drop))
}

fn second_kernel(plan: &Plan, path: &Path) -> Result<Kernel, Failure> {
    let kernel = kernel::open(path, &plan.args.nested.l2_modules)?;
    machine::check_pv(&kernel.path, plan.args.machine.pv, kernel.image.version())?;
    Ok(kernel)
}
