// SPDX-License-Identifier: Apache-2.0
//! What is found out between the preparations and the load, wherever it runs.

use std::{fs, path::Path};

use crate::{
    cpus::CpuSet,
    job::Job,
    load::{self, LoadError, Prepared, Surroundings},
    noise, scheduler,
    trace::Tracing,
    wire::Setup,
};

impl Setup {
    /// Adds what can be found out while there is no load: the scheduler's own figures, with
    /// all knobs set, and the noise floor.
    ///
    /// # Errors
    /// The TSC frequency cannot be found.
    pub fn describe_quiet(
        &mut self,
        job: &Job,
        surroundings: &mut Surroundings,
    ) -> Result<(), LoadError> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        self.scheduler = scheduler::facts(Path::new("/"), release.trim());
        self.scheduler_files = scheduler::files(Path::new("/"));
        if job.noise.is_zero() {
            return Ok(());
        }
        let khz = load::tsc_frequency(&mut surroundings.tsc)?.khz;
        match noise::measure(&job.load.cpus, job.noise, khz) {
            Ok(noise) => self.noise = Some(noise),
            // The load will meet the same fault, and name it.
            Err(error) => self.notes.push(format!("no noise floor: {error}")),
        }
        Ok(())
    }

    /// All threads stand at the start barrier: takes down what they have found about
    /// themselves, and starts the trace.
    pub fn threads_stand(&mut self, prepared: &Prepared, tracing: Option<&Tracing>) {
        self.cookies.clone_from(&prepared.cookies);
        self.tids.clone_from(&prepared.tids);
        self.affinity = prepared.affinity.iter().map(CpuSet::to_string).collect();
        self.tsc_khz = prepared.tsc_khz;
        self.notes.extend_from_slice(&prepared.notes);
        self.iteration_ticks = prepared.turn_ticks;
        // Last of all, so that the buffers are not filled with our own preparations.
        if let Some(Err(error)) = tracing.map(Tracing::start) {
            self.trace_note = Some(format!("tracing cannot be started: {error}"));
        }
    }
}
