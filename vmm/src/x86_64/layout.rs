// SPDX-License-Identifier: Apache-2.0
//! The guest physical address map, in address order.
//!
//! ```text
//! 0x0000_0000 ┬ RAM ─────────────────────────────────────────────
//!   0x0500      GDT
//!   0x7000      boot_params ("zero page")
//!   0x9000      page tables: PML4, PDPT, PD (1 GiB identity map)
//!   0xc000      seed of the kernel's random number generator (setup_data)
//!   0x2_0000    kernel command line
//! 0x0009_fc00 ┼ reserved ───────────────────────────────────────
//!   0xb_8000    text screen, 32 KiB, of a machine that has one
//!   0xe_0000    ACPI tables (RSDP first, found by the BIOS-area scan too)
//!   0xf_fff0    reset vector
//! 0x0010_0000 ┼ RAM: kernel, initrd at the end ──────────────────
//! 0xc000_0000 ┼ MMIO gap ───────────────────────────────────────
//!   0xd000_0000 virtio-mmio devices, 4 KiB each; or the PCI bus's window
//!   0xfec0_0000 I/O APIC
//!   0xfee0_0000 local APIC
//!   0xfffb_c000 KVM identity map page and TSS (Intel hosts)
//! 0x1_0000_0000 ┴ RAM above 4 GiB ────────────────────────────────
//! ```

use vm_memory::GuestAddress;

/// An address or size of this map as the 32-bit field of a table takes it.
///
/// # Panics
/// At compile time, where it is used in a constant: the value does not fit.
pub const fn narrow(value: u64) -> u32 {
    assert!(value <= u32::MAX as u64);
    // Checked just above.
    #[allow(clippy::cast_possible_truncation)]
    {
        value as u32
    }
}

/// GDT, 4 entries of 8 bytes: [0x500, 0x520).
pub const GDT: GuestAddress = GuestAddress(0x500);
/// `struct boot_params`, one page: [0x7000, 0x8000).
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Page-map level 4: [0x9000, 0xa000).
pub const PML4: GuestAddress = GuestAddress(0x9000);
/// Page-directory-pointer table: [0xa000, 0xb000).
pub const PDPT: GuestAddress = GuestAddress(0xa000);
/// Page directory, 512 pages of 2 MiB: [0xb000, 0xc000).
pub const PAGE_DIRECTORY: GuestAddress = GuestAddress(0xb000);
/// The only node of the zero page's list setup_data, of a machine that has a seed:
/// [0xc000, 0xc030).
pub const RNG_SEED: GuestAddress = GuestAddress(0xc000);
/// Kernel command line, NUL included: [0x2_0000, 0x2_0000 + CMDLINE_CAPACITY).
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// x86 kernels accept at most 2047 bytes and a NUL (COMMAND_LINE_SIZE in
/// arch/x86/include/asm/setup.h); the setup header tells the exact figure.
pub const CMDLINE_CAPACITY: usize = 2048;

/// End of conventional memory and start of the area e820 reports as reserved. RAM below it
/// is mandatory: the kernel puts the trampoline of the application processors there
/// (arch/x86/realmode/init.c).
pub const LOW_RESERVED_START: GuestAddress = GuestAddress(0x9_fc00);
/// Text screen, where every PC has it: [0xb_8000, 0xc_0000).
pub const SCREEN: GuestAddress = GuestAddress(0xb_8000);
/// ACPI tables: [0xe_0000, 0xf_fff0).
pub const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// Room for all ACPI tables.
pub const ACPI_CAPACITY: usize = 0x1_fff0;
/// Where a processor in real mode begins: [0xf_fff0, 0x10_0000).
pub const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);

/// First byte above the legacy area; nothing of a kernel may lie below.
pub const HIGH_RAM_START: GuestAddress = GuestAddress(0x10_0000);
/// End of the identity map the kernel is entered with.
pub const IDENTITY_MAP_END: GuestAddress = GuestAddress(1 << 30);

/// End of RAM below 4 GiB: [0, 0xc000_0000) at most.
pub const MMIO_GAP_START: GuestAddress = GuestAddress(0xc000_0000);
/// First virtio-mmio device.
pub const VIRTIO_MMIO: GuestAddress = GuestAddress(0xd000_0000);
/// Size of one virtio-mmio device's window.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Window that the PCI host bridge forwards: the only BAR there is fills it. A machine has either
/// this or virtio-mmio devices.
pub const PCI_WINDOW: GuestAddress = VIRTIO_MMIO;
/// I/O APIC (KVM's in-kernel model sits there).
pub const IO_APIC: GuestAddress = GuestAddress(0xfec0_0000);
/// Local APIC.
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);
/// Page KVM uses for real mode with Intel's EPT (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: GuestAddress = GuestAddress(0xfffb_c000);
/// Three pages KVM uses as TSS (`KVM_SET_TSS_ADDR`): [0xfffb_d000, 0xfffc_0000).
pub const KVM_TSS: GuestAddress = GuestAddress(0xfffb_d000);
/// RAM continues here.
pub const MMIO_GAP_END: GuestAddress = GuestAddress(1 << 32);

/// 16550 UART: ports [0x3f8, 0x400).
pub const SERIAL_PORT: u16 = 0x3f8;
/// Number of UART ports.
pub const SERIAL_PORTS: u8 = 8;
/// GSI of the UART.
pub const SERIAL_GSI: u32 = 4;
/// GSI of the first virtio-mmio device; further devices take the next ones.
pub const VIRTIO_MMIO_GSI: u32 = 5;
/// Configuration address and data of the PCI bus: ports [0xcf8, 0xd00).
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
/// Number of those ports.
pub const PCI_CONFIG_PORTS: u8 = 8;
/// i8042 data and command port: ports [0x60, 0x65).
pub const I8042_PORT: u16 = 0x60;
/// Number of ports from the i8042's data to its command port.
pub const I8042_PORTS: u16 = 5;
/// Power device: ACPI reset register and sleep control register.
pub const POWER_PORT: u16 = 0x3c0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::setup_data::NODE_BYTES;

    #[test]
    fn no_two_ranges_overlap() {
        let page = 0x1000;
        let mut ranges = [
            (GDT.0, 32, "gdt"),
            (ZERO_PAGE.0, page, "zero page"),
            (PML4.0, page, "pml4"),
            (PDPT.0, page, "pdpt"),
            (PAGE_DIRECTORY.0, page, "page directory"),
            (RNG_SEED.0, NODE_BYTES as u64, "seed"),
            (CMDLINE.0, CMDLINE_CAPACITY as u64, "cmdline"),
            (LOW_RESERVED_START.0, ACPI.0 - LOW_RESERVED_START.0, "low reserved"),
            (ACPI.0, ACPI_CAPACITY as u64, "acpi"),
            (RESET_VECTOR.0, 16, "reset vector"),
            (HIGH_RAM_START.0, MMIO_GAP_START.0 - HIGH_RAM_START.0, "ram"),
            (VIRTIO_MMIO.0, 16 * VIRTIO_MMIO_SIZE, "virtio-mmio"),
            (IO_APIC.0, page, "ioapic"),
            (LOCAL_APIC.0, page, "lapic"),
            (KVM_IDENTITY_MAP.0, page, "kvm identity map"),
            (KVM_TSS.0, 3 * page, "kvm tss"),
            (MMIO_GAP_END.0, page, "high ram"),
        ];
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            let ((start, len, name), (next, _, next_name)) = (pair[0], pair[1]);
            assert!(start + len <= next, "{name} runs into {next_name}");
        }
    }
}
