// SPDX-License-Identifier: Apache-2.0
//! The flat GDT a 64-bit kernel is entered with.
//!
//! Source: Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol": `__BOOT_CS` (0x10)
//! is execute/read, `__BOOT_DS` (0x18) is read/write, both flat.

use kvm_bindings::kvm_segment;

/// Descriptor words: null, unused, code, data. Layout: Intel SDM volume 3A section 3.4.5.
pub const TABLE: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Selector of the code segment, `__BOOT_CS`.
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segments, `__BOOT_DS`.
pub const DATA_SELECTOR: u16 = 0x18;

/// The segment register contents that loading `selector` from [`TABLE`] would give.
pub fn segment(selector: u16) -> kvm_segment {
    let word = TABLE[usize::from(selector >> 3) & 3];
    let granular = bit(55, word) != 0;
    let limit = (word & 0xffff | word >> 32 & 0xf_0000) & 0xf_ffff;
    let limit = if granular { limit << 12 | 0xfff } else { limit };
    kvm_segment {
        base: word >> 16 & 0xff_ffff | word >> 32 & 0xff00_0000,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        selector,
        type_: (word >> 40 & 0xf) as u8,
        present: bit(47, word),
        dpl: (word >> 45 & 3) as u8,
        db: bit(54, word),
        s: bit(44, word),
        l: bit(53, word),
        g: bit(55, word),
        avl: bit(52, word),
        unusable: 0,
        padding: 0,
    }
}

fn bit(n: u32, word: u64) -> u8 {
    u8::from(word >> n & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_64_bit_and_data_is_flat() {
        let code = segment(CODE_SELECTOR);
        assert_eq!((code.l, code.db, code.type_, code.s, code.present), (1, 0, 0xb, 1, 1));
        assert_eq!((code.base, code.limit), (0, u32::MAX));
        let data = segment(DATA_SELECTOR);
        assert_eq!((data.l, data.db, data.type_, data.g), (0, 1, 3, 1));
        assert_eq!((data.base, data.limit, data.selector), (0, u32::MAX, 0x18));
    }
}
