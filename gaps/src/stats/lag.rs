// SPDX-License-Identifier: Apache-2.0
//! How far a thread fell behind, within a window of time.

/// An interval in which the thread did not run, in nanoseconds on any clock.
pub type Interval = (u64, u64);

/// The most time in gaps within any window of this length. `gaps` do not overlap and rise.
///
/// The sum over a window that slides is largest where the window begins with a gap or ends
/// with one, so only these windows are looked at: linear in the number of gaps.
pub fn most_in_window(gaps: &[Interval], window_ns: u64) -> u64 {
    let beginning = sweep(gaps.iter().copied(), window_ns);
    // A window that ends with a gap is one that begins with it on a clock that runs backwards.
    let mirrored = gaps.iter().rev().map(|&(begin, end)| (u64::MAX - end, u64::MAX - begin));
    beginning.max(sweep(mirrored, window_ns))
}

/// The largest sum over windows that begin with a gap.
fn sweep(gaps: impl Iterator<Item = Interval> + Clone, window_ns: u64) -> u64 {
    let mut ahead = gaps.clone().peekable();
    // Gaps from the window's first on that lie wholly in it.
    let (mut inside, mut most) = (0u64, 0u64);
    for (begin, end) in gaps {
        let window_end = begin.saturating_add(window_ns);
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
pub fn largest_lag_ns(gaps: &[Interval], window_ns: u64, fair_share: f64) -> u64 {
    let due = (super::real(window_ns) * (1.0 - fair_share.clamp(0.0, 1.0))).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the window, which is a u64"
    )]
    let due = due as u64;
    most_in_window(gaps, window_ns).saturating_sub(due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_at_both_ends_of_a_gap() {
        let gaps = [(0, 10), (15, 20), (100, 130)];
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
        let mut gaps: Vec<_> = (0..100).map(|n| (2 * n * ms, (2 * n + 1) * ms)).collect();
        assert_eq!(largest_lag_ns(&gaps, 100 * ms, 0.5), 0);
        gaps.push((201 * ms, 206 * ms));
        assert_eq!(largest_lag_ns(&gaps, 5 * ms, 0.5), 2_500_000);
        assert_eq!(largest_lag_ns(&gaps, 5 * ms, 1.0), 5 * ms);
        assert_eq!(largest_lag_ns(&gaps, 5 * ms, 0.0), 0);
    }
}
