// SPDX-License-Identifier: Apache-2.0
//! Several tests at once: probabilities that may be compared with one level.

/// Holm's (1979) adjusted probabilities, in the order of `p`: whoever calls those at most `level`
/// different calls any equal pair different in at most `level` of all cases. For secondary metrics.
/// Of values from 0 to 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let count = p.len();
    let mut adjusted = vec![1.0; count];
    let mut largest: f64 = 0.0;
    for (place, index) in rising(p).into_iter().enumerate() {
        largest = largest.max(factor(count - place) * p[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Benjamini and Hochberg's (1995) adjusted probabilities, in the order of `p`: of those at most
/// `level`, at most that share is no difference, on average. For the cells of a matrix.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let count = p.len();
    let mut adjusted = vec![1.0; count];
    let mut smallest: f64 = 1.0;
    for (place, index) in rising(p).into_iter().enumerate().rev() {
        smallest = smallest.min(factor(count) / factor(place + 1) * p[index]);
        adjusted[index] = smallest;
    }
    adjusted
}

fn factor(count: usize) -> f64 {
    crate::real(count)
}

/// Indices by value; equal ones in their order.
fn rising(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<_> = (0..p.len()).collect();
    order.sort_by(|one, other| p[*one].total_cmp(&p[*other]));
    order
}
