// SPDX-License-Identifier: Apache-2.0
//! The file that says what a matrix is. What is wrong in it is named with its line and column.

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use protocol::job::CoschedRequest;
use results::matrix::{MatrixBase, MatrixQuestion};
use results::metric::Metric;
use serde::Deserialize;
use toml::Spanned;

use super::cells::{Parts, Place, default_base};
use crate::cli::{Cli, Cosched, RunArgs};
use crate::owner::file_failure;
use crate::presets::PRESETS;
use crate::status::{ExitStatus, Failure};
use crate::verbs::compare::MIN_EFFECT;
use crate::verbs::measure::repeated;
use crate::{plain_file, units};

/// Larger files are no matrix.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Of each cell.
const MAX_TRIALS: i64 = 10_000;
const MAX_CELLS: usize = 1000;
/// The figure that decides where the file names none, as of `compare`.
const METRIC: Metric = Metric::WaitP99;

/// A text, and where it stands.
type Text = Spanned<String>;
type Number = Spanned<i64>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    trials: Number,
    seed: Option<Number>,
    metric: Option<Text>,
    min_effect: Option<Text>,
    options: Option<Text>,
    kernels: Vec<Text>,
    #[serde(default)]
    tunings: Vec<Text>,
    #[serde(default)]
    loads: Vec<Text>,
    #[serde(default)]
    cookies: Vec<Text>,
    #[serde(default)]
    base: Base,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    kernel: Option<Text>,
    tuning: Option<Text>,
    load: Option<Text>,
    cookies: Option<Text>,
}

/// A file that was read.
pub struct Written {
    path: PathBuf,
    text: String,
    file: File,
}

/// What it asks.
pub struct Asked {
    /// All but the seed, which is 0 where the file has none.
    pub question: MatrixQuestion,
    /// The seed, where it has one.
    pub seed: Option<u64>,
    /// Each cell's place, and what its runs are.
    pub cells: Vec<(Place, RunArgs)>,
}

impl Written {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, or is no such file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = plain_file::read(path, MAX_FILE_BYTES);
        let text = bytes
            .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
            .map_err(|error| file_failure(&error, "read", path))?;
        let file = toml::from_str(&text)
            .map_err(|error| fault(path, &text, &error.span().unwrap_or(0..0), error.message()))?;
        Ok(Self { path: path.to_owned(), text, file })
    }

    /// What it asks, if that makes sense.
    ///
    /// # Errors
    /// What does not, and where it stands.
    pub fn asked(&self) -> Result<Asked, Failure> {
        let question = self.question()?;
        let options = self.options(&question)?;
        self.check_values(&question, &options)?;
        let seed = self.file.seed.as_ref().map(|seed| {
            let number = u64::try_from(*seed.get_ref());
            number.map_err(|_| self.fault(&seed.span(), "seed is below 0; give a whole number"))
        });
        let all = self.file.kernels.first().map_or(0..0, Spanned::span);
        let cells = Place::all(&question).into_iter().map(|place| {
            let run = self.run(&options, place.parts(&question), &all)?;
            Ok((place, run))
        });
        let cells = cells.collect::<Result<_, Failure>>()?;
        Ok(Asked { seed: seed.transpose()?, cells, question })
    }

    fn question(&self) -> Result<MatrixQuestion, Failure> {
        let file = &self.file;
        let first = file.kernels.first().map_or(0..0, Spanned::span);
        let options = file.options.as_ref().map(|it| it.get_ref().clone());
        let question = MatrixQuestion {
            metric: self.one_of(&file.metric, METRIC, metric)?,
            min_effect: self.one_of(&file.min_effect, MIN_EFFECT, effect)?,
            trials: self.trials(&file.trials)?,
            seed: 0,
            options: options.unwrap_or_default(),
            kernels: self.all_of(&file.kernels, "kernels", named)?,
            tunings: or_one(self.all_of(&file.tunings, "tunings", tuning)?, String::new()),
            loads: or_one(self.all_of(&file.loads, "loads", load)?, String::new()),
            cookies: or_one(self.all_of(&file.cookies, "cookies", cosched)?, None),
            base: MatrixBase::default(),
        };
        let count = Place::all(&question).len();
        if !(2..=MAX_CELLS).contains(&count) {
            let text = format!(
                "it has {count} cells; give 2 to {MAX_CELLS} (one alone: `schedvmm trials`)"
            );
            return Err(self.fault(&first, &text));
        }
        self.with_base(question)
    }

    fn trials(&self, trials: &Number) -> Result<u32, Failure> {
        let number = u32::try_from(*trials.get_ref()).ok();
        number.filter(|number| (1..=MAX_TRIALS).contains(&i64::from(*number))).ok_or_else(|| {
            let text = format!("trials = {}: give 1 to {MAX_TRIALS}", trials.get_ref());
            self.fault(&trials.span(), &text)
        })
    }

    /// The base that is named, or the first value of the first list that has others.
    fn with_base(&self, question: MatrixQuestion) -> Result<MatrixQuestion, Failure> {
        let base = &self.file.base;
        let named = MatrixBase {
            kernel: self.in_list(&base.kernel, &question.kernels, named)?,
            tuning: self.in_list(&base.tuning, &question.tunings, tuning)?,
            load: self.in_list(&base.load, &question.loads, load)?,
            cookies: self.in_list(&base.cookies, &question.cookies, cosched)?.flatten(),
        };
        let texts = [&base.kernel, &base.tuning, &base.load, &base.cookies];
        let Some(first) = texts.into_iter().flatten().next() else {
            return Ok(MatrixQuestion { base: default_base(&question), ..question });
        };
        let question = MatrixQuestion { base: named, ..question };
        if Place::all(&question).iter().all(|place| place.base(&question) == *place) {
            let text =
                "every cell would be compared with itself; name a value that others have not";
            return Err(self.fault(&first.span(), text));
        }
        Ok(question)
    }

    /// A value that is one of a list.
    fn in_list<T: PartialEq>(
        &self,
        text: &Option<Text>,
        values: &[T],
        read: fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        let Some(text) = text else { return Ok(None) };
        let value = read(text.get_ref()).map_err(|why| self.fault(&text.span(), &why))?;
        if values.contains(&value) {
            return Ok(Some(value));
        }
        let why = format!("`{}` is in no cell; name a value of the lists", text.get_ref());
        Err(self.fault(&text.span(), &why))
    }

    /// All values of a list, each once.
    fn all_of<T: PartialEq>(
        &self,
        texts: &[Text],
        list: &str,
        read: fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Failure> {
        let mut values = Vec::new();
        for text in texts {
            let value = read(text.get_ref()).map_err(|why| self.fault(&text.span(), &why))?;
            if values.contains(&value) {
                let why = format!("`{}` is in `{list}` twice; leave one out", text.get_ref());
                return Err(self.fault(&text.span(), &why));
            }
            values.push(value);
        }
        Ok(values)
    }

    fn one_of<T>(
        &self,
        text: &Option<Text>,
        default: T,
        read: fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let Some(text) = text else { return Ok(default) };
        read(text.get_ref()).map_err(|why| self.fault(&text.span(), &why))
    }

    /// The options of all runs as words.
    fn options(&self, question: &MatrixQuestion) -> Result<Vec<String>, Failure> {
        let Some(options) = &self.file.options else { return Ok(Vec::new()) };
        let words = shlex::split(options.get_ref()).ok_or_else(|| {
            self.fault(&options.span(), "it has a quotation mark without its other one; close it")
        })?;
        if !self.file.tunings.is_empty() && has(&words, "--tune") {
            let text = "--tune is what `tunings` say; put it into each of these";
            return Err(self.fault(&options.span(), text));
        }
        self.run(&words, Parts::of_kernel(&question.kernels[0]), &options.span())?;
        Ok(words)
    }

    /// Each value makes sense by itself: who does not is named where it stands.
    fn check_values(&self, question: &MatrixQuestion, options: &[String]) -> Result<(), Failure> {
        let File { tunings, loads, cookies, .. } = &self.file;
        let common = Parts::of_kernel(&question.kernels[0]);
        for (text, tuning) in tunings.iter().zip(&question.tunings) {
            self.run(options, Parts { tuning, ..common }, &text.span())?;
        }
        for (text, load) in loads.iter().zip(&question.loads) {
            self.run(options, Parts { load, ..common }, &text.span())?;
        }
        for (text, cookies) in cookies.iter().zip(&question.cookies) {
            self.run(options, Parts { cookies: *cookies, ..common }, &text.span())?;
        }
        Ok(())
    }

    /// What these runs are; if it makes no sense, that is for what stands there.
    fn run(
        &self,
        options: &[String],
        parts: Parts<'_>,
        at: &Range<usize>,
    ) -> Result<RunArgs, Failure> {
        let words = parts.words(options);
        let Cli { run, runs, .. } = Cli::try_parse_from(&words).map_err(|error| {
            let text = error.to_string();
            // What follows is about options in general.
            let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
            let lines = lines.collect::<Vec<_>>().join(" ");
            self.fault(at, lines.strip_prefix("error: ").unwrap_or(&lines))
        })?;
        let own = [
            ("--runs", runs.runs.is_some()),
            ("--seed", run.load.seed.is_some()),
            ("--output", run.show.output.is_some()),
            ("--json", run.show.json),
            ("--fail-if", !run.load.fail_if.is_empty()),
            ("--compat", run.show.compat),
            ("--trace-file", run.trace.trace_file.is_some()),
        ];
        if let Some((option, _)) = own.into_iter().find(|(_, given)| *given) {
            let text = format!(
                "{option} is of one run, or the matrix's own (trials and seed are keys, and no run ends \
                 at a limit); leave it out"
            );
            return Err(self.fault(at, &text));
        }
        repeated::check(&run).map_err(|failure| match failure.status() {
            ExitStatus::Usage => self.fault(at, &failure.to_string()),
            _ => failure,
        })?;
        Ok(run)
    }

    fn fault(&self, at: &Range<usize>, why: &str) -> Failure {
        fault(&self.path, &self.text, at, why)
    }
}

/// What is wrong with a file, and where.
fn fault(path: &Path, text: &str, at: &Range<usize>, why: &str) -> Failure {
    let before = text.get(..at.start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Failure::request(format!("{}, line {line}, column {column}: {why}", path.display()))
}

/// Whether an option is among these words.
fn has(words: &[String], option: &str) -> bool {
    let mut rests = words.iter().filter_map(|word| word.strip_prefix(option));
    rests.any(|rest| rest.is_empty() || rest.starts_with('='))
}

/// A list that was left out has one value.
fn or_one<T>(values: Vec<T>, one: T) -> Vec<T> {
    if values.is_empty() { vec![one] } else { values }
}

/// `slice=3ms hrtick=off`.
fn tuning(text: &str) -> Result<String, String> {
    let mut names = Vec::new();
    for word in text.split_whitespace() {
        let request = units::tune(word).map_err(|why| format!("`{word}`: {why}"))?;
        if names.contains(&request.name) {
            return Err(format!("`{word}`: the tunable is there already; leave one out"));
        }
        names.push(request.name);
    }
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn load(text: &str) -> Result<String, String> {
    if PRESETS.iter().any(|(name, _)| *name == text) || Path::new(text).is_file() {
        return Ok(text.to_owned());
    }
    let names = PRESETS.map(|(name, _)| name).join(", ");
    Err(format!("`{text}` is no file and no preset; there are {names}"))
}

fn cosched(text: &str) -> Result<Option<CoschedRequest>, String> {
    Cosched::from_str(text, false).map(|it| Some(it.into())).map_err(|_| {
        let names = Cosched::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<_> = names.map(|value| value.get_name().to_owned()).collect();
        format!("`{text}` is no source of cookies; there are {}", names.join(", "))
    })
}

fn metric(text: &str) -> Result<Metric, String> {
    Metric::named(text).ok_or_else(|| {
        format!("`{text}` is no figure; there are {}", Metric::ALL.map(Metric::name).join(", "))
    })
}

fn effect(text: &str) -> Result<f64, String> {
    let effect = units::percent(text).map_err(|why| format!("min-effect = \"{text}\": {why}"))?;
    match effect {
        effect if effect > 0.0 => Ok(effect),
        _ => Err(format!("min-effect = \"{text}\" is no change; give more than 0 %")),
    }
}

fn named(text: &str) -> Result<String, String> {
    match text {
        "" | "-" => Err(format!("`{text}` is no kernel; name one as for --kernel")),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
