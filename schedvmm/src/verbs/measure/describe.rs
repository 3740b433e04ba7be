// SPDX-License-Identifier: Apache-2.0
//! A plan, and what became of it, as the measurement begins with it and result.json has it.

use std::time::{Duration, Instant};

use protocol::job::MeterKind;
use results::folder::Folder;
use results::model::{KernelFacts, Machine, MicroVm, Target};
use vmm::config::Transport;
use vmm::vm::{Facts, Running, Vm};

use super::plan::Plan;
use crate::caller::Caller;
use crate::cli::Idle;
use crate::compose::Origin;
use crate::convert;
use crate::deliver::Checkpoints;
use crate::host_steal::HostEvidence;
use crate::kernel::{Kernel, Known};
use crate::measurement::Measurement;
use crate::modules::Modules;
use crate::session::{Limits, Session};
use crate::show::{Show, Style};

impl Plan {
    /// What the guest may make us keep, and how long it may take to boot.
    pub fn limits(&self) -> Limits {
        let load = &self.job.load;
        Limits {
            threads: load.threads(),
            records_per_thread: load.records_per_thread as usize,
            boot: self.args.machine.boot_timeout,
            vms: if self.args.nested.nested { self.args.nested.l2_count } else { 0 },
            allow_degraded: self.args.nested.allow_degraded,
        }
    }

    /// What this host says of the vCPUs that the load runs on, from now on.
    pub fn host_evidence(&self, running: &Running, facts: Facts) -> HostEvidence {
        if !facts.tsc_shared {
            return HostEvidence::none(Some("the guest's TSC is not the host's"));
        }
        let khz = facts.tsc_khz.into();
        let evidence = HostEvidence::of(running, &self.job.load, khz);
        match &self.job.nested {
            None => evidence,
            Some(nested) => {
                // The kernel's meters tell of a gap, and not when in a window it was.
                let meter = nested.job.meter.filter(|meter| meter.kind != MeterKind::Rdtsc);
                evidence.of_machines(meter.map_or(Duration::ZERO, |meter| meter.width), khz)
            }
        }
    }

    /// The machine as result.json describes it.
    pub fn describe(&self, vm: &Vm, modules: &Modules) -> Machine {
        let args = &self.args.machine;
        let idle = Idle::of(vm.cmdline());
        let notes = &self.placement.notes;
        let microvm = MicroVm {
            cpus: args.cpus,
            threads_per_core: args.threads_per_core,
            memory_mib: args.memory,
            idle: idle.into(),
            pv: convert::pv(args.pv),
            transport: convert::transport(vm.facts().transport),
            modules: modules.names().into_iter().map(str::to_owned).collect(),
            modules_bytes: modules.bytes() as u64,
            modules_packed_bytes: modules.packed_bytes().map(|(_, bytes)| bytes as u64).sum(),
            modules_from: modules.from().map(str::to_owned),
            pins: self.placement.pins.clone(),
            pin_note: (!notes.is_empty()).then(|| notes.join("; ")),
            tsc_khz: vm.facts().tsc_khz,
            tsc_equals_host: vm.facts().tsc_shared,
            end: None,
        };
        Machine { summary: self.summary(idle, vm.facts().transport), vm: Some(microvm) }
    }

    /// What the run is of, but for what came up.
    pub fn origin(&self, kernel: KernelFacts, machine: Machine) -> Origin {
        let target = if self.args.nested.nested { Target::Nested } else { Target::User };
        Origin {
            started_utc: self.started_utc.clone(),
            kernel,
            machine,
            host_cpus: self.host_cpus,
            terms: self.args.load.terms(false),
            limits: self.args.load.fail_if.clone(),
            ..Origin::new(target)
        }
    }

    /// The measurement that begins with the machine's boot; what was `taken` is shown.
    pub fn measurement(
        &self,
        origin: Origin,
        caller: Caller,
        folder: Folder,
        taken: &[String],
    ) -> Measurement {
        let limits = self.limits();
        let show = Show::new(Style::of(&self.args.show), self.args.nested.show_vm);
        show.notes(taken);
        show.notes(&origin.notes);
        show.phase("boot", limits.boot.as_secs());
        Measurement {
            job: self.job.clone(),
            session: Session::new(limits, Instant::now()),
            origin,
            caller,
            show,
            folder,
            checkpoints: Checkpoints::default(),
            built_ms: 0,
        }
    }

    /// The machine in a line, with a guest that idles so and reaches its devices so.
    pub fn summary(&self, idle: Idle, transport: Transport) -> String {
        let args = &self.args.machine;
        let pins = match self.placement.pins.as_slice() {
            [] => "not pinned".to_owned(),
            pins => {
                let pins: Vec<_> = pins.iter().map(usize::to_string).collect();
                format!("pinned to host CPUs {}", pins.join(","))
            }
        };
        format!(
            "{} vCPUs = {} cores x {} threads, {} MiB, idle {}, pv {}, virtio-{transport}, {pins}",
            args.cpus,
            self.topology.cores(),
            args.threads_per_core,
            args.memory,
            idle.name(),
            args.pv
        )
    }

    /// The kernel as results have it; its configuration is written into the folder.
    pub(super) fn kernel_facts(
        &self,
        kernel: &Kernel,
        known: Known,
        vm: &Vm,
        folder: &Folder,
    ) -> KernelFacts {
        let config_source = known.config.as_ref().map(|config| config.source.to_string());
        KernelFacts {
            named: self.kernel_path.display().to_string(),
            path: kernel.path.display().to_string(),
            inside: kernel.inside.clone(),
            bytes: kernel.image.bytes().len() as u64,
            banner: known.banner,
            image_release: known.release,
            build_id: known.build_id,
            config: known.config.and_then(|config| folder.write_config(config.options).ok()),
            config_source,
            entered: convert::entered(vm.kernel().entered),
            cmdline_given: vm.cmdline().to_owned(),
            hello: None,
        }
    }
}
