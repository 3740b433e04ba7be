// SPDX-License-Identifier: Apache-2.0
//! What the owner of the machine can do with a running console.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::counters::lock;
use super::port::Port;
use super::rx::MAX_PENDING_BYTES;
use super::shared::Shared;
use crate::virtio::ring::Budget;

/// The owner's handle. Clones speak to the same console; any thread may hold one.
#[derive(Clone, Debug)]
pub struct ConsoleControl {
    shared: Arc<Shared>,
}

/// Why bytes could not be sent to the guest. None of them were.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SendError {
    /// No port has this name.
    #[error("the console has no port {0:?}")]
    UnknownPort(String),
    /// The guest does not read as fast as we send, or not at all.
    #[error("{pending} of at most {MAX_PENDING_BYTES} bytes already wait for port {port:?}")]
    Full {
        /// The port.
        port: String,
        /// Bytes that wait.
        pending: usize,
    },
}

/// What went wrong so far. A well-behaved guest with working sinks leaves all at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleStats {
    /// Messages, buffers and chains that made no sense and were ignored.
    pub guest_errors: u64,
    /// Output of the guest that no sink took.
    pub dropped_bytes: u64,
}

impl ConsoleControl {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Sends all of `bytes` to the guest, or nothing. What the guest cannot take yet waits until
    /// it has opened the port and posted buffers.
    ///
    /// # Errors
    ///
    /// If there is no such port, or more would wait than [`MAX_PENDING_BYTES`].
    pub fn send(&self, port: &str, bytes: &[u8]) -> Result<(), SendError> {
        let found = self.find(port).ok_or_else(|| SendError::UnknownPort(port.to_owned()))?;
        let mut receiver = lock(&found.receiver);
        if !receiver.push(bytes) {
            return Err(SendError::Full { port: port.to_owned(), pending: receiver.pending() });
        }
        receiver.deliver(&self.shared.counters, &mut Budget::of_an_exit());
        Ok(())
    }

    /// Bytes sent to the port that the guest has not taken yet.
    #[must_use]
    pub fn pending(&self, port: &str) -> usize {
        self.find(port).map_or(0, |port| lock(&port.receiver).pending())
    }

    /// Whether a program in the guest holds the port open. For the console, the kernel does.
    #[must_use]
    pub fn port_open(&self, port: &str) -> bool {
        self.find(port).is_some_and(|port| lock(&port.receiver).guest_open())
    }

    /// Whether the sink has got all that the guest has sent on the port so far.
    #[must_use]
    pub fn drained(&self, port: &str) -> bool {
        self.find(port).is_none_or(|port| lock(&port.transmit).drained())
    }

    /// As [`drained`](Self::drained), for all ports.
    #[must_use]
    pub fn flushed(&self) -> bool {
        self.shared.flushed()
    }

    /// Why the port takes no output any more: the first error of its sink.
    #[must_use]
    pub fn port_error(&self, port: &str) -> Option<Arc<io::Error>> {
        self.find(port)?.error.get().cloned()
    }

    /// What went wrong so far.
    #[must_use]
    pub fn stats(&self) -> ConsoleStats {
        ConsoleStats {
            guest_errors: self.shared.counters.guest_errors(),
            dropped_bytes: self.shared.counters.dropped_bytes(),
        }
    }

    fn find(&self, name: &str) -> Option<&Port> {
        self.shared.ports.iter().find(|port| port.name == name)
    }
}
