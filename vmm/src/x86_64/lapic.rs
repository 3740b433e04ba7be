// SPDX-License-Identifier: Apache-2.0
//! Local interrupts of the local APIC: LINT0 takes the (absent) 8259's line, LINT1 is NMI.
//!
//! Source: Intel SDM volume 3A section 12.5.1; the MultiProcessor Specification's
//! virtual-wire mode.

use kvm_bindings::kvm_lapic_state;

const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_SHIFT: u32 = 8;
const DELIVERY_MASK: u32 = 7 << DELIVERY_SHIFT;
const DELIVERY_NMI: u32 = 4;
const DELIVERY_EXTINT: u32 = 7;

/// `state` with both local interrupt lines wired.
pub fn wire_local_interrupts(mut state: kvm_lapic_state) -> kvm_lapic_state {
    set_delivery(&mut state, LVT_LINT0, DELIVERY_EXTINT);
    set_delivery(&mut state, LVT_LINT1, DELIVERY_NMI);
    state
}

fn set_delivery(state: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut state.regs[register..register + 4];
    let mut word = [0u8; 4];
    for (to, from) in word.iter_mut().zip(bytes.iter()) {
        *to = from.to_ne_bytes()[0];
    }
    let value = u32::from_le_bytes(word) & !DELIVERY_MASK | mode << DELIVERY_SHIFT;
    for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *to = i8::from_ne_bytes([from]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lint0_is_extint_and_lint1_is_nmi() {
        let mut reset = kvm_lapic_state::default();
        reset.regs[LVT_LINT0 + 2] = 1; // masked, as after power-up
        let state = wire_local_interrupts(reset);
        assert_eq!(state.regs[LVT_LINT0 + 1], 7);
        assert_eq!(state.regs[LVT_LINT0 + 2], 1);
        assert_eq!(state.regs[LVT_LINT1 + 1], 4);
    }
}
