// SPDX-License-Identifier: Apache-2.0
//! The simulated machine's own boot loader: an option ROM, which the BIOS starts before it would
//! ask for a boot menu and wait three seconds for an answer.
//!
//! It reads what its table names from the first ATA disk, sectors by port into memory, and enters
//! the kernel's real-mode code (Documentation/arch/x86/boot.rst). No file system, no partition, no
//! boot loader's packages. It is assembled with this program, so it takes no assembler at run time.

use std::arch::global_asm;

use anyhow::{Result, ensure};

/// Where the BIOS looks for it, on a boundary of 2 KiB behind the display's ROM.
pub(super) const ADDRESS: u32 = 0xd_0000;
/// Its length.
const LEN: usize = 512;
/// The table's place in it.
const TABLE: usize = 320;
/// The last byte makes the sum of all zero.
const CHECKSUM: usize = LEN - 1;

/// Where the kernel's real-mode code goes, which the ROM enters. Below the BIOS' own data, which end
/// at 0x9fc00.
pub(super) const SETUP_ADDRESS: u32 = 0x8_0000;
/// The end of its stack, from there.
pub(super) const SETUP_STACK: u32 = 0xe000;

/// Something to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Physical address.
    pub address: u32,
    /// First sector on the disk.
    pub sector: u32,
    /// Sectors of 512 bytes.
    pub sectors: u32,
}

global_asm!(
    ".pushsection .rodata.schedvmm_simulated_rom, \"a\", @progbits",
    ".code16",
    ".globl schedvmm_simulated_rom",
    "schedvmm_simulated_rom:",
    // Signature, length in sectors, and where the BIOS calls.
    ".byte 0x55, 0xaa, 1",
    "    cli",
    "    cld",
    "    xorw %ax, %ax",
    "    movw %ax, %ss",
    "    movw $0x7c00, %sp",
    "    movw %cs, %ax",
    "    movw %ax, %ds",
    // Addresses from 1 MiB on.
    "    inb $0x92, %al",
    "    orb $2, %al",
    "    andb $0xfe, %al",
    "    outb %al, $0x92",
    // The disk is asked; it raises no interrupt.
    "    movw $0x3f6, %dx",
    "    movb $2, %al",
    "    outb %al, %dx",
    // A data segment of 4 GiB, which stays in force in real mode.
    "    lgdtl (20f - schedvmm_simulated_rom)",
    "    movl %cr0, %eax",
    "    orb $1, %al",
    "    movl %eax, %cr0",
    "    movw $8, %bx",
    "    movw %bx, %es",
    "    andb $0xfe, %al",
    "    movl %eax, %cr0",
    "    movw ${table}, %si",
    // One piece: %edi address, %ebx sector, %ebp sectors left.
    "2:  movl (%si), %edi",
    "    movl 4(%si), %ebx",
    "    movl 8(%si), %ebp",
    "    testl %ebp, %ebp",
    "    jz 9f",
    // One command reads 128 sectors, or what is left.
    "3:  movl $128, %eax",
    "    cmpl %eax, %ebp",
    "    jae 4f",
    "    movl %ebp, %eax",
    "4:  pushl %eax",
    "    pushl %eax",
    "    movw $0x1f7, %dx",
    "5:  inb %dx, %al",
    "    testb $0x80, %al",
    "    jnz 5b",
    "    popl %eax",
    "    movw $0x1f2, %dx",
    "    outb %al, %dx",
    "    movl %ebx, %eax",
    "    incw %dx",
    "    outb %al, %dx",
    "    shrl $8, %eax",
    "    incw %dx",
    "    outb %al, %dx",
    "    shrl $8, %eax",
    "    incw %dx",
    "    outb %al, %dx",
    "    shrl $8, %eax",
    "    orb $0xe0, %al",
    "    incw %dx",
    "    outb %al, %dx",
    "    movb $0x20, %al",
    "    incw %dx",
    "    outb %al, %dx",
    "    popl %ecx",
    "    subl %ecx, %ebp",
    "    addl %ecx, %ebx",
    // One sector: busy no more, data ready, 128 words of four bytes.
    "6:  pushw %cx",
    "    movw $0x1f7, %dx",
    "7:  inb %dx, %al",
    "    testb $0x80, %al",
    "    jnz 7b",
    "    testb $0x08, %al",
    "    jz 7b",
    "    movw $0x1f0, %dx",
    "    movl $128, %ecx",
    // rep insl %dx, %es:(%edi), which the assembler refuses here with its prefixes.
    ".byte 0x67, 0xf3, 0x66, 0x6d",
    "    popw %cx",
    "    loop 6b",
    "    testl %ebp, %ebp",
    "    jnz 3b",
    "    addw $12, %si",
    "    jmp 2b",
    // The kernel's real-mode code, with its segments and a stack.
    "9:  movw ${segment}, %ax",
    "    movw %ax, %ds",
    "    movw %ax, %es",
    "    movw %ax, %fs",
    "    movw %ax, %gs",
    "    movw %ax, %ss",
    "    movw ${stack}, %sp",
    "    ljmpw ${segment} + 0x20, $0",
    ".p2align 3",
    "10: .quad 0",
    "    .quad 0x00cf92000000ffff",
    "20: .word 15",
    "    .long 10b - schedvmm_simulated_rom + {address}",
    ".org schedvmm_simulated_rom + {len}",
    ".code64",
    ".popsection",
    table = const TABLE,
    segment = const SETUP_ADDRESS >> 4,
    stack = const SETUP_STACK,
    address = const ADDRESS,
    len = const LEN,
    options(att_syntax)
);

unsafe extern "C" {
    /// The assembled bytes.
    #[link_name = "schedvmm_simulated_rom"]
    static CODE: [u8; LEN];
}

/// The ROM that loads these pieces.
///
/// # Errors
/// There are more pieces than it has room for.
pub(super) fn build(pieces: &[Piece]) -> Result<Vec<u8>> {
    // SAFETY: the symbol is defined above, as LEN bytes of read-only data.
    let mut rom = unsafe { CODE }.to_vec();
    // One more of zeros ends the table.
    let words = pieces.iter().flat_map(|piece| [piece.address, piece.sector, piece.sectors]);
    let table: Vec<u8> = words.chain([0; 3]).flat_map(u32::to_le_bytes).collect();
    let room = &mut rom[TABLE..CHECKSUM];
    ensure!(table.len() <= room.len(), "{} pieces are too many to boot from", pieces.len());
    room[..table.len()].copy_from_slice(&table);
    let sum = rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    rom[CHECKSUM] = sum.wrapping_neg();
    Ok(rom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bios_takes_it_for_an_option_rom() {
        let piece = Piece { address: 0x10_0000, sector: 7, sectors: 9 };
        let rom = build(&[piece; 3]).unwrap();
        assert_eq!(rom[..3], [0x55, 0xaa, 1]);
        assert_eq!(rom.len(), usize::from(rom[2]) * 512);
        assert_eq!(rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn its_code_ends_before_its_table() {
        // SAFETY: as in `build`.
        let code = unsafe { CODE };
        assert!(code[TABLE - 8..].iter().all(|byte| *byte == 0), "{code:x?}");
        assert_ne!(code[3], 0);
    }

    #[test]
    fn more_pieces_than_there_is_room_for_are_refused() {
        let piece = Piece { address: 1, sector: 2, sectors: 3 };
        build(&[piece; 15]).unwrap_err();
    }
}
