// SPDX-License-Identifier: Apache-2.0
//! A comparison for people: a sentence, a table, and the same for a commit message.

use std::fmt::Write as _;

use decision::interval::Interval;
use decision::sequential::Answer;
use protocol::job::LoadSpec;
use results::comparison::{Comparison, SideFacts, Versus};
use results::metric::{Metric, Quantity};
use results::model::RunResult;

use crate::terminal::one_line;
use crate::verbs::trials::lines::show;

/// What all of it was measured under.
pub fn conditions(result: &RunResult) -> String {
    let LoadSpec { groups, cpus, duration, .. } = &result.job.load;
    let threads: u32 = groups.iter().fold(0, |sum, group| sum.saturating_add(group.threads));
    let cpus: Vec<_> = cpus.iter().map(u32::to_string).collect();
    let cookies = result.cosched.mechanism.filter(|_| result.has_cookies());
    let cookies = match cookies {
        Some(mechanism) => format!("cookies by {}", mechanism.name()),
        None => "no cookies".to_owned(),
    };
    format!(
        "each run {duration:?} with a boot of its own, {} groups with {threads} threads on CPUs {}, \
         {cookies}; {}; host: {}, Linux {}",
        groups.len(),
        cpus.join(","),
        result.machine.summary,
        result.host.cpu.as_deref().unwrap_or("a CPU that it does not tell"),
        result.host.kernel.as_deref().unwrap_or("of a release that it does not tell"),
    )
}

/// The answer in a sentence.
pub fn sentence(comparison: &Comparison, versus: &Versus) -> String {
    let (base, other) = (one_line(&comparison.base.name), one_line(&versus.side.name));
    let metric = comparison.metric;
    let answer = match versus.answer {
        Answer::Better => format!("{other} is better than {base}"),
        Answer::Worse => format!("{other} is worse than {base}"),
        Answer::Same => format!("{other} and {base} are the same"),
        Answer::Undecided => format!("{other} against {base} is undecided"),
    };
    let tail = tail(comparison, versus);
    let Some(finding) = &versus.finding else {
        return format!("{answer}: {} pairs tell {}{tail}", versus.pairs, metric.name());
    };
    format!(
        "{answer}: {} is {} ({}; {} pairs, signed rank p = {}){tail}",
        metric.name(),
        times(metric, finding.ratio, &base),
        interval(&finding.interval),
        finding.look.pairs,
        Probability(finding.p),
    )
}

/// Behind an answer: why there is none, when there may be, and within what two are the same.
fn tail(comparison: &Comparison, versus: &Versus) -> String {
    if let Some(why) = &versus.withheld {
        return format!("; withheld: {why}");
    }
    match (versus.answer, versus.next_look_pairs) {
        (Answer::Undecided, Some(next)) if versus.finding.is_none() => {
            format!("; the first look is after {next}")
        }
        (Answer::Undecided, Some(next)) => format!("; the next look is after {next} pairs"),
        (Answer::Undecided, None) => "; that was the last look".to_owned(),
        (Answer::Same, _) => {
            format!("; changes of less than {} do not matter", percent(comparison.min_effect))
        }
        _ => String::new(),
    }
}

/// `1.52 times` of a length, `odds 1.52 times` of a share.
fn times(metric: Metric, ratio: f64, base: &str) -> String {
    match metric.quantity() {
        Quantity::LengthNs => format!("{ratio:.3} times that of {base}"),
        Quantity::Share => format!("{ratio:.3} times that of {base}, as odds"),
    }
}

/// `98.4 % interval 1.31 to 1.74`.
fn interval(it: &Interval) -> String {
    format!("{} interval {:.3} to {:.3}", percent(it.coverage), it.low, it.high)
}

fn percent(share: f64) -> String {
    let text = format!("{:.1}", 100.0 * share);
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

/// With two digits that count.
pub struct Probability(pub f64);

impl std::fmt::Display for Probability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            p if p >= 0.01 => write!(f, "{p:.3}"),
            p => write!(f, "{p:.1e}"),
        }
    }
}

/// What stands on the screen.
pub fn screen(comparison: &Comparison) -> String {
    let mut text = String::new();
    let metric = comparison.metric;
    let _ = writeln!(text, "metric   {}: {}", metric.name(), metric.words());
    let sides =
        std::iter::once(&comparison.base).chain(comparison.others.iter().map(|it| &it.side));
    for side in sides {
        let _ = writeln!(text, "side     {}", side_line(side, metric));
    }
    let _ = writeln!(text, "measured {}", one_line(&comparison.conditions));
    for note in &comparison.notes {
        let _ = writeln!(text, "note     {}", one_line(note));
    }
    for versus in &comparison.others {
        if !versus.secondary.is_empty() {
            let _ = writeln!(text, "\n{}", secondary_table(versus));
        }
        let _ = writeln!(text, "answer   {}", sentence(comparison, versus));
    }
    text.trim_end().to_owned()
}

/// `next/bzImage  27.3 ms (26.1 ms to 29.9 ms) of 10 trials  6.12.1 #1 SMP …`.
fn side_line(side: &SideFacts, metric: Metric) -> String {
    format!(
        "{}: median {} of {} trials; {}",
        one_line(&side.name),
        median(side, metric),
        side.trials,
        one_line(&side.kernel)
    )
}

fn median(side: &SideFacts, metric: Metric) -> String {
    let Some(median) = side.median else { return "not known".to_owned() };
    let value = show(metric, median.median);
    match median.interval {
        Some(it) => format!("{value} ({} to {})", show(metric, it.low), show(metric, it.high)),
        None => value,
    }
}

fn secondary_table(versus: &Versus) -> String {
    let mut text = format!(
        "{:<12} {:>8}   {:<18} {:>10}   (beside the one that decides; p by Holm)",
        "", "ratio", "interval", "p"
    );
    for it in &versus.secondary {
        let range = format!("{:.3} to {:.3}", it.interval.low, it.interval.high);
        let _ = write!(
            text,
            "\n{:<12} {:>8.3}   {range:<18} {:>10}   {}",
            it.metric.name(),
            it.ratio,
            Probability(it.p_holm).to_string(),
            answer_word(it.answer)
        );
    }
    text
}

/// An answer as a word.
pub fn answer_word(answer: Answer) -> &'static str {
    match answer {
        Answer::Better => "better",
        Answer::Same => "same",
        Answer::Worse => "worse",
        Answer::Undecided => "undecided",
    }
}

/// For a commit message or a pull request.
pub fn markdown(comparison: &Comparison) -> String {
    let metric = comparison.metric;
    let mut text = format!(
        "| | kernel | {} median (95 %) | ratio | interval | pairs | p | answer |\n\
         |---|---|---|---|---|---|---|---|\n",
        metric.name()
    );
    let base = &comparison.base;
    let _ = writeln!(
        text,
        "| {} | {} | {} | 1 | | {} | | base |",
        cell(&base.name),
        cell(&base.kernel),
        median(base, metric),
        base.trials
    );
    for versus in &comparison.others {
        let side = &versus.side;
        let found = match &versus.finding {
            Some(it) => format!(
                "{:.3} | {:.3} to {:.3} ({}) | {} | {}",
                it.ratio,
                it.interval.low,
                it.interval.high,
                percent(it.interval.coverage),
                it.look.pairs,
                Probability(it.p)
            ),
            None => format!(" | | {} | ", versus.pairs),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {found} | {} |",
            cell(&side.name),
            cell(&side.kernel),
            median(side, metric),
            answer_word(versus.answer)
        );
    }
    for versus in &comparison.others {
        let _ = writeln!(text, "\n{}", statement(comparison, versus));
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "\nNote: {}.", one_line(note));
    }
    text.trim_end().to_owned()
}

/// The sentence that says what was measured, on what, and how sure it is.
fn statement(comparison: &Comparison, versus: &Versus) -> String {
    let Comparison { base, metric, conditions, version, .. } = comparison;
    let Some(it) = &versus.finding else {
        return format!("{} ({conditions}; schedvmm {version}).", sentence(comparison, versus));
    };
    format!(
        "In {} pairs of runs the {} ({}) of {} (Linux {}) was {:.3} times that of {} (Linux {}){}, {} \
         confidence interval {:.3} to {:.3}, exact Wilcoxon \
         signed-rank p = {} at a sequential level of {}: {}{} ({conditions}; schedvmm {version}).",
        it.look.pairs,
        metric.words(),
        metric.name(),
        one_line(&versus.side.name),
        one_line(&versus.side.kernel),
        it.ratio,
        one_line(&base.name),
        one_line(&base.kernel),
        if metric.quantity() == Quantity::Share { ", as odds" } else { "" },
        percent(it.interval.coverage),
        it.interval.low,
        it.interval.high,
        Probability(it.p),
        it.look.level,
        answer_word(versus.answer),
        tail(comparison, versus)
    )
}

/// Text that ends no cell.
fn cell(text: &str) -> String {
    one_line(text).replace('|', "\\|")
}
