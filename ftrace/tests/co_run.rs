// SPDX-License-Identifier: Apache-2.0
//! Constructed traces with a known answer to who ran beside whom.

mod common;

use common::Builder;
use ftrace::attribution::{Context, Topology};
use ftrace::{CoRun, co_run};

const PREEMPTED: i32 = 0x100;

/// CPUs 0 and 1 share a core, 2 is alone. Threads 11, 12 are one group, 21 is another.
fn context() -> Context {
    Context {
        topology: Topology::from_cores([&[0, 1][..], &[2]]),
        groups: [(11, 1), (12, 1), (21, 2)].into(),
        ..Context::default()
    }
}

#[test]
fn each_tick_is_booked_by_what_the_sibling_does() {
    let mut trace = Builder::new(3);
    // All CPUs are idle in their first records.
    for cpu in 0..3 {
        trace.wake(cpu, 900, "sched_wakeup", 99, 0);
    }
    trace.switch(0, 1000, 0, 11).switch(1, 1100, 0, 12);
    trace.switch(1, 1300, PREEMPTED, 21).switch(1, 1600, PREEMPTED, 77);
    trace.switch(1, 1700, PREEMPTED, 0).switch(0, 2000, PREEMPTED, 0);
    // A CPU without siblings says nothing.
    trace.switch(2, 2000, 0, 21).switch(2, 3000, PREEMPTED, 0);
    let found = co_run(&trace.build(), &context(), 0..u64::MAX).expect("readable");
    // 100 beside an idle CPU, 200 beside 12, 300 beside 21, 100 beside 77, 300 beside none.
    let first = CoRun { mate: 200, stranger: 400, idle: 400, unknown: 0 };
    let second = CoRun { mate: 200, ..CoRun::default() };
    let third = CoRun { stranger: 300, ..CoRun::default() };
    assert_eq!(found, [(11, first), (12, second), (21, third)].into());
    let mut sum = first;
    sum.add(&second);
    assert_eq!((sum.running(), sum.mate), (1200, 400));
    // Up to a moment, what runs then runs until then; and nothing runs beyond the trace.
    let found = co_run(&trace.build(), &context(), 0..1650).expect("readable");
    assert_eq!(found[&11], CoRun { mate: 200, stranger: 350, idle: 100, unknown: 0 });
    assert_eq!(found.get(&21).map(CoRun::running), Some(300));
    assert_eq!(co_run(&trace.build(), &context(), 0..950).expect("readable"), [].into());
    let whole = co_run(&trace.build(), &context(), 0..9_000_000).expect("readable");
    assert_eq!(whole[&11], first);
    // From a moment on, what ran before it was there all the same.
    let found = co_run(&trace.build(), &context(), 1200..1650).expect("readable");
    let late = CoRun { mate: 100, stranger: 350, ..CoRun::default() };
    assert_eq!(
        found,
        [(11, late), (12, CoRun { mate: 100, ..CoRun::default() }), (21, third)].into()
    );
}

#[test]
fn what_a_cpu_lost_is_unknown_to_its_sibling() {
    let mut trace = Builder::new(2);
    for cpu in 0..2 {
        trace.wake(cpu, 900, "sched_wakeup", 99, 0);
    }
    trace.switch(0, 1000, 0, 11).switch(1, 1000, 0, 12);
    trace.lose(1, Some(5));
    // Whoever is on the CPU after that is seen from the next record on.
    trace.set_current(1, 21).wake(1, 1400, "sched_waking", 99, 0);
    trace.switch(0, 2000, PREEMPTED, 0);
    let found = co_run(&trace.build(), &context(), 0..u64::MAX).expect("readable")[&11];
    assert_eq!((found.running(), found.stranger, found.idle), (1000, 600, 0));
    assert_eq!(found.mate + found.unknown, 400);
    assert!(found.unknown > 0, "{found:?}");
}
