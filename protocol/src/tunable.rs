// SPDX-License-Identifier: Apache-2.0
//! Scheduler tunables by intent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What is meant, whatever file this kernel keeps it in. In a file it is a text, such as `slice` or
/// `feature:WAKEUP_PREEMPTION`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TunableName {
    /// How tunables grow with the number of CPUs.
    Scaling,
    /// The least time that a thread runs before another may take its place.
    Slice,
    /// CFS: the time in which each runnable thread runs once.
    Latency,
    /// CFS: its slice by its own name.
    MinGranularity,
    /// CFS: how much better a waking thread must be to run at once.
    Wakeup,
    /// For how long a thread that has run is taken to have a warm cache.
    MigrationCost,
    /// Threads that are moved at once.
    NrMigrate,
    /// What a CPU takes of a group's quota at once.
    BandwidthSlice,
    /// Groups for sessions.
    Autogroup,
    /// The scheduler's statistics.
    Schedstats,
    /// The kernel's preemption model.
    Preempt,
    /// A timer for the end of a slice.
    Hrtick,
    /// A scheduler feature, by its name in the features file.
    Feature(String),
}

impl TunableName {
    /// All but features, as they are shown.
    pub const NAMED: [(&str, Self); 12] = [
        ("scaling", Self::Scaling),
        ("slice", Self::Slice),
        ("latency", Self::Latency),
        ("min-granularity", Self::MinGranularity),
        ("wakeup", Self::Wakeup),
        ("migration-cost", Self::MigrationCost),
        ("nr-migrate", Self::NrMigrate),
        ("bandwidth-slice", Self::BandwidthSlice),
        ("autogroup", Self::Autogroup),
        ("schedstats", Self::Schedstats),
        ("preempt", Self::Preempt),
        ("hrtick", Self::Hrtick),
    ];
}

/// A name that no tunable has.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no tunable `{name}`; there are {} and feature:NAME", known())]
pub struct UnknownTunable {
    /// What was asked for.
    name: String,
}

fn known() -> String {
    TunableName::NAMED.map(|(name, _)| name).join(", ")
}

impl FromStr for TunableName {
    type Err = UnknownTunable;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMED.iter().find(|(known, _)| *known == name);
        let feature = name.strip_prefix("feature:").filter(|feature| is_feature(feature));
        named
            .map(|(_, tunable)| tunable.clone())
            .or_else(|| feature.map(|feature| Self::Feature(feature.to_owned())))
            .ok_or_else(|| UnknownTunable { name: name.to_owned() })
    }
}

fn is_feature(name: &str) -> bool {
    let mut bytes = name.bytes();
    !name.is_empty()
        && bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

impl TryFrom<String> for TunableName {
    type Error = UnknownTunable;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<TunableName> for String {
    fn from(name: TunableName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for TunableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Feature(feature) = self {
            return write!(f, "feature:{feature}");
        }
        let name = Self::NAMED.iter().find(|(_, known)| known == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// One scheduler tunable, such as `slice=1.875ms` or `hrtick=on`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TuneRequest {
    /// Which.
    pub name: TunableName,
    /// The value as the user wrote it.
    pub value: String,
    /// Whether the user asked for it: without it the run is another one than was wanted.
    #[serde(default)]
    pub required: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let feature = TunableName::Feature("WAKEUP_PREEMPTION".into());
        let all = TunableName::NAMED.map(|(_, name)| name);
        for name in all.into_iter().chain([feature]) {
            assert_eq!(name.to_string().parse(), Ok(name.clone()));
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(json, format!("\"{name}\""));
        }
    }

    #[test]
    fn what_is_no_tunable_is_told_with_those_that_are() {
        for bad in ["", "slices", "Slice", "feature:", "feature:../x", "feature:wakeup"] {
            let text = bad.parse::<TunableName>().unwrap_err().to_string();
            assert!(text.contains(&format!("`{bad}`")), "{text}");
            assert!(text.contains("scaling, slice,") && text.ends_with("feature:NAME"), "{text}");
        }
    }
}
