// SPDX-License-Identifier: Apache-2.0
//! `schedvmm bisect`: the first bad commit of a kernel's history, by runs that hit only now and then.
//!
//! [`hunt`] decides what comes next, [`build`] builds kernels in a work tree of their own, [`machines`] runs
//! them, [`git`] is what is asked of git, and [`log`] what `git bisect` reads.

mod build;
mod git;
mod hunt;
mod log;
mod machines;
mod words;

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use clap::Parser;
use results::bisection::{BisectEnded, BisectQuestion, Bisection, Hit};
use results::folder::{self, FolderError};
use results::json;
use results::metric::Quantity;
use results::set_file::SetFile as _;
use results::trials::State;

pub use self::build::become_shell;
pub use self::words::end as screen;

use self::build::{Builder, Recipe};
use self::git::Git;
use self::hunt::{Done, Hunt, Limits};
use self::log::Log;
use self::machines::Machines;
use crate::cli::{BisectArgs, Cli, RunArgs};
use crate::owner::file_failure;
use crate::status::{ExitStatus, Failure};
use crate::verbs::measure::repeated::Inbox;
use crate::verbs::trials::{check_options, series};
use crate::{alike, job, terminal, units};

/// What builds a kernel where nobody says otherwise.
const BUILD: &str = "make olddefconfig && make -j$(nproc) bzImage";
/// For `git bisect replay`, in the search's folder.
const LOG: &str = "bisect.log";
/// A log of somebody's search is not longer.
const MAX_LOG_BYTES: u64 = 4 << 20;

/// Searches until the first bad commit is known.
///
/// # Errors
/// What kept it from an answer. What was measured is kept.
pub fn run(args: &BisectArgs) -> Result<ExitStatus, Failure> {
    let run = options(args)?;
    let output = args.output.as_deref();
    let there = earlier(output)?;
    let git = Git::open(&args.tree)?;
    let (question, recipe) = question(args, &git, &run, there.as_ref())?;
    let commits = git.commits(&question)?;
    let inbox = Inbox::new()?;
    let folder = match output.filter(|_| there.is_some()) {
        Some(folder) => folder.to_owned(),
        None => folder::make(output, &folder::started_utc().replace(':', ""))?,
    };
    let _lock = folder::lock(&folder)?;
    // As it is now that nobody else writes to it.
    let there = there.map(|_| Bisection::open(&folder)).transpose()?;
    let state = begin(there, question, &folder, commits.names.len())?;
    let limits = Limits { runs: args.max_runs, time: args.max_hours };
    let mut hunt = Hunt::new(state, commits, limits)?;
    let builder = Builder::new(git, &folder, recipe, args.build_timeout)?;
    let mut machines = Machines::new(builder, &folder, run, inbox, hunt.state.question.seed);
    say(args, || words::first(&hunt.state, &folder));
    let went_on = hunt.go_on(&mut machines, |hunt, done| {
        say(args, || match done {
            Done::Build => words::built(&hunt.state),
            Done::Run => words::ran(&hunt.state),
        });
    });
    let wrote = write_log(&hunt, &folder);
    match args.json {
        true => terminal::out(&json::pretty(&hunt.state).map_err(Failure::internal)?),
        false => terminal::out(&words::end(&hunt.state, &folder)),
    }
    went_on.and(wrote)?;
    if hunt.state.ended == Some(BisectEnded::Found) {
        machines.end();
    }
    status(&mut hunt, machines.received())
}

/// A line for a reader, who may want JSON and nothing else.
fn say(args: &BisectArgs, line: impl FnOnce() -> String) {
    if !args.json {
        terminal::out(&line());
    }
}

/// The search that is in a folder already; `None` where it is new or empty.
fn earlier(output: Option<&Path>) -> Result<Option<Bisection>, Failure> {
    let Some(folder) = output else { return Ok(None) };
    match folder::check(output) {
        Ok(()) => Ok(None),
        Err(FolderError::NotEmpty(_)) if Bisection::is_in(folder) => {
            Ok(Some(Bisection::open(folder)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Options of the main job for all runs, of which the kernel is named for each.
fn options(args: &BisectArgs) -> Result<RunArgs, Failure> {
    let mut words = vec!["schedvmm".to_owned(), "--kernel=bzImage".to_owned()];
    words.extend(args.run.iter().cloned());
    if words.iter().any(|word| word.starts_with("--threshold")) {
        return Err(Failure::request("--threshold says what a hit is; give it before `--`"));
    }
    match (args.metric, args.threshold) {
        // A gap would end a run, and its figures with it.
        (Some(_), _) => words.push("--threshold=off".to_owned()),
        (None, Some(units::Threshold(Some(threshold)))) => {
            words.push(format!("--threshold={}ns", units::as_ns(threshold)));
        }
        (None, Some(units::Threshold(None))) => {
            return Err(Failure::request(
                "without a threshold no run is a hit; leave out --threshold off, or give --metric and \
                 --limit",
            ));
        }
        (None, None) => {}
    }
    let Cli { run, runs, .. } = Cli::try_parse_from(&words)
        .map_err(|error| Failure::request(error.to_string().trim_end().to_owned()))?;
    check_options(&run)?;
    let of_bisect = [
        ("--runs", runs.runs.is_some()),
        ("--seed", run.load.seed.is_some()),
        ("--output", run.show.output.is_some()),
        ("--json", run.show.json),
    ];
    match of_bisect.into_iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Failure::request(format!(
            "{option} is of the search, and not of one run; give it before `--`, or leave it out"
        ))),
        None => Ok(run),
    }
}

/// What makes a kernel of a commit.
fn recipe(args: &BisectArgs, git: &Git) -> Result<Recipe, Failure> {
    let path = args.config.clone().unwrap_or_else(|| git.tree().join(".config"));
    let config = match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && args.config.is_none()
                && args.build.is_some() =>
        {
            None
        }
        Err(error) if args.config.is_none() => {
            return Err(Failure::request(format!(
                "cannot read {}: {error}; configure the kernel there, or name a configuration with \
                 --config",
                path.display()
            )));
        }
        Err(error) => return Err(file_failure(&error, "read", &path)),
    };
    let command = args.build.clone().unwrap_or_else(|| BUILD.to_owned());
    let mut bytes = command.clone().into_bytes();
    bytes.push(0);
    bytes.extend(config.iter().flatten());
    Ok(Recipe { checksum: git.checksum(&bytes)?, command, config })
}

/// What is asked, by full names of commits, and what makes a kernel of one.
fn question(
    args: &BisectArgs,
    git: &Git,
    run: &RunArgs,
    there: Option<&Bisection>,
) -> Result<(BisectQuestion, Recipe), Failure> {
    let ends = ends(args)?;
    let bad = ends.bad.as_deref().unwrap_or_default();
    let bad = git.commit(bad)?;
    let mut good = Vec::new();
    for named in &ends.good {
        let commit = git.commit(named)?;
        git.check_ancestor(&commit, &bad)?;
        good.push(commit);
    }
    if args.from_log.is_some() {
        // The one that was found to be good last is nearest.
        good.reverse();
    }
    let skipped = ends.skipped.iter().map(|named| git.commit(named)).collect::<Result<_, _>>()?;
    let seed = args.seed.or(there.map(|it| it.question.seed));
    let recipe = recipe(args, git)?;
    let question = BisectQuestion {
        good,
        bad,
        paths: ends.paths,
        first_parent: args.first_parent || ends.first_parent,
        skipped,
        build: recipe.command.clone(),
        recipe: recipe.checksum.clone(),
        hit: hit(args, run)?,
        seed: seed.unwrap_or_else(job::any_seed),
        max_end_runs: args.runs_at_ends,
    };
    Ok((question, recipe))
}

/// The ends as they are named by options, or by a log.
fn ends(args: &BisectArgs) -> Result<Log, Failure> {
    let Some(path) = &args.from_log else {
        let (good, bad, paths) = (args.good.clone(), args.bad.clone(), args.path.clone());
        return Ok(Log { good, bad, paths, ..Log::default() });
    };
    let text = crate::plain_file::read_text(path, MAX_LOG_BYTES)
        .map_err(|error| file_failure(&error, "read", path))?;
    let log = Log::read(&text).map_err(|why| {
        Failure::request(format!("{}: {why}; give what `git bisect log` prints", path.display()))
    })?;
    if log.good.is_empty() || log.bad.is_none() {
        return Err(Failure::request(format!(
            "{} has no good and bad commit yet; mark both with `git bisect`, or give --good and --bad",
            path.display()
        )));
    }
    Ok(log)
}

/// What a hit is.
fn hit(args: &BisectArgs, run: &RunArgs) -> Result<Hit, Failure> {
    let Some((metric, limit)) = args.metric.zip(args.limit.as_ref()) else {
        let threshold = run.load.threshold.0;
        return Ok(hunt::threshold(threshold.unwrap_or(Duration::MAX)));
    };
    let limit = match metric.quantity() {
        Quantity::LengthNs => units::duration(limit).map(|limit| limit.as_secs_f64() * 1e9),
        Quantity::Share => units::percent(limit),
    };
    match limit {
        Ok(limit) => Ok(Hit::Limit { metric, limit }),
        Err(why) => Err(Failure::request(format!(
            "--limit of {}: {why}; give a time (20ms), or a percentage (5%) of shares",
            metric.name()
        ))),
    }
}

/// The state that the search goes on from.
fn begin(
    there: Option<Bisection>,
    question: BisectQuestion,
    folder: &Path,
    commits: usize,
) -> Result<Bisection, Failure> {
    let state = match there {
        Some(there) => {
            check_question(&there, &question, folder)?;
            // How long it goes on is no part of what is asked.
            Bisection { question, ..there }
        }
        None => Bisection::new(question, commits, folder::started_utc()),
    };
    Ok(Bisection {
        version: env!("CARGO_PKG_VERSION").into(),
        command_line: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect(),
        working_directory: std::env::current_dir().ok(),
        ..state
    })
}

/// Refuses another question than the one that a folder's runs were done for.
fn check_question(
    there: &Bisection,
    question: &BisectQuestion,
    folder: &Path,
) -> Result<(), Failure> {
    let now = env!("CARGO_PKG_VERSION");
    if there.version != now {
        return Err(Failure::request(format!(
            "the search in {} was begun by schedvmm {}, and this is {now}: go on with that, or name \
             another folder with --output",
            folder.display(),
            there.version
        )));
    }
    let found = alike::differences(&there.question, question, &["max_end_runs"])
        .map_err(|error| Failure::internal(error.to_string()))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::request(format!(
        "the search in {} asks something else: {}; call it as it was called, or name another folder with \
         --output",
        folder.display(),
        alike::list(&found)
    )))
}

/// What `git bisect replay` reads.
fn write_log(hunt: &Hunt, folder: &Path) -> Result<(), Failure> {
    let text = log::write(&hunt.state, &hunt.search, &hunt.commits);
    let path = folder.join(LOG);
    folder::write_whole(&path, |file| std::io::Write::write_all(file, text.as_bytes()))
        .map_err(build::unkept)
}

/// How it ends the process.
fn status(hunt: &mut Hunt, signal: Option<i32>) -> Result<ExitStatus, Failure> {
    if let Some(failure) = hunt.failure() {
        return Err(failure);
    }
    let state = &hunt.state;
    match state.ended {
        Some(BisectEnded::Found) => Ok(ExitStatus::Pass),
        Some(BisectEnded::Interrupted) => Ok(ExitStatus::of_signal(signal.unwrap_or(libc::SIGINT))),
        Some(BisectEnded::Alike) => Err(Failure::kernel(format!(
            "the ends cannot be told apart: {}; make hits of the bad one more likely, or those of the good \
             one less: a longer --duration, another --threshold or --limit, or raise --runs-at-ends",
            words::ends(state)
        ))),
        Some(BisectEnded::EndUntestable) => Err(Failure::kernel(format!(
            "an end of the search cannot be tested: {}; mend what it lacks on this host and make the same \
             call again, or name another --output with another commit, configuration or --build",
            words::why_given_up(state)
        ))),
        Some(BisectEnded::Spent) => Err(Failure::kernel(format!(
            "it is not decided within --max-runs and --max-hours ({}); the same call with more of them and \
             with --output goes on",
            words::spent(state)
        ))),
        Some(BisectEnded::HostUnfit) => Err(Failure::host(format!(
            "this host is unfit to measure on: {} of {} runs of the search were contaminated; repeat it on \
             a quieter host, with vCPUs pinned",
            state.count(State::Contaminated),
            state.runs.len()
        ))),
        Some(BisectEnded::Failed) | None => {
            let last = state.runs.iter().rev().find(|run| run.attempt.state == State::Failed);
            let attempt = last.map(|run| &run.attempt);
            let why = attempt.map_or("nothing is known", |attempt| &attempt.why);
            Err(Failure::new(series::owner_of(attempt), why.to_owned()))
        }
    }
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
