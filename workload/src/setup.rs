// SPDX-License-Identifier: Apache-2.0
//! What is found out between the preparations and the load, wherever it runs.

use std::path::Path;

use protocol::cpu_list::CpuSet;
use protocol::job::{Job, TraceSpec};
use protocol::message::{Failure, Setup};

use crate::context::WorkloadContext;
use crate::error::LoadError;
use crate::kernel::obstacle::Obstacle;
use crate::kernel::{info, scheduler};
use crate::observer::Prepared;
use crate::tracing::Tracing;
use crate::{noise_floor, supervisor};

/// Adds what can be found out while there is no load: the scheduler's own figures, with
/// all tunables set, and the noise floor.
///
/// # Errors
/// The TSC frequency cannot be found.
pub fn describe_quiet(
    setup: &mut Setup,
    job: &Job,
    context: &mut WorkloadContext,
) -> Result<(), LoadError> {
    setup.scheduler = scheduler::facts(Path::new("/"), &info::sysctl("osrelease"));
    setup.scheduler_files = scheduler::files(Path::new("/"));
    if job.noise.is_zero() {
        return Ok(());
    }
    let khz = supervisor::tsc_frequency(&mut context.tsc)?.khz;
    match noise_floor::measure(&job.load.cpus, job.noise, khz) {
        Ok(noise) => setup.noise = Some(noise),
        // The load will meet the same fault, and name it.
        Err(error) => setup.notes.push(format!("no noise floor: {error}")),
    }
    Ok(())
}

/// All threads stand at the start barrier: records what they have found about
/// themselves, and starts the trace.
pub fn threads_stand(setup: &mut Setup, prepared: &Prepared, tracing: Option<&Tracing>) {
    setup.cookies.clone_from(&prepared.cookies);
    setup.tids.clone_from(&prepared.tids);
    setup.affinity = prepared.affinity.iter().map(CpuSet::to_string).collect();
    setup.tsc_khz = prepared.tsc_khz;
    setup.notes.extend_from_slice(&prepared.notes);
    setup.iteration_ticks = prepared.iteration_ticks;
    // Last of all, so that the buffers are not filled with our own preparations.
    if let Some(Err(error)) = tracing.map(Tracing::start) {
        let before = setup.trace_note.take().map_or_else(String::new, |note| note + "; ");
        setup.trace_note = Some(format!("{before}tracing cannot be started: {error}"));
    }
}

/// Records what became of tracing, where it was asked for.
///
/// # Errors
/// It is not in force, and the user asked for it.
pub fn traces(
    setup: &mut Setup,
    spec: &TraceSpec,
    tracing: Result<&Tracing, &Obstacle>,
) -> Result<(), Failure> {
    match tracing {
        Ok(tracing) => {
            setup.trace_note = tracing.note_text();
            setup.trace_events = tracing.events().to_vec();
            setup.trace_clock = tracing.clock().map(str::to_owned);
            setup.trace_ring = tracing.ring();
            tracing.unmet().map_or(Ok(()), |unmet| {
                let text = format!("the trace asked for cannot be had: {}", unmet.text);
                Err(Failure { owner: unmet.owner, text })
            })
        }
        Err(obstacle) if spec.required => {
            let text = format!("the trace asked for cannot be had: {obstacle}");
            Err(Failure { owner: obstacle.owner(), text })
        }
        Err(obstacle) => {
            setup.trace_note = Some(format!(
                "{obstacle}; all figures are there without it (--trace off says that this is \
                 meant)"
            ));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::error::Owner;
    use protocol::job::TraceDump;

    #[test]
    fn a_trace_that_cannot_be_had_is_a_note_or_an_error() {
        let spec = |required| TraceSpec {
            events: vec!["sched".into()],
            buffer_kib: 64,
            dump: TraceDump::Hit,
            required,
            id: None,
        };
        let mut setup = Setup { notes: vec!["memory".into()], ..Setup::default() };
        let none = Obstacle::NeedsRoot;
        assert_eq!(traces(&mut setup, &spec(false), Err(&none)), Ok(()));
        let notes = setup.notes_at_start();
        assert!(notes[0].starts_with("trace: it needs root; all figures are there"), "{notes:?}");
        assert_eq!(notes[1], "memory");
        let failure = traces(&mut setup, &spec(true), Err(&none)).unwrap_err();
        assert_eq!(failure.owner, Owner::Host);
        assert_eq!(failure.text, "the trace asked for cannot be had: it needs root");
        // What was said before is not forgotten when it cannot even be started.
        let tracing = Tracing::prepare(Path::new("/nonexistent"), &spec(false));
        setup.trace_note = Some("one event is missing".into());
        threads_stand(&mut setup, &Prepared::default(), Some(&tracing));
        let note = setup.trace_note.unwrap();
        assert!(note.starts_with("one event is missing; tracing cannot be started: "), "{note}");
        let mut setup = Setup::default();
        let tracing = Tracing::prepare(Path::new("/nonexistent"), &spec(true));
        let failure = traces(&mut setup, &spec(true), Ok(&tracing)).unwrap_err();
        assert!(failure.text.contains("cannot be had: "), "{failure:?}");
    }
}
