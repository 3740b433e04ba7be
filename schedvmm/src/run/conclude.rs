// SPDX-License-Identifier: Apache-2.0
//! From the end of a run to its result.

use std::fs::OpenOptions;
use std::sync::atomic::Ordering;
use std::time::Instant;

use guest::job::TRACE_PORT;
use serde_json::json;
use vmm::vcpu::VcpuEnd;

use super::{Attempt, millis};
use crate::facts;
use crate::folder::FolderError;
use crate::result::{self, Clock, Cosched, RunResult, SCHEMA, Trace};
use crate::status::{ExitStatus, Failure};
use crate::verdict::{Answer, End, judge};

/// How often the trace is halved to make room.
const TRACE_CUTS: u32 = 4;

impl Attempt {
    /// Judges, writes, shows.
    pub(super) fn conclude(
        mut self,
        end: &End,
        ends: Vec<VcpuEnd>,
        decided: Instant,
        begin: Instant,
    ) -> ExitStatus {
        let clock = self.clock();
        let longest = result::longest(&self.session, clock);
        let limit_ns = self.plan.job.load.threshold.map(|limit| limit.as_nanos());
        let over = limit_ns.is_some_and(|limit| {
            longest.as_ref().is_some_and(|gap| u128::from(gap.length_ns) > limit)
        });
        let verdict = judge(&self.session, end, over, &self.tail.text());
        let trace = self.trace();
        self.describe_ends(&ends);
        let threads = result::threads(&self.session, clock);
        let cookies = self.session.setup.as_ref().map_or(&[][..], |setup| &setup.cookies);
        let groups = result::groups(&threads, cookies, clock);
        let mut phases = result::phases_ms(&self.session, self.built_ms, decided);
        phases.insert("total", millis(begin.elapsed()));
        let cosched = Cosched {
            requested: json!(self.plan.job.cosched),
            mechanism: self.session.setup.as_ref().map(|setup| setup.cosched.clone()),
            note: self.session.setup.as_ref().and_then(|setup| setup.cosched_note.clone()),
            cookies: cookies.to_vec(),
        };
        self.kernel.hello = self.session.hello.clone();
        let hit = self
            .session
            .hit
            .map(|hit| clock.locate(hit.gap.thread as usize, Some(hit.tid), hit.gap.record));
        let mut result = RunResult {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            target: "user",
            command_line: std::env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            started_utc: self.plan.started_utc.clone(),
            verdict: Answer::Untestable,
            exit_status: 0,
            reason: String::new(),
            notes: self.notes.clone(),
            longest_gap_ns: longest.as_ref().map(|gap| gap.length_ns),
            longest_gap: longest,
            threshold_hit: hit,
            kernel: std::mem::take(&mut self.kernel),
            cosched,
            setup: self.session.setup.clone(),
            job: self.plan.job.clone(),
            threads,
            groups,
            tsc: self.session.report.as_ref().map(|report| report.tsc),
            trace,
            host: facts::host(),
            machine: self.machine.clone(),
            phases_ms: phases,
        }
        .judged(&verdict);
        let written = self.write(&mut result, clock);
        self.show.end(&result, self.folder.path());
        if verdict.answer == Answer::Untestable {
            self.explain(&ends);
        }
        if let Err(error) = written {
            // The answer stands, and is not lost with the disk.
            self.show.remark(&Failure::new(ExitStatus::Host, error).to_string());
            self.show.rescue(&result);
        }
        verdict.status
    }

    /// Writes the result's files. On a full disk the trace, by far the largest of them, gives
    /// up its end.
    fn write(&self, result: &mut RunResult, clock: Clock) -> Result<(), FolderError> {
        for _ in 0..TRACE_CUTS {
            match self.write_once(result, clock) {
                Err(error) if error.is_full() && self.cut_trace(&mut result.trace) => {}
                written => return written,
            }
        }
        self.write_once(result, clock)
    }

    /// One file that cannot be written does not keep the other from it.
    fn write_once(&self, result: &RunResult, clock: Clock) -> Result<(), FolderError> {
        let gaps = self.folder.write_gaps(&self.session.gaps, clock);
        self.folder.write_result(result).and(gaps)
    }

    /// Halves the trace, if it lies in the result folder. False if that gives no room.
    fn cut_trace(&self, trace: &mut Trace) -> bool {
        let half = trace.bytes / 2;
        if half == 0 || !self.trace_path.starts_with(self.folder.path()) {
            return false;
        }
        let cut = OpenOptions::new().write(true).open(&self.trace_path);
        if cut.and_then(|file| file.set_len(half)).is_err() {
            return false;
        }
        trace.bytes = half;
        trace.complete = false;
        trace.note = Some("the trace is cut: the disk is full".into());
        true
    }

    /// The trace as it arrived.
    fn trace(&self) -> Trace {
        let bytes = self.trace_written.load(Ordering::Acquire);
        let complete = self.session.trace_bytes == Some(bytes) && bytes > 0;
        let error = self.running.console().port_error(TRACE_PORT);
        let cut = match error {
            Some(error) => Some(format!(
                "the trace is cut: cannot write {}: {error}",
                self.trace_path.display()
            )),
            None if bytes > 0 && !complete => {
                Some("the trace is cut: the guest ended early".into())
            }
            None => None,
        };
        if let Some(note) = &cut {
            self.show.remark(note);
        }
        // What the setup has to say was told when the load started.
        let at_setup = || self.session.setup.as_ref()?.trace_note.clone();
        let note = cut.or_else(at_setup);
        let file = (bytes > 0).then(|| self.trace_path.display().to_string());
        Trace { file, bytes, complete, note }
    }

    fn describe_ends(&mut self, ends: &[VcpuEnd]) {
        let vcpu = |end: &VcpuEnd| {
            json!({
                "cpu": end.cpu,
                "end": end.reason.to_string(),
                "exits": {
                    "port_in": end.exits.port_in,
                    "port_out": end.exits.port_out,
                    "mmio_read": end.exits.mmio_read,
                    "mmio_write": end.exits.mmio_write,
                    "other": end.exits.other,
                },
                "host_run_ns": end.host_sched.map(|sched| sched.run_ns),
                "host_wait_ns": end.host_sched.map(|sched| sched.wait_ns),
                "state": end.state,
            })
        };
        let exits: u64 = ends.iter().map(|end| end.exits.total()).sum();
        let mut vcpus: Vec<_> = ends.iter().collect();
        vcpus.sort_by_key(|end| end.cpu);
        self.machine["vcpus"] = vcpus.into_iter().map(vcpu).collect();
        self.machine["exits_to_user_space"] = json!(exits);
        self.machine["resident_beyond_ram_kib"] = json!(self.running.resident_beyond_ram_kib());
        let stats = self.running.console().stats();
        self.machine["console"] =
            json!({ "guest_errors": stats.guest_errors, "dropped_bytes": stats.dropped_bytes });
    }

    /// What helps to find out why there is no answer.
    fn explain(&self, ends: &[VcpuEnd]) {
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
