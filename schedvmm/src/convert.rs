// SPDX-License-Identifier: Apache-2.0
//! A machine's features: [`vmm`] has types of its own for them, knowing no jobs and no results.

use protocol::job;
use results::model;
use vmm::config::{BootMethod, PvProfile, Transport};
use vmm::loaded::Entered;
use vmm::vcpu::ExitReason;

use crate::cli::Boot;

impl From<Boot> for BootMethod {
    fn from(boot: Boot) -> Self {
        match boot {
            Boot::Payload => Self::Payload,
            Boot::Stub => Self::Stub,
        }
    }
}

/// A machine's features, as jobs and results have them.
pub fn pv(profile: PvProfile) -> job::Pv {
    match profile {
        PvProfile::Clock => job::Pv::Clock,
        PvProfile::Cloud => job::Pv::Cloud,
        PvProfile::Off => job::Pv::Off,
    }
}

/// And back.
pub fn pv_profile(pv: job::Pv) -> PvProfile {
    match pv {
        job::Pv::Clock => PvProfile::Clock,
        job::Pv::Cloud => PvProfile::Cloud,
        job::Pv::Off => PvProfile::Off,
    }
}

/// How a machine reaches its devices, as jobs and results have it.
pub fn transport(transport: Transport) -> job::Transport {
    match transport {
        Transport::Mmio => job::Transport::Mmio,
        Transport::Pci => job::Transport::Pci,
    }
}

/// And back.
pub fn vmm_transport(transport: job::Transport) -> Transport {
    match transport {
        job::Transport::Mmio => Transport::Mmio,
        job::Transport::Pci => Transport::Pci,
    }
}

/// How a kernel was entered, as results have it.
pub fn entered(entered: Entered) -> model::Entered {
    match entered {
        Entered::Payload => model::Entered::Payload,
        Entered::Vmlinux => model::Entered::Vmlinux,
        Entered::Stub => model::Entered::Stub,
    }
}

/// Why a vCPU ended, as results have it.
pub fn vcpu_end(reason: &ExitReason) -> model::VcpuEndReason {
    use model::VcpuEndReason as End;
    // What is special to an end stands behind what all of its kind begin with.
    let make = match reason {
        ExitReason::Stopped => return End::Stopped,
        ExitReason::PowerOff => return End::PowerOff,
        ExitReason::Reset => return End::Reset,
        ExitReason::TripleFault => return End::TripleFault,
        ExitReason::InternalError(_) => End::InternalError,
        ExitReason::FailedEntry { .. } => End::FailedEntry,
        ExitReason::MemoryFault { .. } => End::MemoryFault,
        ExitReason::RunFailed { .. } => End::RunFailed,
        ExitReason::Unexpected(_) => End::Unexpected,
        ExitReason::Panicked(_) => End::Panicked,
    };
    let (text, begin) = (reason.to_string(), make(String::new()).to_string());
    make(text.strip_prefix(&begin).unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use vmm::vcpu::UnexpectedExit;

    use super::*;
    use crate::cli::Idle;

    #[test]
    fn names_are_those_of_the_command_line() {
        let name = |value: serde_json::Value| value.as_str().map(str::to_owned);
        for profile in [PvProfile::Clock, PvProfile::Cloud, PvProfile::Off] {
            let found = serde_json::json!(pv(profile));
            assert_eq!(name(found).as_deref(), Some(profile.name()));
            assert_eq!(pv_profile(pv(profile)), profile);
        }
        for one in Transport::ALL {
            let found = serde_json::json!(transport(one));
            assert_eq!(name(found).as_deref(), Some(one.name()));
            assert_eq!(vmm_transport(transport(one)), one);
        }
        for idle in [Idle::Halt, Idle::Poll] {
            let found = serde_json::json!(model::Idle::from(idle));
            assert_eq!(name(found).as_deref(), Some(idle.name()));
        }
    }

    /// The text in result.json is the one that is printed, and is read as what it was.
    #[test]
    fn ends_of_vcpus_are_told_in_one_way() {
        for reason in [
            ExitReason::Stopped,
            ExitReason::PowerOff,
            ExitReason::Reset,
            ExitReason::TripleFault,
            ExitReason::InternalError(Default::default()),
            ExitReason::FailedEntry { reason: 7, cpu: 1 },
            ExitReason::MemoryFault { address: None },
            ExitReason::MemoryFault { address: Some(4096) },
            ExitReason::RunFailed { errno: 5 },
            ExitReason::Unexpected(UnexpectedExit::Reason(5)),
            ExitReason::Panicked("why".into()),
        ] {
            let end = vcpu_end(&reason);
            assert_eq!(end.to_string(), reason.to_string());
            assert_eq!(model::VcpuEndReason::from(reason.to_string()), end);
        }
    }
}
