// SPDX-License-Identifier: Apache-2.0
//! How a vCPU ended, and what its thread leaves behind.

use std::{fmt, fs, io};

use crate::vcpu::dump::InternalError;

/// Why a vCPU does not run any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was told to stop.
    Stopped,
    /// ACPI S5.
    PowerOff,
    /// ACPI or keyboard-controller reset.
    Reset,
    /// Triple fault. On AMD, KVM has reset the registers before it reports this.
    TripleFault,
    /// KVM could not go on.
    InternalError(InternalError),
    /// The CPU refused to enter the guest.
    FailedEntry {
        /// Hardware's reason.
        reason: u64,
        /// Host CPU.
        cpu: u32,
    },
    /// The host could not back guest memory.
    MemoryFault {
        /// Guest physical address, where known.
        address: Option<u64>,
    },
    /// KVM_RUN failed.
    RunFailed {
        /// Its errno.
        errno: i32,
    },
    /// An exit that no guest of ours should cause.
    Unexpected(UnexpectedExit),
    /// The thread panicked.
    Panicked(String),
}

/// An exit to user space that nothing here serves, as KVM numbers them (Linux
/// include/uapi/linux/kvm.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnexpectedExit {
    /// KVM_EXIT_*; 0, which KVM calls unknown, before the number is read.
    Reason(u32),
    /// KVM_EXIT_SYSTEM_EVENT, of a type that is neither shutdown nor reset.
    SystemEvent(u32),
}

/// Those that a machine without the feature they belong to could meet all the same.
const EXIT_NAMES: [(u32, &str); 11] = [
    (kvm_bindings::KVM_EXIT_UNKNOWN, "KVM_EXIT_UNKNOWN"),
    (kvm_bindings::KVM_EXIT_EXCEPTION, "KVM_EXIT_EXCEPTION"),
    (kvm_bindings::KVM_EXIT_HYPERCALL, "KVM_EXIT_HYPERCALL"),
    (kvm_bindings::KVM_EXIT_DEBUG, "KVM_EXIT_DEBUG"),
    (kvm_bindings::KVM_EXIT_HLT, "KVM_EXIT_HLT"),
    (kvm_bindings::KVM_EXIT_NMI, "KVM_EXIT_NMI"),
    (kvm_bindings::KVM_EXIT_HYPERV, "KVM_EXIT_HYPERV"),
    (kvm_bindings::KVM_EXIT_X86_RDMSR, "KVM_EXIT_X86_RDMSR"),
    (kvm_bindings::KVM_EXIT_X86_WRMSR, "KVM_EXIT_X86_WRMSR"),
    (kvm_bindings::KVM_EXIT_X86_BUS_LOCK, "KVM_EXIT_X86_BUS_LOCK"),
    (kvm_bindings::KVM_EXIT_NOTIFY, "KVM_EXIT_NOTIFY"),
];

impl fmt::Display for UnexpectedExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reason(number) => match EXIT_NAMES.iter().find(|(known, _)| known == number) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "KVM_EXIT number {number}"),
            },
            Self::SystemEvent(kind) => write!(f, "KVM_EXIT_SYSTEM_EVENT type {kind}"),
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::PowerOff => f.write_str("power-off"),
            Self::Reset => f.write_str("reset"),
            Self::TripleFault => f.write_str("triple fault"),
            Self::InternalError(error) => write!(f, "KVM internal error: {error}"),
            Self::FailedEntry { reason, cpu } => {
                write!(
                    f,
                    "entry to the guest failed on host CPU {cpu}, hardware reason {reason:#x}"
                )
            }
            Self::MemoryFault { address: Some(address) } => {
                write!(f, "the host cannot back guest memory at {address:#x}; is it out of memory?")
            }
            Self::MemoryFault { address: None } => {
                f.write_str("the host cannot back guest memory; is it out of memory?")
            }
            Self::RunFailed { errno } => {
                write!(f, "KVM_RUN failed: {}", io::Error::from_raw_os_error(*errno))
            }
            Self::Unexpected(exit) => write!(f, "unexpected exit {exit}"),
            Self::Panicked(text) => write!(f, "vCPU thread panicked: {text}"),
        }
    }
}

/// Exits to user space, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// IN instructions.
    pub port_in: u64,
    /// OUT instructions.
    pub port_out: u64,
    /// Loads from device memory.
    pub mmio_read: u64,
    /// Stores to device memory.
    pub mmio_write: u64,
    /// All others.
    pub other: u64,
}

impl ExitCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.port_in + self.port_out + self.mmio_read + self.mmio_write + self.other
    }
}

/// What a vCPU thread leaves behind.
#[derive(Clone, Debug)]
pub struct VcpuEnd {
    /// Number of the vCPU.
    pub cpu: u32,
    /// Why it ended.
    pub reason: ExitReason,
    /// Exits to user space.
    pub exits: ExitCounts,
    /// Registers, code and stack, unless the end was orderly.
    pub state: Option<String>,
    /// The thread's own host scheduling: time on a CPU and time waiting for one, in ns.
    pub host_sched: Option<HostSched>,
}

/// First two fields of /proc/PID/schedstat (Linux Documentation/scheduler/sched-stats.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostSched {
    /// Time on a host CPU, in nanoseconds.
    pub run_ns: u64,
    /// Time runnable without a host CPU, in nanoseconds.
    pub wait_ns: u64,
}

impl HostSched {
    /// Of the calling thread; `None` where the host kernel does not account it.
    pub(super) fn of_this_thread() -> Option<Self> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let mut fields = text.split_whitespace().map(str::parse);
        Some(Self { run_ns: fields.next()?.ok()?, wait_ns: fields.next()?.ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unexpected_exits_have_the_names_of_kvm() {
        let text = |exit| ExitReason::Unexpected(exit).to_string();
        assert_eq!(text(UnexpectedExit::Reason(5)), "unexpected exit KVM_EXIT_HLT");
        assert_eq!(text(UnexpectedExit::Reason(99)), "unexpected exit KVM_EXIT number 99");
        let event = text(UnexpectedExit::SystemEvent(3));
        assert_eq!(event, "unexpected exit KVM_EXIT_SYSTEM_EVENT type 3");
    }
}
