// SPDX-License-Identifier: Apache-2.0
//! `schedvmm compare`: is the other kernel better, the same, or worse?

mod judge;
mod measured;
mod rounds;
mod stored;
mod words;

use std::path::PathBuf;

use decision::sequential::{Answer, LOOKS};
use results::comparison::{Comparison, ComparisonSchema, Versus};
use results::json;
use results::metric::Metric;

pub use self::judge::{Asked, Side, differences, scale, withheld};
pub use self::measured::{KERNELS, example};
pub use self::rounds::{Machines, OneSide};
pub use self::stored::{Stored, kernel};
pub use self::words::{Probability, answer_word, conditions, screen, sentence};

use self::judge::versus;
use self::measured::Measured;
use crate::cli::CompareArgs;
use crate::status::{ExitStatus, Failure};
use crate::terminal;

/// The smallest change that matters where nobody says otherwise.
pub const MIN_EFFECT: f64 = 0.1;

/// Compares what is stored, or measures it first.
///
/// # Errors
/// What cannot be compared, and why.
pub fn run(args: &CompareArgs) -> Result<ExitStatus, Failure> {
    let stored = args.sides.iter().filter(|side| stored::has_trials(side)).count();
    if stored == 0 {
        let Measured { comparison, ended } = measured::run(args)?;
        print(&comparison, args)?;
        return Ok(ended?.unwrap_or_else(|| status(&comparison.others)));
    }
    if let Some(kernel) = args.sides.iter().find(|side| !stored::has_trials(side)) {
        return Err(Failure::request(format!(
            "{} has no trials.json, and others have; name kernels only, or folders of `schedvmm \
             trials` only",
            kernel.display()
        )));
    }
    check_options(args)?;
    let asked = Asked { metric: args.metric, min_effect: args.min_effect };
    let comparison = of_stored(&args.sides, asked, &args.allow)?;
    print(&comparison, args)?;
    Ok(status(&comparison.others))
}

/// Options that say how something is measured, where nothing is.
fn check_options(args: &CompareArgs) -> Result<(), Failure> {
    let of_measuring = [
        ("--option-a", args.option_a.is_some()),
        ("--seed", args.seed.is_some()),
        ("--output", args.output.is_some()),
        ("what stands after `--`", !args.run.is_empty()),
    ];
    if let Some((option, _)) = of_measuring.into_iter().find(|(_, given)| *given) {
        return Err(Failure::request(format!(
            "{option} says how trials are measured, and these are stored ones; leave it out"
        )));
    }
    if args.sides.len() < 2 {
        return Err(Failure::request(
            "there is nothing to compare it with; name two folders of trials",
        ));
    }
    Ok(())
}

/// What folders of trials come to, beside the first.
///
/// # Errors
/// What cannot be compared, and why.
pub fn of_folders(sides: &[PathBuf], metric: Metric) -> Result<Comparison, Failure> {
    of_stored(sides, Asked { metric, min_effect: MIN_EFFECT }, &[])
}

fn of_stored(sides: &[PathBuf], asked: Asked, allow: &[String]) -> Result<Comparison, Failure> {
    let stored: Vec<_> =
        sides.iter().map(|side| Stored::read(side, allow)).collect::<Result<_, _>>()?;
    let Some((base, others)) = stored.split_first() else {
        return Err(Failure::internal("a comparison of nothing"));
    };
    let mut notes = Vec::new();
    check_folders(sides)?;
    for other in others {
        let names = (base.side.name.as_str(), other.side.name.as_str());
        base.likeness.check(&other.likeness, names, allow)?;
        check_count(&base.side, &other.side)?;
        notes.extend(stored::order_notes(&base.side, &other.side));
    }
    let sides: Vec<_> = others.iter().map(|other| &other.side).collect();
    compare(asked, (&base.side, &sides), notes, words::conditions(&base.example))
}

/// A folder is the same as itself, whatever is in it.
fn check_folders(sides: &[PathBuf]) -> Result<(), Failure> {
    let real: Vec<_> = sides.iter().map(|side| side.canonicalize().ok()).collect();
    let twice = (1..real.len()).find(|at| real[*at].is_some() && real[..*at].contains(&real[*at]));
    twice.map_or(Ok(()), |at| {
        Err(Failure::request(format!(
            "{} is named twice, and is the same as itself; name two folders of trials",
            sides[at].display()
        )))
    })
}

/// Fewer pairs than the first look takes say nothing, whatever they are.
fn check_count(base: &Side, other: &Side) -> Result<(), Failure> {
    let pairs = base.points.keys().filter(|trial| other.points.contains_key(trial)).count();
    let needed = LOOKS[0].pairs;
    if pairs >= needed {
        return Ok(());
    }
    Err(Failure::request(format!(
        "{} and {} have {pairs} pairs of trials, and {needed} are needed; go on with `schedvmm trials \
         {needed}` and the same --output",
        base.name, other.name
    )))
}

fn compare(
    asked: Asked,
    (base, others): (&Side, &[&Side]),
    notes: Vec<String>,
    conditions: String,
) -> Result<Comparison, Failure> {
    let mut notes = notes;
    notes.extend([base].iter().chain(others).filter_map(|side| side.note()));
    let others = others.iter().map(|other| versus(base, other, asked)).collect::<Result<_, _>>()?;
    Ok(Comparison {
        schema: ComparisonSchema::V1,
        version: env!("CARGO_PKG_VERSION").into(),
        metric: asked.metric,
        min_effect: asked.min_effect,
        notes,
        conditions,
        base: base.facts(asked.metric),
        others,
    })
}

fn print(comparison: &Comparison, args: &CompareArgs) -> Result<(), Failure> {
    if args.json {
        terminal::product(&json::pretty(comparison).map_err(Failure::internal)?)?;
    } else if args.markdown {
        terminal::product(&words::markdown(comparison))?;
    } else {
        terminal::product(&words::screen(comparison))?;
    }
    Ok(())
}

/// Worse before undecided, and that before the rest.
fn status(others: &[Versus]) -> ExitStatus {
    if others.iter().any(|versus| versus.answer == Answer::Worse) {
        ExitStatus::OverThreshold
    } else if others.iter().any(|versus| versus.answer == Answer::Undecided) {
        ExitStatus::Untestable
    } else {
        ExitStatus::Pass
    }
}
