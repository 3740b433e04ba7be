// SPDX-License-Identifier: Apache-2.0
//! How evenly the CPU was divided.

use super::real;

/// Jain's index of these shares: 1 when all are equal, 1/n when one has everything.
///
/// J = (Σx)² / (n Σx²): Jain, Chiu and Hawe, "A Quantitative Measure of Fairness and
/// Discrimination", DEC TR-301, 1984. `None` where nobody has anything.
pub fn jain(shares: &[u64]) -> Option<f64> {
    let sum: f64 = shares.iter().copied().map(real).sum();
    let squares: f64 = shares.iter().map(|&share| real(share) * real(share)).sum();
    let count = real(u64::try_from(shares.len()).unwrap_or(u64::MAX));
    (squares > 0.0).then(|| sum * sum / (count * squares))
}

/// The largest share over the smallest. `None` where the smallest is nothing.
pub fn max_over_min(shares: &[u64]) -> Option<f64> {
    let (least, most) = (shares.iter().min()?, shares.iter().max()?);
    (*least > 0).then(|| real(*most) / real(*least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_at_its_ends() {
        assert_eq!(jain(&[]), None);
        assert_eq!(jain(&[0, 0]), None);
        assert_eq!(jain(&[7, 7, 7, 7]), Some(1.0));
        assert_eq!(jain(&[9, 0, 0, 0]), Some(0.25));
        // The paper's own example of its section 2: 20 % discriminated against.
        assert_eq!(jain(&[1, 1, 1, 1, 0]), Some(0.8));
    }

    #[test]
    fn ratio_of_the_extremes() {
        assert_eq!(max_over_min(&[]), None);
        assert_eq!(max_over_min(&[3, 0]), None);
        assert_eq!(max_over_min(&[3, 6, 4]), Some(2.0));
    }
}
