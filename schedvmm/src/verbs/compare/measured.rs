// SPDX-License-Identifier: Apache-2.0
//! Sides that are measured now: kernels, or two settings of one kernel.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use results::comparison::{Comparison, Versus};
use results::folder;
use results::metric::Metric;
use results::model::{Answer, RunResult};
use results::saved::Saved;
use results::set_file::SetFile as _;
use results::trials::{Conditions, State};
use serde::Serialize;

use super::judge::{Asked, Side};
use super::rounds::{Machines, Rounds};
use super::stored::{Likeness, kernel};
use super::{compare, words};
use crate::alike;
use crate::cli::{Cli, CompareArgs, RunArgs};
use crate::signals;
use crate::status::{ExitStatus, Failure};
use crate::terminal::{self, one_line};
use crate::verbs::measure::repeated::{Inbox, Repeated};
use crate::verbs::trials::check_options;
use crate::verbs::trials::earlier;
use crate::verbs::trials::lines::{self, show};
use crate::verbs::trials::series::{Run, Series};

/// Names of the sides' folders.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

/// A side before it is measured.
struct Wanted {
    name: String,
    run: RunArgs,
}

/// What was measured, and how the process ends if that is no answer.
pub struct Measured {
    /// What it came to so far.
    pub comparison: Comparison,
    /// How the process ends where there was no answer: by a status, or by what kept it from one.
    pub ended: Result<Option<ExitStatus>, Failure>,
}

/// Measures until all sides are decided.
///
/// # Errors
/// What kept it from an answer. What was measured is kept.
pub fn run(args: &CompareArgs) -> Result<Measured, Failure> {
    let wanted = wanted(args)?;
    let asked = Asked { metric: args.metric, min_effect: args.min_effect };
    asked.question()?;
    let output = args.output.as_deref();
    // The first side of a comparison that goes on.
    let there = earlier(output, &LETTERS[..1])?;
    let inbox = Inbox::new()?;
    let mut kernels: Vec<Repeated> = Vec::new();
    let seed = args.seed.or(there.as_ref().map(|it| it.conditions.seed));
    for side in &wanted {
        // The same seeds for all: those of the first.
        let seed = kernels.first().map(|first| first.conditions().seed).or(seed);
        kernels.push(Repeated::open(&side.run, seed)?);
    }
    let conditions: Vec<_> = kernels.iter().map(Repeated::conditions).collect();
    let mut notes = differing(args, &wanted, &conditions)?;
    for note in kernels.iter().flat_map(Repeated::notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let folder = match output.filter(|_| there.is_some()) {
        Some(folder) => folder.to_owned(),
        None => folder::make(output, &folder::started_utc().replace(':', ""))?,
    };
    let _lock = folder::lock(&folder)?;
    let series = LETTERS
        .chars()
        .zip(conditions)
        .map(|(letter, conditions)| Series::begin_in(folder.join(letter.to_string()), conditions));
    let names = wanted.into_iter().map(|side| side.name).collect();
    let mut rounds = Rounds::new(series.collect::<Result<_, _>>()?, names, asked);
    // What is asked is in the file before the first run, and stays.
    let plan = compared(&rounds, notes.clone())?;
    check_plan(&plan, &folder)?;
    plan.write(&folder)?;
    let is_told = !args.json && !args.markdown;
    if is_told {
        terminal::out(&first_line(&folder));
    }
    let like = args.option_a.is_none();
    let like = like.then(|| FirstRun { run: None, allowed: args.allow.clone() });
    let mut machines = Kernels { kernels, inbox, like };
    let went_on = rounds.go_on(&mut machines, |rounds, broken, found| {
        if is_told {
            terminal::out(&match broken {
                Some(side) => broken_line(rounds, side),
                None => pair_line(rounds, found),
            });
        }
    });
    let comparison = compared(&rounds, notes)?;
    comparison.write(&folder)?;
    let ended = went_on.and_then(|_| rounds.status(machines.signal()));
    Ok(Measured { comparison, ended })
}

/// Refuses another question than the one that a folder's runs were measured for: the figure, the
/// smallest change and the sides are chosen beforehand.
fn check_plan(now: &Comparison, folder: &Path) -> Result<(), Failure> {
    if !Comparison::is_in(folder) {
        return Ok(());
    }
    let there = Comparison::open(folder)?;
    let found = alike::differences(&question_of(&there), &question_of(now), &[])
        .map_err(|error| Failure::internal(error.to_string()))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::request(format!(
        "the comparison in {} asks something else: {}; call it as it was called, or name another folder \
         with --output",
        folder.display(),
        alike::list(&found)
    )))
}

/// What is chosen beforehand.
#[derive(Serialize)]
struct Chosen<'a> {
    metric: Metric,
    min_effect: f64,
    sides: Vec<&'a str>,
}

fn question_of(comparison: &Comparison) -> Chosen<'_> {
    let others = comparison.others.iter().map(|versus| versus.side.name.as_str());
    Chosen {
        metric: comparison.metric,
        min_effect: comparison.min_effect,
        sides: std::iter::once(comparison.base.name.as_str()).chain(others).collect(),
    }
}

/// The sides that the options ask for.
fn wanted(args: &CompareArgs) -> Result<Vec<Wanted>, Failure> {
    let sides: Vec<(&PathBuf, Option<&String>)> = match (&args.option_a, &args.option_b) {
        (Some(a), Some(b)) => match args.sides.as_slice() {
            [kernel] => vec![(kernel, Some(a)), (kernel, Some(b))],
            _ => {
                return Err(Failure::request(
                    "--option-a and --option-b are two settings of one kernel; name only one",
                ));
            }
        },
        _ => args.sides.iter().map(|kernel| (kernel, None)).collect(),
    };
    if sides.len() < 2 {
        return Err(Failure::request(
            "there is nothing to compare it with; name another kernel, or give --option-a and \
             --option-b",
        ));
    }
    if sides.len() > LETTERS.len() {
        return Err(Failure::request(format!(
            "{} kernels are more than {}; name fewer",
            sides.len(),
            LETTERS.len()
        )));
    }
    sides.into_iter().map(|(kernel, option)| side(args, kernel, option)).collect()
}

/// A side from words of the main job.
fn side(args: &CompareArgs, kernel: &Path, option: Option<&String>) -> Result<Wanted, Failure> {
    let mut words: Vec<OsString> = vec!["schedvmm".into(), "--kernel".into(), kernel.into()];
    words.extend(args.run.iter().map(OsString::from));
    if let Some(option) = option {
        let split = shlex::split(option).ok_or_else(|| {
            Failure::request(format!("`{option}` has a quotation mark without its other one"))
        })?;
        words.extend(split.into_iter().map(OsString::from));
    }
    // A gap would end a run, and its figures with it.
    if !words.iter().any(|word| word.to_string_lossy().starts_with("--threshold")) {
        words.push("--threshold=off".into());
    }
    let Cli { run, runs, .. } = Cli::try_parse_from(&words)
        .map_err(|error| Failure::request(error.to_string().trim_end().to_owned()))?;
    check_options(&run)?;
    if runs.runs.is_some() {
        return Err(Failure::request(
            "--runs is of one side, and how many pairs there are the answer decides; leave it out",
        ));
    }
    let of_compare = [
        ("--seed", run.load.seed.is_some()),
        ("--output", run.show.output.is_some()),
        ("--json", run.show.json),
    ];
    if let Some((option, _)) = of_compare.into_iter().find(|(_, given)| *given) {
        return Err(Failure::request(format!(
            "{option} is of the comparison, and not of one side; give it before `--`"
        )));
    }
    if let Some(limit) = run.load.fail_if.first() {
        return Err(Failure::request(format!(
            "--fail-if '{}' judges runs one by one, and what is compared are figures of all; leave it \
             out, and name the figure with --metric",
            limit.text()
        )));
    }
    if let Some(threshold) = run.load.threshold.0 {
        return Err(Failure::request(format!(
            "--threshold {threshold:?} ends runs at a gap, and what is compared are whole runs; \
             leave it out"
        )));
    }
    let name = option.map_or_else(|| kernel.display().to_string(), |option| named(option));
    Ok(Wanted { name, run })
}

/// A setting as a name.
fn named(option: &str) -> String {
    match option.trim() {
        "" => "(no options)".to_owned(),
        words => words.to_owned(),
    }
}

/// What may differ between the sides: their kernels, and what follows from that or from the time.
pub const KERNELS: [&str; 4] = ["kernel", "job.host_tsc_khz", "host", "machine.cmdline"];

/// What differs between the sides beside their kernels, which is what options ask for.
fn differing(
    args: &CompareArgs,
    wanted: &[Wanted],
    conditions: &[Conditions],
) -> Result<Vec<String>, Failure> {
    let allowed = args.allow.iter().map(String::as_str);
    let ignored: Vec<_> = KERNELS.into_iter().chain(allowed).collect();
    let mut notes = Vec::new();
    let Some((base, others)) = conditions.split_first() else { return Ok(notes) };
    for (other, side) in others.iter().zip(wanted.iter().skip(1)) {
        let found = alike::differences(base, other, &ignored)
            .map_err(|error| Failure::internal(error.to_string()))?;
        let line = machine_words(base) != machine_words(other);
        if args.option_a.is_some() {
            let kernel_words = if line { "; the kernel's command line, too" } else { "" };
            notes.push(match (found.as_slice(), line) {
                ([], false) => "the sides do not differ in anything that is known".to_owned(),
                ([], true) => "the sides differ in the kernel's command line".to_owned(),
                _ => format!("the sides differ in {}{kernel_words}", alike::list(&found)),
            });
        } else if !found.is_empty() {
            return Err(Failure::request(format!(
                "{} and {} would not be measured alike: {}; give what is listed as an option for all \
                 sides (--l2-memory, for one), or name what may differ with --allow",
                wanted[0].name,
                side.name,
                alike::list(&found)
            )));
        }
    }
    Ok(notes)
}

/// The kernel's command line without what depends on its version.
fn machine_words(conditions: &Conditions) -> Vec<&str> {
    super::stored::own_words_apart(&conditions.machine.cmdline)
}

/// Machines of all sides, one at a time.
struct Kernels {
    kernels: Vec<Repeated>,
    inbox: Inbox,
    /// What the first run was like, and what may differ from it; `None` where settings are compared,
    /// which are to differ.
    like: Option<FirstRun>,
}

/// All runs are to be like the first, whichever side had it.
#[derive(Default)]
struct FirstRun {
    run: Option<Likeness>,
    allowed: Vec<String>,
}

impl Machines for Kernels {
    fn boot(&mut self, side: usize, seed: u64, folder: &Path) -> Result<Run, Failure> {
        let (result, kept) = self.kernels[side].measure(seed, folder, &mut self.inbox)?;
        if let Some(first) = &mut self.like
            && matches!(result.verdict, Answer::Pass | Answer::Measured)
        {
            let like = Likeness::of(&result);
            let this = folder.display().to_string();
            match &first.run {
                None => first.run = Some(like),
                Some(run) => run.check(&like, ("the first run", &this), &first.allowed)?,
            }
        }
        Ok(Run { result, kept })
    }

    fn signal(&self) -> Option<i32> {
        signals::received()
    }
}

fn first_line(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "comparison in {folder} (called again with --output {folder} it goes on where it was ended)"
    )
}

/// After a pair that is no pair: whose run was no answer, and why.
fn broken_line(rounds: &Rounds, side: usize) -> String {
    let last = rounds.series[side].trials.attempts.last();
    let (pair, state, why) =
        last.map_or((0, State::Failed, ""), |last| (last.trial, last.state, last.why.as_str()));
    format!(
        "pair {pair:>3}  {} {}: {}; all of the pair again with the same seed",
        one_line(&rounds.names[side]),
        lines::state(state),
        one_line(why)
    )
}

/// After each pair: what it found, and when more is known.
fn pair_line(rounds: &Rounds, found: &[Versus]) -> String {
    let metric = rounds.asked.metric;
    let done = found.first().map_or(0, |versus| versus.pairs + versus.left_out);
    let mut text = format!("pair {done:>3}  ");
    for series in &rounds.series {
        let last = series.trials.measured().last();
        let value = last.and_then(|attempt| attempt.metrics.get(&metric));
        let shown = value.map_or_else(|| "-".to_owned(), |value| show(metric, *value));
        text += &format!("{shown:>10}  ");
    }
    let next = found.iter().filter_map(|versus| versus.next_look_pairs).max();
    if let Some(next) = next {
        text += &format!("next look after {next} pairs");
        let each = rounds.series.iter().filter_map(Series::time_to_go);
        let left = each.fold(std::time::Duration::ZERO, |sum, time| sum + time);
        text += &format!(", {} to go", crate::verbs::trials::lines::show_time(left));
    }
    text
}

/// From the trials to what is printed.
fn compared(rounds: &Rounds, notes: Vec<String>) -> Result<Comparison, Failure> {
    let examples: Vec<_> = rounds.series.iter().map(example).collect();
    let sides: Vec<_> = examples
        .iter()
        .enumerate()
        .map(|(index, example)| {
            let kernel = example.as_ref().map(kernel).unwrap_or_default();
            Side { kernel, ..rounds.side(index) }
        })
        .collect();
    let Some((base, others)) = sides.split_first() else {
        return Err(Failure::internal("a comparison of nothing"));
    };
    let conditions = examples[0].as_ref().map(words::conditions).unwrap_or_default();
    compare(rounds.asked, (base, &others.iter().collect::<Vec<_>>()), notes, conditions)
}

/// A result of a side.
pub fn example(series: &Series) -> Option<RunResult> {
    let attempt = series.trials.measured().next()?;
    Some(Saved::open(&series.folder.join(&attempt.folder)).ok()?.result)
}

#[cfg(test)]
mod tests {
    use super::super::judge::tests::{ASKED, side};
    use super::super::judge::versus;
    use super::*;
    use crate::alike::tests::assert_names;
    use crate::verbs::trials::series::tests::whole_conditions;
    use results::comparison::ComparisonSchema;

    #[test]
    fn what_may_differ_has_the_names_that_files_have() {
        assert_names(&whole_conditions(), &KERNELS);
    }

    fn comparison(asked: Asked, other: &str) -> Comparison {
        let (base, other) = (side("a", 0, 1e6, 1), side(other, 0, 1e6, 1));
        Comparison {
            schema: ComparisonSchema::V1,
            version: "0.1.0".into(),
            metric: asked.metric,
            min_effect: asked.min_effect,
            notes: Vec::new(),
            conditions: String::new(),
            base: base.facts(asked.metric),
            others: vec![versus(&base, &other, asked).expect("a question")],
        }
    }

    #[test]
    fn what_is_asked_stays_what_it_was() {
        let dir = tempfile::tempdir().expect("tempdir");
        let plan = comparison(ASKED, "b");
        assert!(check_plan(&plan, dir.path()).is_ok(), "there is none yet");
        plan.write(dir.path()).expect("written");
        assert!(check_plan(&comparison(ASKED, "b"), dir.path()).is_ok());
        let other_effect = Asked { min_effect: 0.5, ..ASKED };
        let other_metric = Asked { metric: Metric::Longest, ..ASKED };
        for (other, name) in [
            (comparison(other_effect, "b"), "min_effect (0.1 and 0.5)"),
            (comparison(other_metric, "b"), "metric (\"wait-p99\" and \"longest\")"),
            (comparison(ASKED, "c"), "sides ("),
        ] {
            let text = check_plan(&other, dir.path()).expect_err("another question").to_string();
            assert!(text.contains(name) && text.contains("--output"), "{text}");
        }
    }
}
