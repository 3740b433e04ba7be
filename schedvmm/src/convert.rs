// SPDX-License-Identifier: Apache-2.0
//! A machine's features: [`vmm`] has types of its own for them, knowing no jobs and no results.

use std::io;

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
    match reason {
        ExitReason::Stopped => End::Stopped,
        ExitReason::PowerOff => End::PowerOff,
        ExitReason::Reset => End::Reset,
        ExitReason::TripleFault => End::TripleFault,
        ExitReason::InternalError(error) => End::InternalError(error.to_string()),
        ExitReason::FailedEntry { reason, cpu } => {
            End::FailedEntry(format!("on host CPU {cpu}, hardware reason {reason:#x}"))
        }
        ExitReason::MemoryFault { address } => {
            End::MemoryFault(address.map(|address| format!("at {address:#x}")).unwrap_or_default())
        }
        ExitReason::RunFailed { errno } => {
            End::RunFailed(io::Error::from_raw_os_error(*errno).to_string())
        }
        ExitReason::Unexpected(exit) => End::Unexpected(exit.to_string()),
        ExitReason::Panicked(text) => End::Panicked(text.clone()),
    }
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

    /// The sentence that is printed, which older results have, says the same as the name and the
    /// detail in result.json.
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
            let end = model::VcpuEndReason::of_sentence(&reason.to_string());
            assert_eq!(vcpu_end(&reason), end);
        }
    }
}
