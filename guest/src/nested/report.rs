// SPDX-License-Identifier: Apache-2.0
//! Results of all VMs, as one report.

use protocol::report::{LoadReport, MeterReport, ThreadReport, TscReport};

use super::vm::L2Vm;
use super::vms::L2Vms;

/// Buckets of a histogram that a guest may make us hand on.
const MAX_BUCKETS: usize = 4096;

/// vCPU threads' host scheduling at two moments, by VM.
pub(super) type Schedstats = Vec<Vec<Option<(u64, u64)>>>;

/// What is known when the measurement has ended.
pub(super) struct Measured {
    pub(super) tsc_end: u64,
    pub(super) before: Schedstats,
    pub(super) after: Schedstats,
    /// vCPU threads' affinity at the end, by VM.
    pub(super) affinity_end: Vec<Vec<Option<String>>>,
}

impl L2Vms<'_> {
    pub(super) fn schedstats(&self) -> Schedstats {
        self.vms.iter().map(L2Vm::schedstats).collect()
    }

    /// The VMs' reports as one, by group and thread.
    pub(super) fn report(&mut self, measured: Measured, tsc: TscReport) -> LoadReport {
        let each = self.spec.vcpus as usize;
        let mut threads = Vec::new();
        let mut meter: Option<MeterReport> = None;
        let hit_tsc = self.hit.map(|hit| hit.gap.record.tsc_end);
        for (index, vm) in self.vms.iter_mut().enumerate() {
            let mut report = vm.take_report(hit_tsc);
            report.threads.resize_with(each, ThreadReport::default);
            if let Some(theirs) = report.meter.take() {
                add_meter(meter.get_or_insert_default(), theirs, (index * each, each));
            }
            for (n, mut thread) in report.threads.into_iter().enumerate() {
                let ran =
                    stats_at(&measured.before, n, index).zip(stats_at(&measured.after, n, index));
                let ran = ran
                    .map(|(from, to)| (to.0.saturating_sub(from.0), to.1.saturating_sub(from.1)));
                if let Some(known) = vm.status.threads.get_mut(n) {
                    known.run_ns = ran.map(|(run, _)| run);
                    known.wait_ns = ran.map(|(_, wait)| wait);
                    thread.tid = known.tid;
                }
                thread.cpu_time_ns = ran.map_or(0, |(run, _)| run);
                thread.run_delay_ns = ran.map(|(_, wait)| wait);
                let affinity = measured.affinity_end.get(index).and_then(|all| all.get(n));
                thread.affinity_end = affinity.cloned().flatten();
                thread.gap_histogram_ns.truncate(MAX_BUCKETS);
                thread.wakeup_histogram_ns.truncate(MAX_BUCKETS);
                threads.push(thread);
            }
            // Best effort: a host that takes no status will not take the report either.
            let _ = self.observer.vm(&vm.status);
        }
        let tsc_end = measured.tsc_end;
        LoadReport { tsc_end, tsc, threads, meter, ..LoadReport::default() }
    }
}

fn stats_at(at: &Schedstats, n: usize, index: usize) -> Option<(u64, u64)> {
    *at.get(index)?.get(n)?
}

/// Adds what a VM's meter left untold; its threads begin at `first`, and are so many.
fn add_meter(sum: &mut MeterReport, theirs: MeterReport, (first, count): (usize, usize)) {
    sum.lines = sum.lines.saturating_add(theirs.lines);
    sum.unread_lines = sum.unread_lines.saturating_add(theirs.unread_lines);
    sum.lost_events = sum.lost_events.saturating_add(theirs.lost_events);
    sum.unmeasured_gaps.resize(first, 0);
    sum.unmeasured_gaps.extend(theirs.unmeasured_gaps.into_iter().take(count));
}
