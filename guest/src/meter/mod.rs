// SPDX-License-Identifier: Apache-2.0
//! Meters that keep whole CPUs busy: hwlat and osnoise, which are the kernel's own, and the
//! load's loop with one thread for each CPU.
//!
//! In a virtual machine they meter the machine's host: with interrupts off, or with nothing
//! else to run, a vCPU misses time only when the host does not run it. Whatever the meter, its
//! results have the form of the load's: each CPU is a thread of the [`LoadReport`], the
//! [`Observer`] gets records and ticks.
//!
//! [`LoadReport`]: crate::wire::LoadReport

mod books;
mod lines;
mod place;
mod run;
#[cfg(test)]
mod tests;
mod tracer;

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use self::tracer::{Kernels, Tracer};
use crate::{
    job::{LoadSpec, MeterKind, MeterSpec},
    load::{self, LoadError, Observer, Outcome, Surroundings},
    wire::MeterFacts,
};

/// Why a meter cannot be used.
#[derive(Debug, Error)]
pub enum MeterError {
    /// The kernel was built without it.
    #[error(
        "this kernel has no {meter} tracer (it has: {there}); it needs {config}, or use \
         --meter rdtsc, which needs nothing"
    )]
    Absent {
        /// Which meter.
        meter: &'static str,
        /// Tracers that the kernel has.
        there: String,
        /// What it must be built with.
        config: &'static str,
    },
    /// The kernel's hwlat is of the time before modes.
    #[error(
        "this kernel's hwlat has no mode {mode}, which came with Linux 5.14; \
         use --meter-mode round-robin"
    )]
    NoMode {
        /// The mode asked for.
        mode: &'static str,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Spec(String),
    /// A file of tracefs cannot be used.
    #[error("{} cannot be {}", file.display(), done(value))]
    File {
        /// The file.
        file: PathBuf,
        /// What was to be written; empty where it was to be read.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel took a value and holds another.
    #[error("{} holds `{got}` after `{wanted}` was written to it", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// What was written.
        wanted: String,
        /// What was read back.
        got: String,
    },
}

fn done(value: &str) -> String {
    if value.is_empty() { "read".into() } else { format!("set to `{value}`") }
}

impl MeterError {
    fn absent(which: Kernels, root: &Path) -> Self {
        let there = std::fs::read_to_string(root.join("available_tracers")).unwrap_or_default();
        let there = if there.trim().is_empty() { "none" } else { there.trim() }.to_owned();
        Self::Absent { meter: which.name(), there, config: which.config() }
    }
}

/// A meter that is ready to measure.
#[derive(Debug)]
pub enum Meter {
    /// One of the kernel's.
    Kernel(Tracer),
    /// The load's loop, and what is to be said about that.
    Loop(MeterFacts),
}

impl Meter {
    /// Chooses the meter and sets it up. `root` is the kernel's tracefs, if it has one.
    ///
    /// # Errors
    /// The kernel lacks the meter asked for, or does not take its settings.
    pub fn set_up(
        spec: &MeterSpec,
        load: &LoadSpec,
        root: Option<&Path>,
    ) -> Result<Self, MeterError> {
        check(spec)?;
        let root = root.unwrap_or(Path::new("/sys/kernel/tracing"));
        let which = match spec.kind {
            MeterKind::Hwlat => Kernels::Hwlat,
            MeterKind::Osnoise => Kernels::Osnoise,
            MeterKind::Auto if Kernels::Hwlat.is_in(root) => Kernels::Hwlat,
            MeterKind::Auto | MeterKind::Rdtsc => {
                let note = (spec.kind == MeterKind::Auto)
                    .then(|| format!("hwlat is not there: it needs {}", Kernels::Hwlat.config()));
                let kind = MeterKind::Rdtsc.name().into();
                return Ok(Self::Loop(MeterFacts { kind, note, ..MeterFacts::default() }));
            }
        };
        Tracer::set_up(root, which, spec, load).map(Self::Kernel)
    }

    /// The meter as it was set up.
    pub fn facts(&self) -> &MeterFacts {
        match self {
            Self::Kernel(tracer) => &tracer.facts,
            Self::Loop(facts) => facts,
        }
    }

    /// Measures as [`load::run`] does.
    ///
    /// # Errors
    /// The measurement did not begin.
    pub fn run(
        &self,
        load: &LoadSpec,
        surroundings: &Surroundings,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, LoadError> {
        match self {
            Self::Kernel(tracer) => run::run(tracer, load, surroundings, observer),
            Self::Loop(_) => load::run(load, surroundings, observer),
        }
    }
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
