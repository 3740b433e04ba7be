// SPDX-License-Identifier: Apache-2.0
//! Tracing while the load runs, and shipping the trace afterwards.
//!
//! The ring buffers stay in the kernel until the load has ended: reading them is work for the
//! same CPUs that are measured. They are shipped raw, as a [`ftrace::dump`]: text would be
//! several times as long, and making it is the slowest part of a dump.
//!
//! Where the kernel has them in memory set aside for it, the host reads them there, and only what
//! is needed to read them is shipped, before the load begins.

mod ring;
mod ship;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use ftrace::dump::DumpWriter;

use crate::{job::TraceDump, job::TraceSpec, load::TraceStop, system::write_file, wire::TraceRing};

/// Where the tracing file system is, newest kernel first.
const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The clock of the gap records, then the best of those that every kernel has.
const CLOCKS: [&str; 2] = ["x86-tsc", "mono"];

/// The kernel's tracing, set up and not yet running.
#[derive(Debug)]
pub struct Tracing {
    root: PathBuf,
    events: Vec<String>,
    clock: Option<String>,
    dump: TraceDump,
    notes: Vec<String>,
    ring: Option<TraceRing>,
}

impl Tracing {
    /// The tracing file system, where this kernel has one.
    pub fn root() -> Option<PathBuf> {
        ROOTS.iter().map(PathBuf::from).find(|root| root.join("tracing_on").exists())
    }

    /// Sets up tracing in the kernel's instance for us, where it has one whose memory is known, else
    /// in the tracing file system itself; `None` without tracing.
    pub fn set_up(spec: &TraceSpec) -> Option<Self> {
        let root = Self::root()?;
        Some(match ring::find(&root) {
            Some((instance, ring)) => Self::prepare_in(&instance, spec, Some(ring)),
            None => Self::prepare(&root, spec),
        })
    }

    /// Sets up what was asked for. What this kernel lacks is noted, and no reason to stop:
    /// the measurement does not need the trace.
    pub fn prepare(root: &Path, spec: &TraceSpec) -> Self {
        Self::prepare_in(root, spec, None)
    }

    fn prepare_in(root: &Path, spec: &TraceSpec, ring: Option<TraceRing>) -> Self {
        let mut this = Self {
            root: root.to_owned(),
            events: Vec::new(),
            clock: None,
            dump: spec.dump,
            notes: Vec::new(),
            ring,
        };
        this.set("tracing_on", "0");
        this.set("current_tracer", "nop");
        this.set("events/enable", "0");
        this.clock = this.choose_clock();
        if ring.is_none() {
            // The other has its size from the command line.
            this.set("buffer_size_kb", &spec.buffer_kib.to_string());
        }
        for event in &spec.events {
            this.enable(event);
        }
        // Opened for truncation, the file drops what is in the buffers.
        let clear = OpenOptions::new().write(true).truncate(true).open(root.join("trace"));
        this.note("trace", clear.map(|_| ()));
        this
    }

    fn set(&mut self, file: &str, value: &str) {
        let result = write_file(&self.root.join(file), value);
        self.note(file, result);
    }

    fn note(&mut self, file: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.notes.push(format!("{file}: {error}"));
        }
    }

    fn choose_clock(&mut self) -> Option<String> {
        let file = self.root.join("trace_clock");
        for clock in CLOCKS {
            // A clock that the kernel does not have is refused, and shows in what is read.
            let _ = write_file(&file, clock);
            if self.clock_in_use().as_deref() == Some(clock) {
                break;
            }
            self.notes.push(format!("no trace clock {clock}"));
        }
        self.clock_in_use()
    }

    /// `local [global] counter …`: the one in brackets.
    fn clock_in_use(&self) -> Option<String> {
        let text = fs::read_to_string(self.root.join("trace_clock")).ok()?;
        let mut words = text.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix('[')?.strip_suffix(']')).map(str::to_owned)
    }

    /// Enables `system` or `system:event`.
    fn enable(&mut self, event: &str) {
        let plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        if !event.split(':').all(plain) || event.split(':').count() > 2 {
            self.notes.push(format!("`{event}` is no event; write system or system:event"));
            return;
        }
        let directory = self.root.join("events").join(event.replace(':', "/"));
        match write_file(&directory.join("enable"), "1") {
            Ok(()) => self.events.push(event.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.notes.push(format!("this kernel has no event `{event}`"));
            }
            Err(error) => self.notes.push(format!("event {event}: {error}")),
        }
    }

    /// Events being traced.
    pub fn events(&self) -> &[String] {
        &self.events
    }

    /// The clock in use.
    pub fn clock(&self) -> Option<&str> {
        self.clock.as_deref()
    }

    /// Memory in which the host is to read the trace.
    pub fn ring(&self) -> Option<TraceRing> {
        self.ring
    }

    /// Begins a dump with all that is needed to read pages, for the case of [`Self::ring`].
    ///
    /// # Errors
    /// What the kernel or the sink says, with the file that it is about.
    pub fn ship_head<W: Write>(&self, sink: W) -> io::Result<DumpWriter<W>> {
        ship::head(self, sink)
    }

    /// Adds to it what only the end of a run knows: names of threads, and what the kernel says of its
    /// buffers. The bytes written by now.
    ///
    /// # Errors
    /// As [`Self::ship_head`].
    pub fn ship_stats<W: Write>(&self, dump: &mut DumpWriter<W>) -> io::Result<u64> {
        ship::comms(self, dump)?;
        ship::stats(self, dump)?;
        Ok(dump.bytes())
    }

    /// Ends such a dump with all else, the pages included; its length in bytes. CPUs in `first` come
    /// first, as with [`Self::ship`].
    ///
    /// # Errors
    /// As [`Self::ship_head`].
    pub fn ship_rest<W: Write>(&self, first: &[u32], dump: DumpWriter<W>) -> io::Result<u64> {
        ship::rest(self, first, dump)
    }

    /// What could not be had, in one text.
    pub fn note_text(&self) -> Option<String> {
        (!self.notes.is_empty()).then(|| self.notes.join("; "))
    }

    /// How the load stops tracing at a hit.
    pub fn stop_files(&self) -> TraceStop {
        TraceStop { marker: self.root.join("trace_marker"), switch: self.root.join("tracing_on") }
    }

    /// Starts tracing.
    pub fn start(&self) -> io::Result<()> {
        write_file(&self.root.join("tracing_on"), "1")
    }

    /// Stops tracing, if it is not stopped already, and disables all events.
    pub fn stop(&self) -> io::Result<()> {
        write_file(&self.root.join("tracing_on"), "0")?;
        write_file(&self.root.join("events/enable"), "0")
    }

    /// Whether to ship the trace after a run that ended with or without a gap over the
    /// threshold.
    pub fn is_wanted(&self, hit: bool) -> bool {
        self.dump.wanted(hit)
    }

    /// About how many bytes [`Self::ship`] will write.
    pub fn estimate_bytes(&self) -> u64 {
        let stats = |cpu: &u32| fs::read_to_string(self.per_cpu(*cpu).join("stats")).ok();
        self.cpus().iter().filter_map(stats).map(|stats| ship::bytes(&stats)).sum()
    }

    /// Writes the trace as a dump; its length in bytes. CPUs in `first` come first: if the
    /// sink fails, the others are missing.
    ///
    /// # Errors
    /// What the kernel or the sink says, with the file that it is about.
    pub fn ship(&self, first: &[u32], sink: &mut impl Write) -> io::Result<u64> {
        ship::ship(self, first, sink)
    }

    fn per_cpu(&self, cpu: u32) -> PathBuf {
        self.root.join(format!("per_cpu/cpu{cpu}"))
    }

    /// CPUs with a buffer, in order.
    fn cpus(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.root.join("per_cpu")).into_iter().flatten().flatten();
        let number = |name: &str| name.strip_prefix("cpu")?.parse().ok();
        let mut cpus: Vec<u32> =
            entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
        cpus.sort_unstable();
        cpus
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;
    use tempfile::TempDir;

    fn complete() -> TempDir {
        tree(&[
            ("tracing_on", "1"),
            ("current_tracer", "function"),
            ("events/enable", "1"),
            ("events/sched/enable", "0"),
            ("events/irq/irq_handler_entry/enable", "0"),
            ("trace_clock", ""),
            ("buffer_size_kb", "1408"),
            ("trace", "old"),
            ("trace_marker", ""),
            ("per_cpu/cpu0/stats", "entries: 100\noverrun: 5\nbytes: 5000\n"),
            ("per_cpu/cpu1/stats", "entries: 20\nbytes: 800\n"),
        ])
    }

    fn spec(events: &[&str]) -> TraceSpec {
        let events = events.iter().map(|&event| event.into()).collect();
        TraceSpec { events, buffer_kib: 4096, dump: TraceDump::Hit }
    }

    #[test]
    fn what_is_there_is_set_up_and_what_is_not_is_noted() {
        let root = complete();
        let events = ["sched", "irq:irq_handler_entry", "timer", "../x", "a:b:c", ""];
        let tracing = Tracing::prepare(root.path(), &spec(&events));
        let read = |file: &str| fs::read_to_string(root.path().join(file)).unwrap();
        assert_eq!(tracing.events(), ["sched", "irq:irq_handler_entry"]);
        assert_eq!(read("events/sched/enable"), "1");
        assert_eq!(read("events/enable"), "0");
        assert_eq!(read("current_tracer"), "nop");
        assert_eq!(read("buffer_size_kb"), "4096");
        assert_eq!(read("trace"), "");
        let note = tracing.note_text().unwrap();
        assert!(note.contains("no event `timer`") && note.contains("../x"), "{note}");
        tracing.start().unwrap();
        assert_eq!(read("tracing_on"), "1");
        tracing.stop().unwrap();
        assert_eq!(read("tracing_on"), "0");
        assert_eq!(tracing.estimate_bytes(), 5800);
        assert!(!tracing.is_wanted(false) && tracing.is_wanted(true));
    }

    #[test]
    fn the_clock_is_the_one_in_brackets() {
        let root = tree(&[("trace_clock", "local global [x86-tsc] mono\n")]);
        let tracing = Tracing::prepare(root.path(), &spec(&[]));
        fs::write(root.path().join("trace_clock"), "local global [x86-tsc] mono\n").unwrap();
        assert_eq!(tracing.clock_in_use().as_deref(), Some("x86-tsc"));
        fs::write(root.path().join("trace_clock"), "local\n").unwrap();
        assert_eq!(tracing.clock_in_use(), None);
    }

    #[test]
    fn a_kernel_without_tracing_leaves_notes() {
        let tracing = Tracing::prepare(Path::new("/nonexistent"), &spec(&["sched"]));
        assert!(tracing.events().is_empty() && tracing.clock().is_none());
        assert!(tracing.note_text().unwrap().contains("tracing_on"));
        assert_eq!(tracing.estimate_bytes(), 0);
        tracing.start().unwrap_err();
        tracing.ship(&[], &mut Vec::new()).unwrap_err();
    }
}
