// SPDX-License-Identifier: Apache-2.0
//! What the parts of a console share.

use std::sync::Mutex;

use super::control::Control;
use super::counters::{Counters, lock};
use super::port::Port;

/// What all parts of a console share. See [`Console`](super::Console) for the order of locks.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) control: Mutex<Control>,
    pub(super) ports: Vec<Port>,
    pub(super) counters: Counters,
}

impl Shared {
    /// Whether all sinks have what the guest has sent. Wakes the workers that are not done: a guest
    /// that was stopped in the midst of a write has not rung for it.
    pub(super) fn flushed(&self) -> bool {
        let behind = self.ports.iter().filter(|port| !lock(&port.transmit).drained());
        behind.map(Port::wake).count() == 0
    }
}
