// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm matrix`.

use std::path::PathBuf;

use clap::Args;

use crate::units;

/// What is measured, and where it goes.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// Kernels, tunables, loads and cookies in a TOML file (docs/deciding.md, "How: matrix").
    #[arg(value_name = "FILE.toml", value_parser = units::named())]
    pub file: PathBuf,
    /// Folder of the trials; must be new or empty, or one of the same matrix, which goes on
    /// [default: a new one under results/].
    #[arg(long, value_name = "DIR", value_parser = units::named())]
    pub output: Option<PathBuf>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
