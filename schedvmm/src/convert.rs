// SPDX-License-Identifier: Apache-2.0
//! A machine's features: [`vmm`] has types of its own for them, knowing no jobs and no results.

use protocol::job;
use results::model;
use vmm::config::{BootMethod, PvProfile, Transport};
use vmm::loaded::Entered;

use crate::cli::Boot;

impl From<Boot> for BootMethod {
    fn from(boot: Boot) -> Self {
        match boot {
            Boot::Payload => Self::Payload,
            Boot::Stub => Self::Stub,
        }
    }
}

/// A machine's features, as orders and results have them.
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

/// How a machine reaches its devices, as orders and results have it.
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

#[cfg(test)]
mod tests {
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
}
