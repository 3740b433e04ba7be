// SPDX-License-Identifier: Apache-2.0
//! Named ports: what a user asks for, and what the threads share about each.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::rx::Receiver;
use super::slot::TransmitSlot;

/// Most ports of one console. The limit is ours: it bounds what a DEVICE_READY costs.
pub const MAX_PORTS: usize = 32;

/// Longest name of a port, so that a control message has a known size.
pub const MAX_NAME_BYTES: usize = 64;

/// What the guest makes of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A console: /dev/hvc0.
    Console,
    /// A character device: /dev/vportNpI, name in /sys/class/virtio-ports/vportNpI/name.
    Generic,
}

/// A port to be made.
pub struct PortSpec {
    /// The name by which guest and host find it.
    pub name: String,
    /// What it is.
    pub kind: PortKind,
    /// Where the guest's output goes.
    ///
    /// The sink of the console is written on vCPU threads and must not block; what it does not
    /// take at once is dropped and counted. The sink of a generic port is written on the thread
    /// of its [`PortWorker`](super::PortWorker) and may block. Both get copies, which the guest
    /// can no longer change.
    pub sink: Box<dyn Write + Send>,
}

impl fmt::Debug for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSpec")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Why a console cannot be made.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// Too few or too many ports.
    #[error("a console has 1 to {MAX_PORTS} ports, not {0}")]
    PortCount(usize),
    /// The console port is missing or in the wrong place.
    #[error("the first port, and no other, has to be the console; port {0:?} breaks this")]
    ConsoleNotFirst(String),
    /// A name that the guest could not show.
    #[error("port name {0:?} is empty, longer than {MAX_NAME_BYTES} bytes, or not printable ASCII")]
    Name(String),
    /// Two ports of the same name.
    #[error("port name {0:?} is used twice")]
    DuplicateName(String),
    /// No eventfd or timerfd: too many open files, most likely (`ulimit -n`).
    #[error("cannot create the file descriptors of port {name:?}; is `ulimit -n` too low?")]
    FileDescriptor {
        /// The port.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Checks a list of ports, before anything is made of it.
///
/// # Errors
/// Their number, their order, or the name of one.
pub fn check(ports: &[PortSpec]) -> Result<(), ConsoleError> {
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return Err(ConsoleError::PortCount(ports.len()));
    }
    let mut names = HashSet::new();
    for (id, port) in ports.iter().enumerate() {
        let printable = port.name.bytes().all(|byte| byte.is_ascii_graphic());
        if port.name.is_empty() || port.name.len() > MAX_NAME_BYTES || !printable {
            return Err(ConsoleError::Name(port.name.clone()));
        }
        if !names.insert(port.name.as_str()) {
            return Err(ConsoleError::DuplicateName(port.name.clone()));
        }
        if (port.kind == PortKind::Console) != (id == 0) {
            return Err(ConsoleError::ConsoleNotFirst(port.name.clone()));
        }
    }
    Ok(())
}

/// What vCPU threads, I/O threads and the machine's owner share about one port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) kind: PortKind,
    /// Host to guest.
    pub(super) receiver: Mutex<Receiver>,
    /// Guest to host, for generic ports: the ring, when its worker is not at it.
    pub(super) transmit: Mutex<TransmitSlot>,
    /// Wakes the worker: ioeventfd of the transmit queue.
    pub(super) kick: Arc<EventFd>,
    /// What ended the port.
    pub(super) error: OnceLock<Arc<io::Error>>,
}

impl Port {
    pub(super) fn new(name: String, kind: PortKind) -> Result<Self, ConsoleError> {
        let kick = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
            .map_err(|source| ConsoleError::FileDescriptor { name: name.clone(), source })?;
        Ok(Self {
            name,
            kind,
            receiver: Mutex::default(),
            transmit: Mutex::default(),
            kick: Arc::new(kick),
            error: OnceLock::new(),
        })
    }

    /// Wakes the port's worker.
    pub(super) fn wake(&self) {
        // Can only fail when the counter is full, that is, when the worker is woken already.
        let _ = self.kick.write(1);
    }
}
