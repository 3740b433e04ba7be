// SPDX-License-Identifier: Apache-2.0
//! How far a thread fell behind, within a window of time.

use crate::record::GapRecord;
use crate::tsc::{ns_to_ticks, ticks_to_ns};

/// The most time in gaps within any window of this length, in ticks. `gaps` do not overlap and
/// rise.
///
/// The sum over a window that slides is largest where the window begins with a gap or ends
/// with one, so only these windows are looked at: linear in the number of gaps.
pub fn most_in_window(gaps: &[GapRecord], window_ticks: u64) -> u64 {
    let beginning = sweep(gaps.iter().map(interval), window_ticks);
    // A window that ends with a gap is one that begins with it on a clock that runs backwards.
    let mirrored = gaps.iter().rev().map(|gap| {
        let (begin, end) = interval(gap);
        (u64::MAX - end, u64::MAX - begin)
    });
    beginning.max(sweep(mirrored, window_ticks))
}

fn interval(gap: &GapRecord) -> (u64, u64) {
    (gap.tsc_begin, gap.tsc_end.max(gap.tsc_begin))
}

/// The largest sum over windows that begin with a gap.
fn sweep(gaps: impl Iterator<Item = (u64, u64)> + Clone, window: u64) -> u64 {
    let mut ahead = gaps.clone().peekable();
    // Gaps from the window's first on that lie wholly in it.
    let (mut inside, mut most) = (0u64, 0u64);
    for (begin, end) in gaps {
        let window_end = begin.saturating_add(window);
        while let Some((first, last)) = ahead.next_if(|&(_, last)| last <= window_end) {
            inside = inside.saturating_add(last - first);
        }
        let cut = ahead.peek().map_or(0, |&(first, _)| window_end.saturating_sub(first));
        most = most.max(inside.saturating_add(cut));
        if end <= window_end {
            inside = inside.saturating_sub(end - begin);
        } else {
            // Longer than the window, so it was never inside, and is next in line still.
            ahead.next();
        }
    }
    most
}

/// The most that a thread fell behind its fair share within any window of this length.
///
/// A fair scheduler leaves a thread that always wants to run without the CPU for
/// `1 - fair_share` of the time; what is above that, in some window, is lag.
pub fn largest_lag_ns(gaps: &[GapRecord], tsc_khz: u64, window_ns: u64, fair_share: f64) -> u64 {
    let due = (super::real(window_ns) * (1.0 - fair_share.clamp(0.0, 1.0))).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the window, which is a u64"
    )]
    let due = due as u64;
    let most = most_in_window(gaps, ns_to_ticks(window_ns, tsc_khz));
    ticks_to_ns(most, tsc_khz).saturating_sub(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(intervals: &[(u64, u64)]) -> Vec<GapRecord> {
        let gap = |&(tsc_begin, tsc_end)| GapRecord { tsc_begin, tsc_end, ..GapRecord::default() };
        intervals.iter().map(gap).collect()
    }

    #[test]
    fn windows_at_both_ends_of_a_gap() {
        let gaps = gaps(&[(0, 10), (15, 20), (100, 130)]);
        assert_eq!(most_in_window(&gaps, 20), 20);
        assert_eq!(most_in_window(&gaps, 10), 10);
        assert_eq!(most_in_window(&gaps, 50), 30);
        assert_eq!(most_in_window(&gaps, 115), 35);
        assert_eq!(most_in_window(&gaps, 1000), 45);
        assert_eq!(most_in_window(&gaps, u64::MAX), 45);
        assert_eq!(most_in_window(&[], 10), 0);
        assert_eq!(most_in_window(&gaps, 0), 0);
    }

    #[test]
    fn lag_is_what_the_fair_share_does_not_explain() {
        // Every other millisecond, as two threads on one CPU should; then 5 ms in a row.
        let ms = 1_000_000;
        // Two ticks are a nanosecond.
        let khz = 2_000_000;
        let mut intervals: Vec<_> = (0..100).map(|n| (4 * n * ms, (4 * n + 2) * ms)).collect();
        assert_eq!(largest_lag_ns(&gaps(&intervals), khz, 100 * ms, 0.5), 0);
        intervals.push((402 * ms, 412 * ms));
        let gaps = gaps(&intervals);
        assert_eq!(largest_lag_ns(&gaps, khz, 5 * ms, 0.5), 2_500_000);
        assert_eq!(largest_lag_ns(&gaps, khz, 5 * ms, 1.0), 5 * ms);
        assert_eq!(largest_lag_ns(&gaps, khz, 5 * ms, 0.0), 0);
        assert_eq!(largest_lag_ns(&gaps, 0, 5 * ms, 1.0), 0);
    }
}
