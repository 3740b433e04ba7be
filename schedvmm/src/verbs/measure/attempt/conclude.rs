// SPDX-License-Identifier: Apache-2.0
//! From the end of a run to its result.

use std::sync::atomic::Ordering;

use protocol::names::TRACE_PORT;
use results::model::{
    self, ConsoleStats, ExitCounts, MachineEnd, ReasonCode, Trace, TraceVia, VmResult,
};
use vmm::vcpu::VcpuEnd;

use super::{Attempt, Concluded};
use crate::analysis::threads;
use crate::convert;
use crate::footprint;
use crate::measurement::{Measurement, Span};
use crate::pins;
use crate::trace_file::Arrival;
use crate::verdict::{End, judge};

impl Attempt {
    /// Once, when the load has ended and the machine has not: what others did to it meanwhile.
    pub(super) fn sample_host(&mut self) {
        if self.meanwhile.is_none() {
            let vcpus = pins::lost_vcpus(self.running.threads(), &self.plan.placement.pins);
            self.meanwhile = Some((self.measurement.caller.load_ended(), vcpus));
        }
    }

    /// Judges, writes, shows.
    pub(super) fn conclude(mut self, end: &End, ends: Vec<VcpuEnd>, span: Span) -> Concluded {
        self.host_evidence.settle(&mut self.measurement.session);
        let (meanwhile, vcpus) = self.meanwhile.take().unwrap_or_default();
        self.measurement.judge_others(meanwhile, vcpus);
        let Measurement { session, job, origin, .. } = &self.measurement;
        let dropped = self.console.dropped_bytes;
        let verdict = judge(session, job, origin.terms, end, &self.console.tail.text());
        let trace = self.trace();
        footprint::give_back();
        self.describe_ends(&ends);
        let measurement = &mut self.measurement;
        if dropped > 0 {
            let note = format!("console.log lacks the last {dropped} bytes (--max-console)");
            measurement.note(note);
        }
        let (mut result, verdict) = measurement.result(verdict, trace, span);
        let folder = &measurement.folder;
        result.vms = threads::vms(&measurement.session, &result.groups, &result.threads, |vm| {
            folder.vm_log_tail(vm)
        });
        let kept = measurement.deliver(&mut result);
        // What others did to the run the guest cannot tell.
        let others = !result.limits.is_empty() || verdict.code.is_some_and(ReasonCode::is_doubt);
        let others = others || !measurement.session.invalid.is_empty();
        if verdict.answer.is_failure() && !others {
            self.explain(&ends, &result.vms);
        }
        Concluded { status: verdict.status(), result, kept }
    }

    /// The trace, as far as it arrived or is there.
    fn trace(&self) -> Trace {
        let mut arrival = Arrival {
            via: TraceVia::BulkPort,
            bytes: self.trace_written.load(Ordering::Acquire),
            sent: self.measurement.session.trace_bytes,
            gaps: &self.measurement.session.gaps,
            clock: self.measurement.clock(),
            error: self.running.console().port_error(TRACE_PORT).map(|error| error.to_string()),
        };
        let refused = match &self.ring_answer {
            Some(Err(reason)) => Some(reason.clone()),
            _ => None,
        };
        if let Some(setup) = &self.measurement.session.setup
            && let Some(ring) = setup.trace_ring
            && refused.is_none()
        {
            self.take_ring(ring, &mut arrival);
        }
        let mut trace = self.trace_file.receive(&arrival, &self.measurement.show);
        if let Some(note) = &trace.note {
            self.measurement.show.remark(note);
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
        if let Some(vm) = &mut self.measurement.origin.machine.vm {
            vm.end = Some(end);
        }
    }

    /// What helps to find out why there is no answer.
    fn explain(&self, ends: &[VcpuEnd], vms: &[VmResult]) {
        for vm in vms.iter().filter(|vm| vm.status.fault.is_some()) {
            let number = vm.status.vm;
            if let Some(state) = &vm.status.state {
                self.measurement.show.remark(&format!("VM {number}: state of its vCPUs:\n{state}"));
            }
            let tail = vm.console_tail.as_deref().unwrap_or_default().trim_end();
            let tail = if tail.is_empty() { "(it printed nothing)" } else { tail };
            self.measurement.show.remark(&format!("VM {number}: end of its console:\n{tail}"));
        }
        if vms.iter().any(|vm| vm.status.fault.is_some()) {
            // The machine around them did what it should.
            return;
        }
        for end in ends {
            if let Some(state) = &end.state {
                self.measurement
                    .show
                    .remark(&format!("state of vCPU {} ({}):\n{state}", end.cpu, end.reason));
            }
        }
        let tail = self.console.tail.text();
        if tail.trim().is_empty() {
            self.measurement
                .show
                .remark("the guest printed nothing; --debug-boot shows its early console");
        } else {
            self.measurement
                .show
                .remark(&format!("end of the guest's console:\n{}", tail.trim_end()));
        }
    }
}

/// End of a vCPU, as result.json has it.
fn vcpu_end(end: &VcpuEnd) -> model::VcpuEnd {
    model::VcpuEnd {
        cpu: end.cpu,
        end: convert::vcpu_end(&end.reason),
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
