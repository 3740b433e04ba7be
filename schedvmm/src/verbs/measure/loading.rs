// SPDX-License-Identifier: Apache-2.0
//! What a machine is made of: host, kernels, modules, initrd; and whether they will do.

use std::path::Path;
use std::thread;

use vmm::config::Config;
use vmm::kvm::Hypervisor;
use vmm::load::{self, Initrd, Kernel as Image};
use vmm::unpacked::Unpacked;
use vmm::vm::Loaded;
use vmm::x86_64::lint::{Lint, Wanted};

use super::nested::{self, Vendor};
use super::plan::{self, Plan};
use crate::convert;
use crate::kernel::{self, Kernel, Known};
use crate::machine::{self, SecondLevel};
use crate::modules::Drivers;
use crate::needs;
use crate::probe::{self, ProbeError};
use crate::status::Failure;

/// The host's KVM, and the kernel with the drivers that it needs.
pub(super) struct Opened {
    pub(super) hypervisor: Hypervisor,
    /// With virtual machines as the load: whose virtualization the host has.
    vendor: Option<Vendor>,
    pub(super) kernel: Kernel,
    pub(super) drivers: Drivers,
    /// Of second-level guests, where it is another one.
    pub(super) l2_kernel: Option<Kernel>,
    /// What these load.
    l2_drivers: Drivers,
}

impl Opened {
    /// Opens all of them.
    ///
    /// # Errors
    /// This host's KVM will not do, or a kernel, or its modules.
    pub(super) fn new(plan: &mut Plan, notes: &mut Vec<String>) -> Result<Self, Failure> {
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
    pub(super) fn taken(&self) -> Option<String> {
        let kernel = self.l2_kernel.as_ref()?;
        Some(format!("VMs: kernel {}", kernel.place()))
    }
}

/// Kernel and initrd in the machine's memory.
pub(super) struct Laid {
    config: Config,
    loaded: Loaded,
}

impl Laid {
    /// Puts them there; the kernel as it was unpacked before, where it was.
    ///
    /// # Errors
    /// Memory does not hold all of it.
    pub(super) fn new(
        plan: &mut Plan,
        opened: &Opened,
        unpacked: Option<&Unpacked>,
    ) -> Result<Self, Failure> {
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
    pub(super) fn examine(
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
        let findings = needs::assess(plan.args.nested.nested, &known, |text: &str| {
            self.loaded.kernel_has(text.as_bytes())
        });
        notes.extend(needs::note(&findings));
        Ok(known)
    }

    /// The kernel, for machines to come.
    pub(super) fn unpacked(&self) -> Unpacked {
        Unpacked::of(&self.loaded)
    }

    /// What the machine is built from.
    pub(super) fn into_parts(self) -> (Config, Loaded) {
        (self.config, self.loaded)
    }
}

fn unusable(
    error: vmm::x86_64::lint::LintError,
    path: &std::path::Path,
) -> kernel::KernelFileError {
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
