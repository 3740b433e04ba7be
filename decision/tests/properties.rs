// SPDX-License-Identifier: Apache-2.0
//! What holds for any differences, with many ties and zeros among them.

use decision::difference::{Difference, Scale};
use decision::sequential::{Answer, LOOKS, Progress, Question, Worse, judge, judge_once};
use decision::signed_rank::SignedRank;
use proptest::prelude::*;

/// Steps of a hundredth: few values, so that many are equal, opposite or zero.
fn steps(pairs: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<i32>> {
    prop::collection::vec(prop_oneof![-3..4i32, -40..60i32], pairs)
}

fn differences(steps: &[i32]) -> Vec<Difference> {
    steps.iter().map(|step| difference(*step)).collect()
}

fn difference(step: i32) -> Difference {
    // Of two lengths, so that rounding is as it is in use.
    let length = (f64::from(step) * 0.01).exp();
    let floor = f64::MIN_POSITIVE;
    Scale::Log { floor }.difference(1.0, length).expect("lengths")
}

/// Ranks of all, then all signs: by definition, with the ranks doubled.
fn p_by_definition(steps: &[i32]) -> f64 {
    let rank = |step: &i32| {
        let smaller = steps.iter().filter(|other| other.abs() < step.abs()).count();
        let equal = steps.iter().filter(|other| other.abs() == step.abs()).count();
        2 * smaller + equal + 1
    };
    let ranks: Vec<_> = steps.iter().filter(|step| **step != 0).map(rank).collect();
    let seen: usize = steps.iter().filter(|step| **step > 0).map(rank).sum();
    let sums: Vec<usize> = (0..1u32 << ranks.len())
        .map(|signs| (0..ranks.len()).filter(|k| signs >> k & 1 == 1).map(|k| ranks[k]).sum())
        .collect();
    let above = sums.iter().filter(|sum| **sum >= seen).count();
    let below = sums.iter().filter(|sum| **sum <= seen).count();
    (2 * above.min(below)) as f64 / sums.len() as f64
}

proptest! {
    #[test]
    fn p_is_the_share_of_signs(steps in steps(1..11)) {
        let found = SignedRank::new(&differences(&steps)).expect("pairs").p();
        prop_assert!((found - p_by_definition(&steps).min(1.0)).abs() < 1e-12);
    }

    /// An interval has 1 in it exactly if the test does not reject, and so for any other shift.
    #[test]
    fn interval_and_test_never_contradict(steps in steps(6..21), shift in -30..40i32) {
        let moved: Vec<_> = steps.iter().map(|step| step - shift).collect();
        let test = SignedRank::new(&differences(&steps)).expect("pairs");
        for level in [0.05, 0.0137, 0.4] {
            let p = p_of(&moved);
            let Some(interval) = test.interval(level) else { continue };
            // Rounding of the logarithm moves a difference by at most one unit.
            let ratio = (f64::from(shift) * 0.01).exp();
            let near = |end: f64| (end / ratio - 1.0).abs() < 1e-11;
            if near(interval.low) || near(interval.high) {
                continue;
            }
            prop_assert_eq!(p > level, (interval.low..=interval.high).contains(&ratio));
        }
        let interval = test.interval(0.05).expect("six are enough");
        prop_assert_eq!(test.p() > 0.05, (interval.low..=interval.high).contains(&1.0));
        prop_assert!((interval.low..=interval.high).contains(&test.ratio()));
    }

    #[test]
    fn estimate_is_the_median_of_means(steps in steps(1..30)) {
        let mut sums: Vec<_> = (0..steps.len())
            .flat_map(|one| (one..steps.len()).map(move |other| (one, other)))
            .map(|(one, other)| steps[one] + steps[other])
            .collect();
        sums.sort_unstable();
        let middle = sums[(sums.len() - 1) / 2] + sums[sums.len() / 2];
        let found = SignedRank::new(&differences(&steps)).expect("pairs").ratio().ln();
        prop_assert!((found - f64::from(middle) * 0.0025).abs() < 1e-11);
    }

    /// Base and other exchanged: the other side of everything.
    #[test]
    fn sides_are_alike(steps in steps(6..80)) {
        let turned: Vec<_> = steps.iter().map(|step| -step).collect();
        let one = SignedRank::new(&differences(&steps)).expect("pairs");
        let other = SignedRank::new(&differences(&turned)).expect("pairs");
        prop_assert_eq!(one.p(), other.p());
        prop_assert!((one.ratio() * other.ratio() - 1.0).abs() < 1e-9);
        let (one, other) = (one.interval(0.05).expect("enough"), other.interval(0.05).expect("enough"));
        prop_assert!((one.low * other.high - 1.0).abs() < 1e-9);
    }

    /// Asked after each pair, or once at the end, in the order of measurement: one answer.
    #[test]
    fn answers_do_not_depend_on_when_they_are_asked_for(steps in steps(0..26)) {
        let question = Question::new(Worse::Larger, 0.1).expect("an effect");
        let all = differences(&steps);
        let at_the_end = judge(question, &all);
        let first = (0..=all.len())
            .map(|count| judge(question, &all[..count]))
            .find(|progress| matches!(progress, Progress::Decided(_)));
        if let Some(first) = first {
            prop_assert_eq!(at_the_end, first);
        }
        prop_assert_eq!(first.is_some(), matches!(at_the_end, Progress::Decided(_)));
        if let Progress::GoOn { next_look_pairs, .. } = at_the_end {
            prop_assert!(next_look_pairs > all.len());
            prop_assert!(LOOKS.iter().any(|look| look.pairs == next_look_pairs));
        }
    }

    #[test]
    fn answers_are_what_the_interval_says(steps in steps(6..40), is_larger in any::<bool>()) {
        let worse = if is_larger { Worse::Larger } else { Worse::Smaller };
        let question = Question::new(worse, 0.1).expect("an effect");
        let found = judge_once(question, &differences(&steps), 0.05).expect("six are enough");
        let (low, high) = (found.interval.low, found.interval.high);
        let expected = if low > 1.0 / 1.1 && high < 1.1 {
            Answer::Same
        } else if low > 1.0 {
            if is_larger { Answer::Worse } else { Answer::Better }
        } else if high < 1.0 {
            if is_larger { Answer::Better } else { Answer::Worse }
        } else {
            Answer::Undecided
        };
        prop_assert_eq!(found.answer, expected);
    }
}

fn p_of(steps: &[i32]) -> f64 {
    SignedRank::new(&differences(steps)).expect("pairs").p()
}

#[test]
fn too_few_pairs_reject_nothing() {
    for (pairs, level, is_enough) in
        [(5, 0.05, false), (6, 0.05, true), (6, 0.0157, false), (7, 0.0157, true)]
    {
        let test = SignedRank::new(&vec![difference(5); pairs]).expect("pairs");
        assert_eq!(test.interval(level).is_some(), is_enough, "{pairs} pairs at {level}");
    }
    assert!(SignedRank::new(&[]).is_none());
    let test = SignedRank::new(&[difference(5); 9]).expect("pairs");
    for level in [0.0, 1.0, -1.0, 2.0, f64::NAN] {
        assert_eq!(test.interval(level), None, "at {level}");
    }
    let question = Question::new(Worse::Larger, 0.1).expect("an effect");
    assert_eq!(judge_once(question, &[difference(5); 5], 0.05), None);
}

#[test]
fn looks_answer_as_early_as_they_can() {
    let question = Question::new(Worse::Larger, 0.1).expect("an effect");
    let answer = |steps: &[i32]| match judge(question, &differences(steps)) {
        Progress::Decided(finding) => Some((finding.answer, finding.look.pairs)),
        Progress::GoOn { .. } => None,
    };
    assert_eq!(answer(&[20; 6]), None);
    assert_eq!(answer(&[20; 7]), Some((Answer::Worse, 7)));
    assert_eq!(answer(&[-20; 40]), Some((Answer::Better, 7)));
    // No difference at all, and one that is certain and does not matter.
    assert_eq!(answer(&[0; 7]), Some((Answer::Same, 7)));
    assert_eq!(answer(&[3; 7]), Some((Answer::Same, 7)));
    let mixed: Vec<_> = (0..20).map(|pair| if pair % 2 == 0 { 30 } else { -31 }).collect();
    assert_eq!(answer(&mixed[..19]), None);
    assert_eq!(answer(&mixed), Some((Answer::Undecided, 20)));
    // Seen late: three pairs the other way, then all one way.
    let late: Vec<_> = (0..20).map(|pair| if pair < 3 { -15 } else { 20 + pair }).collect();
    assert_eq!(answer(&late), Some((Answer::Worse, 14)));
}

#[test]
fn a_smallest_effect_is_one() {
    for none in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        assert_eq!(Question::new(Worse::Larger, none), None);
    }
}

#[test]
fn a_large_number_of_pairs_is_no_burden() {
    let many: Vec<_> = (0..5000i32).map(|pair| difference(pair % 37 - 15)).collect();
    let test = SignedRank::new(&many).expect("pairs");
    let interval = test.interval(0.05).expect("enough pairs");
    assert!(interval.low < test.ratio() && test.ratio() < interval.high && interval.low > 1.0);
}
