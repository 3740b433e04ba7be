// SPDX-License-Identifier: Apache-2.0
//! What a kernel's scheduler goes by: how long a turn is, and when it can end.

use serde::{Deserialize, Serialize};

/// Fair schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Earliest eligible virtual deadline first: Linux 6.6 and later.
    Eevdf,
    /// The completely fair scheduler.
    Cfs,
}

impl Family {
    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eevdf => "eevdf",
            Self::Cfs => "cfs",
        }
    }
}

/// What the fair scheduler divides the time by. `None` is what this kernel, or this user's
/// lack of rights, does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerFacts {
    /// The fair scheduler's kind.
    pub family: Option<Family>,
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
