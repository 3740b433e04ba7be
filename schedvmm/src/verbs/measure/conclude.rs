// SPDX-License-Identifier: Apache-2.0
//! From the end of a run to its result.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use protocol::names::TRACE_PORT;
use results::model::{
    self, ConsoleStats, ExitCounts, MachineEnd, Phase, RunResult, Target, Trace, TraceVia, VmResult,
};
use vmm::vcpu::VcpuEnd;

use crate::analysis::threads;
use crate::caller::Meanwhile;
use crate::compose::{self, Account};
use crate::deliver::Delivery;
use crate::footprint;
use crate::pins::{self, PinCheck};
use crate::status::ExitStatus;
use crate::trace_file::Arrival;
use crate::verbs::measure::{Attempt, millis};
use crate::verdict::{End, Verdict, judge};

impl Attempt {
    /// Once, when the load has ended and the machine has not: what others did to it meanwhile.
    pub(super) fn look_around(&mut self) {
        if self.meanwhile.is_none() {
            let vcpus = pins::lost_vcpus(self.running.threads(), &self.plan.placement.pins);
            self.meanwhile = Some((self.caller.load_ended(), vcpus));
        }
    }

    /// What others did to the run: told, or a reason why it says nothing of the kernel.
    fn judge_others(&mut self) {
        let (meanwhile, vcpus) = self.meanwhile.take().unwrap_or_default();
        let nested = self.plan.args.nested.nested;
        let check = PinCheck::new(&self.session, &self.plan.job.load, nested, vcpus);
        let Meanwhile { notes, faults } = meanwhile.and(check.judge());
        self.pins = check.found;
        notes.into_iter().for_each(|note| self.note(note));
        self.session.invalid.extend(faults);
    }

    /// Judges, writes, shows.
    pub(super) fn conclude(
        mut self,
        end: &End,
        ends: Vec<VcpuEnd>,
        decided: Instant,
        begin: Instant,
    ) -> ExitStatus {
        self.host_evidence.settle(&mut self.session);
        self.judge_others();
        let verdict = judge(&self.session, &self.plan.job, end, &self.tail.text());
        let trace = self.trace();
        footprint::give_back();
        self.describe_ends(&ends);
        let mut phases = threads::phases_ms(&self.session, self.built_ms, decided);
        phases.extend(self.session.vm_phases_ms());
        phases.insert(Phase::Total, millis(begin.elapsed()));
        let mut result = Account { trace, ..self.account(&verdict, phases) }.result();
        let of = (result.groups.as_slice(), result.threads.as_slice());
        result.vms = threads::vms(&self.session, of, |vm| self.folder.vm_log_tail(vm));
        Delivery { folder: &mut self.folder, session: &self.session, show: &self.show }
            .deliver(&mut result);
        // What others did to the run the guest cannot tell.
        if verdict.answer.is_failure() && self.session.invalid.is_empty() {
            self.explain(&ends, &result.vms);
        }
        verdict.status()
    }

    /// The result as it would be if the run ended now.
    pub(super) fn result_so_far(&self) -> RunResult {
        let (verdict, phases_ms) = compose::so_far(&self.session, &self.plan.job, self.built_ms);
        Account { ended: false, ..self.account(&verdict, phases_ms) }.result()
    }

    fn account<'a>(&'a self, verdict: &'a Verdict, phases_ms: BTreeMap<Phase, u64>) -> Account<'a> {
        Account {
            target: if self.plan.args.nested.nested { Target::Nested } else { Target::User },
            started_utc: self.plan.started_utc.clone(),
            session: &self.session,
            job: &self.plan.job,
            kernel: self.kernel.clone(),
            machine: self.machine.clone(),
            caller: Some(self.caller.facts().clone()),
            pins: self.pins.clone(),
            notes: self.notes.clone(),
            trace: Trace::default(),
            phases_ms,
            steal_budget: self.plan.args.load.steal_budget,
            host_cpus: self.plan.host_cpus,
            verdict,
            ended: true,
        }
    }

    /// The trace, as far as it arrived or is there.
    fn trace(&self) -> Trace {
        let mut arrival = Arrival {
            via: TraceVia::BulkPort,
            bytes: self.trace_written.load(Ordering::Acquire),
            sent: self.session.trace_bytes,
            gaps: &self.session.gaps,
            clock: self.clock(),
            error: self.running.console().port_error(TRACE_PORT).map(|error| error.to_string()),
        };
        let refused = match &self.ring_answer {
            Some(Err(reason)) => Some(reason.clone()),
            _ => None,
        };
        if let Some(setup) = &self.session.setup
            && let Some(ring) = setup.trace_ring
            && refused.is_none()
        {
            self.take_ring(ring, &mut arrival);
        }
        let mut trace = self.trace_file.receive(&arrival, &self.show);
        if let Some(note) = &trace.note {
            self.show.remark(note);
        }
        // That was told when it came up.
        trace.note = trace.note.or(refused);
        trace
    }

    fn describe_ends(&mut self, ends: &[VcpuEnd]) {
        let exits_to_user_space = ends.iter().map(|end| end.exits.total()).sum();
        let mut vcpus: Vec<_> = ends.iter().collect();
        vcpus.sort_by_key(|end| end.cpu);
        let stats = self.running.console().stats();
        let end = MachineEnd {
            stop_us: self.stopped_in.and_then(|time| u64::try_from(time.as_micros()).ok()),
            resident_beyond_ram_kib: self.running.resident_beyond_ram_kib(),
            exits_to_user_space,
            host_evidence: self.host_evidence.describe(),
            console: ConsoleStats {
                guest_errors: stats.guest_errors,
                dropped_bytes: stats.dropped_bytes,
            },
            vcpus: vcpus.into_iter().map(vcpu_end).collect(),
        };
        if let Some(vm) = &mut self.machine.vm {
            vm.end = Some(end);
        }
    }

    /// What helps to find out why there is no answer.
    fn explain(&self, ends: &[VcpuEnd], vms: &[VmResult]) {
        let failed = || vms.iter().filter(|vm| vm.status.fault.is_some());
        for vm in failed() {
            let number = vm.status.vm;
            if let Some(state) = &vm.status.state {
                self.show.remark(&format!("VM {number}: state of its vCPUs:\n{state}"));
            }
            let tail = vm.console_tail.as_deref().unwrap_or_default().trim_end();
            let tail = if tail.is_empty() { "(it printed nothing)" } else { tail };
            self.show.remark(&format!("VM {number}: end of its console:\n{tail}"));
        }
        if failed().next().is_some() {
            // The machine around them did what it should.
            return;
        }
        for end in ends {
            if let Some(state) = &end.state {
                self.show.remark(&format!("state of vCPU {} ({}):\n{state}", end.cpu, end.reason));
            }
        }
        let tail = self.tail.text();
        if tail.trim().is_empty() {
            self.show.remark("the guest printed nothing; --debug-boot shows its early console");
        } else {
            self.show.remark(&format!("end of the guest's console:\n{}", tail.trim_end()));
        }
    }
}

/// How a vCPU ended, as result.json has it.
fn vcpu_end(end: &VcpuEnd) -> model::VcpuEnd {
    model::VcpuEnd {
        cpu: end.cpu,
        end: end.reason.to_string(),
        exits: ExitCounts {
            port_in: end.exits.port_in,
            port_out: end.exits.port_out,
            mmio_read: end.exits.mmio_read,
            mmio_write: end.exits.mmio_write,
            other: end.exits.other,
        },
        host_run_ns: end.host_sched.map(|sched| sched.run_ns),
        host_wait_ns: end.host_sched.map(|sched| sched.wait_ns),
        state: end.state.clone(),
    }
}
