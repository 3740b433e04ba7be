// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm check`.

use std::path::PathBuf;

use clap::Args;

use super::TransportChoice;
use crate::units;

/// What is to be checked.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A bzImage, a vmlinux, a build tree, a package, a folder that one was unpacked into, a
    /// release or `running`.
    #[arg(value_name = "KERNEL", value_parser = units::named())]
    pub kernel: PathBuf,
    /// Its modules, as for the main job.
    #[arg(long, value_parser = units::named(), value_name = "DIR|PACKAGE")]
    pub modules: Vec<PathBuf>,
    /// How the guest is to reach its virtio console.
    #[arg(long, value_enum, default_value_t = TransportChoice::Auto)]
    pub transport: TransportChoice,
    /// For virtual machines as the load.
    #[arg(long)]
    pub nested: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
