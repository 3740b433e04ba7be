// SPDX-License-Identifier: Apache-2.0
//! Sides that are made up.

use super::*;
use crate::status::ExitStatus;
use crate::testing::Random;
use crate::verbs::trials::series::tests::conditions;

/// So many trials of about this length, in nanoseconds, which scatter by some percent.
pub fn side(name: &str, trials: u32, length_ns: f64, seed: u64) -> Side {
    let mut random = Random::new(seed);
    let points = (1..=trials).map(|trial| {
        let scatter = 0.97 + f64::from(u32::try_from(random.below(600)).expect("small")) / 10_000.0;
        let length = length_ns * scatter;
        let metrics = BTreeMap::from([
            (Metric::WaitP99, length),
            (Metric::Longest, 3.0 * length),
            (Metric::GapShare, 0.3),
        ]);
        let started_utc = format!("2026-11-22T20:{trial:02}:{:02}Z", seed % 60);
        (trial, Point { seed: trial.into(), started_utc, metrics })
    });
    let kernel = format!("6.12.{seed}");
    let points = points.collect();
    Side { name: name.into(), kernel, points, without_answer: Vec::new(), contaminated: 0 }
}

pub const ASKED: Asked = Asked { metric: Metric::WaitP99, min_effect: 0.1 };

fn answer(base: &Side, other: &Side) -> (Answer, Option<usize>) {
    let found = versus(base, other, ASKED).expect("an answer");
    (found.answer, found.next_look_pairs)
}

#[test]
fn four_answers() {
    let base = side("a", 20, 10e6, 1);
    assert_eq!(answer(&base, &side("b", 20, 15e6, 2)), (Answer::Worse, None));
    assert_eq!(answer(&base, &side("b", 20, 7e6, 2)), (Answer::Better, None));
    assert_eq!(answer(&base, &side("b", 20, 10e6, 2)), (Answer::Same, None));
    // Six pairs are too few for the first look, and eight for the second.
    assert_eq!(answer(&base, &side("b", 6, 15e6, 2)), (Answer::Undecided, Some(7)));
    // On the edge of what matters, and no two pairs alike.
    let mut wild = side("b", 8, 10e6, 2);
    for (trial, point) in &mut wild.points {
        let factor = if trial % 2 == 0 { 2.0 } else { 0.5 };
        point.metrics.insert(Metric::WaitP99, factor * 10e6);
    }
    assert_eq!(answer(&base, &wild), (Answer::Undecided, Some(10)));
}

#[test]
fn the_estimate_is_of_other_by_base() {
    let found = versus(&side("a", 20, 10e6, 1), &side("b", 20, 15e6, 2), ASKED).expect("an answer");
    let finding = found.finding.expect("decided");
    assert!((finding.ratio - 1.5).abs() < 0.05, "{finding:?}");
    assert!(finding.interval.low < 1.5 && 1.5 < finding.interval.high, "{finding:?}");
    assert_eq!(finding.look.pairs, 7, "further pairs change nothing");
    assert_eq!((found.pairs, found.left_out), (20, 0));
    assert_eq!((found.side.trials, found.side.kernel.as_str()), (20, "6.12.2"));
}

#[test]
fn other_figures_are_corrected_for_their_number() {
    let found = versus(&side("a", 20, 10e6, 1), &side("b", 20, 15e6, 2), ASKED).expect("an answer");
    let of = |metric| found.secondary.iter().find(|it| it.metric == metric).expect("known");
    let longest = of(Metric::Longest);
    assert!((longest.p - 2.0 / 128.0).abs() < 1e-12 && longest.p_holm > longest.p, "{longest:?}");
    // By itself it would be; seven pairs are too few for two figures.
    assert_eq!(longest.answer, Answer::Undecided);
    assert_eq!(of(Metric::GapShare).answer, Answer::Same);
    assert!(found.secondary.iter().all(|it| it.metric != Metric::WaitP99));
}

#[test]
fn pairs_without_the_figure_are_left_out_and_counted() {
    let base = side("a", 10, 10e6, 1);
    let mut other = side("b", 10, 15e6, 2);
    for trial in [2, 5] {
        other.points.get_mut(&trial).expect("one").metrics.remove(&Metric::WaitP99);
    }
    other.points.remove(&9);
    let found = versus(&base, &other, ASKED).expect("an answer");
    // They may be the best, or the worst, of all.
    assert_eq!((found.pairs, found.left_out, found.answer), (7, 2, Answer::Undecided));
    assert_eq!(found.finding.map(|finding| finding.answer), Some(Answer::Worse));
    assert!(found.withheld.is_some_and(|why| why.starts_with("2 pairs do not tell wait-p99")));
    let none = Asked { metric: Metric::WakeupP99, min_effect: 0.1 };
    let found = versus(&base, &other, none).expect("no answer");
    assert_eq!((found.pairs, found.finding, found.answer), (0, None, Answer::Undecided));
}

#[test]
fn who_does_not_always_run_is_neither_the_same_nor_better() {
    let crashes = |length| Side { without_answer: vec![2, 3, 5], ..side("b", 20, length, 5) };
    for (length, reached, answer) in [
        (10e6, Answer::Same, Answer::Undecided),
        (7e6, Answer::Better, Answer::Undecided),
        (15e6, Answer::Worse, Answer::Worse),
    ] {
        let found = versus(&side("a", 20, 10e6, 5), &crashes(length), ASKED).expect("an answer");
        assert_eq!(found.finding.map(|finding| finding.answer), Some(reached));
        assert_eq!(found.answer, answer);
        let why = found.withheld.unwrap_or_default();
        assert_eq!(why.contains("3 runs of b came to no answer"), answer == Answer::Undecided);
    }
}

/// Trials that are added change nothing of what was decided.
#[test]
fn what_lies_behind_the_look_that_decided_has_no_say() {
    let base = side("a", 20, 10e6, 1);
    let mut other = side("b", 20, 15e6, 2);
    let decided = versus(&base, &other, ASKED).expect("an answer");
    assert_eq!(decided.finding.map(|finding| finding.look.pairs), Some(7));
    other.points.get_mut(&15).expect("one").metrics.clear();
    let found = versus(&base, &other, ASKED).expect("an answer");
    assert_eq!((found.answer, found.left_out, found.withheld), (Answer::Worse, 0, None));
    assert_eq!(found.secondary, decided.secondary);
    let mut better = side("b", 20, 7e6, 2);
    better.without_answer = vec![15];
    assert_eq!(answer(&base, &better).0, Answer::Better);
    better.without_answer = vec![7];
    assert_eq!(answer(&base, &better).0, Answer::Undecided);
}

/// A disk that was full, and the call that was repeated then, are nothing of the kernel's.
#[test]
fn what_failed_and_was_done_again_is_no_reason() {
    let mut trials = Trials::new(conditions(7));
    let mut attempt = |state, number| {
        let begun = Attempt::begun(1, number, String::new(), 1, String::new());
        trials.attempts.push(Attempt { state, ..begun });
    };
    attempt(State::Failed, 1);
    attempt(State::Contaminated, 2);
    attempt(State::Untestable, 3);
    attempt(State::Measured, 4);
    let side = Side::new("a".into(), &trials);
    assert_eq!((side.without_answer.as_slice(), side.contaminated), (&[1][..], 1));
    assert_eq!(side.points.len(), 1);
}

#[test]
fn no_change_is_no_question() {
    let asked = Asked { min_effect: 0.0, ..ASKED };
    let failure = versus(&side("a", 7, 1e6, 1), &side("b", 7, 1e6, 2), asked).expect_err("none");
    assert_eq!(failure.status(), ExitStatus::Usage);
    assert!(failure.to_string().contains("--min-effect 0 %"), "{failure}");
}
