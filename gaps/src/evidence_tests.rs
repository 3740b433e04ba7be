// SPDX-License-Identifier: Apache-2.0

use super::*;

/// One tick is one nanosecond.
const KHZ: u64 = 1_000_000;
const MS: u64 = 1_000_000;
const COST: Cost = Cost { turn_ticks: 20, look_ticks: 100 };

/// A kernel as the tests want it: the thread's switches and CPU time are set from outside.
#[derive(Clone, Copy, Default)]
struct Script(Sight);

impl Eye for Script {
    fn look(&mut self) -> Sight {
        self.0
    }
}

fn evidence(steal_known: bool) -> Evidence<Script> {
    let mut evidence = Evidence::new(Script::default(), KHZ, COST, steal_known);
    evidence.begin();
    evidence
}

/// The thread runs 1 ms, then there is an interval of which the kernel gave it `cpu`, with so
/// many switches.
fn interval(evidence: &mut Evidence<Script>, length: u64, cpu: u64, switches: u64) -> Class {
    let begin = evidence.eye.0.tsc + MS;
    let sight = &mut evidence.eye.0;
    sight.tsc += MS + length;
    sight.cpu_ns += MS + cpu;
    sight.switches += switches;
    evidence.judge(begin, begin + length)
}

/// Interrupts of 10 µs, of which the kernel counts `cpu` as the thread's.
fn ticks(evidence: &mut Evidence<Script>, cpu: u64) {
    for _ in 0..30 {
        interval(evidence, 10_000, cpu, 0);
    }
}

#[test]
fn a_switch_and_no_cpu_time_is_the_scheduler() {
    for steal_known in [false, true] {
        let mut evidence = evidence(steal_known);
        assert_eq!(interval(&mut evidence, 50 * MS, 0, 1), Class::ScheduledOut);
        assert_eq!(interval(&mut evidence, 50 * MS, 10 * MS, 7), Class::ScheduledOut);
    }
}

#[test]
fn without_a_switch_it_is_never_the_scheduler() {
    for steal_known in [false, true] {
        for cpu in [0, 10_000] {
            let mut evidence = evidence(steal_known);
            ticks(&mut evidence, cpu);
            for given in [0, 3 * MS, 5 * MS] {
                assert_ne!(interval(&mut evidence, 5 * MS, given, 0), Class::ScheduledOut);
            }
        }
    }
}

#[test]
fn time_that_the_kernel_does_not_miss_is_the_hosts() {
    let mut evidence = evidence(false);
    ticks(&mut evidence, 0);
    assert_eq!(evidence.irq_known(), Some(true));
    assert_eq!(interval(&mut evidence, 5 * MS, 5 * MS, 0), Class::Host);
    // Nor does a short switch beside it make it the scheduler's.
    assert_eq!(interval(&mut evidence, 5 * MS, 5 * MS - 5_000, 2), Class::Host);
}

#[test]
fn a_kernel_that_counts_interrupts_as_the_threads_cannot_tell_them_from_the_host() {
    let mut evidence = evidence(false);
    ticks(&mut evidence, 10_000);
    assert_eq!(evidence.irq_known(), Some(false));
    assert_eq!(interval(&mut evidence, 5 * MS, 5 * MS, 0), Class::Unknown);
    // But no interrupt takes that long.
    assert_eq!(interval(&mut evidence, 30 * MS, 29 * MS, 3), Class::Host);
}

#[test]
fn interrupts_are_known_where_steal_cannot_be_meant() {
    let mut plain = evidence(false);
    ticks(&mut plain, 0);
    assert_eq!(interval(&mut plain, MS, 0, 0), Class::Irq);
    let mut told_of_steal = evidence(true);
    ticks(&mut told_of_steal, 0);
    assert_eq!(interval(&mut told_of_steal, MS, 0, 0), Class::Unknown);
    let mut only_steal = evidence(true);
    ticks(&mut only_steal, 10_000);
    assert_eq!(interval(&mut only_steal, MS, 0, 0), Class::Host);
}

#[test]
fn too_few_interrupts_tell_nothing() {
    let mut evidence = evidence(false);
    interval(&mut evidence, 10_000, 0, 0);
    assert_eq!(evidence.irq_known(), None);
    assert_eq!(interval(&mut evidence, 5 * MS, 5 * MS, 0), Class::Unknown);
}

#[test]
fn a_short_switch_before_a_gap_is_not_its_cause() {
    let mut evidence = evidence(false);
    ticks(&mut evidence, 0);
    // 30 µs of another thread, shorter than any floor, then 5 ms of the host.
    interval(&mut evidence, 30_000, 0, 1);
    assert_eq!(interval(&mut evidence, 5 * MS, 5 * MS, 0), Class::Host);
}

#[test]
fn what_is_too_short_is_not_looked_at() {
    let mut evidence = evidence(false);
    let begin = evidence.eye.0;
    evidence.eye.0.switches += 1;
    assert_eq!(evidence.judge(100, 101), Class::Unknown);
    assert_eq!(evidence.last, begin);
    // A slow machine: a turn of 1 µs is no interruption, nor are a few of them.
    let slow = |turn_ticks, look_ticks| {
        Evidence::new(Script::default(), KHZ, Cost { turn_ticks, look_ticks }, false)
    };
    assert_eq!(slow(1_000, 0).notice_ticks(), 16_000);
    // A look of 5 µs is no interruption either, or it would call for the next one.
    assert_eq!((slow(30, 5_000).notice_ticks(), slow(30, 5_000).own_ticks()), (20_000, 20_000));
}

#[test]
fn numbers_and_names_are_the_classes_own() {
    for class in Class::ALL {
        assert_eq!(Class::from_number(class as u32), class);
        assert_eq!(serde_name(class), class.name());
    }
    assert_eq!(Class::from_number(99), Class::Unknown);
}

fn serde_name(class: Class) -> String {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};
    let from = |name: &str| {
        let text: StrDeserializer<'_, Error> = IntoDeserializer::into_deserializer(name);
        Class::deserialize(text)
    };
    let names = ["unknown", "scheduled-out", "host", "irq"];
    names.into_iter().find(|name| from(name) == Ok(class)).unwrap_or_default().to_owned()
}

#[test]
fn steal_is_the_eighth_figure() {
    assert_eq!(steal_in("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1"), 88);
    assert_eq!(steal_in("cpu 1 2"), 0);
    assert_eq!(steal_in(""), 0);
}

#[test]
fn this_kernel_counts_the_switches_of_a_sleep() {
    let before = KernelEye.look();
    std::thread::sleep(std::time::Duration::from_millis(5));
    let after = KernelEye.look();
    assert!(after.switches > before.switches, "{before:?} {after:?}");
    assert!(after.cpu_ns >= before.cpu_ns && after.cpu_ns - before.cpu_ns < 5 * MS);
    assert!(after.tsc > before.tsc);
}
