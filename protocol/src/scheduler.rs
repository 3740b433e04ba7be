// SPDX-License-Identifier: Apache-2.0
//! What a kernel's scheduler goes by: how long a turn is, and when it can end.

use serde::{Deserialize, Serialize};

/// What the fair scheduler divides the time by. `None` is what this kernel, or this user's
/// lack of rights, does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerFacts {
    /// `eevdf` (6.6 and later) or `cfs`.
    pub family: Option<String>,
    /// Time between two ticks: the resolution of the coarse clocks.
    pub tick_ns: Option<u64>,
    /// EEVDF's base slice, CFS's minimum granularity.
    pub slice_ns: Option<u64>,
    /// Why there is none.
    #[serde(default)]
    pub slice_note: Option<String>,
    /// CFS's latency.
    pub latency_ns: Option<u64>,
    /// Whether a turn ends by a timer of its own rather than at a tick.
    pub hrtick: Option<bool>,
    /// Whether sessions share the CPU before their threads do.
    pub autogroup: Option<bool>,
}
