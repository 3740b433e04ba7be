// SPDX-License-Identifier: Apache-2.0
//! The agent's ends of the virtio-console ports, found by name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{self, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use thiserror::Error;
use workload::kernel::files::make_node;

/// How long a port may take to appear and to be connected.
const APPEAR: Duration = Duration::from_secs(10);

/// How long the host may take to accept the next piece.
const ACCEPT: Duration = Duration::from_secs(10);

/// Between two looks at what offers nothing to wait on.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The driver takes at most 32 KiB in one write (drivers/char/virtio_console.c,
/// `port_fops_write`); a larger write is cut down to it anyway.
const PIECE_BYTES: usize = 32 << 10;

/// Why a port cannot be used.
#[derive(Debug, Error)]
pub enum PortError {
    /// No port has this name.
    #[error(
        "no virtio-console port named {name} appeared within {} s ({})",
        APPEAR.as_secs(), seen(there)
    )]
    Absent {
        /// The name looked for.
        name: String,
        /// Names that were found.
        there: String,
    },
    /// Its device node cannot be opened.
    #[error("{} of port {name} cannot be opened", node.display())]
    Open {
        /// Name of the port.
        name: String,
        /// Its device node.
        node: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host has not connected its end.
    #[error("the host did not connect port {name} within {} s", APPEAR.as_secs())]
    Unconnected {
        /// Name of the port.
        name: String,
    },
}

/// What there was instead. Only where there is no port at all a driver may be missing.
fn seen(there: &str) -> String {
    if there.is_empty() {
        "there are none: the kernel needs CONFIG_VIRTIO_CONSOLE, and CONFIG_VIRTIO_MMIO or \
         CONFIG_VIRTIO_PCI, built in or as modules that it is given"
            .into()
    } else {
        format!("there are: {there}")
    }
}

/// An open port. Writes end with a deadline: nothing here waits for ever for the host.
#[derive(Debug)]
pub struct Port {
    file: File,
}

impl Port {
    /// Finds the port of this name, opens it, and waits until the host has connected it.
    pub fn open(name: &str) -> Result<Self, PortError> {
        let deadline = Instant::now() + APPEAR;
        let node = wait_for_node(name, deadline)?;
        let file = loop {
            let open = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&node);
            match open {
                Ok(file) => break file,
                // The name is in sysfs a moment before the device can be opened.
                Err(_) if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
                Err(source) => return Err(PortError::Open { name: name.into(), node, source }),
            }
        };
        let port = Self { file };
        match port.wait_writable(deadline) {
            Ok(()) => Ok(port),
            Err(_) => Err(PortError::Unconnected { name: name.into() }),
        }
    }

    /// A port on any file, for tests.
    #[cfg(test)]
    pub(crate) fn on(file: File) -> Self {
        Self { file }
    }

    /// The same port again, for a thread that reads.
    pub fn reader(&self) -> io::Result<PortReader> {
        Ok(PortReader { file: self.file.try_clone()? })
    }

    fn wait_writable(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let events = poll(&self.file, PollFlags::OUT, left)?;
            if events.contains(PollFlags::OUT) {
                return Ok(());
            }
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the host took nothing from the port for {} s", ACCEPT.as_secs()),
                ));
            }
            // While the host's end is closed, poll returns at once with POLLHUP.
            thread::sleep(POLL_INTERVAL.min(left));
        }
    }
}

impl Write for Port {
    /// Writes at most one piece, and waits for the host as long as it may take.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let deadline = Instant::now() + ACCEPT;
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        loop {
            match self.file.write(piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_writable(deadline)?;
                }
                // The driver gives 0 when the device refused the buffer; the next attempt
                // blocks or fails.
                Ok(0) if !piece.is_empty() && Instant::now() < deadline => {
                    thread::sleep(POLL_INTERVAL)
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading side of a port, for a thread of its own.
#[derive(Debug)]
pub struct PortReader {
    file: File,
}

impl Read for PortReader {
    /// Waits as long as it takes; 0 when the host has closed its end.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Bounded only to have no wait without a bound: there is nothing to do
                    // but to wait again.
                    poll(&self.file, PollFlags::IN, Duration::from_secs(3600))?;
                }
                result => return result,
            }
        }
    }
}

fn poll(file: &File, events: PollFlags, timeout: Duration) -> io::Result<PollFlags> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut entry = [PollFd::new(file, events)];
    match event::poll(&mut entry, Some(&timeout)) {
        Ok(_) => Ok(entry[0].revents()),
        Err(Errno::INTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until sysfs has a port of this name, and gives its device node.
fn wait_for_node(name: &str, deadline: Instant) -> Result<PathBuf, PortError> {
    let class = Path::new("/sys/class/virtio-ports");
    loop {
        if let Some(port) = find(class, name) {
            let node = Path::new("/dev").join(&port);
            make_missing_node(&class.join(port).join("dev"), &node);
            return Ok(node);
        }
        if Instant::now() >= deadline {
            let there = names(class).map(|(_, name)| name).collect::<Vec<_>>().join(", ");
            return Err(PortError::Absent { name: name.into(), there });
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Device name of the port with this name.
fn find(class: &Path, name: &str) -> Option<PathBuf> {
    names(class).find(|(_, found)| found == name).map(|(port, _)| port)
}

/// Device name and name of every port in a class directory.
fn names(class: &Path) -> impl Iterator<Item = (PathBuf, String)> {
    fs::read_dir(class).into_iter().flatten().flatten().filter_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        Some((PathBuf::from(port.file_name()), name.trim().to_owned()))
    })
}

/// Without devtmpfs nobody makes nodes; a failure shows when the node is opened.
fn make_missing_node(dev: &Path, node: &Path) {
    let numbers = fs::read_to_string(dev).unwrap_or_default();
    if let Some((major, minor)) = numbers.trim().split_once(':')
        && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        && !node.exists()
    {
        let _ = make_node(node, major, minor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn ports_are_found_by_name() {
        let class = tempfile::tempdir().unwrap();
        for (port, name) in [("vport0p0", ""), ("vport0p1", "schedvmm.control\n")] {
            fs::create_dir(class.path().join(port)).unwrap();
            fs::write(class.path().join(port).join("name"), name).unwrap();
        }
        fs::create_dir(class.path().join("vport0p2")).unwrap();
        assert_eq!(find(class.path(), "schedvmm.control"), Some("vport0p1".into()));
        assert_eq!(find(class.path(), "schedvmm"), None);
        assert_eq!(find(Path::new("/nonexistent"), "schedvmm"), None);
    }

    #[test]
    fn an_absent_port_is_named_with_those_that_are_there() {
        let error = wait_for_node("nobody", Instant::now()).unwrap_err();
        assert!(error.to_string().contains("nobody"), "{error}");
        // One port shows that the drivers are there.
        assert!(seen("").contains("CONFIG_VIRTIO_CONSOLE, and"));
        assert_eq!(seen("schedvmm.control"), "there are: schedvmm.control");
    }

    #[test]
    fn all_bytes_arrive_in_pieces() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut port = Port::on(File::from(OwnedFd::from(ours)));
        let sent: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            let mut theirs = theirs;
            theirs.read_to_end(&mut received).unwrap();
            received
        });
        port.write_all(&sent).unwrap();
        drop(port);
        assert_eq!(reader.join().unwrap(), sent);
    }
}
