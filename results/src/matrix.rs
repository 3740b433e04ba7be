// SPDX-License-Identifier: Apache-2.0
//! What `schedvmm matrix` leaves: `matrix.json`, beside a folder of trials for each cell.

use std::collections::BTreeMap;

use decision::matrix::CellFinding;
use protocol::job::CoschedRequest;
use serde::{Deserialize, Serialize};

use crate::comparison::SideFacts;
use crate::metric::Metric;
use crate::set_file::SetFile;

/// Version of the format; raised when a field changes its meaning or goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatrixSchema {
    /// The first.
    #[default]
    #[serde(rename = "schedvmm-matrix/1")]
    V1,
}

/// Kernels, tunables, loads and cookies, each with each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// Version of the format.
    pub schema: MatrixSchema,
    /// Of the program.
    pub version: String,
    /// When it was begun.
    pub started_utc: String,
    /// What was asked, before the first run.
    pub question: MatrixQuestion,
    /// Trials in the order in which they are done: the cell, from 1, and the number of its trial.
    pub order: Vec<(usize, u32)>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// What all of it was measured under, in a sentence.
    pub conditions: String,
    /// Two-sided level at which each cell was tested, by Benjamini and Hochberg.
    pub level: f64,
    /// The cells; the last part of their places changes first.
    pub cells: Vec<Cell>,
}

/// What is chosen beforehand, and stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixQuestion {
    /// The figure that decides.
    pub metric: Metric,
    /// The smallest change that matters: 0.1 for 10 %.
    pub min_effect: f64,
    /// Of each cell.
    pub trials: u32,
    /// What seeds and order are made of.
    pub seed: u64,
    /// Options of the main job for all runs.
    pub options: String,
    /// The kernels, as they were named.
    pub kernels: Vec<String>,
    /// Tunables of a cell: `NAME=VALUE` with spaces between; none may be there.
    pub tunings: Vec<String>,
    /// Presets and files; one is empty where the options say what the load is.
    pub loads: Vec<String>,
    /// Where cookies come from; `None` leaves that to the options.
    pub cookies: Vec<Option<CoschedRequest>>,
    /// What cells are compared with.
    pub base: MatrixBase,
}

/// Each cell is compared with the one that has these values, and else its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatrixBase {
    /// Its kernel.
    pub kernel: Option<String>,
    /// Its tunables.
    pub tuning: Option<String>,
    /// Its load.
    pub load: Option<String>,
    /// Its cookies.
    pub cookies: Option<CoschedRequest>,
}

/// A cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its kernel, as it was named.
    pub kernel: String,
    /// Its tunables.
    pub tuning: String,
    /// Its load.
    pub load: String,
    /// Where its cookies come from; `None` leaves that to the options.
    pub cookies: Option<CoschedRequest>,
    /// Its trials, beside the file.
    pub folder: String,
    /// What tells it from others, its kernel as that tells itself, and its trials.
    pub side: SideFacts,
    /// The cell that it is compared with, from 1; `None` of one that others are compared with.
    pub base: Option<usize>,
    /// What that came to, before it is withheld; `None` without a pair, and without a base.
    pub finding: Option<CellFinding>,
    /// Why that is no answer: trials are missing, and not by chance.
    pub withheld: Option<String>,
    /// Medians of other figures; those that no trial tells are left out.
    pub others: BTreeMap<Metric, f64>,
}

impl SetFile for Matrix {
    const NAME: &'static str = "matrix.json";
    const SCHEMA: &'static str = "schedvmm-matrix/1";
    const VERB: &'static str = "matrix";
}
