// SPDX-License-Identifier: Apache-2.0
//! Limits on figures of a run (`--fail-if`), and what the run comes to by them. As with a gap over the
//! threshold, a limit that is kept is kept for certain, and one is exceeded only where what the host
//! may have done cannot explain it; docs/method.md has the bounds.

use std::time::Duration;

use gaps::evidence::Class;
use gaps::stats::Distribution;
use results::metric::{Metric, Quantity};
use results::model::{
    Answer, ClassShare, LimitFinding, LimitOutcome, LocatedGap, ReasonCode, RunResult, Target,
};

use crate::doubt::{self, Doubt, Terms};
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

    /// As a user may write it.
    pub fn text(&self) -> String {
        let bound = match self.metric.quantity() {
            Quantity::LengthNs => format!("{:?}", Duration::from_secs_f64(self.bound / 1e9)),
            Quantity::Share => format!("{}%", 100.0 * self.bound),
        };
        format!("{} > {bound}", self.metric.name())
    }

    /// What a run that went to its end has of it.
    fn find(&self, result: &RunResult, on_hardware: bool) -> LimitFinding {
        let value = self.metric.of(result);
        let least = value.map(|value| least(self.metric, value, result, on_hardware));
        let outcome = match (value, least) {
            (Some(value), _) if value <= self.bound => LimitOutcome::Kept,
            (Some(_), Some(least)) if least > self.bound => LimitOutcome::Exceeded,
            (Some(_), _) => LimitOutcome::Doubtful,
            (None, _) => LimitOutcome::Unknown,
        };
        LimitFinding { metric: self.metric, bound: self.bound, value, least, outcome }
    }
}

/// Judges a run by these limits, as the result has it from then on.
pub fn judge(limits: &[Limit], terms: Terms, result: &mut RunResult, verdict: Verdict) -> Verdict {
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
    result.reason_stage = verdict.code.and(result.reason_stage).or(result.reason_stage);
    result.reason_code = verdict.code;
    result.notes.extend(verdict.note.clone());
    verdict
}

fn by_findings(terms: Terms, result: &RunResult, verdict: Verdict) -> Verdict {
    let of = |outcome| result.limits.iter().filter(move |it| it.outcome == outcome);
    let exceeded = said(of(LimitOutcome::Exceeded));
    let (doubtful, unknown) = (said(of(LimitOutcome::Doubtful)), said(of(LimitOutcome::Unknown)));
    let noise = result.noise_floors();
    let beyond = doubt::of_run(&result.steal, noise, terms.noise_budget, Duration::MAX)
        .filter(|_| !measures_the_machine(result));
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

/// The least that a figure can be, if all that may be the host's were taken from it.
fn least(metric: Metric, value: f64, result: &RunResult, on_hardware: bool) -> f64 {
    if measures_the_machine(result) {
        return value;
    }
    if metric == Metric::Longest {
        return result.longest_gap.map_or(value, |gap| as_float(net_ns(&gap, on_hardware)));
    }
    let figures = &result.statistics;
    let doubted = doubted(&figures.classes, result.target, on_hardware);
    if doubted.gaps == 0 {
        return value;
    }
    let doubted_ns = as_float(doubted.gap_ns);
    let of_wanted = doubted_ns / as_float(figures.wanted_ns.max(1));
    let least = match metric {
        Metric::WaitP50 => time_quantile(result, 0.5, doubted_ns),
        Metric::WaitP90 => time_quantile(result, 0.9, doubted_ns),
        Metric::WaitP99 => time_quantile(result, 0.99, doubted_ns),
        Metric::WaitP999 => time_quantile(result, 0.999, doubted_ns),
        Metric::WakeupP50 => wakeup_quantile(result, 0.5, doubted.gaps),
        Metric::WakeupP99 => wakeup_quantile(result, 0.99, doubted.gaps),
        Metric::WakeupP999 => wakeup_quantile(result, 0.999, doubted.gaps),
        // Told above.
        Metric::Longest => 0.0,
        // Each of them adds half of its square, and is no longer than the longest.
        Metric::MeanWait => value - of_wanted * as_float(result.longest_gap_ns.unwrap_or(0)) / 2.0,
        Metric::GapShare | Metric::ForcedIdle => value - of_wanted,
        Metric::Lag | Metric::WakeupMax => value - doubted_ns,
    };
    least.clamp(0.0, value)
}

/// Whether what the machine around it does is what is measured.
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
fn doubted(classes: &[ClassShare], target: Target, on_hardware: bool) -> ClassShare {
    let none = ClassShare { class: Class::Host, gaps: 0, gap_ns: 0, share: None };
    let may_be = |class| match class {
        Class::Host | Class::Unknown => true,
        Class::Irq => !(on_hardware && target == Target::Host),
        Class::ScheduledOut => false,
    };
    classes.iter().filter(|it| may_be(it.class)).fold(none, |sum, it| ClassShare {
        gaps: sum.gaps.saturating_add(it.gaps),
        gap_ns: sum.gap_ns.saturating_add(it.gap_ns),
        ..sum
    })
}

/// The quantile of the time in gaps, if those in doubt are the longest of all. A histogram has upper
/// bounds of lengths, at most 1/64 too high.
fn time_quantile(result: &RunResult, share: f64, doubted_ns: f64) -> f64 {
    let each = result.threads.iter().map(|thread| {
        Distribution::of_buckets_up_to(&thread.report.gap_histogram_ns, thread.longest_gap_ns)
    });
    let all = Distribution::merged(&each.collect::<Vec<_>>());
    let all_ns = as_float(u64::try_from(all.total_ns()).unwrap_or(u64::MAX));
    let kept = (1.0 - doubted_ns / all_ns.max(1.0)).max(0.0);
    all.time_quantile_ns(millionths(share * kept)).map_or(0.0, |ns| as_float(ns) * 63.0 / 64.0)
}

/// The quantile of wake-up delays, if those in doubt are the longest of all.
fn wakeup_quantile(result: &RunResult, share: f64, doubted: u64) -> f64 {
    let each = result.threads.iter().map(|thread| {
        let report = &thread.report;
        Distribution::of_buckets_up_to(&report.wakeup_histogram_ns, report.wakeup_longest_ns)
    });
    let all = Distribution::merged(&each.collect::<Vec<_>>());
    let kept = as_float(all.count().saturating_sub(doubted)) / as_float(all.count().max(1));
    if kept == 0.0 {
        return 0.0;
    }
    all.quantile_ns(millionths(share * kept)).map_or(0.0, |ns| as_float(ns) * 63.0 / 64.0)
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
