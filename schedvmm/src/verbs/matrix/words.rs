// SPDX-License-Identifier: Apache-2.0
//! A matrix for people, and for programs that read tables.

use std::fmt::Write as _;
use std::path::Path;

use decision::matrix::{FALSE_DISCOVERIES, pairs_needed};
use decision::sequential::Answer;
use results::matrix::{Cell, Matrix, MatrixBase, MatrixQuestion};
use results::metric::Metric;
use results::trials::{State, Trials};

use super::cells::{cookies_name, or_default};
use super::runs::Runs;
use crate::terminal::one_line;
use crate::verbs::compare::{Probability, answer_word};
use crate::verbs::history::{column, quoted};
use crate::verbs::trials::lines::{self, show, show_time};

/// Wider columns are cut.
const WIDEST: usize = 40;

/// What is said of a cell; `None` of one that others are compared with.
pub fn answer(cell: &Cell) -> Option<Answer> {
    cell.base?;
    let found = cell.finding.filter(|_| cell.withheld.is_none());
    Some(found.map_or(Answer::Undecided, |finding| finding.answer))
}

/// Before the first trial.
pub fn first(matrix: &Matrix, runs: &Runs, folder: &Path) -> String {
    let folder = folder.display();
    let MatrixQuestion { trials, seed, .. } = matrix.question;
    let found = match runs.measured() {
        0 => String::new(),
        measured => format!(", {measured} are there"),
    };
    format!(
        "{} cells, {trials} trials of each in random order, seed {seed}, in {folder}{found}\n(called \
         again with --output {folder} it goes on where it was ended)",
        matrix.cells.len()
    )
}

/// After an attempt: what it found, and the time to go. Not what is known so far: nobody is to stop
/// because of it.
pub fn attempt(matrix: &Matrix, runs: &Runs) -> String {
    let (cell, series) = (&matrix.cells[runs.last], &runs.series[runs.last]);
    let Some(last) = series.trials.attempts.last() else { return String::new() };
    let (metric, all) = (matrix.question.metric, matrix.order.len());
    let mut text = format!(
        "trial {:>4} of {all}  cell {:>3} ({})  ",
        runs.measured(),
        runs.last + 1,
        one_line(&cell.side.name)
    );
    if last.state == State::Measured {
        let value = last.metrics.get(&metric).map(|value| show(metric, *value));
        let _ = write!(text, "{} {}", metric.name(), value.as_deref().unwrap_or("-"));
    } else {
        let again = if series.trials.ended.is_none() { "; again with the same seed" } else { "" };
        let _ = write!(text, "{}: {}{again}", lines::state(last.state), one_line(&last.why));
    }
    let left = runs.time_to_go();
    if !left.is_zero() {
        let _ = write!(text, "  {} to go", show_time(left));
    }
    text
}

/// Kernels without cookies where cookies were wanted.
pub fn cookies_note(cell: &Cell, trials: &Trials) -> Option<String> {
    let without = trials.measured().filter(|attempt| attempt.cookies_missing).count();
    (without > 0).then(|| {
        format!(
            "{}: no cookies, --cosched auto found none in {without} of its trials",
            cell.side.name
        )
    })
}

/// Why there are no answers yet.
pub fn unfinished(matrix: &Matrix, runs: &Runs) -> String {
    let (done, all) = (runs.measured(), matrix.order.len());
    format!(
        "{done} of {all} trials are done, and there are answers when all are: the same call goes on"
    )
}

/// With too few trials a cell may differ as much as it likes.
pub fn too_few(matrix: &Matrix) -> Option<String> {
    let compared = matrix.cells.iter().filter(|cell| cell.base.is_some()).count();
    let (needed, trials) = (pairs_needed(compared), matrix.question.trials as usize);
    (trials < needed).then(|| {
        format!(
            "{trials} trials cannot tell that one cell of {compared} differs, however much it does: \
             {needed} can"
        )
    })
}

/// What stands on the screen at the end.
pub fn table(matrix: &Matrix, folder: &Path) -> String {
    let MatrixQuestion { metric, trials, min_effect, .. } = matrix.question;
    let mut text = format!(
        "matrix of {} cells, {trials} trials of each: {} ({})\n\n",
        matrix.cells.len(),
        metric.name(),
        metric.words()
    );
    let rows: Vec<_> = std::iter::once(head(matrix)).chain(rows(matrix)).collect();
    text += &aligned(&rows);
    text.push('\n');
    for (name, value) in facts(matrix) {
        let _ = writeln!(text, "{name:<9} {}", one_line(&value));
    }
    let small = 100.0 * min_effect;
    let _ = writeln!(text, "{:<9} {}", "base", base_words(&matrix.question.base));
    let _ = writeln!(
        text,
        "{:<9} {} (\"same\" is within {small:.0} %; of cells said to differ at most {:.0} % do not, on \
         average, by Benjamini and Hochberg)",
        "answers",
        counts(matrix),
        100.0 * FALSE_DISCOVERIES
    );
    let _ = write!(text, "{:<9} {}", "matrix in", folder.display());
    text
}

/// `kernel v6.11`: what cells are compared with.
pub fn base_words(base: &MatrixBase) -> String {
    let MatrixBase { kernel, tuning, load, cookies } = base;
    let cookies = cookies.map(|it| cookies_name(Some(it)));
    let named = [
        ("kernel", kernel.clone()),
        ("tuning", tuning.as_deref().map(or_default).map(str::to_owned)),
        ("load", load.clone()),
        ("cookies", cookies),
    ];
    let told = named.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    let told = told.collect::<Vec<_>>().join(", ");
    format!("{}, all else as in the cell itself", one_line(&told))
}

/// `3 worse, 1 better, 8 undecided`.
pub fn counts(matrix: &Matrix) -> String {
    let answers: Vec<_> = matrix.cells.iter().filter_map(answer).collect();
    let all = [Answer::Worse, Answer::Better, Answer::Same, Answer::Undecided];
    let counted = all.map(|answer| (answer, answers.iter().filter(|it| **it == answer).count()));
    let told = counted.into_iter().filter(|(_, count)| *count > 0);
    let told = told.map(|(answer, count)| format!("{count} {}", answer_word(answer)));
    told.collect::<Vec<_>>().join(", ")
}

/// What is the same of all cells, and what a reader must know.
fn facts(matrix: &Matrix) -> Vec<(&'static str, String)> {
    let question = &matrix.question;
    let mut facts = Vec::new();
    for ((name, value), count) in parts(&matrix.cells[0]).into_iter().zip(lengths(question)) {
        if count == 1 && !value.is_empty() {
            facts.push((name, value));
        }
    }
    if !question.options.is_empty() {
        facts.push(("options", question.options.clone()));
    }
    if !matrix.conditions.is_empty() {
        facts.push(("measured", matrix.conditions.clone()));
    }
    facts.extend(matrix.notes.iter().map(|note| ("note", note.clone())));
    let withheld = matrix.cells.iter().filter_map(|cell| Some((cell, cell.withheld.as_ref()?)));
    facts.extend(
        withheld.map(|(cell, why)| ("note", format!("{} is withheld: {why}", cell.side.name))),
    );
    facts
}

/// How many values each list has.
fn lengths(question: &MatrixQuestion) -> [usize; 4] {
    let MatrixQuestion { kernels, tunings, loads, cookies, .. } = question;
    [kernels.len(), tunings.len(), loads.len(), cookies.len()]
}

/// A cell's values.
fn parts(cell: &Cell) -> [(&'static str, String); 4] {
    [
        ("kernel", cell.kernel.clone()),
        ("tuning", cell.tuning.clone()),
        ("load", cell.load.clone()),
        ("cookies", cookies_name(cell.cookies)),
    ]
}

fn head(matrix: &Matrix) -> Vec<String> {
    let lengths = lengths(&matrix.question);
    let parts = parts(&matrix.cells[0]).into_iter().zip(lengths);
    let several = parts.filter(|(_, count)| *count > 1).map(|((name, _), _)| name);
    let figures = ["median", "ratio", "interval", "p (BH)", "answer"];
    std::iter::once("cell").chain(several).chain(figures).map(str::to_owned).collect()
}

fn rows(matrix: &Matrix) -> impl Iterator<Item = Vec<String>> {
    let lengths = lengths(&matrix.question);
    (1..).zip(&matrix.cells).map(move |(number, cell): (usize, _)| {
        let several = parts(cell).into_iter().zip(lengths).filter(|(_, count)| *count > 1);
        let mut row = vec![number.to_string()];
        row.extend(several.map(|((_, value), _)| cut(or_default(&value))));
        row.extend(figures(cell, matrix.question.metric));
        row
    })
}

/// Median, ratio, interval, probability and answer.
pub fn figures(cell: &Cell, metric: Metric) -> [String; 5] {
    let median = cell.side.median.map_or_else(|| "-".to_owned(), |it| show(metric, it.median));
    let answer = match (answer(cell), cell.base) {
        (Some(answer), Some(base)) => format!("{} ({base})", answer_word(answer)),
        _ => "base".to_owned(),
    };
    let Some(found) = cell.finding else {
        return [median, String::new(), String::new(), String::new(), answer];
    };
    let interval = found.interval.map_or_else(
        || "too few pairs".to_owned(),
        |it| format!("{:.3} to {:.3}", it.low, it.high),
    );
    let p = Probability(found.p_adjusted).to_string();
    [median, format!("{:.3}", found.ratio), interval, p, answer]
}

fn cut(text: &str) -> String {
    one_line(text).chars().take(WIDEST).collect()
}

/// Rows with columns of the same width.
fn aligned(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String does not fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A line a cell; what is not known is empty.
pub fn csv(matrix: &Matrix) -> String {
    let columns = Metric::ALL.map(column).join(",");
    let mut text = format!(
        "cell,kernel,tuning,load,cookies,folder,trials,base,answer,ratio,low,high,p,p_adjusted,{columns}\n"
    );
    for (number, cell) in (1..).zip(&matrix.cells) {
        let [kernel, tuning, load, cookies] = parts(cell).map(|(_, value)| quoted(&value));
        let found = cell.finding;
        let interval = found.and_then(|it| it.interval);
        let figures = [
            found.map(|it| it.ratio),
            interval.map(|it| it.low),
            interval.map(|it| it.high),
            found.map(|it| it.p),
            found.map(|it| it.p_adjusted),
        ];
        let medians = Metric::ALL.map(|metric| median(cell, metric, matrix.question.metric));
        let figures = figures.into_iter().chain(medians).map(or_empty).collect::<Vec<_>>();
        let _ = writeln!(
            text,
            "{number},{kernel},{tuning},{load},{cookies},{},{},{},{},{}",
            cell.folder,
            cell.side.trials,
            cell.base.map(|base| base.to_string()).unwrap_or_default(),
            answer(cell).map(answer_word).unwrap_or_default(),
            figures.join(",")
        );
    }
    text
}

fn median(cell: &Cell, metric: Metric, decides: Metric) -> Option<f64> {
    match cell.side.median {
        Some(median) if metric == decides => Some(median.median),
        _ => cell.others.get(&metric).copied(),
    }
}

fn or_empty(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}
