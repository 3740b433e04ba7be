// SPDX-License-Identifier: Apache-2.0
//! `schedvmm completions`: what a shell needs to complete verbs, options and their values.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::Cli;
use crate::status::{ExitStatus, Failure};
use crate::terminal;

/// Prints it.
///
/// # Errors
/// Stdout does not take it.
pub fn run(shell: Shell) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), env!("CARGO_BIN_NAME"), &mut script);
    terminal::whole(&script)?;
    Ok(ExitStatus::Pass)
}
