// SPDX-License-Identifier: Apache-2.0
//! The state of a vCPU in text, for the end nobody planned.

use std::fmt::{self, Write};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestRam;

/// Bytes of code shown around the instruction pointer.
const CODE_BYTES: usize = 32;
/// Words of stack shown.
const STACK_WORDS: usize = 8;

/// In-service and interrupt-request registers of the local APIC (Intel SDM volume 3A table 12-1).
const ISR: usize = 0x100;
const IRR: usize = 0x200;

/// KVM_EXIT_INTERNAL_ERROR in detail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InternalError {
    /// KVM_INTERNAL_ERROR_*: 1 is a failed instruction emulation.
    pub suberror: u32,
    /// What KVM adds.
    pub data: Vec<u64>,
}

impl InternalError {
    /// Reads the detail out of `run` after such an exit.
    pub fn read(run: &kvm_run) -> Self {
        // SAFETY: every bit pattern is a valid value of this union member, and KVM filled
        // it for the exit reason the caller has seen.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let len = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
        Self { suberror: internal.suberror, data: internal.data[..len].to_vec() }
    }
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.suberror {
            1 => "instruction emulation failed",
            2 => "simultaneous exceptions",
            3 => "exit during event delivery",
            4 => "unexpected exit reason",
            _ => "unknown",
        };
        write!(f, "suberror {} ({name}), data {:x?}", self.suberror, self.data)
    }
}

/// Registers, code and stack of `vcpu` in a few lines. What cannot be read is left out.
pub fn state(vcpu: &VcpuFd, ram: &GuestRam) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_state(&mut text, vcpu, ram);
    text
}

fn write_state(text: &mut String, vcpu: &VcpuFd, ram: &GuestRam) -> fmt::Result {
    if let Ok(r) = vcpu.get_regs() {
        writeln!(text, "rip {:016x} rsp {:016x} rflags {:08x}", r.rip, r.rsp, r.rflags)?;
        writeln!(
            text,
            "rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}",
            r.rax, r.rbx, r.rcx, r.rdx
        )?;
        writeln!(
            text,
            "rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}",
            r.rsi, r.rdi, r.rbp, r.r8
        )?;
        writeln!(
            text,
            "r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}",
            r.r9, r.r10, r.r11, r.r12
        )?;
        writeln!(text, "r13 {:016x} r14 {:016x} r15 {:016x}", r.r13, r.r14, r.r15)?;
        let mut code = [0u8; CODE_BYTES];
        if read_linear(vcpu, ram, r.rip, &mut code) {
            writeln!(text, "code at rip: {code:02x?}")?;
        }
        let mut stack = [0u8; 8 * STACK_WORDS];
        if read_linear(vcpu, ram, r.rsp, &mut stack) {
            let words =
                stack.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default()));
            writeln!(text, "stack: {:x?}", words.collect::<Vec<_>>())?;
        }
    }
    if let Ok(s) = vcpu.get_sregs() {
        writeln!(
            text,
            "cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}",
            s.cr0, s.cr2, s.cr3, s.cr4, s.efer
        )?;
        writeln!(
            text,
            "cs {:x} ss {:x} gdt {:x}+{:x} idt {:x}+{:x}",
            s.cs.selector, s.ss.selector, s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit
        )?;
    }
    if let Ok(lapic) = vcpu.get_lapic() {
        writeln!(
            text,
            "requested interrupts {:x?}, in service {:x?}",
            vectors(&lapic.regs, IRR),
            vectors(&lapic.regs, ISR)
        )?;
    }
    if let Ok(mp) = vcpu.get_mp_state() {
        writeln!(text, "mp_state {}", mp.mp_state)?;
    }
    Ok(())
}

/// Vectors whose bits are set in the eight 32-bit registers, 16 bytes apart, from `first` on.
fn vectors(registers: &[i8], first: usize) -> Vec<usize> {
    (0..256).filter(|vector| is_set(*vector, first, registers)).collect()
}

/// A vector's bit in a register of the local APIC.
fn is_set(vector: usize, first: usize, registers: &[i8]) -> bool {
    let byte = registers.get(first + vector / 32 * 16 + vector % 32 / 8).copied().unwrap_or(0);
    byte >> (vector % 8) & 1 != 0
}

/// Reads guest linear memory; the range may cross into a page that is not mapped, then
/// nothing is read.
fn read_linear(vcpu: &VcpuFd, ram: &GuestRam, address: u64, data: &mut [u8]) -> bool {
    vcpu.translate_gva(address).is_ok_and(|translation| {
        translation.valid != 0
            && ram.read_slice(data, GuestAddress(translation.physical_address)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_found_in_their_registers() {
        let mut registers = [0i8; 0x400];
        registers[IRR] = 1;
        registers[IRR + 0x70 + 3] = i8::MIN;
        registers[IRR + 0x10 + 1] = 0b10;
        assert_eq!(vectors(&registers, IRR), [0, 41, 255]);
        assert!(vectors(&registers, ISR).is_empty());
    }
}
