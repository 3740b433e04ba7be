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
    /// Attempts that came to no answer, and were done again: which they were is no chance.
    pub without_answer: usize,
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
    fn question(self) -> Result<Question, Failure> {
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
        let counted = |states: &[State]| {
            trials.attempts.iter().filter(|it| states.contains(&it.state)).count()
        };
        Self {
            name,
            kernel: String::new(),
            points: Self::points(trials),
            without_answer: counted(&[State::Untestable, State::Failed]),
            contaminated: counted(&[State::Contaminated]),
        }
    }

    /// Those of `trials` that count.
    pub fn points(trials: &Trials) -> BTreeMap<u32, Point> {
        trials.measured().map(|attempt| (attempt.trial, Point::of(attempt))).collect()
    }

    /// What became of attempts that are not among its trials.
    pub fn note(&self) -> Option<String> {
        let Self { name, without_answer, contaminated, .. } = self;
        (without_answer + contaminated > 0).then(|| {
            format!(
                "of {name}, {without_answer} attempts came to no answer and {contaminated} were \
                 contaminated; they were done again"
            )
        })
    }

    /// For a reader, with the median of this figure.
    pub fn facts(&self, metric: Metric) -> SideFacts {
        let values: Vec<_> =
            self.points.values().filter_map(|point| point.metrics.get(&metric).copied()).collect();
        SideFacts {
            name: self.name.clone(),
            kernel: self.kernel.clone(),
            trials: self.points.len(),
            median: Median::new(&values, CONFIDENCE),
        }
    }
}

/// How far each pair of trials is apart in a figure, in the order of their numbers; and in how many
/// pairs it is not known.
fn differences(metric: Metric, base: &Side, other: &Side) -> (Vec<Difference>, usize) {
    let scale = match metric.quantity() {
        Quantity::LengthNs => Scale::LENGTHS_NS,
        Quantity::Share => Scale::SHARES,
    };
    let pairs = base.points.iter().filter_map(|(trial, one)| Some((one, other.points.get(trial)?)));
    let all: Vec<_> = pairs
        .map(|(one, other)| {
            scale.difference(*one.metrics.get(&metric)?, *other.metrics.get(&metric)?)
        })
        .collect();
    let known: Vec<_> = all.iter().flatten().copied().collect();
    let left_out = all.len() - known.len();
    (known, left_out)
}

/// The answer that the pairs give so far.
///
/// # Errors
/// The question is none.
pub fn versus(base: &Side, other: &Side, asked: Asked) -> Result<Versus, Failure> {
    let question = asked.question()?;
    let (pairs, left_out) = differences(asked.metric, base, other);
    let (finding, next_look_pairs) = match judge(question, &pairs) {
        Progress::Decided(finding) => (Some(finding), None),
        Progress::GoOn { next_look_pairs, so_far } => (so_far, Some(next_look_pairs)),
    };
    let secondary = match finding {
        Some(finding) => secondary(asked, question, (base, other), finding.look),
        None => Vec::new(),
    };
    let reached = finding.map_or(Answer::Undecided, |finding| finding.answer);
    let withheld = withheld(asked.metric, left_out, [base, other], reached);
    Ok(Versus {
        side: other.facts(asked.metric),
        answer: if withheld.is_some() { Answer::Undecided } else { reached },
        withheld,
        pairs: pairs.len(),
        left_out,
        finding,
        next_look_pairs,
        secondary,
    })
}

/// Why an answer is not given: what is missing may be the worst, or the best, there was.
fn withheld(metric: Metric, left_out: usize, sides: [&Side; 2], reached: Answer) -> Option<String> {
    if reached == Answer::Undecided {
        return None;
    }
    if left_out > 0 {
        let name = metric.name();
        return Some(format!("{left_out} pairs do not tell {name}; choose another --metric"));
    }
    // Who runs half of the time and is no worse then is not the same.
    let lost = sides.into_iter().find(|side| side.without_answer > 0);
    let lost = lost.filter(|_| reached != Answer::Worse)?;
    Some(format!("{} runs of {} came to no answer", lost.without_answer, lost.name))
}

/// Other figures of the pairs that the look had. Their probabilities are corrected for their number,
/// and compared with the level of that look: they have not been looked at on their own.
fn secondary(
    asked: Asked,
    question: Question,
    (base, other): (&Side, &Side),
    look: Look,
) -> Vec<Secondary> {
    let others = Metric::ALL.into_iter().filter(|metric| *metric != asked.metric);
    let found: Vec<(Metric, Finding)> = others
        .filter_map(|metric| {
            let (pairs, left_out) = differences(metric, base, other);
            if left_out > 0 {
                return None;
            }
            let finding = judge_once(question, pairs.get(..look.pairs)?, look.level)?;
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
