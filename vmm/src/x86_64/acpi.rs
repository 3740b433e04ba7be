// SPDX-License-Identifier: Apache-2.0
//! Hardware-reduced ACPI: processors, I/O APIC, virtio-mmio devices or a PCI bus, UART,
//! reset and S5.
//!
//! Hardware-reduced means there is no PIT, no PIC, no RTC and no PM timer to emulate, so the
//! kernel probes none of them (arch/x86/kernel/acpi/boot.c, `acpi_generic_reduced_hw_init`).
//! Table layouts: ACPI specification 6.5, sections 5.2.5 (RSDP), 5.2.8 (XSDT), 5.2.9 (FADT),
//! 5.2.11 (DSDT) and 5.2.12 (MADT).

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use crate::config::Topology;
use crate::x86_64::layout;

const OEM_ID: [u8; 6] = *b"SCHEDV";
const OEM_TABLE_ID: [u8; 8] = *b"SCHEDVMM";
const OEM_REVISION: u32 = 1;
/// DSDT revision 2: 64-bit integers in AML.
const DSDT_REVISION: u8 = 2;
const SDT_HEADER_LEN: u32 = 36;

/// FADT IAPC_BOOT_ARCH: no VGA (bit 2), no CMOS RTC (bit 5); bit 1 clear says there is no
/// i8042, which keeps the kernel from probing its ports.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;
/// Value the kernel writes to the reset register.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of S5. The kernel writes `SLP_TYP << 2 | SLP_EN` to the sleep control register
/// (ACPI 6.5 table 4.20).
pub const S5_SLEEP_TYPE: u8 = 5;

/// A virtio-mmio device's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioSlot {
    /// Guest physical address.
    pub base: u32,
    /// Global system interrupt.
    pub gsi: u32,
}

/// Transport of the virtio devices.
#[derive(Clone, Copy, Debug)]
pub enum Devices<'a> {
    /// One by one.
    Mmio(&'a [MmioSlot]),
    /// On a PCI bus, whose host bridge forwards this window.
    Pci {
        /// Guest physical address of the window.
        base: u32,
        /// Its size.
        size: u32,
    },
}

/// All tables as one image that starts with the RSDP, to be placed at `base`.
///
/// Addresses must lie below 4 GiB, as [`layout::ACPI`] does.
pub fn tables(base: u32, topology: Topology, devices: Devices<'_>, serial: bool) -> Vec<u8> {
    let mut image = vec![0; Rsdp::len().next_multiple_of(16)];
    let dsdt = place(&dsdt(devices, serial), &mut image, base);
    let fadt = place(&fadt(dsdt), &mut image, base);
    let madt = place(&madt(topology), &mut image, base);
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt, &mut image, base);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    image[..rsdp.len()].copy_from_slice(&rsdp);
    image
}

/// Appends a table to the image; returns its guest address.
fn place(table: &dyn Aml, image: &mut Vec<u8>, base: u32) -> u64 {
    let at = image.len();
    table.to_aml_bytes(image);
    image.resize(image.len().next_multiple_of(16), 0);
    u64::from(base) + at as u64
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = io_port(layout::POWER_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = io_port(layout::POWER_PORT);
    fadt.sleep_status_reg = io_port(layout::POWER_PORT);
    fadt.finalize()
}

fn io_port(address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(address))
}

/// Processors in APIC ID order, the boot processor first. Plain local-APIC entries: x2APIC
/// entries would need CONFIG_X86_X2APIC in the guest.
fn madt(topology: Topology) -> MADT {
    let local = LocalInterruptController::Address(layout::narrow(layout::LOCAL_APIC.0));
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local);
    for cpu in 0..topology.cpus {
        let (uid, id) = (narrow(cpu), narrow(topology.apic_id(cpu)));
        madt.add_structure(ProcessorLocalApic::new(uid, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::narrow(layout::IO_APIC.0), 0));
    madt
}

/// A number that `Config::validate` keeps below 255.
fn narrow(id: u32) -> u8 {
    u8::try_from(id).unwrap_or(u8::MAX)
}

fn dsdt(devices: Devices<'_>, serial: bool) -> Sdt {
    let mut dsdt =
        Sdt::new(*b"DSDT", SDT_HEADER_LEN, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut body = Vec::new();
    sleep_state().to_aml_bytes(&mut body);
    match devices {
        Devices::Mmio(slots) => {
            for (uid, slot) in (0u8..).zip(slots) {
                virtio_device(&mut body, uid, *slot);
            }
        }
        Devices::Pci { base, size } => host_bridge(&mut body, base, size),
    }
    if serial {
        uart(&mut body);
    }
    dsdt.append_slice(&body);
    dsdt
}

fn sleep_state() -> impl Aml {
    let package = aml::Package::new(vec![&S5_SLEEP_TYPE, &aml::ZERO]);
    aml::Name::new("_S5_".into(), &package)
}

fn virtio_device(body: &mut Vec<u8>, uid: u8, slot: MmioSlot) {
    let window = aml::Memory32Fixed::new(true, slot.base, layout::narrow(layout::VIRTIO_MMIO_SIZE));
    let interrupt = aml::Interrupt::new(true, true, false, false, slot.gsi);
    let name = format!("_SB_.V{uid:03}");
    aml::Device::new(
        name.as_str().into(),
        vec![
            // The ID that drivers/virtio/virtio_mmio.c binds to.
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &uid),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&window, &interrupt])),
        ],
    )
    .to_aml_bytes(body);
}

/// A conventional PCI host bridge with one bus, configured through ports. No MCFG table, no
/// `_CBA`: nothing promises memory-mapped configuration. There is no `_PRT` either, as no device
/// has an interrupt pin.
fn host_bridge(body: &mut Vec<u8>, base: u32, size: u32) {
    let buses = aml::AddressSpace::new_bus_number(0u16, 0u16);
    let port = layout::PCI_CONFIG_PORT;
    let ports = aml::IO::new(port, port, 1, layout::PCI_CONFIG_PORTS);
    let window = aml::AddressSpace::new_memory(
        aml::AddressSpaceCacheable::NotCacheable,
        true,
        base,
        base + (size - 1),
        None,
    );
    aml::Device::new(
        "_SB_.PCI0".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A03")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_SEG".into(), &aml::ZERO),
            &aml::Name::new("_BBN".into(), &aml::ZERO),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&buses, &ports, &window]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

fn uart(body: &mut Vec<u8>) {
    let ports = aml::IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, layout::SERIAL_PORTS);
    let interrupt = aml::Interrupt::new(true, true, false, false, layout::SERIAL_GSI);
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    )
    .to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 0xe_0000;

    fn image() -> Vec<u8> {
        let slot = MmioSlot { base: 0xd000_0000, gsi: 5 };
        with(Devices::Mmio(&[slot]))
    }

    fn with(devices: Devices<'_>) -> Vec<u8> {
        tables(BASE, Topology { cpus: 4, threads_per_core: 2 }, devices, true)
    }

    fn dsdt_of(image: &[u8]) -> &[u8] {
        table(image, word(table(image, word(table(image, word(image, 24)), 36)), 140))
    }

    fn word(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
    }

    /// The table at a physical address, with its checksum verified.
    fn table(image: &[u8], address: usize) -> &[u8] {
        let at = address - BASE as usize;
        let bytes = &image[at..at + word(image, at + 4)];
        let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "checksum of {:?}", std::str::from_utf8(&bytes[..4]));
        bytes
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        let image = image();
        assert!(image.len() < layout::ACPI_CAPACITY);
        assert_eq!(&image[..8], b"RSD PTR ");
        let xsdt = table(&image, word(&image, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        let (fadt, madt) = (table(&image, word(xsdt, 36)), table(&image, word(xsdt, 44)));
        assert_eq!((&fadt[..4], &madt[..4]), (b"FACP".as_slice(), b"APIC".as_slice()));
        let dsdt = table(&image, word(fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
        for id in ["LNRO0005", "_S5_", "COM1"] {
            assert!(dsdt.windows(id.len()).any(|w| w == id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn a_pci_bus_has_one_bus_its_ports_and_one_window() {
        let image = with(Devices::Pci { base: 0xd000_0000, size: 0x2000 });
        let dsdt = dsdt_of(&image);
        let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
        assert!(has(b"PCI0") && has(b"_CRS") && has(b"COM1") && !has(b"LNRO0005"));
        // The compressed ID of PNP0A03; PNP0A08 would be PCI Express.
        assert!(has(&[0x0c, 0x41, 0xd0, 0x0a, 0x03]) && !has(&[0x41, 0xd0, 0x0a, 0x08]));
        // Buses 0 to 0: a length of 1. Ports, decoded in 16 bits. Memory, not cacheable, writable.
        assert!(has(&[0x88, 13, 0, 2, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
        assert!(has(&[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]));
        let memory = [0x87, 23, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0xd0, 0xff, 0x1f, 0, 0xd0];
        assert!(has(&memory) && has(&[0, 0, 0, 0, 0, 0x20, 0, 0]));
        // No more tables than with virtio-mmio: no MCFG.
        let xsdt = table(&image, word(&image, 24));
        assert_eq!(xsdt.len(), 36 + 2 * 8);
        assert!(!has(b"MCFG") && !has(b"_CBA") && !has(b"_PRT"));
    }

    #[test]
    fn fadt_says_reduced_hardware_without_rtc_and_i8042() {
        let image = image();
        let fadt = table(&image, word(table(&image, word(&image, 24)), 36));
        assert_eq!(word(fadt, 112), 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4);
        assert_eq!(fadt[109], 0x24);
        assert_eq!((fadt[116], word(fadt, 120), fadt[128]), (1, 0x3c0, 1));
    }

    #[test]
    fn madt_lists_the_boot_processor_first() {
        let image = image();
        let madt = table(&image, word(table(&image, word(&image, 24)), 44));
        let ids: Vec<u8> = madt[44..].chunks(8).take_while(|e| e[0] == 0).map(|e| e[3]).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
    }
}
