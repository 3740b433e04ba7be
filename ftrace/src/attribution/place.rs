// SPDX-License-Identifier: Apache-2.0
//! Where a thread is.

use super::UnknownReason;

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Unknown(UnknownReason),
    Running(u32),
    Queued(u32),
    Waking { cpu: u32, moved: bool },
    Sleeping { cpu: u32, state: u8 },
}

impl Place {
    /// The CPU whose state matters for why it does not run.
    pub(super) fn cpu(self) -> Option<u32> {
        match self {
            Self::Running(cpu) | Self::Queued(cpu) => Some(cpu),
            Self::Unknown(_) | Self::Waking { .. } | Self::Sleeping { .. } => None,
        }
    }
}
