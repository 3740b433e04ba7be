// SPDX-License-Identifier: Apache-2.0
//! How the figures of a result follow from what a run has measured: what the guest said goes in,
//! and types of [`results::model`] come out. docs/method.md has the formulas.

pub mod expected;
pub mod figures;
pub mod forced_idle;
#[cfg(test)]
mod many_gaps_tests;
pub mod parted;
pub mod run_delay;
pub mod service_lag;
pub mod summary;
pub mod threads;
