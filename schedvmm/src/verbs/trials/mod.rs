// SPDX-License-Identifier: Apache-2.0
//! `schedvmm trials`, and `--runs` of the main job: many runs of one kernel, each from its own boot
//! and with its own seed, in one folder. Called again with the same folder it goes on.

pub mod lines;
pub mod series;
mod summary;

use std::path::Path;

use results::folder::{self, FolderError};
use results::json;
use results::trials::{TRIALS, Trials, TrialsSchema};

use self::series::{Boot, Run, Series, check_alike, check_version};
use crate::cli::{RunArgs, TrialsArgs};
use crate::show::Style;
use crate::status::{ExitStatus, Failure};
use crate::terminal;
use crate::verbs::measure::repeated::{Inbox, Repeated};

/// Does so many trials.
///
/// # Errors
/// What kept them from giving an answer, with the status it deserves.
pub fn run(args: &TrialsArgs) -> Result<ExitStatus, Failure> {
    check_options(&args.run)?;
    let output = args.run.show.output.as_deref();
    // A folder of something else is refused before anything is done.
    let there = earlier(output)?;
    let inbox = Inbox::new()?;
    let kernel = Repeated::open(&args.run, there.as_ref().map(|it| it.conditions.seed))?;
    let conditions = kernel.conditions();
    let mut machines = Machines { kernel, inbox };
    let started_utc = folder::started_utc();
    let (trials, folder) = match there.zip(output) {
        Some((there, folder)) => {
            check_version(&there, folder)?;
            check_alike(&there.conditions, &conditions, folder)?;
            (there, folder.to_owned())
        }
        None => {
            let folder = folder::make(output, &started_utc.replace(':', ""))?;
            (Trials { started_utc, ..Trials::new(conditions) }, folder)
        }
    };
    let trials = Trials {
        schema: TrialsSchema::V1,
        version: env!("CARGO_PKG_VERSION").into(),
        command_line: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect(),
        working_directory: std::env::current_dir().ok(),
        planned: args.count,
        until: args.until(),
        ..trials
    };
    let mut series = Series::new(trials, folder);
    let style = Style::of(&args.run.show);
    if style == Style::Screen {
        terminal::out(&lines::first(&series));
    }
    let went_on = series.go_on(&mut machines, |series| {
        if style == Style::Screen {
            terminal::out(&lines::attempt(series));
        }
    });
    let summary = summary::of(&series.trials);
    match style {
        Style::Json => {
            let trials = Trials { summary: Some(summary), ..series.trials.clone() };
            terminal::out(&json::pretty(&trials).map_err(Failure::internal)?);
        }
        _ => terminal::out(&lines::table(&series, &summary)),
    }
    went_on?;
    series.status(machines.signal())
}

/// What they print at their end.
pub fn table(series: &Series) -> String {
    lines::table(series, &summary::of(&series.trials))
}

/// Refuses options that are of one run only.
///
/// # Errors
/// The option.
pub fn check_options(args: &RunArgs) -> Result<(), Failure> {
    let of_one =
        [("--compat", args.show.compat), ("--trace-file", args.trace.trace_file.is_some())];
    match of_one.into_iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Failure::request(format!(
            "{option} is of one run, and trials are many; leave it out (each trial has a folder with \
             its own files)"
        ))),
        None => Ok(()),
    }
}

/// The trials that are in a folder already; `None` where it is new or empty.
fn earlier(output: Option<&Path>) -> Result<Option<Trials>, Failure> {
    let Some(folder) = output else { return Ok(None) };
    match folder::check(output) {
        Ok(()) => Ok(None),
        Err(FolderError::NotEmpty(_)) if folder.join(TRIALS).exists() => {
            Ok(Some(Trials::open(folder)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Of one kernel.
struct Machines {
    kernel: Repeated,
    inbox: Inbox,
}

impl Boot for Machines {
    fn boot(&mut self, seed: u64, folder: &Path) -> Result<Run, Failure> {
        let (result, kept) = self.kernel.measure(seed, folder, &mut self.inbox)?;
        Ok(Run { result, kept })
    }

    fn signal(&self) -> Option<i32> {
        crate::signals::received()
    }
}
