// SPDX-License-Identifier: Apache-2.0
//! The distribution of gaps: how many were at least how long, a line for each group.

use std::collections::BTreeMap;
use std::fmt::Write;

use maud::{Markup, html};
use results::model::RunResult;

use crate::units::{as_ns, show_ns};
use crate::verbs::report::group_name;
use crate::verbs::report::svg::{Axis, px, real};
use crate::verbs::report::timeline::colour;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 980.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 380.0;
/// Lines in the picture, at most; more cannot be told apart.
const MAX_GROUPS: usize = 32;

/// Lengths in nanoseconds with their counts, rising.
pub type Lengths = BTreeMap<u64, u64>;

/// A vertical line with words.
struct Mark {
    at_ns: u64,
    class: &'static str,
    text: String,
}

/// A line of the picture.
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// Of its colour.
    pub class: String,
    /// The gaps.
    pub lengths: Lengths,
    /// Of so many runs.
    pub runs: f64,
}

/// The picture of a run, with a line for each group; nothing where there was no gap.
pub fn picture(result: &RunResult) -> Option<Markup> {
    let groups = lengths(result);
    let left_out = groups.len().saturating_sub(MAX_GROUPS);
    let curves = groups.into_iter().map(|(group, lengths)| {
        let dashed = if dashed(group) { " dashed" } else { "" };
        let class = format!("line {}{dashed}", colour(group));
        Curve { name: group_name(result, group), class, lengths, runs: 1.0 }
    });
    let curves: Vec<_> = curves.take(MAX_GROUPS).collect();
    let drawn = draw(&curves, &marks(result), "For each group", "gaps at least that long")?;
    Some(html! {
        (drawn)
        @if left_out > 0 { p.small { (left_out) " more groups are not drawn." } }
    })
}

/// The picture of the trials of several sides, with a line for each: a run's mean.
pub fn of_sides(curves: &[Curve]) -> Markup {
    let axis = "gaps at least that long, of a run";
    let drawn = draw(curves, &[], "For each side, in a run on average", axis);
    html! { @match drawn { Some(drawn) => (drawn), None => p { "There was no gap." } } }
}

/// The lines, with words for a reader who does not see whose they are, and words beside the axis.
fn draw(curves: &[Curve], marks: &[Mark], whose: &str, axis: &str) -> Option<Markup> {
    let longest = curves.iter().filter_map(|it| it.lengths.keys().next_back()).max()?;
    let shortest = curves.iter().filter_map(|it| it.lengths.keys().next()).min()?;
    let most = curves.iter().map(|it| real(count(&it.lengths)) / it.runs).fold(0.0, f64::max);
    let runs = curves.iter().map(|it| it.runs).fold(1.0, f64::max);
    let right = marks.iter().map(|mark| mark.at_ns).chain([*longest]).max()?;
    let left = marks.iter().map(|mark| mark.at_ns).chain([*shortest]).min()?;
    let x = Axis::logarithmic((real(left.max(1)) / 1.1, real(right) * 1.1), (LEFT, RIGHT));
    let y = Axis::logarithmic((0.8 / runs, most * 1.3), (BOTTOM, TOP));
    let description = format!(
        "{}, how many gaps were at least as long as the length below. The longest of all was {}.",
        whose,
        show_ns(*longest)
    );
    Some(html! {
        div.scroll { svg.wide viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img"
            aria-labelledby="distribution-title distribution-text" {
            title #distribution-title { "Distribution of gaps" }
            desc #distribution-text { (description) }
            (grid(&x, &y, axis))
            @for (index, mark) in marks.iter().enumerate() { (mark.draw(&x, index)) }
            @for curve in curves {
                path class=(curve.class) d=(steps(&curve.lengths, curve.runs, &x, &y)) { title { (curve.name) } }
            }
        } }
        ul.legend aria-hidden="true" {
            @for curve in curves {
                li { svg.swatch viewBox="0 0 22 10" { path class=(curve.class) d="M0 5H22" {} } (curve.name) }
            }
        }
    })
}

/// Adds all gaps of a run.
pub fn add(sum: &mut Lengths, result: &RunResult) {
    for (length, count) in lengths(result).into_values().flatten() {
        let there = sum.entry(length).or_default();
        *there = there.saturating_add(count);
    }
}

/// Half of the colours have dashes as well: hues alone are not told apart by everybody.
fn dashed(group: u32) -> bool {
    group.wrapping_sub(1) % 10 >= 5
}

/// Gaps of each group. A bucket's upper bound may lie above the longest gap that was in it.
fn lengths(result: &RunResult) -> BTreeMap<u32, Lengths> {
    let mut groups: BTreeMap<u32, Lengths> = BTreeMap::new();
    for thread in &result.threads {
        let lengths = groups.entry(thread.who.group).or_default();
        for &(length, count) in
            thread.report.gap_histogram_ns.iter().filter(|(_, count)| *count > 0)
        {
            let longest = if thread.complete { thread.longest_gap_ns } else { u64::MAX };
            let sum = lengths.entry(length.min(longest).max(1)).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    groups.retain(|_, lengths| !lengths.is_empty());
    groups
}

fn count(lengths: &Lengths) -> u64 {
    lengths.values().fold(0, |sum, count| sum.saturating_add(*count))
}

fn marks(result: &RunResult) -> Vec<Mark> {
    let noise = result.noise_floors().map(|noise| noise.longest_ns).max();
    [
        mark(result.job.load.threshold.map(as_ns), "threshold", "threshold"),
        mark(result.expected.gap_ns, "expected", "longest by design"),
        mark(noise, "noise", "longest without a load"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn mark(at: Option<u64>, class: &'static str, name: &str) -> Option<Mark> {
    let at_ns = at.filter(|ns| *ns > 0)?;
    Some(Mark { at_ns, class, text: format!("{name} {}", show_ns(at_ns)) })
}

impl Mark {
    /// Each has a line of its own for its words, on the side where there is room.
    fn draw(&self, x: &Axis, index: usize) -> Markup {
        #[allow(clippy::cast_precision_loss, reason = "there are three")]
        let text_y = 14.0 + 14.0 * index as f64;
        let at = x.at(real(self.at_ns));
        let (anchor, text_x) =
            if at > (LEFT + RIGHT) / 2.0 { ("end", at - 5.0) } else { ("start", at + 5.0) };
        html! {
            path class={ "mark " (self.class) } d={ "M" (px(at)) " " (px(text_y - 9.0)) "V" (BOTTOM) } {}
            text class={ "mark-text " (self.class) } x=(px(text_x)) y=(px(text_y))
                text-anchor=(anchor) { (self.text) }
        }
    }
}

fn grid(x: &Axis, y: &Axis, words: &str) -> Markup {
    html! {
        @for value in fine(x) {
            path.fine d={ "M" (px(x.at(value))) " " (TOP) "V" (BOTTOM) } {}
        }
        @for value in x.decades() {
            path.grid d={ "M" (px(x.at(value))) " " (TOP) "V" (BOTTOM) } {}
            text.tick x=(px(x.at(value))) y=(BOTTOM + 18.0) text-anchor="middle" { (length(value)) }
        }
        @for value in y.decades() {
            path.grid d={ "M" (LEFT) " " (px(y.at(value))) "H" (RIGHT) } {}
            text.tick x=(LEFT - 8.0) y=(px(y.at(value) + 4.0)) text-anchor="end" { (value) }
        }
        text.axis x=(f64::midpoint(LEFT, RIGHT)) y=(HEIGHT - 14.0) text-anchor="middle" { "length of gap" }
        text.axis transform={ "translate(16 " (f64::midpoint(TOP, BOTTOM)) ") rotate(-90)" }
            text-anchor="middle" { (words) }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length")]
fn length(value: f64) -> String {
    short(value.round() as u64)
}

/// Values between powers of ten, which get a line without words.
fn fine(axis: &Axis) -> Vec<f64> {
    const MINOR: [f64; 8] = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let below = axis.decades().next().map(|first| first / 10.0);
    let decades = below.into_iter().chain(axis.decades());
    let values = decades.flat_map(|decade| MINOR.map(|factor| decade * factor));
    values.filter(|value| axis.has(*value)).collect()
}

/// A round length without needless zeros.
fn short(ns: u64) -> String {
    show_ns(ns).replace(".0 ", " ").replace(".00 ", " ")
}

/// The line: at each length it falls by the number of gaps that were no longer.
fn steps(lengths: &Lengths, runs: f64, x: &Axis, y: &Axis) -> String {
    let mut left = count(lengths);
    let mut path = String::new();
    for (index, (&length, &count)) in lengths.iter().enumerate() {
        let (at, height) = (px(x.at(real(length))), px(y.at(real(left) / runs)));
        // Writing to a String does not fail.
        let _ = if index == 0 {
            write!(path, "M{} {height}H{at}", px(LEFT))
        } else {
            write!(path, "V{height}H{at}")
        };
        left = left.saturating_sub(count);
    }
    let _ = write!(path, "V{BOTTOM}");
    path
}

#[cfg(test)]
mod tests {
    use protocol::report::ThreadReport;
    use results::model::Thread;

    use super::*;
    use crate::testing;

    #[test]
    fn the_line_falls_by_the_gaps_that_were_no_longer() {
        let x = Axis::logarithmic((1.0, 1000.0), (0.0, 300.0));
        let y = Axis::logarithmic((1.0, 100.0), (200.0, 0.0));
        let lengths = [(10, 90), (100, 9), (1000, 1)].into();
        assert_eq!(steps(&lengths, 1.0, &x, &y), "M70 0H100V100H200V200H300V380");
        let ten_runs = steps(&lengths, 10.0, &x, &y);
        assert_eq!(ten_runs, "M70 100H100V200H200V200H300V380", "a tenth of it each");
    }

    #[test]
    fn a_bucket_does_not_make_the_longest_gap_longer() {
        let of = |complete| {
            let report = ThreadReport {
                gap_histogram_ns: vec![(500, 2), (1016, 1), (2000, 0)],
                ..ThreadReport::default()
            };
            let thread = testing::thread(0, report);
            let mut result = testing::result();
            result.threads = vec![Thread { complete, longest_gap_ns: 1000, ..thread }];
            lengths(&result)
        };
        assert_eq!(of(true)[&1], [(500, 2), (1000, 1)].into());
        assert_eq!(of(false)[&1], [(500, 2), (1016, 1)].into());
        assert!(lengths(&testing::result()).is_empty());
    }

    #[test]
    fn round_lengths_are_short() {
        assert_eq!(
            [100_000, 1_000_000, 1_000_000_000, 10].map(short),
            ["100 µs", "1 ms", "1 s", "10 ns"]
        );
    }
}
