// SPDX-License-Identifier: Apache-2.0
//! What whoever called us left us to run with: limits of our cgroups and of those above them,
//! affinity, scheduling policy. All of it bends how threads of ours are scheduled, and none of it
//! is the doing of the kernel under test.

mod cgroup;

use std::fs;
use std::path::{Path, PathBuf};

use protocol::cpu_list::CpuSet;
use results::model::{self, CallerFacts, CallerPolicy, CpuQuota, SchedClass};
use workload::kernel::affinity;
use workload::kernel::sched_policy::SchedAttr;

use self::cgroup::{Cgroup, ThrottleReadings};
use crate::status::Failure;
use crate::units::show_ns;

/// What lets a quota pass.
const OPTION: &str = "--allow-quota";

/// Where we stand.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Cgroups that this process is in: its own first, then those above it, hierarchy by hierarchy.
    cgroups: Vec<Cgroup>,
    /// All else, as result.json has it.
    facts: CallerFacts,
    before: ThrottleReadings,
    root: PathBuf,
    demand: Demand,
}

/// Demand of a run on the CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// CPUs that it keeps busy.
    pub cpus: usize,
    /// True if a quota is no reason not to measure.
    pub allow_quota: bool,
    /// True if threads of real-time classes are among them.
    pub real_time: bool,
    /// Who inherits from this process.
    pub heirs: Heirs,
}

/// Who inherits a nice value, a policy and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heirs {
    /// The threads that measure.
    #[default]
    Load,
    /// The vCPUs' threads.
    Vcpus,
}

impl Heirs {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "the load's threads",
            Self::Vcpus => "the vCPUs' threads",
        }
    }
}

/// Events while the load ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meanwhile {
    /// Remark for the reader.
    pub notes: Vec<String>,
    /// Why what was measured says nothing of the kernel.
    pub faults: Vec<String>,
}

impl Meanwhile {
    /// Both what this says and what the other one does.
    pub fn and(mut self, other: Self) -> Self {
        self.notes.extend(other.notes);
        self.faults.extend(other.faults);
        self
    }
}

/// Utilization that is no bound.
const MAX_UTIL: u32 = 1024;

/// Scheduling of a thread with these attributes.
fn policy_of(attr: SchedAttr) -> CallerPolicy {
    const RESET_ON_FORK: u64 = 1;
    // Both 0 is a kernel without CONFIG_UCLAMP_TASK.
    let clamped = (attr.util_min, attr.util_max) != (0, 0);
    let class = match attr.policy.cast_signed() {
        libc::SCHED_OTHER => SchedClass::Other,
        libc::SCHED_FIFO => SchedClass::Fifo,
        libc::SCHED_RR => SchedClass::Rr,
        libc::SCHED_BATCH => SchedClass::Batch,
        libc::SCHED_IDLE => SchedClass::Idle,
        libc::SCHED_DEADLINE => SchedClass::Deadline,
        // SCHED_EXT.
        7 => SchedClass::Ext,
        _ => SchedClass::Number(attr.policy),
    };
    CallerPolicy {
        class,
        nice: attr.nice,
        priority: attr.priority,
        slice_ns: (attr.runtime > 0).then_some(attr.runtime),
        reset_on_fork: attr.flags & RESET_ON_FORK != 0,
        util_min: clamped.then_some(attr.util_min),
        util_max: clamped.then_some(attr.util_max),
    }
}

fn is_real_time(policy: &CallerPolicy) -> bool {
    policy.priority > 0
}

/// Differences of a policy from the default, in words.
fn unusual_policy(policy: &CallerPolicy) -> Vec<String> {
    let mut words = Vec::new();
    match (policy.class, policy.priority) {
        (SchedClass::Other, _) => {}
        (class, 0) => words.push(format!("policy {}", class.name())),
        (class, priority) => words.push(format!("policy {}:{priority}", class.name())),
    }
    if policy.nice != 0 {
        words.push(format!("nice {}", policy.nice));
    }
    if let Some(min) = policy.util_min.filter(|min| *min != 0 && !is_real_time(policy)) {
        words.push(format!("a utilization of at least {min} of {MAX_UTIL}"));
    }
    if let Some(max) = policy.util_max.filter(|max| *max != MAX_UTIL) {
        words.push(format!("a utilization of at most {max} of {MAX_UTIL}"));
    }
    words
}

impl Caller {
    /// Reads where this process stands, and whether that lets it measure.
    ///
    /// # Errors
    /// A quota would throttle what is measured.
    pub fn admit(demand: Demand) -> Result<Self, Failure> {
        let caller = Self::read(Path::new("/"), demand);
        match caller.quota_in_the_way() {
            Some(text) => Err(Failure::kernel(text)),
            None => Ok(caller),
        }
    }

    /// The same of the system whose files are below `root`, without a judgement.
    fn read(root: &Path, demand: Demand) -> Self {
        // It is in force only where the kernel groups tasks so.
        let autogroup = number_in("proc/sys/kernel/sched_autogroup_enabled", root) == Some(1);
        let nice = fs::read_to_string(root.join("proc/self/autogroup")).ok();
        let nice = nice.and_then(|text| text.trim().rsplit(' ').next()?.parse().ok());
        let (cgroups, cgroups_hidden) = cgroup::read(root);
        let facts = CallerFacts {
            cgroups: cgroups.iter().map(|cgroup| cgroup.facts.clone()).collect(),
            cgroups_hidden,
            affinity: affinity::of_this_thread().ok().map(|cpus| cpus.to_string()),
            policy: SchedAttr::of_this_thread().ok().map(policy_of),
            autogroup_nice: nice.filter(|_| autogroup),
            rt_runtime_us: number_in("proc/sys/kernel/sched_rt_runtime_us", root),
            rt_period_us: number_in("proc/sys/kernel/sched_rt_period_us", root),
            throttled: None,
        };
        Self {
            before: ThrottleReadings::read(&cgroups),
            cgroups,
            facts,
            root: root.to_owned(),
            demand,
        }
    }

    /// As result.json has it.
    pub fn facts(&self) -> &CallerFacts {
        &self.facts
    }

    /// Quotas, the smallest first.
    fn quotas(&self) -> Vec<(&Cgroup, CpuQuota)> {
        let mut quotas: Vec<_> = self
            .cgroups
            .iter()
            .filter_map(|cgroup| Some((cgroup, Cgroup::quota(cgroup)?)))
            .collect();
        quotas.sort_by_key(|(_, quota)| quota.millionths());
        quotas
    }

    /// CPUs that a run keeps busy: its own, and one for all of us that does not measure, unless
    /// it may not use so many.
    fn busy_cpus(&self) -> usize {
        let given = self.facts.affinity.as_ref().and_then(|cpus| cpus.parse::<CpuSet>().ok());
        let given = given.map_or(usize::MAX, |cpus| cpus.iter().count());
        // Pinned ones need not be among those given.
        self.demand.cpus.saturating_add(1).min(given.max(self.demand.cpus))
    }

    /// Why nothing can be measured here: whoever is throttled does not run, and it looks as if
    /// the kernel starved it.
    fn quota_in_the_way(&self) -> Option<String> {
        let (cgroup, quota) = self.quotas().into_iter().next()?;
        let busy = self.busy_cpus();
        if self.demand.allow_quota || !quota.is_below(busy) {
            return None;
        }
        Some(format!(
            "{} gives this process {} CPUs, and the run keeps up to {busy} busy: what the quota \
             throttles would look like gaps of the kernel; run it outside of that cgroup, raise \
             the quota, or measure all the same with {OPTION}",
            cgroup.describe_quota(quota),
            quota.cpus()
        ))
    }

    /// Remarks to be read before the run.
    pub fn notes(&self) -> Vec<String> {
        let heirs = self.demand.heirs.name();
        let mut notes = Vec::new();
        if let Some((cgroup, quota)) = self.quotas().into_iter().next() {
            let cpus = quota.cpus();
            let quota = cgroup.describe_quota(quota);
            notes.push(format!("{quota} limits this process to {cpus} CPUs"));
        }
        if self.facts.cgroups_hidden && !self.before.see_hidden() {
            notes.push(
                "cgroups above this process's own cannot be seen (a container): a CPU quota of \
                 theirs would look like gaps of the kernel, and this kernel does not tell of it"
                    .into(),
            );
        }
        let unusual = self.cgroups.iter().filter_map(|cgroup| {
            let words = cgroup.unusual().join(", ");
            (!words.is_empty()).then(|| format!("cgroup {} has {words}", cgroup.facts.path))
        });
        let unusual: Vec<_> = unusual.collect();
        if !unusual.is_empty() {
            notes.push(unusual.join("; "));
        }
        if let Some(policy) = &self.facts.policy {
            let words = unusual_policy(policy);
            if !words.is_empty() && !policy.reset_on_fork {
                let words = words.join(", ");
                notes.push(format!("{heirs} have {words} from whoever called schedvmm"));
            }
        }
        if let Some(nice) = self.facts.autogroup_nice.filter(|nice| *nice != 0) {
            notes.push(format!("the session of this process has nice {nice} (autogroup)"));
        }
        notes.extend(self.real_time_note());
        notes
    }

    /// Real-time tasks may be held back by a limit of their own.
    fn real_time_note(&self) -> Option<String> {
        let inherited = self.facts.policy.as_ref().is_some_and(is_real_time);
        let (runtime, period) = self.facts.rt_runtime_us.zip(self.facts.rt_period_us)?;
        let limited = runtime >= 0 && runtime < period;
        ((inherited || self.demand.real_time) && limited).then(|| {
            format!(
                "real-time threads are among {}, and this kernel holds them back: \
                 sched_rt_runtime_us is {runtime} of {period} (from Linux 6.12 on the fair \
                 server does it instead)",
                self.demand.heirs.name()
            )
        })
    }

    /// The load begins: what happened before does not count.
    pub fn load_begins(&mut self) {
        self.before = ThrottleReadings::read(&self.cgroups);
    }

    /// The load has ended: what a quota had to do with it meanwhile.
    pub fn load_ended(&mut self) -> Meanwhile {
        let throttled = ThrottleReadings::read(&self.cgroups).since(&self.before, &self.cgroups);
        let (mut notes, mut faults) = (Vec::new(), Vec::new());
        if throttled.is_some() {
            faults.push(describe(&throttled.facts));
        }
        self.facts.throttled = Some(throttled.facts);
        let now = Self::read(&self.root, self.demand);
        let quotas = now.quotas();
        if now.limits() == self.limits() {
            // As it was.
        } else if quotas.is_empty() && self.quotas().is_empty() {
            let none = "this process was moved to another cgroup while the load ran; no quota is \
                        around either";
            notes.push(none.to_owned());
        } else {
            let quota = quotas.first().map(|(cgroup, quota)| cgroup.describe_quota(*quota));
            faults.push(format!(
                "this process was moved to another cgroup, or a quota was changed, while the load \
                 ran; now there is {}",
                quota.unwrap_or_else(|| "none".into())
            ));
        }
        if self.demand.allow_quota {
            notes.extend(faults);
            return Meanwhile { notes, faults: Vec::new() };
        }
        let faults = faults.into_iter().map(|fault| format!("{fault} ({OPTION} lets it pass)"));
        Meanwhile { notes, faults: faults.collect() }
    }

    /// State that must not change while it is measured.
    fn limits(&self) -> Vec<(&str, Option<CpuQuota>)> {
        self.cgroups.iter().map(|cgroup| (&*cgroup.facts.path, cgroup.quota())).collect()
    }
}

fn number_in(file: &str, root: &Path) -> Option<i64> {
    let text = fs::read_to_string(root.join(file)).ok()?;
    text.trim().parse::<i64>().ok()
}

fn describe(throttled: &model::Throttled) -> String {
    let by = match &*throttled.by.join(", ") {
        "" => "of a cgroup that cannot be seen".to_owned(),
        by => format!("of cgroup {by}"),
    };
    let times = match throttled.times {
        0 => String::new(),
        1 => " once".into(),
        times => format!(" {times} times"),
    };
    let ns = throttled.ns.map_or_else(String::new, |ns| format!(", for {} in all", show_ns(ns)));
    format!("a CPU quota {by} throttled this process{times} while the load ran{ns}")
}

#[cfg(test)]
mod tests;
