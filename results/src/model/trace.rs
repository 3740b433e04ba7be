// SPDX-License-Identifier: Apache-2.0
//! The trace, as result.json tells of it.

use ftrace::dump::CpuStats;
use serde::{Deserialize, Serialize};

/// The trace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trace {
    /// Its file; `None` without a trace.
    pub file: Option<String>,
    /// What that file is.
    pub form: Option<TraceForm>,
    /// How it came here.
    pub via: Option<TraceVia>,
    /// Length of the file.
    pub bytes: u64,
    /// Length of what was sent, or read in memory: the key keeps its name, for results that there are.
    pub shipped_bytes: u64,
    /// Nothing of it is missing.
    pub complete: bool,
    /// Why there is none, or not all of it.
    pub note: Option<String>,
    /// What the buffers of the CPUs said.
    pub cpus: Vec<CpuStats>,
}

/// What the trace's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceForm {
    /// trace.dat, version 6.
    #[serde(rename = "trace.dat")]
    TraceDat,
    /// The stream as it came.
    #[serde(rename = "raw")]
    Raw,
}

/// How a trace comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceVia {
    /// Read in the guest's memory.
    MappedRing,
    /// Sent by the guest.
    BulkPort,
    /// Written by ourselves, on the running kernel.
    File,
}
