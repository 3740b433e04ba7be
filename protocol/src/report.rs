// SPDX-License-Identifier: Apache-2.0
//! What a load has measured, as it is reported at its end.

use gaps::record::GapRecord;
use gaps::tally::{ClassTotal, WarmupTotal};
use gaps::tsc::{Choice, Source, Sources};
use serde::{Deserialize, Serialize};

use crate::noise::NoiseFloor;

/// Results of the load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// TSC when the load was told to end, or had come to its end: the kernel's accounting of groups
    /// is read then.
    pub tsc_end: u64,
    /// TSC when that accounting had been read first, after the warm-up; `None` where that was before
    /// the load.
    #[serde(default)]
    pub accounted_from_tsc: Option<u64>,
    /// TSC frequency, with all that was used to find it.
    pub tsc: TscReport,
    /// One entry a thread: group-major order, see [`crate::job::LoadSpec::members`].
    pub threads: Vec<ThreadReport>,
    /// One entry a group; empty without cgroups.
    #[serde(default)]
    pub groups: Vec<GroupReport>,
    /// What the kernel's own meter left untold; `None` where it did not measure.
    #[serde(default)]
    pub meter: Option<MeterReport>,
    /// The noise floor once more, when the load had ended; `None` where it was not measured.
    #[serde(default)]
    pub noise_after: Option<NoiseFloor>,
}

impl LoadReport {
    /// The report of a meter that measures evenly, up to a moment after which others had been told
    /// to end: it measured that part of its time. Gaps, which have a time each, are all there.
    #[must_use]
    pub fn until(mut self, start_tsc: u64, end_tsc: u64) -> Self {
        let (part, whole) =
            (end_tsc.saturating_sub(start_tsc), self.tsc_end.saturating_sub(start_tsc));
        if part < whole {
            for thread in &mut self.threads {
                let ticks = u128::from(thread.busy_ticks) * u128::from(part) / u128::from(whole);
                thread.busy_ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
            }
            self.tsc_end = end_tsc;
        }
        self
    }
}

/// What the kernel's own meter left untold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeterReport {
    /// Lines read, of whatever kind.
    pub lines: u64,
    /// Lines that tell of a gap and could not be understood, or cannot be true.
    pub unread_lines: u64,
    /// Events that the kernel overwrote before they were read, as it says itself.
    pub lost_events: u64,
    /// Gaps above the floor of which only the number is known, by thread.
    pub unmeasured_gaps: Vec<u64>,
}

/// What the kernel's `cpu.stat` says of a group; `None` is what it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Time for which the group's cookie kept siblings idle that had something to run
    /// (cgroup v2 of Linux 6.0 and later, with schedstats on).
    pub force_idle_ns: Option<u64>,
    /// How often its quota was used up.
    pub throttles: Option<u64>,
    /// For how long it was throttled.
    pub throttled_ns: Option<u64>,
}

impl GroupReport {
    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            force_idle_ns: added(before.force_idle_ns, self.force_idle_ns),
            throttles: added(before.throttles, self.throttles),
            throttled_ns: added(before.throttled_ns, self.throttled_ns),
        }
    }
}

fn added(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

/// TSC frequency and its sources, all in kHz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TscReport {
    /// The one used.
    pub khz: u64,
    /// Name of the source used: `kvm`, `cpuid-15`, `cpuid-40000010`, `slope`.
    pub source: Source,
    /// `KVM_GET_TSC_KHZ` of the launcher.
    pub kvm_khz: Option<u64>,
    /// CPUID leaf 0x15.
    pub cpuid_15_khz: Option<u64>,
    /// CPUID leaf 0x40000010.
    pub cpuid_40000010_khz: Option<u64>,
    /// Slope against CLOCK_MONOTONIC_RAW over the run.
    pub slope_khz: Option<f64>,
    /// Largest difference of any source from the one used, in parts per million. Above
    /// [`gaps::tsc::DISAGREEMENT_LIMIT_PPM`] the lengths in the result deserve no trust.
    #[serde(default)]
    pub disagreement_ppm: f64,
}

impl TscReport {
    /// The choice, with all that it was made from.
    pub fn new(choice: Choice, sources: &Sources) -> Self {
        Self {
            khz: choice.khz,
            source: choice.source,
            kvm_khz: sources.kvm_khz,
            cpuid_15_khz: sources.cpuid_15_khz,
            cpuid_40000010_khz: sources.cpuid_40000010_khz,
            slope_khz: sources.slope_khz,
            disagreement_ppm: sources.disagreement_ppm(choice.khz),
        }
    }
}

/// One thread's results. All times are in TSC ticks of the guest unless named otherwise.
///
/// After a gap over the threshold, what it wanted, how it was woken and what it ran end at the end
/// of that gap; gaps are all there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadReport {
    /// It had not ended when this was told: it died, or did not stop. What a thread counts when it
    /// ends is missing.
    #[serde(default)]
    pub unfinished: bool,
    /// Thread ID in the guest.
    pub tid: u32,
    /// Gaps at or above the floor (recorded or not).
    pub gaps: u64,
    /// Of these, the ones for which there was no room left in the record memory.
    pub gaps_unrecorded: u64,
    /// Sum of all gaps at or above the floor.
    pub gap_ticks: u64,
    /// Gaps of the warm-up, which are in nothing else here.
    #[serde(default)]
    pub warmup: WarmupTotal,
    /// Longest gap.
    pub longest: Option<GapRecord>,
    /// All gaps by who took their time; classes without a gap are left out.
    #[serde(default)]
    pub classes: Vec<ClassTotal>,
    /// Histogram of all gaps, lengths in nanoseconds: `(upper bound, count)`, empty buckets left
    /// out.
    pub gap_histogram_ns: Vec<(u64, u64)>,
    /// Iterations of the meter's loop.
    pub iterations: u64,
    /// Time in which it wanted to run: bursts from their planned begin to their end, with gaps.
    pub busy_ticks: u64,
    /// Bursts completed.
    pub bursts: u64,
    /// Readings that went backwards.
    pub backwards: u64,
    /// Wake-up delays: `(upper bound in nanoseconds, count)`.
    pub wakeup_histogram_ns: Vec<(u64, u64)>,
    /// Longest wake-up delay in nanoseconds.
    pub wakeup_longest_ns: u64,
    /// For how long a wake-up had been due that had not come at the end.
    #[serde(default)]
    pub wakeup_due_ns: u64,
    /// CPU time the kernel accounted to the thread, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Time on a CPU, from the kernel's schedstat, in nanoseconds.
    #[serde(default)]
    pub run_ns: Option<u64>,
    /// Time runnable but not running, from the kernel's schedstat, in nanoseconds.
    pub run_delay_ns: Option<u64>,
    /// Time for which this thread's cookie kept siblings idle, in nanoseconds
    /// (`core_forceidle_sum` of Linux 5.17 and later, with schedstats on).
    #[serde(default)]
    pub force_idle_ns: Option<u64>,
    /// Affinity read back when it had measured, as a CPU list: that of
    /// [`crate::message::Setup`], unless somebody moved it.
    #[serde(default)]
    pub affinity_end: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_even_meter_measured_ends_with_the_part_of_its_time() {
        let thread = |busy_ticks| ThreadReport { busy_ticks, ..ThreadReport::default() };
        let report = LoadReport {
            tsc_end: 1100,
            threads: vec![thread(1000), thread(500)],
            ..LoadReport::default()
        };
        let busy = |report: LoadReport| -> (u64, Vec<u64>) {
            (report.tsc_end, report.threads.iter().map(|thread| thread.busy_ticks).collect())
        };
        assert_eq!(busy(report.clone().until(100, 350)), (350, vec![250, 125]));
        assert_eq!(busy(report.clone().until(100, 1100)), (1100, vec![1000, 500]));
        // What a guest makes up harms nobody.
        assert_eq!(busy(report.clone().until(1200, 90)), (1100, vec![1000, 500]));
        let endless = LoadReport { tsc_end: u64::MAX, threads: vec![thread(u64::MAX)], ..report };
        assert_eq!(busy(endless.until(0, u64::MAX / 2)).1, [u64::MAX / 2]);
    }
}
