// SPDX-License-Identifier: Apache-2.0
//! What the options come to, before anything is made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ftrace::TraceId;
use protocol::error::Owner;
use protocol::job::Job;
use results::folder;
use results::host_cpus::HostCpus;
use vmm::config::{Config, Topology};
use vmm::x86_64::image::KernelImage;

use crate::caller::{Demand, Heirs};
use crate::cli::RunArgs;
use crate::job;
use crate::kernel::Kernel;
use crate::machine::{self, EarlyVoice};
use crate::mapped_trace::TraceMemory;
use crate::modules::{Drivers, Modules, Tree};
use crate::placement::{self, Placement};
use crate::status::{Failure, OrFail};
use crate::trace_file::TraceFile;
use crate::verbs::measure::nested;
use crate::wall;

/// A run before it begins.
#[derive(Clone)]
pub struct Plan {
    /// The options.
    pub args: RunArgs,
    /// The kernel under test, as the user named it.
    pub kernel_path: PathBuf,
    /// Processors of the guest.
    pub topology: Topology,
    /// Where they run on the host.
    pub placement: Placement,
    /// What the host's CPUs are to it.
    pub host_cpus: HostCpus,
    /// The agent's job.
    pub job: Job,
    /// When the run began.
    pub started_utc: String,
}

impl Plan {
    /// Turns options into a plan.
    ///
    /// # Errors
    /// Options that contradict each other or make no sense.
    pub fn make(args: &RunArgs) -> Result<Self, Failure> {
        // clap requires it for the main job.
        let kernel_path =
            args.kernel.clone().ok_or_else(|| Failure::request("--kernel is missing"))?;
        let machine = &args.machine;
        let topology = Topology { cpus: machine.cpus, threads_per_core: machine.threads_per_core };
        let load_cpus = match &args.load.load_cpus {
            None => machine::default_load_cpus(topology),
            Some(list) => list.0.iter().filter_map(|cpu| u32::try_from(*cpu).ok()).collect(),
        };
        if let Some(cpu) = load_cpus.iter().find(|cpu| **cpu >= machine.cpus) {
            return Err(Failure::request(format!(
                "--load-cpus names CPU {cpu}, the guest has 0 to {}",
                machine.cpus.saturating_sub(1)
            )));
        }
        let tune = job::default_tune(&args.load);
        let mut job = job::make(&args.load, &args.trace, load_cpus, tune)?;
        let meter = args.meter.spec();
        if let Some(meter) = &meter {
            workload::kernel_meter::check(meter)?;
        }
        match meter {
            _ if args.nested.nested => nested::nest(&mut job, args)?,
            Some(meter) => {
                job::check_alone(meter, &job, args)?;
                job::metered(&mut job, meter);
            }
            None => {}
        }
        job.cpu_limit = job::limits_cpus(&machine.append).map(str::to_owned);
        let placement = placement::choose(machine.pin.as_ref(), topology);
        let plan = Self {
            kernel_path,
            topology,
            host_cpus: placement.host_cpus(topology),
            placement,
            job,
            started_utc: folder::started_utc(),
            args: args.clone(),
        };
        plan.config(None).validate()?;
        if machine.pin.is_some() {
            placement::check("--pin", &plan.placement.pins)?;
        }
        if !args.nested.nested {
            job::check_size(args, &plan.job.load)?;
        }
        folder::check(args.show.output.as_deref())?;
        TraceFile::check(args.trace.trace_file.as_deref())?;
        Ok(plan)
    }

    /// The same run once more, now, with this seed and its result in this folder.
    pub fn again(&self, seed: u64, folder: &Path) -> Self {
        let mut plan = self.clone();
        plan.started_utc = folder::started_utc();
        plan.args.show.output = Some(folder.to_owned());
        plan.job.load.seed = seed;
        if let Some(trace) = &mut plan.job.trace {
            trace.id = Some(TraceId::random());
        }
        plan
    }

    /// When the run is ended, whatever goes on in it.
    pub fn wall_limit(&self) -> Duration {
        wall::limit_of_machine(&self.args, &self.job, self.topology.cpus)
    }

    /// The machine for a kernel of this version, where it is known.
    pub fn config(&self, version: Option<(u32, u32)>) -> Config {
        let machine = &self.args.machine;
        Config {
            pv: machine.pv,
            nested: self.args.nested.nested,
            serial: machine.debug_boot,
            transport: machine.transport.asked(),
            cmdline: machine::cmdline(
                machine,
                &self.job.load.cpus,
                version,
                self.trace_memory(version),
            ),
            rng_seed: machine::rng_seed(),
            boot: machine.boot.into(),
            pins: self.placement.pins.clone(),
            ..Config::new(self.topology, machine.memory)
        }
    }

    /// How the kernel under test reaches its console, and what it has to load first; `vendor`
    /// where it is to be a host in turn.
    ///
    /// # Errors
    /// Its modules cannot be had.
    pub fn drivers(
        &self,
        kernel: &Kernel,
        vendor: Option<nested::Vendor>,
    ) -> Result<Drivers, Failure> {
        let (asked, vendor) =
            (self.args.machine.transport.asked(), vendor.map(nested::Vendor::module));
        Ok(Drivers::choose(kernel.tree.as_ref(), asked, vendor, kernel.release.as_deref())?)
    }

    /// The same of the kernel of second-level guests.
    ///
    /// # Errors
    /// As for [`drivers`](Self::drivers).
    pub fn l2_drivers(&self, kernel: &Kernel) -> Result<Drivers, Failure> {
        let nested = &self.args.nested;
        if !nested.nested {
            return Ok(Drivers::default());
        }
        let release = kernel.release.as_deref();
        // Those of a kernel of their own were read with it.
        let named = (nested.l2_kernel.is_none() && !nested.l2_modules.is_empty())
            .then(|| Tree::named(&nested.l2_modules, release, kernel.tree.as_ref()))
            .transpose()?;
        let tree = named.as_ref().or(kernel.tree.as_ref());
        Ok(Drivers::choose(tree, self.args.machine.transport.asked(), None, release)?)
    }

    /// Gives second-level guests the memory that their kernel needs, unless the user says how much.
    ///
    /// # Errors
    /// This program's own file, which is in their initrd, cannot be found.
    pub fn size_l2(&mut self, kernel: &KernelImage, modules: &Modules) -> Result<(), Failure> {
        let Some(nested) =
            self.job.nested.as_mut().filter(|_| self.args.nested.l2_memory.is_none())
        else {
            return Ok(());
        };
        let executable = std::fs::metadata(machine::own_executable()?).or_fail(Owner::Host)?;
        let initrd = executable.len().saturating_add(modules.bytes() as u64);
        nested.memory_mib = nested::memory_mib(kernel.memory_end(), initrd);
        Ok(())
    }

    /// The same as [`until_console_comes`] for second-level guests.
    pub fn until_l2_consoles_come(&mut self, kernel: &Kernel, modules: &Modules) {
        if let Some(nested) = self.job.nested.as_mut().filter(|_| modules.bring_console()) {
            for cmdline in &mut nested.cmdlines {
                *cmdline = EarlyVoice::choose(kernel.can_draw(), cmdline).before(cmdline);
            }
        }
    }

    /// Memory for ring buffers that are read from outside, where there is a trace and a kernel of
    /// this version can.
    pub fn trace_memory(&self, version: Option<(u32, u32)>) -> Option<TraceMemory> {
        let (machine, trace) = (&self.args.machine, self.job.trace.as_ref()?);
        TraceMemory::choose(version?, trace.buffer_kib, machine.cpus, machine.memory)
    }

    /// Demand of the machine on this host's CPUs.
    pub fn demand(&self) -> Demand {
        Demand {
            cpus: self.args.machine.cpus as usize,
            allow_quota: self.args.load.allow_quota,
            real_time: false,
            heirs: Heirs::Vcpus,
        }
    }
}

/// A kernel that has to load its console has no voice until it has: it gets one.
pub fn until_console_comes(config: &mut Config, kernel: &Kernel, modules: &Modules) {
    if modules.bring_console() {
        let voice = EarlyVoice::choose(kernel.can_draw(), &config.cmdline);
        match voice {
            EarlyVoice::Screen => config.screen = true,
            EarlyVoice::Serial => config.serial = true,
        }
        config.cmdline = voice.before(&config.cmdline);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use protocol::job::MeterKind;
    use protocol::tunable::TunableName;

    use super::*;
    use crate::cli::Cli;
    use crate::status::ExitStatus;

    fn plan(words: &[&str]) -> Result<Plan, Failure> {
        let args = ["schedvmm", "--kernel", "x"].iter().chain(words);
        Plan::make(&Cli::try_parse_from(args).expect("parses").run)
    }

    #[test]
    fn the_machine_has_a_seed_for_its_kernel() {
        let config = plan(&[]).expect("a plan").config(None);
        assert!(config.rng_seed.is_some());
    }

    #[test]
    fn loads_that_cannot_be_are_usage_errors() {
        for words in [
            ["--groups", "0"],
            ["--threads", "4294967295"],
            ["--load-cpus", "4"],
            ["--records", "4000000000"],
            ["--tune", "slice=fast"],
            ["--trace-buffer", "99999G"],
            ["--meter=hwlat", "--meter-width=1001ms"],
            ["--meter=auto", "--meter-window=1ns"],
            ["--meter=rdtsc", "--cosched=prctl"],
            ["--meter=hwlat", "--trace-events=sched"],
            ["--meter=osnoise", "--trace-dump=always"],
            ["--trace-events", "sched,a:b:c"],
            ["--trace-events", "../x"],
            ["--trace=off", "--trace-events=sched"],
            ["--trace=off", "--trace-buffer=1M"],
            ["--trace=off", "--trace-dump=always"],
            ["--trace=off", "--trace-file=t"],
            ["--nested", "--l2-append=nosmt"],
            ["--nested", "--l2-append=9:quiet"],
            ["--nested", "--l2-append=0:quiet"],
        ] {
            let Err(failure) = plan(&words) else { panic!("{words:?} accepted") };
            assert_eq!(failure.status(), ExitStatus::Usage, "{words:?}");
            assert!(failure.to_string().len() > 20, "{failure}");
        }
    }

    #[test]
    fn a_word_by_which_cpus_may_be_missing_is_in_the_job() {
        let limit = |words| plan(&["--append", words]).ok().and_then(|plan| plan.job.cpu_limit);
        assert_eq!(limit("maxcpus=1").as_deref(), Some("maxcpus=1"));
        assert_eq!(limit("quiet"), None);
    }

    #[test]
    fn a_threshold_under_the_floor_is_refused_with_both() {
        let floor = ["--floor", "2ms", "--threshold"];
        let refused = |threshold| plan(&[&floor[..], &[threshold]].concat()).err();
        let failure = refused("1999us").expect("refused");
        assert_eq!(failure.status(), ExitStatus::Usage);
        let text = failure.to_string();
        assert!(text.contains("--threshold 1.999ms") && text.contains("--floor 2ms"), "{text}");
        assert!(refused("2ms").is_none() && refused("off").is_none());
    }

    #[test]
    fn a_meter_has_the_cpus_for_itself() {
        let plan = plan(&["--meter", "osnoise", "--cosched", "none"])
            .map_err(|failure| failure.to_string());
        let plan = plan.expect("a plan");
        assert_eq!(plan.job.meter.map(|meter| meter.kind), Some(MeterKind::Osnoise));
        let load = &plan.job.load;
        assert_eq!((load.groups.len(), load.threads(), load.cpus.len()), (1, 2, 2));
        assert!(load.groups[0].spread);
        assert_eq!(plan.limits().threads, 2);
        assert_eq!(plan.job.noise, Duration::ZERO);
    }

    #[test]
    fn what_a_meter_would_ignore_is_refused_by_name() {
        for instead in [&["--meter", "hwlat"][..], &["--meter", "osnoise"], &["--nested"]] {
            for (option, value) in [
                ("--groups", "8"),
                ("--threads", "2"),
                ("--busy", "1s"),
                ("--sleep", "fixed:1s"),
                ("--arrival", "periodic:1s"),
                ("--seed", "1"),
                ("--preset", "busy"),
                ("--load", "x"),
                ("--noise", "1s"),
                ("--steal-budget", "1%"),
                ("--warmup", "1s"),
            ] {
                let words = ["schedvmm", "--kernel", "x"].iter().chain(instead);
                let error = Cli::try_parse_from(words.chain(&[option, value])).expect_err(option);
                let text = error.to_string();
                assert!(text.contains(option) && text.contains(instead[0]), "{text}");
            }
        }
    }

    #[test]
    fn budgets_of_noise_are_for_loads_and_for_machines_in_the_machine() {
        for budget in [["--noise-budget", "1%"], ["--on-contaminated", "report"]] {
            let alone = [&["--meter", "osnoise", "--cosched", "none"][..], &budget].concat();
            let error = plan(&alone).err().expect("no plan").to_string();
            assert!(error.contains(budget[0]) && error.contains("--meter"), "{error}");
            for measured in [&[][..], &["--nested"], &["--nested", "--meter", "hwlat"]] {
                let words = [measured, &budget].concat();
                plan(&words).map_err(|failure| failure.to_string()).expect("a plan");
            }
        }
    }

    #[test]
    fn options_of_meters_want_one() {
        let parse =
            |words: &[&str]| Cli::try_parse_from(["schedvmm", "--kernel", "x"].iter().chain(words));
        for option in ["--meter-window=2s", "--meter-width=1s", "--meter-mode=per-cpu"] {
            let text = parse(&[option]).expect_err(option).to_string();
            assert!(text.contains("--meter"), "{text}");
            assert!(parse(&["--meter=auto", option]).is_ok(), "{option}");
            assert!(parse(&["--meter=auto", "--nested", option]).is_ok(), "{option}");
        }
        // That of virtual machines is one, whether it has been named or not.
        assert!(parse(&["--nested", "--meter-width=400ms"]).is_ok());
    }

    #[test]
    fn a_tunable_given_by_the_user_replaces_ours() {
        let plan = plan(&["--tune", "slice=3ms"]).map_err(|failure| failure.to_string());
        let tune = plan.expect("a plan").job.tune;
        let slices: Vec<_> =
            tune.iter().filter(|request| request.name == TunableName::Slice).collect();
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].value, "3ms");
        assert!(tune.len() > 3);
    }
}
