// SPDX-License-Identifier: Apache-2.0
//! Many cells, each against its base, of a number of trials that was fixed beforehand: which of them
//! differ, so that of those that are said to differ hardly any does not.

use serde::{Deserialize, Serialize};

use crate::difference::Difference;
use crate::interval::Interval;
use crate::multiple::benjamini_hochberg;
use crate::sequential::{Answer, Question, judge_once};
use crate::signed_rank::SignedRank;

/// Of the cells that are called better or worse, at most this share is neither, on average.
pub const FALSE_DISCOVERIES: f64 = 0.05;

/// What the trials of a cell, each with the base's of the same number, come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellFinding {
    /// The answer, with all cells in mind.
    pub answer: Answer,
    /// Pairs of trials.
    pub pairs: usize,
    /// Two-sided, of the signed-rank test of this cell alone.
    pub p: f64,
    /// The same after Benjamini and Hochberg's correction for all cells.
    pub p_adjusted: f64,
    /// Hodges and Lehmann's estimate of cell / base (for shares: of their odds).
    pub ratio: f64,
    /// Ratios that the test does not reject at the level of the whole matrix: without 1 if the cell is
    /// said to differ, or is the same within the smallest effect. `None` where the pairs are too few for that level.
    pub interval: Option<Interval>,
}

/// The findings, and the level at which each cell was tested.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// Of each cell; `None` of one without a pair.
    pub cells: Vec<Option<CellFinding>>,
    /// Two-sided, of every cell.
    pub level: f64,
}

/// Judges all cells at once: Benjamini and Hochberg's (1995) procedure chooses the level, at which each
/// cell is then asked what a comparison asks. So intervals cover as Benjamini and Yekutieli's (2005) do,
/// and none contradicts its answer.
pub fn judge_cells(question: Question, cells: &[Vec<Difference>]) -> Findings {
    let tests: Vec<_> = cells.iter().map(|pairs| SignedRank::new(pairs)).collect();
    let p: Vec<_> = tests.iter().flatten().map(SignedRank::p).collect();
    let level = level(question, cells, &p);
    let mut adjusted = benjamini_hochberg(&p).into_iter().zip(p);
    let cells = tests.iter().zip(cells).map(|(test, pairs)| {
        let (test, (p_adjusted, p)) = (test.as_ref()?, adjusted.next()?);
        let finding = judge_once(question, pairs, level);
        Some(CellFinding {
            answer: finding.map_or(Answer::Undecided, |finding| finding.answer),
            pairs: pairs.len(),
            p,
            p_adjusted,
            ratio: test.ratio(),
            interval: finding.map(|finding| finding.interval),
        })
    });
    Findings { cells: cells.collect(), level }
}

/// So many pairs a cell needs to be said to differ if no other one does.
pub fn pairs_needed(cells: usize) -> usize {
    let level = at_rank(1, cells.max(1));
    let least = |pairs: &usize| 2.0 * 0.5_f64.powi(i32::try_from(*pairs).unwrap_or(i32::MAX));
    (1..64).find(|pairs| least(pairs) <= level).unwrap_or(64)
}

/// The level: Benjamini and Hochberg's, as long as so many cells are said to differ at it as it is for.
/// Where the test rejects a cell that is the same within the smallest effect, nobody says that it
/// differs, and it must not pay for one of which that is said; then the level is lower. Where none is
/// said to differ, it is the one at which a single cell would be.
fn level(question: Question, cells: &[Vec<Difference>], p: &[f64]) -> f64 {
    let mut rising = p.to_vec();
    rising.sort_by(f64::total_cmp);
    let count = rising.len().max(1);
    let rejected = rising.iter().enumerate().rposition(|(at, p)| *p <= at_rank(at + 1, count));
    let mut rank = rejected.map_or(1, |at| at + 1);
    while rank > 1 {
        let said = said_to_differ(question, cells, at_rank(rank, count));
        if said >= rank {
            break;
        }
        rank = said.max(1);
    }
    at_rank(rank, count)
}

fn said_to_differ(question: Question, cells: &[Vec<Difference>], level: f64) -> usize {
    let answers = cells.iter().filter_map(|pairs| judge_once(question, pairs, level));
    answers.filter(|it| matches!(it.answer, Answer::Better | Answer::Worse)).count()
}

fn at_rank(rank: usize, count: usize) -> f64 {
    FALSE_DISCOVERIES * crate::real(rank) / crate::real(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::difference::Scale;
    use crate::sequential::Worse;

    /// So many pairs around this ratio, no two alike.
    fn pairs(count: u32, ratio: f64) -> Vec<Difference> {
        let other = |pair| 1e6 * ratio * (1.0 + 0.001 * f64::from(pair));
        let both = (0..count).map(|pair| Scale::LENGTHS_NS.difference(1e6, other(pair)));
        both.map(|difference| difference.expect("lengths")).collect()
    }

    fn question() -> Question {
        Question::new(Worse::Larger, 0.1).expect("an effect")
    }

    #[test]
    fn the_level_follows_from_how_many_differ() {
        // 2/1024 is enough alone among ten; 2/128 only where four of ten differ.
        let mut cells = vec![pairs(10, 1.5)];
        cells.extend((0..9).map(|_| pairs(2, 1.0)));
        let found = judge_cells(question(), &cells);
        assert!((found.level - 0.005).abs() < 1e-12, "{found:?}");
        let first = found.cells[0].expect("pairs");
        assert_eq!((first.answer, first.pairs), (Answer::Worse, 10));
        assert!((first.p_adjusted - 20.0 / 1024.0).abs() < 1e-12, "{first:?}");
        let second = found.cells[1].expect("pairs");
        assert_eq!((second.answer, second.interval), (Answer::Undecided, None));
        let seven = |differ: usize| {
            let mut cells: Vec<_> = (0..differ).map(|_| pairs(7, 1.5)).collect();
            cells.extend((differ..10).map(|_| pairs(2, 1.0)));
            judge_cells(question(), &cells).cells[0].expect("pairs").answer
        };
        assert_eq!((seven(3), seven(4)), (Answer::Undecided, Answer::Worse));
    }

    #[test]
    fn answers_and_intervals_say_the_same() {
        let ratios = [0.5, 0.9, 0.95, 1.0, 1.05, 1.15, 1.5, 2.0];
        let cells: Vec<_> = ratios.map(|ratio| pairs(12, ratio)).into();
        let found = judge_cells(question(), &cells);
        for cell in found.cells.iter().flatten() {
            let Interval { low, high, .. } = cell.interval.expect("pairs enough");
            let is_apart = !(low..=high).contains(&1.0);
            assert!(!is_apart || cell.p_adjusted <= FALSE_DISCOVERIES + 1e-12, "{cell:?}");
            let is_same = 1.0 / 1.1 < low && high < 1.1;
            assert_eq!(is_same, cell.answer == Answer::Same, "{cell:?}");
            assert!(is_apart || matches!(cell.answer, Answer::Same | Answer::Undecided));
        }
        assert_eq!(found.cells[0].map(|cell| cell.answer), Some(Answer::Better));
        assert_eq!(found.cells[7].map(|cell| cell.answer), Some(Answer::Worse));
    }

    /// They are rejected, and told as the same: what they add to the level is nobody's.
    #[test]
    fn cells_that_are_the_same_do_not_pay_for_one_that_differs() {
        let mut cells: Vec<_> = (0..30).map(|_| pairs(12, 1.05)).collect();
        // 2/128 alone of 31 is far from enough.
        cells.push(pairs(7, 1.5));
        let found = judge_cells(question(), &cells);
        assert_eq!(found.cells[30].expect("pairs").answer, Answer::Undecided);
        assert!((found.level - 0.05 / 31.0).abs() < 1e-12, "{}", found.level);
    }

    #[test]
    fn what_has_no_pair_has_no_finding() {
        let found = judge_cells(question(), &[Vec::new(), pairs(7, 2.0)]);
        assert_eq!(found.cells[0], None);
        // It is no cell that could have been found, either.
        assert_eq!(found.cells[1].map(|cell| cell.answer), Some(Answer::Worse));
        assert!(judge_cells(question(), &[]).cells.is_empty());
    }

    #[test]
    fn so_many_pairs_are_needed() {
        assert_eq!([1, 2, 10, 11, 100].map(pairs_needed), [6, 7, 9, 9, 12]);
        for cells in [1, 3, 11, 47] {
            let needed = pairs_needed(cells);
            let found = |pairs_each: usize| {
                let one = pairs(u32::try_from(pairs_each).expect("few"), 2.0);
                let mut all = vec![one];
                all.extend((1..cells).map(|_| pairs(1, 1.0)));
                judge_cells(question(), &all).cells[0].map(|cell| cell.answer)
            };
            assert_eq!(found(needed), Some(Answer::Worse), "{cells}");
            assert_eq!(found(needed - 1), Some(Answer::Undecided), "{cells}");
        }
    }
}
