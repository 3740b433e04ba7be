// SPDX-License-Identifier: Apache-2.0
//! What one group of the load is like: how its threads behave, and what the scheduler is told
//! about them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration::{Written, nanoseconds, optional_nanoseconds};

/// One group: a process whose threads all behave alike, but that some of them may yield at first. In
/// the guest it has a cgroup of its own, as a virtual machine has, unless it is told otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Threads.
    pub threads: u32,
    /// CPUs of these threads, some of the load's; all of the load's where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// Each thread has one of these CPUs for itself, in their order, and does not share them all
    /// with the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spread: bool,
    /// True if it gets a core-scheduling cookie of its own, where cookies are given at all.
    pub cookie: bool,
    /// False if in the guest it stays in the cgroup of all others that have none of their own: then the
    /// scheduler weighs its threads against theirs, one by one.
    #[serde(rename = "cgroup", default = "yes", skip_serializing_if = "is_yes")]
    pub own_cgroup: bool,
    /// Scheduling attributes.
    #[serde(flatten)]
    pub policy: Policy,
    /// CPU time that its cgroup may use of each period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// For so long after the start a thread only calls `sched_yield(2)`, unmetered.
    #[serde(
        rename = "yield_ns",
        with = "nanoseconds",
        default,
        skip_serializing_if = "Duration::is_zero"
    )]
    pub yielding: Duration,
    /// So many of its threads do, its first ones; all of them where it is not said.
    #[serde(rename = "yield_threads", default, skip_serializing_if = "Option::is_none")]
    pub yielders: Option<u32>,
    /// Length of a burst; with `arrival`, the CPU time of each piece of work.
    #[serde(rename = "busy_ns", with = "nanoseconds")]
    pub busy: Duration,
    /// Pause between two bursts; with `arrival`, none.
    pub sleep: SleepSpec,
    /// When work comes, whatever has become of the work before it: an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<ArrivalSpec>,
}

impl GroupSpec {
    /// Threads on all CPUs of the load with a cookie of their own, that nothing else is said
    /// about.
    pub fn plain(threads: u32, busy: Duration, sleep: SleepSpec) -> Self {
        Self {
            threads,
            cpus: Vec::new(),
            spread: false,
            cookie: true,
            own_cgroup: true,
            policy: Policy::default(),
            quota: None,
            yielding: Duration::ZERO,
            yielders: None,
            busy,
            sleep,
            arrival: None,
        }
    }

    /// True if the scheduler has no reason to give it more or less than others.
    pub fn is_ordinary(&self) -> bool {
        self.cpus.is_empty()
            && self.policy == Policy::default()
            && self.quota.is_none()
            && self.own_cgroup
            && self.yielding.is_zero()
    }

    /// From one time in which a thread wants to run to the next, in the mean.
    pub fn cycle(&self) -> Duration {
        self.arrival.map_or_else(|| self.busy.saturating_add(self.sleep.mean()), ArrivalSpec::mean)
    }

    /// For how long the thread at this place in it only yields; zero if it does not.
    pub fn yielding_of(&self, thread: usize) -> Duration {
        let yields = self.yielders.is_none_or(|first| thread < first as usize);
        if yields { self.yielding } else { Duration::ZERO }
    }
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// Scheduling parameters of a group's threads. What is not given is inherited from whoever
/// started the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Scheduling class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Nice value of the threads; their cgroup gets the weight that belongs to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// Slice of the threads (EEVDF of Linux 6.12 and later).
    #[serde(
        rename = "slice_ns",
        with = "optional_nanoseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub slice: Option<Duration>,
}

/// Scheduling classes of sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// SCHED_OTHER.
    Other,
    /// SCHED_BATCH.
    Batch,
    /// SCHED_IDLE.
    Idle,
    /// SCHED_FIFO with this priority.
    Fifo(u32),
    /// SCHED_RR with this priority.
    RoundRobin(u32),
}

impl Class {
    /// Priorities that the real-time classes have.
    pub const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=99;

    /// True if threads of this class have a nice value and a slice (`fair_policy` of
    /// kernel/sched/sched.h).
    pub fn is_fair(self) -> bool {
        matches!(self, Self::Other | Self::Batch)
    }

    /// The priority of a real-time class.
    pub fn priority(self) -> Option<u32> {
        match self {
            Self::Fifo(priority) | Self::RoundRobin(priority) => Some(priority),
            Self::Other | Self::Batch | Self::Idle => None,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other => f.write_str("other"),
            Self::Batch => f.write_str("batch"),
            Self::Idle => f.write_str("idle"),
            Self::Fifo(priority) => write!(f, "fifo:{priority}"),
            Self::RoundRobin(priority) => write!(f, "rr:{priority}"),
        }
    }
}

/// CPU time in each period: `cpu.max` of cgroup v2, `cpu.cfs_quota_us` of v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// CPU time.
    #[serde(rename = "time_ns", with = "nanoseconds")]
    pub time: Duration,
    /// Of each such period.
    #[serde(rename = "period_ns", with = "nanoseconds")]
    pub period: Duration,
}

impl Quota {
    /// What the kernel accepts as a period (kernel/sched/core.c, `tg_set_cfs_bandwidth`).
    pub const PERIODS: std::ops::RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(1);
    /// The least time in a period.
    pub const MIN: Duration = Duration::from_millis(1);
}

/// What the kernel accepts as a slice (kernel/sched/syscalls.c, `__setparam_fair`); it cuts
/// others to this.
pub const SLICES: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(100)..=Duration::from_millis(100);

/// What is wrong with a group, if anything is: a text for the user.
pub fn fault(group: &GroupSpec) -> Option<String> {
    let Policy { class, nice, slice } = group.policy;
    let fair = class.is_none_or(Class::is_fair);
    if group.threads == 0 {
        return Some("a group needs at least 1 thread".into());
    }
    if group.busy.is_zero() {
        return Some("bursts must last longer than 0".into());
    }
    if let Some(every) =
        group.arrival.map(ArrivalSpec::mean).filter(|mean| *mean < ArrivalSpec::MIN)
    {
        return Some(format!(
            "work that comes each {every:?}: give {:?} at least",
            ArrivalSpec::MIN
        ));
    }
    if let Some(class) = class.filter(|class| {
        class.priority().is_some_and(|priority| !Class::PRIORITIES.contains(&priority))
    }) {
        return Some(format!("policy {class}: a priority is between 1 and 99"));
    }
    if let Some(nice) = nice.filter(|nice| !(-20..=19).contains(nice)) {
        return Some(format!("nice {nice}: it must be between -20 and 19"));
    }
    if let Some(slice) = slice.filter(|slice| !SLICES.contains(slice)) {
        return Some(format!("slice {slice:?}: it must be between 100us and 100ms"));
    }
    if !fair && (nice.is_some() || slice.is_some()) {
        return Some("only other and batch have a nice value and a slice".into());
    }
    if let Some(yielders) = group.yielders {
        if group.yielding.is_zero() {
            return Some(format!(
                "{yielders} threads yield, and not for how long: give yield a time"
            ));
        }
        if !(1..=group.threads).contains(&yielders) {
            let threads = group.threads;
            return Some(format!("{yielders} threads yield, of {threads}: give 1 to {threads}"));
        }
    }
    if group.quota.is_some() && !group.own_cgroup {
        return Some("a quota is of a cgroup: leave cgroup = \"none\" out".into());
    }
    if let Some(Quota { time, period }) = group
        .quota
        .filter(|quota| quota.time < Quota::MIN || !Quota::PERIODS.contains(&quota.period))
    {
        return Some(format!(
            "quota {time:?} of {period:?}: the period must be between 1ms and 1s, and the time \
             at least 1ms"
        ));
    }
    None
}

/// Distribution of the pause between two bursts, drawn anew for every pause.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SleepSpec {
    /// Evenly distributed between the two, ends included.
    Uniform {
        /// Shortest pause.
        #[serde(rename = "min_ns", with = "nanoseconds")]
        min: Duration,
        /// Longest pause.
        #[serde(rename = "max_ns", with = "nanoseconds")]
        max: Duration,
    },
    /// Always the same.
    #[serde(rename = "fixed_ns", with = "nanoseconds")]
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    #[serde(rename = "exponential_mean_ns", with = "nanoseconds")]
    Exponential(Duration),
}

impl SleepSpec {
    /// Its mean.
    pub fn mean(self) -> Duration {
        match self {
            Self::Uniform { min, max } => min.saturating_add(max) / 2,
            Self::Fixed(pause) => pause,
            Self::Exponential(mean) => mean,
        }
    }
}

/// When work comes to a thread: at moments that do not depend on how it fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArrivalSpec {
    /// Each time when so long has passed.
    #[serde(rename = "periodic_ns", with = "nanoseconds")]
    Periodic(Duration),
    /// By chance, so long after one another in the mean: a Poisson process.
    #[serde(rename = "poisson_mean_ns", with = "nanoseconds")]
    Poisson(Duration),
}

impl ArrivalSpec {
    /// The shortest mean distance: each piece of work that came has an entry of its own, also those
    /// that a thread never got to.
    pub const MIN: Duration = Duration::from_micros(10);

    /// The most pieces of work that may come to a thread in a load: all may be left when it ends.
    pub const MAX_PIECES: u128 = 10_000_000;

    /// What is wrong with it in a load of this length, if anything is: a text for the user.
    pub fn fault(self, duration: Duration) -> Option<String> {
        let pieces = duration.as_nanos() / self.mean().as_nanos().max(1);
        (pieces > Self::MAX_PIECES).then(|| {
            let least = u64::try_from(duration.as_nanos().div_ceil(Self::MAX_PIECES));
            format!(
                "arrival {self} in a load of {duration:?}: {pieces} pieces of work for a thread are too \
                 many to keep; let work come each {:?} or more rarely, or shorten the load \
                 (--duration)",
                Duration::from_nanos(least.unwrap_or(u64::MAX))
            )
        })
    }

    /// Mean distance of two arrivals.
    pub fn mean(self) -> Duration {
        match self {
            Self::Periodic(period) => period,
            Self::Poisson(mean) => mean,
        }
    }
}

impl fmt::Display for ArrivalSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Periodic(period) => write!(f, "periodic:{}", Written(*period)),
            Self::Poisson(mean) => write!(f, "poisson:{}", Written(*mean)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> GroupSpec {
        GroupSpec::plain(2, Duration::from_secs(1), SleepSpec::Fixed(Duration::ZERO))
    }

    #[test]
    fn a_plain_group_is_short_in_json_and_comes_back() {
        let json = serde_json::to_string(&plain()).unwrap();
        assert_eq!(
            json,
            r#"{"threads":2,"cookie":true,"busy_ns":1000000000,"sleep":{"fixed_ns":0}}"#
        );
        let whole = GroupSpec {
            cpus: vec![3],
            policy: Policy {
                class: Some(Class::Batch),
                nice: Some(-5),
                slice: Some(Duration::from_millis(3)),
            },
            quota: Some(Quota {
                time: Duration::from_millis(50),
                period: Duration::from_millis(100),
            }),
            yielding: Duration::from_secs(5),
            yielders: Some(1),
            arrival: Some(ArrivalSpec::Poisson(Duration::from_millis(5))),
            ..plain()
        };
        let together = GroupSpec { own_cgroup: false, ..plain() };
        assert!(serde_json::to_string(&together).unwrap().contains(r#""cgroup":false"#));
        for group in [plain(), whole, together] {
            let json = serde_json::to_string(&group).unwrap();
            assert_eq!(serde_json::from_str::<GroupSpec>(&json).unwrap(), group);
        }
    }

    #[test]
    fn faults_are_named_with_their_values() {
        assert_eq!(fault(&plain()), None);
        let policy = |class, nice, slice: Option<u64>| GroupSpec {
            policy: Policy { class, nice, slice: slice.map(Duration::from_micros) },
            ..plain()
        };
        let arrival = |arrival| GroupSpec { arrival: Some(arrival), ..plain() };
        assert_eq!(fault(&arrival(ArrivalSpec::Poisson(ArrivalSpec::MIN))), None);
        let each = ArrivalSpec::Poisson(ArrivalSpec::MIN);
        assert_eq!(each.fault(Duration::from_secs(100)), None);
        let text = each.fault(Duration::from_secs(101)).unwrap();
        assert!(text.contains("poisson:10µs in a load of 101s: 10100000 pieces"), "{text}");
        assert!(text.contains("come each 10.1µs or more rarely"), "{text}");
        let yields = |threads| GroupSpec {
            yielders: Some(threads),
            yielding: Duration::from_secs(1),
            ..plain()
        };
        assert_eq!(fault(&yields(2)), None);
        let quota = |time, period| GroupSpec {
            quota: Some(Quota {
                time: Duration::from_micros(time),
                period: Duration::from_micros(period),
            }),
            ..plain()
        };
        for (bad, words) in [
            (GroupSpec { threads: 0, ..plain() }, "1 thread"),
            (GroupSpec { yielders: Some(1), ..plain() }, "give yield a time"),
            (yields(0), "0 threads yield, of 2: give 1 to 2"),
            (yields(3), "3 threads yield, of 2"),
            (GroupSpec { own_cgroup: false, ..quota(50_000, 100_000) }, "of a cgroup"),
            (GroupSpec { busy: Duration::ZERO, ..plain() }, "longer than 0"),
            (arrival(ArrivalSpec::Periodic(Duration::from_micros(9))), "each 9µs: give 10µs"),
            (arrival(ArrivalSpec::Poisson(Duration::ZERO)), "each 0ns"),
            (policy(Some(Class::Fifo(100)), None, None), "fifo:100"),
            (policy(Some(Class::RoundRobin(0)), None, None), "rr:0"),
            (policy(None, Some(20), None), "nice 20"),
            (policy(None, None, Some(99)), "99µs"),
            (policy(Some(Class::Fifo(1)), Some(1), None), "only other and batch"),
            (quota(500, 100_000), "500µs"),
            (quota(50_000, 2_000_000), "2s"),
        ] {
            let text = fault(&bad).unwrap_or_else(|| panic!("accepted: {bad:?}"));
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(fault(&policy(Some(Class::Batch), Some(19), Some(100))), None);
        assert_eq!(fault(&quota(50_000, 100_000)), None);
    }

    #[test]
    fn what_is_special_is_not_ordinary() {
        assert!(plain().is_ordinary());
        assert!(GroupSpec { cookie: false, threads: 9, ..plain() }.is_ordinary());
        assert!(!GroupSpec { cpus: vec![1], ..plain() }.is_ordinary());
        assert!(!GroupSpec { own_cgroup: false, ..plain() }.is_ordinary());
        let first = GroupSpec { yielders: Some(1), yielding: Duration::from_secs(5), ..plain() };
        assert!(!first.is_ordinary());
        assert_eq!([0, 1].map(|thread| first.yielding_of(thread).as_secs()), [5, 0]);
        assert_eq!(GroupSpec { yielders: None, ..first }.yielding_of(1).as_secs(), 5);
        let nice = Policy { nice: Some(5), ..Policy::default() };
        assert!(!GroupSpec { policy: nice, ..plain() }.is_ordinary());
    }
}
