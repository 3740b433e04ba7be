// SPDX-License-Identifier: Apache-2.0
//! From the VMs' boot to their end: confined at a barrier, measured, told to stop.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use gaps::bench;
use gaps::tsc::{self, Anchor, Choice, Sources, ticks_to_ns};
use protocol::cpu_list::CpuSet;
use protocol::group_process;
use protocol::job::{Confine, LoadSpec, NestedSpec};
use protocol::launcher::LauncherCommand;
use protocol::message::{ThresholdHit, Tick};
use protocol::report::TscReport;
use protocol::vm::VmPhase;
use workload::context::WorkloadContext;
use workload::error::LoadError;
use workload::kernel::files;
use workload::observer::{Observer, Outcome, Prepared};
use workload::placement::Places;
use workload::supervisor;

use super::images::Images;
use super::report::Measured;
use super::starter::Starter;
use super::vm::L2Vm;
use super::vms::{L2Vms, SECOND};
use super::{NestedError, online};

/// For all launchers to confine their threads and to read it back.
const CONFINED: Duration = Duration::from_secs(30);
/// From the command to stop to the last VM's end, reports included.
const FINISHED: Duration = Duration::from_secs(60);

/// Boots the VMs and measures them; results and faults as those of [`supervisor::run`].
///
/// # Errors
/// There was nothing to measure.
pub fn run(
    spec: &NestedSpec,
    load: &LoadSpec,
    context: &WorkloadContext,
    observer: &mut dyn Observer,
) -> Result<Outcome, NestedError> {
    let mut sources = context.tsc;
    let choice = supervisor::tsc_frequency(&mut sources)?;
    let images = Images::prepare(&context.executable, spec)?;
    let (mut vms, starter) = L2Vms::new(spec, load, context, images, observer)?;
    let ready = vms.until_ready(&starter);
    // Even if they shall but end, of which the first error tells why.
    let released = vms.release();
    ready.and(released)?;
    // Every launcher has mapped its images by now.
    drop(starter);
    let places = vms.places();
    vms.confine(&places)?;
    let prepared = vms.prepared(choice, context, places)?;
    vms.observer.prepared(&prepared)?;
    let trace = context.trace.as_ref().map(TraceFiles::open).transpose();
    let trace = trace.map_err(LoadError::TraceFiles)?;
    let begin = Anchor::now();
    let measured = vms.measure(choice, trace.as_ref())?;
    let sources = Sources { slope_khz: begin.slope_khz(&Anchor::now()), ..sources };
    vms.finish()?;
    let tsc = TscReport::new(choice, &sources);
    let report = vms.report(measured, tsc);
    Ok(Outcome { report, fault: None })
}

/// Whether this kernel has KVM; makes the device node where the kernel has no devtmpfs.
///
/// # Errors
/// It has none, or none that can be opened.
pub fn require_kvm() -> Result<(), NestedError> {
    let node = Path::new("/dev/kvm");
    if !node.exists() {
        // 10:232 (Documentation/admin-guide/devices.txt); a failure shows in the opening.
        let _ = files::make_node(node, 10, 232);
    }
    File::options().read(true).write(true).open(node).map(drop).map_err(NestedError::NoKvm)
}

/// The trace to stop at a hit, opened beforehand.
struct TraceFiles {
    marker: File,
    switch: File,
}

impl TraceFiles {
    fn open(stop: &group_process::TraceStop) -> io::Result<Self> {
        Ok(Self {
            marker: files::open_for_writing(&stop.marker)?,
            switch: files::open_for_writing(&stop.switch)?,
        })
    }

    /// Failures leave the trace without its marker, or running: no reason to stop measuring.
    fn stop(&self, text: &str) {
        let _ = (&self.marker).write(text.as_bytes());
        let _ = (&self.switch).write(b"0");
    }
}

fn is_ready(vm: &L2Vm) -> bool {
    vm.status.phase >= VmPhase::Ready
}

impl L2Vms<'_> {
    /// Until each VM is ready or is given up.
    fn until_ready(&mut self, starter: &Starter) -> Result<(), NestedError> {
        let deadline = self.spec.boot_timeout.map(|timeout| (Instant::now() + timeout, timeout));
        loop {
            self.launch_due(starter)?;
            let to_come = self.load.groups.len() > self.vms.len();
            let waiting = self.vms.iter().filter(|vm| vm.is_healthy() && !is_ready(vm));
            let names: Vec<_> = waiting.map(|vm| vm.status.vm.to_string()).collect();
            if !to_come && names.is_empty() {
                self.wait_for_exit(|vm| !vm.is_healthy(), "VMs that were given up to end")?;
                return self.check_any();
            }
            if self.observer.stop_requested() {
                return Err(NestedError::NoneUp("told to stop before all were ready".into()));
            }
            match deadline {
                Some((deadline, timeout)) if Instant::now() >= deadline => {
                    if to_come {
                        let text = format!("not all could be started within {timeout:?}");
                        return Err(NestedError::NoneUp(text));
                    }
                    let text = format!("was not ready within {timeout:?} (--l2-boot-timeout)");
                    self.give_up(|vm| !is_ready(vm), &text)?;
                }
                Some(_) => {}
                None => self.give_up_stalled()?,
            }
            if self.take_messages()? {
                self.look_after();
                self.observer.waiting(&format!("VM {} to be ready", names.join(", ")))?;
            }
        }
    }

    /// Gives up on VMs that boot no further.
    fn give_up_stalled(&mut self) -> Result<(), NestedError> {
        let timeout = self.spec.boot_stall;
        let stalled = |vm: &L2Vm| !is_ready(vm) && vm.progress.stalled_for() >= timeout;
        let text = format!(
            "has come no further for {timeout:?}: it reached no other phase, and took no more \
             memory (--l2-boot-timeout gives all a fixed time instead)"
        );
        self.give_up(stalled, &text)
    }

    /// The CPUs of each vCPU's thread while it is measured, VM by VM.
    fn places(&self) -> Places {
        let each = self.spec.vcpus as usize;
        match self.spec.confine {
            Confine::Core => Places::of(self.load),
            Confine::Vcpu => {
                let cpus = self.load.cpus.iter().map(|cpu| [*cpu].into_iter().collect::<CpuSet>());
                let one: Vec<_> = cpus.cycle().take(each).collect();
                let all = one.iter().cycle().take(each * self.load.groups.len());
                Places { threads: all.cloned().collect(), note: None }
            }
        }
    }

    fn confine(&mut self, places: &Places) -> Result<(), NestedError> {
        let each = self.spec.vcpus.max(1) as usize;
        let places: Vec<_> = places.threads.chunks(each).collect();
        for (vm, cpus) in self.vms.iter_mut().zip(&places) {
            if vm.is_running() {
                let cpus = cpus.iter().map(|cpus| cpus.iter().collect()).collect();
                vm.send(&LauncherCommand::Confine { cpus });
            }
        }
        let deadline = Instant::now() + CONFINED;
        while self.vms.iter().any(is_loose) && Instant::now() < deadline {
            if self.take_messages()? {
                self.observer.waiting("vCPU threads to be confined")?;
            }
        }
        self.give_up(is_loose, &format!("was not confined within {CONFINED:?}"))?;
        self.check_any()?;
        for (vm, cpus) in self.vms.iter().zip(places) {
            if !vm.is_healthy() {
                continue;
            }
            let wanted: Vec<_> = cpus.iter().map(CpuSet::to_string).collect();
            let actual: Vec<_> = vm.status.threads.iter().map(|thread| &thread.affinity).collect();
            if !actual.iter().copied().eq(&wanted) {
                return Err(NestedError::Confine(format!(
                    "VM {}: vCPU threads were confined to {wanted:?}, but their affinity reads \
                     {actual:?}",
                    vm.status.vm
                )));
            }
        }
        Ok(())
    }

    fn prepared(
        &self,
        choice: Choice,
        context: &WorkloadContext,
        places: Places,
    ) -> Result<Prepared, NestedError> {
        let mut notes: Vec<_> = places.note.into_iter().collect();
        if context.cookie {
            let each: Vec<Vec<u64>> = self
                .vms
                .iter()
                .filter(|vm| vm.is_healthy())
                .map(|vm| vm.status.threads.iter().map(|thread| thread.cookie).collect())
                .collect();
            let firsts: Vec<_> =
                each.iter().map(|cookies| cookies.first().copied().unwrap_or(0)).collect();
            supervisor::check_cookies(self.load, each.iter().map(Vec::as_slice), &firsts)?;
            for vm in self.vms.iter().filter(|vm| vm.is_healthy()) {
                notes.extend(others_with_cookies(vm, context.cookie_of)?);
            }
        }
        if self.vms.iter().filter(|vm| vm.is_healthy()).any(|vm| !vm.status.tsc_shared) {
            notes.push(
                "the guests' TSC is not this machine's (KVM before Linux 5.16): gaps cannot be \
                 laid on its trace"
                    .into(),
            );
        }
        Ok(Prepared {
            cookies: self
                .vms
                .iter()
                .map(|vm| vm.status.threads.first().map_or(0, |thread| thread.cookie))
                .collect(),
            tids: self
                .vms
                .iter()
                .flat_map(|vm| {
                    vm.status.threads.iter().map(|thread| thread.tid).collect::<Vec<_>>()
                })
                .collect(),
            affinity: places.threads,
            notes,
            tsc_khz: choice.khz,
            iteration_ticks: bench::iteration_ticks(),
        })
    }

    /// From the command to start to the command to stop.
    fn measure(
        &mut self,
        choice: Choice,
        trace: Option<&TraceFiles>,
    ) -> Result<Measured, NestedError> {
        self.observer.released(tsc::read().tsc)?;
        let before = self.schedstats();
        self.send_to_all(&LauncherCommand::Go);
        let begin = Instant::now();
        let deadline = begin + self.load.duration;
        self.next_word = begin + SECOND;
        let mut second = 0;
        loop {
            let passed = self.take_messages()?;
            if let Some(hit) = self.hit {
                if let Some(trace) = trace {
                    trace.stop(&self.marker(hit, choice));
                }
                break;
            }
            if passed {
                second += 1;
                self.tick(second)?;
            }
            let anyone = self.vms.iter().any(L2Vm::is_healthy);
            if Instant::now() >= deadline || self.observer.stop_requested() || !anyone {
                break;
            }
        }
        let measured = Measured {
            tsc_end: tsc::read().tsc,
            before,
            after: self.schedstats(),
            affinity_end: self.vms.iter().map(L2Vm::affinities).collect(),
        };
        if let Some(hit) = self.hit {
            self.observer.hit(hit)?;
        }
        Ok(measured)
    }

    /// As the load's, with the vCPU's thread after it.
    fn marker(&self, hit: ThresholdHit, choice: Choice) -> String {
        let ns = ticks_to_ns(hit.gap.record.ticks(), choice.khz);
        let vcpu = self.load.name_of(hit.gap.thread as usize);
        format!("schedvmm: gap of {ns} ns in {vcpu} tid {}", hit.tid)
    }

    fn tick(&mut self, second: u32) -> Result<(), NestedError> {
        let vms = self
            .vms
            .iter()
            .filter(|vm| vm.is_healthy() && vm.status.phase == VmPhase::Measuring)
            .count();
        let online = u32::try_from(vms).unwrap_or(u32::MAX) * self.spec.vcpus;
        Ok(self.observer.tick(Tick { second, online, longest: self.longest.take() })?)
    }

    /// Has all VMs report and end.
    fn finish(&mut self) -> Result<(), NestedError> {
        self.send_to_all(&LauncherCommand::Memory);
        self.send_to_all(&LauncherCommand::Stop);
        // Nothing is measured any more: whoever reports may do it on all CPUs.
        let all: Vec<u32> = online()?.iter().collect();
        let cpus = (0..self.spec.vcpus).map(|_| all.clone()).collect();
        self.send_to_all(&LauncherCommand::Confine { cpus });
        let deadline = Instant::now() + FINISHED;
        while self.vms.iter().any(L2Vm::is_running) {
            if Instant::now() >= deadline {
                let text = format!("did not report within {FINISHED:?} of being told to stop");
                self.give_up(|vm| vm.report.is_none(), &text)?;
                self.send_to_all(&LauncherCommand::End);
                // Whoever has reported is not to blame for its end.
                self.vms.iter_mut().filter(|it| it.report.is_some()).for_each(L2Vm::kill);
                return self.wait_for_exit(|_| true, "the VMs to end");
            }
            if self.take_messages()? {
                self.observer.waiting("the VMs to report and to end")?;
            }
        }
        Ok(())
    }
}

fn is_loose(vm: &L2Vm) -> bool {
    vm.is_healthy() && vm.status.times.confined_ns.is_none()
}

/// Reads back, past the launcher, who of its threads has a cookie: a note about those that have one
/// beside the vCPUs'.
///
/// # Errors
/// The kernel does not tell, or a vCPU's thread has another cookie than the launcher says.
fn others_with_cookies(
    vm: &L2Vm,
    cookie_of: fn(u32) -> io::Result<u64>,
) -> Result<Option<String>, NestedError> {
    let number = vm.status.vm;
    let actual = vm.cookies(cookie_of).map_err(|error| {
        LoadError::Cookie(format!("VM {number}: cookies cannot be read back: {error}"))
    })?;
    for vcpu in &vm.status.threads {
        let read = actual.iter().find(|(tid, ..)| *tid == vcpu.tid);
        if let Some((tid, name, read)) = read.filter(|(.., read)| *read != vcpu.cookie) {
            return Err(LoadError::Cookie(format!(
                "VM {number}: {name} (tid {tid}) was given cookie {:x}, and has {read:x}",
                vcpu.cookie
            ))
            .into());
        }
    }
    let others = actual.iter().filter(|(tid, _, cookie)| {
        *cookie != 0 && !vm.status.threads.iter().any(|thread| thread.tid == *tid)
    });
    let names: Vec<_> = others.map(|(_, name, _)| name.as_str()).collect();
    let names = (!names.is_empty()).then(|| names.join(", "));
    Ok(names.map(|names| {
        format!("VM {number}: not only vCPU threads have a cookie, {names} too, and hold the core")
    }))
}
