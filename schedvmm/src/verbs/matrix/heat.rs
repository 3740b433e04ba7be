// SPDX-License-Identifier: Apache-2.0
//! A matrix as a heat map: kernels and tunables from top to bottom, loads and cookies from left to right.

use decision::sequential::Answer;
use maud::{Markup, html};
use results::matrix::{Cell, Matrix, MatrixQuestion};

use super::cells::{cookies_name, or_default};
use super::words::{answer, base_words, counts, figures};
use crate::verbs::report::page;

/// The whole page.
pub fn render(matrix: &Matrix) -> Markup {
    let question = &matrix.question;
    let metric = question.metric;
    page::document(
        &format!("matrix of {}", metric.name()),
        &html! {
            header {
                p.what { "schedvmm, " (matrix.cells.len()) " cells, " (question.trials) " trials of each in random order" }
                h1 { (counts(matrix)) }
                p.lead { (metric.name()) ", " (metric.words()) ", against " (base_words(&question.base)) "." }
            }
            main {
                (page::notes(&notes(matrix)))
                section aria-labelledby="h-map" {
                    h2 #h-map { "Cells" }
                    (map(matrix))
                    p.small { "A cell has the ratio to its base with its interval, and its median. A colour says that it \
                        differs, with false discoveries among such cells held at 5 %; without one that is undecided. Same: \
                        within " (100.0 * question.min_effect) " %." }
                }
                section aria-labelledby="h-environment" {
                    h2 #h-environment { "Conditions" }
                    dl {
                        dt { "measured" } dd { (matrix.conditions) }
                        dt { "options" } dd { (question.options) }
                        dt { "seed" } dd { (question.seed) }
                        @for cell in kernels(matrix) { dt { (cell.kernel) } dd { (cell.side.kernel) } }
                    }
                }
            }
            footer { "schedvmm " (matrix.version) ", " (matrix.started_utc) }
        },
    )
}

/// The first cell of each kernel.
fn kernels(matrix: &Matrix) -> impl Iterator<Item = &Cell> {
    let each = matrix.cells.len() / matrix.question.kernels.len().max(1);
    matrix.cells.iter().step_by(each.max(1))
}

/// What is noted of all of it, and why cells have no answer.
fn notes(matrix: &Matrix) -> Vec<String> {
    let withheld = matrix.cells.iter().filter_map(|cell| {
        Some(format!("{} is withheld: {}", cell.side.name, cell.withheld.as_ref()?))
    });
    matrix.notes.iter().cloned().chain(withheld).collect()
}

fn map(matrix: &Matrix) -> Markup {
    let MatrixQuestion { loads, cookies, .. } = &matrix.question;
    let width = (loads.len() * cookies.len()).max(1);
    html! {
        div.scroll { table.heat {
            caption { "Ratio of the cell to its base" }
            thead { tr {
                th scope="col" {}
                @for cell in matrix.cells.iter().take(width) {
                    th scope="col" { (cell.load) " " (cookies_name(cell.cookies)) }
                }
            } }
            tbody { @for (row, cells) in matrix.cells.chunks(width).enumerate() { tr {
                @if let Some(first) = cells.first() {
                    th scope="row" { (first.kernel) br; (or_default(&first.tuning)) }
                }
                @for (column, cell) in cells.iter().enumerate() { (one(matrix, cell, row * width + column + 1)) }
            } } }
        } }
    }
}

fn one(matrix: &Matrix, cell: &Cell, number: usize) -> Markup {
    let [median, ratio, interval, p, said] = figures(cell, matrix.question.metric);
    html! {
        td class=(class(cell)) title={ "cell " (number) ", p " (p) ", " (cell.side.trials) " trials in " (cell.folder) } {
            @if cell.finding.is_some() { strong { "× " (ratio) } br; (interval) br; }
            (median) br; span.small { (number) ": " (said) }
        }
    }
}

/// How much it differs, in steps that have a colour.
fn class(cell: &Cell) -> &'static str {
    let Some(found) = cell.finding else { return "" };
    let far = found.ratio.ln().abs();
    match answer(cell) {
        Some(Answer::Worse) if far > 0.7 => "h w3",
        Some(Answer::Worse) if far > 0.25 => "h w2",
        Some(Answer::Worse) => "h w1",
        Some(Answer::Better) if far > 0.7 => "h b3",
        Some(Answer::Better) if far > 0.25 => "h b2",
        Some(Answer::Better) => "h b1",
        Some(Answer::Same) => "h s",
        Some(Answer::Undecided) | None => "",
    }
}
