// SPDX-License-Identifier: Apache-2.0
//! How far the two trials of a pair are apart.
//!
//! Lengths are compared by ratio, shares by odds ratio: on these scales a slower host, which
//! stretches both trials of a pair, leaves the difference as it is, and halves and doubles weigh
//! the same.

use serde::{Deserialize, Serialize};

/// Parts of one: logarithms are rounded to these.
const PARTS: f64 = 1e12;

/// The scale on which the values of a metric are compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scale {
    /// Lengths, rates and other quantities from 0 on: ln(other / base).
    ///
    /// 0 has no logarithm, and a length below what the meter resolves is no length: values below
    /// `floor` count as `floor`. Two of them are equal. One of them gives a difference of the right
    /// sign, the size of which is not used by the test, only its rank.
    Log {
        /// Smallest value that is told apart from 0, above 0. Unit of the values.
        floor: f64,
    },
    /// Shares from 0 to 1: ln(odds of other / odds of base). Values within `floor` of 0 or 1 count
    /// as `floor`, and 1 - `floor`.
    Logit {
        /// Smallest share that is told apart from 0, above 0 and below 1/2.
        floor: f64,
    },
}

impl Scale {
    /// Lengths in nanoseconds by a meter that resolves 1 µs.
    pub const LENGTHS_NS: Self = Self::Log { floor: 1_000.0 };
    /// Shares of a time of seconds, resolved to microseconds.
    pub const SHARES: Self = Self::Logit { floor: 1e-6 };

    /// From `base` to `other`: above 0 where `other` is larger.
    ///
    /// `None` where a value is not finite, is below 0, or is above 1 and to be a share; and where
    /// the floor is none.
    pub fn difference(self, base: f64, other: f64) -> Option<Difference> {
        // A difference of two logarithms, not the logarithm of a ratio: turned round, it has the
        // other sign to the last bit.
        let apart = (self.place(other)? - self.place(base)?) * PARTS;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "logarithms of numbers are below 750, and their odds' too; `as` saturates"
        )]
        let parts = apart.round() as i64;
        Some(Difference(parts))
    }

    /// Where a value lies on the scale.
    fn place(self, value: f64) -> Option<f64> {
        match self {
            Self::Log { floor } => {
                let is_good = value.is_finite() && value >= 0.0 && floor.is_finite() && floor > 0.0;
                is_good.then(|| value.max(floor).ln())
            }
            Self::Logit { floor } => {
                let is_good = (0.0..=1.0).contains(&value) && floor > 0.0 && floor < 0.5;
                let share = value.clamp(floor.min(0.5), 1.0 - floor.min(0.5));
                is_good.then(|| share.ln() - (-share).ln_1p())
            }
        }
    }
}

/// A difference of logarithms, in units of 10⁻¹².
///
/// Rounded, which no measurement is fine enough to notice: 10 to 20 and 20 to 40 are equal then,
/// although the last bits of their logarithms differ, and with what processor the logarithm was
/// taken makes no difference. Sums and comparisons are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Difference(pub(crate) i64);

impl Difference {
    /// Of two values that are equal.
    pub const NONE: Self = Self(0);

    /// The ratio of two lengths, or of two odds: above 1 where the other is larger.
    pub fn ratio(self) -> f64 {
        halves_to_ratio(2 * i128::from(self.0))
    }
}

/// The ratio of a difference in half units.
#[expect(clippy::cast_precision_loss, reason = "below 2^53 up to a ratio of e^4500")]
pub(crate) fn halves_to_ratio(halves: i128) -> f64 {
    (halves as f64 / (2.0 * PARTS)).exp()
}

/// A ratio as a difference in half units, rounded towards a ratio of 1.
pub(crate) fn ratio_to_halves(ratio: f64) -> i128 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "logarithms of numbers are below 750; `as` saturates"
    )]
    let halves = (2.0 * PARTS * ratio.ln()).trunc() as i128;
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ratios_are_equal_differences() {
        let apart = |base, other| Scale::LENGTHS_NS.difference(base, other).expect("lengths");
        for (base, other) in [(10e6, 30e6), (30e6, 90e6), (7e6, 21e6), (11e6, 33e6)] {
            assert_eq!(apart(base, other), apart(1e6, 3e6));
            assert_eq!(apart(other, base).0, -apart(1e6, 3e6).0);
        }
        assert!((apart(1e6, 3e6).ratio() - 3.0).abs() < 1e-11);
        assert!(apart(1e6, 1.000_001e6) > Difference::NONE);
    }

    #[test]
    fn zeros_are_as_long_as_the_meter_can_tell() {
        let apart = |base, other| Scale::LENGTHS_NS.difference(base, other).expect("lengths");
        assert_eq!(apart(0.0, 0.0), Difference::NONE);
        assert_eq!(apart(0.0, 999.0), Difference::NONE);
        assert_eq!(apart(0.0, 2_000.0), apart(1_000.0, 2_000.0));
        assert_eq!(apart(2_000.0, 0.0), apart(2_000.0, 1_000.0));
        let apart = |base, other| Scale::SHARES.difference(base, other).expect("shares");
        assert_eq!(apart(0.0, 0.0), Difference::NONE);
        assert_eq!(apart(1.0, 1.0), Difference::NONE);
        assert!(apart(0.0, 1.0).ratio().is_finite());
        assert_eq!(apart(0.0, 1.0).0, -apart(1.0, 0.0).0);
        // Odds of 1 and of 3.
        assert!((apart(0.5, 0.75).ratio() - 3.0).abs() < 1e-11);
    }

    #[test]
    fn what_is_no_value_has_no_difference() {
        for value in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(Scale::LENGTHS_NS.difference(value, 1.0), None);
            assert_eq!(Scale::LENGTHS_NS.difference(1.0, value), None);
            assert_eq!(Scale::SHARES.difference(value, 0.5), None);
        }
        assert_eq!(Scale::SHARES.difference(0.5, 1.1), None);
        for floor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Scale::Log { floor }.difference(1.0, 1.0), None);
            assert_eq!(Scale::Logit { floor }.difference(0.5, 0.5), None);
        }
        assert!(Scale::Log { floor: f64::MIN_POSITIVE }.difference(0.0, f64::MAX).is_some());
    }
}
