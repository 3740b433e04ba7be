// SPDX-License-Identifier: Apache-2.0
//! vCPUs: their state before the first instruction, their threads, and why they ended.

pub mod dump;
pub mod halts;
pub mod kick;
pub mod run;
pub mod sched;

use std::fmt;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl_iow_nr;

use crate::bus::Buses;
use crate::devices::power::PowerSwitch;
use crate::kvm::{KvmError, failed};
use crate::memory::GuestRam;
use crate::x86_64::{lapic, msrs, regs};
use dump::InternalError;

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
    Unexpected(String),
    /// The thread panicked.
    Panicked(String),
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
                write!(f, "KVM_RUN failed: {}", std::io::Error::from_raw_os_error(*errno))
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
    fn of_this_thread() -> Option<Self> {
        let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let mut fields = text.split_whitespace().map(str::parse);
        Some(Self { run_ns: fields.next()?.ok()?, wait_ns: fields.next()?.ok()? })
    }
}

/// A vCPU that is ready for its first instruction.
pub struct Vcpu {
    /// Number, from 0; the boot processor first.
    pub cpu: u32,
    fd: VcpuFd,
}

/// `KVM_VCPU_TSC_CTRL` / `KVM_VCPU_TSC_OFFSET` (Linux Documentation/virt/kvm/devices/vcpu.rst).
const VCPU_TSC_CTRL: u32 = 0;
const VCPU_TSC_OFFSET: u64 = 0;

mod request {
    use super::ioctl_iow_nr;
    ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, kvm_bindings::KVMIO, 0xe1, kvm_bindings::kvm_device_attr);
}

impl Vcpu {
    /// Creates vCPU `cpu` with this APIC ID.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn create(vm: &VmFd, cpu: u32, apic_id: u32) -> Result<Self, KvmError> {
        let fd = vm.create_vcpu(u64::from(apic_id)).map_err(failed("KVM_CREATE_VCPU"))?;
        Ok(Self { cpu, fd })
    }

    /// Gives it its CPUID table and its state after power-up. CPUID comes first: from Linux
    /// 6.13 on, MSRs that depend on it read as zero before.
    ///
    /// # Errors
    /// The ioctl that failed.
    pub fn configure(&self, cpuid: &[kvm_cpuid_entry2]) -> Result<(), KvmError> {
        let fd = &self.fd;
        let cpuid = CpuId::from_entries(cpuid).map_err(|_| KvmError::Ioctl {
            ioctl: "KVM_SET_CPUID2",
            source: kvm_ioctls::Error::new(libc::E2BIG),
        })?;
        fd.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
        set_msrs(fd, &msrs::required())?;
        // Refused by a KVM that does not know the register: only a warning in the guest.
        let _ = set_msrs(fd, &msrs::cosmetic());
        fd.set_fpu(&regs::fpu()).map_err(failed("KVM_SET_FPU"))?;
        let local_apic = fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        fd.set_lapic(&lapic::wire_local_interrupts(local_apic)).map_err(failed("KVM_SET_LAPIC"))
    }

    /// TSC frequency the guest sees, in kHz.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        self.fd.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))
    }

    /// Makes the guest's TSC equal to the host's. Returns false where KVM has no such
    /// control (before Linux 5.16).
    pub fn share_host_tsc(&self) -> bool {
        let offset = 0i64;
        let attr = kvm_bindings::kvm_device_attr {
            group: VCPU_TSC_CTRL,
            attr: VCPU_TSC_OFFSET,
            addr: &raw const offset as u64,
            flags: 0,
        };
        // SAFETY: the vCPU descriptor is valid; KVM reads one i64 from `addr`, which lives
        // until after the call.
        let result = unsafe {
            vmm_sys_util::ioctl::ioctl_with_ref(&self.fd, request::KVM_SET_DEVICE_ATTR(), &attr)
        };
        result == 0
    }

    /// Puts this vCPU at the kernel's entry point in 64-bit mode. All others wait for the
    /// guest's INIT and SIPI, which KVM serves by itself.
    ///
    /// # Errors
    /// The ioctl that failed.
    pub fn set_entry(&self, entry: u64) -> Result<(), KvmError> {
        let sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        self.fd.set_sregs(&regs::special(sregs)).map_err(failed("KVM_SET_SREGS"))?;
        self.fd.set_regs(&regs::general(entry)).map_err(failed("KVM_SET_REGS"))
    }

    /// KVM's statistics of this vCPU, where it has any.
    pub(crate) fn statistics(&self) -> Option<File> {
        halts::statistics(&self.fd)
    }

    /// Starts this vCPU's thread, named as QEMU and libvirt name theirs. `before` runs on
    /// the thread and decides whether the guest is entered at all; `after` gets the end.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn spawn(
        self,
        machine: Arc<Machine>,
        before: impl FnOnce() -> bool + Send + 'static,
        after: impl FnOnce(VcpuEnd) + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        thread::Builder::new().name(format!("CPU {}/KVM", self.cpu)).spawn(move || {
            if before() {
                after(self.live(&machine));
            }
        })
    }

    /// Runs to the end and always has a reason for it.
    fn live(mut self, machine: &Machine) -> VcpuEnd {
        let mut exits = ExitCounts::default();
        let around =
            run::VcpuContext { buses: &machine.buses, power: &machine.power, stop: &machine.stop };
        let ran = catch_unwind(AssertUnwindSafe(|| run::run(&mut self.fd, &around, &mut exits)));
        let reason = ran.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            ExitReason::Panicked(text.unwrap_or_default())
        });
        let orderly = match reason {
            ExitReason::Stopped => !machine.dump.load(Ordering::Acquire),
            ExitReason::PowerOff | ExitReason::Reset => true,
            _ => false,
        };
        let state = (!orderly).then(|| dump::state(&self.fd, &machine.ram));
        VcpuEnd { cpu: self.cpu, reason, exits, state, host_sched: HostSched::of_this_thread() }
    }
}

fn set_msrs(fd: &VcpuFd, entries: &[kvm_bindings::kvm_msr_entry]) -> Result<(), KvmError> {
    let list = Msrs::from_entries(entries).map_err(|_| set_msrs_error(libc::E2BIG))?;
    let done = fd.set_msrs(&list).map_err(failed("KVM_SET_MSRS"))?;
    if done == entries.len() { Ok(()) } else { Err(set_msrs_error(libc::EINVAL)) }
}

fn set_msrs_error(errno: i32) -> KvmError {
    KvmError::Ioctl { ioctl: "KVM_SET_MSRS", source: kvm_ioctls::Error::new(errno) }
}

/// State shared by all vCPUs of a machine.
pub struct Machine {
    /// Devices.
    pub buses: Buses,
    /// The power switch devices press.
    pub power: Arc<PowerSwitch>,
    /// Set when the machine is to stop.
    pub stop: AtomicBool,
    /// Set when vCPUs that are stopped shall report their state.
    pub dump: AtomicBool,
    /// RAM.
    pub ram: GuestRam,
}
