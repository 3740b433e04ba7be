// SPDX-License-Identifier: Apache-2.0
//! The main job again and again on one kernel: it is read, checked and unpacked once. From one run
//! to the next there is nothing to do but to build a machine.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Instant;

use protocol::error::Owner;
use protocol::job::Job;
use results::folder::FolderError;
use results::model::{Entered, RunResult};
use results::trials::{Conditions, TrialKernel, TrialMachine, TrialTerms};
use vmm::config::{BootMethod, Config, Topology};
use vmm::unpacked::Unpacked;
use vmm::vcpu::sched;

use super::plan::Plan;
use super::{Built, EVENTS_IN_FLIGHT, Laid, Opened, Ready};
use crate::caller::Caller;
use crate::cli::RunArgs;
use crate::kernel::{Kernel, Known};
use crate::limits::Limit;
use crate::measurement::millis;
use crate::service::Event;
use crate::status::{Failure, OrFail};
use crate::{convert, facts, footprint, printer, signals};

/// A kernel, ready to be booted many times.
pub struct Repeated {
    /// What is done with it, the first one to begin with.
    jobs: Vec<Planned>,
    opened: Opened,
    unpacked: Unpacked,
    known: Known,
    notes: Vec<String>,
}

/// What is done with a kernel, and under which conditions that is.
struct Planned {
    plan: Plan,
    conditions: Conditions,
}

/// How machines that run one after the other tell of themselves, and signals to this process come.
pub struct Inbox {
    events: SyncSender<Event>,
    inbox: Receiver<Event>,
}

impl Inbox {
    /// The only one of this process: signals come here from now on. To be called before any other
    /// thread exists.
    ///
    /// # Errors
    /// This host takes no signal handling.
    pub fn new() -> Result<Self, Failure> {
        let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
        signals::forward(events.clone()).or_fail(Owner::Host)?;
        Ok(Self { events, inbox })
    }
}

impl Repeated {
    /// Reads, checks and unpacks the kernel. No folder is made. `seed` is what the seeds of the runs
    /// are made of, where nobody asks for one.
    ///
    /// # Errors
    /// As for the main job: what can be refused is refused here.
    pub fn open(args: &RunArgs, seed: Option<u64>) -> Result<Self, Failure> {
        let mut plan = plan(args, seed)?;
        Caller::admit(plan.demand())?;
        let mut notes: Vec<String> = facts::emulation_note().into_iter().collect();
        let opened = Opened::new(&mut plan, &mut notes)?;
        let laid = Laid::new(&mut plan, &opened, None)?;
        let known = laid.examine(&plan, &opened, &mut notes)?;
        let unpacked = laid.unpacked();
        drop(laid);
        footprint::give_back();
        let conditions = conditions(&plan, &opened);
        let jobs = vec![Planned { plan, conditions }];
        Ok(Self { jobs, opened, unpacked, known, notes })
    }

    /// Another load, or other tunables, on the same kernel in the same machine: returns its number. The
    /// first one has 0.
    ///
    /// # Errors
    /// As for the main job.
    pub fn add(&mut self, args: &RunArgs) -> Result<usize, Failure> {
        let first = &self.jobs[0];
        let mut plan = plan(args, Some(first.conditions.seed))?;
        if let Some(khz) = first.plan.job.host_tsc_khz {
            plan.job.know_tsc(khz);
        }
        drop(Laid::new(&mut plan, &self.opened, Some(&self.unpacked))?);
        footprint::give_back();
        let conditions = conditions(&plan, &self.opened);
        self.jobs.push(Planned { plan, conditions });
        Ok(self.jobs.len() - 1)
    }

    /// What all runs are done under.
    pub fn conditions(&self) -> Conditions {
        self.conditions_of(0)
    }

    /// The same of what has this number.
    pub fn conditions_of(&self, job: usize) -> Conditions {
        self.jobs[job].conditions.clone()
    }

    /// What is to be said of all runs.
    pub fn notes(&self) -> impl Iterator<Item = &String> {
        self.notes.iter().chain(&self.jobs[0].plan.placement.notes)
    }

    /// One run. Returns what it came to, and whether that is in its folder.
    ///
    /// # Errors
    /// It could not be begun.
    pub fn measure(
        &mut self,
        seed: u64,
        folder: &Path,
        inbox: &mut Inbox,
    ) -> Result<(RunResult, Result<(), FolderError>), Failure> {
        self.measure_job(0, seed, folder, inbox)
    }

    /// One run of what has this number.
    ///
    /// # Errors
    /// As for [`measure`](Self::measure).
    pub fn measure_job(
        &mut self,
        job: usize,
        seed: u64,
        folder: &Path,
        inbox: &mut Inbox,
    ) -> Result<(RunResult, Result<(), FolderError>), Failure> {
        // Borrowed alone: one thread at a time has them.
        let Self { jobs, opened, unpacked, known, notes } = self;
        let plan = &mut jobs[job].plan;
        let Inbox { events, inbox } = inbox;
        // A thread of its own: it, and all that it starts, keeps off the CPUs that are measured, and
        // the next one is to find this process as the first one did.
        let done = thread::scope(|scope| {
            let inbox = &mut *inbox;
            let run = scope.spawn(move || {
                let begin = Instant::now();
                let mut plan = plan.again(seed, folder);
                let caller = Caller::admit(plan.demand())?;
                sched::keep_off(&plan.placement.pins);
                printer::keep_off(&plan.placement.pins);
                let laid = Laid::new(&mut plan, opened, Some(unpacked))?;
                let ready = Ready { laid, known: known.clone(), notes: notes.clone() };
                let built = Built::new(plan, caller, opened, ready, events.clone())?;
                let mut attempt = built.start(events.clone(), begin)?;
                attempt.measurement.built_ms = millis(begin.elapsed());
                Ok(attempt.watch(inbox, begin))
            });
            run.join()
        });
        // What came late is of a machine that is gone; of a signal `signals` knows.
        inbox.try_iter().for_each(drop);
        match done {
            Ok(run) => run.map(|run| (run.result, run.kept)),
            Err(_) => Err(Failure::internal("this is a defect: report it")),
        }
    }
}

/// Whether these options make sense, before any file but a load's is opened.
///
/// # Errors
/// As for the main job.
pub fn check(args: &RunArgs) -> Result<(), Failure> {
    plan(args, None).map(drop)
}

/// What these options come to, for many runs.
fn plan(args: &RunArgs, seed: Option<u64>) -> Result<Plan, Failure> {
    let mut args = args.clone();
    // Each run has its own.
    args.show.output = None;
    args.show.quiet = true;
    args.load.seed = args.load.seed.or(seed);
    Plan::make(&args)
}

fn file_of(kernel: &Kernel) -> TrialKernel {
    let bytes = kernel.image.bytes();
    TrialKernel {
        path: kernel.path.clone(),
        bytes: bytes.len() as u64,
        crc32: crc32fast::hash(bytes),
    }
}

/// What all runs of a plan are done under.
fn conditions(plan: &Plan, opened: &Opened) -> Conditions {
    // A field more is either a condition, too, or named here with the reason why it is none.
    let Config {
        topology: Topology { cpus, threads_per_core },
        memory_mib,
        pv,
        // `job.nested`.
        nested: _,
        // Words of the command line ask for it.
        serial: _,
        // The kernel and its modules decide, later on.
        screen: _,
        transport,
        listed_transport: _,
        cmdline,
        // Each run has one of its own.
        rng_seed: _,
        boot,
        pins,
        // Second-level guests have them, and theirs are in the job.
        spread: _,
        cookie: _,
    } = plan.config(opened.kernel.image.version());
    let terms = plan.args.load.terms(false);
    let mut job: Job = plan.job.clone();
    let seed = std::mem::take(&mut job.load.seed);
    if let Some(trace) = &mut job.trace {
        trace.id = None;
    }
    Conditions {
        seed,
        kernel: file_of(&opened.kernel),
        l2_kernel: opened.l2_kernel.as_ref().map(file_of),
        job,
        machine: TrialMachine {
            cpus,
            threads_per_core,
            memory_mib,
            pins,
            pv: convert::pv(pv),
            transport: transport.map(convert::transport),
            entered: match boot {
                BootMethod::Payload => Entered::Payload,
                BootMethod::Stub => Entered::Stub,
            },
            cmdline,
        },
        terms: TrialTerms {
            steal_budget: terms.steal_budget,
            noise_budget: terms.noise_budget,
            report_contaminated: terms.report_contaminated,
        },
        limits: plan.args.load.fail_if.iter().map(Limit::text).collect(),
        host: facts::host(),
    }
}
