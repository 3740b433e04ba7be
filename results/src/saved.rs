// SPDX-License-Identifier: Apache-2.0
//! A result folder read back, wherever it lies: what every verb that takes a result reads. Results
//! are files that anybody may have written: they are checked before they are believed.

use std::path::{Path, PathBuf};
use std::{fs, io};

use ftrace::TraceId;
use serde::Deserialize;
use serde_json::Value;

use crate::error::ResultError;
use crate::folder::{OWN_FILES, RESULT};
use crate::gaps_csv::{self, Names};
use crate::host_cpus::HostCpus;
use crate::model::{LocatedGap, Metric, Numbers, RunResult, Schema, Steal};
use crate::upgrade::{self, FIRST_SCHEMA, SECOND_SCHEMA, THIRD_SCHEMA};

/// What a run that was killed may have left of its trace, the whole one first.
const LEFT: [&str; 2] = ["trace.dat", "trace.dat.raw"];

/// A result that has been read, in the form of this version.
#[derive(Debug)]
pub struct Saved {
    /// Contents of `result.json`.
    pub result: RunResult,
    /// The folder it lies in, with its other files.
    pub folder: PathBuf,
    path: PathBuf,
    /// Of a result of the first version, which counts threads over all groups: who they are, in
    /// order.
    older: Option<Vec<Numbers>>,
}

impl Saved {
    /// Reads the result in a folder, or this very file.
    ///
    /// # Errors
    /// It is not there, or no result of a schema that is known here.
    pub fn open(path: &Path) -> Result<Self, ResultError> {
        let path = if path.is_dir() { path.join(RESULT) } else { path.to_owned() };
        let text = read_file(&path).map_err(|why| ResultError::Read { path: path.clone(), why })?;
        let (result, older) = parse(&text, &path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { result, folder, path, older })
    }

    /// It is not what it should be.
    pub fn none(&self, why: String) -> ResultError {
        ResultError::NoResult { path: self.path.clone(), why }
    }

    /// Its single gaps, in the order of their file.
    ///
    /// # Errors
    /// There is no such file, or it is not as it should be.
    pub fn gaps(&self) -> Result<Vec<LocatedGap>, ResultError> {
        let path = self.folder.join(gaps_csv::NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(why) => return Err(ResultError::GapsFile { path, why }),
        };
        let names = self.older.as_deref().map_or(Names::Shown, Names::Counted);
        gaps_csv::read(&text, names).map_err(|why| ResultError::Gaps { path, why })
    }

    /// Why there is no gap of this thread among them.
    pub fn why_no_gap(&self, who: Numbers) -> String {
        let RunResult { threads, .. } = &self.result;
        if threads.iter().any(|thread| thread.who == who) {
            return format!("{} had no gap that was recorded", who.name(self.result.kind()));
        }
        let known = threads
            .iter()
            .map(|thread| thread.who)
            .min()
            .zip(threads.iter().map(|thread| thread.who).max())
            .map_or_else(
                || "the result knows no thread".into(),
                |(first, last)| format!("the run's are {first} to {last}"),
            );
        format!("there is no such thread; {known}")
    }

    /// Where the trace is: beside the result, also if the folder has been moved, or where it
    /// was written.
    ///
    /// # Errors
    /// There is none, or it is gone.
    pub fn trace_path(&self) -> Result<PathBuf, ResultError> {
        let result = &self.result;
        let Some(file) = result.trace.file.as_ref().map(Path::new) else {
            // Who is killed while the trace comes out has no result that says so.
            let left = LEFT.map(|name| self.folder.join(name));
            let left = left.into_iter().find(|path| path.is_file());
            return left
                .filter(|_| result.exit_status.is_none())
                .ok_or_else(|| ResultError::NoTrace(why_no_trace(result).to_owned()));
        };
        let beside = file.file_name().map(|name| self.folder.join(name));
        let there = result.working_directory.as_ref().map(|directory| directory.join(file));
        let places = [beside, there, Some(file.to_owned())];
        let found = places.into_iter().flatten().find(|path| path.is_file());
        found.ok_or_else(|| ResultError::TraceGone(file.to_owned()))
    }

    /// Refuses to write over what the run has left: its trace, and the other files in its folder.
    ///
    /// # Errors
    /// `path`, which this option names, is one of them.
    pub fn spare(&self, option: &str, path: &Path) -> Result<(), ResultError> {
        let Ok(target) = path.canonicalize() else { return Ok(()) };
        let own = OWN_FILES.map(|name| self.folder.join(name));
        let mut own = own.into_iter().chain(self.trace_path().ok());
        if own.any(|own| own.canonicalize().is_ok_and(|own| own == target)) {
            return Err(ResultError::OwnFile { option: option.into(), path: path.to_owned() });
        }
        Ok(())
    }
}

/// The result that a command with `--json` has printed.
///
/// # Errors
/// It is no result of a schema that is known here.
pub fn printed(text: &str) -> Result<RunResult, ResultError> {
    parse(text, Path::new("stdout")).map(|(result, _)| result)
}

/// A result in the form of this version; of the first version, who its threads are.
fn parse(text: &str, path: &Path) -> Result<(RunResult, Option<Vec<Numbers>>), ResultError> {
    let mut value: Value =
        serde_json::from_str(text).map_err(|error| no_result(error.to_string(), path))?;
    let schema = value["schema"].as_str().unwrap_or_default().to_owned();
    let older = match schema.as_str() {
        FIRST_SCHEMA => Some(upgrade::from_first(&mut value).map_err(|why| no_result(why, path))?),
        SECOND_SCHEMA | THIRD_SCHEMA | Schema::NAME => None,
        _ => return Err(ResultError::Schema { path: path.to_owned(), schema }),
    };
    if older.is_some() || schema == SECOND_SCHEMA {
        upgrade::from_second(&mut value);
    }
    if schema != Schema::NAME {
        upgrade::from_third(&mut value);
    }
    upgrade::fill_in(&mut value);
    let mut result =
        RunResult::deserialize(&value).map_err(|error| no_result(error.to_string(), path))?;
    check(&result).map_err(|why| no_result(why, path))?;
    if older.is_some() {
        // The first version did not say it.
        result.core_figures = HostCpus::of_result(&result).core_figures(&Steal::default());
    }
    if older.is_none()
        && let Some(key) = upgrade::lacking(&value, &result)
    {
        return Err(no_result(format!("missing field `{key}`"), path));
    }
    if result.summary.0.is_empty() {
        result.summary = Metric::summary(&result);
    }
    Ok((result, older))
}

fn no_result(why: String, path: &Path) -> ResultError {
    ResultError::NoResult { path: path.to_owned(), why }
}

/// Whether a trace with this identity is the one of a result. `Ok` with a remark where nobody can
/// tell.
///
/// # Errors
/// It is another's.
pub fn check_identity(
    result: &RunResult,
    trace: &Path,
    found: Option<TraceId>,
) -> Result<Option<String>, ResultError> {
    let wanted = result.job.trace.as_ref().and_then(|trace| trace.id);
    match (wanted, found) {
        (None, None) => Ok(Some(format!(
            "Neither this result nor {} has an identity: that they belong together is taken for \
             granted.",
            trace.display()
        ))),
        _ if wanted == found => Ok(None),
        _ => Err(ResultError::OtherTrace {
            path: trace.to_owned(),
            found: id_or_none(found),
            wanted: id_or_none(wanted),
        }),
    }
}

fn id_or_none(id: Option<TraceId>) -> String {
    id.map_or_else(|| "none".into(), |id| id.to_string())
}

/// What types alone do not say.
fn check(result: &RunResult) -> Result<(), String> {
    for (key, gap) in
        [("longest_gap", &result.longest_gap), ("threshold_hit", &result.threshold_hit)]
    {
        if gap.is_some_and(|gap| gap.tsc_end < gap.tsc_begin) {
            return Err(format!("{key} ends before it begins"));
        }
    }
    Ok(())
}

/// Why a result has no trace, as it says itself.
fn why_no_trace(result: &RunResult) -> &str {
    let events = result.setup.as_ref().map(|setup| setup.trace_events.as_slice());
    // What is noted of a trace that was there may be about a part of it.
    let was_there = events.is_some_and(|events| !events.is_empty());
    match (&result.job.trace, result.trace.note.as_deref()) {
        (None, _) => "none was wanted (--trace off)",
        (Some(_), Some(note)) if !was_there => note,
        (Some(_), None) if result.setup.is_none() && result.exit_status.is_some() => {
            "the run ended before its load began"
        }
        (Some(_), _) if result.exit_status.is_none() => {
            "the run was killed, and a trace comes out at the end"
        }
        (Some(spec), _) if !spec.dump.wanted(result.threshold_hit.is_some()) => {
            "no gap passed the threshold, and the trace of such a run is only kept with \
             --trace-dump always"
        }
        (Some(_), Some(note)) => note,
        (Some(_), None) => "the result does not say why",
    }
}

/// All of a regular file: a device may have no end, and a pipe may never begin.
fn read_file(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests;
