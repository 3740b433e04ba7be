// SPDX-License-Identifier: Apache-2.0
//! What the kernel's meter has found so far, by CPU, in the same form as the load's threads.

use std::path::Path;

use gaps::record::GapRecord;
use gaps::tally::{Recorder, Tally};
use protocol::job::LoadSpec;
use protocol::message::{Gap, Tick};
use protocol::report::{MeterReport, ThreadReport};

use crate::kernel::accounting;
use crate::kernel_meter::place::Placed;
use crate::kernel_meter::tracer::Kernels;

/// One CPU.
#[derive(Debug)]
struct CpuTally {
    cpu: u32,
    pid: u32,
    tally: Box<Tally>,
    /// Gaps handed on one by one.
    recorded: u64,
    /// Gaps of which only the number is known.
    unmeasured: u64,
}

/// All CPUs.
#[derive(Debug)]
pub struct Tallies {
    tallies: Vec<CpuTally>,
    khz: u64,
    most_records: u64,
}

/// What the scheduler says of a measuring kernel thread: it sleeps whenever it does not
/// measure, so that its CPU time is the time in which it measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// Time on a CPU.
    pub ran_ns: u64,
    /// Time runnable and not running.
    pub waited_ns: u64,
}

impl ThreadTime {
    /// For how long such a thread measured, at least. hwlat's has interrupts off, and its CPU
    /// time is all of it. osnoise's measures also while something else has its CPU: waiting is
    /// part of that. Interrupts are too, but kernels may keep them out of CPU time; as it
    /// measures for its width in each window however late it was, `by_width_ns` is a lower
    /// bound as well.
    pub fn measured_ns(self, which: Kernels, by_width_ns: u64) -> u64 {
        match which {
            Kernels::Hwlat => self.ran_ns,
            Kernels::Osnoise => self.ran_ns.saturating_add(self.waited_ns).max(by_width_ns),
        }
    }
}

impl Tallies {
    /// Empty ones.
    pub fn new(load: &LoadSpec, khz: u64) -> Self {
        Self {
            tallies: load
                .cpus
                .iter()
                .map(|&cpu| CpuTally {
                    cpu,
                    pid: 0,
                    tally: Box::default(),
                    recorded: 0,
                    unmeasured: 0,
                })
                .collect(),
            khz,
            most_records: u64::from(load.records_per_thread),
        }
    }

    /// Records a gap that the kernel thread `pid` met. Gives the number of its CPU among
    /// those that are measured, and whether the record is to be handed on; `None` if that CPU
    /// is not among them.
    pub fn gap(&mut self, pid: u32, placed: &Placed) -> Option<(u32, bool)> {
        let cpu = placed.record.cpu_end;
        let (index, tally) = (0..).zip(&mut self.tallies).find(|(_, tally)| tally.cpu == cpu)?;
        tally.pid = pid;
        tally.unmeasured = tally.unmeasured.saturating_add(placed.more);
        Recorder { tally: &tally.tally, cells: &[], tsc_khz: self.khz }.gap(placed.record);
        let keep = tally.recorded < self.most_records;
        tally.recorded += u64::from(keep);
        Some((index, keep))
    }

    /// One more second has passed.
    pub fn tick(&self, second: u32) -> Tick {
        let longest: Option<(u32, GapRecord)> = (0..)
            .zip(&self.tallies)
            .filter_map(|(thread, tally)| Some((thread, tally.tally.close_window()?)))
            .max_by_key(|(_, record)| record.ticks());
        Tick {
            second,
            online: u32::try_from(self.tallies.len()).unwrap_or(u32::MAX),
            longest: longest.map(|(thread, record)| Gap { thread, record }),
        }
    }

    /// Adds the numbers of gaps that were not measured.
    pub fn complete(&self, report: &mut MeterReport) {
        report.unmeasured_gaps = self.tallies.iter().map(|tally| tally.unmeasured).collect();
    }

    /// The CPUs as threads: with what the scheduler says of the kernel thread that measured
    /// on each, and for how long it did.
    pub fn threads(&self, times: &[Option<ThreadTime>], busy_ticks: &[u64]) -> Vec<ThreadReport> {
        let each = self.tallies.iter().zip(times).zip(busy_ticks);
        each.map(|((tally, time), &busy_ticks)| ThreadReport {
            tid: tally.pid,
            gaps: tally.tally.gaps(),
            gaps_unrecorded: tally.tally.gaps().saturating_sub(tally.recorded),
            gap_ticks: tally.tally.gap_ticks(),
            longest: tally.tally.longest(),
            classes: tally.tally.classes(),
            gap_histogram_ns: tally.tally.histogram_ns().buckets().collect(),
            busy_ticks,
            cpu_time_ns: time.map_or(0, |time| time.ran_ns),
            run_delay_ns: time.map(|time| time.waited_ns),
            ..ThreadReport::default()
        })
        .collect()
    }
}

/// What the scheduler says of the kernel threads that measure, by their names:
/// `hwlatd`, or `hwlatd/CPU` and `osnoise/CPU`. `None` where it is not there, or the kernel
/// counts nothing (CONFIG_SCHED_INFO).
pub fn times(proc: &Path, which: Kernels, cpus: &[u32]) -> Vec<Option<ThreadTime>> {
    let name = match which {
        Kernels::Hwlat => "hwlatd",
        Kernels::Osnoise => "osnoise",
    };
    let mut times = vec![None; cpus.len()];
    for (rest, accounted) in accounting::of_processes_named(proc, name) {
        let time = accounted
            .map(|sample| ThreadTime { ran_ns: sample.ran_ns, waited_ns: sample.waited_ns });
        if rest.is_empty() {
            // One for all: it is on each of them in turn.
            times.fill(time.map(|time| time.share(cpus.len())));
        } else if let Some(cpu) = rest.strip_prefix('/').and_then(|cpu| cpu.parse::<u32>().ok()) {
            let at = cpus.iter().position(|&ours| ours == cpu);
            if let Some(slot) = at.and_then(|at| times.get_mut(at)) {
                *slot = time;
            }
        }
    }
    times
}

impl ThreadTime {
    fn share(self, among: usize) -> Self {
        let among = (among as u64).max(1);
        Self { ran_ns: self.ran_ns / among, waited_ns: self.waited_ns / among }
    }
}
