// SPDX-License-Identifier: Apache-2.0

use gaps::record::GapRecord;
use gaps::stats::Quantiles;
use gaps::tally::ClassTotal;
use protocol::report::ThreadReport;
use results::clock::Until;

use super::*;
use crate::testing::{self, load};

/// One tick is one nanosecond, and the load begins at 0.
fn clock(spec: &LoadSpec) -> Clock<'_> {
    Clock::new(1_000_000, 0, spec)
}

const MS: u64 = 1_000_000;

/// A thread that reports these gaps, busy for a second.
fn thread(lengths: &[u64]) -> (Thread, Vec<GapRecord>) {
    let mut begin = 0;
    let record = |length: &u64| {
        let record = GapRecord { tsc_begin: begin, tsc_end: begin + length, ..Default::default() };
        begin += length + MS;
        record
    };
    let records: Vec<_> = lengths.iter().map(record).collect();
    let total = lengths.iter().sum();
    let report = ThreadReport {
        gaps: lengths.len() as u64,
        gap_ticks: total,
        // Buckets of a histogram: a little above what is in them.
        gap_histogram_ns: lengths.iter().map(|length| (length + length / 64, 1)).collect(),
        classes: vec![ClassTotal { class: Class::Host, gaps: 1, gap_ticks: total }],
        busy_ticks: 1000 * MS,
        wakeup_histogram_ns: vec![(MS, 600), (9 * MS, 10)],
        wakeup_longest_ns: 9 * MS - 3,
        ..ThreadReport::default()
    };
    let longest_gap_ns = lengths.iter().copied().max().unwrap_or(0);
    (Thread { gap_ns: total, longest_gap_ns, ..testing::thread(0, report) }, records)
}

/// Where too few gaps lie beyond any of them.
const NOT_TOLD: Quantiles = Quantiles { p50_ns: None, p90_ns: None, p99_ns: None, p999_ns: None };

fn statistics(of: &[(Thread, Vec<GapRecord>)]) -> Statistics {
    let spec = load(u32::try_from(of.len()).expect("few"), 1, 1);
    let clock = clock(&spec);
    let gaps = |(thread, records): &(Thread, Vec<GapRecord>)| {
        ThreadGaps::of(thread, &Parted::new(records, Until::default()), 1000 * MS, clock)
    };
    let gaps: Vec<_> = of.iter().map(gaps).collect();
    let threads: Vec<_> = of.iter().map(|(thread, _)| thread).collect();
    of_threads(&threads, &gaps.iter().collect::<Vec<_>>(), clock)
}

#[test]
fn a_threads_figures_come_from_its_records() {
    let found = statistics(&[thread(&[200 * MS, 10 * MS, 10 * MS])]);
    assert_eq!((found.source, found.wanted_ns), (FigureSource::Records, 1000 * MS));
    // Three gaps have no quantiles that would be more than an accident.
    assert_eq!((found.quantiles, found.time_quantiles), (Some(NOT_TOLD), Some(NOT_TOLD)));
    assert_eq!((found.gap_share, found.gaps_per_s), (Some(0.22), Some(3.0)));
    let wait = found.wait_exceeds.iter().find(|point| point.wait_ns == 100 * MS);
    assert_eq!(wait.map(|point| point.probability), Some(0.1));
    assert_eq!((found.starvation.count, found.starvation.total_ns), (1, 200 * MS));
    // Alone on its CPU it is due all of it: in 100 ms it got nothing once.
    let windows = [(100 * MS, 100 * MS), (1000 * MS, 220 * MS)];
    let lag: Vec<_> = found.largest_lag.iter().map(|lag| (lag.window_ns, lag.lag_ns)).collect();
    assert_eq!(lag, windows);
    let wakeup = found.wakeup.expect("woken");
    assert_eq!((wakeup.p50_ns, wakeup.p99_ns), (Some(MS), Some(9 * MS - 3)));
    let class = ClassShare { class: Class::Host, gaps: 1, gap_ns: 220 * MS, share: Some(1.0) };
    assert_eq!(found.classes, [class]);
}

#[test]
fn full_record_memory_changes_the_source_and_hardly_the_figures() {
    let exact = statistics(&[thread(&[200 * MS, 10 * MS, 10 * MS])]);
    let (reported, mut records) = thread(&[200 * MS, 10 * MS, 10 * MS]);
    // The longest did not fit.
    records.remove(0);
    let rough = statistics(&[(reported, records)]);
    assert_eq!(rough.source, FigureSource::Histogram);
    assert!(rough.largest_lag.is_empty());
    assert_eq!(rough.starvation, exact.starvation);
    let (rough, exact) = (rough.gap_share.expect("busy"), exact.gap_share.expect("busy"));
    assert!(rough >= exact && rough < 1.016 * exact, "{rough} {exact}");
}

#[test]
fn quantiles_are_of_gaps_and_of_the_time_in_them() {
    // 600 gaps of 100 µs, and ten of 60 ms, in which most of the time was.
    let lengths = [vec![MS / 10; 600], vec![60 * MS; 10]].concat();
    let exact = statistics(&[thread(&lengths)]);
    let (reported, mut records) = thread(&lengths);
    records.remove(0);
    let rough = statistics(&[(reported, records)]);
    for (found, most) in [(&exact, 1.0), (&rough, 1.016)] {
        let [of_gaps, of_time] =
            [found.quantiles, found.time_quantiles].map(|quantiles| quantiles.expect("gaps"));
        for (value_ns, right_ns) in [
            (of_gaps.p50_ns, MS / 10),
            (of_gaps.p99_ns, 60 * MS),
            (of_time.p50_ns, 60 * MS),
            (of_time.p99_ns, 60 * MS),
        ] {
            let over = value_ns.expect("told") as f64 / right_ns as f64;
            assert!((1.0..=most).contains(&over), "{value_ns:?} {right_ns}");
        }
        assert_eq!(of_gaps.p999_ns, None);
    }
}

#[test]
fn one_thread_without_all_records_speaks_for_the_whole_run() {
    let (reported, _) = thread(&[5 * MS, 6 * MS]);
    let found = statistics(&[thread(&[MS]), (reported, Vec::new())]);
    assert_eq!((found.source, found.wanted_ns), (FigureSource::Histogram, 2000 * MS));
    assert!(found.largest_lag.is_empty());
    assert_eq!(found.gaps_per_s, Some(1.5));
}

#[test]
fn a_thread_that_never_reported_is_partial_and_has_no_shares() {
    let (mut early, records) = thread(&[5 * MS]);
    early.complete = false;
    early.report.busy_ticks = 0;
    let found = statistics(&[(early, records)]);
    assert_eq!((found.source, found.gap_share), (FigureSource::Partial, None));
    assert!(found.wait_exceeds.is_empty() && found.mean_wait_ns.is_none());
    assert_eq!(found.quantiles, Some(NOT_TOLD));
}

#[test]
fn fairness_of_shares() {
    let even = Fairness { jain: Some(1.0), max_over_min: Some(1.0) };
    assert_eq!(fairness(&[7, 7]), even);
    assert_eq!(fairness(&[0, 0]), Fairness::default());
}

#[test]
fn too_much_steal_is_told() {
    let spec = load(1, 1, 1);
    let (clock, threads) = (clock(&spec), [thread(&[4 * MS]).0]);
    let found_steal = steal(&threads, 0.005, clock);
    let note = steal_note(&found_steal);
    assert_eq!((found_steal.share, found_steal.contaminated, note), (Some(0.004), false, None));
    let found_steal = steal(&threads, 0.003, clock);
    let note = steal_note(&found_steal).expect("told");
    assert!(found_steal.contaminated && note.contains("0.40 %"));
    assert!(!steal(&[], 0.0, clock).contaminated);
}
