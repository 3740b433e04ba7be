// SPDX-License-Identifier: Apache-2.0
//! What the kernel's own accounting says of a thread and of a group, beside what the meter finds.

use std::fs;
use std::path::Path;

use gaps::accounting::{Sample, parse_schedstat};
use protocol::report::GroupReport;

/// Of one thread, in nanoseconds. `None` is what this kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadAccount {
    /// Time on a CPU (schedstat, field 1).
    pub run_ns: Option<u64>,
    /// Time runnable but not running (schedstat, field 2).
    pub delay_ns: Option<u64>,
    /// Time for which this thread's cookie kept a sibling idle that had something to run.
    pub force_idle_ns: Option<u64>,
}

impl ThreadAccount {
    /// Of the calling thread: Documentation/scheduler/sched-stats.rst, and
    /// `core_forceidle_sum` of kernel/sched/debug.c (5.17; with schedstats on).
    pub fn of_this_thread() -> Self {
        Self::read(Path::new("/proc/thread-self"))
    }

    /// Of another thread, by its number. Nothing of one that has ended.
    pub fn of(tid: u32) -> Self {
        Self::read(&Path::new("/proc").join(tid.to_string()))
    }

    fn read(thread: &Path) -> Self {
        let schedstat = fs::read(thread.join("schedstat")).unwrap_or_default();
        let accounting = parse_schedstat(&schedstat);
        let sched = fs::read_to_string(thread.join("sched")).unwrap_or_default();
        Self {
            run_ns: accounting.map(|accounting| accounting.ran_ns),
            delay_ns: accounting.map(|accounting| accounting.waited_ns),
            force_idle_ns: milliseconds(&sched, "core_forceidle_sum"),
        }
    }

    /// The figures of `earlier`, a reading before this one, as far as it has them. Time on a CPU
    /// stays: the kernel's accounting of a thread that runs is behind, up to the next tick.
    pub fn with_waits_of(self, earlier: Self) -> Self {
        Self {
            run_ns: self.run_ns,
            delay_ns: earlier.delay_ns.or(self.delay_ns),
            force_idle_ns: earlier.force_idle_ns.or(self.force_idle_ns),
        }
    }

    /// The same with less time on a CPU.
    pub fn without_run_ns(self, ns: u64) -> Self {
        Self { run_ns: self.run_ns.map(|run_ns| run_ns.saturating_sub(ns)), ..self }
    }

    /// The same without the time for which siblings had been idle by then.
    pub fn without_force_idle_of(self, earlier: Self) -> Self {
        let before_ns = earlier.force_idle_ns.unwrap_or(0);
        let force_idle_ns = self.force_idle_ns.map(|ns| ns.saturating_sub(before_ns));
        Self { force_idle_ns, ..self }
    }

    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            run_ns: added(before.run_ns, self.run_ns),
            delay_ns: added(before.delay_ns, self.delay_ns),
            force_idle_ns: added(before.force_idle_ns, self.force_idle_ns),
        }
    }
}

/// Of processes, those below `proc`, whose names begin so: the rest of each name, and what is accounted
/// to it. `None` where the kernel counts nothing (CONFIG_SCHED_INFO), or it never ran.
pub fn of_processes_named(proc: &Path, begin: &str) -> Vec<(String, Option<Sample>)> {
    let mut found = Vec::new();
    for process in fs::read_dir(proc).into_iter().flatten().flatten() {
        let path = process.path();
        let Ok(comm) = fs::read_to_string(path.join("comm")) else { continue };
        let Some(rest) = comm.trim_end().strip_prefix(begin) else { continue };
        let schedstat = fs::read(path.join("schedstat")).unwrap_or_default();
        found.push((rest.to_owned(), parse_schedstat(&schedstat)));
    }
    found
}

/// A line of /proc/PID/sched: `name  :  milliseconds.nanoseconds`, the latter six digits.
fn milliseconds(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split([' ', ':']).next() == Some(name))?;
    let (whole, rest) = line.split_once(':')?.1.trim().split_once('.')?;
    let rest = (rest.len() == 6).then(|| rest.parse::<u64>().ok())??;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(rest)
}

/// Of one cgroup, from the `cpu.stat` in its directory.
pub fn cpu_stat(directory: &Path, schedstats: bool) -> GroupReport {
    let stat = fs::read_to_string(directory.join("cpu.stat")).unwrap_or_default();
    parse_cpu_stat(&stat, schedstats)
}

/// For how long tasks of one cgroup were throttled, by its own quota or by that of any cgroup
/// above it, whether that can be seen or not (`cpu.stat.local`, Linux 6.6 and later).
pub fn throttled_ns(directory: &Path) -> Option<u64> {
    let stat = fs::read_to_string(directory.join("cpu.stat.local")).ok()?;
    parse_cpu_stat(&stat, false).throttled_ns
}

/// True if the kernel counts forced idle time at all: it shows 0 where it does not.
pub fn schedstats_on() -> bool {
    fs::read_to_string("/proc/sys/kernel/sched_schedstats").is_ok_and(|text| text.trim() == "1")
}

/// v2 counts in microseconds, v1 (`throttled_time`) in nanoseconds. Forced idle is v2's alone
/// (1fcf54deb767, Linux 6.0).
fn parse_cpu_stat(stat: &str, schedstats: bool) -> GroupReport {
    GroupReport {
        force_idle_ns: from_us("core_sched.force_idle_usec", stat).filter(|_| schedstats),
        throttles: value_of("nr_throttled", stat),
        throttled_ns: from_us("throttled_usec", stat).or_else(|| value_of("throttled_time", stat)),
    }
}

fn value_of(name: &str, stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse::<u64>().ok())
}

fn from_us(name: &str, stat: &str) -> Option<u64> {
    value_of(name, stat).map(|us| us.saturating_mul(1000))
}

fn added(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    Some(after?.saturating_sub(before?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hierarchies_are_understood() {
        let v2 = "usage_usec 77\nuser_usec 7\ncore_sched.force_idle_usec 1500\nnr_periods 9\n\
                  nr_throttled 3\nthrottled_usec 250\nnr_bursts 0\n";
        let found = parse_cpu_stat(v2, true);
        let expected = GroupReport {
            force_idle_ns: Some(1_500_000),
            throttles: Some(3),
            throttled_ns: Some(250_000),
        };
        assert_eq!(found, expected);
        assert_eq!(parse_cpu_stat(v2, false).force_idle_ns, None, "a 0 that means nothing");
        let v1 = "nr_periods 9\nnr_throttled 2\nthrottled_time 123456\n";
        let found = parse_cpu_stat(v1, true);
        assert_eq!((found.force_idle_ns, found.throttled_ns), (None, Some(123_456)));
        assert_eq!(parse_cpu_stat("", true), GroupReport::default());
    }

    #[test]
    fn milliseconds_have_six_digits_after_the_point() {
        let text = "se.statistics.x : 1.5\ncore_forceidle_sum_not :  9.000000\n\
                    core_forceidle_sum                           :          1234.000567\n";
        assert_eq!(milliseconds(text, "core_forceidle_sum"), Some(1_234_000_567));
        assert_eq!(milliseconds(text, "se.statistics.x"), None);
        assert_eq!(milliseconds(text, "absent"), None);
    }

    #[test]
    fn an_account_is_what_was_added() {
        let account = |run_ns, force_idle_ns| ThreadAccount {
            run_ns: Some(run_ns),
            delay_ns: None,
            force_idle_ns,
        };
        assert_eq!(account(9, Some(5)).since(account(4, Some(5))), account(5, Some(0)));
        assert_eq!(account(9, Some(5)).since(account(4, None)), account(5, None));
    }

    #[test]
    fn this_kernel_tells_its_run_delay_or_does_not() {
        let found = ThreadAccount::of_this_thread();
        let there = fs::exists("/proc/thread-self/schedstat").unwrap();
        assert_eq!((found.run_ns.is_some(), found.delay_ns.is_some()), (there, there));
        // SAFETY: gettid has no arguments and cannot fail.
        let tid = crate::kernel::affinity::this_thread();
        let other = ThreadAccount::of(tid);
        assert_eq!((other.run_ns.is_some(), other.delay_ns.is_some()), (there, there));
        assert_eq!(ThreadAccount::of(u32::MAX), ThreadAccount::default());
    }

    #[test]
    fn what_a_thread_waited_for_after_the_hit_is_not_its_own() {
        let account = |run_ns, delay_ns, force_idle_ns| ThreadAccount {
            run_ns: Some(run_ns),
            delay_ns,
            force_idle_ns,
        };
        let end = account(90, Some(50), Some(7));
        let at_hit = account(80, Some(20), None);
        assert_eq!(end.with_waits_of(at_hit), account(90, Some(20), Some(7)));
        assert_eq!(end.with_waits_of(ThreadAccount::default()), end);
        assert_eq!(end.without_run_ns(4), account(86, Some(50), Some(7)));
        assert_eq!(ThreadAccount::default().without_run_ns(4), ThreadAccount::default());
    }
}
