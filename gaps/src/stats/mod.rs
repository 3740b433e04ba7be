// SPDX-License-Identifier: Apache-2.0
//! What gaps come to: pure functions from lengths to figures. docs/method.md says what each
//! figure means; every one is tested against an independent implementation.

pub mod distribution;
pub mod fairness;
pub mod lag;

pub use distribution::{Distribution, Quantiles, Starvation};
pub use fairness::{jain, max_over_min};

/// A count as a number to calculate with. Exact below 2^53, and nanoseconds of three months
/// are below that; above, a figure loses its last digits and nothing else.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// `part / whole`; `None` without a whole.
pub fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| real(part) / real(whole))
}
