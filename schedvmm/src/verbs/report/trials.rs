// SPDX-License-Identifier: Apache-2.0
//! The page of many trials: of a kernel, or of several beside each other.

use decision::sequential::Answer;
use maud::{Markup, html};
use results::comparison::Comparison;
use results::metric::Metric;
use results::trials::{MetricSummary, State};

use super::distribution::{self, Curve};
use super::sides::{Side, Sides, Worst};
use super::svg::{Axis, px, real};
use super::{facts, page};
use crate::verbs::compare;
use crate::verbs::trials::lines::{facts as facts_of_trials, show};
use crate::verbs::trials::median_of;

const HEIGHT: f64 = 320.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 980.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 270.0;

/// The whole page.
pub fn render(sides: &Sides) -> Markup {
    let (class, word) = answer(sides.comparison.as_ref());
    let names: Vec<_> = sides.sides.iter().map(|side| side.name.as_str()).collect();
    page::document(
        &format!("{word}, {}", names.join(", ")),
        &html! {
            header {
                p.what { "schedvmm, trials of " (names.join(", ")) }
                h1 class=(class) { (word) }
                @for sentence in sentences(sides) { p.lead { (sentence) } }
            }
            main {
                (page::notes(sides.comparison.as_ref().map_or(&[], |it| &it.notes)))
                section aria-labelledby="h-trials" {
                    h2 #h-trials { "Every trial, in the order it ran" }
                    (points(sides))
                    (legend(sides))
                }
                section aria-labelledby="h-gaps" {
                    h2 #h-gaps { "All gaps" }
                    (distribution::of_sides(&curves(sides)))
                }
                section aria-labelledby="h-figures" {
                    h2 #h-figures { "Figures" }
                    (figures(sides))
                }
                @for (index, side) in sides.sides.iter().enumerate() { (worst(side, index)) }
                section aria-labelledby="h-environment" {
                    h2 #h-environment { "Conditions" }
                    @for side in &sides.sides { (conditions(side)) }
                }
            }
            footer { "schedvmm " (env!("CARGO_PKG_VERSION")) }
        },
    )
}

/// The answer in a word, with its colour: the worst of several.
fn answer(comparison: Option<&Comparison>) -> (&'static str, &'static str) {
    let answers = comparison.map(|it| it.others.iter().map(|versus| versus.answer));
    let Some(answers) = answers.map(Iterator::collect::<Vec<_>>) else {
        return ("", "TRIALS");
    };
    let all = [
        (Answer::Worse, "bad", "WORSE"),
        (Answer::Undecided, "neutral", "UNDECIDED"),
        (Answer::Same, "good", "SAME"),
    ];
    let found = all.into_iter().find(|(answer, ..)| answers.contains(answer));
    found.map_or(("good", "BETTER"), |(_, class, word)| (class, word))
}

/// What it comes to.
fn sentences(sides: &Sides) -> Vec<String> {
    if let Some(comparison) = &sides.comparison {
        return comparison
            .others
            .iter()
            .map(|it| compare::sentence(comparison, it) + ".")
            .collect();
    }
    let metric = sides.metric;
    let found = sides.sides.first().and_then(|side| median_of(&side.trials, metric));
    vec![found.map_or_else(
        || format!("No trial tells {}.", metric.name()),
        |it| format!("{}: {} in {} trials.", metric.name(), median(it), it.trials),
    )]
}

/// A line of each side for the picture of all gaps.
fn curves(sides: &Sides) -> Vec<Curve> {
    let each = sides.sides.iter().enumerate().map(|(index, side)| Curve {
        name: side.name.clone(),
        class: format!("line g{}", index % 10),
        lengths: side.lengths.clone(),
        runs: real(side.trials.count(State::Measured).max(1).into()),
    });
    each.collect()
}

/// `median 27.3 ms (26.1 ms to 29.9 ms)`.
fn median(it: MetricSummary) -> String {
    let value = show(it.metric, it.median.median);
    match it.median.interval {
        Some(range) => {
            format!(
                "median {value} ({} to {})",
                show(it.metric, range.low),
                show(it.metric, range.high)
            )
        }
        None => format!("median {value}"),
    }
}

/// A trial in the picture.
struct Point<'a> {
    started_utc: &'a str,
    side: usize,
    trial: u32,
    value: f64,
}

/// Values of all sides by the time of their trials, with medians and their intervals.
fn points(sides: &Sides) -> Markup {
    let metric = sides.metric;
    let mut all: Vec<_> = Vec::new();
    for (index, side) in sides.sides.iter().enumerate() {
        // The others ended before their time.
        let whole =
            side.trials.measured().filter(|it| metric == Metric::Longest || !it.over_threshold);
        all.extend(whole.filter_map(|it| {
            let value = *it.metrics.get(&metric)?;
            Some(Point { started_utc: &it.started_utc, side: index, trial: it.trial, value })
        }));
    }
    all.sort_by(|a, b| (a.started_utc, a.trial, a.side).cmp(&(b.started_utc, b.trial, b.side)));
    let most = all.iter().fold(0.0_f64, |most, point| most.max(point.value));
    let y = Axis::linear((0.0, if most > 0.0 { 1.05 * most } else { 1.0 }), (BOTTOM, TOP));
    let x = Axis::linear((-0.5, real(all.len() as u64) - 0.5), (LEFT, RIGHT));
    html! {
        div.scroll { svg.wide viewBox={ "0 0 1000 " (HEIGHT) } role="img" aria-labelledby="points-title" {
            title #points-title { (metric.words()) " of each trial, in the order they ran" }
            @for value in y.round_values(6) {
                path.grid d={ "M" (LEFT) " " (px(y.at(value))) "H" (RIGHT) } {}
                text.tick x=(LEFT - 8.0) y=(px(y.at(value) + 4.0)) text-anchor="end" { (show(metric, value)) }
            }
            @for (index, side) in sides.sides.iter().enumerate() {
                @if let Some(it) = median_of(&side.trials, metric) { (band(&it, index, &y)) }
            }
            @for (place, point) in all.iter().enumerate() {
                circle class={ "p g" (point.side % 10) } cx=(px(x.at(real(place as u64)))) cy=(px(y.at(point.value))) r="4.5" {
                    title { (sides.sides[point.side].name) " trial " (point.trial) ": " (show(metric, point.value)) ", " (point.started_utc) }
                }
            }
            text.axis x=(f64::midpoint(LEFT, RIGHT)) y=(HEIGHT - 14.0) text-anchor="middle" {
                (metric.name()) " of trials, in the order they ran" }
        } }
    }
}

/// The median, and its interval around it.
fn band(it: &MetricSummary, side: usize, y: &Axis) -> Markup {
    html! {
        g class={ "g" (side % 10) } {
            @if let Some(range) = it.median.interval {
                rect.p.faint x=(LEFT) width=(RIGHT - LEFT) y=(px(y.at(range.high)))
                    height=(px((y.at(range.low) - y.at(range.high)).max(1.0))) {}
            }
            path.line d={ "M" (LEFT) " " (px(y.at(it.median.median))) "H" (RIGHT) } {}
        }
    }
}

fn legend(sides: &Sides) -> Markup {
    html! {
        ul.legend aria-hidden="true" { @for (index, side) in sides.sides.iter().enumerate() {
            li { span class={ "dot g" (index % 10) } {} (side.name) }
        } }
        p.small { "A line is a median, what is around it its 95 % interval." }
    }
}

/// Medians of all figures, and how they differ.
fn figures(sides: &Sides) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th scope="col" { "figure" }
                @for side in &sides.sides { th scope="col" { (side.name) } }
                @if sides.comparison.is_some() { th scope="col" { "ratio to the first" } } } }
            tbody { @for metric in Metric::SHOWN { tr {
                th scope="row" { (metric.name()) }
                @for side in &sides.sides { td { (median_of(&side.trials, metric).map_or_else(|| "–".into(), median)) } }
                @if let Some(comparison) = &sides.comparison { td { (ratios(comparison, metric)) } }
            } } }
        } }
        @for side in &sides.sides {
            dl { dt { strong { (side.name) } } dd {}
                @for (name, value) in facts_of_trials(&side.trials) { dt { (name) } dd { (value) } } }
        }
    }
}

/// `1.52 (1.31 to 1.74), worse`, of each of the others.
fn ratios(comparison: &Comparison, metric: Metric) -> String {
    let each = comparison.others.iter().map(|versus| {
        let own = versus.finding.filter(|_| metric == comparison.metric);
        let own = own.map(|it| (it.ratio, it.interval, versus.answer));
        let second = versus.secondary.iter().find(|it| it.metric == metric);
        let found = own.or(second.map(|it| (it.ratio, it.interval, it.answer)));
        found.map_or_else(
            || "–".to_owned(),
            |(ratio, range, answer)| {
                let word = compare::answer_word(answer);
                format!("{ratio:.3} ({:.3} to {:.3}), {word}", range.low, range.high)
            },
        )
    });
    each.collect::<Vec<_>>().join("; ")
}

/// The worst gap of a side, explained by its trace.
fn worst(side: &Side, index: usize) -> Markup {
    let id = format!("h-why-{index}");
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { "The longest gap of " (side.name) }
            @match &side.worst {
                Some(Worst { trial, result, why }) => {
                    p.small { "Trial " (trial) "." }
                    (page::explained(result, why, &format!("-{index}")))
                }
                None => p { "No trial counts." }
            }
        }
    }
}

/// What a side was measured under.
fn conditions(side: &Side) -> Markup {
    html! {
        h3 { (side.name) }
        @match &side.worst {
            Some(worst) => (facts::environment(&worst.result)),
            None => p { "Nothing was measured." }
        }
    }
}
