// SPDX-License-Identifier: Apache-2.0
//! The host's own evidence: when its kernel had a vCPU's thread off its CPUs, and what that says
//! of the guest's gaps. The guest cannot see its host, so where the two contradict each other the
//! host is right. docs/method.md has the rules and why.

mod indirect;
mod timeline;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gaps::evidence::Class;
use gaps::record::{GapKind, GapRecord};
use gaps::tally::ClassTotal;
use protocol::group::GroupSpec;
use protocol::job::LoadSpec;
use protocol::report::ThreadReport;
use results::model;
use vmm::vm::Running;

use self::indirect::{HostGaps, Sharing};
use self::timeline::{Taken, VcpuTimeline};
use self::watch::Watch;
use crate::session::{HostPart, HostTime, Session};

/// So many vCPUs are watched at most: each takes locked memory, of which a user without rights
/// has little (`kernel.perf_event_mlock_kb`).
const MAX_VCPUS: usize = 16;
/// Interval at which the kernel's records are taken while the run goes on.
const PERIOD: Duration = Duration::from_millis(50);
/// Gaps from this length on are compared with the host's accounts of waiting and halting, which are
/// read once a period: in less time they cannot tell one wait from all the others.
const LONG: Duration = Duration::from_millis(20);

/// The host's records of when it took a vCPU, and the guest's reading before it, are so far apart at
/// most: times on two clocks, an iteration of the meter's loop, an exit.
const BEGIN_SLACK: Duration = Duration::from_micros(20);

/// What the host's kernel says of the vCPUs that the load runs on.
#[derive(Debug)]
pub struct HostEvidence {
    watched: BTreeMap<u32, (Watch, VcpuTimeline)>,
    /// Why there is none, or not of all vCPUs.
    note: Option<String>,
    long_ticks: u64,
    looked: Instant,
    /// Of each thread, how many of its records were judged.
    judged: Vec<usize>,
    moved: Vec<Moved>,
    /// Gaps whose time the vCPU's timeline does not cover.
    not_covered: u64,
    /// Every vCPU that the load runs on is watched.
    whole: bool,
    /// From this length on it is worked out what the host took of a gap.
    asked_ticks: u64,
    /// Of each thread, the length of the longest gap so far.
    longest: Vec<u64>,
    /// Gaps that the guest calls the host's.
    host_gaps: HostGaps,
    /// How the load's threads share their CPUs; `None` where nobody asks what is the host's.
    sharing: Option<Sharing>,
    /// The gaps are those of machines in the guest.
    machines: Option<Machines>,
}

/// Machines in the guest, whose gaps are judged: their CPUs are none of its vCPUs, what they call
/// their host's is the guest's, and that is what is measured.
#[derive(Clone, Copy, Debug)]
struct Machines {
    /// A gap may have been so much earlier or later than its record says, in ticks.
    slack_ticks: u64,
}

/// Gaps of a thread that changed their class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moved {
    thread: usize,
    from: Class,
    to: Class,
    gaps: u64,
    gap_ticks: u64,
}

impl HostEvidence {
    /// None, and why, if somebody misses it.
    pub fn none(why: Option<&str>) -> Self {
        Self {
            watched: BTreeMap::new(),
            note: why.map(str::to_owned),
            long_ticks: u64::MAX,
            looked: Instant::now(),
            judged: Vec::new(),
            moved: Vec::new(),
            not_covered: 0,
            whole: false,
            asked_ticks: u64::MAX,
            longest: Vec::new(),
            host_gaps: HostGaps::default(),
            sharing: None,
            machines: None,
        }
    }

    /// The same where the gaps are those of machines in the guest, and were so much earlier or later
    /// than their records say, at most.
    pub fn of_machines(self, slack: Duration, khz: u64) -> Self {
        Self { machines: Some(Machines { slack_ticks: ticks(slack, khz) }), ..self }
    }

    /// Watches, from now on, those vCPUs that the load runs on. A host that does not let us is no
    /// failure: [`HostEvidence::note`] tells.
    pub fn of(running: &Running, load: &LoadSpec, khz: u64) -> Self {
        let cpus = &load.cpus;
        let mut watched = BTreeMap::new();
        let mut note = None;
        for &cpu in cpus {
            let Some(thread) = running.threads().get(cpu as usize) else { continue };
            if watched.len() == MAX_VCPUS {
                note = Some(format!("only the first {MAX_VCPUS} vCPUs of the load are watched"));
                break;
            }
            match Watch::start(thread.tid, running.halt_clock(cpu).ok()) {
                Ok(watch) => drop(watched.insert(cpu, (watch, VcpuTimeline::new(watch::now())))),
                Err(error) => {
                    note = Some(error);
                    break;
                }
            }
        }
        let long_ticks = ticks(LONG, khz);
        let whole = !cpus.is_empty() && cpus.iter().all(|cpu| watched.contains_key(cpu));
        let asked_ticks = load.threshold.map_or(u64::MAX, |threshold| ticks(threshold, khz));
        let sharing = Some(sharing(load, khz));
        Self { watched, note, long_ticks, whole, asked_ticks, sharing, ..Self::none(None) }
    }

    /// Remark for the reader of the result.
    pub fn note(&self) -> Option<String> {
        let why = self.note.as_ref()?;
        Some(format!("a gap that the host made may be called the guest's: {why}"))
    }

    /// Takes what the kernel has recorded, if it is time.
    pub fn sample(&mut self) {
        if self.looked.elapsed() >= PERIOD {
            self.take();
        }
    }

    fn take(&mut self) {
        self.looked = Instant::now();
        for (watch, timeline) in self.watched.values_mut() {
            watch.take(timeline);
        }
    }

    /// Judges the records that are new.
    pub fn judge(&mut self, session: &mut Session) {
        if self.watched.is_empty() && self.sharing.is_none() {
            // Nobody asks.
            return;
        }
        self.take();
        let (gaps, parts) = (&mut session.gaps, &mut session.host_parts);
        self.judged.resize(gaps.len(), 0);
        self.longest.resize(gaps.len(), 0);
        // What a vCPU that is away now was away for is known when it is back.
        let all_there = !self.watched.values().any(|(_, timeline)| timeline.is_away());
        for (thread, records) in gaps.iter_mut().enumerate() {
            let from = std::mem::replace(&mut self.judged[thread], records.len());
            for record in &mut records[from..] {
                if self.machines.is_none() {
                    // By the guest's own class; whoever asks for a gap asks for one of these.
                    self.host_gaps.add(thread, record);
                }
                let ticks = record.ticks();
                let asked = ticks > self.longest[thread] || ticks >= self.asked_ticks;
                if asked && !record.warmup {
                    self.longest[thread] = ticks.max(self.longest[thread]);
                    let time = all_there.then(|| self.host_time(record));
                    parts.insert(HostPart { thread, gap: *record, time });
                }
                let to = self.class_of(record);
                if to != record.class {
                    if !record.warmup {
                        // Those are in no report.
                        self.count(thread, record, to);
                    }
                    record.class = to;
                }
            }
        }
    }

    fn count(&mut self, thread: usize, record: &GapRecord, to: Class) {
        let from = record.class;
        if let Some(moved) = self
            .moved
            .iter_mut()
            .find(|moved| (moved.thread, moved.from, moved.to) == (thread, from, to))
        {
            moved.gaps += 1;
            moved.gap_ticks = moved.gap_ticks.saturating_add(record.ticks());
            return;
        }
        self.moved.push(Moved { thread, from, to, gaps: 1, gap_ticks: record.ticks() });
    }

    /// What the host took of this gap, by its own records.
    fn host_time(&self, record: &GapRecord) -> HostTime {
        let most = self.most_taken(record);
        let (begin, end) = self.time_of(record);
        let each = self.watched.values();
        let known = each.map(|(_, it)| it.surely_taken(begin, end));
        let known = known.fold(0, u64::saturating_add).min(record.ticks());
        HostTime { known, most: most.map(|most| most.max(known)) }
    }

    /// What gaps are longer by for what the host did to others meanwhile, or to their own thread
    /// before.
    fn add_indirect(&self, session: &mut Session) {
        let settled = self.host_gaps.settled(|cpu, (begin, end)| {
            self.watched.get(&cpu).map_or(0, |(_, timeline)| {
                let most = timeline.most_taken(begin, end);
                most.unwrap_or_else(|| timeline.surely_taken(begin, end))
            })
        });
        for HostPart { thread, gap, time } in session.host_parts.each() {
            let direct = time.unwrap_or_else(|| self.host_time(gap));
            let Some(sharing) = self.sharing else {
                *time = Some(direct);
                continue;
            };
            let meanwhile = settled.meanwhile(gap);
            let debt = settled.debt(*thread, gap, self.preempted_at(gap, sharing.khz), sharing);
            // One without a bound can be anything, and tells nothing.
            let (told_debt, most_debt) = (debt.unwrap_or(0), debt.unwrap_or(u64::MAX));
            let known = longer(direct.known, [meanwhile, told_debt], gap);
            let most = direct.most.map(|most| longer(most, [meanwhile, most_debt], gap));
            *time = Some(HostTime { known, most });
        }
    }

    /// For how long the host ran something else as the gap began: its thread ran until then, as the
    /// guest sees it.
    fn preempted_at(&self, gap: &GapRecord, khz: u64) -> u64 {
        let slack_ticks = ticks(BEGIN_SLACK, khz);
        let preempted = |(_, it): &(Watch, VcpuTimeline)| {
            let (begin, end) = self.time_of(gap);
            it.preempted_at(begin, end, slack_ticks.saturating_add(begin.abs_diff(gap.tsc_begin)))
        };
        match self.machines {
            _ if gap.kind != GapKind::Preemption => 0,
            // On which vCPU a machine's thread ran, nobody has told.
            Some(_) => self.watched.values().map(preempted).max().unwrap_or(0),
            None if gap.class == Class::Host => 0,
            None => self.watched.get(&gap.cpu_begin).map_or(0, preempted),
        }
    }

    /// From when to when this gap was, at the earliest and at the latest.
    fn time_of(&self, record: &GapRecord) -> (u64, u64) {
        let slack = self.machines.map_or(0, |machines| machines.slack_ticks);
        (record.tsc_begin.saturating_sub(slack), record.tsc_end.saturating_add(slack))
    }

    /// The most that the host can have taken of this gap, in ticks. Whichever vCPU of the load it
    /// took: who runs there may be what the gap's thread waits for.
    fn most_taken(&self, record: &GapRecord) -> Option<u64> {
        let on = [record.cpu_begin, record.cpu_end];
        let is_own = self.machines.is_none();
        if !self.whole || is_own && on.iter().any(|cpu| !self.watched.contains_key(cpu)) {
            return None;
        }
        if is_own && record.class == Class::Host {
            // The guest had its thread on the CPU and knows of nothing that it did there: that is
            // the host's, though it had the vCPU run, or the firmware's.
            return Some(record.ticks());
        }
        let (begin, end) = self.time_of(record);
        let each = self.watched.values();
        let sum = each.map(|(_, timeline)| timeline.most_taken(begin, end));
        let sum = sum.sum::<Option<u64>>()?;
        Some(sum.min(record.ticks()))
    }

    /// The class of this gap, by the guest's evidence and the host's.
    fn class_of(&mut self, record: &GapRecord) -> Class {
        if self.machines.is_some() {
            return record.class;
        }
        let (begin, end) = (record.tsc_begin, record.tsc_end);
        let on = [record.cpu_begin, record.cpu_end];
        let mut taken = None::<Taken>;
        for cpu in on {
            let Some((_, timeline)) = self.watched.get(&cpu) else { return record.class };
            let Some(found) = timeline.taken(begin, end) else {
                self.not_covered += 1;
                return record.class;
            };
            taken = Some(taken.map_or(found, |taken| taken.max(found)));
        }
        let taken = taken.unwrap_or_default();
        let long = record.ticks() >= self.long_ticks;
        let taken = if long { taken } else { Taken { late: 0, halted: None, ..taken } };
        let slept = record.kind == GapKind::WakeUp;
        let class = class(record.class, slept, record.ticks(), taken);
        if on[0] != on[1] && record.class == Class::ScheduledOut && class == Class::Host {
            // On which of the two CPUs it waited when, nobody knows.
            return Class::Unknown;
        }
        class
    }

    /// The rest of the records, and what the guest has told about all of them.
    pub fn settle(&mut self, session: &mut Session) {
        self.judge(session);
        let parts = &mut session.host_parts;
        // They have no records where the memory for these was full.
        if let Some(hit) = &session.hit {
            let (thread, gap) = (hit.gap.thread as usize, hit.gap.record);
            parts.insert(HostPart { thread, gap, time: None });
        }
        let reports = session.report.iter().flat_map(|report| &report.threads);
        for (thread, longest) in reports.map(|report| report.longest).enumerate() {
            if let Some(gap) = longest {
                parts.insert(HostPart { thread, gap, time: None });
            }
        }
        self.add_indirect(session);
        let gaps = &session.gaps;
        if let Some(hit) = &mut session.hit {
            take_judgement(hit.gap.thread as usize, &mut hit.gap.record, gaps);
        }
        let reports = session.report.iter_mut().flat_map(|report| &mut report.threads);
        for (thread, report) in reports.enumerate() {
            if let Some(longest) = &mut report.longest {
                take_judgement(thread, longest, gaps);
            }
            self.moved
                .iter()
                .filter(|moved| moved.thread == thread)
                .for_each(|moved| apply(moved, report));
        }
    }

    /// For the result.
    pub fn describe(&self) -> model::HostEvidence {
        let (gaps, ticks) = self.moved.iter().fold((0, 0u64), |(gaps, ticks), moved| {
            (gaps + moved.gaps, ticks.saturating_add(moved.gap_ticks))
        });
        model::HostEvidence {
            cpus: self.watched.keys().copied().collect(),
            note: self.note.clone(),
            reclassified_gaps: gaps,
            reclassified_ticks: ticks,
            gaps_not_covered: self.not_covered,
        }
    }
}

/// How the threads of a load share their CPUs.
fn sharing(load: &LoadSpec, khz: u64) -> Sharing {
    Sharing {
        others: load.threads().saturating_sub(1) as u64,
        equal: load.groups.iter().all(GroupSpec::is_ordinary)
            // Groups have equal weights, whatever is in them.
            && load.groups.windows(2).all(|pair| pair[0].threads == pair[1].threads),
        khz,
    }
}

/// So much of a gap, and this, but not more than all of it.
fn longer(ticks: u64, by: [u64; 2], gap: &GapRecord) -> u64 {
    by.into_iter().fold(ticks, u64::saturating_add).min(gap.ticks())
}

fn ticks(time: Duration, khz: u64) -> u64 {
    gaps::tsc::ns_to_ticks(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), khz)
}

/// Gives the record the class that the same gap has among those already judged.
fn take_judgement(thread: usize, record: &mut GapRecord, gaps: &[Vec<GapRecord>]) {
    if let Some(kept) = gaps
        .get(thread)
        .and_then(|gaps| gaps.iter().find(|kept| kept.tsc_begin == record.tsc_begin))
    {
        record.class = kept.class;
    }
}

/// Takes gaps from one class of a report to another. The guest's counts are as the guest says.
fn apply(moved: &Moved, report: &mut ThreadReport) {
    let classes = &mut report.classes;
    move_ticks(moved.from, u64::saturating_sub, classes, moved.gaps, moved.gap_ticks);
    move_ticks(moved.to, u64::saturating_add, classes, moved.gaps, moved.gap_ticks);
    classes.retain(|total| total.gaps > 0);
    classes.sort_by_key(|total| total.class as u32);
}

fn move_ticks(
    class: Class,
    with: fn(u64, u64) -> u64,
    classes: &mut Vec<ClassTotal>,
    moved_gaps: u64,
    moved_gap_ticks: u64,
) {
    let at = classes.iter().position(|total| total.class == class).unwrap_or_else(|| {
        classes.push(ClassTotal { class, gaps: 0, gap_ticks: 0 });
        classes.len() - 1
    });
    let total = &mut classes[at];
    total.gaps = with(total.gaps, moved_gaps);
    total.gap_ticks = with(total.gap_ticks, moved_gap_ticks);
}

/// The class of a gap of `length` ticks that the guest's evidence gave this class; `slept` says
/// that the thread had, before it.
fn class(guest: Class, slept: bool, length: u64, taken: Taken) -> Class {
    // The account is of more time than the gap's, and who waits to run is absent.
    let late = taken.late.min(taken.absent.saturating_sub(taken.preempted));
    match guest {
        // It was ready to run the guest, and the host ran something else.
        _ if is_most(taken.preempted, length) => Class::Host,
        // It cannot have halted for that long.
        _ if taken
            .halted
            .is_some_and(|halted| is_most(taken.absent.saturating_sub(halted), length)) =>
        {
            Class::Host
        }
        // It halts for the guest's reasons, and is late for the host's: some of each.
        Class::ScheduledOut if is_most(taken.preempted.saturating_add(late), length) => {
            Class::Unknown
        }
        Class::ScheduledOut => Class::ScheduledOut,
        // The guest never switched the thread out, so it had no reason to halt: the vCPU was
        // stopped, or waited for its memory. Where it had slept, the vCPU may have had nothing to
        // run.
        _ if !slept && is_most(taken.absent, length) => Class::Host,
        other => other,
    }
}

fn is_most(ticks: u64, length: u64) -> bool {
    ticks >= length / 2 && ticks > 0
}

#[cfg(test)]
mod tests;
