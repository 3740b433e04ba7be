// SPDX-License-Identifier: Apache-2.0

use super::*;

/// One tick is one nanosecond.
const KHZ: u64 = 1_000_000;
const MS: u64 = 1_000_000;
const COST: Cost = Cost { iteration_ticks: 20, sample_ticks: 100 };

/// A kernel as the tests want it. It accounts for what the thread ran when it is switched out, and
/// at a tick each 4 ms.
#[derive(Clone, Copy, Default)]
struct Script {
    sample: Sample,
    /// What the thread has run, accounted or not.
    ran: u64,
    next_tick: u64,
    /// Absences of the last interval; `None` for a kernel that records none.
    records: Option<Recorded>,
    /// The interval that was asked about last.
    asked: (u64, u64),
    samples: usize,
}

const TICK_NS: u64 = 4 * MS;

impl Script {
    fn pass(&mut self, ns: u64) {
        self.sample.tsc += ns;
    }

    fn run(&mut self, ns: u64) {
        self.pass(ns);
        self.ran += ns;
        self.tick();
    }

    fn tick(&mut self) {
        if self.sample.tsc >= self.next_tick {
            self.next_tick = self.sample.tsc / TICK_NS * TICK_NS + TICK_NS;
            self.sample.ran_ns = self.ran;
        }
    }

    fn off(&mut self, ns: u64, waits: bool) {
        self.pass(ns);
        self.sample.ran_ns = self.ran;
        self.sample.arrivals += 1;
        if waits {
            self.sample.waited_ns += ns;
        } else {
            self.sample.blocked = self.sample.blocked.map(|times| times + 1);
        }
        if let Some(records) = &mut self.records {
            records.off_ticks += ns;
            records.arrived_tsc = self.sample.tsc;
        }
    }
}

impl ThreadAccounting for Script {
    fn switches(&mut self, begin: u64, end: u64) -> Option<Recorded> {
        self.asked = (begin, end);
        let told = self.records;
        if let Some(records) = &mut self.records {
            records.off_ticks = 0;
        }
        told
    }

    fn sample(&mut self) -> Option<Sample> {
        self.samples += 1;
        Some(self.sample)
    }
}

#[derive(Clone, Copy)]
enum Piece {
    /// The thread runs, by the kernel's accounting.
    Ran(u64),
    /// Neither it nor any other thread does: interrupts that are kept out, or steal that is told.
    Lost(u64),
    /// Another thread does.
    Off(u64),
    /// It is stopped.
    Stopped(u64),
}
use Piece::{Lost, Off, Ran, Stopped};

struct Thread(Evidence<Script>);

impl Thread {
    fn new(steal_known: bool, irq_kept_out: Option<bool>, recorded: bool) -> Self {
        let facts = Facts { steal_known, irq_kept_out, tick_ns: Some(TICK_NS) };
        let records = recorded.then(Recorded::default);
        // With records of switches nobody asks how often it was blocked.
        let blocked = (!recorded).then_some(0);
        let sample = Sample { tsc: 100 * MS + 1, blocked, ..Sample::default() };
        let script = Script { sample, records, next_tick: 104 * MS, ..Script::default() };
        let mut this = Self(Evidence::new(script, KHZ, COST, facts));
        // It has just woken up.
        this.accounting().off(1, true);
        this.0.begin();
        this
    }

    fn accounting(&mut self) -> &mut Script {
        &mut self.0.accounting
    }

    /// Runs 1 ms, then there is an interval of these pieces. Returns its ends.
    fn interval(&mut self, pieces: &[Piece]) -> (u64, u64) {
        self.accounting().run(MS);
        let begin = self.accounting().sample.tsc;
        for &piece in pieces {
            match piece {
                Ran(ns) => self.accounting().run(ns),
                Lost(ns) => {
                    self.accounting().pass(ns);
                    self.accounting().tick();
                }
                Off(ns) => self.accounting().off(ns, true),
                Stopped(ns) => self.accounting().off(ns, false),
            }
        }
        (begin, self.accounting().sample.tsc)
    }

    fn gap(&mut self, pieces: &[Piece]) -> Class {
        let (begin, end) = self.interval(pieces);
        self.accounting().pass(COST.sample_ticks);
        self.0.classify(begin, end)
    }

    fn short(&mut self, pieces: &[Piece]) {
        let (begin, end) = self.interval(pieces);
        self.0.notice(begin, end);
    }
}

/// All kernels: whether it is told of steal, keeps interrupts out, records switches.
fn kernels() -> impl Iterator<Item = (bool, Option<bool>, bool)> {
    [false, true].into_iter().flat_map(|steal| {
        [None, Some(false), Some(true)]
            .into_iter()
            .flat_map(move |irq| [false, true].map(|recorded| (steal, irq, recorded)))
    })
}

#[test]
fn a_switch_and_no_cpu_time_is_the_scheduler() {
    for (steal, irq, recorded) in kernels() {
        let mut thread = Thread::new(steal, irq, recorded);
        for pieces in [
            &[Off(50 * MS)][..],
            &[Off(MS / 10)],
            &[Ran(10_000), Off(30 * MS), Ran(10 * MS), Off(10 * MS)],
            &[Stopped(50 * MS)],
            &[Stopped(MS)],
            &[Stopped(MS), Off(MS)],
        ] {
            assert_eq!(thread.gap(pieces), Class::ScheduledOut, "{steal} {irq:?} {recorded}");
        }
    }
}

#[test]
fn without_a_switch_it_is_never_the_scheduler() {
    for (steal, irq, recorded) in kernels() {
        for lost in [0, MS, 2 * MS, 5 * MS, 50 * MS] {
            let mut thread = Thread::new(steal, irq, recorded);
            let class = thread.gap(&[Lost(lost), Ran(5 * MS)]);
            assert_ne!(class, Class::ScheduledOut, "{steal} {irq:?} {recorded} {lost}");
        }
    }
}

#[test]
fn time_that_the_kernel_does_not_miss_is_the_hosts() {
    for recorded in [false, true] {
        let mut thread = Thread::new(false, Some(true), recorded);
        assert_eq!(thread.gap(&[Ran(9 * MS)]), Class::Host);
        // Nor does a short switch beside it make it the scheduler's.
        assert_eq!(thread.gap(&[Off(5_000), Ran(9 * MS)]), Class::Host);
        // Where interrupts count as the thread's time, they would look the same.
        let mut thread = Thread::new(false, Some(false), recorded);
        assert_eq!(thread.gap(&[Ran(9 * MS)]), Class::Unknown);
        // But none takes that long.
        assert_eq!(thread.gap(&[Off(5_000), Ran(30 * MS)]), Class::Host);
    }
}

#[test]
fn interrupts_are_known_where_steal_cannot_be_meant() {
    for recorded in [false, true] {
        let gap = |steal, irq| Thread::new(steal, irq, recorded).gap(&[Lost(9 * MS)]);
        assert_eq!(gap(false, Some(true)), Class::Irq);
        assert_eq!(gap(true, Some(false)), Class::Host);
        for (steal, irq) in [(true, Some(true)), (false, Some(false)), (true, None), (false, None)]
        {
            assert_eq!(gap(steal, irq), Class::Unknown, "{steal} {irq:?}");
        }
    }
}

/// What the thread ran since the last tick is not accounted, so of less than a tick nobody can say
/// whether the kernel gave it to the thread: it may be no class but that of both.
#[test]
fn what_accounting_cannot_tell_is_unknown() {
    for recorded in [false, true] {
        for pieces in [[Ran(2 * MS)], [Lost(2 * MS)]] {
            let mut thread = Thread::new(true, Some(false), recorded);
            // It has not been switched out for long.
            for _ in 0..20 {
                thread.short(&[Lost(3_000)]);
            }
            assert_eq!(thread.gap(&pieces), Class::Unknown);
        }
        // A kernel without ticks counts nothing at all meanwhile.
        let mut thread = Thread::new(true, Some(false), recorded);
        thread.0.tick_ticks = u64::MAX;
        assert_eq!(thread.gap(&[Lost(9 * MS)]), Class::Unknown);
    }
}

#[test]
fn a_short_switch_before_a_gap_is_not_its_cause() {
    for recorded in [false, true] {
        let mut thread = Thread::new(true, Some(false), recorded);
        // Each is shorter than any floor; then 9 ms of the host.
        for _ in 0..400 {
            thread.short(&[Off(30_000)]);
        }
        assert_eq!(thread.gap(&[Lost(9 * MS)]), Class::Host, "recorded: {recorded}");
    }
}

#[test]
fn a_gap_that_began_within_a_look_is_judged_by_the_one_before() {
    for recorded in [false, true] {
        let mut thread = Thread::new(true, Some(false), recorded);
        let (begin, end) = thread.interval(&[Off(200_000)]);
        // Switched out before the kernel answers: the accounting has it already.
        thread.accounting().sample.waited_ns += 5 * MS;
        thread.accounting().sample.arrivals += 1;
        thread.accounting().pass(5 * MS);
        let class = thread.0.classify(begin, end);
        assert!(!recorded || class == Class::ScheduledOut, "{class:?}");
        let again = thread.accounting().sample.tsc;
        thread.accounting().pass(COST.sample_ticks);
        if let Some(records) = &mut thread.accounting().records {
            *records = Recorded { off_ticks: 5 * MS, arrived_tsc: again };
        }
        assert_eq!(thread.0.classify(end, again), Class::ScheduledOut, "recorded: {recorded}");
        // And what comes after it is judged by its own.
        assert_eq!(thread.gap(&[Lost(9 * MS)]), Class::Host, "recorded: {recorded}");
    }
}

#[test]
fn a_wake_up_that_waits_for_a_cpu_is_the_schedulers() {
    for recorded in [false, true] {
        let mut thread = Thread::new(true, Some(false), recorded);
        let mut sleep = |asleep, queued| {
            thread.0.pause();
            thread.accounting().off(asleep, false);
            thread.accounting().sample.waited_ns += queued;
            let planned = thread.accounting().sample.tsc;
            thread.accounting().pass(queued + 1000);
            thread.0.wake(planned, planned + queued + 1000)
        };
        assert_eq!(sleep(40 * MS, 5 * MS), Class::ScheduledOut);
        // Late, but not for want of a CPU.
        assert_eq!(sleep(40 * MS, 0), Class::Unknown);
        // And what was waited for once is not waited for again.
        assert_eq!(sleep(40 * MS, 400), Class::Unknown);
        assert_eq!(thread.gap(&[Lost(9 * MS)]), Class::Host, "recorded: {recorded}");
    }
}

#[test]
fn what_interrupts_the_look_after_a_wake_up_is_judged_by_itself() {
    for recorded in [false, true] {
        let mut thread = Thread::new(true, Some(false), recorded);
        thread.0.pause();
        thread.accounting().off(40 * MS, false);
        let awake = thread.accounting().sample.tsc;
        // Switched out after that reading of the counter, and before the kernel answers.
        thread.accounting().off(5 * MS, true);
        thread.0.wake(awake - 1, awake);
        // Whoever asked about a later moment would have been told of it, and forgotten it.
        assert_eq!(thread.accounting().asked, (awake, awake));
        let again = thread.accounting().sample.tsc;
        if let Some(records) = &mut thread.accounting().records {
            *records = Recorded { off_ticks: 5 * MS, arrived_tsc: again };
        }
        thread.accounting().pass(COST.sample_ticks);
        // The accounting that was read after it tells nothing of it.
        let right = if recorded { Class::ScheduledOut } else { Class::Unknown };
        assert_eq!(thread.0.classify(awake, again), right, "recorded: {recorded}");
        assert_eq!(thread.gap(&[Off(9 * MS)]), Class::ScheduledOut, "recorded: {recorded}");
    }
}

#[test]
fn whoever_may_have_been_blocked_may_have_been_off() {
    let mut thread = Thread::new(true, Some(false), false);
    thread.accounting().sample.blocked = None;
    thread.0.begin();
    assert_eq!(thread.gap(&[Stopped(50 * MS)]), Class::Unknown);
}

/// A sample is a system call: only at gaps, and at most one in so much time of interruptions.
#[test]
fn interruptions_that_are_no_gaps_cost_no_look() {
    for (recorded, most) in [(true, 1), (false, 1 + 1000 * 3 / 50)] {
        let mut thread = Thread::new(false, None, recorded);
        thread.accounting().samples = 0;
        for _ in 0..1000 {
            thread.short(&[Ran(3_000)]);
        }
        assert!(thread.accounting().samples <= most, "{} samples", thread.accounting().samples);
        thread.gap(&[Off(MS)]);
        assert!(thread.accounting().samples <= most + 1);
    }
}

#[test]
fn what_is_too_short_is_not_judged() {
    let mut thread = Thread::new(false, None, false);
    thread.accounting().samples = 0;
    assert_eq!(thread.0.classify(100, 101), Class::Unknown);
    assert_eq!(thread.accounting().samples, 0);
    // A slow machine: a turn of 1 µs is no interruption, nor are a few of them.
    let slow = |iteration_ticks, sample_ticks| {
        let cost = Cost { iteration_ticks, sample_ticks };
        Evidence::new(Script::default(), KHZ, cost, Facts::default())
    };
    assert_eq!(slow(1_000, 0).notice_ticks(), 16_000);
    // A sample of 5 µs is no interruption either.
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

/// No accounting at all, but records.
#[test]
fn records_alone_tell_the_schedulers_part() {
    struct Blind(u64);
    impl ThreadAccounting for Blind {
        fn switches(&mut self, _begin: u64, end: u64) -> Option<Recorded> {
            Some(Recorded { off_ticks: self.0, arrived_tsc: end })
        }
        fn sample(&mut self) -> Option<Sample> {
            None
        }
    }
    let classify = |off| {
        let mut evidence = Evidence::new(Blind(off), KHZ, COST, Facts::default());
        evidence.begin();
        evidence.classify(0, 10 * MS)
    };
    assert_eq!((classify(10 * MS), classify(MS)), (Class::ScheduledOut, Class::Unknown));
}
