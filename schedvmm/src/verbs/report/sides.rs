// SPDX-License-Identifier: Apache-2.0
//! Many trials of a kernel, or of several: what a page shows of each.

use std::path::{Path, PathBuf};

use results::comparison::Comparison;
use results::metric::Metric;
use results::model::RunResult;
use results::saved::Saved;
use results::set_file::SetFile as _;
use results::trials::Trials;

use super::distribution::{self, Lengths};
use super::why::Why;
use super::{complete_from_gaps, why_of};
use crate::status::Failure;
use crate::verbs::compare;

/// The trials of a kernel, or of a setting.
pub struct Side {
    /// As it was named.
    pub name: String,
    /// All that is known of them.
    pub trials: Trials,
    /// Gaps of all of them, with their counts.
    pub lengths: Lengths,
    /// The trial with the longest gap; `None` where none counts.
    pub worst: Option<Worst>,
}

/// A trial, and why its longest gap was.
pub struct Worst {
    /// Its number.
    pub trial: u32,
    /// Its result.
    pub result: RunResult,
    /// What the trace says.
    pub why: Result<Why, String>,
}

/// What a page is of.
pub struct Sides {
    /// The base first.
    pub sides: Vec<Side>,
    /// What the others come to beside it; `None` of one alone.
    pub comparison: Option<Comparison>,
    /// The figure of the pictures.
    pub metric: Metric,
}

/// Whether a folder has many trials.
pub fn is_many(path: &Path) -> bool {
    Trials::is_in(path) || Comparison::is_in(path)
}

impl Sides {
    /// Reads folders of trials, or one of a comparison.
    ///
    /// # Errors
    /// One of them is none, or they cannot be compared.
    pub fn read(paths: &[PathBuf], metric: Metric) -> Result<Self, Failure> {
        if let [path] = paths {
            if Comparison::is_in(path) {
                return of_comparison(path);
            }
            let side = Side::read(path, path.display().to_string())?;
            return Ok(Self { sides: vec![side], comparison: None, metric });
        }
        let comparison = compare::of_folders(paths, metric)?;
        let sides = paths.iter().map(|path| Side::read(path, path.display().to_string()));
        let sides = sides.collect::<Result<_, _>>()?;
        Ok(Self { sides, comparison: Some(comparison), metric })
    }
}

/// The sides that a comparison has measured, under the names that they had.
fn of_comparison(path: &Path) -> Result<Sides, Failure> {
    let comparison = Comparison::open(path)?;
    let others = comparison.others.iter().map(|versus| &versus.side.name);
    let names = std::iter::once(&comparison.base.name).chain(others);
    let sides = names
        .zip('a'..='z')
        .map(|(name, letter)| Side::read(&path.join(letter.to_string()), name.clone()));
    let sides = sides.collect::<Result<_, _>>()?;
    let metric = comparison.metric;
    Ok(Sides { sides, comparison: Some(comparison), metric })
}

impl Side {
    fn read(folder: &Path, name: String) -> Result<Self, Failure> {
        let trials = Trials::open(folder)?;
        let mut lengths = Lengths::new();
        let mut longest: Option<(u32, PathBuf, u64)> = None;
        for attempt in trials.measured() {
            let at = folder.join(&attempt.folder);
            let mut saved = Saved::open(&at)?;
            complete_from_gaps(&mut saved);
            distribution::add(&mut lengths, &saved.result);
            let length_ns = saved.result.longest_gap_ns.unwrap_or(0);
            if longest.as_ref().is_none_or(|(_, _, most)| length_ns > *most) {
                longest = Some((attempt.trial, at, length_ns));
            }
        }
        let worst = longest.map(|(trial, at, _)| {
            let saved = Saved::open(&at)?;
            let why = why_of(&saved);
            Ok::<_, Failure>(Worst { trial, why, result: saved.result })
        });
        Ok(Self { name, trials, lengths, worst: worst.transpose()? })
    }
}
