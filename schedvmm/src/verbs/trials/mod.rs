// SPDX-License-Identifier: Apache-2.0
//! `schedvmm trials`, and `--runs` of the main job: many runs of one kernel, each from its own boot
//! and with its own seed, in one folder. Called again with the same folder it goes on.

pub mod lines;
pub mod series;
mod summary;

use std::path::Path;

use results::folder::{self, FolderError};
use results::json;
use results::set_file::SetFile as _;
use results::trials::Trials;

pub use self::summary::of_metric as median_of;

use self::series::{Boot, Run, Series};
use crate::cli::{RunArgs, TrialsArgs};
use crate::show::Style;
use crate::status::{ExitStatus, Failure};
use crate::terminal::{self, one_line};
use crate::verbs::measure::repeated::{Inbox, Repeated};

/// Does so many trials.
///
/// # Errors
/// What kept them from giving an answer, with the status it deserves.
pub fn run(args: &TrialsArgs) -> Result<ExitStatus, Failure> {
    check_options(&args.run)?;
    let output = args.run.show.output.as_deref();
    // A folder of something else is refused before anything is done.
    let there = earlier(output, "")?;
    let inbox = Inbox::new()?;
    let kernel = Repeated::open(&args.run, there.as_ref().map(|it| it.conditions.seed))?;
    let folder = match output.filter(|_| there.is_some()) {
        Some(folder) => folder.to_owned(),
        None => folder::make(output, &folder::started_utc().replace(':', ""))?,
    };
    let _lock = folder::lock(&folder)?;
    // As it is now that nobody else writes to it.
    let there = there.map(|_| Trials::open(&folder)).transpose()?;
    let mut series = Series::begin(folder, there, kernel.conditions())?;
    (series.trials.planned, series.trials.until) = (args.count, args.until());
    let style = Style::of(&args.run.show);
    if style == Style::Screen {
        terminal::out(&lines::first(&series));
        kernel.notes().for_each(|note| terminal::out(&format!("note: {}", one_line(note))));
    }
    let mut machines = Machines { kernel, inbox };
    let went_on = series.go_on(&mut machines, |series| {
        if style == Style::Screen {
            terminal::out(&lines::attempt(series));
        }
    });
    match style {
        Style::Json => {
            let summary = Some(summary::of(&series.trials));
            let trials = Trials { summary, ..series.trials.clone() };
            terminal::out(&json::pretty(&trials).map_err(Failure::internal)?);
        }
        _ => terminal::out(&lines::table(&series.trials, &series.folder)),
    }
    went_on?;
    series.status(machines.signal())
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

/// The trials that are in a folder already, or in one in it; `None` where it is new or empty.
///
/// # Errors
/// There is something else in it.
pub fn earlier(output: Option<&Path>, within: &str) -> Result<Option<Trials>, Failure> {
    let Some(folder) = output else { return Ok(None) };
    let first = folder.join(within);
    match folder::check(output) {
        Ok(()) => Ok(None),
        Err(FolderError::NotEmpty(_)) if Trials::is_in(&first) => Ok(Some(Trials::open(&first)?)),
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
