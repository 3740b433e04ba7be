// SPDX-License-Identifier: Apache-2.0
//! `schedvmm config`: what to merge into a kernel's configuration.

use crate::status::{ExitStatus, Failure};
use crate::{needs, terminal};

/// Prints the fragment; with what virtual machines as the load need, too, if `nested`.
///
/// # Errors
/// Stdout does not take it.
pub fn run(nested: bool) -> Result<ExitStatus, Failure> {
    terminal::product(needs::fragment(nested).trim_end())?;
    Ok(ExitStatus::Pass)
}
