// SPDX-License-Identifier: Apache-2.0
//! vCPUs: their state before the first instruction; their threads, in layers: started, with a reason
//! for every end; the loop around KVM_RUN; KVM_RUN and errno in one place; exits dispatched on plain
//! data.

pub mod dump;
pub mod end;
pub mod halts;
pub mod kick;
pub mod sched;

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::ioctl_iow_nr;

use self::dump::InternalError;
use self::kick::Kickable;
use crate::bus::Buses;
use crate::devices::power::{PowerEvent, PowerSwitch};
use crate::kvm::{KvmError, failed};
use crate::memory::GuestRam;
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

/// KVM_SYSTEM_EVENT_* types (Linux include/uapi/linux/kvm.h).
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;

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

impl Vcpu {
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
    ) -> io::Result<JoinHandle<()>> {
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
            VcpuContext { buses: &machine.buses, power: &machine.power, stop: &machine.stop };
        let ran = catch_unwind(AssertUnwindSafe(|| run(&mut self.fd, &around, &mut exits)));
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

/// What a vCPU needs from the machine around it.
struct VcpuContext<'a> {
    /// Devices.
    pub buses: &'a Buses,
    /// The power switch devices press.
    pub power: &'a PowerSwitch,
    /// Set when the machine is to stop.
    pub stop: &'a AtomicBool,
}

/// Runs the guest until it ends, for whatever reason.
fn run(vcpu: &mut VcpuFd, context: &VcpuContext<'_>, counts: &mut ExitCounts) -> ExitReason {
    let _kickable = Kickable::new(vcpu);
    loop {
        // In this order: see kick.rs.
        vcpu.set_kvm_immediate_exit(0);
        if context.stop.load(Ordering::Acquire) {
            return ExitReason::Stopped;
        }
        if let Some(reason) = run_once(vcpu, context, counts) {
            return reason;
        }
    }
}

/// One KVM_RUN and what follows from it.
fn run_once(
    vcpu: &mut VcpuFd,
    context: &VcpuContext<'_>,
    counts: &mut ExitCounts,
) -> Option<ExitReason> {
    let reason = match vcpu.run() {
        Ok(exit) => dispatch(exit, context, counts)?,
        Err(error) => match error.errno() {
            libc::EINTR | libc::EAGAIN => return None,
            libc::EFAULT => ExitReason::MemoryFault { address: None },
            errno => ExitReason::RunFailed { errno },
        },
    };
    Some(match reason {
        ExitReason::InternalError(_) => {
            ExitReason::InternalError(InternalError::read(vcpu.get_kvm_run()))
        }
        ExitReason::Unexpected(UnexpectedExit::Reason(_)) => {
            ExitReason::Unexpected(UnexpectedExit::Reason(vcpu.get_kvm_run().exit_reason))
        }
        other => other,
    })
}

/// Serves one exit. `None` means: enter the guest again.
fn dispatch(
    exit: VcpuExit<'_>,
    context: &VcpuContext<'_>,
    counts: &mut ExitCounts,
) -> Option<ExitReason> {
    match exit {
        VcpuExit::IoIn(port, data) => {
            counts.port_in += 1;
            context.buses.pio.read(u64::from(port), data);
            None
        }
        VcpuExit::IoOut(port, data) => {
            counts.port_out += 1;
            context.buses.pio.write(u64::from(port), data);
            context.power.pressed().map(|event| match event {
                PowerEvent::Off => ExitReason::PowerOff,
                PowerEvent::Reset => ExitReason::Reset,
            })
        }
        VcpuExit::MmioRead(address, data) => {
            counts.mmio_read += 1;
            context.buses.mmio.read(address, data);
            None
        }
        VcpuExit::MmioWrite(address, data) => {
            counts.mmio_write += 1;
            context.buses.mmio.write(address, data);
            None
        }
        other => {
            counts.other += 1;
            end_of(other)
        }
    }
}

/// Exits that are no device access.
fn end_of(exit: VcpuExit<'_>) -> Option<ExitReason> {
    match exit {
        VcpuExit::Shutdown => Some(ExitReason::TripleFault),
        VcpuExit::InternalError => Some(ExitReason::InternalError(dump::InternalError::default())),
        VcpuExit::FailEntry(reason, cpu) => Some(ExitReason::FailedEntry { reason, cpu }),
        VcpuExit::MemoryFault { gpa, .. } => Some(ExitReason::MemoryFault { address: Some(gpa) }),
        VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _) => Some(ExitReason::PowerOff),
        VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _) => Some(ExitReason::Reset),
        VcpuExit::SystemEvent(kind, _) => {
            Some(ExitReason::Unexpected(UnexpectedExit::SystemEvent(kind)))
        }
        // The kernel handles these itself; seeing one means only: go on.
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::IoapicEoi(_) => None,
        // Its number is where KVM has left it, which `run_once` reads.
        _ => Some(ExitReason::Unexpected(UnexpectedExit::Reason(0))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::devices::power::Power;

    fn buses(switch: &Arc<PowerSwitch>) -> Buses {
        let mut buses = Buses::default();
        let power = Arc::new(Mutex::new(Power::new(switch.clone())));
        buses.pio.insert(0x3c0, 1, power).expect("free");
        buses
    }

    fn end(exit: VcpuExit<'_>) -> Option<ExitReason> {
        let switch = Arc::new(PowerSwitch::default());
        let buses = buses(&switch);
        let stop = AtomicBool::new(false);
        let context = VcpuContext { buses: &buses, power: &switch, stop: &stop };
        dispatch(exit, &context, &mut ExitCounts::default())
    }

    #[test]
    fn unclaimed_reads_are_all_ones_and_go_on() {
        let mut data = [0, 0];
        assert_eq!(end(VcpuExit::IoIn(0x80, &mut data)), None);
        assert_eq!(data, [0xff, 0xff]);
        assert_eq!(end(VcpuExit::MmioRead(0xd000_0000, &mut data)), None);
        assert_eq!(data, [0xff, 0xff]);
        assert_eq!(end(VcpuExit::IoOut(0x80, &[1])), None);
    }

    #[test]
    fn each_end_has_its_reason() {
        assert_eq!(end(VcpuExit::IoOut(0x3c0, &[0x34])), Some(ExitReason::PowerOff));
        assert_eq!(end(VcpuExit::IoOut(0x3c0, &[1])), Some(ExitReason::Reset));
        assert_eq!(end(VcpuExit::Shutdown), Some(ExitReason::TripleFault));
        let failed = ExitReason::FailedEntry { reason: 5, cpu: 1 };
        assert_eq!(end(VcpuExit::FailEntry(5, 1)), Some(failed));
        assert!(matches!(end(VcpuExit::InternalError), Some(ExitReason::InternalError(_))));
        assert!(matches!(end(VcpuExit::Hlt), Some(ExitReason::Unexpected(_))));
        assert!(matches!(end(VcpuExit::Unsupported(99)), Some(ExitReason::Unexpected(_))));
        assert_eq!(end(VcpuExit::Intr), None);
        let fault = VcpuExit::MemoryFault { flags: 0, gpa: 0x1000, size: 1 };
        assert_eq!(end(fault), Some(ExitReason::MemoryFault { address: Some(0x1000) }));
    }
}
