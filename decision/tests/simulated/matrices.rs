// SPDX-License-Identifier: Apache-2.0
//! Matrices of cells on one host, trials of all of them in one random order.

use decision::matrix::{CellFinding, judge_cells};
use decision::sequential::{Answer, Question, Worse};

use super::host::{Host, Trials, difference};

/// A matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Cells beside the base.
    pub cells: usize,
    /// Of them, those that have this ratio; the others have 1.
    pub differ: usize,
    pub ratio: f64,
    /// Of each cell.
    pub trials: usize,
    pub deviation: f64,
    pub contaminated: f64,
}

/// Means over matrices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Discoveries {
    /// Share of cells said to differ that do not; 0 where none is.
    pub false_share: f64,
    /// Share of the cells that differ which is found, on the right side.
    pub found: f64,
    /// The same of cells without a correction for their number, at 0.05 each: of the former.
    pub plain_false_share: f64,
    /// Cells whose interval had the truth in it, of those said to differ.
    pub covered: f64,
}

/// One matrix: what each cell comes to.
fn measure(matrix: Matrix, seed: u64) -> Vec<CellFinding> {
    let mut host = Host::new(seed);
    let mut order: Vec<_> =
        (0..=matrix.cells).flat_map(|cell| (0..matrix.trials).map(move |it| (cell, it))).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, host.random.below(last + 1));
    }
    let mut lengths = vec![vec![0.0; matrix.trials]; matrix.cells + 1];
    for (cell, trial) in order {
        let (deviation, contaminated) = (matrix.deviation, matrix.contaminated);
        let kind = Trials { ratio: matrix.ratio, deviation, contaminated };
        // The base is the last one.
        lengths[cell][trial] = host.trial(kind, cell < matrix.differ);
    }
    let base = lengths.pop().expect("a base");
    let pairs = lengths
        .iter()
        .map(|cell| base.iter().zip(cell).map(|(base, other)| difference(*base, *other)).collect());
    let question = Question::new(Worse::Larger, 0.1).expect("an effect");
    let found = judge_cells(question, &pairs.collect::<Vec<_>>());
    found.cells.into_iter().map(|cell| cell.expect("pairs")).collect()
}

/// So many matrices, each on a host of its own.
pub fn discoveries(matrix: Matrix, count: u32) -> Discoveries {
    let mut means = Discoveries::default();
    let (mut said, mut covered) = (0.0, 0.0);
    let part = 1.0 / f64::from(count);
    for seed in 0..count {
        let cells = measure(matrix, 0x3a71_0000 + u64::from(seed));
        let (differ, equal) = cells.split_at(matrix.differ);
        let right = if matrix.ratio > 1.0 { Answer::Worse } else { Answer::Better };
        let is_said = |cell: &&CellFinding| matches!(cell.answer, Answer::Better | Answer::Worse);
        let of = |cells: &[CellFinding]| cells.iter().filter(is_said).count() as f64;
        means.false_share += part * of(equal) / of(&cells).max(1.0);
        let hits = differ.iter().filter(|cell| cell.answer == right).count() as f64;
        means.found += part * hits / (matrix.differ.max(1) as f64);
        let plain = |cells: &[CellFinding]| cells.iter().filter(|it| it.p <= 0.05).count() as f64;
        means.plain_false_share += part * plain(equal) / plain(&cells).max(1.0);
        for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| is_said(cell)) {
            let truth = if at < matrix.differ { matrix.ratio } else { 1.0 };
            let interval = cell.interval.expect("said by it");
            said += 1.0;
            covered += f64::from(u8::from((interval.low..=interval.high).contains(&truth)));
        }
    }
    means.covered = if said > 0.0 { covered / said } else { 1.0 };
    means
}
