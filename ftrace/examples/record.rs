// SPDX-License-Identifier: Apache-2.0
//! Records what happens while a command runs: `record FOLDER EVENTS COMMAND…`.
//!
//! EVENTS is a list such as `sched/sched_switch,irq`. FOLDER, which must not exist, becomes
//! a copy of the tracing file system's files that [`ftrace::Trace::from_directory`] reads,
//! and FOLDER.dat a trace.dat of it. It needs root, and uses a tracing instance of its own.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tracing file system.
const TRACING: &str = "/sys/kernel/tracing";
/// Ring buffer of each CPU in KiB, unless the environment's BUFFER_KIB says otherwise.
const BUFFER_KIB: &str = "4096";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(events), Some(command)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: record FOLDER EVENTS COMMAND…".into());
    };
    let folder = PathBuf::from(folder);
    fs::create_dir(&folder)?;
    let instance = Instance::new(&events)?;
    let status = instance.run(Command::new(command).args(arguments))?;
    instance.copy_to(&folder, &events)?;
    let trace = ftrace::Trace::from_directory(&folder)?;
    let mut out = io::BufWriter::new(File::create(folder.with_extension("dat"))?);
    let bytes = trace.write_trace_dat(&mut out)?;
    eprintln!("{status}; {bytes} bytes of trace.dat");
    Ok(())
}

/// A tracing instance that is removed in the end.
struct Instance(PathBuf);

impl Instance {
    fn new(events: &str) -> io::Result<Self> {
        let path = Path::new(TRACING).join(format!("instances/record-{}", std::process::id()));
        fs::create_dir(&path)?;
        let this = Self(path);
        this.set("tracing_on", "0")?;
        this.set("trace_clock", "x86-tsc")?;
        let size = std::env::var("BUFFER_KIB");
        this.set("buffer_size_kb", size.as_deref().unwrap_or(BUFFER_KIB))?;
        for event in events.split(',') {
            this.set(&format!("events/{event}/enable"), "1")?;
        }
        Ok(this)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.0.join(file);
        let named = |error| io::Error::other(format!("{}: {error}", path.display()));
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(named)
    }

    fn run(&self, command: &mut Command) -> io::Result<std::process::ExitStatus> {
        self.set("tracing_on", "1")?;
        self.set("trace_marker", "the command starts")?;
        let status = command.status();
        self.set("trace_marker", "the command has ended")?;
        self.set("tracing_on", "0")?;
        status
    }

    fn copy_to(&self, folder: &Path, events: &str) -> Result<(), Box<dyn Error>> {
        fs::write(folder.join("trace_clock"), fs::read(self.0.join("trace_clock"))?)?;
        let root = Path::new(TRACING);
        fs::write(folder.join("saved_cmdlines"), fs::read(root.join("saved_cmdlines"))?)?;
        let kallsyms = BufReader::new(File::open("/proc/kallsyms")?);
        fs::write(folder.join("kallsyms"), ftrace::marker_symbol(kallsyms)?)?;
        let uname = ["sysname", "osrelease", "version"].map(|name| {
            let name = if name == "sysname" { "ostype" } else { name };
            fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default()
        });
        fs::write(folder.join("uname"), uname.map(|word| word.trim().to_owned()).join(" "))?;
        self.copy_formats(folder, events)?;
        for entry in fs::read_dir(self.0.join("per_cpu"))? {
            let from = entry?.path();
            let to = folder.join("per_cpu").join(from.file_name().unwrap_or_default());
            fs::create_dir_all(&to)?;
            fs::copy(from.join("stats"), to.join("stats"))?;
            copy_pages(&from.join("trace_pipe_raw"), &to.join("trace_pipe_raw"))?;
        }
        Ok(())
    }

    fn copy_formats(&self, folder: &Path, events: &str) -> io::Result<()> {
        let (from, to) = (self.0.join("events"), folder.join("events"));
        let wanted = |path: &str| {
            let path = path.trim_end_matches("/format");
            ["ftrace/print", "ftrace/raw_data"].contains(&path)
                || events.split(',').any(|event| {
                    path.strip_prefix(event)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
        };
        // An instance has no folder `ftrace`; those formats are in the main one.
        let root = Path::new(TRACING).join("events");
        for (base, system) in
            folders(&from)?.into_iter().map(|s| (&from, s)).chain([(&root, "ftrace".into())])
        {
            for event in folders(&base.join(&system))? {
                let path = format!("{system}/{event}/format");
                if wanted(&path) && base.join(&path).exists() {
                    fs::create_dir_all(to.join(&system).join(&event))?;
                    fs::write(to.join(&path), fs::read(base.join(&path))?)?;
                }
            }
        }
        for file in ["header_page", "header_event"] {
            fs::write(to.join(file), read_at_once(&root.join(file))?)?;
        }
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The kernel hands out header files in the first read only, whatever its size.
fn read_at_once(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 64 << 10];
    let count = File::open(path)?.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn folders(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Copies pages until none is left; each read hands out one.
fn copy_pages(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(from)?;
    let mut to = io::BufWriter::new(File::create(to)?);
    let mut page = vec![0; 64 << 10];
    loop {
        match from.read(&mut page) {
            Ok(0) => return to.flush(),
            Ok(count) => to.write_all(&page[..count])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return to.flush(),
            Err(error) => return Err(error),
        }
    }
}
