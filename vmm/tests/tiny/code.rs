// SPDX-License-Identifier: Apache-2.0
//! Machine code of tiny guests, with its disassembly, and the ELF file around it.
//!
//! ```text
//! 0x00_8000  real-mode code of the other processors, copied there by WAKE_OTHERS
//! 0x10_0000  BASE: 64-bit code of the boot processor
//! 0x10_0800  OTHERS: where WAKE_OTHERS copies from
//! 0x10_2000  page directory for the fourth GiB, in use after MAP_DEVICES
//! 0x18_0000  top of a stack
//! 0x20_0000  REPORT: what SAY sends to the serial line
//! ```

use vmm::x86_64::elf::flat_kernel;

/// Where the boot processor begins.
pub const BASE: u32 = 0x10_0000;
const OTHERS: usize = 0x800;
const DEVICE_PAGES: usize = 0x2000;

/// ACPI S5.
pub const POWER_OFF: &[u8] = &[
    0xba, 0xc0, 0x03, 0x00, 0x00, // mov edx, 0x3c0
    0xb0, 0x34, // mov al, 0x34
    0xee, // out dx, al
    0xf4, // hlt
];

/// Executes for ever.
pub const SPIN: &[u8] = &[0xeb, 0xfe]; // jmp .

/// Halts for ever. Interrupts are off from the beginning.
pub const HALT: &[u8] = &[
    0xf4, // hlt
    0xeb, 0xfd, // jmp to it
];

/// An instruction without a meaning.
pub const UD2: &[u8] = &[0x0f, 0x0b];

/// Maps the 2 MiB pages at 0xd000_0000 and 0xe000_0000: the boot tables end at 1 GiB.
pub const MAP_DEVICES: &[u8] = &[
    0xc7, 0x04, 0x25, 0x18, 0xa0, 0x00, 0x00, // mov dword [0xa018 (PDPT entry 3)],
    0x03, 0x20, 0x10, 0x00, // 0x10_2000 | present | writable
];

/// Copies the others' code to 0x8000 and sends INIT and SIPI to all of them.
pub const WAKE_OTHERS: &[u8] = &[
    0xbe, 0x00, 0x08, 0x10, 0x00, // mov esi, 0x10_0800
    0xbf, 0x00, 0x80, 0x00, 0x00, // mov edi, 0x8000
    0xb9, 0x40, 0x00, 0x00, 0x00, // mov ecx, 64
    0xf3, 0xa4, // rep movsb
    0xb9, 0x1b, 0x00, 0x00, 0x00, // mov ecx, 0x1b (IA32_APIC_BASE)
    0x0f, 0x32, // rdmsr
    0x0d, 0x00, 0x04, 0x00, 0x00, // or eax, 1 << 10 (x2APIC)
    0x0f, 0x30, // wrmsr
    0xb9, 0x30, 0x08, 0x00, 0x00, // mov ecx, 0x830 (interrupt command)
    0x31, 0xd2, // xor edx, edx
    0xb8, 0x00, 0x45, 0x0c, 0x00, // mov eax, INIT to all but self
    0x0f, 0x30, // wrmsr
    0xb8, 0x08, 0x46, 0x0c, 0x00, // mov eax, SIPI with vector 8 to all but self
    0x0f, 0x30, // wrmsr
];

/// In real mode: says its x2APIC ID, one byte.
pub const SAY_APIC_ID: &[u8] = &[
    0x66, 0xb8, 0x0b, 0x00, 0x00, 0x00, // mov eax, 0xb
    0x66, 0x31, 0xc9, // xor ecx, ecx
    0x0f, 0xa2, // cpuid
    0x88, 0xd0, // mov al, dl
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
];

/// Says `byte` on the serial line.
pub fn say(byte: u8) -> [u8; 8] {
    [
        0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
        0xb0, byte, // mov al, byte
        0xee, // out dx, al
    ]
}

/// Says the first `len` bytes at REPORT on the serial line.
pub fn say_report(len: u8) -> [u8; 17] {
    [
        0xbe, 0x00, 0x00, 0x20, 0x00, // mov esi, 0x20_0000
        0xb9, len, 0x00, 0x00, 0x00, // mov ecx, len
        0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
        0xf3, 0x6e, // rep outsb
    ]
}

/// Writes EAX into the report at `offset`.
pub fn report_eax(offset: u8) -> [u8; 7] {
    [0x89, 0x04, 0x25, offset, 0x00, 0x20, 0x00] // mov [0x20_0000 + offset], eax
}

/// Reads 32 bits at `address`, below 2 GiB or sign-extended to the same, into EAX.
pub fn load(address: u32) -> Vec<u8> {
    let mut code = vec![0xbb]; // mov ebx, address
    code.extend(address.to_le_bytes());
    code.extend([0x8b, 0x03]); // mov eax, [rbx]
    code
}

/// Writes 32 bits to `address`.
pub fn store(address: u32, value: u32) -> Vec<u8> {
    let mut code = vec![0xbb]; // mov ebx, address
    code.extend(address.to_le_bytes());
    code.extend([0xc7, 0x03]); // mov dword [rbx], value
    code.extend(value.to_le_bytes());
    code
}

/// Writes `value` to `port`.
pub fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![
        0xba, low, high, 0x00, 0x00, // mov edx, port
        0xb0, value, // mov al, value
        0xee,  // out dx, al
    ]
}

/// Writes 32 bits to `port`.
pub fn out_dword(port: u16, value: u32) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    let mut code = vec![0xba, low, high, 0x00, 0x00, 0xb8]; // mov edx, port; mov eax, value
    code.extend(value.to_le_bytes());
    code.push(0xef); // out dx, eax
    code
}

/// Reads 32 bits from `port` into EAX.
pub fn in_dword(port: u16) -> [u8; 6] {
    let [low, high] = port.to_le_bytes();
    [
        0xba, low, high, 0x00, 0x00, // mov edx, port
        0xed, // in eax, dx
    ]
}

/// The file: `boot` at [`BASE`], `others` and the page directory behind it.
pub fn image(boot: &[u8], others: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; DEVICE_PAGES + 0x1000];
    assert!(boot.len() <= OTHERS && others.len() <= 64, "the code fits its place");
    memory[..boot.len()].copy_from_slice(boot);
    memory[OTHERS..OTHERS + others.len()].copy_from_slice(others);
    for address in [0xd000_0000u32, 0xe000_0000] {
        // Present, writable, 2 MiB (Intel SDM volume 3A section 4.5).
        let entry = (u64::from(address) | 0x83).to_le_bytes();
        let at = DEVICE_PAGES + 8 * usize::from((address >> 21 & 0x1ff) as u16);
        memory[at..at + 8].copy_from_slice(&entry);
    }
    flat_kernel(BASE, &memory)
}
