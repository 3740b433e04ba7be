// SPDX-License-Identifier: Apache-2.0
//! What gaps come to: pure functions from lengths to figures. docs/method.md says what each
//! figure means; every one is tested against an independent implementation.

pub mod distribution;
pub mod fairness;
pub mod lag;
pub mod service;

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

/// The share of what lies within the whole: never above 1. `None` without a whole, and where the
/// part is larger: then the two are not of the same time, and there is no share to tell.
pub fn share_within(part: u64, whole: u64) -> Option<f64> {
    share(part, whole).filter(|_| part <= whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_no_more_than_its_whole() {
        assert_eq!(share_within(1, 4), Some(0.25));
        assert_eq!(share_within(4, 4), Some(1.0));
        assert_eq!((share_within(5, 4), share_within(0, 0)), (None, None));
        assert_eq!((share(5, 4), share(5, 0)), (Some(1.25), None));
    }
}
