// SPDX-License-Identifier: Apache-2.0
//! A time between two readings of the counter.

/// From one reading to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first reading.
    pub begin: u64,
    /// The last one; never below `begin`.
    pub end: u64,
}

impl Span {
    /// Its length.
    pub fn ticks(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }
}
