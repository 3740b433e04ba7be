// SPDX-License-Identifier: Apache-2.0
//! Figures of threads, groups and virtual machines, from what the guest has said.

use std::collections::BTreeMap;
use std::time::Instant;

use gaps::record::GapRecord;
use gaps::stats::share_within;
use protocol::index::GroupIndex;
use protocol::job::Job;
use protocol::report::ThreadReport;
use protocol::vm::VmStatus;
use results::clock::{Clock, Until};
use results::folder::Folder;
use results::model::{AfterHit, Group, LocatedGap, Phase, Stage, Statistics, Thread, VmResult};

use super::parted::{Parted, classes, clock_of, parted};
use crate::session::Session;
use crate::units::as_ns;

/// Virtual machines from what they said and what they measured; `tail` gives the end of a
/// console.
pub fn vms(
    session: &Session,
    groups: &[Group],
    threads: &[Thread],
    tail: impl Fn(u32) -> String,
) -> Vec<VmResult> {
    let both = session.vms.iter().zip(groups);
    both.map(|item| vm_result(item, &tail, threads)).collect()
}

fn vm_result(
    (status, group): (&VmStatus, &Group),
    tail: &impl Fn(u32) -> String,
    threads: &[Thread],
) -> VmResult {
    VmResult {
        gaps: group.gaps,
        longest_gap_ns: group.longest_gap_ns,
        longest_gap_by_vcpu_ns: threads
            .iter()
            .filter(|thread| thread.who.group == group.group.number())
            .map(|thread| thread.longest_gap_ns)
            .collect(),
        gap_share: group.gap_share,
        cpu_share: group.cpu_share,
        console: Folder::vm_log_name(status.vm),
        console_tail: status.fault.as_ref().map(|_| tail(status.vm)),
        status: status.clone(),
    }
}

/// Per-thread figures, up to where they end: from the report, or from the records that arrived.
pub fn threads(session: &Session, parted: &mut [Parted<'_>], clock: Clock<'_>) -> Vec<Thread> {
    let reports = session.report.as_ref().map(|report| report.threads.as_slice());
    let tids = session.setup.as_ref().map(|setup| &setup.tids);
    let members = clock.load().all_members();
    let mut told = told(session, clock.until());
    let each = parted.iter_mut().zip(members).enumerate().map(|(index, (parted, member))| {
        let report = reports.and_then(|reports| reports.get(index)).cloned();
        // The agent reports for all; of a machine that failed it has only the records.
        let report = report.filter(|_| session.has_reported(member.group));
        // Nor does a thread that died tell what it wanted, and had.
        let report = report.filter(|report| !report.unfinished);
        let complete = report.is_some();
        let mut report = report.unwrap_or_else(|| ThreadReport {
            tid: tids.and_then(|tids| tids.get(index)).copied().unwrap_or_default(),
            warmup: parted.warmup(),
            ..from_records(&parted.ended)
        });
        if complete {
            parted.cut(&mut report, clock);
        }
        let records = parted.ended.iter().copied();
        report.longest = records
            .chain(report.longest)
            .chain(told.remove(&index).into_iter().flatten())
            .max_by_key(GapRecord::ticks);
        let longest_gap_ns = report.longest.map_or(0, |gap| clock.ns(gap.ticks()));
        if complete {
            // What waits wants to run, at least as long.
            let waited = report.gap_ticks.saturating_add(parted.open_ticks());
            report.busy_ticks = report.busy_ticks.max(waited);
            bound(&mut report.gap_histogram_ns, longest_gap_ns);
            bound(&mut report.wakeup_histogram_ns, report.wakeup_longest_ns);
        }
        Thread {
            who: member.into(),
            gap_ns: clock.ns(report.gap_ticks),
            longest_gap_ns,
            complete,
            statistics: Statistics::default(),
            co_run: None,
            report,
        }
    });
    each.collect()
}

/// A bucket's upper bound lies above what is in it; nothing is above the longest.
fn bound(buckets: &mut [(u64, u64)], longest_ns: u64) {
    buckets.iter_mut().for_each(|(bound, _)| *bound = longest_ns.min(*bound));
}

/// Gaps that were told of as they happened, by thread: records may have been too many, and what was
/// under way to us when the guest ended is lost.
fn told(session: &Session, until: Until) -> BTreeMap<usize, Vec<GapRecord>> {
    let ticks = session.ticks.iter().filter_map(|tick| tick.longest);
    let all = ticks.chain(session.hit.map(|hit| hit.gap));
    let mut told: BTreeMap<usize, Vec<GapRecord>> = BTreeMap::new();
    for gap in all.filter(|gap| until.has(&gap.record)) {
        told.entry(gap.thread as usize).or_default().push(gap.record);
    }
    told
}

/// What the records alone tell of a thread.
fn from_records(records: &[GapRecord]) -> ThreadReport {
    ThreadReport {
        gaps: records.len() as u64,
        gap_ticks: records.iter().map(GapRecord::ticks).fold(0, u64::saturating_add),
        longest: records.iter().copied().max_by_key(GapRecord::ticks),
        classes: classes(records),
        ..ThreadReport::default()
    }
}

/// Per-group figures from per-thread ones.
pub fn groups(threads: &[Thread], cookies: &[u64]) -> Vec<Group> {
    let mut groups: BTreeMap<u32, (Group, u64)> = BTreeMap::new();
    let all_tell = threads.iter().all(|thread| thread.complete);
    for thread in threads {
        let report = &thread.report;
        let (group, cpu_ns) = groups.entry(thread.who.group).or_default();
        group.group = GroupIndex::of_number(thread.who.group).unwrap_or_default();
        group.gaps = group.gaps.saturating_add(report.gaps);
        group.gap_ns = group.gap_ns.saturating_add(thread.gap_ns);
        group.longest_gap_ns = group.longest_gap_ns.max(thread.longest_gap_ns);
        *cpu_ns = cpu_ns.saturating_add(report.cpu_time_ns);
        if !thread.complete {
            continue;
        }
        // A meter of the kernel's is never woken for work, nor is who never pauses.
        if !report.wakeup_histogram_ns.is_empty() {
            group.wakeup_longest_ns = group.wakeup_longest_ns.max(Some(report.wakeup_longest_ns));
        }
        let due_ns = Some(report.wakeup_due_ns).filter(|due_ns| *due_ns > 0);
        group.wakeup_due_ns = group.wakeup_due_ns.max(due_ns);
    }
    let all_cpu_ns = groups.values().fold(0u64, |sum, (_, cpu_ns)| sum.saturating_add(*cpu_ns));
    groups
        .into_values()
        .map(|(mut group, cpu_ns)| {
            // Of all groups' time: it is not known where one thread's is not.
            group.cpu_share = share_within(cpu_ns, all_cpu_ns).filter(|_| all_tell);
            group.cookie = cookies.get(group.group.index()).copied();
            group
        })
        .collect()
}

/// The longest gap of the run: the longest one of a thread.
pub fn longest(threads: &[Thread], session: &Session, clock: Clock<'_>) -> Option<LocatedGap> {
    let each = threads.iter().enumerate();
    let each = each.filter_map(|(index, thread)| Some((index, thread, thread.report.longest?)));
    let (index, thread, record) = each.max_by_key(|(.., record)| record.ticks())?;
    let tid = Some(thread.report.tid).filter(|tid| *tid > 0);
    let of_hit = session.hit.filter(|hit| hit.gap.thread as usize == index);
    locate(index, tid.or(of_hit.map(|hit| hit.tid)), record, session, clock)
}

/// The gap that ended the run.
pub fn hit(session: &Session, clock: Clock<'_>) -> Option<LocatedGap> {
    let hit = session.hit?;
    locate(hit.gap.thread as usize, Some(hit.tid), hit.gap.record, session, clock)
}

/// A gap with its place in the run, and with what the host took of it.
fn locate(
    thread: usize,
    tid: Option<u32>,
    record: GapRecord,
    session: &Session,
    clock: Clock<'_>,
) -> Option<LocatedGap> {
    let host = session.host_parts.of(thread, &record);
    let most_ns = host.most.map(|ticks| clock.ns(ticks));
    Some(clock.locate(thread, tid, record)?.with_host(clock.ns(host.known), most_ns))
}

/// Gaps over the threshold, whoever noticed: first the one that ended the run, then the longest,
/// which is all where records are missing.
pub fn over_threshold(session: &Session, job: &Job) -> Vec<LocatedGap> {
    let clock = clock_of(session, &job.load);
    let limit = job.load.threshold.map_or(u64::MAX, as_ns);
    let mut parted = parted(session, clock);
    let threads = threads(session, &mut parted, clock);
    let longest = longest(&threads, session, clock).filter(|gap| gap.length_ns > limit);
    let recorded = parted.iter().enumerate().flat_map(|(thread, parted)| {
        let over = parted.ended.iter().filter(|gap| clock.ns(gap.ticks()) > limit);
        over.filter_map(move |gap| locate(thread, None, *gap, session, clock))
    });
    hit(session, clock).into_iter().chain(longest).chain(recorded).collect()
}

/// Gaps that ended after the one that ended the run, of these threads.
pub fn after_hit(parted: &[Parted<'_>], session: &Session, clock: Clock<'_>) -> AfterHit {
    let longest = later(parted).max_by_key(|(_, record)| record.ticks());
    let longest = longest.and_then(|(thread, record)| locate(thread, None, record, session, clock));
    AfterHit {
        gaps: later(parted).count() as u64,
        longest_ns: longest.as_ref().map_or(0, |gap| gap.length_ns),
        longest,
    }
}

/// Those gaps, each with its thread.
fn later(parted: &[Parted<'_>]) -> impl Iterator<Item = (usize, GapRecord)> {
    let each = parted.iter().enumerate();
    each.flat_map(|(thread, parted)| parted.later.iter().map(move |gap| (thread, *gap)))
}

/// Milliseconds in each phase, from when each stage was entered.
pub fn phases_ms(session: &Session, built: u64, end: Instant) -> BTreeMap<Phase, u64> {
    let mut phases = BTreeMap::from([(Phase::Build, built)]);
    let ends = session.entered.iter().skip(1).map(|(_, at)| *at).chain([end]);
    for ((stage, begin), end) in session.entered.iter().zip(ends) {
        let phase = match stage {
            Stage::Boot => Phase::Boot,
            Stage::Setup => Phase::Setup,
            Stage::Run => Phase::Run,
            Stage::Finish => Phase::Finish,
            Stage::PowerOff => Phase::PowerOff,
        };
        let took = end.saturating_duration_since(*begin).as_millis();
        phases.insert(phase, u64::try_from(took).unwrap_or(u64::MAX));
    }
    phases
}

#[cfg(test)]
mod tests {
    use gaps::tally::WarmupTotal;
    use protocol::job::LoadSpec;
    use protocol::message::Hello;
    use protocol::report::LoadReport;
    use results::model::KernelFacts;

    use super::*;
    use crate::testing::{self, load};

    fn clock(load: &LoadSpec) -> Clock<'_> {
        Clock::new(2_000_000, 1_000, load)
    }

    fn thread(index: usize, gap_ns: u64, cpu_time_ns: u64) -> Thread {
        let report = ThreadReport { gaps: 1, cpu_time_ns, ..Default::default() };
        Thread { gap_ns, longest_gap_ns: gap_ns, ..testing::thread(index, report) }
    }

    #[test]
    fn no_key_is_there_twice() {
        let text = serde_json::to_string(&thread(0, 1, 1)).expect("JSON");
        // What is one level further in, and has its own.
        let warmup = serde_json::to_string(&WarmupTotal::default()).expect("JSON");
        let text = text.replace(&warmup, "");
        for key in ["group", "thread", "gaps", "gap_ns", "longest"] {
            assert_eq!(text.matches(&format!("\"{key}\":")).count(), 1, "{key} in {text}");
        }
        let kernel = KernelFacts { hello: Some(Hello::default()), ..Default::default() };
        let text = serde_json::to_string(&kernel).expect("JSON");
        assert_eq!(text.matches("\"cmdline\":").count(), 1, "{text}");
    }

    #[test]
    fn threads_without_a_report_come_from_their_records() {
        let limits = crate::session::Limits {
            threads: 1,
            records_per_thread: 9,
            boot: std::time::Duration::from_secs(1),
            vms: 0,
            allow_degraded: false,
        };
        let mut session = Session::new(limits, std::time::Instant::now());
        let gap = |tsc_begin, tsc_end| GapRecord { tsc_begin, tsc_end, ..Default::default() };
        session.gaps[0] = vec![gap(0, 2_000), gap(5_000, 11_000)];
        let load = load(3, 2, 1);
        let clock = clock(&load);
        let threads = threads(&session, &mut parted(&session, clock), clock);
        assert_eq!((threads[0].report.gaps, threads[0].complete), (2, false));
        assert_eq!((threads[0].gap_ns, threads[0].longest_gap_ns), (4_000, 3_000));
    }

    #[test]
    fn a_thread_that_died_tells_what_its_records_do() {
        let limits = crate::session::Limits {
            threads: 2,
            records_per_thread: 9,
            boot: std::time::Duration::from_secs(1),
            vms: 0,
            allow_degraded: false,
        };
        let mut session = Session::new(limits, std::time::Instant::now());
        let gap = GapRecord { tsc_begin: 0, tsc_end: 2_000, ..Default::default() };
        session.gaps[1] = vec![gap];
        let told = |unfinished| ThreadReport { unfinished, gaps: 1, ..Default::default() };
        let threads_told = vec![told(false), told(true)];
        session.report = Some(LoadReport { threads: threads_told, ..Default::default() });
        let load = load(1, 2, 1);
        let clock = clock(&load);
        let threads = threads(&session, &mut parted(&session, clock), clock);
        assert_eq!([threads[0].complete, threads[1].complete], [true, false]);
        assert_eq!((threads[1].gap_ns, threads[1].report.busy_ticks), (1_000, 0));
        let groups =
            groups(&[thread(0, 1, 30), Thread { complete: false, ..thread(2, 1, 0) }], &[]);
        assert_eq!((groups[0].cpu_share, groups[1].cpu_share), (None, None));
    }

    #[test]
    fn groups_add_up_their_threads() {
        let threads = [thread(0, 300, 30), thread(1, 200, 30), thread(2, 100, 40)];
        let groups = groups(&threads, &[0xa, 0xb]);
        assert_eq!(groups.len(), 2);
        assert_eq!((groups[0].gaps, groups[0].gap_ns, groups[0].longest_gap_ns), (2, 500, 300));
        assert_eq!(groups[0].cpu_share, Some(0.6));
        assert_eq!((groups[1].cookie, groups[1].cpu_share), (Some(0xb), Some(0.4)));
    }
}
