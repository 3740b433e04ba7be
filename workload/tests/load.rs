// SPDX-License-Identifier: Apache-2.0
//! The load on this machine's own kernel.
//!
//! The load re-executes its program for every group, so this test has a `main` of its own,
//! which does what that of `schedvmm` does: become a group's process when it is asked to.

use std::path::Path;
use std::process::exit;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, io, panic, thread};

use gaps::evidence::Class;
use gaps::record::{GapKind, GapRecord};
use gaps::span::Span;
use gaps::tsc::{self, ns_to_ticks, ticks_to_ns};
use protocol::cpu_list::CpuSet;
use protocol::error::Owner;
use protocol::group::{ArrivalSpec, GroupSpec, Policy, SleepSpec};
use protocol::group_process::GROUP_COMMAND;
use protocol::index::Kind;
use protocol::job::LoadSpec;
use protocol::message::{ThresholdHit, Tick};
use workload::context::WorkloadContext;
use workload::error::LoadError;
use workload::group_process::group_main;
use workload::kernel::affinity;
use workload::kernel::cgroup::Cgroups;
use workload::observer::{Observer, Outcome, Prepared};
use workload::supervisor::run;

const TESTS: &[(&str, fn())] = &[
    ("a_load_measures_what_its_threads_wait", a_load_measures_what_its_threads_wait),
    ("injected_stops_are_found_with_their_length", injected_stops_are_found_with_their_length),
    ("a_late_wake_up_is_measured_from_the_plan", a_late_wake_up_is_measured_from_the_plan),
    (
        "what_came_while_a_thread_was_kept_is_late_one_by_one",
        what_came_while_a_thread_was_kept_is_late_one_by_one,
    ),
    ("beside_a_hog_an_open_loop_looks_worse", beside_a_hog_an_open_loop_looks_worse),
    ("a_gap_over_the_threshold_ends_the_load", a_gap_over_the_threshold_ends_the_load),
    (
        "figures_end_at_the_hit_and_not_with_the_threads",
        figures_end_at_the_hit_and_not_with_the_threads,
    ),
    (
        "the_warm_up_is_in_no_figure_and_all_times_wanted_are_told",
        the_warm_up_is_in_no_figure_and_all_times_wanted_are_told,
    ),
    ("a_request_to_stop_ends_even_those_asleep", a_request_to_stop_ends_even_those_asleep),
    ("a_group_that_dies_is_named", a_group_that_dies_is_named),
    ("a_group_that_cannot_start_is_named", a_group_that_cannot_start_is_named),
    ("a_load_runs_in_cgroups_of_this_kernel", a_load_runs_in_cgroups_of_this_kernel),
    ("groups_differ_as_they_are_told", groups_differ_as_they_are_told),
    ("full_record_memory_loses_no_counts", full_record_memory_loses_no_counts),
    ("impossible_loads_are_refused", impossible_loads_are_refused),
    ("an_observer_that_fails_ends_the_load", an_observer_that_fails_ends_the_load),
];

fn main() {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == GROUP_COMMAND) {
        group_main(arguments.into_iter().skip(1));
    }
    // Less disturbed by whatever else runs on this machine; not permitted to everybody.
    // SAFETY: takes three integers, no pointer.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    let wanted = |name: &str| {
        let mut filters =
            arguments.iter().filter_map(|a| a.to_str()).filter(|a| !a.starts_with('-'));
        filters.clone().next().is_none() || filters.any(|filter| name.contains(filter))
    };
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let begin = Instant::now();
        let passed = panic::catch_unwind(test).is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({:.1} s)", begin.elapsed().as_secs_f64());
        failed += i32::from(!passed);
    }
    exit(failed.min(1));
}

/// Records all it is told, and does as a test wishes.
#[derive(Default)]
struct Notes {
    prepared: Option<Prepared>,
    tsc_start: Option<u64>,
    records: Vec<Vec<GapRecord>>,
    demand: Vec<Vec<Span>>,
    ticks: Vec<Tick>,
    hits: Vec<ThresholdHit>,
    pids: Vec<i32>,
    stop: Arc<AtomicBool>,
    /// Called with the groups' process IDs when the load begins.
    at_release: Option<Box<dyn FnOnce(Vec<i32>)>>,
    fail_at_tick: bool,
}

impl Observer for Notes {
    fn prepared(&mut self, prepared: &Prepared) -> io::Result<()> {
        assert!(self.tsc_start.is_none());
        self.prepared = Some(prepared.clone());
        Ok(())
    }

    fn released(&mut self, tsc_start: u64) -> io::Result<()> {
        assert!(self.prepared.is_some());
        self.tsc_start = Some(tsc_start);
        if let Some(action) = self.at_release.take() {
            action(self.pids.clone());
        }
        Ok(())
    }

    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()> {
        let thread = thread as usize;
        self.records.resize(self.records.len().max(thread + 1), Vec::new());
        self.records[thread].extend(records);
        Ok(())
    }

    fn demand(&mut self, thread: u32, spans: &[Span]) -> io::Result<()> {
        let thread = thread as usize;
        self.demand.resize(self.demand.len().max(thread + 1), Vec::new());
        self.demand[thread].extend(spans);
        Ok(())
    }

    fn tick(&mut self, tick: Tick) -> io::Result<()> {
        self.ticks.push(tick);
        if self.fail_at_tick { Err(io::Error::other("the host is gone")) } else { Ok(()) }
    }

    fn hit(&mut self, hit: ThresholdHit) -> io::Result<()> {
        self.hits.push(hit);
        Ok(())
    }

    fn stop_requested(&mut self) -> bool {
        self.stop.load(Relaxed)
    }

    fn processes(&mut self, pids: &[u32]) {
        self.pids = pids.iter().map(|pid| pid.cast_signed()).collect();
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn group(threads: u32, busy: Duration, sleep: SleepSpec) -> GroupSpec {
    GroupSpec::plain(threads, busy, sleep)
}

/// Two groups of two threads on at most two CPUs.
fn spec(duration: Duration) -> LoadSpec {
    LoadSpec {
        name: None,
        groups: vec![group(2, ms(200), SleepSpec::Uniform { min: Duration::ZERO, max: ms(50) }); 2],
        kind: Kind::Threads,
        cpus: affinity::online().unwrap().iter().take(2).collect(),
        seed: 5,
        duration,
        warmup: Duration::ZERO,
        floor: Duration::from_micros(100),
        threshold: None,
        records_per_thread: 10_000,
    }
}

fn measure(spec: &LoadSpec, notes: &mut Notes) -> Outcome {
    run(spec, &WorkloadContext::plain(None), notes).expect("the load begins")
}

/// Stops a process some times for a known time, as a scheduler would that forgets it.
/// Returns the begin and end of each stop.
fn stop_repeatedly(pid: i32, stops: &[Duration]) -> Vec<(u64, u64)> {
    // Above the load, which may be real-time itself; not permitted to everybody.
    let _ = set_policy(libc::SCHED_FIFO, 2);
    let one = |length: &Duration| {
        thread::sleep(ms(150));
        signal(pid, libc::SIGSTOP);
        let begin = tsc::read().tsc;
        thread::sleep(*length);
        let end = tsc::read().tsc;
        signal(pid, libc::SIGCONT);
        (begin, end)
    };
    stops.iter().map(one).collect()
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: takes two integers; the process is a child that nobody has waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn a_load_measures_what_its_threads_wait() {
    let spec = LoadSpec { seed: 7, ..spec(ms(2000)) };
    let mut notes = Notes::default();
    let outcome = measure(&spec, &mut notes);
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    let prepared = notes.prepared.unwrap();
    let cpus: CpuSet = spec.cpus.iter().copied().collect();
    assert_eq!(prepared.affinity, vec![cpus; 4]);
    let khz = outcome.report.tsc.khz;
    let ran = ticks_to_ns(outcome.report.tsc_end - notes.tsc_start.unwrap(), khz);
    assert!((2_000_000_000..3_000_000_000).contains(&ran), "{ran} ns");
    assert_eq!(notes.ticks.iter().map(|tick| tick.second).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(notes.ticks[0].online, 4);
    assert!(notes.ticks[0].longest.is_some(), "four threads on two CPUs wait for each other");
    for (index, thread) in outcome.report.threads.iter().enumerate() {
        let records = &notes.records[index];
        println!(
            "  thread {index}: {} gaps, longest {:.3} ms, busy {:.1} ms, cpu {:.1} ms, \
             gaps {:.1} ms, run delay {:.1} ms, wake-up at most {:.3} ms",
            thread.gaps,
            thread.longest.map_or(0.0, |gap| to_ms(gap.ticks(), khz)),
            to_ms(thread.busy_ticks, khz),
            thread.cpu_time_ns as f64 / 1e6,
            to_ms(thread.gap_ticks, khz),
            thread.run_delay_ns.unwrap_or(0) as f64 / 1e6,
            thread.wakeup_longest_ns as f64 / 1e6,
        );
        assert_eq!(records.len() as u64, thread.gaps - thread.gaps_unrecorded);
        assert_eq!(records.iter().map(|record| record.ticks()).sum::<u64>(), thread.gap_ticks);
        assert_eq!(thread.gap_histogram_ns.iter().map(|(_, n)| n).sum::<u64>(), thread.gaps);
        assert_eq!(thread.longest, records.iter().copied().max_by_key(|r| r.ticks()));
        assert!(records.windows(2).all(|two| two[0].tsc_end <= two[1].tsc_begin));
        // Once for each burst, of which the last need not be complete.
        let wakeups = thread.wakeup_histogram_ns.iter().map(|(_, n)| n).sum::<u64>();
        assert!((thread.bursts..=thread.bursts + 1).contains(&wakeups));
        // Busy time is running or waiting, and the kernel's clock agrees on the running.
        let busy_ms = to_ms(thread.busy_ticks, khz);
        let cpu_ms = thread.cpu_time_ns as f64 / 1e6;
        let waited_ms = to_ms(thread.gap_ticks, khz);
        let unexplained = busy_ms - waited_ms - cpu_ms;
        // What is not the scheduler's doing the kernel may count as CPU time, and we as a gap.
        let others = thread.classes.iter().filter(|total| total.class != Class::ScheduledOut);
        let twice_ms = to_ms(others.map(|total| total.gap_ticks).sum(), khz);
        let explained = -0.1 * busy_ms - twice_ms..0.1 * busy_ms;
        assert!(explained.contains(&unexplained), "{unexplained} of {busy_ms} ms unexplained");
        // Threads wait for each other here, and that must be said.
        assert!(twice_ms < 0.5 * waited_ms, "{:?}", thread.classes);
        assert!(thread.iterations > 1000);
        assert_eq!(thread.backwards, 0);
    }
}

fn to_ms(ticks: u64, khz: u64) -> f64 {
    ticks as f64 / khz as f64
}

fn injected_stops_are_found_with_their_length() {
    let stops = [ms(200), ms(50), ms(200), ms(5), ms(200)];
    let spec = LoadSpec {
        groups: vec![group(1, ms(60_000), SleepSpec::Fixed(Duration::ZERO))],
        ..spec(ms(60_000))
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let finished = Arc::clone(&stop);
    let at_release = move |pids: Vec<i32>| {
        thread::spawn(move || {
            sender.send(stop_repeatedly(pids[0], &stops)).unwrap();
            thread::sleep(ms(50));
            finished.store(true, Relaxed);
        });
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), stop, ..Notes::default() };
    // The load inherits it, so that it runs at once when it may: without it, whatever else
    // runs on this machine makes the gap longer than the stop, and rightly so.
    let real_time = set_policy(libc::SCHED_FIFO, 1).is_ok();
    let outcome = measure(&spec, &mut notes);
    set_policy(libc::SCHED_OTHER, 0).unwrap();
    let khz = outcome.report.tsc.khz;
    let mut errors = Vec::new();
    for (begin, end) in receiver.recv().unwrap() {
        // The gap that covers the middle of the stop.
        let middle = begin + (end - begin) / 2;
        let covers = |gap: &&GapRecord| gap.tsc_begin <= middle && middle <= gap.tsc_end;
        let gap = notes.records[0].iter().find(covers).expect("the stop was found");
        let (injected, found) = (to_ms(end - begin, khz), to_ms(gap.ticks(), khz));
        let error = found - injected;
        println!("  stopped {injected:.3} ms, found {found:.3} ms, error {:+.1} us", error * 1e3);
        assert!(error > -1.0, "{injected} ms found as {found} ms");
        errors.push(error);
    }
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    assert!(!real_time || median < 5.0, "median error {median} ms");
}

/// A thread that is kept from waking up as planned: the delay counts from the plan, and so
/// does the burst, which is over before it has begun.
fn a_late_wake_up_is_measured_from_the_plan() {
    let spec =
        LoadSpec { groups: vec![group(1, ms(100), SleepSpec::Fixed(ms(300)))], ..spec(ms(1000)) };
    let (sender, receiver) = std::sync::mpsc::channel();
    let at_release = move |pids: Vec<i32>| {
        thread::spawn(move || {
            let _ = set_policy(libc::SCHED_FIFO, 2);
            // The load begins 50 ms after its release. Asleep from 100 ms on, the thread is to
            // wake up at 400 ms.
            thread::sleep(ms(50 + 250));
            signal(pids[0], libc::SIGSTOP);
            thread::sleep(ms(350));
            signal(pids[0], libc::SIGCONT);
            sender.send(tsc::read().tsc).unwrap();
        });
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), ..Notes::default() };
    let real_time = set_policy(libc::SCHED_FIFO, 1).is_ok();
    let outcome = measure(&spec, &mut notes);
    set_policy(libc::SCHED_OTHER, 0).unwrap();
    let (thread, khz) = (&outcome.report.threads[0], outcome.report.tsc.khz);
    let planned_ms = 400.0;
    let continued = to_ms(receiver.recv().unwrap() - notes.tsc_start.unwrap(), khz);
    let (due, found) = (continued - planned_ms, thread.wakeup_longest_ns as f64 / 1e6);
    let busy = to_ms(thread.busy_ticks, khz);
    println!("  woken {due:.1} ms late, found {found:.1} ms, busy {busy:.1} ms");
    // How late its first burst ended, it slept later, too.
    let tolerance = if real_time { 10.0 } else { 60.0 };
    assert!((due - found).abs() < tolerance, "{found} ms instead of {due} ms");
    // 100 ms, then the delay alone, then the 100 ms that the end leaves of the third.
    let expected = 100.0 + found + (1000.0 - continued - 300.0);
    assert!((busy - expected).abs() < 2.0 * tolerance, "busy {busy} ms, not {expected} ms");
    assert_eq!(thread.wakeup_histogram_ns.iter().map(|(_, n)| n).sum::<u64>(), 3);
    // It waited, which is a gap, and it had not run before.
    let longest = thread.longest.expect("a gap");
    assert_eq!(longest.kind, GapKind::WakeUp, "{longest:?}");
    assert!((to_ms(longest.ticks(), khz) - found).abs() < 0.1, "{longest:?} and not {found} ms");
}

/// One thread with 1 ms of work each 10 ms, stopped for 300 ms: each of the thirty pieces that came
/// meanwhile is late by its own time, none is left out, and all work is done in the end.
fn what_came_while_a_thread_was_kept_is_late_one_by_one() {
    let arrival = Some(ArrivalSpec::Periodic(ms(10)));
    let open = GroupSpec { arrival, ..group(1, ms(1), SleepSpec::Fixed(Duration::ZERO)) };
    let spec = LoadSpec { groups: vec![open], ..spec(ms(2000)) };
    let at_release = |pids: Vec<i32>| {
        thread::spawn(move || {
            let _ = set_policy(libc::SCHED_FIFO, 2);
            thread::sleep(ms(50 + 600));
            signal(pids[0], libc::SIGSTOP);
            thread::sleep(ms(300));
            signal(pids[0], libc::SIGCONT);
        });
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), ..Notes::default() };
    let real_time = set_policy(libc::SCHED_FIFO, 1).is_ok();
    let outcome = measure(&spec, &mut notes);
    set_policy(libc::SCHED_OTHER, 0).unwrap();
    let (thread, khz) = (&outcome.report.threads[0], outcome.report.tsc.khz);
    let late = |over_ms: u64| -> u64 {
        let buckets = &thread.wakeup_histogram_ns;
        buckets.iter().filter(|(ns, _)| *ns > over_ms * 1_000_000).map(|(_, count)| count).sum()
    };
    let all: u64 = thread.wakeup_histogram_ns.iter().map(|(_, count)| count).sum();
    println!(
        "  {all} came, {} done, late by over 100 ms {}, 200 ms {}; longest {:.1} ms, busy {:.1} ms",
        thread.bursts,
        late(100),
        late(200),
        thread.wakeup_longest_ns as f64 / 1e6,
        to_ms(thread.busy_ticks, khz)
    );
    // Two seconds have 200 of them, one more or less by the phase.
    assert!((199..=201).contains(&all), "{all}");
    assert!(thread.bursts <= all && thread.bursts >= all - 2, "{} of {all}", thread.bursts);
    let tolerance = if real_time { 2 } else { 10 };
    // While it works off what has come, more comes: 300 ms late, it gains 9 ms with each.
    for (over_ms, expected) in [(100, 22), (200, 11)] {
        let found = late(over_ms);
        assert!(found.abs_diff(expected) <= tolerance, "{found} over {over_ms} ms, not {expected}");
    }
}

/// Beside a thread of higher priority that takes most of the CPU an open loop looks worse. (In a
/// closed loop whoever is woken late has little left to do, and so waits less.)
fn beside_a_hog_an_open_loop_looks_worse() {
    let cpu = affinity::online().unwrap().iter().next().unwrap();
    let hog = group(1, ms(60_000), SleepSpec::Fixed(Duration::ZERO));
    let arrival = Some(ArrivalSpec::Poisson(ms(10)));
    let policy = Policy { nice: Some(15), ..Policy::default() };
    let open = GroupSpec { arrival, policy, ..group(1, ms(2), SleepSpec::Fixed(Duration::ZERO)) };
    let measured = |groups| {
        let spec = LoadSpec { groups, cpus: vec![cpu], ..spec(ms(1500)) };
        let outcome = measure(&spec, &mut Notes::default());
        assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
        let thread = outcome.report.threads[0].clone();
        let count: u64 = thread.wakeup_histogram_ns.iter().map(|(_, count)| count).sum();
        let wait_ms = to_ms(thread.gap_ticks, outcome.report.tsc.khz);
        (count, thread.wakeup_longest_ns, wait_ms)
    };
    let (alone, beside) = (measured(vec![open.clone()]), measured(vec![open, hog]));
    println!("  (came, longest lateness in ns, waited in ms): alone {alone:?}, beside {beside:?}");
    // The same seed: as many come, whoever runs.
    assert!(alone.0.abs_diff(beside.0) <= 1);
    assert!(beside.1 > alone.1 && beside.2 > alone.2);
}

/// Sets the scheduling policy of this thread and of what it starts.
fn set_policy(policy: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a local that lives until the call returns.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn a_gap_over_the_threshold_ends_the_load() {
    let spec = LoadSpec {
        groups: vec![group(2, ms(1000), SleepSpec::Fixed(ms(20_000))); 2],
        threshold: Some(ms(150)),
        ..spec(ms(60_000))
    };
    let at_release = |pids: Vec<i32>| {
        thread::spawn(move || stop_repeatedly(pids[1], &[ms(200)]));
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), ..Notes::default() };
    let begin = Instant::now();
    let outcome = measure(&spec, &mut notes);
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    assert!(begin.elapsed() < ms(10_000), "{:?}", begin.elapsed());
    let [hit] = notes.hits[..] else { panic!("{:?}", notes.hits) };
    let thread = &outcome.report.threads[hit.gap.thread as usize];
    assert_eq!((hit.gap.thread / 2, thread.tid), (1, hit.tid));
    assert!(notes.records[hit.gap.thread as usize].contains(&hit.gap.record));
    assert!(to_ms(hit.gap.record.ticks(), outcome.report.tsc.khz) > 150.0);
}

/// A thread that is off its CPU when another has its gap, and long after.
fn figures_end_at_the_hit_and_not_with_the_threads() {
    let spec = LoadSpec {
        groups: vec![group(1, ms(60_000), SleepSpec::Fixed(ms(0))); 2],
        threshold: Some(ms(600)),
        ..spec(ms(60_000))
    };
    let at_release = |pids: Vec<i32>| {
        thread::spawn(move || {
            thread::sleep(ms(300));
            signal(pids[0], libc::SIGSTOP);
            thread::sleep(ms(100));
            signal(pids[1], libc::SIGSTOP);
            thread::sleep(ms(900));
            signal(pids[1], libc::SIGCONT);
            thread::sleep(ms(1200));
            signal(pids[0], libc::SIGCONT);
        });
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), ..Notes::default() };
    let outcome = measure(&spec, &mut notes);
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    let [hit] = notes.hits[..] else { panic!("{:?}", notes.hits) };
    assert_eq!(hit.gap.thread, 1, "{hit:?}");
    let (report, start) = (&outcome.report, notes.tsc_start.unwrap());
    let at = |tsc: u64| to_ms(tsc - start, report.tsc.khz);
    let hit_ms = at(hit.gap.record.tsc_end);
    let open = notes.records[0].last().expect("a gap");
    println!("  hit at {hit_ms:.1} ms, the other went on at {:.1} ms", at(open.tsc_end));
    assert!(at(open.tsc_begin) < hit_ms && at(open.tsc_end) > hit_ms + 600.0, "{open:?}");
    // The kernel's accounting was read when it was hit, and not when the last thread had ended.
    assert!((hit_ms..hit_ms + 600.0).contains(&at(report.tsc_end)));
    for thread in &report.threads {
        let busy_ms = to_ms(thread.busy_ticks, report.tsc.khz);
        assert!((busy_ms - hit_ms).abs() < 20.0, "wanted {busy_ms} ms of {hit_ms}");
        // It ran when it was not stopped, at most.
        let stopped_ms = if thread.tid == hit.tid { 900.0 } else { hit_ms - at(open.tsc_begin) };
        let ran_ms = thread.cpu_time_ns as f64 / 1e6;
        assert!(ran_ms < busy_ms - stopped_ms + 20.0, "ran {ran_ms} ms, stopped {stopped_ms} ms");
    }
}

fn the_warm_up_is_in_no_figure_and_all_times_wanted_are_told() {
    // Closed and open loops, short bursts and one without end; one is stopped across the warm-up's end.
    let uniform = SleepSpec::Uniform { min: Duration::ZERO, max: ms(20) };
    let arrival = ArrivalSpec::Poisson(ms(10));
    let groups = vec![
        group(2, ms(15), uniform),
        GroupSpec { arrival: Some(arrival), ..group(1, ms(2), SleepSpec::Fixed(Duration::ZERO)) },
        group(1, ms(60_000), SleepSpec::Fixed(Duration::ZERO)),
    ];
    let spec = LoadSpec { groups, warmup: ms(400), ..spec(ms(1200)) };
    let at_release = |pids: Vec<i32>| {
        thread::spawn(move || {
            thread::sleep(ms(350));
            signal(pids[2], libc::SIGSTOP);
            thread::sleep(ms(200));
            signal(pids[2], libc::SIGCONT);
        });
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), ..Notes::default() };
    let outcome = measure(&spec, &mut notes);
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    let (report, khz) = (&outcome.report, outcome.report.tsc.khz);
    let from = notes.tsc_start.unwrap() + ns_to_ticks(400_000_000, khz);
    assert!(report.accounted_from_tsc.is_some_and(|tsc| tsc >= from));
    let (mut early_gaps, mut wanted) = (0, 0);
    for (index, thread) in report.threads.iter().enumerate() {
        let records = notes.records.get(index).map_or(&[][..], Vec::as_slice);
        let (early, counted): (Vec<GapRecord>, Vec<GapRecord>) =
            records.iter().copied().partition(|gap| gap.warmup);
        assert!(early.iter().all(|gap| gap.tsc_end <= from + ns_to_ticks(100_000, khz)));
        assert!(counted.iter().all(|gap| gap.tsc_begin >= from), "{counted:?} {from}");
        assert_eq!(thread.gaps, counted.len() as u64);
        assert_eq!(thread.gap_ticks, counted.iter().map(GapRecord::ticks).sum::<u64>());
        let spans = &notes.demand[index];
        assert!(spans.is_sorted() && spans.iter().all(|span| span.begin >= from), "{spans:?}");
        assert_eq!(spans.iter().map(Span::ticks).sum::<u64>(), thread.busy_ticks);
        let (busy_ms, ran_ms) = (to_ms(thread.busy_ticks, khz), thread.cpu_time_ns as f64 / 1e6);
        println!("  wanted {busy_ms:.1} ms in {} times, ran {ran_ms:.1} ms", spans.len());
        // One that is off its CPU when the load ends wants to run until it is back.
        assert!(ran_ms < busy_ms + 20.0, "{busy_ms} ms, {ran_ms} ms");
        early_gaps += early.len();
        wanted += spans.len();
    }
    // The one without end has wanted to run all the time, and was kept from it on both sides.
    let last = &report.threads[3];
    assert!(to_ms(last.busy_ticks, khz) > 799.0);
    assert!(notes.records[3].iter().any(|gap| gap.warmup && gap.tsc_end == from));
    let rest = notes.records[3].iter().find(|gap| gap.tsc_begin == from).expect("its rest");
    assert!(to_ms(rest.ticks(), khz) > 100.0, "{rest:?}");
    assert!(early_gaps > 0 && wanted > 20, "{early_gaps} {wanted}");
}

fn a_request_to_stop_ends_even_those_asleep() {
    let spec = LoadSpec {
        groups: vec![group(2, ms(10), SleepSpec::Fixed(ms(60_000))); 2],
        ..spec(ms(60_000))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let later = Arc::clone(&stop);
    let at_release = move |_| {
        thread::spawn(move || {
            thread::sleep(ms(300));
            later.store(true, Relaxed);
        });
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), stop, ..Notes::default() };
    let begin = Instant::now();
    let outcome = measure(&spec, &mut notes);
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    assert!(begin.elapsed() < ms(5000), "{:?}", begin.elapsed());
    assert!(outcome.report.threads.iter().all(|thread| thread.bursts == 1));
}

fn a_group_that_dies_is_named() {
    let spec = spec(ms(60_000));
    let at_release = |pids: Vec<i32>| {
        thread::spawn(move || {
            thread::sleep(ms(300));
            signal(pids[1], libc::SIGKILL);
        });
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), ..Notes::default() };
    let outcome = measure(&spec, &mut notes);
    let fault = outcome.fault.expect("a group died");
    assert!(matches!(fault, LoadError::GroupDied { .. }), "{fault}");
    assert!(fault.to_string().starts_with("group 2 (process "), "{fault}");
    assert!(fault.to_string().contains("signal: 9"), "{fault}");
    // Among others on a host, somebody did that; a defect of ours it is not.
    assert_eq!(fault.owner(), Owner::Host, "{fault}");
    // The others end in order, and tell what CPU time they had.
    let told: Vec<_> = outcome.report.threads.iter().map(|thread| thread.cpu_time_ns > 0).collect();
    assert_eq!(told, [true, true, false, false]);
    // What was measured until then is there, of the dead as well.
    assert!(outcome.report.threads.iter().all(|thread| thread.gaps > 0));
    assert!(notes.records.iter().all(|records| !records.is_empty()));
}

fn a_group_that_cannot_start_is_named() {
    let attempt = |context: WorkloadContext| {
        run(&spec(ms(1000)), &context, &mut Notes::default()).unwrap_err()
    };
    let plain = || WorkloadContext::plain(None);
    let error = attempt(WorkloadContext { executable: "/nonexistent".into(), ..plain() });
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    // A program that does something else, and ends; whichever group is noticed first.
    let error = attempt(WorkloadContext { executable: "/bin/true".into(), ..plain() });
    assert!(matches!(error, LoadError::GroupDied { .. }), "{error}");
    // A cgroup that does not exist: the group itself says so.
    let cgroups = vec![vec![], vec!["/nonexistent/cgroup.procs".into()]];
    let error = attempt(WorkloadContext { cgroups, ..plain() });
    assert!(error.to_string().contains("/nonexistent/cgroup.procs"), "{error}");
    let error = attempt(WorkloadContext { memory: "/nonexistent".into(), ..plain() });
    assert!(matches!(error, LoadError::Shared(_)), "{error}");
}

fn a_load_runs_in_cgroups_of_this_kernel() {
    let name = format!("schedvmm-test-{}", std::process::id());
    let parent = Path::new("/sys/fs/cgroup/cpu").join(name);
    if fs::create_dir(&parent).is_err() {
        println!("  skipped: no cgroup v1 hierarchy of the cpu controller to make cgroups in");
        return;
    }
    let spec = spec(ms(200));
    let cpus = spec.cpus.iter().copied().collect();
    let cgroups = Cgroups::create_v1(&parent, None, &spec.groups, &cpus).unwrap();
    let context = WorkloadContext { cgroups: cgroups.procs(), ..WorkloadContext::plain(None) };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let at_release = move |pids: Vec<i32>| {
        let cgroup = |pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        *notes.lock().unwrap() = pids.into_iter().map(cgroup).collect();
    };
    let mut notes = Notes { at_release: Some(Box::new(at_release)), ..Notes::default() };
    let outcome = run(&spec, &context, &mut notes).unwrap();
    cgroups.remove();
    fs::remove_dir(&parent).unwrap();
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    let seen = seen.lock().unwrap();
    assert!(seen[0].contains("/vm1\n") && seen[1].contains("/vm2\n"), "{seen:?}");
}

/// On one CPU: a thread of great weight, one of little, and one that only yields at first.
fn groups_differ_as_they_are_told() {
    let always = |threads| group(threads, ms(60_000), SleepSpec::Fixed(Duration::ZERO));
    let nice = |nice| Policy { nice: Some(nice), ..Policy::default() };
    let cpu = spec(ms(1)).cpus[0];
    let spec = LoadSpec {
        groups: vec![
            GroupSpec { policy: nice(0), cpus: vec![cpu], ..always(1) },
            GroupSpec { policy: nice(10), cpus: vec![cpu], ..always(2) },
            GroupSpec { yielding: ms(500), cpus: vec![cpu], ..always(1) },
        ],
        ..spec(ms(2000))
    };
    // This process may have been given a nice value of its own, that the last group inherits.
    // SAFETY: takes three integers, no pointer.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
    let mut notes = Notes::default();
    let outcome = measure(&spec, &mut notes);
    assert!(outcome.fault.is_none(), "{:?}", outcome.fault);
    let threads = &outcome.report.threads;
    assert_eq!(threads.len(), 4);
    let cpus: CpuSet = [cpu].into_iter().collect();
    assert_eq!(notes.prepared.unwrap().affinity, vec![cpus; 4]);
    let cpu_ms: Vec<_> = threads.iter().map(|thread| thread.cpu_time_ns as f64 / 1e6).collect();
    let busy_ms: Vec<_> =
        threads.iter().map(|thread| to_ms(thread.busy_ticks, outcome.report.tsc.khz)).collect();
    println!("  CPU time {cpu_ms:.0?} ms of {busy_ms:.0?} ms in bursts");
    // Nice 10 weighs 110 where nice 0 weighs 1024 (kernel/sched/core.c).
    assert!(cpu_ms[0] > 4.0 * cpu_ms[1].max(cpu_ms[2]), "{cpu_ms:?}");
    // Metered only after it has yielded for its time.
    assert!((1300.0..1502.0).contains(&busy_ms[3]), "{busy_ms:?}");
    assert!(busy_ms[0] > 1900.0, "{busy_ms:?}");
}

fn full_record_memory_loses_no_counts() {
    // Every few readings are a gap.
    let floor = Duration::from_nanos(30);
    let spec = LoadSpec { records_per_thread: 3, floor, ..spec(ms(300)) };
    let mut notes = Notes::default();
    let outcome = measure(&spec, &mut notes);
    for (thread, records) in outcome.report.threads.iter().zip(&notes.records) {
        assert_eq!(records.len(), 3);
        assert_eq!(thread.gaps_unrecorded, thread.gaps - 3);
        assert_eq!(thread.gap_histogram_ns.iter().map(|(_, n)| n).sum::<u64>(), thread.gaps);
    }
}

fn impossible_loads_are_refused() {
    let context = WorkloadContext::plain(None);
    let good = spec(ms(100));
    let plain = good.groups[0].clone();
    let with = |group| LoadSpec { groups: vec![plain.clone(), group], ..good.clone() };
    for bad in [
        LoadSpec { groups: vec![], ..good.clone() },
        with(GroupSpec { threads: 0, ..plain.clone() }),
        with(GroupSpec { threads: u32::MAX, ..plain.clone() }),
        with(GroupSpec { busy: Duration::ZERO, ..plain.clone() }),
        with(GroupSpec { cpus: vec![1023], ..plain.clone() }),
        LoadSpec { cpus: vec![], ..good.clone() },
        LoadSpec { cpus: vec![u32::MAX], ..good.clone() },
        LoadSpec { duration: Duration::ZERO, ..good.clone() },
        LoadSpec { records_per_thread: u32::MAX, ..good.clone() },
    ] {
        let error = run(&bad, &context, &mut Notes::default()).expect_err("impossible");
        assert_eq!(error.owner(), Owner::Request, "{error}");
    }
    // A CPU that is not there is not the request's fault by itself.
    let error = run(&LoadSpec { cpus: vec![1023], ..good }, &context, &mut Notes::default());
    let error = error.expect_err("no such CPU");
    assert!(matches!(error, LoadError::CpuAbsent { cpu: 1023, .. }), "{error}");
    assert_eq!(error.owner(), Owner::Host, "{error}");
}

fn an_observer_that_fails_ends_the_load() {
    let mut notes = Notes { fail_at_tick: true, ..Notes::default() };
    let begin = Instant::now();
    let outcome = measure(&spec(ms(60_000)), &mut notes);
    assert!(matches!(outcome.fault, Some(LoadError::Observer(_))), "{:?}", outcome.fault);
    assert!(begin.elapsed() < ms(10_000));
}
