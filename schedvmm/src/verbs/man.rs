// SPDX-License-Identifier: Apache-2.0
//! `schedvmm man`: manual pages, made of what `--help` says.

use clap::CommandFactory;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::status::{ExitStatus, Failure};
use crate::terminal;

/// Prints the page of a verb, or that of the whole.
///
/// # Errors
/// There is no such verb, or stdout does not take it.
pub fn run(verb: Option<&str>) -> Result<ExitStatus, Failure> {
    let mut command = Cli::command();
    // Names of subcommands with that of the program before them.
    command.build();
    let page = match verb {
        None => command,
        Some(name) => {
            let verb = command.find_subcommand(name).filter(|verb| verb.get_name() != "help");
            verb.cloned().ok_or_else(|| {
                Failure::request(format!("there is no verb {name:?}; `schedvmm --help` lists them"))
            })?
        }
    };
    let mut roff = Vec::new();
    Man::new(page).render(&mut roff).map_err(Failure::internal)?;
    terminal::whole(&roff)?;
    Ok(ExitStatus::Pass)
}
