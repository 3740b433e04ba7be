// SPDX-License-Identifier: Apache-2.0
//! Benchmarks of the product itself: booting against another virtual machine monitor, sending bulk
//! data, starting on this machine's own KVM, the meter against a bare reading of the counter,
//! reading a trace against trace-cmd, what tracing does to the gaps, the analysis of many gaps, and
//! machines in a machine. Two of its figures: those whose answer is known, and how far they spread. And
//! one of the source: how long a change in it takes to be tested.

pub mod analyse;
pub mod boot;
pub mod bulk;
mod contest;
pub mod edit_loop;
pub mod meter;
pub mod nested;
pub mod spread;
pub mod start;
pub mod trace;
pub mod tracing;
pub mod validity;

/// What benchmarks run inside the emulated host (`src/bin/bench-in-host.rs`), as it is there.
const IN_HOST: &str = "/bin/bench-in-host";

/// The middle one of some numbers; the mean of the two middle ones where their count is even.
fn median(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// A count or a time as a figure for a table.
#[allow(clippy::cast_precision_loss, reason = "figures for a table")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
