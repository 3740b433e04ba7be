// SPDX-License-Identifier: Apache-2.0
//! `schedvmm list`: results found again, a line each.

use std::fs;
use std::path::{Path, PathBuf};

use results::bisection::Bisection;
use results::comparison::Comparison;
use results::folder::{LATEST, PARENT, RESULT};
use results::matrix::Matrix;
use results::saved::Saved;
use results::set_file::SetFile as _;
use results::trials::{State, Trials};

use crate::owner::file_failure;
use crate::status::{ExitStatus, Failure};
use crate::terminal::{self, one_line};
use crate::units::show_ns;

/// A folder with something of ours.
struct Found {
    started_utc: String,
    name: String,
    what: String,
}

/// Lists what is in a folder, by default `results/`, the oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn run(named: Option<&Path>) -> Result<ExitStatus, Failure> {
    let folder = named.unwrap_or(Path::new(PARENT));
    let entries = fs::read_dir(folder).map_err(|error| file_failure(&error, "list", folder))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // The link to the newest is one of the others.
    paths.retain(|path| path.file_name().is_none_or(|name| name != LATEST));
    let mut found: Vec<_> = paths.iter().filter_map(|path| found(path)).collect();
    found.sort_by(|a, b| (&a.started_utc, &a.name).cmp(&(&b.started_utc, &b.name)));
    for Found { started_utc, name, what } in &found {
        terminal::product(&one_line(&format!("{started_utc:<20}  {name}  {what}")))?;
    }
    if found.is_empty() {
        terminal::err(&format!("schedvmm: there is no result in {}", folder.display()));
    }
    Ok(ExitStatus::Pass)
}

/// What is in it; `None` where it is nothing of ours. What cannot be read says why.
fn found(path: &Path) -> Option<Found> {
    let read = if Trials::is_in(path) {
        Trials::open(path).map(|it| trials(&it)).map_err(Failure::from)
    } else if Comparison::is_in(path) {
        Comparison::open(path).map(|it| comparison(path, &it)).map_err(Failure::from)
    } else if Matrix::is_in(path) {
        Matrix::open(path).map(|it| matrix(&it)).map_err(Failure::from)
    } else if Bisection::is_in(path) {
        Bisection::open(path).map(|it| bisection(&it)).map_err(Failure::from)
    } else if path.join(RESULT).is_file() {
        Saved::open(path).map(|saved| one(&saved)).map_err(Failure::from)
    } else {
        return None;
    };
    let name = path.display().to_string();
    let (started_utc, what) = read.unwrap_or_else(|why| ("-".to_owned(), why.to_string()));
    Some(Found { started_utc, name, what })
}

fn one(saved: &Saved) -> (String, String) {
    let result = &saved.result;
    let hello = result.kernel.hello.as_ref();
    let release = hello.map_or(result.kernel.path.as_str(), |hello| &hello.release);
    let longest = result.longest_gap_ns.map_or_else(|| "no gap".to_owned(), show_ns);
    let seconds = result.job.load.duration;
    let what =
        format!("run of {release}, {seconds:?}: {}, longest {longest}", result.verdict.name());
    (result.started_utc.clone(), what)
}

fn trials(trials: &Trials) -> (String, String) {
    let over = trials.measured().filter(|attempt| attempt.failed()).count();
    let kernel = trials.conditions.kernel.path.display();
    let (measured, planned) = (trials.count(State::Measured), trials.planned);
    let what = format!("{measured} of {planned} trials of {kernel}: {over} failed");
    (trials.started_utc.clone(), what)
}

fn comparison(path: &Path, comparison: &Comparison) -> (String, String) {
    // That of its first side.
    let started_utc = Trials::open(&path.join("a")).map(|trials| trials.started_utc);
    let others = comparison.others.iter().map(|versus| {
        let answer = super::compare::answer_word(versus.answer);
        format!("{} is {answer}", versus.side.name)
    });
    let others: Vec<_> = others.collect();
    let what = format!("comparison with {}: {}", comparison.base.name, others.join(", "));
    (started_utc.unwrap_or_else(|_| "-".to_owned()), what)
}

fn matrix(matrix: &Matrix) -> (String, String) {
    let counts = super::matrix::counts(matrix);
    let (cells, trials) = (matrix.cells.len(), matrix.question.trials);
    (
        matrix.started_utc.clone(),
        format!("matrix of {cells} cells, {trials} trials of each: {counts}"),
    )
}

fn bisection(state: &Bisection) -> (String, String) {
    let found = match state.found.as_slice() {
        [] => "not found yet".to_owned(),
        [found] => format!("{} {}", found.commit, found.subject),
        several => format!("one of {} commits", several.len()),
    };
    let what = format!("search of {} commits, {} runs: {found}", state.commits, state.runs.len());
    (state.started_utc.clone(), what)
}
