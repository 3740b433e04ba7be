// SPDX-License-Identifier: Apache-2.0
//! What an interrupt is for.

/// What the driver is told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The configuration space, or the whole device.
    Configuration,
    /// The used ring of the queue with this index.
    Queue(usize),
}
