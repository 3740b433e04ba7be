// SPDX-License-Identifier: Apache-2.0
//! Why there is no virtual machine.

use std::io;

use thiserror::Error;
use vm_memory::GuestMemoryError;

use crate::bus::BusError;
use crate::config::ConfigError;
use crate::kvm::KvmError;
use crate::load_error::LoadError;
use crate::memory::MemoryError;
use crate::shared::SharedError;
use crate::virtio::console::ConsoleError;

/// Why there is no virtual machine.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host's KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host's memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel, initrd or command line.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The console's ports.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A kernel or an initrd that many machines map.
    #[error(transparent)]
    Shared(#[from] SharedError),
    /// File descriptors.
    #[error("cannot create an eventfd; is the limit of open files too low?")]
    EventFd(#[source] io::Error),
    /// A table outside guest RAM.
    #[error("cannot write boot structures to guest memory")]
    Write(#[from] GuestMemoryError),
}
