// SPDX-License-Identifier: Apache-2.0
//! Whose limit or fault each error of this crate is: one table. `docs/exit-status.md` has it for
//! users, and a test of the command holds the two together.

use protocol::error::Owner;
use workload::error::LoadError;
use workload::kernel::tunables::TunableError;

use crate::agent::AgentError;
use crate::modules::ModuleError;
use crate::nested::NestedError;
use crate::pid1::MountError;
use crate::port::PortError;

impl AgentError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Mount(error) => error.owner(),
            Self::Port(error) => error.owner(),
            Self::Module(error) => error.owner(),
            Self::Tunable(error) => of_tunable(error),
            Self::Cosched(error) => error.owner(),
            Self::Load(error) => of_load(error),
            Self::Nested(error) => error.owner(),
            Self::NotInForce(_) => Owner::Kernel,
            // The launcher has written it: whatever is wrong with it has become so in the guest.
            Self::Job(_) => Owner::Kernel,
            // Files of this kernel, and its own drivers.
            Self::Trace(_) | Self::Cpus(_) | Self::KeepOff(_) | Self::Send(_) => Owner::Kernel,
        }
    }
}

/// In a machine of ours, whatever is not in force is the kernel's doing.
fn of_tunable(error: &TunableError) -> Owner {
    match error {
        TunableError::NotInForce { .. } => Owner::Kernel,
        other => other.owner(),
    }
}

/// The same.
fn of_load(error: &LoadError) -> Owner {
    match error {
        LoadError::Policy(_) => Owner::Kernel,
        other => other.owner(),
    }
}

impl MountError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        Owner::Kernel
    }
}

impl ModuleError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        // The launcher has laid it down as it was, and has looked whom it is for.
        match self {
            Self::Read { .. } | Self::Refused { .. } => Owner::Kernel,
        }
    }
}

impl PortError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Absent { .. } | Self::Open { .. } | Self::Unconnected { .. } => Owner::Kernel,
        }
    }
}

impl NestedError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::NoKvm(_) | Self::Memfd(_) | Self::Launch { .. } => Owner::Kernel,
            Self::Prepare(_) | Self::NoneUp(_) | Self::Confine(_) => Owner::Kernel,
            Self::Load(error) => of_load(error),
            Self::Release { .. } | Self::Observer(_) => Owner::Kernel,
        }
    }
}
