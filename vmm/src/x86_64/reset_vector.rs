// SPDX-License-Identifier: Apache-2.0
//! What a PC has in its ROM at the place where a processor begins. Linux jumps there in real mode
//! to restart a machine whose ACPI it takes for one with EFI: hardware-reduced ACPI, in a kernel
//! with CONFIG_EFI, as those of distributions are. Without code there the vCPU would run zeros for
//! ever.
//!
//! Source: Linux arch/x86/kernel/reboot.c, `reboot_init` and `machine_real_restart`.

use super::acpi::RESET_VALUE;
use super::layout::POWER_PORT;

/// Code of real mode that presses the power switch: 9 bytes of the 16 that there is room for.
///
/// ```text
/// mov al, RESET_VALUE
/// mov dx, POWER_PORT
/// out dx, al
/// hlt
/// jmp (the hlt)
/// ```
pub const CODE: [u8; 9] = {
    let [low, high] = POWER_PORT.to_le_bytes();
    [0xb0, RESET_VALUE, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd]
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::layout;

    #[test]
    fn the_code_ends_with_the_first_mebibyte_behind_the_tables() {
        let start = layout::RESET_VECTOR.0;
        assert_eq!(start, (0xf000 << 4) + 0xfff0);
        assert!(start + CODE.len() as u64 <= layout::HIGH_RAM_START.0);
        assert_eq!(layout::ACPI.0 + layout::ACPI_CAPACITY as u64, start);
    }
}
