// SPDX-License-Identifier: Apache-2.0
//! The inner end of the channels: virtio-console ports, found by name, or in the simulated host the
//! same by its disk.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::protocol::{Kind, OUT_PORT, STATUS_PORT, STDERR_PORT, STDOUT_PORT, Status};
use super::simulated::{Channel, Channels};

/// Where the kernel lists the ports, one folder each with a file `name` in it.
const PORTS: &str = "/sys/class/virtio-ports";

/// The kernel learns the names of the ports from the device shortly after it has found it.
const APPEAR_DEADLINE: Duration = Duration::from_secs(20);

/// Where the streams of this machine are.
pub(super) enum Streams {
    /// A device each.
    Ports,
    /// All on one disk.
    Disk(Channels),
}

impl Streams {
    /// Finds out what this machine has.
    ///
    /// # Errors
    /// It has no disk, where there should be one.
    pub(super) fn find(machine: Kind) -> Result<Self> {
        Ok(match machine {
            Kind::Emulated => Self::Ports,
            Kind::Simulated => Self::Disk(Channels::open()?),
        })
    }

    /// Opens a stream by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn open(&self, name: &str) -> Result<File> {
        let Self::Disk(channels) = self else { return open(name) };
        channels.stream(match name {
            STDOUT_PORT => Channel::Stdout,
            STDERR_PORT => Channel::Stderr,
            OUT_PORT => Channel::Out,
            STATUS_PORT => Channel::Status,
            _ => bail!("the simulated host has no stream `{name}`"),
        })
    }
}

/// Opens a port by its name, as soon as it is there.
///
/// # Errors
/// There is none of that name within some seconds, or it cannot be opened.
pub fn open(name: &str) -> Result<File> {
    let start = Instant::now();
    loop {
        if let Some(path) = find(Path::new(PORTS), name) {
            return File::options()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open port `{name}` at `{}`", path.display()));
        }
        if start.elapsed() > APPEAR_DEADLINE {
            bail!("no port named `{name}` within {} s", APPEAR_DEADLINE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn find(ports: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(ports).ok()?.filter_map(Result::ok).find_map(|entry| {
        let found = std::fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end() == name).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// Sends one status line.
pub(super) fn send(port: &mut File, status: &Status) -> Result<()> {
    let mut line = serde_json::to_vec(status)?;
    line.push(b'\n');
    port.write_all(&line).context("cannot write to the status port")
}

/// A writer that knows how much went through it.
pub(super) struct Counted<W> {
    pub inner: W,
    pub count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count += u64::try_from(written).unwrap_or_default();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Sends a folder as a tar archive, and says how long it was. Sockets, pipes and devices in it
/// stay behind.
pub(super) fn send_folder(port: File, folder: &Path) -> Result<u64> {
    let writer = io::BufWriter::with_capacity(64 * 1024, Counted { inner: port, count: 0 });
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    archive.sparse(false);
    archive
        .append_dir_all("", folder)
        .with_context(|| format!("cannot pack `{}`", folder.display()))?;
    let writer = archive.into_inner().context("cannot end the archive")?;
    let counted = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(counted.count)
}
