// SPDX-License-Identifier: Apache-2.0
//! Tracing while the load runs, and sending the trace afterwards.
//!
//! The ring buffers stay in the kernel until the load has ended: reading them is work for the
//! same CPUs that are measured. They are sent raw, as a [`ftrace::dump`]: text would be
//! several times as long, and making it is the slowest part of a dump.
//!
//! Where the kernel has them in memory set aside for it, the host reads them there, and only what
//! is needed to read them is sent, before the load begins.

mod dump;
mod ring;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ftrace::TraceId;
use ftrace::dump::DumpWriter;
use protocol::error::Owner;
use protocol::group_process::TraceStop;
use protocol::job::{TraceDump, TraceSpec};
use protocol::message::{Failure, TraceRing};

use crate::kernel::files::write_file;
use crate::kernel::obstacle::Obstacle;

/// Where the tracing file system is, newest kernel first.
const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The clock of the gap records, then the best of those that every kernel has.
const CLOCKS: [&str; 2] = ["x86-tsc", "mono"];

/// Whether this names an event system, or an event of one, on any kernel.
///
/// # Errors
/// It does not, with what would.
pub fn check_event(event: &str) -> Result<(), String> {
    if event.split(':').all(is_plain) && event.split(':').count() <= 2 {
        return Ok(());
    }
    Err(format!("`{event}` is no event; write system or system:event"))
}

fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// The kernel's tracing, set up and not yet running.
#[derive(Debug)]
pub struct Tracing {
    root: PathBuf,
    events: Vec<String>,
    clock: Option<String>,
    dump: TraceDump,
    id: Option<TraceId>,
    notes: Vec<String>,
    /// What was asked for and is not in force, where the user asked for a trace.
    unmet: Option<Failure>,
    required: bool,
    ring: Option<TraceRing>,
}

impl Tracing {
    /// The tracing file system.
    ///
    /// # Errors
    /// Why there is none that can be used.
    pub fn root() -> Result<PathBuf, Obstacle> {
        Self::root_among(&ROOTS.map(Path::new))
    }

    fn root_among(roots: &[&Path]) -> Result<PathBuf, Obstacle> {
        let mut why = None;
        for root in roots {
            let switch = root.join("tracing_on");
            match fs::metadata(&switch) {
                Ok(_) => return Ok(root.to_path_buf()),
                Err(error) => why.get_or_insert_with(|| Obstacle::of(&switch, &error)),
            };
        }
        Err(why.unwrap_or(Obstacle::NoFile(PathBuf::new())))
    }

    /// Sets up tracing in the kernel's instance for us, where it has one whose memory is known,
    /// else in the tracing file system itself.
    ///
    /// # Errors
    /// Why there is no tracing.
    pub fn set_up(spec: &TraceSpec) -> Result<Self, Obstacle> {
        let root = Self::root()?;
        Ok(match ring::find(&root) {
            Some((instance, ring)) => Self::prepare_in(&instance, spec, Some(ring)),
            None => Self::prepare(&root, spec),
        })
    }

    /// Sets up what was asked for, and reads it back. What this kernel lacks is noted, and no
    /// reason to stop, unless it is [unmet](Self::unmet): the measurement does not need the trace.
    pub fn prepare(root: &Path, spec: &TraceSpec) -> Self {
        Self::prepare_in(root, spec, None)
    }

    fn prepare_in(root: &Path, spec: &TraceSpec, ring: Option<TraceRing>) -> Self {
        let mut this = Self {
            root: root.to_owned(),
            events: Vec::new(),
            clock: None,
            dump: spec.dump,
            id: spec.id,
            notes: Vec::new(),
            unmet: None,
            required: spec.required,
            ring,
        };
        this.set("tracing_on", "0");
        this.set("current_tracer", "nop");
        this.set("events/enable", "0");
        this.clock = this.choose_clock();
        if ring.is_none() {
            // The other has its size from the command line.
            this.size_buffers(spec.buffer_kib);
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

    /// Something that was asked for is not in force.
    fn miss(&mut self, owner: Owner, text: String) {
        if self.required {
            self.unmet.get_or_insert_with(|| Failure { owner, text: text.clone() });
        }
        self.notes.push(text);
    }

    fn size_buffers(&mut self, kib: u32) {
        let file = "buffer_size_kb";
        let path = self.root.join(file);
        let written = write_file(&path, &kib.to_string());
        let text = fs::read_to_string(&path).unwrap_or_default();
        // `1408`, or `7 (expanded: 1408)`; rounded up to whole pages.
        let holds: Option<u32> = text.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
        if let Err(error) = written {
            let obstacle = Obstacle::of(&path, &error);
            let text = match holds {
                Some(holds) => format!(
                    "ring buffers of {kib} KiB per CPU cannot be had ({obstacle}): there are {holds}"
                ),
                None => format!("{file}: {obstacle}"),
            };
            self.miss(obstacle.owner(), text);
        } else if let Some(holds) = holds.filter(|holds| *holds < kib) {
            let text = format!("the ring buffers have {holds} KiB per CPU, of {kib} asked for");
            self.miss(Owner::Kernel, text);
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

    /// Enables `system` or `system:event`, and reads back that it is.
    fn enable(&mut self, event: &str) {
        if let Err(text) = check_event(event) {
            return self.miss(Owner::Request, text);
        }
        let file = self.root.join("events").join(event.replace(':', "/")).join("enable");
        match write_file(&file, "1") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = format!("this kernel has no event `{event}`");
                return self.miss(Owner::Kernel, text);
            }
            Err(error) => {
                let obstacle = Obstacle::of(&file, &error);
                return self.miss(obstacle.owner(), format!("event {event}: {obstacle}"));
            }
        }
        // `1`, `0`, or `X` where only some of a system are on.
        match fs::read_to_string(&file).unwrap_or_default().chars().next() {
            Some('1') => self.events.push(event.to_owned()),
            Some('X') => {
                self.events.push(event.to_owned());
                let text = format!("only some of the events of `{event}` can be traced");
                self.miss(Owner::Kernel, text);
            }
            _ => {
                let text = format!("event {event} stays off after it was switched on");
                self.miss(Owner::Kernel, text);
            }
        }
    }

    /// What the user asked for and is not in force.
    pub fn unmet(&self) -> Option<&Failure> {
        self.unmet.as_ref()
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
    pub fn send_head<W: Write>(&self, sink: W) -> io::Result<DumpWriter<W>> {
        dump::head(self, sink)
    }

    /// Adds to it what only the end of a run knows: names of threads, and what the kernel says of
    /// its buffers. The bytes written by now.
    ///
    /// # Errors
    /// As [`Self::send_head`].
    pub fn send_stats<W: Write>(&self, dump: &mut DumpWriter<W>) -> io::Result<u64> {
        dump::comms(self, dump)?;
        dump::stats(self, dump)?;
        Ok(dump.bytes())
    }

    /// Ends such a dump with all else, the pages included; its length in bytes. CPUs in `first`
    /// come first, as with [`Self::send`].
    ///
    /// # Errors
    /// As [`Self::send_head`].
    pub fn send_rest<W: Write>(&self, first: &[u32], dump: DumpWriter<W>) -> io::Result<u64> {
        dump::rest(self, first, dump)
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
    ///
    /// # Errors
    /// What the kernel says; or that it said nothing and did not do it.
    pub fn start(&self) -> io::Result<()> {
        let switch = self.root.join("tracing_on");
        write_file(&switch, "1")?;
        match fs::read_to_string(&switch)?.trim() {
            "1" => Ok(()),
            other => Err(io::Error::other(format!("tracing_on holds {other} after 1"))),
        }
    }

    /// Stops tracing, if it is not stopped already, and disables all events.
    pub fn stop(&self) -> io::Result<()> {
        write_file(&self.root.join("tracing_on"), "0")?;
        write_file(&self.root.join("events/enable"), "0")
    }

    /// Whether to send the trace after a run that ended with or without a gap over the
    /// threshold.
    pub fn is_wanted(&self, hit: bool) -> bool {
        self.dump.wanted(hit)
    }

    /// About how many bytes [`Self::send`] will write.
    pub fn estimate_bytes(&self) -> u64 {
        self.cpus()
            .iter()
            .filter_map(|cpu| fs::read_to_string(self.per_cpu(*cpu).join("stats")).ok())
            .map(|stats| dump::bytes(&stats))
            .sum()
    }

    /// Writes the trace as a dump; its length in bytes. CPUs in `first` come first: if the
    /// sink fails, the others are missing.
    ///
    /// # Errors
    /// What the kernel or the sink says, with the file that it is about.
    pub fn send(&self, first: &[u32], sink: &mut impl Write) -> io::Result<u64> {
        dump::send(self, first, sink)
    }

    fn per_cpu(&self, cpu: u32) -> PathBuf {
        self.root.join(format!("per_cpu/cpu{cpu}"))
    }

    /// CPUs with a buffer, in order.
    fn cpus(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.root.join("per_cpu")).into_iter().flatten().flatten();
        let mut cpus: Vec<u32> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("cpu")?.parse().ok())
            .collect();
        cpus.sort_unstable();
        cpus
    }
}

#[cfg(test)]
mod tests;
