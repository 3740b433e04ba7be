// SPDX-License-Identifier: Apache-2.0
//! The frequency of this machine's time-stamp counter, which is the emulated host's too: QEMU
//! passes the counter through.
//!
//! The emulated kernel must not find it out by itself: it counts against an emulated timer,
//! and on a busy machine it gives up. Then it keeps time by counting lost ticks, and its KVM,
//! without a frequency to give to guests, never enters one.

use std::time::Duration;

use gaps::tsc::bracket;

/// One sample of both clocks is as long as this; a thousandth of a per cent is plenty.
const SAMPLE: Duration = Duration::from_millis(20);

/// Frequency of the counter in kHz.
pub(super) fn khz() -> u64 {
    let (start_tsc, start_ns) = bracket(libc::CLOCK_MONOTONIC);
    std::thread::sleep(SAMPLE);
    let (end_tsc, end_ns) = bracket(libc::CLOCK_MONOTONIC);
    let ns = end_ns.saturating_sub(start_ns).max(1);
    // Ticks of a sleep of any length times a million stay far below 2^64 for an hour.
    end_tsc.wrapping_sub(start_tsc).saturating_mul(1_000_000) / ns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (first, second) = (khz(), khz());
        assert!(first > 500_000 && first < 10_000_000, "{first} kHz");
        assert!(first.abs_diff(second) < first / 1000, "{first} and {second} kHz");
    }
}
