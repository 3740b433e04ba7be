// SPDX-License-Identifier: Apache-2.0
//! `schedvmm history`: where does a row of kernels change?

mod picture;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use decision::change_points::change_points;
use results::folder::LATEST;
use results::history::{History, HistorySchema, KernelOfHistory};
use results::json;
use results::metric::Metric;
use results::set_file::SetFile as _;
use results::trials::Trials;

pub use self::words::{column, quoted};

use crate::cli::HistoryArgs;
use crate::owner::file_failure;
use crate::status::{ExitStatus, Failure};
use crate::terminal;
use crate::verbs::compare::{self, Stored};

/// Reads them all, and says where they change.
///
/// # Errors
/// A folder cannot be read, or they were not measured alike.
pub fn run(args: &HistoryArgs) -> Result<ExitStatus, Failure> {
    let history = read(args)?;
    if let Some(path) = &args.picture {
        let picture = picture::svg(&history);
        fs::write(path, picture).map_err(|error| file_failure(&error, "write", path))?;
    }
    if args.json {
        terminal::product(&json::pretty(&history).map_err(Failure::internal)?)?;
    } else if args.csv {
        terminal::product(words::csv(&history).trim_end())?;
    } else {
        terminal::product(&words::table(&history))?;
    }
    let is_worse = history.changes.last().is_some_and(|change| change.ratio > 1.0);
    Ok(if is_worse { ExitStatus::OverThreshold } else { ExitStatus::Pass })
}

fn read(args: &HistoryArgs) -> Result<History, Failure> {
    let mut notes = Vec::new();
    let stored = all(args, &mut notes)?;
    let Some(first) = stored.first() else {
        return Err(Failure::request(format!(
            "no trials of these folders can be used: {}",
            notes.join("; ")
        )));
    };
    for other in &stored[1..] {
        let names = (first.side.name.as_str(), other.side.name.as_str());
        first.likeness.check(&other.likeness, names, &args.allow)?;
    }
    notes.extend(stored.iter().filter_map(|it| it.side.note()));
    let kernels: Vec<_> = stored.iter().map(|it| kernel(it, args.metric)).collect();
    let medians = kernels.iter().filter_map(|it| it.side.median);
    let medians: Vec<_> = medians.map(|median| median.median).collect();
    let unknown = kernels.len() - medians.len();
    if unknown > 0 {
        notes.push(format!("{unknown} of them do not tell {}", args.metric.name()));
    }
    let scale = compare::scale(args.metric);
    let changes = change_points(&medians, scale, args.min_effect).ok_or_else(|| {
        Failure::internal(format!("medians of {} that are no numbers", args.metric.name()))
    })?;
    Ok(History {
        schema: HistorySchema::V1,
        version: env!("CARGO_PKG_VERSION").into(),
        metric: args.metric,
        min_effect: args.min_effect,
        notes,
        conditions: compare::conditions(&first.example),
        kernels,
        changes,
    })
}

/// All trials that are named, in their order. Those in a folder of others that do not count are left
/// out, with a note; one that is named itself is to count.
fn all(args: &HistoryArgs, notes: &mut Vec<String>) -> Result<Vec<Stored>, Failure> {
    let mut stored = Vec::new();
    for folder in &args.folders {
        if Trials::is_in(folder) {
            stored.push(Stored::read(folder, &args.allow)?);
            continue;
        }
        let mut within = Vec::new();
        let paths = below(folder)?;
        if paths.is_empty() {
            return Err(Failure::request(format!(
                "there are no trials in {}; do some with `schedvmm trials N`, or leave it out",
                folder.display()
            )));
        }
        for path in paths {
            match Stored::read(&path, &args.allow) {
                Ok(found) => within.push(found),
                Err(why) => notes.push(format!("{} is left out: {why}", path.display())),
            }
        }
        within.sort_by_key(|it| (started_utc(it), it.side.name.clone()));
        stored.append(&mut within);
    }
    Ok(stored)
}

/// Folders of trials in this one.
fn below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| file_failure(&error, "list", folder))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    // The link to the newest is one of the others.
    paths.retain(|path| path.file_name().is_none_or(|name| name != LATEST) && Trials::is_in(path));
    paths.sort();
    Ok(paths)
}

fn started_utc(stored: &Stored) -> String {
    let each = stored.side.points.values().map(|point| &point.started_utc);
    each.min().cloned().unwrap_or_default()
}

fn kernel(stored: &Stored, metric: Metric) -> KernelOfHistory {
    let others = Metric::ALL.into_iter().filter(|it| *it != metric);
    let others = others.filter_map(|it| Some((it, stored.side.median(it)?.median)));
    KernelOfHistory {
        started_utc: started_utc(stored),
        side: stored.side.facts(metric),
        others: others.collect::<BTreeMap<_, _>>(),
    }
}
