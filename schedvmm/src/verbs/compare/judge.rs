// SPDX-License-Identifier: Apache-2.0
//! From the trials of two sides to an answer.

use std::collections::BTreeMap;

use decision::difference::{Difference, Scale};
use decision::interval::Median;
use decision::multiple::holm;
use decision::sequential::{Answer, Finding, Look, Progress, Question, Worse, judge, judge_once};
use results::comparison::{Secondary, SideFacts, Versus};
use results::metric::{Metric, Quantity};
use results::trials::{Attempt, State, Trials};

use crate::status::Failure;

/// Of the medians.
const CONFIDENCE: f64 = 0.95;

/// A kernel, or a setting, with its trials.
pub struct Side {
    /// As it was named.
    pub name: String,
    /// Its kernel, as that tells itself.
    pub kernel: String,
    /// Trials that count, by their number.
    pub points: BTreeMap<u32, Point>,
    /// Trials of attempts that came to no answer for the kernel, and were done again: which they were
    /// is no chance.
    pub without_answer: Vec<u32>,
    /// Attempts that others had a part in, and that were done again.
    pub contaminated: usize,
}

/// A trial.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Of its pauses.
    pub seed: u64,
    /// When it began.
    pub started_utc: String,
    /// Its figures.
    pub metrics: BTreeMap<Metric, f64>,
}

impl Point {
    /// What an attempt found.
    pub fn of(attempt: &Attempt) -> Self {
        Self {
            seed: attempt.seed,
            started_utc: attempt.started_utc.clone(),
            metrics: attempt.metrics.clone(),
        }
    }
}

/// What is asked of all comparisons.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The figure that decides.
    pub metric: Metric,
    /// The smallest change that matters.
    pub min_effect: f64,
}

impl Asked {
    /// What the test is asked.
    ///
    /// # Errors
    /// A change of nothing is none.
    pub fn question(self) -> Result<Question, Failure> {
        Question::new(Worse::Larger, self.min_effect).ok_or_else(|| {
            Failure::request(format!(
                "--min-effect {} % is no change: give more than 0 %",
                100.0 * self.min_effect
            ))
        })
    }
}

impl Side {
    /// A side with these trials.
    pub fn new(name: String, trials: &Trials) -> Self {
        let of = |state: State| trials.attempts.iter().filter(move |it| it.state == state);
        Self {
            name,
            kernel: String::new(),
            points: Self::points(trials),
            without_answer: of(State::Untestable).map(|attempt| attempt.trial).collect(),
            contaminated: of(State::Contaminated).count(),
        }
    }

    /// A side without trials.
    pub fn empty(name: String) -> Self {
        let (kernel, points, without_answer) = (String::new(), BTreeMap::new(), Vec::new());
        Self { name, kernel, points, without_answer, contaminated: 0 }
    }

    /// Those of `trials` that count.
    pub fn points(trials: &Trials) -> BTreeMap<u32, Point> {
        trials.measured().map(|attempt| (attempt.trial, Point::of(attempt))).collect()
    }

    /// What became of attempts that are not among its trials.
    pub fn note(&self) -> Option<String> {
        let Self { name, without_answer, contaminated, .. } = self;
        let lost = without_answer.len();
        (lost + contaminated > 0).then(|| {
            format!(
                "of {name}, {lost} attempts came to no answer and {contaminated} were \
                 contaminated; they were done again"
            )
        })
    }

    /// For a reader, with the median of this figure.
    pub fn facts(&self, metric: Metric) -> SideFacts {
        SideFacts {
            name: self.name.clone(),
            kernel: self.kernel.clone(),
            trials: self.points.len(),
            median: self.median(metric),
        }
    }

    /// The median of this figure; `None` where no trial tells it.
    pub fn median(&self, metric: Metric) -> Option<Median> {
        let told = self.points.values().filter_map(|point| point.metrics.get(&metric).copied());
        Median::new(&told.collect::<Vec<_>>(), CONFIDENCE)
    }
}

/// A pair of trials by its number, and how far the two are apart in a figure; `None` where one of them
/// does not tell it.
type Pair = (u32, Option<Difference>);

/// The scale on which its values are compared.
pub fn scale(metric: Metric) -> Scale {
    match metric.quantity() {
        Quantity::LengthNs => Scale::LENGTHS_NS,
        Quantity::Share => Scale::SHARES,
    }
}

/// All pairs, in the order of their numbers.
fn pairs(metric: Metric, base: &Side, other: &Side) -> Vec<Pair> {
    let scale = scale(metric);
    let both =
        base.points.iter().filter_map(|(pair, one)| Some((pair, one, other.points.get(pair)?)));
    both.map(|(pair, one, other)| (*pair, difference(scale, metric, one, other))).collect()
}

/// Of all pairs that tell this figure, and how many do not.
pub fn differences(metric: Metric, base: &Side, other: &Side) -> (Vec<Difference>, usize) {
    let all = pairs(metric, base, other);
    let told: Vec<_> = all.iter().filter_map(|(_, difference)| *difference).collect();
    let left_out = all.len() - told.len();
    (told, left_out)
}

fn difference(scale: Scale, metric: Metric, one: &Point, other: &Point) -> Option<Difference> {
    scale.difference(*one.metrics.get(&metric)?, *other.metrics.get(&metric)?)
}

/// Those that the look had that decided, and all that lie between them; the rest of them has no say.
fn used(pairs: &[Pair], decided: Option<Finding>) -> &[Pair] {
    let Some(finding) = decided else { return pairs };
    let mut known = pairs.iter().enumerate().filter(|(_, (_, difference))| difference.is_some());
    let last = known.nth(finding.look.pairs.saturating_sub(1));
    last.map_or(pairs, |(at, _)| &pairs[..=at])
}

/// The answer that the pairs give so far.
///
/// # Errors
/// The question is none.
pub fn versus(base: &Side, other: &Side, asked: Asked) -> Result<Versus, Failure> {
    let question = asked.question()?;
    let all = pairs(asked.metric, base, other);
    let known: Vec<_> = all.iter().filter_map(|(_, difference)| *difference).collect();
    let (finding, next_look_pairs) = match judge(question, &known) {
        Progress::Decided(finding) => (Some(finding), None),
        Progress::GoOn { next_look_pairs, so_far } => (so_far, Some(next_look_pairs)),
    };
    let used = used(&all, finding.filter(|_| next_look_pairs.is_none()));
    let left_out = used.iter().filter(|(_, difference)| difference.is_none()).count();
    let last = used.last().map_or(0, |(pair, _)| *pair);
    let reached = finding.map_or(Answer::Undecided, |finding| finding.answer);
    let withheld = withheld(asked.metric, left_out, ([base, other], last), reached);
    let secondary = match finding {
        Some(finding) => secondary(asked, question, (base, other), finding.look),
        None => Vec::new(),
    };
    Ok(Versus {
        side: other.facts(asked.metric),
        answer: if withheld.is_some() { Answer::Undecided } else { reached },
        withheld,
        pairs: known.len(),
        left_out,
        finding,
        next_look_pairs,
        secondary,
    })
}

/// Why an answer is not given: what is missing up to the `last` pair may be the worst, or the best,
/// there was.
pub fn withheld(
    metric: Metric,
    left_out: usize,
    (sides, last): ([&Side; 2], u32),
    reached: Answer,
) -> Option<String> {
    if left_out > 0 {
        let name = metric.name();
        let pairs = if left_out == 1 { "pair does" } else { "pairs do" };
        return Some(format!(
            "{left_out} {pairs} not tell {name}; choose another --metric, or a longer --duration"
        ));
    }
    if !matches!(reached, Answer::Better | Answer::Same) {
        return None;
    }
    // Who runs half of the time and is no worse then is not the same.
    sides.into_iter().find_map(|side| {
        let lost = side.without_answer.iter().filter(|trial| **trial <= last).count();
        (lost > 0).then(|| format!("{lost} runs of {} came to no answer", side.name))
    })
}

/// Other figures of the pairs that the look had. Their probabilities are corrected for their number,
/// and compared with the level of that look: they have not been looked at on their own.
fn secondary(
    asked: Asked,
    question: Question,
    (base, other): (&Side, &Side),
    look: Look,
) -> Vec<Secondary> {
    let others = Metric::SHOWN.into_iter().filter(|metric| *metric != asked.metric);
    let found: Vec<(Metric, Finding)> = others
        .filter_map(|metric| {
            let all = pairs(metric, base, other);
            let used = all.get(..look.pairs)?.iter().map(|(_, difference)| *difference);
            let finding = judge_once(question, &used.collect::<Option<Vec<_>>>()?, look.level)?;
            Some((metric, finding))
        })
        .collect();
    let corrected = holm(&found.iter().map(|(_, finding)| finding.p).collect::<Vec<_>>());
    found
        .into_iter()
        .zip(corrected)
        .map(|((metric, finding), p_holm)| Secondary {
            metric,
            answer: corrected_answer(finding, p_holm),
            p: finding.p,
            p_holm,
            ratio: finding.ratio,
            interval: finding.interval,
        })
        .collect()
}

/// What differs by its own probability may not do so by the corrected one.
fn corrected_answer(finding: Finding, p_holm: f64) -> Answer {
    match finding.answer {
        Answer::Better | Answer::Worse if p_holm > finding.look.level => Answer::Undecided,
        answer => answer,
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
pub mod tests;
