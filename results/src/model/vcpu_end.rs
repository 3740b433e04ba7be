// SPDX-License-Identifier: Apache-2.0
//! Why a vCPU ended: one of few ends, and for those that nobody planned what KVM or the host says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a vCPU ended. In the file it is a text, such as `power-off` or `unexpected exit KVM_EXIT_HLT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum VcpuEndReason {
    /// It was told to stop.
    Stopped,
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// Triple fault.
    TripleFault,
    /// KVM could not go on: its suberror and data.
    InternalError(String),
    /// The CPU refused to enter the guest: which one, and hardware's reason.
    FailedEntry(String),
    /// The host could not back guest memory: where.
    MemoryFault(String),
    /// KVM_RUN failed: its errno, in words.
    RunFailed(String),
    /// An exit that nothing here serves: KVM's name of it.
    Unexpected(String),
    /// The thread panicked: its message.
    Panicked(String),
    /// One of another version, in its words.
    Other(String),
}

/// Ends that say it all.
const PLAIN: [(&str, VcpuEndReason); 4] = [
    ("stopped", VcpuEndReason::Stopped),
    ("power-off", VcpuEndReason::PowerOff),
    ("reset", VcpuEndReason::Reset),
    ("triple fault", VcpuEndReason::TripleFault),
];

type MakeEnd = fn(String) -> VcpuEndReason;

/// How a text begins that has more to say.
const DETAILED: [(&str, MakeEnd); 6] = [
    ("KVM internal error: ", VcpuEndReason::InternalError),
    ("entry to the guest failed ", VcpuEndReason::FailedEntry),
    ("the host cannot back guest memory", VcpuEndReason::MemoryFault),
    ("KVM_RUN failed: ", VcpuEndReason::RunFailed),
    ("unexpected exit ", VcpuEndReason::Unexpected),
    ("vCPU thread panicked: ", VcpuEndReason::Panicked),
];

impl From<String> for VcpuEndReason {
    fn from(text: String) -> Self {
        if let Some((_, plain)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return plain.clone();
        }
        let detailed = DETAILED.iter();
        let found = detailed
            .filter_map(|(begin, make)| Some(make(text.strip_prefix(begin)?.to_owned())))
            .next();
        found.unwrap_or(Self::Other(text))
    }
}

impl From<VcpuEndReason> for String {
    fn from(reason: VcpuEndReason) -> Self {
        reason.to_string()
    }
}

impl fmt::Display for VcpuEndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begin, detail) = match self {
            Self::Stopped => ("stopped", ""),
            Self::PowerOff => ("power-off", ""),
            Self::Reset => ("reset", ""),
            Self::TripleFault => ("triple fault", ""),
            Self::InternalError(detail) => (DETAILED[0].0, detail.as_str()),
            Self::FailedEntry(detail) => (DETAILED[1].0, detail.as_str()),
            Self::MemoryFault(detail) => (DETAILED[2].0, detail.as_str()),
            Self::RunFailed(detail) => (DETAILED[3].0, detail.as_str()),
            Self::Unexpected(detail) => (DETAILED[4].0, detail.as_str()),
            Self::Panicked(detail) => (DETAILED[5].0, detail.as_str()),
            Self::Other(text) => ("", text.as_str()),
        };
        write!(f, "{begin}{detail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_read_as_it_was_written() {
        for (name, plain) in PLAIN {
            assert_eq!(VcpuEndReason::from(name.to_owned()), plain);
            assert_eq!(plain.to_string(), name);
        }
        for (begin, make) in DETAILED {
            let text = format!("{begin}why");
            assert_eq!(VcpuEndReason::from(text.clone()), make("why".into()));
            assert_eq!(String::from(VcpuEndReason::from(text.clone())), text);
        }
        let other = VcpuEndReason::from("fell asleep".to_owned());
        assert_eq!(other, VcpuEndReason::Other("fell asleep".into()));
        assert_eq!(serde_json::to_string(&other).unwrap(), "\"fell asleep\"");
    }
}
