// SPDX-License-Identifier: Apache-2.0
//! `schedvmm`: one executable, several roles. As PID 1 of a guest it is the agent; started by itself
//! with a word that is none of the command's, it is a group of the load, prepares or launches a VM in
//! the guest, or becomes the shell of a build in a search; otherwise it is the command.

mod alike;
mod analysis;
mod caller;
mod cli;
mod compose;
mod convert;
mod cpu_kinds;
mod deliver;
mod disk;
mod doubt;
mod explain;
mod facts;
mod footprint;
mod host_steal;
#[cfg(test)]
mod hostile_tests;
mod job;
mod kernel;
mod kernel_files;
mod l2;
mod limits;
mod machine;
mod mapped_trace;
mod measurement;
mod modules;
mod needs;
mod overrun;
mod owner;
mod package;
mod pins;
mod placement;
mod plain_file;
mod presets;
mod printer;
mod probe;
mod progress;
mod service;
mod session;
mod shape;
mod show;
mod signals;
mod sinks;
mod status;
mod terminal;
#[cfg(test)]
mod testing;
mod trace_file;
mod units;
mod verbs;
mod verdict;
mod wall;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Cli, TrialsArgs, Verb};
use crate::status::{ExitStatus, Failure};

fn main() -> ExitCode {
    // PID 1 of a container is no agent: it has no job.
    if std::process::id() == 1 && Path::new(protocol::names::JOB_PATH).exists() {
        guest::agent::run_as_pid1();
    }
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(word) = words.get(1) {
        l2::play(word, words.get(2));
        verbs::bisect::become_shell(word, words.get(2));
    }
    let mut args = words.into_iter();
    if args.nth(1).is_some_and(|word| word == protocol::group_process::GROUP_COMMAND) {
        workload::group_process::group_main(args);
    }
    let ended = match Cli::try_parse() {
        Ok(cli) => guarded(cli),
        Err(error) => say_why(&error),
    };
    let status = ended.unwrap_or_else(|failure| {
        terminal::err(&format!("schedvmm: {failure}"));
        failure.status()
    });
    let is_lost = !signals::finish_printing();
    // Who reads what was cut off is to know it.
    let status = if is_lost && status == ExitStatus::Pass { ExitStatus::Host } else { status };
    ExitCode::from(status.code())
}

/// The same as [`run`]. A panic is a defect of ours and has its own status; its text is on stderr by
/// then.
fn guarded(cli: Cli) -> Result<ExitStatus, Failure> {
    std::panic::set_hook(Box::new(tell_of_panic));
    let ended = std::panic::catch_unwind(|| run(cli));
    ended.unwrap_or_else(|_| Err(Failure::internal("this is a defect: report it")))
}

/// The verb, or the main job.
fn run(cli: Cli) -> Result<ExitStatus, Failure> {
    if cli.lists_presets() {
        terminal::product(shape::list_presets().trim_end())?;
        return Ok(ExitStatus::Pass);
    }
    match cli.verb {
        Some(Verb::Bisect(args)) => verbs::bisect::run(&args),
        Some(Verb::Boot(args)) => verbs::boot::run(&args),
        Some(Verb::Check(args)) => verbs::check::run(&args),
        Some(Verb::Compare(args)) => verbs::compare::run(&args),
        Some(Verb::Completions { shell }) => verbs::completions::run(shell),
        Some(Verb::Config { nested }) => verbs::config::run(nested),
        Some(Verb::Explain(args)) => verbs::explain::run(&args),
        Some(Verb::History(args)) => verbs::history::run(&args),
        Some(Verb::Host(args)) => verbs::host::run(&args),
        Some(Verb::List { folder }) => verbs::list::run(folder.as_deref()),
        Some(Verb::Man { verb }) => verbs::man::run(verb.as_deref()),
        Some(Verb::Matrix(args)) => verbs::matrix::run(&args),
        Some(Verb::Probe { json }) => verbs::probe::run(json),
        Some(Verb::Report(args)) => verbs::report::run(&args),
        Some(Verb::Run { from, output, json }) => verbs::run::run(&from, output.as_deref(), json),
        Some(Verb::Selftest { kernel, allow_quota, json }) => {
            verbs::selftest::run(kernel.as_deref(), allow_quota, json)
        }
        Some(Verb::Show { result }) => verbs::show::run(result.as_deref()),
        Some(Verb::Trials(args)) => verbs::trials::run(&args),
        None => match TrialsArgs::of_main(&cli.runs, &cli.run) {
            Some(args) => verbs::trials::run(&args),
            None => verbs::measure::run(&cli.run),
        },
    }
}

fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| format!("\n{trace}"));
    terminal::err(&format!("schedvmm: {panic}{}", trace.unwrap_or_default()));
}

/// Shows help, which was asked for, or what is wrong with the words, which may be those of an earlier
/// result.
///
/// # Errors
/// Stdout does not take the help.
fn say_why(error: &clap::Error) -> Result<ExitStatus, Failure> {
    if std::env::args_os().skip(1).eq(["-h"]) {
        terminal::product(cli::SHORT_HELP.trim_end())?;
        return Ok(ExitStatus::Pass);
    }
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // With colours.
        terminal::taken(error.print())?;
        return Ok(ExitStatus::Pass);
    }
    let text = error.to_string();
    if terminal::plain(&text) == text {
        // A closed stderr takes it; the status tells all the same.
        let _ = error.print();
    } else {
        terminal::err(&text);
    }
    Ok(ExitStatus::Usage)
}
