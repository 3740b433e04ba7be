// SPDX-License-Identifier: Apache-2.0
//! The kernel's own meters in tracefs: set up, switched on and off
//! (Documentation/trace/hwlat_detector.rst, osnoise-tracer.rst).

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::cpu_list::CpuSet;
use protocol::job::{LoadSpec, MeterKind, MeterMode, MeterSpec};
use protocol::meter::MeterFacts;

use crate::error::MeterError;
use crate::kernel::files::write_file;

/// The gap records' clock.
const CLOCK: &str = "x86-tsc";

/// Ring buffer for each CPU: some two thousand lines between two looks, and little beside the
/// memory of a small machine.
const BUFFER_KIB: u32 = 256;

/// A meter of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Interrupts off, the longest gap of each window.
    Hwlat,
    /// Interrupts on, every gap.
    Osnoise,
}

impl Kernels {
    /// As jobs and results have it.
    pub fn kind(self) -> MeterKind {
        match self {
            Self::Hwlat => MeterKind::Hwlat,
            Self::Osnoise => MeterKind::Osnoise,
        }
    }

    /// As in `available_tracers`.
    pub fn name(self) -> &'static str {
        self.kind().name()
    }

    /// What a kernel needs to have it.
    pub fn config(self) -> &'static str {
        match self {
            Self::Hwlat => "CONFIG_HWLAT_TRACER=y",
            Self::Osnoise => "CONFIG_OSNOISE_TRACER=y (Linux 5.14 and later)",
        }
    }

    /// Whether the kernel whose tracefs this is has it.
    pub fn is_in(self, root: &Path) -> bool {
        let tracers = fs::read_to_string(root.join("available_tracers")).unwrap_or_default();
        tracers.split_ascii_whitespace().any(|tracer| tracer == self.name())
    }

    /// Files for the length of a window and for the part of it that measures.
    fn times(self) -> (&'static str, &'static str) {
        match self {
            Self::Hwlat => ("hwlat_detector/window", "hwlat_detector/width"),
            Self::Osnoise => ("osnoise/period_us", "osnoise/runtime_us"),
        }
    }
}

/// A meter of the kernel's, set up and switched off. Switched off for good when dropped.
#[derive(Debug)]
pub struct Tracer {
    root: PathBuf,
    /// Which one.
    pub which: Kernels,
    /// As it was set up, read back.
    pub facts: MeterFacts,
}

impl Tracer {
    /// Sets everything and reads it back. Nothing measures yet.
    ///
    /// # Errors
    /// The kernel lacks something, or does not take a value.
    pub fn set_up(
        root: &Path,
        which: Kernels,
        spec: &MeterSpec,
        load: &LoadSpec,
    ) -> Result<Self, MeterError> {
        if !which.is_in(root) {
            return Err(absent(which, root));
        }
        let facts = MeterFacts { kind: which.kind(), ..MeterFacts::default() };
        let mut this = Self { root: root.to_owned(), which, facts };
        this.set("tracing_on", "0")?;
        this.set("current_tracer", "nop")?;
        this.set("events/enable", "0")?;
        this.set("trace_clock", CLOCK)?;
        this.set("buffer_size_kb", &BUFFER_KIB.to_string())?;
        if root.join("buffer_percent").exists() {
            // A line is there to be read at once, not when the buffer is half full.
            this.set("buffer_percent", "0")?;
        }
        this.set_times(spec)?;
        this.choose_cpus(spec, load)?;
        let floor_us = micros(load.floor).max(1);
        this.set("tracing_thresh", &floor_us.to_string())?;
        this.facts.floor_us = Some(this.read("tracing_thresh")?);
        this.expect("trace_clock", CLOCK)?;
        if which == Kernels::Osnoise {
            this.set("events/osnoise/sample_threshold/enable", "1")?;
        }
        this.set("current_tracer", which.name())?;
        // What our preparations have left.
        let clear = OpenOptions::new().write(true).truncate(true).open(root.join("trace"));
        clear.map_err(|error| this.failed("trace", "", error))?;
        Ok(this)
    }

    /// Window and width in an order that keeps the width within the window: the kernel
    /// refuses anything else (kernel/trace/trace.c, `trace_min_max_write`).
    fn set_times(&mut self, spec: &MeterSpec) -> Result<(), MeterError> {
        let (window, width) = self.which.times();
        let (window_us, width_us) = (micros(spec.window), micros(spec.width));
        let mut settings = [(window, window_us), (width, width_us)];
        // Before 5.14 the two must not even be equal on the way.
        if window_us <= self.read(width)? {
            settings.reverse();
        }
        for (file, us) in settings {
            self.set(file, &us.to_string())?;
        }
        let (window_is_us, width_is_us) = (self.read(window)?, self.read(width)?);
        (self.facts.window_us, self.facts.width_us) = (Some(window_is_us), Some(width_is_us));
        if (window_is_us, width_is_us) != (window_us, width_us) {
            return Err(MeterError::Refused {
                file: self.root.join(window),
                wanted: format!("window {window_us} us, width {width_us} us"),
                got: format!("window {window_is_us} us, width {width_is_us} us"),
            });
        }
        Ok(())
    }

    /// The CPUs, and how the meter spreads over them.
    fn choose_cpus(&mut self, spec: &MeterSpec, load: &LoadSpec) -> Result<(), MeterError> {
        let cpus: CpuSet = load.cpus.iter().copied().collect();
        let mut mode = MeterMode::PerCpu;
        if self.which == Kernels::Osnoise {
            self.set("osnoise/cpus", &cpus.to_string())?;
        } else {
            mode = spec.mode;
            self.set("tracing_cpumask", &mask(&cpus))?;
            let file = "hwlat_detector/mode";
            if self.root.join(file).exists() {
                self.set(file, mode.name())?;
                self.expect(file, mode.name())?;
            } else if mode != MeterMode::RoundRobin {
                // Before 5.14 there was one way only.
                return Err(MeterError::NoMode { mode: mode.name() });
            }
        }
        self.facts.mode = Some(mode);
        Ok(())
    }

    /// The meter measures from now on.
    ///
    /// # Errors
    /// The kernel does not let it.
    pub fn start(&self) -> Result<(), MeterError> {
        self.set("tracing_on", "1")
    }

    /// Ends the measurement. Returns when the windows under way have ended: the kernel waits
    /// for them, and nobody can be quicker. What was written can still be read.
    ///
    /// # Errors
    /// The kernel does not let it.
    pub fn stop(&self) -> Result<(), MeterError> {
        self.set("tracing_on", "0")
    }

    /// Where its lines are read.
    pub fn pipe(&self) -> PathBuf {
        self.root.join("trace_pipe")
    }

    fn set(&self, file: &str, value: &str) -> Result<(), MeterError> {
        write_file(&self.root.join(file), value).map_err(|error| self.failed(file, value, error))
    }

    fn read(&self, file: &str) -> Result<u64, MeterError> {
        let text = fs::read_to_string(self.root.join(file));
        let number = text.and_then(|text| text.trim().parse().map_err(io::Error::other));
        number.map_err(|error| self.failed(file, "", error))
    }

    /// Of several words, the one in brackets must be this.
    fn expect(&self, file: &str, value: &str) -> Result<(), MeterError> {
        let text = fs::read_to_string(self.root.join(file));
        let got = text.map_err(|error| self.failed(file, "", error))?;
        let in_use = format!("[{value}]");
        if got.split_ascii_whitespace().any(|word| word == in_use) {
            return Ok(());
        }
        Err(MeterError::Refused {
            file: self.root.join(file),
            wanted: value.into(),
            got: got.trim().into(),
        })
    }

    fn failed(&self, file: &str, value: &str, source: io::Error) -> MeterError {
        MeterError::File { file: self.root.join(file), value: value.into(), source }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        for (file, value) in [("tracing_on", "0"), ("current_tracer", "nop")] {
            // The results are out; a kernel that refuses goes away with its machine.
            let _ = self.set(file, value);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// As `tracing_cpumask` takes it: hexadecimal words of 32 CPUs, the highest first
/// (lib/bitmap.c, `bitmap_parse`).
fn mask(cpus: &CpuSet) -> String {
    let mut words: Vec<u32> = Vec::new();
    for cpu in cpus.iter() {
        let word = cpu as usize / 32;
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        words[word] |= 1 << (cpu % 32);
    }
    let words: Vec<_> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
    words.join(",")
}

fn absent(which: Kernels, root: &Path) -> MeterError {
    let there = std::fs::read_to_string(root.join("available_tracers")).unwrap_or_default();
    let there = if there.trim().is_empty() { "none" } else { there.trim() }.to_owned();
    MeterError::Absent { meter: which.name(), there, config: which.config() }
}
