// SPDX-License-Identifier: Apache-2.0
//! A histogram of fixed size over all of `u64`.
//!
//! Log-linear: 64 buckets for each power of two, so a bucket's upper bound is at most 1/64
//! (1.6 %) above any value in it, and values below 128 are exact. One thread counts; any
//! thread or process that shares the memory may read meanwhile.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// log2 of the number of buckets for one power of two.
const SUB_BITS: u32 = 6;

/// Buckets for one power of two.
const SUB_BUCKETS: usize = 1 << SUB_BITS;

/// One run of exact buckets for 0..64, then one run for each exponent from 6 to 63.
const BUCKETS: usize = SUB_BUCKETS * (64 - SUB_BITS as usize + 1);

/// Counts of values by size. All-zero memory is a valid, empty histogram.
#[derive(Debug)]
#[repr(C)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Histogram {
    /// Counts one value. Only one thread may do so at a time, or counts are lost.
    pub fn record(&self, value: u64) {
        self.add(bucket_of(value), 1);
    }

    /// Adds the counts of `other`.
    pub fn merge(&self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate() {
            self.add(bucket, count.load(Relaxed));
        }
    }

    /// One writer, so a load and a store do; a locked instruction would cost the meter dearly.
    fn add(&self, bucket: usize, count: u64) {
        if let Some(cell) = self.counts.get(bucket) {
            cell.store(cell.load(Relaxed).saturating_add(count), Relaxed);
        }
    }

    /// Non-empty buckets in rising order: largest value that falls in it, count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts
            .iter()
            .enumerate()
            .map(|(bucket, count)| (upper_bound(bucket), count.load(Relaxed)))
            .filter(|&(_, count)| count > 0)
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }

    /// Upper bound of the bucket in which the given share of all values is reached.
    ///
    /// `per_million` is 500 000 for the median. `None` for an empty histogram.
    pub fn percentile(&self, per_million: u32) -> Option<u64> {
        let wanted = u128::from(self.count()) * u128::from(per_million.min(1_000_000));
        let rank = wanted.div_ceil(1_000_000).max(1);
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += u128::from(count);
            (seen >= rank).then_some(bound)
        })
    }
}

/// Index of the bucket for a value.
fn bucket_of(value: u64) -> usize {
    let exponent = value.checked_ilog2().unwrap_or(0);
    let Some(shift) = exponent.checked_sub(SUB_BITS) else {
        // Below 64, which fits any usize.
        return usize::try_from(value).unwrap_or(0);
    };
    // 64..=127, whatever the exponent.
    let mantissa = usize::try_from(value >> shift).unwrap_or(0);
    shift as usize * SUB_BUCKETS + mantissa
}

/// Largest value that falls in a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let Some(shift) = (bucket / SUB_BUCKETS).checked_sub(1) else {
        return bucket as u64;
    };
    let mantissa = (SUB_BUCKETS + bucket % SUB_BUCKETS) as u64;
    // The last bucket's end is 2^64: its inclusive bound is what wraps to u64::MAX.
    ((u128::from(mantissa + 1) << shift) - 1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_whole_range() {
        let mut lowest: u128 = 0;
        for bucket in 0..BUCKETS {
            let first = u64::try_from(lowest).expect("buckets end with u64::MAX");
            assert_eq!(bucket_of(first), bucket, "first value {first}");
            assert_eq!(bucket_of(upper_bound(bucket)), bucket, "last of {bucket}");
            lowest = u128::from(upper_bound(bucket)) + 1;
        }
        assert_eq!(lowest, 1 << 64);
    }

    #[test]
    fn error_is_below_three_percent() {
        for value in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) + (1 << bit) / 3]) {
            let bound = upper_bound(bucket_of(value));
            assert!(bound >= value);
            assert!((bound - value).saturating_mul(100) <= value.saturating_mul(3), "{value}");
        }
    }

    #[test]
    fn counts_merges_and_iterates() {
        let (one, two) = (Histogram::default(), Histogram::default());
        for value in [0, 5, 5, 1_000_000, u64::MAX] {
            one.record(value);
        }
        two.record(5);
        one.merge(&two);
        let buckets: Vec<_> = one.buckets().collect();
        assert_eq!(buckets[..2], [(0, 1), (5, 3)]);
        assert_eq!(buckets[3], (u64::MAX, 1));
        assert_eq!(one.count(), 6);
    }

    #[test]
    fn percentiles() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentile(500_000), None);
        for value in 1..=100 {
            histogram.record(value);
        }
        assert_eq!(histogram.percentile(0), Some(1));
        assert_eq!(histogram.percentile(500_000), Some(50));
        assert_eq!(histogram.percentile(990_000), Some(99));
        assert_eq!(histogram.percentile(1_000_000), Some(100));
        assert_eq!(histogram.percentile(u32::MAX), Some(100));
    }
}
