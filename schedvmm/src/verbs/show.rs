// SPDX-License-Identifier: Apache-2.0
//! `schedvmm show`: what a run, trials, a comparison, a matrix or a search printed at the end, printed again.

use std::path::{Path, PathBuf};

use results::bisection::Bisection;
use results::comparison::Comparison;
use results::folder::{LATEST, PARENT};
use results::matrix::Matrix;
use results::saved::Saved;
use results::set_file::SetFile as _;
use results::trials::Trials;

use crate::status::{ExitStatus, Failure};
use crate::verbs::trials::lines;
use crate::verbs::{bisect, compare, matrix};
use crate::{show, terminal};

/// Prints the end of what is in a folder, by default the newest.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn run(named: Option<&Path>) -> Result<ExitStatus, Failure> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => latest()?,
    };
    terminal::product(&text(&path)?)?;
    Ok(ExitStatus::Pass)
}

/// The newest, by its own name.
fn latest() -> Result<PathBuf, Failure> {
    let link = Path::new(PARENT).join(LATEST);
    let target = link.read_link().map_err(|error| {
        Failure::request(format!(
            "there is no {}: {error}; name a result, or call it where `results/` is",
            link.display()
        ))
    })?;
    Ok(Path::new(PARENT).join(target))
}

fn text(path: &Path) -> Result<String, Failure> {
    if Trials::is_in(path) {
        return Ok(lines::table(&Trials::open(path)?, path));
    }
    if Comparison::is_in(path) {
        return Ok(compare::screen(&Comparison::open(path)?));
    }
    if Matrix::is_in(path) {
        return Ok(matrix::screen(&Matrix::open(path)?, path));
    }
    if Bisection::is_in(path) {
        return Ok(bisect::screen(&Bisection::open(path)?, path));
    }
    let saved = Saved::open(path)?;
    Ok(show::end_of(&saved.result, &saved.folder))
}
