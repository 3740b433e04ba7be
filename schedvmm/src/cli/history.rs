// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm history`.

use std::path::PathBuf;

use clap::Args;
use results::metric::Metric;

use super::compare::metric;
use crate::units;

/// Which kernels, and by what.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// Folders of `schedvmm trials`, in the order of their kernels; or folders with such folders in
    /// them, which are taken in the order in which they were measured.
    #[arg(required = true, value_name = "DIR", value_parser = units::named())]
    pub folders: Vec<PathBuf>,
    /// The figure that is looked at.
    #[arg(long, value_name = "METRIC", default_value = "wait-p99", value_parser = metric())]
    pub metric: Metric,
    /// The smallest change that matters.
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = units::percent)]
    pub min_effect: f64,
    /// A value that may differ between trials, by its name in the list of differences, with all below
    /// it; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub allow: Vec<String>,
    /// Write a picture of it, too: SVG.
    #[arg(long, value_name = "FILE", value_parser = units::named())]
    pub picture: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Print the medians of all figures as CSV instead, as Apache Otava reads it.
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}
