// SPDX-License-Identifier: Apache-2.0
//! What a guest finds in its machine: devices, holes, topology, time.

use std::arch::x86_64::_rdtsc;

use libtest_mimic::{Completion, Failed};
use vmm::config::Transport;
use vmm::vcpu::ExitReason;
use vmm::x86_64::layout;

use crate::tiny::{Guest, code};
use crate::{same, skip};

/// Runs `parts` and then powers off; what was said on the serial line, as 32-bit words.
fn words(parts: &[&[u8]]) -> Result<Vec<u32>, Failed> {
    words_over(Transport::Mmio, parts)
}

fn words_over(transport: Transport, parts: &[&[u8]]) -> Result<Vec<u32>, Failed> {
    let guest = Guest::new(&[&parts.concat(), code::POWER_OFF].concat());
    let (end, said) = guest.transport(transport).run()?;
    same("end", end.reason, ExitReason::PowerOff)?;
    same("whole words", said.len() % 4, 0)?;
    Ok(said.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect())
}

pub fn port_writes_reach_the_serial_line() -> Result<Completion, Failed> {
    let parts = [&code::say(b'h')[..], &code::say(b'i'), code::POWER_OFF];
    let (end, said) = Guest::new(&parts.concat()).run()?;
    same("end", end.reason, ExitReason::PowerOff)?;
    same("serial line", said, b"hi".to_vec())?;
    same("port writes", end.exits.port_out, 3)?;
    same("all exits", end.exits.total(), 3)?;
    same("state of an orderly end", end.state, None)?;
    Ok(Completion::Completed)
}

pub fn what_is_drawn_on_the_screen_is_read() -> Result<Completion, Failed> {
    let screen = u32::try_from(layout::SCREEN.0)?;
    // Two cells: "hi", in grey on black. Drawing costs no exit.
    let parts = [&code::store(screen, 0x0769_0768)[..], code::POWER_OFF];
    let live = Guest::new(&parts.concat()).start()?;
    let end = live.next_end()?;
    same("all exits", end.exits.total(), 1)?;
    same("screen", live.running.screen(), "hi\n".to_owned())?;
    live.stop(false)?;
    Ok(Completion::Completed)
}

pub fn virtio_mmio_registers_read_and_write() -> Result<Completion, Failed> {
    const STATUS: u32 = 0x70;
    let base = u32::try_from(layout::VIRTIO_MMIO.0)?;
    let said = words(&[
        code::MAP_DEVICES,
        &code::load(base), // MagicValue
        &code::report_eax(0),
        &code::load(base + 4), // Version
        &code::report_eax(4),
        &code::load(base + 8), // DeviceID
        &code::report_eax(8),
        &code::store(base + STATUS, 1), // ACKNOWLEDGE
        &code::load(base + STATUS),
        &code::report_eax(12),
        &code::store(base + STATUS, 0), // reset
        &code::load(base + STATUS),
        &code::report_eax(16),
        &code::say_report(20),
    ])?;
    same("magic, version, console, status", said, vec![0x7472_6976, 2, 3, 1, 0])?;
    Ok(Completion::Completed)
}

pub fn a_pci_function_is_found_and_set_up() -> Result<Completion, Failed> {
    const ADDRESS: u16 = layout::PCI_CONFIG_PORT;
    const DATA: u16 = ADDRESS + 4;
    let register =
        |device: u32, register: u32| code::out_dword(ADDRESS, 1 << 31 | device << 11 | register);
    let base = u32::try_from(layout::PCI_WINDOW.0)?;
    let said = words_over(
        Transport::Pci,
        &[
            code::MAP_DEVICES,
            &register(0, 8), // class of the host bridge
            &code::in_dword(DATA),
            &code::report_eax(0),
            &register(1, 0), // vendor and device
            &code::in_dword(DATA),
            &code::report_eax(4),
            &register(2, 0), // nobody
            &code::in_dword(DATA),
            &code::report_eax(8),
            &code::load(base), // not enabled
            &code::report_eax(12),
            &register(1, 4), // memory space, bus master
            &code::out_dword(DATA, 6),
            &code::store(base, 1), // device_feature_select
            &code::load(base + 4), // VERSION_1
            &code::report_eax(16),
            // The first message of the MSI-X table, unmasked, then enabled: KVM takes the route.
            &code::store(base + 0x1000, 0xfee0_0000),
            &code::store(base + 0x1008, 0x40),
            &code::store(base + 0x100c, 0),
            &register(1, 0x40),
            &code::out_dword(DATA, 0x8000_0000),
            &code::in_dword(DATA),
            &code::report_eax(20),
            &code::load(base + 0x1008),
            &code::report_eax(24),
            &code::say_report(28),
        ],
    )?;
    let class = said.first().map(|class| class >> 16);
    same("class of the bridge", class, Some(0x0600))?;
    let rest = vec![0x1043_1af4, u32::MAX, u32::MAX, 1, 0x8001_4c11, 0x40];
    same("console, nobody, not enabled, feature, MSI-X, message", said[1..].to_vec(), rest)?;
    Ok(Completion::Completed)
}

pub fn the_seed_is_where_the_zero_page_says() -> Result<Completion, Failed> {
    /// Offset of setup_data in the zero page (Documentation/arch/x86/boot.rst).
    const SETUP_DATA: u32 = 0x250;
    let page = u32::try_from(layout::ZERO_PAGE.0)?;
    let node = u32::try_from(layout::RNG_SEED.0)?;
    let parts = [
        &code::load(page + SETUP_DATA)[..],
        &code::report_eax(0),
        &code::load(node), // next
        &code::report_eax(4),
        &code::load(node + 8), // type
        &code::report_eax(8),
        &code::load(node + 12), // len
        &code::report_eax(12),
        &code::load(node + 16), // the first bytes
        &code::report_eax(16),
        &code::load(node + 44), // the last ones
        &code::report_eax(20),
        &code::say_report(24),
        code::POWER_OFF,
    ];
    let mut seed = [0x11; 32];
    seed[28..].fill(0x22);
    let (end, said) = Guest::new(&parts.concat()).rng_seed(seed).run()?;
    same("end", end.reason, ExitReason::PowerOff)?;
    let expected = [node, 0, 9, 32, 0x1111_1111, 0x2222_2222];
    same("list", said, expected.map(u32::to_le_bytes).concat())?;
    Ok(Completion::Completed)
}

pub fn unclaimed_ports_read_all_ones() -> Result<Completion, Failed> {
    let said = words(&[
        &[
            0x31, 0xc0, // xor eax, eax
            0xe4, 0x80, // in al, 0x80
        ],
        &code::report_eax(0),
        &[
            0x31, 0xc0, // xor eax, eax
            0xba, 0x34, 0x12, 0x00, 0x00, // mov edx, 0x1234
            0xed, // in eax, dx
        ],
        &code::report_eax(4),
        &code::out(0x1234, 7), // goes nowhere
        &code::say_report(8),
    ])?;
    same("port reads", said, vec![0xff, u32::MAX])?;
    Ok(Completion::Completed)
}

pub fn memory_beyond_ram_goes_on() -> Result<Completion, Failed> {
    // 64 MiB is beyond the end of RAM, 0xe000_0000 in the hole where no device is.
    let said = words(&[
        code::MAP_DEVICES,
        &code::store(64 << 20, 0x1234_5678),
        &code::load(64 << 20),
        &code::report_eax(0),
        &code::store(0xe000_0000, 0x1234_5678),
        &code::load(0xe000_0000),
        &code::report_eax(4),
        &code::say_report(8),
    ])?;
    same("loads", said, vec![u32::MAX; 2])?;
    Ok(Completion::Completed)
}

pub fn cpuid_leaf_b_is_the_topology() -> Result<Completion, Failed> {
    let level = |index: u8| {
        let mut code = vec![
            0xb8, 0x0b, 0x00, 0x00, 0x00, // mov eax, 0xb
            0xb9, index, 0x00, 0x00, 0x00, // mov ecx, index
            0x0f, 0xa2, // cpuid
        ];
        code.extend(code::report_eax(0));
        code.extend([0x89, 0x1c, 0x25, 0x04, 0x00, 0x20, 0x00]); // mov [0x20_0004], ebx
        code.extend([0x89, 0x0c, 0x25, 0x08, 0x00, 0x20, 0x00]); // mov [0x20_0008], ecx
        code.extend([0x89, 0x14, 0x25, 0x0c, 0x00, 0x20, 0x00]); // mov [0x20_000c], edx
        code.extend(code::say_report(16));
        code
    };
    let boot = [&level(0)[..], &level(1), &level(2), code::HALT].concat();
    let live = Guest::four(&boot, &[]).start()?;
    let said = live.hear(48)?;
    live.stop(false)?;
    let said: Vec<_> =
        said.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
    same("thread level", &said[..4], &[1, 2, 0x100, 0])?;
    same("core level", &said[4..8], &[2, 4, 0x201, 0])?;
    same("last level", &said[8..], &[0, 0, 2, 0])?;
    Ok(Completion::Completed)
}

pub fn guest_tsc_is_the_hosts() -> Result<Completion, Failed> {
    let read_tsc = [
        &[0x0f, 0x31][..], // rdtsc
        &code::report_eax(0),
        &[0x89, 0x14, 0x25, 0x04, 0x00, 0x20, 0x00], // mov [0x20_0004], edx
        &code::say_report(8),
        code::HALT,
    ];
    let guest = Guest::four(&read_tsc.concat(), &[]);
    // SAFETY: every x86-64 CPU has RDTSC.
    let before = unsafe { _rdtsc() };
    let live = guest.start()?;
    let said = live.hear(8)?;
    // SAFETY: as above.
    let after = unsafe { _rdtsc() };
    let facts = live.facts;
    live.stop(false)?;
    if !facts.tsc_shared {
        let reason = "this KVM cannot set TSC offsets (Linux 5.16 and later can)";
        return Ok(skip("guest_tsc_lies_between_two_of_the_host", reason));
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&said);
    let guest = u64::from_le_bytes(bytes);
    if !(before..=after).contains(&guest) {
        return Err(format!("guest TSC {guest} is not in {before}..={after}").into());
    }
    eprintln!("guest TSC in a window of {} µs", (after - before) * 1000 / u64::from(facts.tsc_khz));
    Ok(Completion::Completed)
}
