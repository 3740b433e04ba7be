// SPDX-License-Identifier: Apache-2.0
//! The nested target: the load is virtual machines, and what is measured is what becomes of
//! their vCPUs.
//!
//! [`run`] has the place of [`workload::supervisor::run`], and gives its results in the same form:
//! each virtual machine is a group, each of its vCPUs a thread. It starts the running program again
//! for each VM (see [`protocol::launcher`]), lets them boot by turns on all CPUs, confines
//! their vCPU threads to the load's CPUs when the last one is ready, and tells them to start.
//! What they measure in themselves comes out through their launchers; since the TSC is the same at
//! all levels, it needs no translation.
//!
//! Nothing here knows KVM.

mod images;
mod measure;
mod progress;
mod report;
mod starter;
mod vm;
mod vms;

use std::io;

use protocol::cpu_list::CpuSet;
use thiserror::Error;
use workload::error::LoadError;
use workload::kernel::affinity;

pub use measure::{require_kvm, run};

/// Why there is nothing to measure.
#[derive(Debug, Error)]
pub enum NestedError {
    /// No KVM in this kernel.
    #[error("the kernel in the machine has no usable /dev/kvm{}", no_kvm(.0))]
    NoKvm(#[source] io::Error),
    /// Kernel and initrd of the virtual machines.
    #[error("the second-level guests cannot be prepared: {0}")]
    Prepare(String),
    /// No memory file.
    #[error("no memory file for the second-level kernel{}", no_memfd(.0))]
    Memfd(#[source] io::Error),
    /// A launcher cannot be started.
    #[error("the launcher of VM {vm} cannot be started")]
    Launch {
        /// Which.
        vm: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One that waited for others to boot still has the quota of one that waits.
    #[error("VM {vm} cannot have back the CPU time that it left to those that booted")]
    Release {
        /// Which.
        vm: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// None is there any more.
    #[error("no VM came up: {0}")]
    NoneUp(String),
    /// vCPU threads are not where they should be.
    #[error("{0}")]
    Confine(String),
    /// The observer could not take a result.
    #[error("results cannot be handed on")]
    Observer(#[from] io::Error),
    /// What holds for every load does not hold.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The CPUs that are online.
fn online() -> Result<CpuSet, NestedError> {
    affinity::online().map_err(|error| LoadError::Cpus(error).into())
}

/// What the kernel lacks, or this virtual machine, where the error tells.
fn no_kvm(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // The node is there, and no driver behind it.
        Some(libc::ENXIO | libc::ENODEV | libc::ENOENT) => {
            "; it needs CONFIG_KVM=y and CONFIG_KVM_INTEL=y or CONFIG_KVM_AMD=y, built in (a module \
             cannot be loaded there), and a processor that offers it virtualization"
        }
        _ => "",
    }
}

fn no_memfd(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "; the kernel needs CONFIG_MEMFD_CREATE=y",
        _ => "",
    }
}
