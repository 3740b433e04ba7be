// SPDX-License-Identifier: Apache-2.0
//! What `schedvmm compare` finds: `comparison.json`, and what it prints with `--json`.

use decision::interval::{Interval, Median};
use decision::sequential::{Answer, Finding};
use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::set_file::SetFile;

/// Version of the format; raised when a field changes its meaning or goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComparisonSchema {
    /// The first.
    #[default]
    #[serde(rename = "schedvmm-comparison/1")]
    V1,
}

/// Kernels, or settings, each compared with the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of the format.
    pub schema: ComparisonSchema,
    /// Of the program.
    pub version: String,
    /// The figure that decides.
    pub metric: Metric,
    /// The smallest change that matters: 0.1 for 10 %.
    pub min_effect: f64,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// What all of it was measured under, in a sentence.
    pub conditions: String,
    /// What the others are compared with.
    pub base: SideFacts,
    /// The others.
    pub others: Vec<Versus>,
}

/// A kernel, or a setting, and its trials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SideFacts {
    /// As it was named.
    pub name: String,
    /// Its kernel, as that tells itself.
    pub kernel: String,
    /// How many trials it has.
    pub trials: usize,
    /// Of the figure that decides; `None` where no trial tells it.
    pub median: Option<Median>,
}

/// One of them against the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versus {
    /// Which.
    pub side: SideFacts,
    /// What it is.
    pub answer: Answer,
    /// Why it is undecided although the look came to an answer: trials are missing in that, and not by
    /// chance.
    pub withheld: Option<String>,
    /// Pairs of trials in which the figure is known of both.
    pub pairs: usize,
    /// Pairs in which it is not, and which are left out.
    pub left_out: usize,
    /// The look that gave the answer, or the last one; `None` before the first.
    pub finding: Option<Finding>,
    /// With so many pairs it may be decided; `None` where it is.
    pub next_look_pairs: Option<usize>,
    /// Other figures, at the same pairs.
    pub secondary: Vec<Secondary>,
}

/// A figure beside the one that decides.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Secondary {
    /// Which.
    pub metric: Metric,
    /// What it would say alone, with the probability below in place of its own.
    pub answer: Answer,
    /// Two-sided, of the signed-rank test.
    pub p: f64,
    /// The same after Holm's correction for all of these figures.
    pub p_holm: f64,
    /// Hodges and Lehmann's estimate of other / base.
    pub ratio: f64,
    /// Of that, for this figure alone.
    pub interval: Interval,
}

impl SetFile for Comparison {
    const NAME: &'static str = "comparison.json";
    const SCHEMA: &'static str = "schedvmm-comparison/1";
    const VERB: &'static str = "compare";
}
