// SPDX-License-Identifier: Apache-2.0
//! Model-specific registers set before a vCPU's first instruction.

use kvm_bindings::kvm_msr_entry;

/// IA32_MISC_ENABLE bit 0, fast strings: without it the kernel clears REP MOVSB features
/// (Intel SDM volume 4; arch/x86/kernel/cpu/intel.c).
const MISC_ENABLE: u32 = 0x1a0;
/// IA32_MTRR_DEF_TYPE: MTRRs on, default write-back. With MTRRs off the kernel treats all
/// memory as uncached (arch/x86/kernel/cpu/mtrr/generic.c).
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;
/// AMD HWCR bit 24, TscFreqSel: TSC counts at the P0 rate. Clear, Linux reports a firmware
/// bug (arch/x86/kernel/cpu/amd.c).
const AMD_HWCR: u32 = 0xc001_0015;
const AMD_HWCR_TSC_FREQ_SEL: u64 = 1 << 24;

/// Registers every vCPU needs.
pub fn required() -> Vec<kvm_msr_entry> {
    vec![
        kvm_msr_entry { index: MISC_ENABLE, data: 1, ..Default::default() },
        kvm_msr_entry { index: MTRR_DEF_TYPE, data: MTRR_ENABLE_WRITE_BACK, ..Default::default() },
    ]
}

/// Registers that only spare the guest a warning; a KVM that refuses them is no error.
pub fn cosmetic() -> Vec<kvm_msr_entry> {
    vec![kvm_msr_entry { index: AMD_HWCR, data: AMD_HWCR_TSC_FREQ_SEL, ..Default::default() }]
}
