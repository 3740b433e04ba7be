// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm report`.

use std::path::PathBuf;

use clap::Args;
use results::metric::Metric;

use super::compare::metric;
use crate::units;

/// Of what, and where it goes.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// The result folder, or its result.json; a folder of trials, of a comparison or of a matrix; or
    /// folders of trials, each of which is compared with the first.
    #[arg(required = true, value_name = "RESULT", value_parser = units::named())]
    pub results: Vec<PathBuf>,
    /// The figure that decides, of trials.
    #[arg(long, value_name = "METRIC", default_value = "wait-p99", value_parser = metric())]
    pub metric: Metric,
    /// Where the report goes, `-` for stdout [default: report.html in the first folder].
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
