// SPDX-License-Identifier: Apache-2.0
//! Limits on figures of a run (`--fail-if`), and what the run comes to by them. As with a gap over the
//! threshold, a limit that is kept is kept for certain, and one is exceeded only where what the host
//! may have done cannot explain it; docs/method.md has the bounds.

use std::time::Duration;

use gaps::evidence::Class;
use gaps::stats::Distribution;
use protocol::duration::Written;
use results::metric::{Metric, Quantity};
use results::model::{
    Answer, FigureSource, LimitFinding, LimitOutcome, LocatedGap, ReasonCode, RunResult, Stage,
    Target,
};

use crate::doubt::{self, Doubt, Noise, Terms};
use crate::units::{self, as_ns, show_figure};
use crate::verdict::Verdict;

/// A run fails if this figure is above this value.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    metric: Metric,
    /// In nanoseconds, or of 1.
    bound: f64,
}

impl Limit {
    /// `wakeup-p99 > 5ms`, `forced-idle > 20%`.
    ///
    /// # Errors
    /// What is wrong, for clap to show beside the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('>').ok_or(
            "it needs the form FIGURE > VALUE, such as \"wakeup-p99 > 5ms\": of every figure, less \
             is better",
        )?;
        let (name, value) = (name.trim(), value.trim());
        let metric = Metric::named(&name.replace(['.', '_'], "-")).ok_or_else(|| {
            let known = Metric::ALL.map(Metric::name).join(", ");
            format!("there is no figure \"{name}\"; there are {known}")
        })?;
        let bound = match metric.quantity() {
            Quantity::LengthNs => units::duration(value).map(|bound| as_float(as_ns(bound))),
            Quantity::Share => units::percent(value),
        };
        let bound = bound.map_err(|why| format!("the value \"{value}\" of {name}: {why}"))?;
        Ok(Self { metric, bound })
    }

    /// As a user may write it: [`Limit::parse`] reads it again.
    pub fn text(&self) -> String {
        let bound = match self.metric.quantity() {
            Quantity::LengthNs => Written(units::whole_ns(self.bound)).to_string(),
            Quantity::Share => units::percent_text(self.bound),
        };
        format!("{} > {bound}", self.metric.name())
    }

    /// What a run that went to its end has of it.
    fn find(&self, result: &RunResult, on_hardware: bool) -> LimitFinding {
        let metric = self.metric;
        let value = metric.of(result);
        let bounds = value.map(|value| Bounds::of(metric, value, result, on_hardware));
        let least = bounds.map(|bounds| match metric {
            // What is shorter than the floor is no gap, and nobody has looked who made it.
            Metric::WakeupP50
            | Metric::WakeupP90
            | Metric::WakeupP99
            | Metric::WakeupP999
            | Metric::WakeupMax
                if self.bound < floor_ns(result) && !on_hardware =>
            {
                0.0
            }
            _ => bounds.least,
        });
        let outcome = match bounds {
            None => LimitOutcome::Unknown,
            Some(bounds) if bounds.most <= self.bound => LimitOutcome::Kept,
            Some(_) if least.is_some_and(|least| least > self.bound) => LimitOutcome::Exceeded,
            Some(_) => LimitOutcome::Doubtful,
        };
        LimitFinding { metric, bound: self.bound, value, least, outcome }
    }
}

fn floor_ns(result: &RunResult) -> f64 {
    as_float(as_ns(result.job.load.floor))
}

/// Judges a run by these limits, as the result has it from then on. It had come as far as `stage`.
pub fn judge(
    limits: &[Limit],
    terms: Terms,
    stage: Stage,
    result: &mut RunResult,
    verdict: Verdict,
) -> Verdict {
    let whole = matches!(verdict.answer, Answer::Pass | Answer::Measured);
    if limits.is_empty() || !whole {
        // Figures of a run that was ended at an extreme, or not measured, have no limit.
        return verdict;
    }
    result.limits = limits.iter().map(|it| it.find(result, terms.on_hardware)).collect();
    let verdict = by_findings(terms, result, verdict);
    result.verdict = verdict.answer;
    result.exit_status = Some(verdict.status().code());
    result.reason.clone_from(&verdict.reason);
    (result.reason_code, result.reason_stage) = (verdict.code, verdict.code.map(|_| stage));
    result.notes.extend(verdict.note.clone());
    verdict
}

fn by_findings(terms: Terms, result: &RunResult, verdict: Verdict) -> Verdict {
    let of = |outcome| result.limits.iter().filter(move |it| it.outcome == outcome);
    let exceeded = said(of(LimitOutcome::Exceeded));
    let (doubtful, unknown) = (said(of(LimitOutcome::Doubtful)), said(of(LimitOutcome::Unknown)));
    let beyond = beyond(terms, result, of(LimitOutcome::Exceeded));
    match beyond {
        _ if exceeded.is_empty() => {}
        None => return Verdict::new(Answer::OverLimit, ReasonCode::OverLimit, exceeded),
        Some(doubt) if terms.report_contaminated => {
            let note = format!(
                "what is over a limit may be the host's, and counts as --on-contaminated report \
                 says: {}",
                doubt.remark()
            );
            let over = Verdict::new(Answer::OverLimit, ReasonCode::OverLimit, exceeded);
            return Verdict { note: Some(note), ..over };
        }
        Some(doubt) => return untestable(doubt.code(), &exceeded, &doubt.remark()),
    }
    if !doubtful.is_empty() {
        return untestable(ReasonCode::HostTook, &doubtful, "the host, or nobody known, took it");
    }
    if unknown.is_empty() {
        return Verdict { answer: Answer::Pass, ..verdict };
    }
    let reason = format!(
        "this run does not tell {unknown}: measure longer, or with a load and a kernel that have it"
    );
    Verdict::new(Answer::Untestable, ReasonCode::FigureUnknown, reason)
}

/// Why what is over these limits may be the host's in all of the run.
fn beyond<'a>(
    terms: Terms,
    result: &RunResult,
    exceeded: impl Iterator<Item = &'a LimitFinding>,
) -> Option<Doubt> {
    if result.job.meter.is_some() {
        return None;
    }
    // A gap of that size without a load says that no scheduler is needed for one.
    let lengths = exceeded.filter(|it| it.metric.quantity() == Quantity::LengthNs);
    let shortest_ns = lengths.map(|it| it.bound).fold(f64::INFINITY, f64::min);
    let size = Duration::try_from_secs_f64(shortest_ns / 1e9).unwrap_or(Duration::MAX);
    doubt::of_run(&result.steal, Noise::of(result), terms.noise_budget, size)
}

fn untestable(code: ReasonCode, what: &str, why: &str) -> Verdict {
    let advice = if code.is_budget() { ", or let it count (--on-contaminated report)" } else { "" };
    let reason =
        format!("{what}, which may be the host's: {why}; repeat the run on a quieter host{advice}");
    Verdict::new(Answer::Untestable, code, reason)
}

/// What these figures come to, in words.
pub fn said<'a>(findings: impl IntoIterator<Item = &'a LimitFinding>) -> String {
    findings.into_iter().map(say).collect::<Vec<_>>().join("; ")
}

/// `wakeup-p99 is 7.2 ms, over 5.0 ms`.
fn say(finding: &LimitFinding) -> String {
    let name = finding.metric.name();
    let show = |value| show_figure(finding.metric.quantity(), value);
    let (value, bound) = (finding.value.map(show), show(finding.bound));
    match (finding.outcome, value, finding.least.map(show)) {
        (_, None, _) => format!("{name} (which may be {bound})"),
        (LimitOutcome::Doubtful, Some(value), Some(least)) => {
            format!("{name} is {value}, over {bound}, and may be no more than {least}")
        }
        (LimitOutcome::Kept, Some(value), _) => format!("{name} is {value}, not over {bound}"),
        (_, Some(value), _) => format!("{name} is {value}, over {bound}"),
    }
}

/// Between what a figure is, whatever of the gaps that may be the host's is taken from it.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    least: f64,
    most: f64,
}

impl Bounds {
    fn of(metric: Metric, value: f64, result: &RunResult, on_hardware: bool) -> Self {
        if measures_the_machine(result) {
            let longest = result.longest_gap.filter(|_| metric == Metric::Longest);
            let of_machines = longest.filter(|_| result.job.meter.is_none());
            let least = of_machines.map_or(value, |gap| as_float(net_ns(&gap, on_hardware)));
            return Self { least, most: value };
        }
        let doubted = Doubted::of(result, on_hardware);
        let least = least(metric, value, result, &doubted, on_hardware);
        let all = gaps(result);
        // Many short gaps make a quantile a shorter one.
        let longer = match quantile_of(metric) {
            Some((Of::TimeInGaps, share)) if doubted.ns > 0.0 => {
                let part = (doubted.ns / total_ns(&all)).min(1.0);
                all.time_quantile_ns(millionths(part + share * (1.0 - part)))
            }
            Some((Of::Gaps, share)) if doubted.count > 0.0 => {
                let part = (doubted.count / as_float(all.count().max(1))).min(1.0);
                all.quantile_ns(millionths(part + share * (1.0 - part)))
            }
            _ => None,
        };
        let most = longer.map_or_else(|| undiluted(metric, value, result, &doubted), as_float);
        Self { least: least.clamp(0.0, value), most: most.max(value) }
    }
}

/// What a figure that is told per time in which threads wanted to run may be without the host. Work
/// that arrives at times of its own waits for as long as the host takes, so that the host adds to that
/// time, and many gaps of its own that are short make the figure a smaller one. A burst has a length
/// that the host does not change. The share of gaps is no greater without: what goes is a gap, and as much
/// goes from both sides of it.
fn undiluted(metric: Metric, value: f64, result: &RunResult, doubted: &Doubted) -> f64 {
    let arrives = result.job.load.groups.iter().any(|group| group.arrival.is_some());
    if !arrives || doubted.ns == 0.0 {
        return value;
    }
    let wanted_ns = as_float(result.statistics.wanted_ns);
    let without_ns = wanted_ns - doubted.ns * doubted.sharers;
    match metric {
        Metric::MeanWait | Metric::WaitOver10Ms if without_ns > 0.0 => {
            value * wanted_ns / without_ns
        }
        Metric::MeanWait | Metric::WaitOver10Ms => f64::INFINITY,
        // Of all moments, those that the host added may be the best ones.
        Metric::LagP99 => Metric::LagMax.of(result).unwrap_or(value),
        _ => value,
    }
}

/// What a quantile is of.
#[derive(Clone, Copy)]
enum Of {
    TimeInGaps,
    Gaps,
    Wakeups,
}

/// Of which quantile a figure is.
fn quantile_of(metric: Metric) -> Option<(Of, f64)> {
    Some(match metric {
        Metric::WaitP50 => (Of::TimeInGaps, 0.5),
        Metric::WaitP90 => (Of::TimeInGaps, 0.9),
        Metric::WaitP99 => (Of::TimeInGaps, 0.99),
        Metric::WaitP999 => (Of::TimeInGaps, 0.999),
        Metric::GapP50 => (Of::Gaps, 0.5),
        Metric::GapP99 => (Of::Gaps, 0.99),
        Metric::WakeupP50 => (Of::Wakeups, 0.5),
        Metric::WakeupP90 => (Of::Wakeups, 0.9),
        Metric::WakeupP99 => (Of::Wakeups, 0.99),
        Metric::WakeupP999 => (Of::Wakeups, 0.999),
        _ => return None,
    })
}

fn least(
    metric: Metric,
    value: f64,
    result: &RunResult,
    doubted: &Doubted,
    on_hardware: bool,
) -> f64 {
    if let Some((of, share)) = quantile_of(metric) {
        return match of {
            Of::TimeInGaps => time_quantile(result, share, value, doubted),
            Of::Gaps => gap_quantile(result, share, value, doubted),
            Of::Wakeups => wakeup_quantile(result, share, doubted),
        };
    }
    let figures = &result.statistics;
    let queued_ns = doubted.ns * doubted.sharers;
    match metric {
        Metric::Longest => {
            result.longest_gap.map_or(value, |gap| as_float(net_ns(&gap, on_hardware)))
        }
        // Each of them adds half of its square, and is no longer than the longest.
        Metric::MeanWait => {
            let exact = figures.source == FigureSource::Records;
            let value = if exact { value } else { value * BUCKET * BUCKET };
            let longest_ns = as_float(result.longest_gap_ns.unwrap_or(0));
            value - queued_ns / as_float(figures.wanted_ns.max(1)) * longest_ns / 2.0
        }
        // It is the host's.
        Metric::Steal => 0.0,
        Metric::GapShare | Metric::WaitOver10Ms => {
            value - queued_ns / as_float(figures.wanted_ns.max(1))
        }
        Metric::ForcedIdle => {
            let cpus = as_float(result.job.load.cpus.len() as u64);
            value - queued_ns / (cpus * as_float(result.measured_ns.unwrap_or(0).max(1)))
        }
        _ => value - queued_ns,
    }
}

/// Whether the gaps are those that the machine around makes, which is what is measured.
fn measures_the_machine(result: &RunResult) -> bool {
    result.target == Target::Nested || result.job.meter.is_some()
}

/// What of a gap is the kernel's for certain.
fn net_ns(gap: &LocatedGap, on_hardware: bool) -> u64 {
    match doubt::of_gap(gap, Duration::ZERO, on_hardware) {
        Some(Doubt::HostUnknown(_)) => 0,
        _ => gap.length_ns.saturating_sub(gap.host_ns.unwrap_or(gap.host_known_ns)),
    }
}

/// All gaps that may be the host's by their class.
struct Doubted {
    count: f64,
    ns: f64,
    /// So many threads wait for a CPU where one of them has such a gap.
    sharers: f64,
}

impl Doubted {
    fn of(result: &RunResult, on_hardware: bool) -> Self {
        let load = &result.job.load;
        let may_be = |class| match class {
            Class::Host | Class::Unknown => true,
            Class::Irq => !on_hardware,
            Class::ScheduledOut => false,
        };
        let found = result.statistics.classes.iter().filter(|it| may_be(it.class));
        let (count, ns) = found.fold((0u64, 0u64), |(count, ns), it| {
            (count.saturating_add(it.gaps), ns.saturating_add(it.gap_ns))
        });
        let sharers = load.threads().div_ceil(load.cpus.len().max(1)).max(1);
        Self { count: as_float(count), ns: as_float(ns), sharers: as_float(sharers as u64) }
    }
}

/// A length that is told as the upper bound of its bucket is at least this part of it.
const BUCKET: f64 = 63.0 / 64.0;

/// All gaps of a run, as histograms have them.
fn gaps(result: &RunResult) -> Distribution {
    let each = result.threads.iter().map(|thread| {
        Distribution::of_buckets_up_to(&thread.report.gap_histogram_ns, thread.longest_gap_ns)
    });
    Distribution::merged(&each.collect::<Vec<_>>())
}

fn total_ns(gaps: &Distribution) -> f64 {
    as_float(u64::try_from(gaps.total_ns()).unwrap_or(u64::MAX).max(1))
}

/// The quantile of the time in gaps, if those in doubt, and what was queued behind them, are the
/// longest of all.
fn time_quantile(result: &RunResult, share: f64, value: f64, doubted: &Doubted) -> f64 {
    if doubted.count == 0.0 && result.statistics.source == FigureSource::Records {
        return value;
    }
    let all = gaps(result);
    let kept = (1.0 - doubted.ns * doubted.sharers / (total_ns(&all) * BUCKET)).max(0.0);
    let shorter = all.time_quantile_ns(millionths(share * kept * BUCKET));
    if kept == 0.0 { 0.0 } else { shorter.map_or(0.0, |ns| as_float(ns) * BUCKET) }
}

/// The quantile of lengths of gaps, if those in doubt, and one of each other thread behind each of them,
/// are the longest of all.
fn gap_quantile(result: &RunResult, share: f64, value: f64, doubted: &Doubted) -> f64 {
    if doubted.count == 0.0 && result.statistics.source == FigureSource::Records {
        return value;
    }
    let all = gaps(result);
    let late = doubted.count * doubted.sharers / as_float(all.count().max(1));
    let rest = (share - late).max(0.0);
    let shorter = all.quantile_ns(millionths(rest));
    if rest == 0.0 { 0.0 } else { shorter.map_or(0.0, |ns| as_float(ns) * BUCKET) }
}

/// The quantile of wake-up delays, if those that may be late by a gap in doubt are the latest of all:
/// one of each thread that shares its CPU, or all that came meanwhile.
fn wakeup_quantile(result: &RunResult, share: f64, doubted: &Doubted) -> f64 {
    let each = result.threads.iter().map(|thread| {
        let report = &thread.report;
        Distribution::of_buckets_up_to(&report.wakeup_histogram_ns, report.wakeup_longest_ns)
    });
    let all = Distribution::merged(&each.collect::<Vec<_>>());
    let arrivals = result.job.load.groups.iter().filter_map(|group| group.arrival);
    let closest_ns = arrivals.map(|it| as_float(as_ns(it.mean()))).fold(f64::INFINITY, f64::min);
    let late = doubted.sharers * (doubted.count + doubted.ns / closest_ns);
    // They would have been the soonest.
    let rest = (share - late / as_float(all.count().max(1))).max(0.0);
    let sooner = all.quantile_ns(millionths(rest));
    if rest == 0.0 { 0.0 } else { sooner.map_or(0.0, |ns| as_float(ns) * BUCKET) }
}

/// Rounded down: a quantile of less.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of one")]
fn millionths(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * 1e6) as u32
}

/// Lengths up to 104 days are exact.
#[allow(clippy::cast_precision_loss)]
fn as_float(ns: u64) -> f64 {
    ns as f64
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
