// SPDX-License-Identifier: Apache-2.0
//! Whose limit or fault each error is: one table. It alone decides the exit status. `workload`
//! and `guest` have theirs in an `owner.rs` of their own; `docs/exit-status.md` has all of them for
//! users, and a test holds them together.

use std::io;
use std::path::Path;

use ftrace::FtraceError;
use initrd_builder::InitrdError;
use protocol::error::Owner;
use results::error::{GapsError, ResultError, SetError};
use results::folder::FolderError;
use vmm::bus::BusError;
use vmm::config::ConfigError;
use vmm::kvm::KvmError;
use vmm::load::LoadError;
use vmm::memory::MemoryError;
use vmm::shared::SharedError;
use vmm::vcpu::ExitReason;
use vmm::vcpu::sched::SchedError;
use vmm::virtio::console::ConsoleError;
use vmm::vm::{BuildError, StartError, StopError};
use vmm::x86_64::image_error::ImageError;
use vmm::x86_64::lint::LintError;
use vmm::x86_64::payload::PayloadError;
use workload::error::{LoadError as GuestLoadError, MeterError};
use workload::kernel::tunables::TunableError;

use crate::kernel::KernelFileError;
use crate::modules::ModulesError;
use crate::package::PackageError;
use crate::probe::ProbeError;
use crate::status::{Failure, Owned};

impl Owned for KernelFileError {
    fn owner(&self) -> Owner {
        match self {
            Self::Read { .. }
            | Self::Mode { .. }
            | Self::FolderMode { .. }
            | Self::NotAFile(_)
            | Self::NotThere(_)
            | Self::Folder(_)
            | Self::Packages(_)
            | Self::NotBuilt(_)
            | Self::Several { .. }
            | Self::NotInstalled { .. }
            | Self::NoKernel { .. } => Owner::Request,
            // What is in the file decides, see `kernel::unusable`.
            Self::TooLarge { .. } | Self::Unusable { .. } | Self::NoClock { .. } => Owner::Kernel,
            Self::Package(error) => error.owner(),
        }
    }
}

impl Owned for PackageError {
    fn owner(&self) -> Owner {
        Owner::Kernel
    }
}

impl Owned for ModulesError {
    fn owner(&self) -> Owner {
        match self {
            // What was named is not what was meant.
            Self::None(_)
            | Self::NeitherOf(_)
            | Self::Several { .. }
            | Self::Endless { .. }
            | Self::Foreign { .. } => Owner::Request,
            Self::Read { source, .. } | Self::List { source, .. } => of_file(source),
            Self::Package(error) => error.owner(),
            Self::Damaged { .. } | Self::Missing { .. } => Owner::Kernel,
        }
    }
}

impl Owned for FolderError {
    fn owner(&self) -> Owner {
        match self {
            Self::NotEmpty(_) | Self::Busy(_) => Owner::Request,
            Self::Create { source, .. } | Self::Write { source, .. } => of_file(source),
        }
    }
}

impl Owned for ResultError {
    fn owner(&self) -> Owner {
        // A result that the user has named, or a file of it.
        Owner::Request
    }
}

impl Owned for SetError {
    fn owner(&self) -> Owner {
        // A folder that the user has named.
        Owner::Request
    }
}

impl Owned for GapsError {
    fn owner(&self) -> Owner {
        Owner::Request
    }
}

/// The owner of an error in reading or writing a file that the user has named.
pub fn of_file(error: &io::Error) -> Owner {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    match (error.kind(), error.raw_os_error()) {
        (StorageFull | QuotaExceeded | OutOfMemory, _) => Owner::Host,
        (_, Some(libc::EIO | libc::EMFILE | libc::ENFILE)) => Owner::Host,
        _ => Owner::Request,
    }
}

/// Why such a file cannot be read, or written.
pub fn file_failure(error: &io::Error, what: &str, path: &Path) -> Failure {
    Failure::new(of_file(error), format!("cannot {what} {}: {error}", path.display()))
}

impl Owned for ProbeError {
    fn owner(&self) -> Owner {
        match self {
            Self::Cannot(_) | Self::Undecided(_) => Owner::Host,
            // The probe guest is ours, and no kernel.
            Self::Build(_) | Self::Start(_) => Owner::Host,
        }
    }
}

impl Owned for BuildError {
    fn owner(&self) -> Owner {
        match self {
            Self::Config(error) => error.owner(),
            Self::Kvm(error) => error.owner(),
            Self::Memory(error) => error.owner(),
            Self::Load(error) => error.owner(),
            Self::Console(error) => error.owner(),
            Self::Shared(error) => error.owner(),
            Self::Bus(error) => error.owner(),
            Self::EventFd(_) => Owner::Host,
            // Where they go has been checked against the size of RAM.
            Self::Write(_) => Owner::Internal,
        }
    }
}

impl Owned for ConfigError {
    fn owner(&self) -> Owner {
        Owner::Request
    }
}

impl Owned for KvmError {
    fn owner(&self) -> Owner {
        Owner::Host
    }
}

impl Owned for MemoryError {
    fn owner(&self) -> Owner {
        Owner::Host
    }
}

impl Owned for LoadError {
    fn owner(&self) -> Owner {
        match self {
            Self::Image(error) => error.owner(),
            Self::Payload(error) => error.owner(),
            Self::Memory { .. } | Self::CmdlineLength { .. } | Self::CmdlineCharacter(_) => {
                Owner::Request
            }
            Self::Write(_) => Owner::Internal,
        }
    }
}

impl Owned for ImageError {
    fn owner(&self) -> Owner {
        match self {
            // A package is no kernel; what nobody knows may be a bad one.
            Self::Other(_) | Self::OtherMachine(_) => Owner::Request,
            Self::Empty
            | Self::Truncated { .. }
            | Self::NotAKernel(_)
            | Self::TooOld { .. }
            | Self::Not64Bit(_)
            | Self::Damaged(_) => Owner::Kernel,
        }
    }
}

impl Owned for PayloadError {
    fn owner(&self) -> Owner {
        match self {
            Self::Image(error) => error.owner(),
            Self::TooLarge { .. } => Owner::Request,
            Self::UnknownFormat(_)
            | Self::Damaged { .. }
            | Self::Lies { .. }
            | Self::Bomb { .. }
            | Self::Slow { .. } => Owner::Kernel,
        }
    }
}

impl Owned for LintError {
    fn owner(&self) -> Owner {
        Owner::Kernel
    }
}

impl Owned for SharedError {
    fn owner(&self) -> Owner {
        match self {
            Self::Load(error) => error.owner(),
            Self::Lint(error) => error.owner(),
            Self::Memory(error) => error.owner(),
            Self::File(..) => Owner::Host,
            // We have written it ourselves.
            Self::Damaged(_) => Owner::Internal,
        }
    }
}

impl Owned for ConsoleError {
    fn owner(&self) -> Owner {
        match self {
            Self::FileDescriptor { .. } => Owner::Host,
            // Ports and their names are the user's (`boot --port`).
            Self::PortCount(_)
            | Self::ConsoleNotFirst(_)
            | Self::Name(_)
            | Self::DuplicateName(_) => Owner::Request,
        }
    }
}

impl Owned for BusError {
    fn owner(&self) -> Owner {
        // Addresses are constants of ours.
        Owner::Internal
    }
}

impl Owned for StartError {
    fn owner(&self) -> Owner {
        match self {
            Self::Sched(error) => error.owner(),
            Self::Thread { .. } | Self::Silent(_) => Owner::Host,
            // The signal is a constant of ours.
            Self::Signal(_) => Owner::Internal,
        }
    }
}

impl Owned for SchedError {
    fn owner(&self) -> Owner {
        match self {
            // That the CPUs are there has been checked before.
            Self::Refused { .. } | Self::Elsewhere { .. } => Owner::Host,
            // Only virtual machines in a guest have cookies: their host is the kernel under test.
            Self::Cookie { .. } => Owner::Kernel,
        }
    }
}

impl Owned for StopError {
    fn owner(&self) -> Owner {
        Owner::Host
    }
}

/// Of a vCPU that ended without being told to.
impl Owned for ExitReason {
    fn owner(&self) -> Owner {
        match self {
            Self::Stopped | Self::PowerOff | Self::Reset | Self::TripleFault => Owner::Kernel,
            Self::InternalError(_) | Self::Unexpected(_) => Owner::Kernel,
            Self::FailedEntry { .. } | Self::MemoryFault { .. } | Self::RunFailed { .. } => {
                Owner::Host
            }
            Self::Panicked(_) => Owner::Internal,
        }
    }
}

impl Owned for InitrdError {
    fn owner(&self) -> Owner {
        match self {
            // This executable, and its libraries.
            Self::Read { .. } | Self::NotElf { .. } | Self::MissingLibrary { .. } => Owner::Host,
            // Paths are constants of ours.
            _ => Owner::Internal,
        }
    }
}

impl Owned for FtraceError {
    fn owner(&self) -> Owner {
        match self {
            Self::ReadFile { source, .. } | Self::ReadPages { source, .. } => of_file(source),
            Self::Write(error) => of_file(error),
            // A trace that the user has named, or one in a result folder.
            _ => Owner::Request,
        }
    }
}

impl Owned for MeterError {
    fn owner(&self) -> Owner {
        self.owner()
    }
}

impl Owned for TunableError {
    fn owner(&self) -> Owner {
        self.owner()
    }
}

impl Owned for GuestLoadError {
    fn owner(&self) -> Owner {
        self.owner()
    }
}
