// SPDX-License-Identifier: Apache-2.0
//! vCPUs: their state before the first instruction. Their threads are in [`run`].

pub mod dump;
pub mod end;
pub mod halts;
pub mod kick;
pub mod run;
pub mod sched;

use std::fs::File;

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl_iow_nr;

use crate::kvm::{KvmError, failed};
use crate::x86_64::{lapic, msrs, regs};

pub use end::{ExitCounts, ExitReason, HostSched, UnexpectedExit, VcpuEnd};

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
}

fn set_msrs(fd: &VcpuFd, entries: &[kvm_bindings::kvm_msr_entry]) -> Result<(), KvmError> {
    let list = Msrs::from_entries(entries).map_err(|_| set_msrs_error(libc::E2BIG))?;
    let done = fd.set_msrs(&list).map_err(failed("KVM_SET_MSRS"))?;
    if done == entries.len() { Ok(()) } else { Err(set_msrs_error(libc::EINVAL)) }
}

fn set_msrs_error(errno: i32) -> KvmError {
    KvmError::Ioctl { ioctl: "KVM_SET_MSRS", source: kvm_ioctls::Error::new(errno) }
}
