// SPDX-License-Identifier: Apache-2.0
//! One scheduling gap, as the meter writes it and as it crosses the result port.

use serde::{Deserialize, Serialize};

use crate::evidence::Class;

/// An interval in which a thread that wanted to run did not run.
///
/// `tsc_begin` is the last reading before the gap, `tsc_end` the first one after it; both
/// are raw TSC values of the machine that measured (equal to the host's TSC inside our own
/// virtual machines). The CPU numbers come from the same RDTSCP instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct GapRecord {
    /// TSC before the gap.
    pub tsc_begin: u64,
    /// TSC after the gap; never below `tsc_begin`.
    pub tsc_end: u64,
    /// CPU that took the reading before the gap.
    pub cpu_begin: u32,
    /// CPU that took the reading after the gap.
    pub cpu_end: u32,
    /// Who took the time.
    #[serde(default)]
    pub class: Class,
}

impl GapRecord {
    /// Whether it can be: no gap ends before it begins. A record that comes from elsewhere is
    /// asked this before it is believed.
    pub fn is_possible(&self) -> bool {
        self.tsc_begin <= self.tsc_end
    }

    /// Length in TSC ticks.
    pub fn ticks(&self) -> u64 {
        self.tsc_end.saturating_sub(self.tsc_begin)
    }
}
