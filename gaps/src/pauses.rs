// SPDX-License-Identifier: Apache-2.0
//! Seeded pauses between bursts.
//!
//! The same seed gives every thread the same pauses again, on any machine, and each thread a
//! stream of its own: two kernels can be compared under the same load.

/// Distribution of the pauses, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Evenly distributed between the two, ends included.
    Uniform {
        /// Shortest pause.
        min_ns: u64,
        /// Longest pause.
        max_ns: u64,
    },
    /// Always the same.
    Fixed {
        /// The pause.
        ns: u64,
    },
    /// Exponentially distributed.
    Exponential {
        /// Mean pause.
        mean_ns: u64,
    },
}

/// The pauses of one thread.
#[derive(Clone, Debug)]
pub struct Pauses {
    distribution: Distribution,
    state: [u64; 4],
}

impl Pauses {
    /// The stream of the thread with this index.
    pub fn new(distribution: Distribution, seed: u64, thread: u32) -> Self {
        // The index goes through the generator once by itself, so that neighbouring seeds
        // and neighbouring threads do not give the same stream.
        let mut mix = u64::from(thread);
        let mut mix = seed ^ splitmix64(&mut mix);
        Self { distribution, state: [(); 4].map(|()| splitmix64(&mut mix)) }
    }

    /// The next pause in nanoseconds.
    pub fn next_ns(&mut self) -> u64 {
        match self.distribution {
            Distribution::Uniform { min_ns, max_ns } => {
                let span = max_ns.saturating_sub(min_ns);
                min_ns + self.up_to(span)
            }
            Distribution::Fixed { ns } => ns,
            Distribution::Exponential { mean_ns } => self.exponential(mean_ns),
        }
    }

    /// Evenly distributed in `0..=max`: multiply-shift, with the uneven rest thrown away
    /// (Lemire, "Fast Random Integer Generation in an Interval", 2019).
    fn up_to(&mut self, max: u64) -> u64 {
        let Some(range) = max.checked_add(1) else { return self.next_u64() };
        let uneven = range.wrapping_neg() % range;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(range);
            if low_half(product) >= uneven {
                return high_half(product);
            }
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "53 bits are kept on purpose; the result is positive and `as` saturates"
    )]
    fn exponential(&mut self, mean_ns: u64) -> u64 {
        // In (0, 1]: the logarithm of 0 does not exist.
        let uniform = ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (-uniform.ln() * mean_ns as f64) as u64
    }

    /// xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators").
    fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }
}

fn low_half(value: u128) -> u64 {
    u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0)
}

fn high_half(value: u128) -> u64 {
    u64::try_from(value >> 64).unwrap_or(0)
}

/// What the state of SplitMix64 grows by from one number to the next.
pub const SPLITMIX64_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea and Flood, 2014): the next number; fills the state of the real generator.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(SPLITMIX64_GAMMA);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn draw(distribution: Distribution, seed: u64, thread: u32, count: usize) -> Vec<u64> {
        let mut pauses = Pauses::new(distribution, seed, thread);
        (0..count).map(|_| pauses.next_ns()).collect()
    }

    #[test]
    fn generators_give_their_published_numbers() {
        // splitmix64.c with seed 1234567, as its authors publish it.
        let mut state = 1_234_567;
        let numbers = [(); 3].map(|()| splitmix64(&mut state));
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
        // xoshiro256plusplus.c with state 1, 2, 3, 4: the first number is
        // rotl(1 + 4, 23) + 1.
        let fixed = Distribution::Fixed { ns: 0 };
        let mut pauses = Pauses { distribution: fixed, state: [1, 2, 3, 4] };
        let numbers = [(); 3].map(|()| pauses.next_u64());
        assert_eq!(numbers, [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn same_seed_same_pauses_and_threads_differ() {
        let uniform = Distribution::Uniform { min_ns: 0, max_ns: SECOND };
        assert_eq!(draw(uniform, 5, 3, 100), draw(uniform, 5, 3, 100));
        assert_ne!(draw(uniform, 5, 3, 100), draw(uniform, 5, 4, 100));
        assert_ne!(draw(uniform, 5, 3, 100), draw(uniform, 6, 3, 100));
        assert_ne!(draw(uniform, 5, 6, 100), draw(uniform, 6, 5, 100));
    }

    #[test]
    fn uniform_reaches_both_ends_and_no_further() {
        let seen = draw(Distribution::Uniform { min_ns: 10, max_ns: 13 }, 1, 0, 1000);
        for value in 10..=13 {
            let count = seen.iter().filter(|&&pause| pause == value).count();
            assert!((150..350).contains(&count), "{value}: {count}");
        }
        assert!(seen.iter().all(|pause| (10..=13).contains(pause)));
    }

    #[test]
    fn odd_ranges() {
        let all = Distribution::Uniform { min_ns: 0, max_ns: u64::MAX };
        assert!(draw(all, 1, 0, 100).iter().any(|&pause| pause > u64::MAX / 2));
        let turned = Distribution::Uniform { min_ns: 7, max_ns: 3 };
        assert_eq!(draw(turned, 1, 0, 2), [7, 7]);
        assert_eq!(draw(Distribution::Fixed { ns: 9 }, 1, 0, 2), [9, 9]);
        assert_eq!(draw(Distribution::Exponential { mean_ns: 0 }, 1, 0, 2), [0, 0]);
    }

    #[test]
    fn exponential_has_its_mean_and_its_tail() {
        let seen = draw(Distribution::Exponential { mean_ns: SECOND }, 1, 0, 100_000);
        let mean = seen.iter().sum::<u64>() / 100_000;
        assert!(mean.abs_diff(SECOND) < SECOND / 50, "{mean}");
        // P(x > mean) = 1/e.
        let above = seen.iter().filter(|&&pause| pause > SECOND).count();
        assert!(above.abs_diff(36_788) < 1000, "{above}");
    }
}
