// SPDX-License-Identifier: Apache-2.0
//! Special functions: the logarithm of the gamma function, the incomplete beta function and its
//! inverse, the tail of the normal distribution. Each is tested against tables of SciPy.

use std::f64::consts::{PI, SQRT_2};

/// Terms of a continued fraction or a series, at most. Those that are used need fewer than a tenth.
const MAX_TERMS: u32 = 10_000;

/// ln Γ(x) of x > 0: Stirling's series (DLMF 5.11.1) at x + n ≥ 16, brought back by the recurrence.
pub fn ln_gamma(x: f64) -> f64 {
    let mut product = 1.0;
    let mut large = x;
    while large < 16.0 {
        product *= large;
        large += 1.0;
    }
    // B(2k) / (2k (2k - 1)).
    const TERMS: [f64; 6] =
        [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0];
    let squared = large * large;
    let series = TERMS.iter().rev().fold(0.0, |sum, term| sum / squared + term) / large;
    (large - 0.5) * large.ln() - large + 0.5 * (2.0 * PI).ln() + series - product.ln()
}

/// The regularized incomplete beta function I_x(a, b): the probability that a Beta(a, b) is at most
/// x. Of a, b > 0; 0 below x = 0, 1 above x = 1.
pub fn beta_cdf(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    // The fraction converges fast on one side of the mean; the other side is the complement.
    if x < (a + 1.0) / (a + b + 2.0) {
        (front.exp() / (a * beta_fraction(a, b, x))).min(1.0)
    } else {
        (1.0 - front.exp() / (b * beta_fraction(b, a, 1.0 - x))).max(0.0)
    }
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const SMALL: f64 = 1e-300;
    let (mut value, mut above, mut below) = (1.0, 1.0, 0.0);
    for term in 1..MAX_TERMS {
        let m = f64::from(term / 2);
        let coefficient = if term % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        below = 1.0 / away_from_zero(1.0 + coefficient * below, SMALL);
        above = away_from_zero(1.0 + coefficient / above, SMALL);
        value *= above * below;
        if (above * below - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

fn away_from_zero(value: f64, small: f64) -> f64 {
    if value.abs() < small { small } else { value }
}

/// The x at which `beta_cdf(a, b, x)` is p: Newton's steps, and halving where they leave what is known
/// of it.
pub fn beta_quantile(a: f64, b: f64, p: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    let mut x = a / (a + b);
    let ln_scale = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b);
    for _ in 0..MAX_TERMS {
        let above = beta_cdf(a, b, x) - p;
        if above < 0.0 {
            low = x;
        } else {
            high = x;
        }
        let density = (ln_scale + (a - 1.0) * x.ln() + (b - 1.0) * (-x).ln_1p()).exp();
        let mut next = x - above / density;
        let is_within = next > low && next < high;
        if !is_within {
            next = 0.5 * (low + high);
        }
        // Nothing lies between two neighbours among the numbers.
        let is_still = (next - x).abs() <= 1e-15 * x || next <= low || next >= high;
        x = next;
        if is_still {
            break;
        }
    }
    x
}

/// The probability that a standard normal variable is above z.
pub fn normal_above(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_above(-z);
    }
    if z.is_nan() || z > 38.0 {
        return if z.is_nan() { z } else { 0.0 };
    }
    let density = (-0.5 * z * z).exp() / (SQRT_2 * PI.sqrt());
    if z < 3.0 {
        // DLMF 7.6.2: z + z³/3 + z⁵/(3·5) + …
        let (mut term, mut sum) = (z, z);
        for k in 1..MAX_TERMS {
            term *= z * z / f64::from(2 * k + 1);
            sum += term;
            if term < 1e-17 * sum {
                break;
            }
        }
        return 0.5 - density * sum;
    }
    // DLMF 7.9.3, from its end: z + 1/(z + 2/(z + 3/(z + …
    let fraction = (1..=200u32).rev().fold(z, |rest, k| z + f64::from(k) / rest);
    density / fraction
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Oracle {
        gamma: Vec<Gamma>,
        beta: Vec<Beta>,
        normal: Vec<Normal>,
    }

    #[derive(Deserialize)]
    struct Gamma {
        x: f64,
        ln_gamma: f64,
    }

    #[derive(Deserialize)]
    struct Beta {
        a: f64,
        b: f64,
        x: f64,
        p: f64,
    }

    #[derive(Deserialize)]
    struct Normal {
        z: f64,
        above: f64,
    }

    fn assert_close(found: f64, expected: f64, tolerance: f64) {
        let error = (found - expected).abs() / expected.abs().max(1e-300);
        assert!(error <= tolerance, "{found}, not {expected}: {error:e}");
    }

    #[test]
    fn they_are_those_of_scipy() {
        let oracle: Oracle =
            serde_json::from_str(include_str!("../tests/data/oracle.json")).expect("the table");
        for row in oracle.gamma {
            // Around 1 and 2, where it is 0, as exact as the sum it is made of.
            let error = (ln_gamma(row.x) - row.ln_gamma).abs();
            assert!(error < 1e-14 * row.ln_gamma.abs().max(2.0), "{}: {error:e}", row.x);
        }
        for row in oracle.beta {
            assert_close(beta_cdf(row.a, row.b, row.x), row.p, 1e-9);
            assert_close(beta_quantile(row.a, row.b, row.p), row.x, 1e-9);
        }
        for row in oracle.normal {
            assert_close(normal_above(row.z), row.above, 1e-12);
        }
    }

    #[test]
    fn ends() {
        assert_eq!((beta_cdf(2.0, 3.0, -1.0), beta_cdf(2.0, 3.0, 0.0)), (0.0, 0.0));
        assert_eq!((beta_cdf(2.0, 3.0, 1.0), beta_cdf(2.0, 3.0, 2.0)), (1.0, 1.0));
        assert_eq!((normal_above(f64::INFINITY), normal_above(f64::NEG_INFINITY)), (0.0, 1.0));
        assert!(normal_above(f64::NAN).is_nan());
    }
}
