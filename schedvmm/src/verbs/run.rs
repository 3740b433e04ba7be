// SPDX-License-Identifier: Apache-2.0
//! A run once more, as an earlier result says it was called. Its command line is what is repeated,
//! not the job that it came to: a default of ours, a kernel or a file that has changed since takes
//! effect, and the new result says how it was called in its turn. The seed of the pauses is the
//! earlier one's, also where nobody had asked for it.

use std::any::TypeId;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use protocol::error::Owner;
use results::model::{RunResult, Target};
use results::saved::Saved;

use crate::cli::Cli;
use crate::status::{ExitStatus, Failure, OrFail};
use crate::{kernel, machine};

/// What is needed of an earlier result.
#[derive(Debug)]
struct Earlier<'a> {
    command_line: &'a [String],
    working_directory: Option<&'a Path>,
}

impl<'a> Earlier<'a> {
    fn of(result: &'a RunResult) -> Self {
        let working_directory = result.working_directory.as_deref();
        Self { command_line: &result.command_line, working_directory }
    }
}

/// Options that say where something goes: not repeated, for what the earlier run wrote is there.
const OUTPUTS: [&str; 2] = ["output", "trace-file"];
/// What every run has, and another one by default, or by the default of another version: taken from the
/// result where it was not asked for by name.
const SEED: &str = "--seed";
const WARMUP: &str = "--warmup";
/// Options that name a kernel.
const KERNELS: [&str; 2] = ["kernel", "l2-kernel"];
/// Verbs that leave a result, beside the main job, which has none.
const VERBS: [&str; 1] = ["host"];
/// The verb that does the main job many times: one of its results is repeated as the main job, with
/// the seed that it had.
const MANY: &str = "trials";
/// Options that say how many there are to be.
const COUNTS: [&str; 2] = ["runs", "until"];

/// Becomes the earlier run: returns only if that cannot be.
///
/// # Errors
/// The file is no result, or this program cannot be started again.
pub fn run(from: &Path, output: Option<&Path>, json: bool) -> Result<ExitStatus, Failure> {
    let saved = Saved::open(from)?;
    let mut words = words(&Earlier::of(&saved.result)).map_err(|why| saved.none(why))?;
    words.extend(unnamed(&saved.result, &words));
    if let Some(path) = output {
        words.extend(["--output".into(), path.into()]);
    }
    if json {
        print_json(&mut words);
    }
    let executable = machine::own_executable()?;
    // Only an error returns from here.
    Err(Command::new(executable).args(words).exec()).or_fail(Owner::Host)
}

/// Whether a run that was called so was one of many, each with a seed of its own.
fn is_one_of_many(command_line: &[String]) -> bool {
    let mut words = command_line.iter().skip(1);
    words.clone().next().is_some_and(|verb| verb == MANY)
        || words.any(|word| word == "--runs" || word.starts_with("--runs="))
}

/// Seed and warm-up of the earlier run, where they were not asked for by name.
fn unnamed(result: &RunResult, words: &[OsString]) -> Vec<OsString> {
    if result.target == Target::Nested || result.job.meter.is_some() {
        return Vec::new();
    }
    let load = &result.job.load;
    let had = [(SEED, load.seed.to_string()), (WARMUP, format!("{}ns", load.warmup.as_nanos()))];
    let is_named = |option: &str| {
        words.iter().any(|word| word.to_str().is_some_and(|word| word.starts_with(option)))
    };
    had.iter()
        .filter(|(option, _)| !is_named(option))
        .map(|(option, value)| format!("{option}={value}").into())
        .collect()
}

/// In place of whatever the earlier run printed.
fn print_json(words: &mut Vec<OsString>) {
    // Values are not words of their own.
    words.retain(|word| word != "--json" && word != "--compat");
    words.push("--json".into());
}

/// The earlier words without the program and without outputs, files named as seen from anywhere.
fn words(earlier: &Earlier<'_>) -> Result<Vec<OsString>, String> {
    let mut command = Cli::command();
    command.build();
    let mut rest = earlier.command_line.iter().skip(1).peekable();
    let mut words: Vec<OsString> = Vec::new();
    if rest.next_if(|word| *word == MANY).is_some() {
        command = command.find_subcommand(MANY).cloned().unwrap_or(command);
    } else if let Some(verb) = rest.next_if(|word| !word.starts_with('-')) {
        let known = VERBS.contains(&verb.as_str()).then(|| command.find_subcommand(verb).cloned());
        command = known.flatten().ok_or(format!("`{verb}` is no run that can be repeated"))?;
        words.push(verb.into());
    }
    let is_one_of_many = is_one_of_many(earlier.command_line);
    while let Some(word) = rest.next() {
        // How many there were to be.
        if is_one_of_many && !word.starts_with('-') {
            continue;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        let option = name.strip_prefix("--").and_then(|name| {
            command.get_arguments().find(|option| option.get_long() == Some(name))
        });
        // Of another version, perhaps: it will say so itself.
        let Some(option) = option.filter(|option| option.get_action().takes_values()) else {
            words.push(word.into());
            continue;
        };
        let value = value.or_else(|| rest.next().map(String::as_str)).unwrap_or_default();
        let is_left_out = OUTPUTS.iter().any(|output| name.strip_prefix("--") == Some(output))
            || COUNTS.iter().any(|count| name.strip_prefix("--") == Some(count))
            // What the seed of each was made of.
            || is_one_of_many && name == SEED;
        if is_left_out {
            continue;
        }
        let mut both = OsString::from(format!("{name}="));
        let is_path = option.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        let is_kernel = KERNELS.iter().any(|kernel| name.strip_prefix("--") == Some(kernel));
        if is_path && !(is_kernel && is_installed(earlier, Path::new(value))) {
            both.push(from_anywhere(earlier, Path::new(value))?);
        } else {
            both.push(value);
        }
        words.push(both);
    }
    Ok(words)
}

/// Whether a kernel was named by its release, or as the running one: no file of that name is there.
fn is_installed(earlier: &Earlier<'_>, named: &Path) -> bool {
    let is_file = from_anywhere(earlier, named).is_ok_and(|path| path.exists());
    kernel::is_bare_name(named) && !is_file
}

/// A file that the earlier run was given, by a path that does not depend on where we are.
fn from_anywhere(earlier: &Earlier<'_>, path: &Path) -> Result<PathBuf, String> {
    match &earlier.working_directory {
        Some(directory) => Ok(directory.join(path)),
        None if path.is_absolute() => Ok(path.to_owned()),
        None => Err(format!("it does not say where it was started, to find {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    /// The words to repeat a run that was called so, in this folder if it says so.
    fn words_of(line: &[&str], directory: Option<&str>) -> Result<Vec<OsString>, String> {
        let command_line: Vec<_> = line.iter().map(|word| (*word).to_owned()).collect();
        let working_directory = directory.map(Path::new);
        words(&Earlier { command_line: &command_line, working_directory })
    }

    fn repeat(line: &[&str]) -> Vec<OsString> {
        words_of(line, Some("/there")).expect("it can be repeated")
    }

    #[test]
    fn outputs_are_new_and_inputs_the_same() {
        let found = repeat(&["x", "--kernel", "a/bzImage", "--output", "r", "--seed", "7"]);
        assert_eq!(found, ["--kernel=/there/a/bzImage", "--seed=7"]);
        let found = repeat(&["x", "--output=r", "--kernel=/abs", "--append=a=b", "--json"]);
        assert_eq!(found, ["--kernel=/abs", "--append=a=b", "--json"]);
        let line = ["x", "--kernel", "k", "--nested", "--l2-kernel", "l2/bz", "--trace-file", "t"];
        assert_eq!(repeat(&line), ["--kernel=/there/k", "--nested", "--l2-kernel=/there/l2/bz"]);
        assert_eq!(repeat(&["x", "host", "--groups", "2"]), ["host", "--groups=2"]);
        // One of many: the seed is its own.
        let line =
            ["x", "trials", "10", "--kernel", "k", "--seed", "7", "--until=decided", "--output=r"];
        assert_eq!(repeat(&line), ["--kernel=/there/k"]);
        assert_eq!(repeat(&["x", "trials", "--kernel=k", "5"]), ["--kernel=/there/k"]);
        assert_eq!(repeat(&["x", "--kernel=k", "--seed=1", "--runs", "9"]), ["--kernel=/there/k"]);
        assert_eq!(
            repeat(&["x", "host", "--trace-file=t.dat", "--load", "l.toml"]),
            ["host", "--load=/there/l.toml"]
        );
        let line = ["x", "--kernel", "running", "--nested", "--l2-kernel", "6.12.9-amd64"];
        assert_eq!(repeat(&line), ["--kernel=running", "--nested", "--l2-kernel=6.12.9-amd64"]);
        // A value that looks like an option is one's value.
        assert_eq!(
            repeat(&["x", "--append", "--output", "--kernel", "k"]),
            ["--append=--output", "--kernel=/there/k"]
        );
        assert!(repeat(&["x"]).is_empty());
    }

    /// An option that is added one day is an input, unless it is known here where it goes.
    #[test]
    fn every_option_that_names_a_file_is_one_or_the_other() {
        let mut inputs = Vec::new();
        for verb in [&[][..], &["host"]] {
            let mut command = Cli::command();
            command.build();
            let command = verb.iter().fold(command, |command, verb| {
                command.find_subcommand(verb).expect("a verb").clone()
            });
            for option in command.get_arguments() {
                let is_path = option.get_value_parser().type_id() == TypeId::of::<PathBuf>();
                let name = option.get_long().filter(|_| is_path);
                inputs.extend(
                    name.map(str::to_owned).filter(|name| !OUTPUTS.contains(&name.as_str())),
                );
            }
        }
        inputs.sort_unstable();
        inputs.dedup();
        let known = ["kernel", "l2-kernel", "l2-modules", "load", "modules"];
        assert_eq!(inputs, known, "new: does it go in or come out?");
    }

    #[test]
    fn what_is_repeated_is_understood() {
        let line = ["x", "--kernel", "k", "--append", "-x", "--sleep", "fixed:1s", "--compat"];
        let again = std::iter::once(OsString::from("x")).chain(repeat(&line));
        let cli = Cli::try_parse_from(again).expect("options");
        assert_eq!(cli.run.kernel.as_deref(), Some(Path::new("/there/k")));
        assert_eq!((cli.run.machine.append.as_str(), cli.run.show.compat), ("-x", true));
    }

    #[test]
    fn json_takes_the_place_of_what_was_printed() {
        for style in ["--compat", "--json", "--trace=off"] {
            let mut words = repeat(&["x", "--kernel", "/k", "--append", "--compat", style]);
            print_json(&mut words);
            assert_eq!(words.iter().filter(|word| *word == "--json").count(), 1);
            assert!(words.contains(&"--append=--compat".into()), "{words:?}");
            let again = std::iter::once(OsString::from("x")).chain(words);
            assert!(Cli::try_parse_from(again).expect("options").run.show.json, "{style}");
        }
    }

    #[test]
    fn what_cannot_be_repeated_says_why() {
        let lost = words_of(&["x", "--kernel", "k"], None);
        assert!(lost.is_err_and(|why| why.contains("where it was started")));
        assert!(words_of(&["x", "--kernel", "/k"], None).is_ok());
        let other = words_of(&["x", "boot", "--kernel", "k"], Some("/there"));
        assert!(other.is_err_and(|why| why.contains("`boot` is no run")));
    }

    #[test]
    fn what_is_no_result_is_a_usage_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("result.json");
        let refused = |text: &str| {
            fs::write(&file, text).expect("write");
            // A folder is as good as the file in it.
            let failure = run(dir.path(), None, false).expect_err("no result");
            assert_eq!(failure.to_string(), run(&file, None, false).expect_err("no").to_string());
            assert_eq!(failure.status(), ExitStatus::Usage);
            failure.to_string()
        };
        assert!(refused("{").contains("no result.json"));
        let bare = r#"{"schema": "schedvmm-result/4"}"#;
        assert!(refused(bare).contains("missing field"));
        let other = r#"{"schema": "other/9", "command_line": [], "working_directory": "/"}"#;
        assert!(refused(other).contains("other/9"));
        let none = run(&dir.path().join("none"), None, false).expect_err("no file");
        assert!(none.to_string().contains("cannot read"), "{none}");
    }
}
