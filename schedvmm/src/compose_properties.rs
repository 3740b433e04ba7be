// SPDX-License-Identifier: Apache-2.0
//! What holds of every result, whatever was measured and whatever a guest says.

use std::time::{Duration, Instant};

use gaps::evidence::Class;
use gaps::record::GapRecord;
use gaps::tally::{ClassTotal, RecordCell, Recorder, Tally};
use proptest::prelude::*;
use protocol::job::{CoschedRequest, Job};
use protocol::message::{Gap, Setup, ThresholdHit, Tick};
use protocol::report::{GroupReport, LoadReport, ThreadReport, TscReport};

use super::*;
use crate::doubt::Terms;
use crate::session::Limits;
use crate::testing::load;
use crate::verdict::{End, judge};

const MS: u64 = 1_000_000;
const START: u64 = 5 * MS;

/// One thread: its gaps, how many of them there was room for, what else it reported.
#[derive(Clone, Debug)]
struct Made {
    gaps: Vec<GapRecord>,
    room: usize,
    busy: u64,
    cpu_ns: u64,
    wakeups: Vec<u64>,
    due: u64,
}

/// A run.
#[derive(Clone, Debug)]
struct MadeRun {
    khz: u64,
    threads: Vec<Made>,
    cpus: u32,
    /// Thread and number of the gap that ended it.
    hit: Option<(usize, usize)>,
    reported: bool,
    force_idle_ns: u64,
    end: u64,
}

fn class() -> impl Strategy<Value = Class> {
    (0..Class::ALL.len()).prop_map(|index| Class::ALL[index])
}

/// In order and apart, as a meter gives them; some longer than any run.
fn honest() -> impl Strategy<Value = Vec<GapRecord>> {
    let step = (0..300 * MS, prop_oneof![4 => 1..200 * MS, 1 => 1..9000 * MS], class());
    proptest::collection::vec(step, 0..12).prop_map(|steps| {
        let mut now = START;
        let record = |(pause, length, class): (u64, u64, Class)| {
            let tsc_begin = now + pause;
            now = tsc_begin + length;
            GapRecord { tsc_begin, tsc_end: now, class, ..GapRecord::default() }
        };
        steps.into_iter().map(record).collect()
    })
}

/// As a guest may make them up: in any order, and up to this.
fn hostile(most: u64) -> impl Strategy<Value = Vec<GapRecord>> {
    let one = (0..=most, 0..=most, class()).prop_map(|(one, other, class)| GapRecord {
        tsc_begin: one.min(other),
        tsc_end: one.max(other),
        class,
        ..GapRecord::default()
    });
    proptest::collection::vec(one, 0..6)
}

fn thread(most: u64) -> impl Strategy<Value = Made> {
    let gaps = prop_oneof![5 => honest(), 1 => hostile(most)];
    let wakeups = proptest::collection::vec(0..900 * MS, 0..6);
    let busy = prop_oneof![4 => 0..9000 * MS, 1 => 0..=most];
    let cpu_ns = prop_oneof![4 => 0..9000 * MS, 1 => 0..=most];
    let room = prop_oneof![3 => Just(99usize), 1 => 0..6usize];
    let due = prop_oneof![Just(0), 1..500 * MS];
    (gaps, room, busy, cpu_ns, wakeups, due).prop_map(|(gaps, room, busy, cpu_ns, wakeups, due)| {
        Made { gaps, room, busy, cpu_ns, wakeups, due }
    })
}

fn run(most: u64) -> impl Strategy<Value = MadeRun> {
    let threads = proptest::collection::vec(thread(most), 2..7);
    let hit = proptest::option::of((0..7usize, 0..12usize));
    let end = prop_oneof![4 => START..START + 9000 * MS, 1 => any::<u64>()];
    let khz = prop_oneof![Just(1_000_000u64), Just(2_445_406)];
    (khz, threads, 1..5u32, hit, prop::bool::weighted(0.8), 0..5000 * MS, end).prop_map(
        |(khz, threads, cpus, hit, reported, force_idle_ns, end)| MadeRun {
            khz,
            threads,
            cpus,
            hit,
            reported,
            force_idle_ns,
            end,
        },
    )
}

/// What the guest's own accounting makes of a thread.
fn report(made: &Made, khz: u64) -> (ThreadReport, Vec<GapRecord>) {
    let cells: Vec<_> = (0..made.room).map(|_| RecordCell::default()).collect();
    let tally = Box::<Tally>::default();
    let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: khz };
    made.gaps.iter().for_each(|gap| recorder.gap(*gap));
    let wakeups = Box::<gaps::histogram::Histogram>::default();
    made.wakeups.iter().for_each(|delay| wakeups.record(*delay));
    let report = ThreadReport {
        tid: 1,
        gaps: tally.gaps(),
        gaps_unrecorded: tally.unrecorded(),
        gap_ticks: tally.gap_ticks(),
        longest: tally.longest(),
        classes: tally.classes(),
        gap_histogram_ns: tally.histogram_ns().buckets().collect(),
        busy_ticks: made.busy,
        wakeup_histogram_ns: wakeups.buckets().collect(),
        wakeup_longest_ns: made.wakeups.iter().copied().max().unwrap_or(0),
        wakeup_due_ns: made.due,
        cpu_time_ns: made.cpu_ns,
        ..ThreadReport::default()
    };
    (report, tally.records(&cells, 0).collect())
}

/// The result of a run, and the moment at which its figures end.
fn result(made: &MadeRun) -> (RunResult, Option<u64>) {
    let groups = u32::try_from(made.threads.len().div_ceil(2)).expect("few");
    let job = Job::new(load(groups, 2, made.cpus), CoschedRequest::Auto);
    let limits = Limits {
        threads: job.load.threads(),
        records_per_thread: 99,
        boot: Duration::ZERO,
        vms: 0,
        allow_degraded: false,
    };
    let mut session = Session::new(limits, Instant::now());
    let setup = Setup { tsc_start: START, tsc_khz: made.khz, ..Setup::default() };
    session.setup = Some(setup);
    let mut reports = Vec::new();
    for (index, thread) in made.threads.iter().enumerate() {
        let (report, records) = report(thread, made.khz);
        session.ticks.extend(records.first().map(|record| {
            let thread = u32::try_from(index).expect("few");
            Tick { longest: Some(Gap { thread, record: *record }), ..Tick::default() }
        }));
        session.gaps[index] = records;
        reports.push(report);
    }
    session.hit = made.hit.and_then(|(thread, number)| {
        let record = *made.threads.get(thread)?.gaps.get(number)?;
        let gap = Gap { thread: u32::try_from(thread).ok()?, record };
        Some(ThresholdHit { tid: 1, gap })
    });
    let force_idle_ns = Some(made.force_idle_ns);
    let group = GroupReport { force_idle_ns, ..GroupReport::default() };
    let report = LoadReport {
        tsc: TscReport { khz: made.khz, ..TscReport::default() },
        tsc_end: made.end,
        threads: reports,
        groups: vec![group; groups as usize],
        ..LoadReport::default()
    };
    session.report = Some(report).filter(|_| made.reported);
    let verdict = judge(&session, &job, Terms::NONE, &End::Finished, "");
    let until = session.hit.map(|hit| hit.gap.record.tsc_end);
    (Account::of_figures(&session, &job, &verdict).result(), until)
}

/// Nothing of what these gaps come to is longer than the longest, or more than all.
fn check(
    found: &results::model::Statistics,
    longest_ns: u64,
    short: bool,
) -> Result<(), TestCaseError> {
    let within = |share: f64| (0.0..=1.0).contains(&share);
    for quantiles in found.quantiles.iter().chain(&found.time_quantiles) {
        let each = [quantiles.p50_ns, quantiles.p90_ns, quantiles.p99_ns, quantiles.p999_ns];
        let steps: Vec<_> = each.into_iter().flatten().collect();
        let most = steps.last().copied().unwrap_or(0);
        prop_assert!(steps.is_sorted() && most <= longest_ns, "{steps:?} {longest_ns}");
    }
    prop_assert!(found.gap_share.is_none_or(within), "{:?}", found.gap_share);
    prop_assert!(found.wait_exceeds.iter().all(|point| within(point.probability)));
    let falling = |pair: &[results::model::WaitExceeds]| pair[0].probability >= pair[1].probability;
    prop_assert!(found.wait_exceeds.windows(2).all(falling), "{:?}", found.wait_exceeds);
    let shares: Vec<f64> = found.classes.iter().filter_map(|class| class.share).collect();
    let sum: f64 = shares.iter().sum();
    prop_assert!(shares.is_empty() || (sum - 1.0).abs() < 1e-9, "{shares:?}");
    prop_assert!(!short || found.gap_share.is_none() && found.largest_lag.is_empty());
    // What a random arrival meets is a share, too: of moments.
    prop_assert!(!short || found.mean_wait_ns.is_none() && found.wait_exceeds.is_empty());
    Ok(())
}

fn sum<T>(all: &[T], of: impl Fn(&T) -> u64) -> u64 {
    all.iter().map(of).fold(0, u64::saturating_add)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However large the numbers are that a guest makes up.
    #[test]
    fn no_share_is_above_one_and_nothing_overflows(made in run(u64::MAX)) {
        let (found, _) = result(&made);
        let of_groups = found.groups.iter().map(|group| &group.statistics);
        for statistics in of_groups.chain([&found.statistics]) {
            let classes = statistics.classes.iter().filter_map(|class| class.share);
            let waits = statistics.wait_exceeds.iter().map(|point| point.probability);
            let mut shares = classes.chain(waits).chain(statistics.gap_share);
            prop_assert!(shares.all(|share| (0.0..=1.0).contains(&share)), "{statistics:?}");
        }
    }

    #[test]
    fn no_figure_contradicts_another(made in run(1 << 56)) {
        let (found, until) = result(&made);
        let short = found.too_short.is_some();
        check(&found.statistics, found.longest_gap_ns.unwrap_or(0), short)?;
        for group in &found.groups {
            check(&group.statistics, group.longest_gap_ns, short)?;
            let latest = group.wakeup_longest_ns.unwrap_or(0);
            let wakeup = group.statistics.wakeup.and_then(|wakeup| wakeup.p999_ns).unwrap_or(0);
            prop_assert!(wakeup <= latest, "{wakeup} {latest}");
            let threads = found.threads.iter().filter(|it| it.who.group == group.group.number());
            let longest = threads.map(|thread| thread.longest_gap_ns).max();
            prop_assert_eq!(longest, Some(group.longest_gap_ns));
        }
        for thread in &found.threads {
            check(&thread.statistics, thread.longest_gap_ns, short)?;
            let ended = until.is_none_or(|until| {
                thread.report.longest.is_none_or(|longest| longest.tsc_end <= until)
            });
            prop_assert!(ended, "{:?} {until:?}", thread.report.longest);
            let of_classes = sum(&thread.report.classes, |total| total.gaps);
            prop_assert_eq!(of_classes, thread.report.gaps);
            if thread.complete {
                let counted = sum(&thread.report.gap_histogram_ns, |(_, count)| *count);
                prop_assert_eq!(counted, thread.report.gaps);
            }
        }
        // The longest is the longest of a group; sums are sums.
        let longest = found.groups.iter().map(|group| group.longest_gap_ns).max();
        prop_assert_eq!(found.longest_gap_ns.unwrap_or(0), longest.unwrap_or(0));
        let gaps = sum(&found.groups, |group| group.gaps);
        prop_assert_eq!(gaps, sum(&found.threads, |thread| thread.report.gaps));
        let gap_ns = sum(&found.groups, |group| group.gap_ns);
        prop_assert_eq!(gap_ns, sum(&found.threads, |thread| thread.gap_ns));
        let cpu: Vec<f64> = found.groups.iter().filter_map(|group| group.cpu_share).collect();
        prop_assert!(cpu.is_empty() || (cpu.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let shares = found.groups.iter().filter_map(|group| group.force_idle_share);
        let mut shares = shares.chain(found.forced_idle.share).chain(found.steal.share);
        prop_assert!(shares.all(|share| (0.0..=1.0).contains(&share)));
        // Nothing is lost, whenever it ended.
        let made_gaps: u64 = made.threads.iter().map(|thread| thread.gaps.len() as u64).sum();
        let after = found.after_hit.as_ref().map_or(0, |after| after.gaps);
        if made.reported {
            prop_assert_eq!(gaps + after, made_gaps);
        }
        // Windows fit into the run, and what is short has no fairness.
        let run_ns = found.measured_ns.unwrap_or(0);
        prop_assert!(found.statistics.largest_lag.iter().all(|lag| lag.window_ns <= run_ns));
        if short {
            prop_assert_eq!(found.fairness.threads, results::model::Fairness::default());
            prop_assert!(cpu.is_empty() && found.forced_idle.share.is_none());
        }
    }
}

#[test]
fn these_properties_are_not_empty() {
    let gap = |begin: u64, end: u64| GapRecord {
        tsc_begin: START + begin * MS,
        tsc_end: START + end * MS,
        ..GapRecord::default()
    };
    let thread = |gaps: &[GapRecord]| Made {
        gaps: gaps.to_vec(),
        room: 99,
        busy: 1500 * MS,
        cpu_ns: 700 * MS,
        wakeups: vec![MS],
        due: 0,
    };
    let threads = [thread(&[gap(10, 30), gap(1380, 1500)]), thread(&[gap(1450, 2000)])];
    let made = MadeRun {
        khz: 1_000_000,
        threads: threads.into(),
        cpus: 1,
        hit: Some((0, 1)),
        reported: true,
        force_idle_ns: 0,
        end: START + 1501 * MS,
    };
    let (found, _) = result(&made);
    assert_eq!((found.too_short, found.longest_gap_ns), (None, Some(120 * MS)));
    assert_eq!(found.after_hit.map(|after| (after.gaps, after.longest_ns)), Some((1, 550 * MS)));
    assert_eq!((found.statistics.open_ns, found.threads[1].longest_gap_ns), (50 * MS, 0));
    assert!(found.statistics.gap_share.is_some_and(|share| share > 0.0));
    assert_eq!(found.groups[0].cpu_share, Some(1.0));
    let (short, _) = result(&MadeRun { hit: Some((0, 0)), ..made });
    assert!(short.too_short.is_some_and(|why| why.contains("30.0 ms")));
}

/// Only a class that has gaps is told of.
#[test]
fn a_class_whose_gaps_all_ended_later_is_left_out() {
    assert_eq!(crate::analysis::parted::classes(&[]), Vec::<ClassTotal>::new());
}
