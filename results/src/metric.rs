// SPDX-License-Identifier: Apache-2.0
//! Figures of a run by which it is judged and kernels are compared.

use std::collections::BTreeMap;

use crate::model::{Answer, RunResult, Summary};
pub use crate::model::{Metric, Quantity};

impl Metric {
    /// All that a run tells.
    pub fn all_of(result: &RunResult) -> BTreeMap<Self, f64> {
        Self::ALL.into_iter().filter_map(|metric| Some((metric, metric.of(result)?))).collect()
    }

    /// All, whether a run tells them or not.
    pub fn summary(result: &RunResult) -> Summary {
        Summary(Self::ALL.into_iter().map(|metric| (metric, metric.of(result))).collect())
    }

    /// It of a run; `None` where the run does not tell.
    pub fn of(self, result: &RunResult) -> Option<f64> {
        let figures = &result.statistics;
        match self {
            // Nothing is the best that there is.
            Self::WaitP50
            | Self::WaitP90
            | Self::WaitP99
            | Self::WaitP999
            | Self::GapP50
            | Self::GapP99
            | Self::Longest
                if has_no_gap(result) =>
            {
                Some(0.0)
            }
            Self::WaitP99 => figures.time_quantiles?.p99_ns.map(as_float),
            Self::WaitP50 => figures.time_quantiles?.p50_ns.map(as_float),
            Self::MeanWait => figures.mean_wait_ns,
            Self::GapShare => figures.gap_share,
            Self::Longest => result.longest_gap_ns.map(as_float),
            Self::WaitP90 => figures.time_quantiles?.p90_ns.map(as_float),
            Self::WaitP999 => figures.time_quantiles?.p999_ns.map(as_float),
            Self::WakeupP99 => figures.wakeup?.p99_ns.map(as_float),
            Self::WakeupP50 => figures.wakeup?.p50_ns.map(as_float),
            Self::WakeupP999 => figures.wakeup?.p999_ns.map(as_float),
            Self::WakeupMax => {
                // One that has not come at the end is so late at least.
                let each = result
                    .threads
                    .iter()
                    .map(|it| it.report.wakeup_longest_ns.max(it.report.wakeup_due_ns));
                each.max().filter(|late_ns| figures.wakeup.is_some() || *late_ns > 0).map(as_float)
            }
            Self::Lag => figures.largest_lag.iter().map(|lag| lag.lag_ns).max().map(as_float),
            Self::ForcedIdle => result.forced_idle.share.filter(|_| result.core_figures.measured),
            Self::LagMax => result.service_lag.in_a_second().map(|lag| as_float(lag.max_ns)),
            Self::LagP99 => result.service_lag.in_a_second().map(|lag| as_float(lag.p99_ns)),
            Self::WakeupP90 => figures.wakeup?.p90_ns.map(as_float),
            Self::GapP50 => figures.quantiles?.p50_ns.map(as_float),
            Self::GapP99 => figures.quantiles?.p99_ns.map(as_float),
            Self::WaitOver10Ms => {
                let point = figures.wait_exceeds.iter().find(|point| point.wait_ns == 10_000_000);
                point.map(|point| point.probability)
            }
            Self::Steal => result.steal.share,
        }
    }
}

/// It measured to its end, and nobody waited.
fn has_no_gap(result: &RunResult) -> bool {
    let whole = match result.verdict {
        Answer::Pass | Answer::Measured | Answer::OverLimit => true,
        // Only such runs are judged by limits.
        Answer::Untestable => !result.limits.is_empty(),
        _ => false,
    };
    whole && result.longest_gap_ns.is_none() && result.statistics.time_quantiles.is_none()
}

/// Lengths up to 104 days are exact.
#[allow(clippy::cast_precision_loss)]
fn as_float(ns: u64) -> f64 {
    ns as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn figures_are_the_results_own() {
        let mut result = testing::result("user");
        let found = Metric::Longest.of(&result).expect("a longest gap");
        assert_eq!(found.to_string(), result.longest_gap_ns.expect("one").to_string());
        let quantiles = result.statistics.time_quantiles.expect("gaps");
        let p50 = quantiles.p50_ns.map(|ns| ns.to_string());
        assert_eq!(Metric::WaitP50.of(&result).map(|ns| ns.to_string()), p50);
        assert_eq!(Metric::GapShare.of(&result), result.statistics.gap_share);
        result.forced_idle.share = Some(0.25);
        result.core_figures.measured = true;
        assert_eq!(Metric::ForcedIdle.of(&result), Some(0.25));
        result.core_figures.measured = false;
        assert_eq!(Metric::ForcedIdle.of(&result), None, "an emulated core has no such figure");
        result.statistics.time_quantiles = None;
        assert_eq!(Metric::WaitP99.of(&result), None);
        // Nobody waited at all; or nobody knows.
        (result.longest_gap_ns, result.verdict) = (None, Answer::Measured);
        assert_eq!(Metric::WaitP99.of(&result), Some(0.0));
        assert_eq!(Metric::Longest.of(&result), Some(0.0));
        result.verdict = Answer::OverLimit;
        assert_eq!(Metric::Longest.of(&result), Some(0.0), "another figure was over its limit");
        result.verdict = Answer::Untestable;
        assert_eq!(Metric::Longest.of(&result), None);
        // A wake-up that never came is the latest of all.
        result.threads[0].report.wakeup_due_ns = 9_000_000_000;
        assert_eq!(Metric::WakeupMax.of(&result), Some(9e9));
    }
}
