// SPDX-License-Identifier: Apache-2.0
//! `schedvmm matrix`: kernels, tunables, loads and cookies, each with each, many trials of each, and
//! which cells are better than their base, the same, or worse.
//!
//! [`mod@file`] reads what is asked, [`cells`] what follows from it, [`mod@runs`] does the trials, [`words`] and
//! [`heat`] tell of them.

mod cells;
mod file;
mod heat;
mod runs;
mod words;

use std::io::Write as _;
use std::path::Path;

use decision::matrix::judge_cells;
use decision::sequential::Answer;
use results::folder::{self, FolderError};
use results::json;
use results::matrix::{Cell, Matrix, MatrixQuestion, MatrixSchema};
use results::metric::Metric;
use results::set_file::SetFile as _;
use results::trials::{Conditions, Ended, State};

pub use self::heat::render as page;
pub use self::words::{counts, table as screen};

use self::cells::Place;
use self::file::{Asked as Wanted, Written};
use self::runs::Runs;
use self::words::answer;
use crate::cli::MatrixArgs;
use crate::status::{ExitStatus, Failure};
use crate::verbs::compare::{self, Asked, Machines, Side};
use crate::verbs::measure::repeated::{Inbox, Repeated};
use crate::verbs::trials::series::{Run, Series};
use crate::{alike, signals, terminal};

/// Beside `matrix.json`, for programs that read tables.
const CSV: &str = "matrix.csv";
/// A heat map.
const HTML: &str = "matrix.html";

/// Does all trials, and says what they come to.
///
/// # Errors
/// What kept it from an answer. What was measured is kept.
pub fn run(args: &MatrixArgs) -> Result<ExitStatus, Failure> {
    let wanted = Written::read(&args.file)?.asked()?;
    let output = args.output.as_deref();
    let there = earlier(output)?;
    let inbox = Inbox::new()?;
    let seed = wanted.seed.or(there.as_ref().map(|it| it.question.seed));
    let (mut machines, conditions) = Kernels::open(&wanted, seed, inbox)?;
    let question = MatrixQuestion { seed: conditions[0].seed, ..wanted.question };
    check_alike(&question, &conditions)?;
    let folder = match output.filter(|_| there.is_some()) {
        Some(folder) => folder.to_owned(),
        None => folder::make(output, &folder::started_utc().replace(':', ""))?,
    };
    let _lock = folder::lock(&folder)?;
    // As it is now that nobody else writes to it.
    let there = earlier(output)?.filter(|_| there.is_some());
    if let Some(there) = &there {
        check_question(&there.question, &question, &folder)?;
    }
    let started_utc = there.map_or_else(folder::started_utc, |it| it.started_utc);
    let plan = begin(question, started_utc, machines.notes());
    // What is asked is in the file before the first run, and stays.
    plan.write(&folder)?;
    let mut runs = runs(&plan, conditions, &folder)?;
    if !args.json {
        terminal::out(&words::first(&plan, &runs, &folder));
    }
    let went_on = runs.go_on(&mut machines, |runs| {
        if !args.json {
            terminal::out(&words::attempt(&plan, runs));
        }
    });
    let matrix = found(plan, &runs)?;
    keep(&matrix, &folder)?;
    match args.json {
        true => terminal::product(&json::pretty(&matrix).map_err(Failure::internal)?)?,
        false => terminal::product(&words::table(&matrix, &folder))?,
    }
    went_on?;
    Ok(runs.status(signals::received())?.unwrap_or_else(|| status(&matrix)))
}

/// The matrix that is in a folder already; `None` where it is new or empty.
fn earlier(output: Option<&Path>) -> Result<Option<Matrix>, Failure> {
    let Some(folder) = output else { return Ok(None) };
    match folder::check(output) {
        Ok(()) => Ok(None),
        Err(FolderError::NotEmpty(_)) if Matrix::is_in(folder) => Ok(Some(Matrix::open(folder)?)),
        Err(error) => Err(error.into()),
    }
}

/// Refuses another question than the one that a folder's runs were measured for.
fn check_question(
    there: &MatrixQuestion,
    now: &MatrixQuestion,
    folder: &Path,
) -> Result<(), Failure> {
    let found = alike::differences(there, now, &[])
        .map_err(|error| Failure::internal(error.to_string()))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::request(format!(
        "the matrix in {} asks something else: {}; give it the file that it was begun with, or name \
         another folder with --output",
        folder.display(),
        alike::list(&found)
    )))
}

/// Cells that are compared differ in what the lists say, and in nothing else.
fn check_alike(question: &MatrixQuestion, conditions: &[Conditions]) -> Result<(), Failure> {
    let places = Place::all(question);
    for (place, conditions_of) in places.iter().zip(conditions) {
        let base = place.base(question);
        let at = places.iter().position(|it| *it == base).unwrap_or(0);
        // Asked anew for each cell.
        let mut ignored = vec!["host.load_average"];
        if base.kernel != place.kernel {
            ignored.extend(compare::KERNELS);
        }
        let other_load = base.load != place.load;
        let of_load = [
            ("job.tune", base.tuning != place.tuning),
            ("job.cosched", base.cookies != place.cookies),
            ("job.load.name", other_load),
            ("job.load.shape", other_load),
        ];
        ignored.extend(of_load.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name));
        let found = alike::differences(&conditions[at], conditions_of, &ignored)
            .map_err(|error| Failure::internal(error.to_string()))?;
        if !found.is_empty() {
            return Err(Failure::request(format!(
                "{} and {} would not be measured alike: {}; give what is listed in `options` \
                 (--l2-memory, for one)",
                base.name(question),
                place.name(question),
                alike::list(&found)
            )));
        }
    }
    Ok(())
}

/// A matrix before its first trial.
fn begin(question: MatrixQuestion, started_utc: String, notes: Vec<String>) -> Matrix {
    let places = Place::all(&question);
    let cells = (1..).zip(&places).map(|(number, place)| {
        let base = place.base(&question);
        let parts = place.parts(&question);
        Cell {
            kernel: parts.kernel.to_owned(),
            tuning: parts.tuning.to_owned(),
            load: parts.load.to_owned(),
            cookies: parts.cookies,
            folder: format!("cell-{number:03}"),
            side: Side::empty(place.name(&question)).facts(question.metric),
            base: places.iter().position(|it| *it == base && it != place).map(|at| at + 1),
            finding: None,
            withheld: None,
            others: [].into(),
        }
    });
    Matrix {
        schema: MatrixSchema::V1,
        version: env!("CARGO_PKG_VERSION").into(),
        started_utc,
        order: cells::order(question.seed, places.len(), question.trials),
        notes,
        conditions: String::new(),
        level: 0.0,
        cells: cells.collect(),
        question,
    }
}

/// The trials of all cells that are there, or none yet.
fn runs(matrix: &Matrix, conditions: Vec<Conditions>, folder: &Path) -> Result<Runs, Failure> {
    let mut all = Vec::new();
    for (cell, conditions) in matrix.cells.iter().zip(conditions) {
        let mut series = Series::begin_in(folder.join(&cell.folder), conditions)?;
        series.trials.planned = matrix.question.trials;
        all.push(series);
    }
    Ok(Runs::new(all, matrix.order.clone()))
}

/// What the trials come to: of each cell its medians, and once all are done the answers. Before, nobody
/// looks.
fn found(matrix: Matrix, runs: &Runs) -> Result<Matrix, Failure> {
    let Matrix { question, mut cells, mut notes, .. } = matrix;
    let metric = question.metric;
    let examples: Vec<_> = runs.series.iter().map(compare::example).collect();
    let mut sides = Vec::new();
    for ((cell, series), example) in cells.iter_mut().zip(&runs.series).zip(&examples) {
        let kernel = example.as_ref().map(compare::kernel).unwrap_or_default();
        let side = Side { kernel, ..Side::new(cell.side.name.clone(), &series.trials) };
        cell.side = side.facts(metric);
        let others = Metric::ALL.into_iter().filter(|it| *it != metric);
        cell.others = others.filter_map(|it| Some((it, side.median(it)?.median))).collect();
        notes.extend(side.note());
        notes.extend(words::cookies_note(cell, &series.trials));
        sides.push(side);
    }
    let conditions = examples.iter().flatten().next().map(compare::conditions);
    let mut matrix =
        Matrix { cells, notes, conditions: conditions.unwrap_or_default(), question, ..matrix };
    if runs.is_done() {
        judge(&mut matrix, &sides, runs)?;
    } else {
        matrix.notes.push(words::unfinished(&matrix, runs));
    }
    Ok(matrix)
}

/// The answers of all cells.
fn judge(matrix: &mut Matrix, sides: &[Side], runs: &Runs) -> Result<(), Failure> {
    let MatrixQuestion { metric, min_effect, trials, .. } = matrix.question;
    let question = Asked { metric, min_effect }.question()?;
    let mut compared = Vec::new();
    let mut left_out = Vec::new();
    for (cell, side) in matrix.cells.iter().zip(sides) {
        let Some(base) = cell.base else { continue };
        let (differences, without) = compare::differences(metric, &sides[base - 1], side);
        compared.push(differences);
        left_out.push(without);
    }
    let found = judge_cells(question, &compared);
    matrix.level = found.level;
    let of_cells = matrix.cells.iter_mut().zip(sides).filter(|(cell, _)| cell.base.is_some());
    for ((cell, side), (finding, left_out)) in of_cells.zip(found.cells.iter().zip(left_out)) {
        let base = &sides[cell.base.unwrap_or(1) - 1];
        let reached = finding.map_or(Answer::Undecided, |finding| finding.answer);
        cell.finding = *finding;
        let both = ([base, side], u32::MAX);
        cell.withheld =
            missing(&both.0, trials).or_else(|| compare::withheld(metric, left_out, both, reached));
    }
    for (cell, series) in matrix.cells.iter().zip(&runs.series) {
        if series.trials.ended == Some(Ended::Untestable) {
            let last = series.trials.attempts.iter().rfind(|it| it.state == State::Untestable);
            let why = last.map_or("", |attempt| &attempt.why);
            matrix.notes.push(format!("{} could not be tested: {why}", cell.side.name));
        }
    }
    matrix.notes.extend(words::too_few(matrix));
    Ok(())
}

/// Whether a side lacks trials.
fn missing(sides: &[&Side; 2], trials: u32) -> Option<String> {
    sides.iter().find(|side| side.points.len() < trials as usize).map(|side| {
        format!(
            "{} of {trials} trials of {} are missing",
            trials as usize - side.points.len(),
            side.name
        )
    })
}

/// Keeps it in all forms.
fn keep(matrix: &Matrix, folder: &Path) -> Result<(), Failure> {
    matrix.write(folder)?;
    let html = heat::render(matrix).into_string();
    for (name, text) in [(CSV, words::csv(matrix)), (HTML, terminal::plain(&html).into_owned())] {
        folder::write_whole(&folder.join(name), |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// Worse before undecided, and that before the rest.
fn status(matrix: &Matrix) -> ExitStatus {
    let answers: Vec<_> = matrix.cells.iter().filter_map(answer).collect();
    if answers.contains(&Answer::Worse) {
        ExitStatus::OverThreshold
    } else if answers.contains(&Answer::Undecided) {
        ExitStatus::Untestable
    } else {
        ExitStatus::Pass
    }
}

/// Kernels, each read once, and what each cell does with one of them.
struct Kernels {
    kernels: Vec<Repeated>,
    /// The kernel of each cell, and the number of its job.
    jobs: Vec<(usize, usize)>,
    inbox: Inbox,
}

impl Kernels {
    /// Opens all kernels. Returns the conditions of each cell, too.
    fn open(
        wanted: &Wanted,
        seed: Option<u64>,
        inbox: Inbox,
    ) -> Result<(Self, Vec<Conditions>), Failure> {
        let mut kernels: Vec<Repeated> = Vec::new();
        let (mut jobs, mut conditions) = (Vec::new(), Vec::new());
        for (place, run) in &wanted.cells {
            // The same seeds for all: those of the first.
            let seed = kernels.first().map(|first| first.conditions().seed).or(seed);
            let job = match kernels.get_mut(place.kernel) {
                Some(kernel) => kernel.add(run)?,
                None => {
                    kernels.push(Repeated::open(run, seed)?);
                    0
                }
            };
            jobs.push((place.kernel, job));
            conditions.push(kernels[place.kernel].conditions_of(job));
        }
        Ok((Self { kernels, jobs, inbox }, conditions))
    }

    /// What is to be said of all runs.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        for note in self.kernels.iter().flat_map(Repeated::notes) {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        notes
    }
}

impl Machines for Kernels {
    fn boot(&mut self, cell: usize, seed: u64, folder: &Path) -> Result<Run, Failure> {
        let (kernel, job) = self.jobs[cell];
        let measured = self.kernels[kernel].measure_job(job, seed, folder, &mut self.inbox);
        let (result, kept) = measured?;
        Ok(Run { result, kept })
    }

    fn signal(&self) -> Option<i32> {
        signals::received()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
