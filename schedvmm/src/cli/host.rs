// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm host`.

use clap::Args;

use super::{LoadArgs, ShowArgs, TraceArgs};

/// Options of `host`.
#[derive(Clone, Debug, Args)]
pub struct HostArgs {
    /// What runs.
    #[command(flatten)]
    pub load: LoadArgs,
    /// What is traced; needs root, and is done without where there is none.
    #[command(flatten)]
    pub trace: TraceArgs,
    /// What comes out.
    #[command(flatten)]
    pub show: ShowArgs,
}
