// SPDX-License-Identifier: Apache-2.0
//! What the threads of one core did at the same time, and what a fair scheduler would do.

use serde::{Deserialize, Serialize};

/// Of the time in which threads ran, as far as the trace has it: what the other hyperthreads of
/// their cores did. The shares sum to 1; docs/method.md says what they mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoRun {
    /// Time in which threads of the load ran.
    pub running_ns: u64,
    /// Ran a thread of the same group.
    pub mate: f64,
    /// Ran anything else.
    pub stranger: f64,
    /// Ran nothing.
    pub idle: f64,
    /// The trace does not tell.
    pub unknown: f64,
}

/// Whether co-run and forced idle are measurements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreFigures {
    /// They are, as far as is known.
    pub measured: bool,
    /// Why they are not.
    pub reason: Option<String>,
}

impl Default for CoreFigures {
    fn default() -> Self {
        Self { measured: true, reason: None }
    }
}

impl CoreFigures {
    /// Beside a figure; nothing where it is one.
    pub fn remark(&self) -> String {
        self.why_not().map_or_else(String::new, |why| format!("; no measurement: {why}"))
    }

    /// Why they are none, if so.
    pub fn why_not(&self) -> Option<&str> {
        let unknown = "the result does not say why";
        (!self.measured).then(|| self.reason.as_deref().unwrap_or(unknown))
    }
}

/// Forced idle time of the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForcedIdle {
    /// How long, over all CPUs of the load; `None` where the kernel does not tell.
    pub ns: Option<u64>,
    /// Part of the time of these CPUs.
    pub share: Option<f64>,
    /// Where it is from.
    pub source: Option<ForcedIdleSource>,
    /// Why it is not known.
    pub note: Option<String>,
}

/// Which of the kernel's figures forced idle time is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForcedIdleSource {
    /// `core_sched.force_idle_usec` of the groups' cgroups.
    Cgroup,
    /// `core_forceidle_sum` of their threads.
    Threads,
}

/// The longest gap by design, and how far the measurement is from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The longest gap by design; `None` where it cannot be said.
    pub gap_ns: Option<u64>,
    /// Threads that share a CPU when all want to run.
    pub threads_per_cpu: u32,
    /// How long each of them runs at a time.
    pub turn_ns: Option<u64>,
    /// Longest measured gap over the expected one.
    pub inflation: Option<f64>,
    /// How the turn was found, or why nothing is expected.
    pub note: String,
}
