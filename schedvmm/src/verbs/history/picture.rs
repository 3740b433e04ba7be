// SPDX-License-Identifier: Apache-2.0
//! A history as a picture: the median of each kernel with its interval, and where they change.

use maud::{Markup, PreEscaped, html};
use results::history::{History, KernelOfHistory};

use super::words::release;
use crate::verbs::report::svg::{Axis, px, real};
use crate::verbs::trials::lines::show;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 980.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 340.0;
/// Names below the picture, at most; more cannot be read.
const MAX_NAMES: usize = 30;

const STYLE: &str = "text{font:13px sans-serif;fill:#222}.grid{stroke:#ddd}.interval{stroke:#88a;\
                     stroke-width:3}.median{fill:#225}.change{stroke:#b22;stroke-dasharray:5 4}\
                     .worse{fill:#b22}.better{fill:#172}";

/// One SVG file, which needs nothing else.
pub fn svg(history: &History) -> String {
    let told: Vec<_> = history.kernels.iter().filter(|it| it.side.median.is_some()).collect();
    let y = heights(&told);
    let x = Axis::linear((-0.5, real(told.len() as u64) - 0.5), (LEFT, RIGHT));
    let metric = history.metric;
    let title = format!("{} of {} kernels", metric.words(), told.len());
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" {
            title { (title) }
            style { (PreEscaped(STYLE)) }
            rect width=(WIDTH) height=(HEIGHT) fill="white" {}
            text x=(LEFT) y="24" { (title) }
            @for value in y.round_values(6) {
                line.grid x1=(LEFT) x2=(RIGHT) y1=(px(y.at(value))) y2=(px(y.at(value))) {}
                text x=(px(LEFT - 8.0)) y=(px(y.at(value) + 4.0)) text-anchor="end" {
                    (show(metric, value))
                }
            }
            @for (place, kernel) in told.iter().enumerate() { (point(place, kernel, (&x, &y))) }
            (names(&told, &x))
            @for change in &history.changes { (border(change.at, change.ratio, &x)) }
        }
    };
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", picture.into_string())
}

/// From nothing to the greatest bound.
fn heights(told: &[&KernelOfHistory]) -> Axis {
    let most = told.iter().filter_map(|it| it.side.median).fold(0.0_f64, |most, it| {
        most.max(it.median).max(it.interval.map_or(0.0, |interval| interval.high))
    });
    Axis::linear((0.0, if most > 0.0 { 1.05 * most } else { 1.0 }), (BOTTOM, TOP))
}

fn point(place: usize, kernel: &KernelOfHistory, (x, y): (&Axis, &Axis)) -> Markup {
    let at = px(x.at(real(place as u64)));
    html! {
        @if let Some(median) = kernel.side.median {
            @if let Some(interval) = median.interval {
                line.interval x1=(at) x2=(at) y1=(px(y.at(interval.low))) y2=(px(y.at(interval.high))) {}
            }
            circle.median cx=(at) cy=(px(y.at(median.median))) r="4" {
                title { (kernel.side.name) ": " (kernel.side.kernel) }
            }
        }
    }
}

fn names(told: &[&KernelOfHistory], x: &Axis) -> Markup {
    let each = told.len().div_ceil(MAX_NAMES).max(1);
    html! {
        @for (place, kernel) in told.iter().enumerate().step_by(each) {
            @let at = px(x.at(real(place as u64)));
            text x=(at) y=(px(BOTTOM + 16.0)) text-anchor="end"
                transform={ "rotate(-35 " (at) " " (px(BOTTOM + 16.0)) ")" } { (release(kernel)) }
        }
    }
}

/// Between the last kernel before and the first one after.
fn border(at: usize, ratio: f64, x: &Axis) -> Markup {
    let place = px(x.at(real(at as u64) - 0.5));
    let class = if ratio > 1.0 { "worse" } else { "better" };
    html! {
        line.change x1=(place) x2=(place) y1=(TOP) y2=(BOTTOM) {}
        text class=(class) x=(place) y=(px(TOP - 6.0)) text-anchor="middle" {
            (class) " x" (format!("{ratio:.2}"))
        }
    }
}
