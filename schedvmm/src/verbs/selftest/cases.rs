// SPDX-License-Identifier: Apache-2.0
//! The gaps that are made, and what must be found of them.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

use gaps::evidence::Class;
use gaps::record::GapRecord;
use gaps::tsc::{Sources, ns_to_ticks, ticks_to_ns};
use protocol::group::{GroupSpec, SleepSpec};
use protocol::index::Kind;
use protocol::job::LoadSpec;
use workload::context::WorkloadContext;
use workload::kernel::scheduler;
use workload::noise_floor;

use crate::units::as_ns;
use crate::verbs::selftest::case::{Attempt, Fault, Tried};
use crate::verbs::selftest::inject::{self, HalfCpu, LOAD_PRIORITY, Policy, Stop};
use crate::verbs::selftest::measure::{Measured, measure};
use crate::verbs::selftest::vcpu;

/// Least limit of a stop's error.
const MIN_LIMIT_NS: u64 = 20_000;
/// The longest interruption of a machine that counts as quiet: timer interrupts, and what a host
/// needs to enter a guest. Limits allow for one of these, and for nothing longer.
const QUIET_NS: u64 = 50_000;
/// How long it is looked for interruptions once more, where something disturbed a case.
const NOISE_AFTER: Duration = Duration::from_millis(200);
/// Longer than any case.
const LONGEST: Duration = Duration::from_secs(60);
const NEEDS_ROOT: &str = "real-time policies need root (CAP_SYS_NICE)";

/// Where gaps are made.
pub struct Place {
    /// On which CPU.
    pub cpu: u32,
    /// Facts about the TSC.
    pub sources: Sources,
    /// Its frequency.
    pub khz: u64,
    /// The longest interruption there before any case.
    pub noise_ns: u64,
    /// What runs in a machine whose vCPU is stopped, if there is one.
    pub kernel: Option<PathBuf>,
}

/// Gaps that a case is to find.
#[derive(Clone, Copy)]
struct Expected {
    length_ns: u64,
    /// The error of a length that is still right.
    limit_ns: u64,
    /// So many of them.
    least: usize,
}

impl Place {
    /// All cases, to be tried one after the other.
    pub fn all(&self) -> Vec<Box<dyn Fn() -> Attempt + '_>> {
        let stops = [(1, 20), (5, 20), (50, 10), (500, 4)];
        let mut cases: Vec<_> = stops
            .into_iter()
            .map(|(ms, times)| -> Box<dyn Fn() -> Attempt + '_> {
                Box::new(move || self.stopped(Duration::from_millis(ms), times))
            })
            .collect();
        cases.push(Box::new(|| self.round_robin()));
        cases.push(Box::new(|| self.throttled()));
        cases.push(Box::new(|| self.under_a_hog()));
        if let Some(kernel) = &self.kernel {
            for (ms, times) in [(50, 10), (500, 4)] {
                let length = Duration::from_millis(ms);
                cases.push(Box::new(move || self.stopped_vcpu(kernel, length, times)));
            }
        }
        cases
    }

    /// Threads that always want to run, all on the one CPU.
    fn spec(&self, threads: u32, duration: Duration) -> LoadSpec {
        LoadSpec {
            name: None,
            groups: vec![GroupSpec::plain(threads, LONGEST, SleepSpec::Fixed(Duration::ZERO))],
            kind: Kind::Threads,
            cpus: vec![self.cpu],
            seed: 1,
            duration,
            warmup: Duration::ZERO,
            floor: Duration::from_micros(100),
            threshold: None,
            records_per_thread: 100_000,
        }
    }

    fn context(&self) -> WorkloadContext {
        WorkloadContext { tsc: self.sources, ..WorkloadContext::plain(None) }
    }

    /// SIGSTOP and SIGCONT.
    fn stopped(&self, length: Duration, times: usize) -> Attempt {
        let name = format!("stop-{}ms", length.as_millis());
        // Without the right to it whatever else runs here makes gaps longer, and rightly so.
        let _above = Policy::fifo(LOAD_PRIORITY);
        let cpu = self.cpu;
        match measure(
            &self.spec(1, LONGEST),
            &self.context(),
            Box::new(move |pids: Vec<u32>| {
                let stops =
                    pids.first().map(|pid| inject::stop_repeatedly(*pid, length, times, cpu));
                thread::sleep(Duration::from_millis(20));
                stops.unwrap_or_default()
            }),
        ) {
            Ok(measured) => self.judge(&name, self.find_stops(&measured, length)),
            Err(error) => Attempt::broken(&name, error),
        }
    }

    /// The same to the thread of a vCPU: the host's doing, as seen by the guest.
    fn stopped_vcpu(&self, kernel: &Path, length: Duration, times: usize) -> Attempt {
        let name = format!("vcpu-stop-{}ms", length.as_millis());
        match vcpu::stop_repeatedly(kernel, length, times, self.cpu) {
            Ok(measured) => {
                let found = self.find_stops(&measured, length);
                let class_right = found.of_class[Class::Host as usize];
                self.judge(&name, Tried { class_right, ..found })
            }
            Err(error) => Attempt::broken(&name, error),
        }
    }

    fn find_stops(&self, measured: &Measured<Vec<Stop>>, length: Duration) -> Tried {
        let length_ns = as_ns(length);
        // Whoever sends the signals may be held up between the clock and a signal: then nobody
        // knows how long the stop was, and it is no evidence.
        let most_doubt_ns = (length_ns / 100).max(QUIET_NS);
        let known = measured
            .done
            .iter()
            .map(|stop| inject::stop_ns(*stop, self.khz).1)
            .filter(|doubt| *doubt <= most_doubt_ns);
        let allowed_ns = known.max().unwrap_or(0) + self.quiet_ns();
        let mut tried = Tried {
            injected: measured.done.len(),
            least: 1,
            length_ns,
            limit_ns: (length_ns / 100).max(MIN_LIMIT_NS) + allowed_ns,
            mean_limit_ns: Some((length_ns / 1000).max(MIN_LIMIT_NS) + allowed_ns),
            noise_ns: self.noise_ns.max(self.between(measured)),
            ..Tried::default()
        };
        for stop in &measured.done {
            let middle = stop.begin + (stop.end - stop.begin) / 2;
            let Some(gap) = measured
                .gaps
                .iter()
                .flatten()
                .find(|gap| gap.tsc_begin <= middle && middle <= gap.tsc_end)
            else {
                continue;
            };
            let (injected_ns, doubt_ns) = inject::stop_ns(*stop, self.khz);
            if doubt_ns > most_doubt_ns {
                tried.add_doubtful(doubt_ns, gap.class);
            } else {
                tried.add(self.ns(gap), injected_ns, gap.class);
            }
        }
        tried
    }

    /// The longest gap that no stop has to do with.
    fn between(&self, measured: &Measured<Vec<Stop>>) -> u64 {
        let others = measured.gaps.iter().flatten();
        let others = others.filter(|gap| !measured.done.iter().any(|stop| meets(gap, stop)));
        others.map(|gap| self.ns(gap)).max().unwrap_or(0)
    }

    /// Judges a case. Where something disturbed it, it is looked for that once more.
    fn judge(&self, name: &str, mut tried: Tried) -> Attempt {
        if matches!(tried.fault(), Some(Fault::Disturbed { .. })) {
            let _above = Policy::fifo(LOAD_PRIORITY);
            // Without it, what was seen before has to do.
            let after = noise_floor::measure(&[self.cpu], NOISE_AFTER, self.khz);
            tried.noise_ns = tried.noise_ns.max(after.map_or(0, |after| after.longest_ns));
        }
        Attempt::judged(name, &tried)
    }

    /// Allowance of limits for the noise that was there before.
    fn quiet_ns(&self) -> u64 {
        self.noise_ns.min(QUIET_NS)
    }

    /// Two SCHED_RR threads of one priority: each waits for the other's timeslice.
    fn round_robin(&self) -> Attempt {
        /// Shorter than what the kernel lets real-time threads have of a second (0.95 s).
        const DURATION: Duration = Duration::from_millis(900);
        let name = "round-robin";
        let Some(_policy) = Policy::round_robin(LOAD_PRIORITY) else {
            return Attempt::skipped(name, NEEDS_ROOT);
        };
        let Some(slice_ns) = inject::round_robin_slice_ns() else {
            return Attempt::skipped(name, "the kernel does not tell SCHED_RR's timeslice");
        };
        let least = usize::try_from(as_ns(DURATION) / slice_ns).unwrap_or(0) / 2;
        if least == 0 {
            return Attempt::skipped(
                name,
                "the timeslice of SCHED_RR is longer than half a second",
            );
        }
        match measure(
            &self.spec(2, DURATION),
            &self.context(),
            Box::new(|_: Vec<u32>| thread::sleep(DURATION + Duration::from_millis(50))),
        ) {
            Ok(measured) => {
                let limit_ns = self.tick_ns() + MIN_LIMIT_NS + self.quiet_ns();
                let expected = Expected { length_ns: slice_ns, limit_ns, least };
                self.judge(name, self.like(&measured, DURATION, expected))
            }
            Err(error) => Attempt::broken(name, error),
        }
    }

    /// A cgroup with half a CPU: throttled for the other half of each period. The quota is
    /// kept on average, for it is checked at ticks: so it is the mean gap that must be right.
    fn throttled(&self) -> Attempt {
        const DURATION: Duration = Duration::from_secs(2);
        let name = "throttled";
        let half = match HalfCpu::make() {
            Ok(half) => half,
            Err(reason) => return Attempt::skipped(name, reason),
        };
        let context = WorkloadContext { cgroups: vec![vec![half.procs()]], ..self.context() };
        let measured = match measure(
            &self.spec(1, DURATION),
            &context,
            Box::new(|_: Vec<u32>| thread::sleep(DURATION + Duration::from_millis(50))),
        ) {
            Ok(measured) => measured,
            Err(error) => return Attempt::broken(name, error),
        };
        let expected = Expected { length_ns: HalfCpu::GAP_NS, limit_ns: u64::MAX, least: 10 };
        let all = self.like(&measured, DURATION, expected);
        let lengths = self.inside(&measured, DURATION, HalfCpu::GAP_NS);
        let count = u64::try_from(lengths.len()).unwrap_or(u64::MAX).max(1);
        let mean_ns = lengths.iter().map(|gap| self.ns(gap)).sum::<u64>() / count;
        let error_ns = mean_ns.cast_signed() - HalfCpu::GAP_NS.cast_signed();
        let limit_ns = self.tick_ns() + MIN_LIMIT_NS + self.quiet_ns();
        self.judge(name, Tried { errors_ns: vec![error_ns; lengths.len()], limit_ns, ..all })
    }

    /// A fair thread under one of real-time policy: it gets what the kernel keeps for it.
    fn under_a_hog(&self) -> Attempt {
        const HOG: Duration = Duration::from_millis(2300);
        const DURATION: Duration = Duration::from_millis(2800);
        let name = "fifo-hog";
        let gap_ns = match kept_from_fair_threads() {
            Ok(gap_ns) => gap_ns,
            Err(reason) => return Attempt::skipped(name, reason),
        };
        if Policy::fifo(LOAD_PRIORITY).is_none() {
            return Attempt::skipped(name, NEEDS_ROOT);
        }
        let (cpu, khz) = (self.cpu, self.khz);
        match measure(
            &self.spec(1, DURATION),
            &self.context(),
            Box::new(move |_: Vec<u32>| {
                thread::sleep(Duration::from_millis(100));
                let hogged = inject::hog(cpu, HOG, khz);
                thread::sleep(Duration::from_millis(400));
                hogged.is_ok()
            }),
        ) {
            Ok(Measured { done: false, .. }) => {
                Attempt::skipped(name, "the hog could not take its CPU")
            }
            Ok(measured) => {
                // The first one begins anywhere in the kernel's period, so it may be shorter;
                // half of it belongs to another kind of gap.
                let limit_ns = gap_ns / 20 + 2 * self.tick_ns() + self.quiet_ns();
                let expected = Expected { length_ns: gap_ns, limit_ns, least: 1 };
                let mut tried = self.like(&measured, DURATION, expected);
                tried.errors_ns.sort_by_key(|error| error.unsigned_abs());
                let kept = tried
                    .errors_ns
                    .iter()
                    .filter(|error| error.unsigned_abs() <= limit_ns)
                    .count()
                    .max(1);
                tried.errors_ns.truncate(kept);
                tried.injected = tried.injected.min(kept);
                tried.found = tried.found.min(kept);
                tried.class_right = tried.class_right.min(kept);
                self.judge(name, tried)
            }
            Err(error) => Attempt::broken(name, error),
        }
    }

    /// Gaps of at least half this length that the load's end did not cut.
    fn inside<T>(&self, measured: &Measured<T>, duration: Duration, ns: u64) -> Vec<GapRecord> {
        let end = measured.tsc_start.saturating_add(ns_to_ticks(as_ns(duration), self.khz));
        measured
            .gaps
            .iter()
            .flatten()
            .filter(|gap| gap.tsc_end < end && gap.ticks() >= ns_to_ticks(ns / 2, self.khz))
            .copied()
            .collect()
    }

    /// All gaps of about this length.
    fn like<T>(&self, measured: &Measured<T>, duration: Duration, expected: Expected) -> Tried {
        let Expected { length_ns, limit_ns, least } = expected;
        let gaps = self.inside(measured, duration, length_ns);
        // Those that are far shorter are something else's.
        let lengths = measured.gaps.iter().flatten().map(|gap| self.ns(gap));
        let noise_ns = lengths.filter(|ns| *ns < length_ns / 2).max().unwrap_or(0);
        let noise_ns = noise_ns.max(self.noise_ns);
        let mut tried = Tried {
            injected: gaps.len(),
            least,
            length_ns,
            limit_ns,
            noise_ns,
            ..Tried::default()
        };
        for gap in gaps {
            tried.add(self.ns(&gap), length_ns, gap.class);
        }
        tried
    }

    fn ns(&self, gap: &GapRecord) -> u64 {
        ticks_to_ns(gap.ticks(), self.khz)
    }

    /// The tick, or the longest that Linux has.
    fn tick_ns(&self) -> u64 {
        scheduler::tick_ns().unwrap_or(10_000_000)
    }
}

fn meets(gap: &GapRecord, stop: &Stop) -> bool {
    gap.tsc_begin <= stop.end && stop.begin <= gap.tsc_end
}

/// How long real-time threads may keep fair ones from running: `sched_rt_runtime_us` of each
/// period, and the same from the fair server of 6.12 and later, whose defaults are equal.
fn kept_from_fair_threads() -> Result<u64, String> {
    let file = "/proc/sys/kernel/sched_rt_runtime_us";
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    match text.trim().parse::<u64>() {
        Ok(runtime_us) => Ok(runtime_us.saturating_mul(1000)),
        Err(_) => Err(format!("{file} is {}: real-time threads are not limited", text.trim())),
    }
}

#[cfg(test)]
mod tests {
    use results::selftest::Status;

    use super::*;

    const KHZ: u64 = 1_000_000;
    const MS: u64 = 1_000_000;

    fn place() -> Place {
        Place { cpu: 0, sources: Sources::default(), khz: KHZ, noise_ns: 1000, kernel: None }
    }

    fn gap(begin: u64, end: u64, class: Class) -> GapRecord {
        GapRecord { tsc_begin: begin, tsc_end: end, class, ..GapRecord::default() }
    }

    #[test]
    fn each_stop_is_looked_for_in_its_middle() {
        let stop = |begin| Stop { begin, end: begin + 5 * MS, doubt: 10 };
        let measured = Measured {
            gaps: vec![vec![
                gap(0, MS, Class::Host),
                gap(10 * MS, 15 * MS + 7, Class::ScheduledOut),
                gap(50 * MS, 70 * MS, Class::Host),
            ]],
            tsc_start: 0,
            done: vec![stop(10 * MS), stop(30 * MS), stop(55 * MS)],
        };
        let tried = place().find_stops(&measured, Duration::from_millis(5));
        assert_eq!((tried.injected, &tried.errors_ns), (3, &vec![7, 15_000_000]));
        // A hundredth of it, the noise before, and the doubt.
        assert_eq!((tried.limit_ns, tried.mean_limit_ns), (51_010, Some(21_010)));
        // Three quarters of the last one are the host's, as it says; and that there are such
        // interruptions shows where nothing was stopped.
        assert_eq!((tried.found, tried.class_right, tried.noise_ns), (2, 1, 1_000_000));
    }

    #[test]
    fn noise_does_not_widen_what_may_be() {
        let noisy = Place { noise_ns: 40 * MS, ..place() };
        let stop = |begin, doubt| Stop { begin, end: begin + MS, doubt };
        let measured = Measured {
            gaps: vec![vec![
                gap(10 * MS, 48 * MS, Class::ScheduledOut),
                gap(60 * MS, 61 * MS, Class::ScheduledOut),
            ]],
            tsc_start: 0,
            done: vec![stop(10 * MS, 10), stop(60 * MS, 60_000)],
        };
        let tried = noisy.find_stops(&measured, Duration::from_millis(1));
        assert_eq!(tried.limit_ns, MIN_LIMIT_NS + QUIET_NS + 10);
        // Of the second one, nobody knows how long it was.
        assert_eq!((tried.found, &tried.errors_ns, tried.doubt_ns), (2, &vec![37_000_000], 60_000));
        assert_eq!(Attempt::judged("stop-1ms", &tried).case.status, Status::NotJudged);
        let quiet =
            Place { noise_ns: 1000, ..place() }.find_stops(&measured, Duration::from_millis(1));
        assert_eq!(Attempt::judged("stop-1ms", &quiet).case.status, Status::Failed);
    }

    #[test]
    fn gaps_that_the_end_cuts_are_no_evidence() {
        let whole = gap(10 * MS, 60 * MS, Class::ScheduledOut);
        let measured = Measured {
            gaps: vec![vec![gap(0, MS, Class::Irq), whole, gap(70 * MS, 100 * MS, Class::Host)]],
            tsc_start: 0,
            done: (),
        };
        let duration = Duration::from_millis(100);
        assert_eq!(place().inside(&measured, duration, 50 * MS), [whole]);
        let expected = Expected { length_ns: 50 * MS, limit_ns: 1, least: 1 };
        let tried = place().like(&measured, duration, expected);
        assert_eq!((tried.injected, tried.errors_ns, tried.class_right), (1, vec![0], 1));
    }
}
