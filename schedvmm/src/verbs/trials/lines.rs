// SPDX-License-Identifier: Apache-2.0
//! What is seen of trials: a line each, and a table at the end.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use results::metric::Metric;
use results::trials::{Attempt, Ended, MetricSummary, OverThreshold, State, Summary, Trials};

use super::series::Series;
use super::summary;
use crate::terminal::one_line;
use crate::units::show_figure;

/// Before the first trial.
pub fn first(series: &Series) -> String {
    let Series { trials, folder, .. } = series;
    let folder = folder.display();
    let done = trials.count(State::Measured);
    let found = match done {
        0 => String::new(),
        _ => format!(", {done} are there"),
    };
    format!(
        "{} trials of {}, seed {}, in {folder}{found}\n(called again with --output {folder} it goes \
         on where it was ended)",
        trials.planned,
        trials.conditions.kernel.path.display(),
        trials.conditions.seed,
    )
}

/// After an attempt: what it found, what is known so far, and the time to go.
pub fn attempt(series: &Series) -> String {
    let trials = &series.trials;
    let Some(last) = trials.attempts.last() else { return String::new() };
    let mut text = format!("trial {:>3} of {}  ", last.trial, trials.planned);
    if last.state == State::Measured {
        let _ = write!(text, "{}", found(last));
        let summary = summary::of(trials);
        if let Some(over) = &summary.over_threshold {
            let _ = write!(text, "  {}", over_so_far(over));
        }
        let known = summary.metrics.iter().find(|it| it.metric == Metric::Longest);
        if let Some(longest) = known {
            let _ =
                write!(text, "  median longest {}", show(longest.metric, longest.median.median));
        }
    } else {
        let _ = write!(text, "{}: {}", state(last.state), one_line(&last.why));
        let again = trials.ended.is_none();
        text += if again { "; again with the same seed" } else { "" };
    }
    if let Some(left) = series.time_to_go().filter(|left| !left.is_zero() && trials.ended.is_none())
    {
        let _ = write!(text, "  {} to go", show_time(left));
    }
    text
}

/// What a trial found, of fixed width.
fn found(attempt: &Attempt) -> String {
    let over = if attempt.failed() { " OVER" } else { "" };
    format!(
        "longest {:>9}  {} {:>9}{over}",
        figure(attempt, Metric::Longest),
        Metric::WaitP99.name(),
        figure(attempt, Metric::WaitP99)
    )
}

fn figure(attempt: &Attempt, metric: Metric) -> String {
    attempt.metrics.get(&metric).map_or_else(|| "-".to_owned(), |value| show(metric, *value))
}

/// `0 of 3 over (at most 63 %)`.
fn over_so_far(over: &OverThreshold) -> String {
    format!("{} of {} over ({})", over.hits, over.trials, bounds(over))
}

/// The bound in words: one-sided where there was none, else both.
fn bounds(over: &OverThreshold) -> String {
    match over.hits {
        0 => format!("at most {}", percent(over.at_most)),
        _ => format!("{} to {}", percent(over.interval.low), percent(over.interval.high)),
    }
}

/// A state as words.
pub fn state(state: State) -> &'static str {
    match state {
        State::Running => "goes on",
        State::Measured => "measured",
        State::Contaminated => "contaminated",
        State::Untestable => "untestable",
        State::Interrupted => "interrupted",
        State::CutOff => "cut off",
        State::Unpaired => "without their pair",
        State::Failed => "failed",
    }
}

/// The table at the end.
pub fn table(trials: &Trials, folder: &Path) -> String {
    let summary = summary::of(trials);
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_table(&mut text, trials, &summary);
    let _ = write!(text, "{:<9} {}", "trials in", folder.display());
    text
}

fn write_table(text: &mut String, trials: &Trials, summary: &Summary) -> std::fmt::Result {
    writeln!(text, "\n{:<12} {:>10}   {:<26} trials", "", "median", "95 % interval")?;
    for metric in &summary.metrics {
        let MetricSummary { metric, trials, median } = metric;
        let interval = median.interval.map_or_else(
            || "too few trials (6 needed)".to_owned(),
            |it| format!("{} to {}", show(*metric, it.low), show(*metric, it.high)),
        );
        writeln!(
            text,
            "{:<12} {:>10}   {interval:<26} {trials:>6}",
            metric.name(),
            show(*metric, median.median)
        )?;
    }
    writeln!(text)?;
    for (name, value) in facts_of(trials, summary) {
        writeln!(text, "{name:<9} {value}")?;
    }
    Ok(())
}

/// What is to be said beside the figures.
pub fn facts(trials: &Trials) -> Vec<(&'static str, String)> {
    facts_of(trials, &summary::of(trials))
}

fn facts_of(trials: &Trials, summary: &Summary) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut measured = format!("{} of {} measured", summary.measured, trials.planned);
    let others = [
        State::Contaminated,
        State::Untestable,
        State::Interrupted,
        State::CutOff,
        State::Unpaired,
        State::Failed,
    ];
    for kind in others {
        let count = trials.count(kind);
        if count > 0 {
            let _ = write!(measured, ", {count} more {}", state(kind));
        }
    }
    facts.push(("trials", measured));
    let without = trials.measured().filter(|attempt| attempt.cookies_missing).count();
    if without > 0 {
        let found = format!(
            "none: --cosched auto found none in {without} of these (--cosched prctl insists)"
        );
        facts.push(("cookies", found));
    }
    match &summary.over_threshold {
        Some(over) => {
            facts.push(("over", over_words(over)));
            if trials.measured().any(|attempt| attempt.over_threshold) {
                let note = "trials that ended at a gap over the threshold are among those of \
                            `longest` only, and there they are at least so long";
                facts.push(("note", note.to_owned()));
            }
        }
        None if trials.conditions.job.load.threshold.is_none() => {
            facts.push(("over", "no threshold was set".to_owned()));
        }
        None => {}
    }
    facts.push(("ended", ended(trials.ended).to_owned()));
    facts
}

/// `0 of 10 over 100ms: at most 26 % of runs, with 95 % confidence`.
fn over_words(over: &OverThreshold) -> String {
    let threshold = over.threshold_ns.map(|ns| format!("{:?}", Duration::from_nanos(ns)));
    let limits = over.limits.iter().cloned();
    let mut text = format!(
        "{} of {} over {}: {} of runs, with 95 % confidence",
        over.hits,
        over.trials,
        threshold.into_iter().chain(limits).collect::<Vec<_>>().join(" or "),
        bounds(over)
    );
    let (hits, trials) = over.with_contaminated;
    if trials > over.trials {
        let _ = write!(text, " (with contaminated ones: {hits} of {trials})");
    }
    text
}

fn ended(ended: Option<Ended>) -> &'static str {
    match ended {
        Some(Ended::All) => "all have been done",
        Some(Ended::Decided) => "decided: a run failed (--until decided)",
        Some(Ended::Interrupted) => "interrupted",
        Some(Ended::HostUnfit) => "the host is unfit: too many were contaminated",
        Some(Ended::Untestable) => "the kernel could not be tested",
        Some(Ended::Failed) => "failed",
        None => "not yet, or it was killed: the same call goes on",
    }
}

/// A figure for a reader.
pub fn show(metric: Metric, value: f64) -> String {
    show_figure(metric.quantity(), value)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// `3 h 12 min`, `12 min`, `40 s`.
pub fn show_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}
