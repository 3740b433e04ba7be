// SPDX-License-Identifier: Apache-2.0
//! Whose limit or fault each error of this crate is: one table. `docs/exit-status.md` has it for
//! users, and a test of the command holds the two together.

use protocol::error::Owner;

use crate::error::{LoadError, MeterError};
use crate::kernel::core_sched::CoschedError;
use crate::kernel::tunables::TunableError;
use crate::shared_memory::SharedError;

impl TunableError {
    /// Whose limit or fault it is.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Value { .. } => Owner::Request,
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
