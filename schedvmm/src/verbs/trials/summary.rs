// SPDX-License-Identifier: Apache-2.0
//! What trials come to: intervals that assume no distribution.

use decision::interval::{Median, Share};
use results::metric::Metric;
use results::model::ReasonCode;
use results::trials::{Attempt, Conditions, MetricSummary, OverThreshold, State, Summary, Trials};

use crate::units::as_ns;

/// Of all intervals of one kernel's trials.
pub const CONFIDENCE: f64 = 0.95;

/// Of the trials that count so far.
pub fn of(trials: &Trials) -> Summary {
    let measured: Vec<_> = trials.measured().collect();
    Summary {
        measured: count(&measured),
        contaminated: trials.count(State::Contaminated),
        over_threshold: over_threshold(trials, &measured),
        metrics: Metric::SHOWN.into_iter().filter_map(|metric| median(metric, &measured)).collect(),
    }
}

fn over_threshold(trials: &Trials, measured: &[&Attempt]) -> Option<OverThreshold> {
    let Conditions { job, limits, .. } = &trials.conditions;
    let threshold_ns = job.load.threshold.map(as_ns);
    if threshold_ns.is_none() && limits.is_empty() {
        return None;
    }
    let hits = hits(measured.iter().copied());
    let undecided = measured.iter().filter(|it| it.is_undecided()).count();
    let undecided = u32::try_from(undecided).unwrap_or(u32::MAX);
    let answered = count(measured) - undecided;
    let share = Share::new(hits.into(), answered.into())?;
    // One that was contaminated and had a gap over the threshold has no answer of its own.
    let contaminated = trials.attempts.iter().filter(|it| it.state == State::Contaminated);
    let doubted = contaminated
        .filter(|it| it.failed() || it.reason_code.is_some_and(ReasonCode::is_doubt))
        .count();
    let doubted = u32::try_from(doubted).unwrap_or(u32::MAX).saturating_add(undecided);
    (share.trials > 0).then(|| OverThreshold {
        threshold_ns,
        limits: limits.clone(),
        hits,
        trials: answered,
        interval: share.interval(CONFIDENCE),
        at_most: share.at_most(CONFIDENCE),
        with_contaminated: (
            hits.saturating_add(doubted),
            count(measured).saturating_add(trials.count(State::Contaminated)),
        ),
    })
}

/// A figure of those that count.
pub fn of_metric(trials: &Trials, metric: Metric) -> Option<MetricSummary> {
    median(metric, &trials.measured().collect::<Vec<_>>())
}

/// A run that ended at a gap over the threshold has figures of the time until then: only its longest
/// gap says something of a whole run, which is that it would have had one of at least that length.
fn median(metric: Metric, measured: &[&Attempt]) -> Option<MetricSummary> {
    let values: Vec<_> = measured
        .iter()
        .filter(|attempt| metric == Metric::Longest || !attempt.over_threshold)
        .filter_map(|attempt| attempt.metrics.get(&metric).copied())
        .collect();
    let trials = u32::try_from(values.len()).unwrap_or(u32::MAX);
    Some(MetricSummary { metric, trials, median: Median::new(&values, CONFIDENCE)? })
}

fn hits<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> u32 {
    u32::try_from(attempts.filter(|it| it.failed()).count()).unwrap_or(u32::MAX)
}

fn count(attempts: &[&Attempt]) -> u32 {
    u32::try_from(attempts.len()).unwrap_or(u32::MAX)
}
