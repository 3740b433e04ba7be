// SPDX-License-Identifier: Apache-2.0
//! What the host took of gaps, where it is known and where it is not.

use super::*;
use crate::testing;

#[test]
fn the_host_is_right_where_the_two_contradict_each_other() {
    use Class::{Host, Irq, ScheduledOut, Unknown};
    let taken = |preempted, absent, late| Taken { preempted, absent, late, halted: None };
    for (guest, found, right) in [
        // The vCPU ran all the time.
        (ScheduledOut, taken(0, 0, 0), ScheduledOut),
        (Irq, taken(49, 49, 0), Irq),
        (Host, taken(0, 0, 0), Host),
        (Unknown, taken(0, 0, 90), Unknown),
        // The host ran something else.
        (ScheduledOut, taken(50, 50, 0), Host),
        (Irq, taken(50, 50, 0), Host),
        (Unknown, taken(99, 99, 0), Host),
        // It halted, as a hyperthread does that is forced to idle.
        (ScheduledOut, taken(0, 100, 0), ScheduledOut),
        // It ran others all the time, whatever it waited for before or after.
        (ScheduledOut, taken(0, 10, 90), ScheduledOut),
        // And came back late, or it is said so.
        (ScheduledOut, taken(0, 100, 60), Unknown),
        (ScheduledOut, taken(30, 100, 20), Unknown),
        // Stopped in the middle of the thread, or of an interrupt.
        (Irq, taken(0, 90, 0), Host),
        (Unknown, taken(0, 90, 0), Host),
    ] {
        assert_eq!(class(guest, false, 100, found), right, "{guest:?} {found:?}");
    }
    let stopped = |halted| Taken { absent: 90, halted: Some(halted), ..Taken::default() };
    assert_eq!(class(ScheduledOut, false, 100, stopped(40)), Host);
    assert_eq!(class(ScheduledOut, false, 100, stopped(41)), ScheduledOut);
    // A gap of no length is nobody's.
    assert_eq!(class(Unknown, false, 0, Taken::default()), Unknown);
    // After a sleep the vCPU may halt, and the host may run something else as before.
    assert_eq!(class(Unknown, true, 100, taken(0, 100, 0)), Unknown);
    assert_eq!(class(Unknown, true, 100, taken(50, 100, 0)), Host);
}

/// Of gaps on this vCPU, whose thread is this one, while `work` is done.
fn parts_of(cpu: u32, class: Class, whole: bool, work: fn()) -> Option<Option<u64>> {
    let tid = rustix::thread::gettid().as_raw_pid();
    let watch = Watch::start(tid, None).map_err(|why| println!("SKIPPED: {why}")).ok()?;
    let watched = BTreeMap::from([(2, (watch, VcpuTimeline::new(watch::now())))]);
    let mut evidence = HostEvidence { watched, whole, ..HostEvidence::none(None) };
    evidence.take();
    let tsc_begin = watch::now();
    work();
    let tsc_end = watch::now();
    let mut session = Session::new(testing::limits(1), Instant::now());
    let on = GapRecord { cpu_begin: 2, cpu_end: cpu, class, ..GapRecord::default() };
    let record = GapRecord { tsc_begin, tsc_end, ..on };
    session.gaps[0] = vec![record];
    evidence.settle(&mut session);
    let HostTime { known, most: part } = session.host_parts.of(0, &record);
    assert!(part.is_none_or(|most| known <= most), "{known} of {part:?}");
    assert!(part.is_none_or(|ticks| ticks <= record.ticks()), "{part:?} of {record:?}");
    if class == Class::Host && part.is_some() {
        assert_eq!(part, Some(record.ticks()));
    }
    Some(part)
}

#[test]
fn what_the_host_took_is_known_where_every_vcpu_is_watched() {
    fn sleep() {
        std::thread::sleep(Duration::from_millis(30));
    }
    fn nothing() {}
    let Some(part) = parts_of(2, Class::Unknown, true, nothing) else { return };
    assert!(part.is_some(), "it was there");
    // It was away, and nobody counts its halts.
    assert_eq!(parts_of(2, Class::ScheduledOut, true, sleep), Some(None));
    // What the guest calls the host's is all of it.
    assert!(parts_of(2, Class::Host, true, sleep).flatten().is_some());
    // On a vCPU that is not watched; beside one.
    assert_eq!(parts_of(3, Class::Unknown, true, nothing), Some(None));
    assert_eq!(parts_of(2, Class::Host, false, nothing), Some(None));
}

/// Gaps of a millisecond have a million ticks.
const KHZ: u64 = 1_000_000;

fn gap(class: Class, tsc_begin: u64, tsc_end: u64) -> GapRecord {
    let on = GapRecord { cpu_begin: 2, cpu_end: 2, ..GapRecord::default() };
    GapRecord { tsc_begin, tsc_end, class, ..on }
}

/// What is known of the first gap of the first thread when all is settled, on a CPU that the host
/// took at these times.
fn settled(away: &[(u64, u64)], gaps: Vec<Vec<GapRecord>>, equal: bool) -> Option<HostTime> {
    let mut timeline = VcpuTimeline::new(0);
    for &(begin, end) in away {
        timeline.leaves(begin, true);
        timeline.returns(end);
    }
    let tid = rustix::thread::gettid().as_raw_pid();
    let watch = Watch::start(tid, None).map_err(|why| println!("SKIPPED: {why}")).ok()?;
    let watched = BTreeMap::from([(2, (watch, timeline))]);
    let sharing = Some(Sharing { others: gaps.len() as u64 - 1, equal, khz: KHZ });
    let mut evidence = HostEvidence { watched, whole: true, sharing, ..HostEvidence::none(None) };
    let mut session = Session::new(testing::limits(gaps.len()), Instant::now());
    let first = gaps[0][0];
    session.gaps = gaps;
    evidence.settle(&mut session);
    Some(session.host_parts.of(0, &first))
}

/// What the host took in the warm-up is told of its gaps, and in no thread's report.
#[test]
fn a_gap_of_the_warm_up_is_corrected_in_its_record_only() {
    let tid = rustix::thread::gettid().as_raw_pid();
    for (warmup, moved) in [(true, 0), (false, 1)] {
        let watch = match Watch::start(tid, None) {
            Ok(watch) => watch,
            Err(why) => return println!("SKIPPED: {why}"),
        };
        let mut timeline = VcpuTimeline::new(0);
        timeline.leaves(100, true);
        timeline.returns(200);
        let watched = BTreeMap::from([(2, (watch, timeline))]);
        let mut evidence = HostEvidence { watched, whole: true, ..HostEvidence::none(None) };
        let mut session = Session::new(testing::limits(1), Instant::now());
        session.gaps[0] = vec![GapRecord { warmup, ..gap(Class::Unknown, 100, 200) }];
        evidence.judge(&mut session);
        assert_eq!(session.gaps[0][0].class, Class::Host);
        assert_eq!(evidence.describe().reclassified_gaps, moved);
    }
}

#[test]
fn what_the_host_did_to_others_and_before_counts_too() {
    const MS: u64 = 1_000_000;
    let waits = gap(Class::ScheduledOut, 250 * MS, 1250 * MS);
    let most = |away: &[(u64, u64)], gaps, equal| {
        settled(away, gaps, equal).and_then(|time| time.most).map(|most| most / MS)
    };
    let away = [(300 * MS, 340 * MS)];
    let Some(alone) = most(&away, vec![vec![waits], vec![]], true) else { return };
    assert_eq!(alone, 40);
    // Of these hundred milliseconds the host's records have forty.
    let beside = gap(Class::Host, 300 * MS, 400 * MS);
    assert_eq!(most(&away, vec![vec![waits], vec![beside]], true), Some(100));
    // Two others had their turns for what this one was charged for before.
    let before = gap(Class::Host, 240 * MS, 250 * MS);
    let gaps = vec![vec![waits, before], vec![beside], vec![]];
    assert_eq!(most(&away, gaps.clone(), true), Some(120));
    // Nobody knows how many turns where they have weights.
    assert_eq!(most(&away, gaps, false), Some(1000));
    // The host took it just when the gap began: 15 ms, and seven others their turns.
    let at_begin = [(250 * MS + 1, 265 * MS)];
    let eight = |gap| [vec![vec![gap]], vec![vec![]; 7]].concat();
    assert_eq!(most(&at_begin, eight(waits), true), Some(119));
    // Whoever slept was not charged.
    let woken = GapRecord { kind: GapKind::WakeUp, ..waits };
    assert_eq!(most(&at_begin, eight(woken), true), Some(14));
}

/// What a machine in the guest calls its host is the guest; its CPUs are not the guest's.
#[test]
fn of_a_gap_in_a_machine_only_the_hosts_own_records_tell() {
    let tid = rustix::thread::gettid().as_raw_pid();
    let made = |slack_ms, away: (u64, u64), kind| {
        let mut timeline = VcpuTimeline::new(0);
        timeline.leaves(away.0, true);
        timeline.returns(away.1);
        let watch = Watch::start(tid, None).map_err(|why| println!("SKIPPED: {why}")).ok()?;
        let sharing = Some(Sharing { others: 3, equal: true, khz: 1 });
        let watched = BTreeMap::from([(2, (watch, timeline))]);
        let evidence = HostEvidence { watched, whole: true, sharing, ..HostEvidence::none(None) };
        let mut evidence = evidence.of_machines(Duration::from_millis(slack_ms), 1);
        let in_machine = GapRecord { cpu_begin: 0, cpu_end: 1, kind, ..GapRecord::default() };
        let gap = GapRecord { tsc_begin: 1000, tsc_end: 2000, class: Class::Host, ..in_machine };
        let mut session = Session::new(testing::limits(4), Instant::now());
        // Another machine's gap at the same time takes nothing from this one.
        session.gaps = vec![vec![gap], vec![gap], vec![], vec![]];
        evidence.settle(&mut session);
        assert_eq!((session.gaps[0][0].class, evidence.moved.len()), (Class::Host, 0));
        session.host_parts.of(0, &gap).most
    };
    let Some(within) = made(0, (1500, 1600), GapKind::Preemption) else { return };
    assert_eq!(within, 100);
    // Three others have their turns for what its thread was charged for.
    assert_eq!(made(0, (1000, 1100), GapKind::Preemption), Some(400));
    assert_eq!(made(0, (1000, 1100), GapKind::WakeUp), Some(100));
    // Just before, which only counts where nobody knows when the gap was.
    assert_eq!(made(0, (900, 1000), GapKind::WakeUp), Some(0));
    assert_eq!(made(100, (900, 1000), GapKind::WakeUp), Some(100));
    assert_eq!(made(100, (2000, 2100), GapKind::WakeUp), Some(100));
}

/// Groups of different sizes are due the same, and their threads are not.
#[test]
fn threads_of_a_larger_group_owe_more() {
    let running = |sizes: &[u32]| {
        let mut load = testing::load(2, 1, 1);
        for (group, threads) in load.groups.iter_mut().zip(sizes) {
            group.threads = *threads;
        }
        sharing(&load, KHZ)
    };
    assert_eq!(running(&[2, 2]), Sharing { others: 3, equal: true, khz: KHZ });
    assert_eq!(running(&[1, 8]), Sharing { others: 8, equal: false, khz: KHZ });
}

#[test]
fn what_was_lost_is_not_told_twice() {
    let mut timeline = VcpuTimeline::new(0);
    timeline.leaves(300, true);
    timeline.returns(340);
    timeline.lost(350);
    let tid = rustix::thread::gettid().as_raw_pid();
    let Ok(watch) = Watch::start(tid, None).map_err(|why| println!("SKIPPED: {why}")) else {
        return;
    };
    let watched = BTreeMap::from([(2, (watch, timeline))]);
    let sharing = Some(Sharing { others: 1, equal: true, khz: KHZ });
    let mut evidence = HostEvidence { watched, whole: true, sharing, ..HostEvidence::none(None) };
    let mut session = Session::new(testing::limits(2), Instant::now());
    // It slept until then, and owes nothing.
    let waits = GapRecord { kind: GapKind::WakeUp, ..gap(Class::ScheduledOut, 250, 1250) };
    // The guest has the forty ticks that the host has, and sixty more.
    session.gaps = vec![vec![waits], vec![gap(Class::Host, 300, 400)]];
    evidence.settle(&mut session);
    assert_eq!(session.host_parts.of(0, &waits), HostTime { known: 100, most: None });
}

#[test]
fn what_the_guest_says_counts_where_the_host_says_nothing() {
    let (waits, before) = (gap(Class::ScheduledOut, 250, 1250), gap(Class::Host, 240, 250));
    let sharing = Some(Sharing { others: 2, equal: true, khz: KHZ });
    let mut evidence = HostEvidence { sharing, ..HostEvidence::none(Some("no right")) };
    let mut session = Session::new(testing::limits(3), Instant::now());
    session.gaps = vec![vec![before, waits], vec![gap(Class::Host, 300, 400)], vec![waits]];
    evidence.settle(&mut session);
    // What has no bound is not told, either.
    let unequal = Sharing { others: 2, equal: false, khz: KHZ };
    let mut blind = HostEvidence { sharing: Some(unequal), ..HostEvidence::none(None) };
    let mut other = Session::new(testing::limits(3), Instant::now());
    other.gaps.clone_from(&session.gaps);
    blind.settle(&mut other);
    assert_eq!(other.host_parts.of(0, &waits), HostTime { known: 100, most: None });
    let time = |known| HostTime { known, most: None };
    assert_eq!(session.host_parts.of(0, &waits), time(120));
    assert_eq!(session.host_parts.of(2, &waits), time(100));
}

#[test]
fn totals_follow_their_gaps() {
    let total = |class, gaps, gap_ticks| ClassTotal { class, gaps, gap_ticks };
    let moved = |from, to, gaps, gap_ticks| Moved { thread: 0, from, to, gaps, gap_ticks };
    let mut report = ThreadReport {
        classes: vec![total(Class::ScheduledOut, 5, 500), total(Class::Irq, 1, 10)],
        ..ThreadReport::default()
    };
    apply(&moved(Class::ScheduledOut, Class::Host, 2, 150), &mut report);
    apply(&moved(Class::Irq, Class::Host, 1, 10), &mut report);
    let expected = [total(Class::ScheduledOut, 3, 350), total(Class::Host, 3, 160)];
    assert_eq!(report.classes, expected);
    // A guest that lies about its counts harms only itself.
    apply(&moved(Class::ScheduledOut, Class::Unknown, 9, u64::MAX), &mut report);
    assert_eq!(report.classes[0], total(Class::Unknown, 9, u64::MAX));
}
