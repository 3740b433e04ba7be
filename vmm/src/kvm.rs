// SPDX-License-Identifier: Apache-2.0
//! /dev/kvm: opened, checked, and one bare virtual machine out of it.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VmFd};
use thiserror::Error;

use crate::x86_64::layout;

/// Where the kernel offers KVM.
pub const DEVICE: &str = "/dev/kvm";
/// Attempts at KVM_CREATE_VM, which signals interrupt under load.
const CREATE_ATTEMPTS: u32 = 5;
const CREATE_PAUSE: Duration = Duration::from_millis(2);

/// What we cannot do without, with the name a user can look up.
const REQUIRED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
];

/// Why this host gives no virtual machine.
#[derive(Debug, Error)]
pub enum KvmError {
    /// The device node is not there.
    #[error("{} does not exist: load kvm_intel or kvm_amd, switch virtualization on in the firmware, or allow nesting on the outer host", .0.display())]
    Missing(PathBuf),
    /// The device node's mode does not let us.
    #[error("no permission to open {}: join its group (usually kvm) or run as root", .0.display())]
    Forbidden(PathBuf),
    /// Its mode lets us, but something else does not.
    #[error(
        "{} may not be opened although we are root here: its mount is `nodev`, a security module \
         (SELinux, AppArmor) forbids it, or we are root of a user namespace only", .0.display()
    )]
    ForbiddenToRoot(PathBuf),
    /// The device cgroup does not let us (security/device_cgroup.c: EPERM, where a mode gives
    /// EACCES).
    #[error(
        "{} may not be opened by anything in this container or unit, whatever its mode: allow it \
         the device (`docker run --device /dev/kvm`, `DeviceAllow=/dev/kvm rw` in a unit)",
        .0.display()
    )]
    DeviceRules(PathBuf),
    /// Any other failure to open it.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The device node.
        path: PathBuf,
        /// Reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The device is not KVM's, or from another age.
    #[error("{} answers with API version {version}, not {KVM_API_VERSION}: it is not a usable KVM", .path.display())]
    ApiVersion {
        /// The device node.
        path: PathBuf,
        /// Its answer.
        version: i32,
    },
    /// Capabilities are missing.
    #[error("this KVM lacks {}; use a host with Linux 4.15 or later", .0.join(", "))]
    Lacks(Vec<&'static str>),
    /// More vCPUs than this KVM allows.
    #[error("{asked} vCPUs: this KVM allows at most {most}; lower --cpus")]
    TooManyCpus {
        /// Asked for.
        asked: u32,
        /// Allowed.
        most: usize,
    },
    /// An ioctl failed.
    #[error("{ioctl} failed{}", if *.ioctl == "KVM_CREATE_VM" { "; another hypervisor may hold the CPU" } else { "" })]
    Ioctl {
        /// Which.
        ioctl: &'static str,
        /// Reason.
        #[source]
        source: kvm_ioctls::Error,
    },
}

impl KvmError {
    /// Who it is that keeps us from opening a device node.
    fn refused(path: PathBuf, errno: i32, root: bool) -> Option<Self> {
        match (errno, root) {
            (libc::EPERM, _) => Some(Self::DeviceRules(path)),
            (libc::EACCES, false) => Some(Self::Forbidden(path)),
            (libc::EACCES, true) => Some(Self::ForbiddenToRoot(path)),
            _ => None,
        }
    }
}

/// Maps an ioctl's error to [`KvmError::Ioctl`].
pub(crate) fn failed(ioctl: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Ioctl { ioctl, source }
}

/// An opened KVM that has all we need.
pub struct Hypervisor {
    kvm: Kvm,
}

impl Hypervisor {
    /// Opens `device` and checks it.
    ///
    /// # Errors
    /// The reason this host cannot run a virtual machine.
    pub fn open(device: &Path) -> Result<Self, KvmError> {
        let name = CString::new(device.as_os_str().as_encoded_bytes())
            .map_err(|_| KvmError::Missing(device.to_owned()))?;
        let kvm = Kvm::new_with_path(name).map_err(|source| match source.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing(device.to_owned()),
            errno => {
                KvmError::refused(device.to_owned(), errno, rustix::process::geteuid().is_root())
                    .unwrap_or(KvmError::Open { path: device.to_owned(), source })
            }
        })?;
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION.cast_signed() {
            return Err(KvmError::ApiVersion { path: device.to_owned(), version });
        }
        let lacks: Vec<_> = REQUIRED
            .into_iter()
            .filter(|(cap, _)| !kvm.check_extension(*cap))
            .map(|(_, name)| name)
            .collect();
        if lacks.is_empty() { Ok(Self { kvm }) } else { Err(KvmError::Lacks(lacks)) }
    }

    /// Refuses more vCPUs than this KVM can have.
    ///
    /// # Errors
    /// The number asked for and the number allowed.
    pub fn check_cpus(&self, asked: u32) -> Result<(), KvmError> {
        let most = self.kvm.get_max_vcpus();
        if asked as usize > most {
            return Err(KvmError::TooManyCpus { asked, most });
        }
        Ok(())
    }

    /// CPUID leaves this KVM can show a guest. Asked once a process: KVM runs the CPUID
    /// instruction for each leaf, which is an exit when we are nested ourselves.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        let cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(cpuid.as_slice().to_vec())
    }

    /// A virtual machine with nothing in it.
    ///
    /// # Errors
    /// The ioctl that failed.
    pub fn create_vm(&self) -> Result<VmFd, KvmError> {
        let mut attempt = 1;
        let vm = loop {
            match self.kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR && attempt < CREATE_ATTEMPTS => {
                    attempt += 1;
                    std::thread::sleep(CREATE_PAUSE);
                }
                result => break result.map_err(failed("KVM_CREATE_VM"))?,
            }
        };
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP.0)
            .map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(usize::try_from(layout::KVM_TSS.0).unwrap_or(usize::MAX))
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        Ok(vm)
    }
}

/// Gives `vm` the in-kernel interrupt controllers, without which it can have no vCPUs here.
///
/// There is no PIT: a hardware-reduced ACPI guest wants none, and KVM's re-injecting PIT
/// inhibits AMD's AVIC (arch/x86/kvm/i8254.c).
///
/// # Errors
/// The ioctl's.
pub fn add_interrupt_controllers(vm: &VmFd) -> Result<(), KvmError> {
    vm.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_false_device_is_named() {
        let missing = Hypervisor::open(Path::new("/nonexistent/kvm"));
        assert!(matches!(missing, Err(KvmError::Missing(_))));
        let text = |errno, root| {
            let error = KvmError::refused(PathBuf::from(DEVICE), errno, root);
            error.map(|error| error.to_string())
        };
        let mode = text(libc::EACCES, false).expect("refused");
        assert!(mode.contains("join its group"), "{mode}");
        for (errno, root, remedy) in [
            (libc::EPERM, true, "--device /dev/kvm"),
            (libc::EPERM, false, "DeviceAllow"),
            (libc::EACCES, true, "nodev"),
        ] {
            let text = text(errno, root).expect("refused");
            assert!(text.contains(remedy) && !text.contains("group"), "{text}");
        }
        assert_eq!(text(libc::EMFILE, true), None);
        let null = Hypervisor::open(Path::new("/dev/null"));
        assert!(matches!(null, Err(KvmError::ApiVersion { .. })));
    }
}
