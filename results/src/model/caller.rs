// SPDX-License-Identifier: Apache-2.0
//! What whoever called us left us to run with.

use std::borrow::Cow;

use protocol::message::CgroupVersion;
use serde::{Deserialize, Serialize};

use super::flattened::{Flattened, flattened};

/// Limits of the cgroups around this process, its affinity, its scheduling policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerFacts {
    /// Cgroups that it is in: its own first, then those above it, hierarchy by hierarchy.
    pub cgroups: Vec<CallerCgroup>,
    /// There may be cgroups above them that cannot be seen.
    pub cgroups_hidden: bool,
    /// CPUs that it was given, as a list.
    pub affinity: Option<String>,
    /// How it is scheduled, and what it starts.
    pub policy: Option<CallerPolicy>,
    /// Nice value of its session, where the kernel goes by sessions.
    pub autogroup_nice: Option<i32>,
    /// CPU time that real-time tasks have of each period: -1 for all.
    pub rt_runtime_us: Option<i64>,
    /// That period.
    pub rt_period_us: Option<i64>,
    /// Throttling while the load ran; `None` before it has ended.
    pub throttled: Option<Throttled>,
}

/// One cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerCgroup {
    /// Which hierarchy it is in.
    pub hierarchy: CgroupVersion,
    /// Its path there.
    pub path: String,
    /// What its kernel or controllers do not tell is left out.
    #[serde(flatten)]
    pub limits: CgroupLimits,
}

/// Limits of one cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// CPU time of each period.
    #[serde(flatten, deserialize_with = "flattened")]
    pub quota: Option<CpuQuota>,
    /// `cpu.weight`, or `cpu.shares` of v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// Its tasks are of class SCHED_IDLE as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<bool>,
    /// `cpu.uclamp.min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uclamp_min: Option<String>,
    /// `cpu.uclamp.max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uclamp_max: Option<String>,
    /// CPUs that it may use, as a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<String>,
    /// `cpuset.cpus.partition`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// v1 with CONFIG_RT_GROUP_SCHED.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rt_runtime_us: Option<i64>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rt_period_us: Option<u64>,
}

/// So much CPU time of each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuQuota {
    /// The time.
    pub quota_us: u64,
    /// The period.
    pub period_us: u64,
}

impl CpuQuota {
    /// Whether so many busy CPUs would use it up.
    pub fn is_below(self, cpus: usize) -> bool {
        u128::from(self.quota_us) < u128::from(self.period_us) * cpus as u128
    }

    /// In CPUs, for a reader.
    pub fn cpus(self) -> String {
        let hundredths = self.millionths() / 10_000;
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    }

    /// In millionths of a CPU.
    pub fn millionths(self) -> u128 {
        u128::from(self.quota_us) * 1_000_000 / u128::from(self.period_us.max(1))
    }
}

impl Flattened for CpuQuota {
    const KEY: &'static str = "quota_us";
}

/// How a thread is scheduled (sched_getattr(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerPolicy {
    /// Its class.
    pub class: SchedClass,
    /// Its nice value.
    pub nice: i32,
    /// Of real-time classes.
    pub priority: u32,
    /// A slice of its own, or the base slice: Linux 6.12.
    pub slice_ns: Option<u64>,
    /// Children begin with the default policy.
    pub reset_on_fork: bool,
    /// Lower bound of its utilization, of 1024; `None` where the kernel has none.
    pub util_min: Option<u32>,
    /// Upper bound.
    pub util_max: Option<u32>,
}

/// Scheduling classes by the names of sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SchedClass {
    /// SCHED_OTHER.
    Other,
    /// SCHED_FIFO.
    Fifo,
    /// SCHED_RR.
    Rr,
    /// SCHED_BATCH.
    Batch,
    /// SCHED_IDLE.
    Idle,
    /// SCHED_DEADLINE.
    Deadline,
    /// SCHED_EXT.
    Ext,
    /// One that came later: its number, which is a text in the file as the names are.
    #[serde(untagged, with = "number_as_text")]
    Number(u32),
}

mod number_as_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is no scheduling class")))
    }
}

impl SchedClass {
    /// As in the result.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Other => "other",
            Self::Fifo => "fifo",
            Self::Rr => "rr",
            Self::Batch => "batch",
            Self::Idle => "idle",
            Self::Deadline => "deadline",
            Self::Ext => "ext",
            Self::Number(number) => return Cow::Owned(number.to_string()),
        })
    }
}

/// How a quota held back this process's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// How often quotas of the cgroups that can be seen were used up, on any CPU.
    pub times: u64,
    /// For how long, of all CPUs together.
    pub ns: Option<u64>,
    /// Cgroups whose quotas they were.
    pub by: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_of_a_later_kernel_is_a_number_in_a_text() {
        for (class, text) in [(SchedClass::Batch, "\"batch\""), (SchedClass::Number(8), "\"8\"")] {
            assert_eq!(serde_json::to_string(&class).unwrap(), text);
            assert_eq!(serde_json::from_str::<SchedClass>(text).unwrap(), class);
            assert_eq!(text, format!("\"{}\"", class.name()));
        }
        assert!(serde_json::from_str::<SchedClass>("\"realtime\"").is_err());
    }
}
