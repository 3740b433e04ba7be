// SPDX-License-Identifier: Apache-2.0
//! Kinds of cause, as clauses tell them apart.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::gap_account::MANY_CPUS;
use super::text::place;

/// A kind of cause. In a file it is a text, such as `queued` or `CPU 3 forced idle`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ClauseKind {
    /// On a run queue, and others ran.
    Queued,
    /// On the run queue of a CPU that was kept idle.
    ForcedIdle {
        /// The CPU.
        cpu: u32,
    },
    /// Its group had used its quota up.
    Throttled,
    /// On the run queue of a CPU that was idle for no reason.
    RunnableOnIdle,
    /// Woken, and on no run queue yet.
    Waking,
    /// Between two CPUs.
    Migrating,
    /// It slept.
    Asleep,
    /// Its CPU served interrupts.
    Interrupts,
    /// Its CPU served softirqs.
    Softirqs,
    /// It ran, as far as the trace knows.
    Running,
    /// The trace does not tell.
    Unknown,
    /// One of another version, in its words.
    Other(String),
}

/// Those without a CPU.
const NAMES: [(&str, ClauseKind); 10] = [
    ("queued", ClauseKind::Queued),
    ("throttled", ClauseKind::Throttled),
    ("runnable on an idle CPU", ClauseKind::RunnableOnIdle),
    ("being woken", ClauseKind::Waking),
    ("migrating", ClauseKind::Migrating),
    ("asleep", ClauseKind::Asleep),
    ("in interrupts", ClauseKind::Interrupts),
    ("in softirqs", ClauseKind::Softirqs),
    ("running by the trace", ClauseKind::Running),
    ("unknown", ClauseKind::Unknown),
];

impl From<String> for ClauseKind {
    fn from(text: String) -> Self {
        if let Some((_, kind)) = NAMES.iter().find(|(name, _)| *name == text) {
            return kind.clone();
        }
        let cpu = text.strip_suffix(" forced idle").and_then(cpu_of);
        cpu.map_or(Self::Other(text), |cpu| Self::ForcedIdle { cpu })
    }
}

/// The CPU of a [`place`].
fn cpu_of(text: &str) -> Option<u32> {
    let number = text.strip_prefix("CPU ").and_then(|number| number.parse().ok());
    number.or_else(|| (text == place(MANY_CPUS)).then_some(MANY_CPUS))
}

impl From<ClauseKind> for String {
    fn from(kind: ClauseKind) -> Self {
        kind.to_string()
    }
}

impl fmt::Display for ClauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForcedIdle { cpu } => write!(f, "{} forced idle", place(*cpu)),
            Self::Other(text) => f.write_str(text),
            known => {
                let name = NAMES.iter().find(|(_, kind)| kind == known);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read_as_it_was_written() {
        let named = NAMES.map(|(name, kind)| (name.to_owned(), kind));
        let others = [
            ("CPU 3 forced idle".to_owned(), ClauseKind::ForcedIdle { cpu: 3 }),
            ("several CPUs forced idle".to_owned(), ClauseKind::ForcedIdle { cpu: MANY_CPUS }),
            ("CPU x forced idle".to_owned(), ClauseKind::Other("CPU x forced idle".into())),
        ];
        for (text, kind) in named.into_iter().chain(others) {
            assert_eq!(kind.to_string(), text);
            assert_eq!(ClauseKind::from(text), kind);
        }
    }
}
