// SPDX-License-Identifier: Apache-2.0
//! Why a vCPU ended: one of few ends, and for those that nobody planned what KVM or the host says.

use serde::{Deserialize, Serialize};

/// Why a vCPU ended: `"end": "power-off"`, or `"end": "unexpected", "detail": "KVM_EXIT_HLT"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", content = "detail", rename_all = "kebab-case")]
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
    /// One of an older version that is not known here, in its words.
    Other(String),
}

type MakeEnd = fn(String) -> VcpuEndReason;

/// In older results an end is a sentence: how those begin that have more to say.
const SENTENCES: [(&str, MakeEnd); 6] = [
    ("KVM internal error: ", VcpuEndReason::InternalError),
    ("entry to the guest failed ", VcpuEndReason::FailedEntry),
    ("the host cannot back guest memory", VcpuEndReason::MemoryFault),
    ("KVM_RUN failed: ", VcpuEndReason::RunFailed),
    ("unexpected exit ", VcpuEndReason::Unexpected),
    ("vCPU thread panicked: ", VcpuEndReason::Panicked),
];

impl VcpuEndReason {
    /// An end as an older result has it: a sentence, or one of the names that are still in use.
    pub fn of_sentence(text: &str) -> Self {
        match text {
            "stopped" => Self::Stopped,
            "power-off" => Self::PowerOff,
            "reset" => Self::Reset,
            "triple fault" => Self::TripleFault,
            _ => SENTENCES
                .iter()
                .find_map(|(begin, make)| Some(make(detail(text.strip_prefix(begin)?))))
                .unwrap_or_else(|| Self::Other(text.to_owned())),
        }
    }
}

/// Without what a sentence had around it.
fn detail(rest: &str) -> String {
    rest.trim_end_matches("; is it out of memory?").trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::VcpuEndReason as End;
    use super::*;

    #[test]
    fn an_end_has_a_name_and_what_is_special_to_it() {
        for (end, written) in [
            (End::PowerOff, json!({ "end": "power-off" })),
            (End::TripleFault, json!({ "end": "triple-fault" })),
            (
                End::Unexpected("KVM_EXIT_HLT".into()),
                json!({ "end": "unexpected", "detail": "KVM_EXIT_HLT" }),
            ),
            (End::RunFailed(String::new()), json!({ "end": "run-failed", "detail": "" })),
        ] {
            assert_eq!(serde_json::to_value(&end).unwrap(), written);
            assert_eq!(End::deserialize(&written).unwrap(), end);
        }
    }

    #[test]
    fn sentences_of_older_results_are_read() {
        for (text, end) in [
            ("stopped", End::Stopped),
            ("power-off", End::PowerOff),
            ("reset", End::Reset),
            ("triple fault", End::TripleFault),
            ("unexpected exit KVM_EXIT_HLT", End::Unexpected("KVM_EXIT_HLT".into())),
            (
                "the host cannot back guest memory at 0x1000; is it out of memory?",
                End::MemoryFault("at 0x1000".into()),
            ),
            (
                "the host cannot back guest memory; is it out of memory?",
                End::MemoryFault(String::new()),
            ),
            ("vCPU thread panicked: why", End::Panicked("why".into())),
            ("fell asleep", End::Other("fell asleep".into())),
        ] {
            assert_eq!(End::of_sentence(text), end, "{text}");
        }
    }
}
