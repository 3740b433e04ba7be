// SPDX-License-Identifier: Apache-2.0
//! Meters that keep whole CPUs busy: hwlat and osnoise, which are the kernel's own, and the
//! load's loop with one thread for each CPU.
//!
//! In a virtual machine they meter the machine's host: with interrupts off, or with nothing
//! else to run, a vCPU misses time only when the host does not run it. Whatever the meter, its
//! results have the form of the load's: each CPU is a thread of the [`LoadReport`], the
//! [`Observer`] gets records and ticks.
//!
//! [`LoadReport`]: protocol::report::LoadReport

mod lines;
mod place;
mod run;
mod tallies;
#[cfg(test)]
mod tests;
mod tracer;

use std::path::PathBuf;

use protocol::job::{LoadSpec, MeterKind, MeterSpec};
use protocol::meter::MeterFacts;

use crate::context::WorkloadContext;
use crate::error::{LoadError, MeterError};
use crate::kernel::obstacle::Obstacle;
use crate::kernel_meter::tracer::{Kernels, Tracer};
use crate::observer::{Observer, Outcome};
use crate::supervisor;

/// A meter that is ready to measure.
#[derive(Debug)]
pub enum Meter {
    /// One of the kernel's.
    Kernel(Tracer),
    /// The load's loop, and what is to be said about that.
    Loop(MeterFacts),
}

impl Meter {
    /// Chooses the meter and sets it up. `root` is the kernel's tracefs, or why there is none.
    ///
    /// # Errors
    /// The kernel lacks the meter asked for, or does not take its settings.
    pub fn set_up(
        spec: &MeterSpec,
        load: &LoadSpec,
        root: Result<PathBuf, Obstacle>,
    ) -> Result<Self, MeterError> {
        check(spec)?;
        let (which, root) = match (spec.kind, root) {
            (MeterKind::Rdtsc, _) => return our_own(None),
            (MeterKind::Auto, Ok(root)) if Kernels::Hwlat.is_in(&root) => (Kernels::Hwlat, root),
            (MeterKind::Auto, root) => {
                let why = match root {
                    Ok(_) => format!("it needs {}", Kernels::Hwlat.config()),
                    Err(why) => why.to_string(),
                };
                return our_own(Some(format!("hwlat is not there: {why}")));
            }
            (MeterKind::Hwlat, root) => (Kernels::Hwlat, reach(Kernels::Hwlat, root)?),
            (MeterKind::Osnoise, root) => (Kernels::Osnoise, reach(Kernels::Osnoise, root)?),
        };
        Tracer::set_up(&root, which, spec, load).map(Self::Kernel)
    }

    /// The meter as it was set up.
    pub fn facts(&self) -> &MeterFacts {
        match self {
            Self::Kernel(tracer) => &tracer.facts,
            Self::Loop(facts) => facts,
        }
    }

    /// Measures as [`supervisor::run`] does.
    ///
    /// # Errors
    /// The measurement did not begin.
    pub fn run(
        &self,
        load: &LoadSpec,
        context: &WorkloadContext,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, LoadError> {
        match self {
            Self::Kernel(tracer) => run::run(tracer, load, context, observer),
            Self::Loop(_) => supervisor::run(load, context, observer),
        }
    }
}

fn our_own(note: Option<String>) -> Result<Meter, MeterError> {
    let kind = MeterKind::Rdtsc;
    Ok(Meter::Loop(MeterFacts { kind, note, ..MeterFacts::default() }))
}

fn reach(which: Kernels, root: Result<PathBuf, Obstacle>) -> Result<PathBuf, MeterError> {
    root.map_err(|why| MeterError::NoTracing { meter: which.name(), why })
}

/// Whether the times make sense.
///
/// # Errors
/// The width is nothing, or more than the window.
pub fn check(spec: &MeterSpec) -> Result<(), MeterError> {
    let (window, width) = (spec.window, spec.width);
    if width.as_micros() == 0 || width > window {
        return Err(MeterError::Spec(format!(
            "a meter that measures {width:?} of every {window:?}: give at least 1 us, and not \
             more than the window"
        )));
    }
    Ok(())
}
