// SPDX-License-Identifier: Apache-2.0
//! What `schedvmm history` prints with `--json`: kernels in their order, and where they change.

use std::collections::BTreeMap;

use decision::change_points::ChangePoint;
use serde::{Deserialize, Serialize};

use crate::comparison::SideFacts;
use crate::metric::Metric;

/// Version of the format; raised when a field changes its meaning or goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HistorySchema {
    /// The first.
    #[default]
    #[serde(rename = "schedvmm-history/1")]
    V1,
}

/// Kernels in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Version of the format.
    pub schema: HistorySchema,
    /// Of the program.
    pub version: String,
    /// The figure.
    pub metric: Metric,
    /// The smallest change that matters: 0.1 for 10 %.
    pub min_effect: f64,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// What all of it was measured under, in a sentence.
    pub conditions: String,
    /// The kernels.
    pub kernels: Vec<KernelOfHistory>,
    /// Where they change; `at` counts those kernels whose `side.median` is not `null`, from 0.
    pub changes: Vec<ChangePoint>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelOfHistory {
    /// When its first trial that counts began.
    pub started_utc: String,
    /// Its folder, its kernel and its trials.
    pub side: SideFacts,
    /// Medians of other figures, in nanoseconds or parts of 1; those that no trial tells are left out.
    pub others: BTreeMap<Metric, f64>,
}
