// SPDX-License-Identifier: Apache-2.0
//! The noise floor: what the meter finds on the load's CPUs while there is no load.
//!
//! One thread for each CPU, all at once, as the load will have them busy. What they miss is
//! the work of interrupts, of other tasks and of the host, and no scheduler under test can do
//! better than that.

use std::sync::Barrier;
use std::sync::atomic::AtomicU32;
use std::time::Duration;
use std::{io, thread};

use gaps::bench;
use gaps::evidence::{Evidence, GapClassifier};
use gaps::meter::{Limits, Meter, Rdtscp, Until};
use gaps::stats::{Distribution, share_within};
use gaps::tally::{Recorder, Tally};
use gaps::tsc::{self, ns_to_ticks, ticks_to_ns};
use protocol::cpu_list::CpuSet;
use protocol::duration::as_ns;
use protocol::job::Job;
use protocol::noise::{CpuNoise, NoiseFloor};
use protocol::report::LoadReport;

use crate::kernel::affinity;
use crate::thread_accounting::{self, KernelAccounting};

/// Measures on these CPUs, all at the same time. `khz` is the TSC frequency.
///
/// # Errors
/// A thread cannot be started, or not be pinned to its CPU.
pub fn measure(cpus: &[u32], duration: Duration, khz: u64) -> io::Result<NoiseFloor> {
    let duration_ns = as_ns(duration);
    let facts = thread_accounting::facts();
    let mut accounting = KernelAccounting::of_this_thread(khz);
    let cost = thread_accounting::cost(&mut accounting, bench::iteration_ticks());
    // Everything that the evidence can be asked about.
    let floor_ticks = Evidence::new(accounting, khz, cost, facts).notice_ticks();
    let barrier = Barrier::new(cpus.len());
    let found: io::Result<Vec<_>> = thread::scope(|scope| {
        // All are started before the first one is waited for.
        let threads: Vec<_> = cpus
            .iter()
            .map(|&cpu| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let evidence =
                        Evidence::new(KernelAccounting::of_this_thread(khz), khz, cost, facts);
                    let pinned = affinity::confine_this_thread(&CpuSet::from_iter([cpu]));
                    // Whoever fails must not keep the others waiting.
                    barrier.wait();
                    pinned.map(|()| watch(cpu, ns_to_ticks(duration_ns, khz), khz, evidence))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the noise meter panicked")))
            })
            .collect()
    });
    let cpus = found?;
    Ok(floor_of(cpus, duration_ns, ticks_to_ns(floor_ticks, khz)))
}

/// Whoever ended the load waits no longer than some seconds for its report.
const MAX_AFTER: Duration = Duration::from_secs(3);

/// Measures it once more, when the load has ended by itself: what the host does now it may have done
/// before.
pub fn measure_after(report: &mut LoadReport, job: &Job) {
    if !job.noise.is_zero() {
        // That it can be measured the first time has shown.
        let duration = job.noise.min(MAX_AFTER);
        report.noise_after = measure(&job.load.cpus, duration, report.tsc.khz).ok();
    }
}

/// What the CPUs come to.
fn floor_of(cpus: Vec<CpuNoise>, duration_ns: u64, floor_ns: u64) -> NoiseFloor {
    NoiseFloor {
        duration_ns,
        floor_ns,
        longest_ns: cpus.iter().map(|cpu| cpu.longest_ns).max().unwrap_or(0),
        gap_share: share_within(sum(|cpu| cpu.gap_ns, &cpus), sum(|cpu| cpu.watched_ns, &cpus))
            .unwrap_or(0.0),
        cpus,
    }
}

fn sum(of: fn(&CpuNoise) -> u64, cpus: &[CpuNoise]) -> u64 {
    cpus.iter().map(of).fold(0, u64::saturating_add)
}

fn watch(cpu: u32, ticks: u64, khz: u64, mut evidence: Evidence<KernelAccounting>) -> CpuNoise {
    let tally = Box::<Tally>::default();
    let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: khz };
    let floor_ticks = evidence.notice_ticks();
    let meter = Meter::new(recorder, Limits { floor_ticks, threshold_ticks: None });
    evidence.begin();
    let from = tsc::read();
    let until = from.tsc.wrapping_add(ticks);
    let (_, last) = meter.burst(
        &mut Rdtscp,
        &mut evidence,
        from,
        Until { tsc: until, stop: &AtomicU32::new(0) },
    );
    noise_of(cpu, &tally, last.tsc.wrapping_sub(from.tsc), khz)
}

/// What a meter has found in so many ticks.
fn noise_of(cpu: u32, tally: &Tally, watched_ticks: u64, khz: u64) -> CpuNoise {
    let buckets: Vec<_> = tally.histogram_ns().buckets().collect();
    let longest_ns = tally.longest().map_or(0, |gap| ticks_to_ns(gap.ticks(), khz));
    CpuNoise {
        cpu,
        watched_ns: ticks_to_ns(watched_ticks, khz),
        gaps: tally.gaps(),
        gap_ns: ticks_to_ns(tally.gap_ticks(), khz),
        longest_ns,
        quantiles: Distribution::of_buckets_up_to(&buckets, longest_ns).quantiles(),
        classes: tally.classes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor;

    use gaps::{record::GapRecord, stats::Quantiles, tsc::Sources};

    #[test]
    fn this_machine_has_some_and_each_cpu_is_told_apart() {
        let khz = supervisor::tsc_frequency(&mut Sources::known(None)).unwrap().khz;
        let cpus: Vec<_> = affinity::of_this_thread().unwrap().iter().take(2).collect();
        let duration = Duration::from_millis(200);
        let noise = measure(&cpus, duration, khz).unwrap();
        assert_eq!(noise.cpus.iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), cpus);
        // There are timer interrupts at least.
        assert!(noise.cpus.iter().all(|cpu| cpu.gaps > 0 && cpu.quantiles.is_some()), "{noise:?}");
        for cpu in &noise.cpus {
            assert_eq!(cpu.classes.iter().map(|total| total.gaps).sum::<u64>(), cpu.gaps);
            assert!(cpu.longest_ns >= noise.floor_ns && cpu.longest_ns <= cpu.gap_ns + 1);
        }
        assert!(noise.gap_share > 0.0 && noise.gap_share < 1.0, "{noise:?}");
        for cpu in &noise.cpus {
            assert!(cpu.watched_ns >= 199_000_000 && cpu.gap_ns <= cpu.watched_ns, "{noise:?}");
            let of = cpu.quantiles.unwrap_or_default();
            let most = of.p999_ns.or(of.p99_ns).or(of.p90_ns).or(of.p50_ns).unwrap_or(0);
            assert!(most <= cpu.longest_ns, "{noise:?}");
        }
    }

    /// An interruption that goes on beyond the planned time counts whole, and so does the time.
    #[test]
    fn nothing_is_lost_for_longer_than_it_was_measured() {
        let khz = 1_000_000;
        let tally = Tally::default();
        let recorder = Recorder { tally: &tally, cells: &[], tsc_khz: khz };
        let gap = |tsc_begin, tsc_end| GapRecord { tsc_begin, tsc_end, ..GapRecord::default() };
        recorder.gap(gap(40_000_000, 159_000_000));
        // Planned were 100 ms.
        let cpu = noise_of(3, &tally, 159_000_100, khz);
        assert_eq!((cpu.watched_ns, cpu.longest_ns), (159_000_100, 119_000_000));
        // One gap has a longest, and no quantiles.
        assert_eq!(cpu.quantiles, Some(Quantiles::default()));
        let idle = CpuNoise { cpu: 2, watched_ns: 100_000_000, ..CpuNoise::default() };
        let share = floor_of(vec![idle, cpu.clone()], 100_000_000, 1).gap_share;
        assert!((share - 119_000_000.0 / 259_000_100.0).abs() < 1e-9, "{share}");
        let alone = floor_of(vec![cpu], 100_000_000, 1).gap_share;
        assert!(alone < 0.75, "{alone}");
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_and_no_hang() {
        let here = affinity::of_this_thread().unwrap().iter().next().unwrap();
        measure(&[here, 1023], Duration::from_millis(1), 1_000_000).unwrap_err();
    }
}
