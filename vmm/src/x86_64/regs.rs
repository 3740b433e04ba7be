// SPDX-License-Identifier: Apache-2.0
//! Register state of the boot processor at the kernel's first instruction.
//!
//! Source: Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol": long mode with
//! paging, interrupts off, RSI points at boot_params.

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_regs, kvm_sregs};

use crate::x86_64::{gdt, layout};

/// CR0: protection, extension type, paging (Intel SDM volume 3A section 2.5).
const CR0: u64 = 1 | 1 << 4 | 1 << 31;
/// CR4: physical address extension. LA57 stays clear: four-level page walks.
const CR4: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS: bit 1 is always set.
const RFLAGS: u64 = 2;
/// x87 control word and MXCSR after power-up (Intel SDM volume 3A table 10-1).
const FPU_CONTROL: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// General-purpose registers for an entry at `entry`.
pub fn general(entry: u64) -> kvm_regs {
    kvm_regs { rip: entry, rsi: layout::ZERO_PAGE.0, rflags: RFLAGS, ..Default::default() }
}

/// `reset` (as KVM gives it, with its APIC base) changed into 64-bit mode.
pub fn special(reset: kvm_sregs) -> kvm_sregs {
    let data = gdt::segment(gdt::DATA_SELECTOR);
    let table_limit = u16::try_from(size_of_val(&gdt::TABLE) - 1).unwrap_or(u16::MAX);
    kvm_sregs {
        cs: gdt::segment(gdt::CODE_SELECTOR),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        gdt: kvm_dtable { base: layout::GDT.0, limit: table_limit, padding: [0; 3] },
        cr0: CR0,
        cr3: layout::PML4.0,
        cr4: CR4,
        efer: EFER,
        ..reset
    }
}

/// Floating-point state after power-up.
pub fn fpu() -> kvm_fpu {
    kvm_fpu { fcw: FPU_CONTROL, mxcsr: MXCSR, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_entered_in_long_mode() {
        let sregs = special(kvm_sregs { apic_base: 0xfee0_0900, ..Default::default() });
        assert_eq!(
            (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer),
            (0x8000_0011, 0x9000, 0x20, 0x500)
        );
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 31));
        assert_eq!(
            (sregs.cs.selector, sregs.ss.selector, sregs.apic_base),
            (0x10, 0x18, 0xfee0_0900)
        );
        let regs = general(0x100_0000);
        assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0000, 0x7000, 2));
    }
}
