// SPDX-License-Identifier: Apache-2.0
//! `result.json`: its shape, and how it follows from what the guest has said.
//! Every field is described in docs/formats.md.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use ftrace::dump::CpuStats;
use gaps::evidence::Class;
use gaps::record::GapRecord;
use gaps::stats::share_within;
use gaps::tsc::ns_to_ticks;
use protocol::index::{GroupIndex, Member};
use protocol::job::Job;
use protocol::message::{ClassTotal, Hello, MeterReport, Setup, ThreadReport, TscReport, VmStatus};
use serde::Serialize;
use serde_json::Value;

use crate::clock::Clock;
use crate::co_run::CoRun;
use crate::core_figures::CoreFigures;
use crate::expected::Expected;
use crate::explain::Explained;
use crate::folder::Folder;
use crate::forced_idle::ForcedIdle;
use crate::pins::Pins;
use crate::session::Session;
use crate::summary::{Fairness, Statistics, Steal};
use crate::until::{Parted, Until};
use crate::verdict::Answer;

/// Version of the format; raised when a field changes its meaning or goes away.
pub const SCHEMA: &str = "schedvmm-result/2";

/// The whole of `result.json`.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct RunResult {
    pub schema: &'static str,
    pub version: &'static str,
    pub target: &'static str,
    pub command_line: Vec<String>,
    /// Where it was called.
    pub working_directory: Option<PathBuf>,
    pub started_utc: String,
    pub verdict: Answer,
    /// `null` while the run goes on.
    pub exit_status: Option<u8>,
    pub reason: String,
    pub notes: Vec<String>,
    pub longest_gap_ns: Option<u64>,
    pub longest_gap: Option<LocatedGap>,
    /// The gap that ended the run.
    pub threshold_hit: Option<LocatedGap>,
    /// What ended after that, and is in no other figure; `None` without such a gap.
    pub after_hit: Option<AfterHit>,
    /// What the figures are of: from the load's start to the end of the gap that ended it, or to
    /// its own end. `None` before it has ended.
    pub measured_ns: Option<u64>,
    /// Why there are no shares, no fairness and no lag, if the run was too short for them.
    pub too_short: Option<String>,
    pub kernel: KernelFacts,
    pub cosched: Cosched,
    pub setup: Option<Setup>,
    pub job: Job,
    /// What all gaps come to.
    pub statistics: Statistics,
    pub fairness: RunFairness,
    pub expected: Expected,
    pub forced_idle: ForcedIdle,
    /// Who ran beside the load's threads; `None` without a trace.
    pub co_run: Option<CoRun>,
    /// Whether these two are measurements.
    pub core_figures: CoreFigures,
    pub steal: Steal,
    pub threads: Vec<Thread>,
    pub groups: Vec<Group>,
    /// Virtual machines of the nested target; each is a group.
    pub vms: Vec<VmResult>,
    pub tsc: Option<TscReport>,
    /// What the kernel's own meter left untold.
    pub meter: Option<MeterReport>,
    pub trace: Trace,
    /// Of the gap that ended the run, else of the longest.
    pub explanation: Option<Explained>,
    pub host: Value,
    /// What schedvmm itself was given to run with.
    pub caller: Value,
    /// Whether threads stayed where they were put.
    pub pins: Pins,
    pub machine: Value,
    pub phases_ms: BTreeMap<&'static str, u64>,
}

impl RunResult {
    /// From the load's start to where the figures end, as TSC readings.
    pub fn window_tsc(&self) -> Range<u64> {
        let start = self.setup.as_ref().map_or(0, |setup| setup.tsc_start);
        let khz = self.tsc.map(|tsc| tsc.khz).unwrap_or_default();
        let measured = self.measured_ns.filter(|_| khz > 0).map(|ns| ns_to_ticks(ns, khz));
        let end = measured.map_or(u64::MAX, |ticks| start.saturating_add(ticks));
        start..self.threshold_hit.as_ref().map_or(end, |hit| hit.tsc_end)
    }
}

/// How evenly threads, and groups, got the time they wanted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct RunFairness {
    pub threads: Fairness,
    pub groups: Fairness,
}

/// The kernel under test.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct KernelFacts {
    /// As the user named it.
    pub named: String,
    pub path: String,
    /// Where in that file it was: a path in a package, what it was unpacked from.
    pub inside: Vec<String>,
    pub bytes: u64,
    pub banner: Option<String>,
    /// What the image says before it runs; `release` is what the running kernel says.
    pub image_release: Option<String>,
    pub build_id: Option<String>,
    /// File in the result folder with the kernel's configuration.
    pub config: Option<String>,
    /// Where that was found.
    pub config_source: Option<String>,
    pub entered: String,
    /// As given by us; `cmdline` is what the kernel itself says.
    pub cmdline_given: String,
    #[serde(flatten)]
    pub hello: Option<Hello>,
}

/// Cookies asked for and had.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Cosched {
    pub requested: Value,
    pub mechanism: Option<String>,
    pub note: Option<String>,
    /// `auto` was asked for, the load wants cookies, and there are none.
    pub missing: bool,
    pub cookies: Vec<u64>,
}

/// The trace.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Trace {
    pub file: Option<String>,
    pub form: Option<TraceForm>,
    /// How it came here: `mapped-ring`, `bulk-port` or `file`.
    pub via: Option<&'static str>,
    /// Length of the file.
    pub bytes: u64,
    /// Length of what was shipped.
    pub shipped_bytes: u64,
    pub complete: bool,
    pub note: Option<String>,
    /// What the buffers of the CPUs said.
    pub cpus: Vec<CpuStats>,
}

/// What the trace's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TraceForm {
    /// trace.dat, version 6.
    #[serde(rename = "trace.dat")]
    TraceDat,
    /// The stream as it came.
    #[serde(rename = "raw")]
    Raw,
}

/// A gap with its place in the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct LocatedGap {
    #[serde(flatten)]
    pub member: Member,
    pub tid: Option<u32>,
    /// From the start of the load.
    pub begin_ns: u64,
    pub length_ns: u64,
    pub length_ticks: u64,
    pub tsc_begin: u64,
    pub tsc_end: u64,
    pub cpu_begin: u32,
    pub cpu_end: u32,
    /// Who took the time.
    pub class: Class,
}

/// Gaps that ended after the one that ended the run: it was being stopped by then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct AfterHit {
    pub gaps: u64,
    pub longest_ns: u64,
    pub longest: Option<LocatedGap>,
}

impl AfterHit {
    /// Of these, by thread.
    pub fn of(parted: &[Parted<'_>], clock: Clock<'_>) -> Self {
        let later = || {
            let each = parted.iter().enumerate();
            each.flat_map(|(thread, parted)| parted.later.iter().map(move |gap| (thread, *gap)))
        };
        let longest = later().max_by_key(|(_, record)| record.ticks());
        let longest = longest.and_then(|(thread, record)| clock.locate(thread, None, record));
        Self {
            gaps: later().count() as u64,
            longest_ns: longest.as_ref().map_or(0, |gap| gap.length_ns),
            longest,
        }
    }
}

/// One thread of the load.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Thread {
    /// Its place among those of all groups, from 0.
    #[serde(skip)]
    pub index: usize,
    #[serde(flatten)]
    pub member: Member,
    pub gap_ns: u64,
    pub longest_gap_ns: u64,
    /// False where the guest ended before it could report: the figures then come from the
    /// records that had arrived, and what they do not tell is 0 or empty.
    pub complete: bool,
    pub statistics: Statistics,
    pub co_run: Option<CoRun>,
    /// Lengths of gaps that ended after the one that ended the run.
    #[serde(skip)]
    pub after_hit_ns: Vec<u64>,
    #[serde(flatten)]
    pub report: ThreadReport,
}

/// One group of the load.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Group {
    pub group: GroupIndex,
    pub cookie: Option<u64>,
    pub gaps: u64,
    pub gap_ns: u64,
    pub longest_gap_ns: u64,
    /// Part of the time wanted that was spent in gaps.
    pub gap_share: Option<f64>,
    /// Part of all groups' CPU time.
    pub cpu_share: Option<f64>,
    /// Time for which its cookie kept siblings idle that had something to run.
    pub force_idle_ns: Option<u64>,
    /// The same, of the time of all CPUs of the load.
    pub force_idle_share: Option<f64>,
    /// How often, and for how long, its quota held it back.
    pub throttles: Option<u64>,
    pub throttled_ns: Option<u64>,
    /// `None` where nobody was woken.
    pub wakeup_longest_ns: Option<u64>,
    /// For how long a wake-up had been due that had not come at the end; `None` without one.
    pub wakeup_due_ns: Option<u64>,
    pub co_run: Option<CoRun>,
    pub statistics: Statistics,
}

/// One virtual machine of the nested target. Its gaps are those of the group with its number,
/// each of its vCPUs is a thread.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct VmResult {
    #[serde(flatten)]
    pub status: VmStatus,
    pub gaps: u64,
    pub longest_gap_ns: u64,
    /// Longest gap of each vCPU.
    pub longest_gap_by_vcpu_ns: Vec<u64>,
    pub gap_share: Option<f64>,
    pub cpu_share: Option<f64>,
    /// File in the result folder with its console.
    pub console: String,
    /// The end of that, where the machine failed.
    pub console_tail: Option<String>,
}

/// Virtual machines from what they said and what they measured; `tail` gives the end of a
/// console.
pub fn vms(
    session: &Session,
    (groups, threads): (&[Group], &[Thread]),
    tail: impl Fn(u32) -> String,
) -> Vec<VmResult> {
    let both = session.vms.iter().zip(groups);
    let vm = |(status, group): (&VmStatus, &Group)| VmResult {
        gaps: group.gaps,
        longest_gap_ns: group.longest_gap_ns,
        longest_gap_by_vcpu_ns: threads
            .iter()
            .filter(|thread| thread.member.group == group.group)
            .map(|thread| thread.longest_gap_ns)
            .collect(),
        gap_share: group.gap_share,
        cpu_share: group.cpu_share,
        console: Folder::vm_log_name(status.vm),
        console_tail: status.fault.as_ref().map(|_| tail(status.vm)),
        status: status.clone(),
    };
    both.map(vm).collect()
}

/// Every thread's gaps, parted by the moment at which figures end.
pub fn parted<'a>(session: &'a Session, clock: Clock<'_>) -> Vec<Parted<'a>> {
    session.gaps.iter().map(|records| Parted::new(records, clock.until())).collect()
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
            index,
            member,
            gap_ns: clock.ns(report.gap_ticks),
            longest_gap_ns,
            complete,
            statistics: Statistics::default(),
            co_run: None,
            after_hit_ns: parted.later.iter().map(|gap| clock.ns(gap.ticks())).collect(),
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

/// Records by class, in the order of [`Class::ALL`].
pub fn classes(records: &[GapRecord]) -> Vec<ClassTotal> {
    let total = |class| {
        let of_class = records.iter().filter(|record| record.class == class);
        let (gaps, gap_ticks) = of_class
            .fold((0, 0u64), |(gaps, sum), record| (gaps + 1, sum.saturating_add(record.ticks())));
        ClassTotal { class, gaps, gap_ticks }
    };
    Class::ALL.into_iter().map(total).filter(|total| total.gaps > 0).collect()
}

/// Per-group figures from per-thread ones.
pub fn groups(threads: &[Thread], cookies: &[u64]) -> Vec<Group> {
    let mut groups: BTreeMap<GroupIndex, (Group, u64)> = BTreeMap::new();
    let all_tell = threads.iter().all(|thread| thread.complete);
    for thread in threads {
        let report = &thread.report;
        let (group, cpu_ns) = groups.entry(thread.member.group).or_default();
        group.group = thread.member.group;
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
    let each = threads.iter().filter_map(|thread| Some((thread, thread.report.longest?)));
    let (thread, record) = each.max_by_key(|(_, record)| record.ticks())?;
    let tid = Some(thread.report.tid).filter(|tid| *tid > 0);
    let of_hit = session.hit.filter(|hit| hit.gap.thread as usize == thread.index);
    clock.locate(thread.index, tid.or(of_hit.map(|hit| hit.tid)), record)
}

/// Milliseconds in each phase, from when each stage was entered.
pub fn phases_ms(
    session: &Session,
    built: u64,
    end: std::time::Instant,
) -> BTreeMap<&'static str, u64> {
    use crate::session::Stage;
    let mut phases = BTreeMap::from([("build", built)]);
    let ends = session.entered.iter().skip(1).map(|(_, at)| *at).chain([end]);
    for ((stage, begin), end) in session.entered.iter().zip(ends) {
        let name = match stage {
            Stage::Boot => "boot",
            Stage::Setup => "setup",
            Stage::Run => "run",
            Stage::Finish => "finish",
            Stage::PowerOff => "power_off",
        };
        let took = end.saturating_duration_since(*begin).as_millis();
        phases.insert(name, u64::try_from(took).unwrap_or(u64::MAX));
    }
    phases
}

#[cfg(test)]
mod tests {
    use protocol::job::LoadSpec;
    use protocol::message::LoadReport;

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
