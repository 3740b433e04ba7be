// SPDX-License-Identifier: Apache-2.0
//! The kernel's own meter as it was set up.

use serde::{Deserialize, Serialize};

use crate::job::{MeterKind, MeterMode};

/// A meter as it was set up, read back from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterFacts {
    /// Which one: never [`MeterKind::Auto`].
    pub kind: MeterKind,
    /// Why another one was taken than the best that `auto` knows.
    pub note: Option<String>,
    /// How it spreads over the CPUs; `None` for rdtsc.
    pub mode: Option<MeterMode>,
    /// Length of a window in microseconds; `None` for rdtsc.
    pub window_us: Option<u64>,
    /// Part of it in which it measures; `None` for rdtsc.
    pub width_us: Option<u64>,
    /// The kernel reports only what is longer than this; `None` for rdtsc.
    pub floor_us: Option<u64>,
}
