// SPDX-License-Identifier: Apache-2.0
//! What the meter costs: one iteration of its loop beside one bare TSC reading, and one record.

use std::hint::black_box;
use std::sync::atomic::AtomicU32;

use crate::accounting::Accounting;
use crate::meter::{Limits, Meter, Rdtscp, Until};
use crate::record::GapRecord;
use crate::tally::{RecordCell, Recorder, Tally};
use crate::tsc;

/// Cost of one iteration in ticks, over many short batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// The quickest batch: what the code costs when nothing disturbs it.
    pub min_ticks: f64,
    /// The median batch.
    pub median_ticks: f64,
}

/// What [`meter`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeterCost {
    /// A loop that only reads the TSC.
    pub bare: Cost,
    /// The meter's loop.
    pub meter: Cost,
    /// Taking down one gap.
    pub record: Cost,
    /// Asking the kernel who took its time.
    pub evidence: Cost,
}

impl MeterCost {
    /// The meter's median over the bare loop's.
    pub fn ratio(&self) -> f64 {
        self.meter.median_ticks / self.bare.median_ticks
    }
}

/// Readings in a batch: about 50 µs, so that most batches see no interrupt.
const BATCH: u32 = 2000;

/// Looks in a batch: each is a system call.
const SAMPLES: u32 = 50;

/// Measures all costs in `batches` batches each, taken in turns so that a change of the
/// machine's speed meets all of them.
pub fn meter(batches: usize) -> MeterCost {
    let cells: Vec<_> = (0..BATCH).map(|_| RecordCell::default()).collect();
    let accounting = Accounting::of_this_thread(false);
    let (mut bare, mut burst, mut record, mut evidence) = (vec![], vec![], vec![], vec![]);
    for _ in 0..batches.max(1) {
        bare.push(bare_batch());
        // As long as the bare batch took, so that both see as many interrupts.
        burst.push(meter_batch(bare.last().copied().unwrap_or(0.0)));
        record.push(record_batch(&cells));
        evidence.push(evidence_batch(&accounting));
    }
    MeterCost {
        bare: cost(bare),
        meter: cost(burst),
        record: cost(record),
        evidence: cost(evidence),
    }
}

/// Cost of one iteration of the meter's loop on the calling thread's CPU, in ticks; takes some 2 ms.
pub fn iteration_ticks() -> u64 {
    /// About 50 µs each.
    const BATCHES: usize = 15;
    let mut iterations = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        iterations.push(meter_batch(bare_batch()));
    }
    let ticks = cost(iterations).median_ticks.round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cost of some tens to thousands of ticks; `as` saturates"
    )]
    let ticks = ticks as u64;
    ticks
}

fn bare_batch() -> f64 {
    let begin = tsc::read().tsc;
    for _ in 0..BATCH {
        black_box(tsc::read());
    }
    per_iteration(tsc::read().tsc.wrapping_sub(begin), u64::from(BATCH) + 1)
}

fn meter_batch(bare_ticks: f64) -> f64 {
    let (tally, stop) = (Tally::default(), AtomicU32::new(0));
    let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: 1_000_000 };
    let limits = Limits { floor_ticks: u64::MAX, threshold_ticks: None };
    let meter = Meter::new(recorder, limits);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a length of time in ticks: positive, and its fraction does not matter"
    )]
    let ticks = (bare_ticks * f64::from(BATCH)) as u64;
    let from = tsc::read();
    let until = black_box(from.tsc.wrapping_add(ticks));
    let (_, last) =
        meter.burst(&mut Rdtscp, &mut (), from, Until { tsc: until, stop: black_box(&stop) });
    per_iteration(last.tsc.wrapping_sub(from.tsc), tally.iterations())
}

fn record_batch(cells: &[RecordCell]) -> f64 {
    let tally = Tally::default();
    let recorder = Recorder { tally: &tally, cells, tsc_khz: black_box(2_450_000) };
    let begin = tsc::read().tsc;
    for round in 0..BATCH {
        let tsc_begin = begin.wrapping_add(u64::from(round));
        let tsc_end = tsc_begin.wrapping_add(1_000_000);
        let gap = GapRecord { tsc_begin, tsc_end, cpu_end: 1, ..GapRecord::default() };
        recorder.gap(black_box(gap));
    }
    per_iteration(tsc::read().tsc.wrapping_sub(begin), u64::from(BATCH))
}

fn evidence_batch(accounting: &Accounting) -> f64 {
    let begin = tsc::read().tsc;
    for _ in 0..SAMPLES {
        black_box(accounting.read());
    }
    per_iteration(tsc::read().tsc.wrapping_sub(begin), u64::from(SAMPLES))
}

#[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
fn per_iteration(ticks: u64, iterations: u64) -> f64 {
    ticks as f64 / iterations.max(1) as f64
}

fn cost(mut batches: Vec<f64>) -> Cost {
    batches.sort_by(f64::total_cmp);
    Cost {
        min_ticks: batches.first().copied().unwrap_or(0.0),
        median_ticks: batches.get(batches.len() / 2).copied().unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_is_found() {
        let cost = meter(20);
        for one in [cost.bare, cost.meter, cost.record, cost.evidence] {
            assert!(one.min_ticks >= 1.0 && one.min_ticks <= one.median_ticks, "{cost:?}");
        }
        assert!(cost.ratio() > 0.5, "{cost:?}");
    }
}
