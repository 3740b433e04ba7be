// SPDX-License-Identifier: Apache-2.0
//! What a thread does from the load's start to its end: in a closed loop, a burst of a length and a
//! pause after it, again and again; in an open loop, work that comes at times of its own, whatever
//! has become of the work before it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use gaps::evidence::{Evidence, GapClassifier, ThreadAccounting};
use gaps::meter::{End, Meter, Rdtscp, Until};
use gaps::pauses::{Distribution, Pauses};
use gaps::tally::Tally;
use gaps::tsc::{self, Reading, clock_ns, earlier, ns_to_ticks, ticks_to_ns};
use protocol::duration::as_ns;
use protocol::group::{ArrivalSpec, GroupSpec, SleepSpec};

use crate::burst_account::{BurstAccount, Moment, Wakeup};
use crate::hit::HitPublisher;
use crate::kernel::futex;

/// How a thread came to the end of the load.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// For how long it ran after the gap that ended the load.
    pub ran_after_ns: u64,
    /// It sleeps until the load's end.
    pub asleep_until_ns: Option<u64>,
    /// What came and was not begun, in an open loop.
    pub missed: Option<Missed>,
}

impl Ended {
    fn after(ran_after_ns: u64) -> Self {
        Self { ran_after_ns, ..Self::default() }
    }
}

/// Work of an open loop that was not begun when the figures ended: by its times on
/// CLOCK_MONOTONIC.
#[derive(Clone, Debug)]
pub struct Missed {
    /// When the first of it came, or would have come.
    first_ns: u64,
    /// None of it came from here on.
    until_ns: u64,
    /// From each to the next.
    distances: Pauses,
}

impl Missed {
    /// Accounts for it, when the thread's CPU time has been read: there may be much of it.
    pub fn account(mut self, account: BurstAccount<'_>) {
        let mut due_ns = self.first_ns;
        if self.until_ns <= account.from.ns {
            return;
        }
        while due_ns < self.until_ns {
            account.late_ns(self.until_ns.saturating_sub(due_ns.max(account.from.ns)));
            due_ns = due_ns.saturating_add(self.distances.next_ns());
        }
    }
}

/// One thread's bursts.
pub struct Bursts<'a> {
    /// What they are like.
    pub group: &'a GroupSpec,
    /// For how long it only yields, at first.
    pub yielding: Duration,
    /// Seed of the load.
    pub seed: u64,
    /// Measures them.
    pub meter: Meter<'a>,
    /// Accounts for them.
    pub account: BurstAccount<'a>,
    /// Ends the load at a gap over the threshold.
    pub publisher: HitPublisher<'a>,
    /// When the load begins.
    pub start: Moment,
    /// When it ends.
    pub end: Moment,
}

/// A thread that has slept.
struct Woken {
    wakeup: Wakeup,
    /// When it was to wake up, on CLOCK_MONOTONIC.
    planned_ns: u64,
    then: Then,
}

/// What it is to do.
#[derive(Clone, Copy)]
enum Then {
    /// To work, metered from here on.
    Work(Reading),
    /// Nothing: its wait ended the load. It has run for so long since.
    Hit { ran_after_ns: u64 },
    /// Nothing: the load has ended.
    Stop,
}

/// How a busy period of an open loop ended.
struct Served {
    why: End,
    last: Reading,
    /// Pieces of work that were finished.
    pieces: u64,
    /// When the first piece of which nothing has been done was, or is, to come.
    next_ns: u64,
}

impl Bursts<'_> {
    /// All of them.
    pub fn run<A: ThreadAccounting>(&self, evidence: &mut Evidence<A>) -> Ended {
        let yielding_ns = as_ns(self.yielding);
        if yielding_ns > 0 {
            self.yield_from_start();
        }
        match self.group.arrival {
            // It goes on when it has the CPU again.
            None if yielding_ns > 0 => self.closed_loop(evidence, clock_ns(libc::CLOCK_MONOTONIC)),
            None => self.closed_loop(evidence, self.start.ns),
            Some(arrival) => {
                self.open_loop(evidence, arrival, self.start.ns.saturating_add(yielding_ns))
            }
        }
    }

    fn closed_loop<A: ThreadAccounting>(&self, evidence: &mut Evidence<A>, first_ns: u64) -> Ended {
        let mut pauses = self.draws(distribution(self.group.sleep));
        let mut wake_ns = first_ns;
        while wake_ns < self.end.ns {
            let Woken { wakeup, then, .. } = self.wake(evidence, wake_ns);
            let from = match then {
                Then::Work(from) => from,
                Then::Hit { ran_after_ns } => return Ended::after(ran_after_ns),
                Then::Stop => return Ended::default(),
            };
            // The burst is counted from the plan: waking up late costs busy time, as it would
            // cost a real machine, and the delay is not hidden by starting over.
            let planned_end = wakeup.planned_tsc.wrapping_add(self.ticks(self.group.busy));
            let until = earlier(planned_end, self.end.tsc);
            let (why, last) = self.burst(evidence, from, until);
            let ran_after_ns = self.account.burst(&wakeup, last.tsc, why);
            match why {
                End::Hit(_) | End::Stopped => return Ended::after(ran_after_ns),
                End::Deadline if until == self.end.tsc => return Ended::after(ran_after_ns),
                End::Deadline => {}
            }
            wake_ns = clock_ns(libc::CLOCK_MONOTONIC).saturating_add(pauses.next_ns());
        }
        self.asleep_at_the_end()
    }

    fn open_loop<A: ThreadAccounting>(
        &self,
        evidence: &mut Evidence<A>,
        arrival: ArrivalSpec,
        first_ns: u64,
    ) -> Ended {
        let mut distances = self.draws(distances(arrival));
        let mut due_ns = first_ns.saturating_add(match arrival {
            // Periods of many threads are not in step.
            ArrivalSpec::Periodic(period) => {
                let phase = Distribution::Uniform { min_ns: 0, max_ns: as_ns(period) };
                self.draws(phase).next_ns()
            }
            ArrivalSpec::Poisson(_) => distances.next_ns(),
        });
        while due_ns < self.end.ns {
            let woken = self.wake(evidence, due_ns);
            let from = match woken.then {
                Then::Work(from) => from,
                Then::Hit { ran_after_ns } => {
                    let began = self.account.begins_in_time(&woken.wakeup);
                    // It has its entry then.
                    let first_ns = if began { due_ns + distances.next_ns() } else { due_ns };
                    let missed = self.missed(&woken, first_ns, distances);
                    return Ended { missed, ..Ended::after(ran_after_ns) };
                }
                Then::Stop => {
                    let missed = self.missed(&woken, due_ns, distances);
                    return Ended { missed, ..Ended::default() };
                }
            };
            let served = self.serve(evidence, &woken, from, &mut distances);
            let began = self.account.begins_in_time(&woken.wakeup);
            let ran_after_ns = self.account.burst(&woken.wakeup, served.last.tsc, served.why);
            if served.why != End::Deadline {
                self.account.add_bursts(served.pieces);
                let first_ns = if began { served.next_ns } else { due_ns };
                let missed = self.missed(&woken, first_ns, distances);
                return Ended { missed, ..Ended::after(ran_after_ns) };
            }
            // The account has one of them.
            self.account.add_bursts(served.pieces.saturating_sub(1));
            due_ns = served.next_ns;
        }
        self.asleep_at_the_end()
    }

    /// Works until nothing is left to do: on what it was woken for, and on all that comes meanwhile,
    /// piece by piece. A piece is so much time of a CPU, so gaps make it take longer.
    fn serve<A: ThreadAccounting>(
        &self,
        evidence: &mut Evidence<A>,
        woken: &Woken,
        from: Reading,
        distances: &mut Pauses,
    ) -> Served {
        let tally = &self.account.slot.tally;
        let (mut last, mut next_ns, mut pieces) = (from, woken.planned_ns, 0);
        loop {
            next_ns = next_ns.saturating_add(distances.next_ns());
            let mut left_ticks = self.ticks(self.group.busy);
            while left_ticks > 0 {
                let (from, lost_before) = (last, lost_ticks(tally));
                let until = earlier(from.tsc.wrapping_add(left_ticks), self.end.tsc);
                let (why, now) = self.burst(evidence, from, until);
                last = now;
                if why != End::Deadline {
                    return Served { why, last, pieces, next_ns };
                }
                // Another thread's hit, of which this one has not been told yet.
                if until == self.end.tsc || self.account.control.hit_tsc().is_some() {
                    return Served { why: End::Stopped, last, pieces, next_ns };
                }
                let lost_ticks = lost_ticks(tally).wrapping_sub(lost_before);
                let ran_ticks = last.tsc.wrapping_sub(from.tsc).saturating_sub(lost_ticks);
                left_ticks = left_ticks.saturating_sub(ran_ticks.max(1));
            }
            if self.account.counts(last.tsc) {
                pieces += 1;
            }
            let due_tsc = self.tsc_of(next_ns, woken);
            if next_ns >= self.end.ns || earlier(last.tsc, due_tsc) == last.tsc {
                return Served { why: End::Deadline, last, pieces, next_ns };
            }
            self.account.late(due_tsc, last.tsc);
        }
    }

    /// Work from this moment on, as far as it had come when the figures ended: now, at the load's
    /// end, or with the gap that ended it.
    fn missed(&self, woken: &Woken, first_ns: u64, distances: Pauses) -> Option<Missed> {
        let now_tsc = earlier(tsc::read().tsc, self.end.tsc);
        let hit_tsc = self.account.control.hit_tsc();
        let until_tsc = hit_tsc.map_or(now_tsc, |hit_tsc| earlier(hit_tsc, now_tsc));
        let Woken { wakeup, planned_ns, .. } = woken;
        if wakeup.delay_ns == 0 || earlier(until_tsc, wakeup.planned_tsc) == until_tsc {
            // Stopped before any of it came.
            return None;
        }
        let since_ns = ticks_to_ns(until_tsc.wrapping_sub(wakeup.planned_tsc), self.account.khz);
        let until_ns = planned_ns.saturating_add(since_ns).min(self.end.ns);
        Some(Missed { first_ns, until_ns, distances })
    }

    /// Sleeps until this moment on CLOCK_MONOTONIC.
    fn wake<A: ThreadAccounting>(&self, evidence: &mut Evidence<A>, planned_ns: u64) -> Woken {
        evidence.pause();
        let stopped = futex::wait(&self.account.control.stop, 0, planned_ns);
        let wakeup = Wakeup::now(planned_ns, self.account.khz);
        let class = evidence.wake(wakeup.planned_tsc, wakeup.awake.tsc);
        if stopped {
            // Over the threshold or not: the load has ended.
            if let Some(due) = self.account.due(&wakeup, self.end.tsc, class) {
                self.meter.waited(due);
            }
            return Woken { wakeup, planned_ns, then: Then::Stop };
        }
        if let Some(record) = self.meter.waited(wakeup.gap_until(wakeup.awake.tsc, class)) {
            self.publisher.publish(record);
            let ran_after_ns = self.account.burst(&wakeup, tsc::read().tsc, End::Hit(record));
            return Woken { wakeup, planned_ns, then: Then::Hit { ran_after_ns } };
        }
        let from = self.meter.resume(&mut Rdtscp, wakeup.awake, evidence.own_ticks());
        Woken { wakeup, planned_ns, then: Then::Work(from) }
    }

    fn burst<A: ThreadAccounting>(
        &self,
        evidence: &mut Evidence<A>,
        from: Reading,
        until: u64,
    ) -> (End, Reading) {
        let stop = &self.account.control.stop;
        let (why, last) = self.meter.burst(&mut Rdtscp, evidence, from, Until { tsc: until, stop });
        if let End::Hit(record) = why {
            self.publisher.publish(record);
            return (why, tsc::read());
        }
        (why, last)
    }

    /// From the start on, gives the CPU away again and again; unmetered, for a thread that yields
    /// does not want to run.
    fn yield_from_start(&self) {
        let stop = &self.account.control.stop;
        let until_tsc = self.start.tsc.wrapping_add(self.ticks(self.yielding));
        let mut stopped = futex::wait(stop, 0, self.start.ns);
        while !stopped && earlier(tsc::read().tsc, until_tsc) != until_tsc {
            rustix::thread::sched_yield();
            stopped = stop.load(Relaxed) != 0;
        }
    }

    /// A moment on CLOCK_MONOTONIC as one on the TSC: from a wake-up not long ago, since the two
    /// clocks drift apart.
    fn tsc_of(&self, ns: u64, woken: &Woken) -> u64 {
        let since_ticks = ns_to_ticks(ns.saturating_sub(woken.planned_ns), self.account.khz);
        woken.wakeup.planned_tsc.wrapping_add(since_ticks)
    }

    fn draws(&self, distribution: Distribution) -> Pauses {
        Pauses::new(distribution, self.seed, self.publisher.index)
    }

    fn ticks(&self, time: Duration) -> u64 {
        ns_to_ticks(as_ns(time), self.account.khz)
    }

    fn asleep_at_the_end(&self) -> Ended {
        Ended { asleep_until_ns: Some(self.end.ns), ..Ended::default() }
    }
}

/// In gaps so far, of whichever time.
fn lost_ticks(tally: &Tally) -> u64 {
    tally.gap_ticks().wrapping_add(tally.warmup_ticks())
}

fn distribution(sleep: SleepSpec) -> Distribution {
    match sleep {
        SleepSpec::Uniform { min, max } => {
            Distribution::Uniform { min_ns: as_ns(min), max_ns: as_ns(max) }
        }
        SleepSpec::Fixed(pause) => Distribution::Fixed { ns: as_ns(pause) },
        SleepSpec::Exponential(mean) => Distribution::Exponential { mean_ns: as_ns(mean) },
    }
}

/// From one arrival to the next.
fn distances(arrival: ArrivalSpec) -> Distribution {
    match arrival {
        ArrivalSpec::Periodic(period) => Distribution::Fixed { ns: as_ns(period) },
        ArrivalSpec::Poisson(mean) => Distribution::Exponential { mean_ns: as_ns(mean) },
    }
}
