// SPDX-License-Identifier: Apache-2.0
//! What trials of kernels decide.
//!
//! A trial is a run of its own: one boot, one seed, one value for each metric. Everything here is
//! a pure function of such values: no clock, no randomness, no files. The same input gives the
//! same output. docs/deciding.md has the formulas, the levels, what simulations showed, and the
//! literature.

pub mod bisect;
pub mod change_points;
pub mod difference;
pub mod interval;
pub mod matrix;
pub mod multiple;
pub mod sequential;
pub mod signed_rank;
mod special;

/// A count as a number to calculate with. Exact below 2^53, and no trials are as many.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn real(count: usize) -> f64 {
    count as f64
}
