// SPDX-License-Identifier: Apache-2.0
//! The load from its release to its report.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use gaps::record::GapRecord;
use gaps::span::Span;
use gaps::tsc::{self, Anchor, Choice, Sources, bracket, clock_ns, ns_to_ticks};
use protocol::duration::as_ns;
use protocol::frame::{MAX_RECORDS_PER_FRAME, MAX_SPANS_PER_FRAME};
use protocol::job::LoadSpec;
use protocol::message::{Gap, ThresholdHit, Tick};
use protocol::report::{GroupReport, LoadReport, ThreadReport, TscReport};

use crate::error::LoadError;
use crate::group_processes::{ENDED, Groups, POLL_INTERVAL, those_not};
use crate::kernel::accounting::{self, ThreadAccount};
use crate::kernel::futex;
use crate::observer::Observer;
use crate::shared_memory::Shared;
use crate::slots::{SpanCell, State, ThreadSlot};

/// Between the release and the first burst: all threads fall asleep again meanwhile, and
/// begin together.
const LEAD: Duration = Duration::from_millis(50);

/// Records handed on in one second: 6 MiB on the wire. What is above waits for the next
/// second, or for the end.
const RECORDS_PER_SECOND: usize = 1 << 18;

/// The load while it runs.
pub struct Watch<'a> {
    spec: &'a LoadSpec,
    shared: &'a Shared,
    choice: Choice,
    begin: Anchor,
    start_ns: u64,
    second: u32,
    /// Records handed on so far, by thread.
    sent: Vec<usize>,
    hit_told: bool,
    tsc_end: u64,
    /// When the kernel's accounting was read behind the warm-up.
    accounted_from_tsc: Option<u64>,
    /// What it said of each thread then.
    at_warmup: Vec<ThreadAccount>,
    slope_khz: Option<f64>,
    accounts: Accounts<'a>,
    /// What the kernel's accounting said of each thread at the hit.
    at_hit: Vec<ThreadAccount>,
}

/// What the kernel's accounting says of each group.
pub struct Accounts<'a> {
    /// For each group, the `cgroup.procs` files it entered; the cpu controller's is first.
    cgroups: &'a [Vec<PathBuf>],
    schedstats: bool,
    before: Vec<GroupReport>,
    added: Vec<GroupReport>,
}

impl<'a> Accounts<'a> {
    /// Opens the files of the accounting.
    pub fn open(cgroups: &'a [Vec<PathBuf>]) -> Self {
        let schedstats = accounting::schedstats_on();
        let mut this = Self { cgroups, schedstats, before: Vec::new(), added: Vec::new() };
        this.before = this.read();
        this
    }

    fn read(&self) -> Vec<GroupReport> {
        self.cgroups
            .iter()
            .map(|procs| match procs.first().and_then(|procs| procs.parent()) {
                Some(directory) => accounting::cpu_stat(directory, self.schedstats),
                None => GroupReport::default(),
            })
            .collect()
    }

    fn close(&mut self) {
        let pairs = self.read().into_iter().zip(&self.before);
        self.added = pairs.map(|(after, before)| after.since(*before)).collect();
    }
}

impl<'a> Watch<'a> {
    /// Opens the barrier.
    pub fn release(
        spec: &'a LoadSpec,
        shared: &'a Shared,
        choice: Choice,
        accounts: Accounts<'a>,
        observer: &mut dyn Observer,
    ) -> Result<Self, LoadError> {
        let begin = Anchor::now();
        let (tsc, now_ns) = bracket(libc::CLOCK_MONOTONIC);
        let start_ns = now_ns + as_ns(LEAD);
        let start_tsc = tsc.wrapping_add(ns_to_ticks(as_ns(LEAD), choice.khz));
        let gate = &shared.control().gate;
        gate.start_ns.store(start_ns, Relaxed);
        gate.start_tsc.store(start_tsc, Relaxed);
        gate.open.store(1, Release);
        futex::wake_all(&gate.open);
        observer.released(start_tsc)?;
        Ok(Self {
            spec,
            shared,
            choice,
            begin,
            start_ns,
            second: 0,
            sent: vec![0; shared.threads().len()],
            hit_told: false,
            tsc_end: start_tsc,
            accounted_from_tsc: None,
            at_warmup: Vec::new(),
            slope_khz: None,
            accounts,
            at_hit: Vec::new(),
        })
    }

    /// Watches until all threads have ended by themselves, or have been told to.
    pub fn until_end(
        &mut self,
        groups: &mut Groups,
        observer: &mut dyn Observer,
    ) -> Result<(), LoadError> {
        let control = self.shared.control();
        let deadline_ns = self.start_ns.saturating_add(as_ns(self.spec.duration));
        let warm_ns = self.start_ns.saturating_add(as_ns(self.spec.warmup));
        let mut warm = self.spec.warmup.is_zero();
        loop {
            let seen = control.events.load(Acquire);
            groups.check(self.spec, self.shared)?;
            let stopped = control.stop.load(Relaxed) != 0 || observer.stop_requested();
            if stopped {
                return Ok(());
            }
            let now_ns = clock_ns(libc::CLOCK_MONOTONIC);
            if !warm && now_ns >= warm_ns {
                self.account_again();
                warm = true;
            }
            let next_tick_ns = self.start_ns + u64::from(self.second + 1) * 1_000_000_000;
            // Before the deadline: the last second of a run ends with it.
            if now_ns >= next_tick_ns {
                self.tick(observer)?;
                continue;
            }
            if now_ns >= deadline_ns {
                return Ok(());
            }
            let mut wake_ns = next_tick_ns.min(deadline_ns).min(now_ns + as_ns(POLL_INTERVAL));
            if !warm {
                wake_ns = wake_ns.min(warm_ns);
            }
            futex::wait(&control.events, seen, wake_ns);
        }
    }

    /// Ends the load, waits for its threads, and hands on what is left.
    pub fn end(
        &mut self,
        groups: &mut Groups,
        observer: &mut dyn Observer,
    ) -> Result<(), LoadError> {
        let control = self.shared.control();
        control.stop();
        self.read_accounting();
        let told = self.tell_hit(observer);
        let deadline = Instant::now() + ENDED;
        let ended = loop {
            let seen = control.events.load(Acquire);
            // A group that has died does not keep the others from telling what they had.
            let died = groups.check(self.spec, self.shared);
            let gone = groups.gone();
            let who = those_not(State::Done, self.spec, self.shared, &gone);
            if who.is_empty() {
                break died;
            }
            if Instant::now() >= deadline {
                break died.and(Err(LoadError::NotEnded { who, deadline: ENDED }));
            }
            futex::wait(
                &control.events,
                seen,
                clock_ns(libc::CLOCK_MONOTONIC) + as_ns(POLL_INTERVAL),
            );
        };
        self.slope_khz = self.begin.slope_khz(&Anchor::now());
        // Told again: the hit may have been published while the load was ending.
        let told = told.and_then(|()| self.tell_hit(observer));
        let sent = self.send(observer, usize::MAX).and_then(|()| self.send_demand(observer));
        ended.and(told).and(sent.map_err(LoadError::Observer))
    }

    /// Behind the warm-up, what only the kernel's accounting has is counted from now on.
    fn account_again(&mut self) {
        self.accounts.before = self.accounts.read();
        let threads = self.shared.threads();
        self.at_warmup =
            threads.iter().map(|slot| ThreadAccount::of(slot.tid.load(Relaxed))).collect();
        self.accounted_from_tsc = Some(tsc::read().tsc);
    }

    /// First of all, for the kernel's accounting goes on while the threads end, which takes long
    /// where they are starved.
    fn read_accounting(&mut self) {
        self.tsc_end = tsc::read().tsc;
        self.accounts.close();
        if self.shared.control().hit_tsc().is_some() {
            self.at_hit = self
                .shared
                .threads()
                .iter()
                .map(|slot| {
                    ThreadAccount::of(slot.tid.load(Relaxed)).since(slot.account_before.load())
                })
                .collect();
        }
    }

    fn tell_hit(&mut self, observer: &mut dyn Observer) -> Result<(), LoadError> {
        let hit = &self.shared.control().hit;
        if self.hit_told || hit.published.load(Acquire) == 0 {
            return Ok(());
        }
        self.hit_told = true;
        let thread = hit.thread.load(Relaxed);
        let slot = self.shared.threads().get(thread as usize);
        let tid = slot.map_or(0, |slot| slot.tid.load(Relaxed));
        let gap = Gap { thread, record: hit.record.load() };
        Ok(observer.hit(ThresholdHit { tid, gap })?)
    }

    fn tick(&mut self, observer: &mut dyn Observer) -> Result<(), LoadError> {
        self.second += 1;
        let threads = self.shared.threads();
        // One that has just ended with the last second was there in it.
        let online = threads
            .iter()
            .filter(|thread| matches!(thread.state(), State::Running | State::Done))
            .count();
        let longest = (0..)
            .zip(threads)
            .filter_map(|(thread, slot)| Some(Gap { thread, record: slot.tally.close_window()? }))
            .max_by_key(|gap| gap.record.ticks());
        self.send(observer, RECORDS_PER_SECOND)?;
        let online = u32::try_from(online).unwrap_or(u32::MAX);
        Ok(observer.tick(Tick { second: self.second, online, longest })?)
    }

    /// Hands on new records of all threads, at most so many.
    fn send(&mut self, observer: &mut dyn Observer, most: usize) -> io::Result<()> {
        let mut left = most;
        for ((thread, slot), sent) in (0..).zip(self.shared.threads()).zip(&mut self.sent) {
            let cells = self.shared.records(thread as usize);
            while left > 0 {
                let room = left.min(MAX_RECORDS_PER_FRAME);
                let records: Vec<GapRecord> = slot.tally.records(cells, *sent).take(room).collect();
                if records.is_empty() {
                    break;
                }
                observer.gaps(thread, &records)?;
                *sent += records.len();
                left -= records.len();
            }
        }
        Ok(())
    }

    /// Hands on when each thread wanted to run.
    fn send_demand(&self, observer: &mut dyn Observer) -> io::Result<()> {
        for (thread, slot) in (0..).zip(self.shared.threads()) {
            let count = slot.spans.load(Acquire) as usize;
            let cells = self.shared.spans(thread as usize).iter().take(count);
            let spans: Vec<Span> = cells.map(SpanCell::load).collect();
            let mut pieces = spans.chunks(MAX_SPANS_PER_FRAME);
            pieces.try_for_each(|piece| observer.demand(thread, piece))?;
        }
        Ok(())
    }

    pub fn report(&self, known: Sources) -> LoadReport {
        let sources = Sources { slope_khz: self.slope_khz.or(known.slope_khz), ..known };
        LoadReport {
            tsc_end: self.tsc_end,
            accounted_from_tsc: self.accounted_from_tsc,
            tsc: TscReport::new(self.choice, &sources),
            threads: (0..)
                .zip(self.shared.threads())
                .map(|(index, slot): (usize, _)| {
                    let at_hit = self.at_hit.get(index).copied().unwrap_or_default();
                    report_thread(slot, at_hit, self.at_warmup.get(index).copied())
                })
                .collect(),
            meter: None,
            noise_after: None,
            groups: self.accounts.added.clone(),
        }
    }
}

fn report_thread(
    slot: &ThreadSlot,
    at_hit: ThreadAccount,
    at_warmup: Option<ThreadAccount>,
) -> ThreadReport {
    let account = slot.account.load().with_waits_of(at_hit);
    let in_warmup = at_warmup.map(|account| account.since(slot.account_before.load()));
    let account = account.without_force_idle_of(in_warmup.unwrap_or_default());
    let affinity_end = slot.affinity_end.load();
    ThreadReport {
        unfinished: slot.state() != State::Done,
        tid: slot.tid.load(Relaxed),
        gaps: slot.tally.gaps(),
        gaps_unrecorded: slot.tally.unrecorded(),
        gap_ticks: slot.tally.gap_ticks(),
        warmup: slot.tally.warmup(),
        longest: slot.tally.longest(),
        classes: slot.tally.classes(),
        gap_histogram_ns: slot.tally.histogram_ns().buckets().collect(),
        iterations: slot.tally.iterations(),
        busy_ticks: slot.busy_ticks.load(Relaxed),
        bursts: slot.bursts.load(Relaxed),
        backwards: slot.tally.backwards(),
        wakeup_histogram_ns: slot.wakeup_ns.buckets().collect(),
        wakeup_longest_ns: slot.wakeup_longest_ns.load(Relaxed),
        wakeup_due_ns: slot.wakeup_due_ns.load(Relaxed),
        cpu_time_ns: slot.cpu_time_ns.load(Relaxed),
        run_ns: account.run_ns,
        run_delay_ns: account.delay_ns,
        force_idle_ns: account.force_idle_ns,
        affinity_end: (!affinity_end.is_empty()).then(|| affinity_end.to_string()),
    }
}
