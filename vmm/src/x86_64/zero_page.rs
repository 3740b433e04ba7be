// SPDX-License-Identifier: Apache-2.0
//! `struct boot_params`: what the kernel is told about the machine.
//!
//! Source: Linux Documentation/arch/x86/boot.rst and zero-page.rst.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use crate::memory;
use crate::x86_64::magic::{BOOT_FLAG, HEADER_MAGIC};
use crate::x86_64::{layout, screen};

/// Loader type "undefined": anything but 0, which makes the kernel ignore the initrd.
const LOADER_TYPE: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;
/// e820 types: usable, reserved (arch/x86/include/uapi/asm/setup_data.h).
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Where the initrd lies in guest physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitrdPlace {
    /// Guest physical address, below 4 GiB.
    pub start: u32,
    /// Bytes; 0 for no initrd.
    pub len: u32,
}

/// What a kernel is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Contents {
    /// Bytes of the command line at [`layout::CMDLINE`].
    pub cmdline_len: usize,
    /// Its initrd.
    pub initrd: InitrdPlace,
    /// RAM.
    pub memory_bytes: u64,
    /// There is a text screen.
    pub has_screen: bool,
    /// There is a seed at [`layout::RNG_SEED`].
    pub has_rng_seed: bool,
}

/// The zero page. `header` is the bzImage's own setup header, where there is one.
pub fn build(header: Option<&setup_header>, contents: Contents) -> Vec<u8> {
    let Contents { cmdline_len, initrd, memory_bytes, has_screen, has_rng_seed } = contents;
    let mut params = boot_params::default();
    match header {
        Some(header) => params.hdr = *header,
        None => {
            params.hdr.boot_flag = BOOT_FLAG;
            params.hdr.header = HEADER_MAGIC;
            params.hdr.kernel_alignment = KERNEL_ALIGNMENT;
        }
    }
    params.hdr.type_of_loader = LOADER_TYPE;
    params.hdr.cmd_line_ptr = layout::narrow(layout::CMDLINE.0);
    params.hdr.cmdline_size = u32::try_from(cmdline_len).unwrap_or(u32::MAX);
    params.hdr.ramdisk_image = initrd.start;
    params.hdr.ramdisk_size = initrd.len;
    if has_rng_seed {
        params.hdr.setup_data = layout::RNG_SEED.0;
    }
    if has_screen {
        params.screen_info = screen::info();
    }
    params.acpi_rsdp_addr = layout::ACPI.0;
    for (n, (addr, size, kind)) in (0u8..).zip(e820(memory_bytes)) {
        params.e820_table[usize::from(n)] = boot_e820_entry { addr, size, r#type: kind };
        params.e820_entries = n + 1;
    }
    params.as_slice().to_vec()
}

/// The memory map as `(start, length, type)`: at most four entries.
fn e820(memory_bytes: u64) -> Vec<(u64, u64, u32)> {
    let low = layout::LOW_RESERVED_START.0;
    let high = layout::HIGH_RAM_START.0;
    let mut map = vec![(0, low, E820_RAM), (low, high - low, E820_RESERVED)];
    for (start, len) in memory::ranges(memory_bytes) {
        let start = start.0.max(if start.0 == 0 { high } else { 0 });
        let len = if start == high { len - high } else { len };
        map.push((start, len, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e820_covers_all_ram_once() {
        for mib in [32u64, 3072, 4096, 1 << 20] {
            let map = e820(mib << 20);
            let total: u64 = map.iter().map(|entry| entry.1).sum();
            assert_eq!(total, mib << 20);
            for pair in map.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{map:x?}");
            }
            assert_eq!(map[0], (0, 0x9_fc00, E820_RAM));
        }
    }

    #[test]
    fn fields_lie_where_boot_rst_says() {
        let contents = Contents {
            cmdline_len: 17,
            initrd: InitrdPlace { start: 0x700_0000, len: 99 },
            memory_bytes: 64 << 20,
            ..Contents::default()
        };
        let page = build(None, contents);
        let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(page.len(), 0x1000);
        assert_eq!(word(0x70), 0xe_0000);
        assert_eq!(page[0x1e8], 3);
        assert_eq!(page[0x1ef], 0, "sentinel");
        assert_eq!(page[0x210], 0xff);
        assert_eq!((word(0x218), word(0x21c)), (0x700_0000, 99));
        assert_eq!((word(0x228), word(0x238)), (0x2_0000, 17));
        assert!(page[..0x40].iter().all(|byte| *byte == 0), "no screen");
        assert_eq!(page[0x250..0x258], [0; 8], "no seed");
        let page = build(None, Contents { has_rng_seed: true, ..contents });
        assert_eq!(page[0x250..0x258], 0xc000_u64.to_le_bytes());
        let page = build(None, Contents { has_screen: true, ..contents });
        // struct screen_info (include/uapi/linux/screen_info.h): mode, columns, rows, kind.
        assert_eq!([page[1], page[6], page[7], page[0xe], page[0xf]], [0, 0x0d, 128, 128, 1]);
    }
}
