// SPDX-License-Identifier: Apache-2.0
//! A constructed trace for each class of cause, with the known answer.

mod common;

use std::sync::{Arc, Mutex};

use common::{Builder, Value};
use ftrace::attribution::{
    Cause, Context, Explanation, Gap, Task, Topology, Units, UnknownReason, explain,
};

const PREEMPTED: i32 = 0x100;
const SLEEPS: i32 = 1;

/// CPUs 0 and 1, and 2 and 3, share a core. Threads 11, 12 are VM 1; 21, 22 VM 2; 31 VM 3.
fn context() -> Context {
    Context {
        topology: Topology::from_cores([&[0, 1][..], &[2, 3]]),
        groups: [(11, 1), (12, 1), (21, 2), (22, 2), (31, 3)].into(),
        group_names: [(1, "VM 1".into()), (2, "VM 2".into())].into(),
        core_scheduling: true,
        max_segments: 100,
        ..Context::default()
    }
}

/// Explains one gap, and checks that its parts sum to it.
fn one(trace: &Builder, gap: Gap, context: &Context) -> Explanation {
    let explained = explain(&trace.build(), &[gap], context).expect("readable");
    let [explanation] = &explained[..] else { panic!("one answer to one question") };
    let sum: u64 = explanation.parts.iter().map(|part| part.ticks).sum();
    assert_eq!(sum, gap.end - gap.begin, "{explanation:#?}");
    let mut at = gap.begin;
    for segment in &explanation.segments {
        assert_eq!(segment.begin, at, "{explanation:#?}");
        at = segment.end;
    }
    assert_eq!(at, gap.end);
    explanation.clone()
}

fn parts(explanation: &Explanation) -> Vec<(Cause, u64)> {
    explanation.parts.iter().map(|part| (part.cause.clone(), part.ticks)).collect()
}

fn task(tid: i32, group: Option<u32>) -> Task {
    Task { tid, name: format!("t{tid}"), group }
}

/// Thread 11 runs on CPU 2 from 1000 on, CPU 3 is idle; something happens on all CPUs before.
fn running(mut trace: Builder) -> Builder {
    for cpu in [0, 1, 3] {
        trace.wake(cpu, 900, "sched_wakeup", 99, 0);
    }
    trace.wake(2, 950, "sched_waking", 11, 2).wake(2, 960, "sched_wakeup", 11, 2);
    trace.switch(2, 1000, 0, 11);
    trace
}

fn gap(begin: u64, end: u64) -> Gap {
    Gap { tid: 11, begin, end }
}

#[test]
fn queued_behind_other_threads_whatever_the_formats() {
    for mut trace in [running(Builder::new(4)), running(Builder::new(4).mirrored())] {
        trace.switch(2, 2000, PREEMPTED, 21).switch(2, 2600, PREEMPTED, 77);
        trace.switch(2, 2700, PREEMPTED, 21).switch(2, 3000, PREEMPTED, 11);
        let found = one(&trace, gap(2010, 3000), &context());
        let expected = [
            (Cause::Queued { cpu: 2, behind: task(21, Some(2)) }, 590 + 300),
            (Cause::Queued { cpu: 2, behind: task(77, None) }, 100),
        ];
        assert_eq!(parts(&found), expected);
        assert_eq!((found.parts[0].pieces, found.parts[0].longest), (2, 590));
        let about = (found.name.as_str(), found.group, found.trace_begin);
        assert_eq!(about, ("thread 11", Some(1), None));
    }
}

#[test]
fn forced_idle_names_the_siblings_group() {
    let mut trace = running(Builder::new(4));
    trace.switch(3, 2000, 0, 21).switch(2, 2000, PREEMPTED, 0);
    // Another thread of another group, then one of its own: no reason to be idle.
    trace.switch(3, 5000, PREEMPTED, 31).switch(3, 6000, PREEMPTED, 12);
    trace.switch(2, 6005, 0, 11);
    let found = one(&trace, gap(2000, 6005), &context());
    let forced = |tid, group| Cause::ForcedIdle { cpu: 2, sibling: 3, by: task(tid, Some(group)) };
    let expected = [(forced(21, 2), 3000), (forced(31, 3), 1000), (Cause::Idle { cpu: 2 }, 5)];
    assert_eq!(parts(&found), expected);
    let text = found.paragraph(&context(), Units::tsc(10));
    assert_eq!(
        text,
        "VM 1 thread 11 waited 400.5 ms: CPU 2 forced idle 400.0 ms: CPU 3 ran VM 2 300.0 ms \
         (75 %), group 3 100.0 ms (25 %); runnable on an idle CPU 0.5 ms."
    );
    let table = found.table(&context(), Units::tsc(10));
    assert!(table.contains("CPU 2 forced idle: CPU 3 ran VM 2, t21 (tid 21)"), "{table}");
}

#[test]
fn without_cookies_nothing_is_forced_idle() {
    let mut trace = running(Builder::new(4));
    trace.switch(3, 2000, 0, 21).switch(2, 2000, PREEMPTED, 0).switch(2, 3000, 0, 11);
    let context = Context { core_scheduling: false, ..context() };
    let found = one(&trace, gap(2000, 3000), &context);
    assert_eq!(parts(&found), [(Cause::Idle { cpu: 2 }, 1000)]);
}

#[test]
fn an_untagged_thread_is_forced_idle_by_a_tagged_one_only() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 1500, SLEEPS, 50).switch(3, 2000, 0, 21).switch(2, 2000, PREEMPTED, 0);
    trace.switch(3, 3000, PREEMPTED, 77).switch(2, 3100, 0, 50);
    let found = one(&trace, Gap { tid: 50, begin: 2000, end: 3100 }, &context());
    let by = task(21, Some(2));
    let expected =
        [(Cause::ForcedIdle { cpu: 2, sibling: 3, by }, 1000), (Cause::Idle { cpu: 2 }, 100)];
    assert_eq!(parts(&found), expected);
}

#[test]
fn throttled_is_what_a_limited_group_is_on_an_idle_core() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 2000, PREEMPTED, 0).switch(2, 3000, 0, 11);
    let limited = Context { limited_groups: [1].into(), ..context() };
    assert_eq!(
        parts(&one(&trace, gap(2000, 3000), &limited)),
        [(Cause::Throttled { cpu: 2 }, 1000)]
    );
    assert_eq!(parts(&one(&trace, gap(2000, 3000), &context())), [(Cause::Idle { cpu: 2 }, 1000)]);
}

#[test]
fn asleep_until_woken_then_queued() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 2000, SLEEPS << 1, 21);
    trace.wake(0, 2500, "sched_waking", 11, 2).wake(0, 2520, "sched_wakeup", 11, 2);
    trace.switch(2, 3000, PREEMPTED, 11);
    let found = one(&trace, gap(2000, 3000), &context());
    let expected = [
        (Cause::Sleeping { state: 'D' }, 500),
        (Cause::Queued { cpu: 2, behind: task(21, Some(2)) }, 480),
        (Cause::Waking { cpu: 2 }, 20),
    ];
    assert_eq!(parts(&found), expected);
}

#[test]
fn a_wake_that_meets_a_running_thread_is_no_sleep() {
    let mut trace = running(Builder::new(4));
    // The waker saw it on its way to sleep; the thread switches out before it is queued.
    trace.wake(0, 1990, "sched_waking", 11, 2).switch(2, 2000, SLEEPS, 21);
    trace.wake(0, 2030, "sched_wakeup", 11, 2).switch(2, 2100, PREEMPTED, 11);
    // Here the wake comes in time, and the sleep afterwards is one.
    trace.wake(0, 2200, "sched_waking", 11, 2).wake(0, 2201, "sched_wakeup", 11, 2);
    trace.switch(2, 2300, SLEEPS, 21);
    trace.wake(0, 2400, "sched_waking", 11, 2).wake(0, 2400, "sched_wakeup", 11, 2);
    trace.switch(2, 2500, PREEMPTED, 11);
    let behind = Cause::Queued { cpu: 2, behind: task(21, Some(2)) };
    let early = one(&trace, gap(2000, 2100), &context());
    assert_eq!(parts(&early), [(behind.clone(), 70), (Cause::Waking { cpu: 2 }, 30)]);
    let later = one(&trace, gap(2300, 2500), &context());
    assert_eq!(parts(&later), [(Cause::Sleeping { state: 'S' }, 100), (behind, 100)]);
}

#[test]
fn interrupts_of_all_kinds_while_the_thread_is_current() {
    let mut trace = running(Builder::new(4));
    let irq: [(&str, Value); 2] = [("irq", 25.into()), ("name", "virtio1".into())];
    trace.event(2, 2000, "irq_handler_entry", &irq);
    trace.event(2, 2100, "irq_handler_exit", &irq[..1]);
    trace.event(2, 2100, "softirq_entry", &[("vec", 3.into())]);
    // A timer interrupts the softirq.
    trace.event(2, 2150, "local_timer_entry", &[("vector", 236.into())]);
    trace.event(2, 2170, "local_timer_exit", &[("vector", 236.into())]);
    trace.event(2, 2300, "softirq_exit", &[("vec", 3.into())]);
    trace.switch(2, 4000, PREEMPTED, 21);
    let found = one(&trace, gap(2000, 2400), &context());
    let expected = [
        (Cause::Softirq { cpu: 2, name: "NET_RX".into() }, 180),
        (Cause::Irq { cpu: 2, name: "25 virtio1".into() }, 100),
        (Cause::Running { cpu: 2 }, 100),
        (Cause::Irq { cpu: 2, name: "local_timer".into() }, 20),
    ];
    assert_eq!(parts(&found), expected);
}

#[test]
fn migrations_by_wake_up_by_balancing_and_by_the_stopper() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 2000, SLEEPS, 0).switch(0, 2100, 0, 21);
    // Woken for another CPU.
    trace.wake(1, 2200, "sched_waking", 11, 2).migrate(1, 2210, 11, 2, 0);
    trace.wake(1, 2240, "sched_wakeup", 11, 0);
    // The stopper of CPU 0 pushes it to CPU 3.
    trace.switch_named(0, 2400, PREEMPTED, 19, "migration/0");
    trace.migrate(0, 2430, 11, 0, 3);
    trace.switch(0, 2450, SLEEPS, 21).switch(3, 2460, 0, 11);
    trace.switch(0, 2500, PREEMPTED, 0);
    let found = one(&trace, gap(2200, 2460), &context());
    let expected = [
        (Cause::Queued { cpu: 0, behind: task(21, Some(2)) }, 160),
        (Cause::Migrating { cpu: 0 }, 30 + 30),
        (Cause::Idle { cpu: 3 }, 30),
        (Cause::Waking { cpu: 2 }, 10),
    ];
    assert_eq!(parts(&found), expected);
    assert_eq!(found.migrations, 2);
}

#[test]
fn running_by_the_trace_is_steal() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 9000, PREEMPTED, 21);
    let found = one(&trace, gap(2000, 8000), &context());
    assert_eq!(parts(&found), [(Cause::Running { cpu: 2 }, 6000)]);
    let text = |vcpus| found.paragraph(&Context { vcpus, ..context() }, Units::tsc(10));
    let says = "by the trace 600.0 ms (host steal, SMI or an untraced interrupt)";
    assert!(text(false).contains(says), "{}", text(false));
    assert!(text(true).contains("by the trace 600.0 ms (the hypervisor worked for the vCPU, or"));
}

#[test]
fn before_and_after_the_trace() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 2000, PREEMPTED, 21);
    let before = one(&trace, gap(100, 1500), &context());
    let unknown = |reason| Cause::Unknown { reason };
    // Waking and wake-up of the constructed trace are at 950 and 960; CPU 2 is idle then.
    let expected = [
        (unknown(UnknownReason::BeforeTrace), 800),
        (Cause::Running { cpu: 2 }, 500),
        (Cause::Sleeping { state: '?' }, 50),
        (Cause::Idle { cpu: 2 }, 40),
        (Cause::Waking { cpu: 2 }, 10),
    ];
    assert_eq!(parts(&before), expected);
    assert_eq!(before.trace_begin, Some(900));
    let text = before.paragraph(&context(), Units::tsc(10));
    assert!(text.ends_with("The trace starts 80.0 ms after the gap began."), "{text}");

    let after = one(&trace, gap(1500, 5000), &context());
    let expected = [(unknown(UnknownReason::AfterTrace), 3000), (Cause::Running { cpu: 2 }, 500)];
    assert_eq!(parts(&after), expected);
}

/// The beginning of all CPUs' traces is overwritten, in the middle of a gap.
fn overwritten() -> Builder {
    let mut trace = Builder::new(4);
    for cpu in [0, 1, 2, 3] {
        trace.lose(cpu, Some(1000));
    }
    trace.wake(0, 1000, "sched_wakeup", 99, 0).wake(1, 1010, "sched_wakeup", 99, 0);
    trace.set_current(2, 21).set_current(3, 22);
    trace.wake(3, 1020, "sched_wakeup", 99, 0).wake(2, 1030, "sched_wakeup", 99, 0);
    trace
}

#[test]
fn a_thread_switched_in_first_was_queued_since_the_trace_began() {
    let mut trace = overwritten();
    trace.switch(2, 2000, SLEEPS, 31).switch(2, 3000, PREEMPTED, 11);
    let found = one(&trace, gap(500, 3000), &context());
    // CPU 2 runs thread 21, which no event names.
    let before_31 = Task { tid: 21, name: "thread 21".into(), group: Some(2) };
    let expected = [
        (Cause::Queued { cpu: 2, behind: task(31, Some(3)) }, 1000),
        (Cause::Queued { cpu: 2, behind: before_31 }, 970),
        (Cause::Unknown { reason: UnknownReason::BeforeTrace }, 500),
        (Cause::Unknown { reason: UnknownReason::NotSeen }, 30),
    ];
    assert_eq!(parts(&found), expected);
    assert_eq!(found.trace_begin, Some(1000));
}

#[test]
fn a_thread_first_seen_after_a_loss_may_have_been_anywhere() {
    let mut trace = overwritten();
    trace.switch(2, 2000, SLEEPS, 31).lose(0, Some(5)).wake(0, 2500, "sched_wakeup", 99, 0);
    trace.switch(2, 3000, PREEMPTED, 11);
    let found = one(&trace, gap(500, 3000), &context());
    assert_eq!(found.unknown_ticks(), 2500);
}

#[test]
fn lost_events_are_unknown_and_on_that_cpu_only() {
    let mut trace = running(Builder::new(4));
    trace.switch(0, 1500, 0, 22).switch(0, 1600, PREEMPTED, 31);
    trace.switch(2, 2000, PREEMPTED, 21).wake(2, 2200, "sched_wakeup", 99, 0);
    trace.lose(2, Some(7));
    trace.wake(2, 5000, "sched_wakeup", 99, 0);
    trace.switch(2, 5500, PREEMPTED, 11).switch(0, 5500, PREEMPTED, 22);
    let found = one(&trace, gap(2000, 5500), &context());
    let expected = [
        (Cause::Unknown { reason: UnknownReason::LostEvents }, 3300),
        (Cause::Queued { cpu: 2, behind: task(21, Some(2)) }, 200),
    ];
    assert_eq!(parts(&found), expected);
    let elsewhere = one(&trace, Gap { tid: 22, begin: 2000, end: 5500 }, &context());
    assert_eq!(parts(&elsewhere), [(Cause::Queued { cpu: 0, behind: task(31, Some(3)) }, 3500)]);
}

#[test]
fn a_sleep_without_a_wake_up_is_unknown() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 2000, SLEEPS, 21).switch(2, 3000, PREEMPTED, 11);
    let found = one(&trace, gap(2000, 3000), &context());
    let reason = UnknownReason::WakeNotSeen;
    assert_eq!(parts(&found), [(Cause::Unknown { reason }, 1000)]);
}

#[test]
fn gaps_are_answered_in_order_even_if_they_overlap() {
    let mut trace = running(Builder::new(4));
    trace.switch(2, 2000, PREEMPTED, 21).switch(2, 3000, PREEMPTED, 11);
    trace.switch(2, 4000, PREEMPTED, 31).switch(2, 5000, PREEMPTED, 11);
    let gaps = [gap(4000, 5000), gap(2000, 3000), gap(1500, 4500), gap(2000, 2000), gap(9, 3)];
    let found = explain(&trace.build(), &gaps, &context()).expect("readable");
    let queued =
        |found: &Explanation| found.ticks_of(|cause| matches!(cause, Cause::Queued { .. }));
    assert_eq!(found.iter().map(queued).collect::<Vec<_>>(), [1000, 1000, 1500, 0, 0]);
    assert_eq!(found.iter().map(|found| found.gap).collect::<Vec<_>>(), gaps);
    assert_eq!(found[2].ticks_of(|cause| matches!(cause, Cause::Running { .. })), 1500);
}

#[test]
fn a_long_reading_tells_how_far_it_is() {
    let mut trace = running(Builder::new(4));
    let end = 1000 + (1 << 16);
    for time in 1001..end {
        trace.switch(2, time, 0, 11);
    }
    let trace = trace.build();
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let watched = trace.clone().watched(move |bytes| teller.lock().unwrap().push(bytes));
    let found = explain(&watched, &[gap(1000, u64::MAX)], &context()).expect("readable");
    assert_eq!(found, explain(&trace, &[gap(1000, u64::MAX)], &context()).expect("readable"));
    // What explains looks at the trace's beginning first.
    told.lock().unwrap().clear();
    let mut events = watched.events().expect("readable");
    while events.next().expect("readable").is_some() {}
    let told = told.lock().unwrap();
    assert!(told.len() > 4, "{told:?}");
    assert_eq!(told.iter().sum::<u64>(), watched.pages_bytes());
}

#[test]
fn explanations_survive_json() {
    let mut trace = running(Builder::new(4));
    trace.switch(3, 2000, 0, 21).switch(2, 2000, PREEMPTED, 0).switch(2, 3000, 0, 11);
    let found = one(&trace, gap(100, 3000), &context());
    let json = serde_json::to_string(&found).expect("serialisable");
    assert!(json.contains(r#""cause":"forced-idle","cpu":2,"sibling":3,"by":{"tid":21"#), "{json}");
    assert_eq!(serde_json::from_str::<Explanation>(&json).expect("readable"), found);
}
