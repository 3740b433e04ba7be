// SPDX-License-Identifier: Apache-2.0
//! The frequency of this machine's time-stamp counter, which is the emulated host's too: QEMU
//! passes the counter through.
//!
//! The emulated kernel must not find it out by itself: it counts against an emulated timer,
//! and on a busy machine it gives up. Then it keeps time by counting lost ticks, and its KVM,
//! without a frequency to give to guests, never enters one.

use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

/// One sample of both clocks is as long as this; a thousandth of a per cent is plenty.
const SAMPLE: Duration = Duration::from_millis(20);

/// Pairs of readings of which the tightest is taken: an interruption between the two clocks
/// spoils a pair.
const ATTEMPTS: u32 = 10;

/// Frequency of the counter in kHz.
pub(super) fn khz() -> u64 {
    let (start, start_tsc) = reading();
    std::thread::sleep(SAMPLE);
    let (end, end_tsc) = reading();
    let ns = u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX).max(1);
    // Ticks of a sleep of any length times a million stay far below 2^64 for an hour.
    end_tsc.wrapping_sub(start_tsc).saturating_mul(1_000_000) / ns
}

/// The same moment on both clocks.
fn reading() -> (Instant, u64) {
    let pair = || {
        // SAFETY: every x86-64 processor has the instruction.
        let before = unsafe { _rdtsc() };
        let now = Instant::now();
        // SAFETY: as above.
        let after = unsafe { _rdtsc() };
        let width = after.wrapping_sub(before);
        (width, now, before.wrapping_add(width / 2))
    };
    let tightest = (1..ATTEMPTS).fold(pair(), |best, _| {
        let next = pair();
        if next.0 < best.0 { next } else { best }
    });
    (tightest.1, tightest.2)
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
