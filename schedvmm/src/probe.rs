// SPDX-License-Identifier: Apache-2.0
//! Can this host's KVM run Linux? A dozen instructions find out.
//!
//! Some clouds offer a /dev/kvm without hardware virtualization behind it. It runs user code
//! and interprets kernel code with an emulator that lacks instructions every Linux kernel
//! uses, so that a boot ends in an internal error or takes an hour. The probe runs one such
//! instruction, INT3 through an interrupt gate (what the kernel's text patching does).

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use thiserror::Error;
use vmm::config::{Config, PvProfile, Topology, Transport};
use vmm::kvm::Hypervisor;
use vmm::load::{self, Initrd, Kernel};
use vmm::vcpu::ExitReason;
use vmm::virtio::console::{PortKind, PortSpec};
use vmm::vm::{BuildError, Facts, Parts, StartError, Vm};
use vmm::x86_64::elf::flat_kernel;
use vmm::x86_64::image::KernelImage;

/// How long a run waits for the probe before it goes on without its answer.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// Where the probe runs.
const BASE: u32 = 0x10_0000;
const IDT: u32 = BASE + 0x100;
const HANDLER: u32 = BASE + 0x80;
const STACK_TOP: u32 = BASE + 0x1000;

/// Why this KVM is of no use.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The probe guest met another end than its own.
    #[error(
        "this host's KVM cannot run Linux (probe guest: {0}): it has no hardware \
         virtualization behind it; use a host with VMX or SVM"
    )]
    Cannot(String),
    /// No answer in time: a host so busy, or so slow, that nothing follows from it.
    #[error("the probe guest has not ended within {0:?}: this host is overloaded or very slow")]
    Undecided(Duration),
    /// The probe guest could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The probe guest could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Runs the probe guest: microseconds on hardware, some milliseconds in an emulated host,
/// at most `timeout`. Returns what its machine told about the host, such as the TSC's
/// frequency, which the guest under test has to be given before its own machine exists.
///
/// # Errors
/// Linux would not run here, with the reason.
pub fn run(hypervisor: &Hypervisor, timeout: Duration) -> Result<Facts, ProbeError> {
    let kernel = KernelImage::parse(image()).map_err(|error| BuildError::Load(error.into()))?;
    let config = Config {
        pv: PvProfile::Off,
        transport: Some(Transport::Mmio),
        ..Config::new(Topology { cpus: 1, threads_per_core: 1 }, vmm::config::MIN_MEMORY_MIB)
    };
    let console =
        PortSpec { name: "console".into(), kind: PortKind::Console, sink: Box::new(io::sink()) };
    let parts = Parts {
        loaded: load::fill(&config, Kernel::Image(&kernel), Initrd::Bytes(&[]))?,
        ports: vec![console],
        serial: None,
    };
    let vm = Vm::build(hypervisor, &config, parts)?;
    let facts = vm.facts();
    let (ended, ends) = mpsc::channel();
    let _running = vm.start(move |end| {
        // The receiver is gone once the deadline has passed.
        let _ = ended.send(end.reason);
    })?;
    match ends.recv_timeout(timeout) {
        Ok(ExitReason::PowerOff) => Ok(facts),
        Ok(other) => Err(ProbeError::Cannot(other.to_string())),
        Err(_) => Err(ProbeError::Undecided(timeout)),
    }
}

/// The probe guest as an ELF kernel.
fn image() -> Vec<u8> {
    let mut memory = vec![0u8; 0x200];
    let mut code = Vec::new();
    code.extend_from_slice(&[0x0f, 0x01, 0x1c, 0x25]); // lidt [IDT pseudo-descriptor]
    code.extend_from_slice(&(IDT + 0x40).to_le_bytes());
    code.extend_from_slice(&[0x48, 0xc7, 0xc4]); // mov rsp, STACK_TOP
    code.extend_from_slice(&STACK_TOP.to_le_bytes());
    code.extend_from_slice(&[
        0xcc, // int3
        0xba, 0xc0, 0x03, 0x00, 0x00, // mov edx, 0x3c0 (power device)
        0xb0, 0x34, // mov al, 0x34 (S5)
        0xee, // out dx, al
        0xf4, 0xeb, 0xfd, // hlt; jmp back to it
    ]);
    memory[..code.len()].copy_from_slice(&code);
    memory[0x80..0x82].copy_from_slice(&[0x48, 0xcf]); // handler: iretq
    // Interrupt gate for vector 3 (Intel SDM volume 3A section 7.14.1).
    let [h0, h1, h2, h3] = HANDLER.to_le_bytes();
    memory[0x130..0x138].copy_from_slice(&[h0, h1, 0x10, 0, 0, 0x8e, h2, h3]);
    // Pseudo-descriptor: limit of four gates, base.
    memory[0x140..0x142].copy_from_slice(&0x3fu16.to_le_bytes());
    memory[0x142..0x146].copy_from_slice(&IDT.to_le_bytes());
    flat_kernel(BASE, &memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_guest_is_a_kernel_by_our_own_rules() {
        let Ok(KernelImage::Vmlinux(bytes)) = KernelImage::parse(image()) else {
            panic!("not accepted")
        };
        let kernel = vmm::x86_64::elf::parse_elf(&bytes).expect("checked");
        assert_eq!(kernel.entry, u64::from(BASE));
        assert_eq!(kernel.segments.len(), 1);
    }
}
