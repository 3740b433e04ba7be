// SPDX-License-Identifier: Apache-2.0
//! Whose limit or fault each error of this crate is: one table. `docs/exit-status.md` has it for
//! users, and a test of the command holds the two together.

use crate::{
    agent::AgentError,
    cosched::CoschedError,
    error::Owner,
    knobs::KnobError,
    load::{LoadError, SharedError},
    meter::MeterError,
    modules::ModuleError,
    nested::NestedError,
    port::PortError,
    system::MountError,
};

impl AgentError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Mount(error) => error.owner(),
            Self::Port(error) => error.owner(),
            Self::Module(error) => error.owner(),
            Self::Knob(error) => of_knob(error),
            Self::Cosched(error) => error.owner(),
            Self::Load(error) => of_load(error),
            Self::NotInForce(_) => Owner::Kernel,
            // The launcher has written it: whatever is wrong with it has become so in the guest.
            Self::Job(_) => Owner::Kernel,
            // Files of this kernel, and its own drivers.
            Self::Trace(_) | Self::Cpus(_) | Self::KeepOff(_) | Self::Send(_) => Owner::Kernel,
        }
    }
}

/// In a machine of ours, whatever is not in force is the kernel's doing.
fn of_knob(error: &KnobError) -> Owner {
    match error {
        KnobError::NotInForce { .. } => Owner::Kernel,
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

impl KnobError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Unknown { .. } | Self::Value { .. } => Owner::Request,
            Self::NotInForce { owner, .. } => *owner,
        }
    }
}

impl CoschedError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Prctl { .. } | Self::NoFile { .. } | Self::Refused(_) => Owner::Kernel,
        }
    }
}

impl MeterError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Spec(_) => Owner::Request,
            Self::NoTracing { .. } | Self::Absent { .. } | Self::NoMode { .. } => Owner::Kernel,
            Self::File { .. } | Self::Refused { .. } => Owner::Kernel,
        }
    }
}

impl NestedError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::NoKvm(_) | Self::Memfd(_) | Self::Launch { .. } => Owner::Kernel,
            Self::Prepare(_) | Self::NoneUp(_) | Self::Confine(_) => Owner::Kernel,
        }
    }
}

impl SharedError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            // Fewer records, and they fit.
            Self::TooLarge { .. } | Self::Allocate { .. } => Owner::Request,
            Self::Map { .. } | Self::Open { .. } => Owner::Host,
        }
    }
}

impl LoadError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Shared(error) => error.owner(),
            Self::Meter(error) => error.owner(),
            Self::Nested(error) => error.owner(),
            // In a guest it is the kernel under test, elsewhere the host.
            Self::CpuAbsent { owner, .. }
            | Self::Spawn { owner, .. }
            | Self::GroupDied { owner, .. } => *owner,
            Self::Spec(_) => Owner::Request,
            Self::Policy(error) => error.owner,
            Self::NoTscFrequency | Self::Cookie(_) => Owner::Kernel,
            Self::NotReady { .. } | Self::NotEnded { .. } => Owner::Kernel,
            Self::TraceFiles(_) | Self::Observer(_) => Owner::Kernel,
            Self::Cpus(_) | Self::NoRdtscp => Owner::Host,
            // A child of ours is there until we have waited for it.
            Self::Wait(_) => Owner::Internal,
        }
    }
}
