// SPDX-License-Identifier: Apache-2.0
//! The simulated machine's disk as it is at power-on: kernel, command line and initrd as whole
//! sectors, where the boot ROM's table says. Behind them is room for what the machine writes
//! ([`super::outbox`]).

use anyhow::{Context, Result, ensure};

use super::rom::{Piece, SETUP_ADDRESS, SETUP_STACK};

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;

/// Where its heap ends, from there.
const SETUP_HEAP_END: u16 = 0xde00;
/// Where the command line goes.
const CMDLINE_ADDRESS: u32 = SETUP_ADDRESS + SETUP_STACK;
/// What there is room for behind the stack, with the zero at the end.
const CMDLINE_CAPACITY: u32 = 4096;
/// Where the list of further data for the kernel goes, a single node: a seed
/// (arch/x86/include/uapi/asm/setup_data.h).
const SEED_ADDRESS: u32 = CMDLINE_ADDRESS + CMDLINE_CAPACITY;
/// Type of that node.
const SETUP_RNG_SEED: u32 = 9;
/// Bytes that the kernel's random number generator is content with.
const SEED_BYTES: u8 = 32;
/// Where the kernel's other code goes.
const KERNEL_ADDRESS: u32 = 0x10_0000;

/// Memory at the top that the BIOS takes for its tables, and then some.
const RESERVED_TOP_MIB: u32 = 16;
/// What a page is aligned to.
const PAGE: u32 = 4096;

/// Fields of the setup header, by offset (Documentation/arch/x86/boot.rst).
mod header {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const VID_MODE: usize = 0x1fa;
    pub const MAGIC: usize = 0x202;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const HEAP_END_PTR: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const SETUP_DATA: usize = 0x250;
    pub const END: usize = 0x268;
}

/// Loaded at 1 MiB, and its heap may be used.
const LOADED_HIGH_CAN_USE_HEAP: u8 = 0x81;
/// A boot loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
/// The display stays as it is.
const NORMAL_VIDEO: u16 = 0xffff;

/// The disk, and what of it the ROM is to load.
pub(super) struct Image {
    /// Whole sectors.
    pub bytes: Vec<u8>,
    /// Their places in memory.
    pub pieces: Vec<Piece>,
}

/// What the kernel is told.
pub(super) struct Orders<'a> {
    /// Its command line.
    pub cmdline: &'a str,
    /// What its random number generator is seeded with.
    pub seed: u64,
}

/// Lays out the disk of a machine of `memory_mib` that boots this bzImage.
///
/// # Errors
/// The kernel is no bzImage, or something is larger than its place.
pub(super) fn compose(
    kernel: &[u8],
    initrd: &[u8],
    orders: &Orders,
    memory_mib: u32,
) -> Result<Image> {
    ensure!(
        kernel.get(header::MAGIC..header::MAGIC + 4) == Some(b"HdrS") && kernel.len() > header::END,
        "the simulated host boots a bzImage, and its kernel is none"
    );
    let cmdline = orders.cmdline;
    ensure!(
        cmdline.len() < CMDLINE_CAPACITY as usize,
        "the kernel's command line is too long: {cmdline}"
    );
    // No count of sectors means four.
    let setup_sectors = match kernel[header::SETUP_SECTS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let setup_len = (setup_sectors + 1) * SECTOR;
    ensure!(
        setup_len < usize::from(SETUP_HEAP_END) && setup_len < kernel.len(),
        "a damaged bzImage"
    );
    let (setup, rest) = kernel.split_at(setup_len);
    let initrd_len = u32::try_from(initrd.len()).context("the initrd is too large")?;
    let initrd_address = (memory_mib.saturating_sub(RESERVED_TOP_MIB))
        .checked_mul(1 << 20)
        .and_then(|top| top.checked_sub(initrd_len))
        .map(|address| address & !(PAGE - 1))
        .filter(|address| *address > KERNEL_ADDRESS * 2)
        .with_context(|| {
            format!("{memory_mib} MiB are too few for an initrd of {} MiB", initrd_len >> 20)
        })?;

    let mut low = setup.to_vec();
    set(&mut low, header::TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    set(&mut low, header::LOADFLAGS, &[setup[header::LOADFLAGS] | LOADED_HIGH_CAN_USE_HEAP]);
    set(&mut low, header::VID_MODE, &NORMAL_VIDEO.to_le_bytes());
    set(&mut low, header::HEAP_END_PTR, &SETUP_HEAP_END.to_le_bytes());
    set(&mut low, header::CMD_LINE_PTR, &CMDLINE_ADDRESS.to_le_bytes());
    set(&mut low, header::SETUP_DATA, &u64::from(SEED_ADDRESS).to_le_bytes());
    set(&mut low, header::RAMDISK_IMAGE, &initrd_address.to_le_bytes());
    set(&mut low, header::RAMDISK_SIZE, &initrd_len.to_le_bytes());
    let line = [cmdline.as_bytes(), &[0]].concat();

    let mut image = Image { bytes: vec![0; SECTOR], pieces: Vec::new() };
    image.add(SETUP_ADDRESS, &low)?;
    image.add(CMDLINE_ADDRESS, &line)?;
    image.add(SEED_ADDRESS, &seed_node(orders.seed))?;
    image.add(KERNEL_ADDRESS, rest)?;
    image.add(initrd_address, initrd)?;
    Ok(image)
}

/// The node with a seed made from this number: address of the next node, type, length, data.
fn seed_node(seed: u64) -> Vec<u8> {
    let mut node = 0_u64.to_le_bytes().to_vec();
    node.extend(SETUP_RNG_SEED.to_le_bytes());
    node.extend(u32::from(SEED_BYTES).to_le_bytes());
    // The kernel hashes it, so it need not look random.
    node.extend(seed.to_le_bytes().iter().cycle().take(SEED_BYTES.into()));
    node
}

/// Puts a field into the setup header.
fn set(setup: &mut [u8], at: usize, value: &[u8]) {
    setup[at..at + value.len()].copy_from_slice(value);
}

impl Image {
    fn add(&mut self, address: u32, bytes: &[u8]) -> Result<()> {
        let sector = u32::try_from(self.bytes.len() / SECTOR)?;
        let sectors = u32::try_from(bytes.len().div_ceil(SECTOR))?;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        self.pieces.push(Piece { address, sector, sectors });
        Ok(())
    }

    /// The first sector behind all that is loaded.
    pub(super) fn end_sector(&self) -> u64 {
        (self.bytes.len() / SECTOR) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of one sector of boot code, four of setup, and these bytes.
    fn kernel(rest: &[u8]) -> Vec<u8> {
        let mut kernel = vec![0x11; 5 * SECTOR];
        kernel[header::SETUP_SECTS] = 0;
        kernel[header::MAGIC..header::MAGIC + 4].copy_from_slice(b"HdrS");
        kernel.extend_from_slice(rest);
        kernel
    }

    /// What the ROM would put in memory at this address.
    fn loaded(image: &Image, address: u32) -> Vec<u8> {
        let piece = image.pieces.iter().find(|piece| piece.address == address).expect("a piece");
        let start = piece.sector as usize * SECTOR;
        image.bytes[start..start + piece.sectors as usize * SECTOR].to_vec()
    }

    fn orders(cmdline: &str) -> Orders<'_> {
        Orders { cmdline, seed: 7 }
    }

    fn word(setup: &[u8], at: usize) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|byte| setup[at + byte]))
    }

    #[test]
    fn everything_has_its_place() {
        let image =
            compose(&kernel(&[7; 1000]), &[9; 5000], &orders("quiet idle=halt"), 64).unwrap();
        let setup = loaded(&image, SETUP_ADDRESS);
        assert_eq!(setup.len(), 5 * SECTOR);
        assert_eq!(
            (word(&setup, header::RAMDISK_SIZE), word(&setup, header::CMD_LINE_PTR)),
            (5000, 0x8_e000)
        );
        assert_eq!(setup[header::LOADFLAGS], 0x11 | LOADED_HIGH_CAN_USE_HEAP);
        assert!(loaded(&image, CMDLINE_ADDRESS).starts_with(b"quiet idle=halt\0"));
        let seed = loaded(&image, word(&setup, header::SETUP_DATA));
        assert_eq!(
            seed[..24],
            [0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]
        );
        assert!(loaded(&image, KERNEL_ADDRESS).starts_with(&[7; 1000]));
        let initrd = word(&setup, header::RAMDISK_IMAGE);
        assert!(initrd.is_multiple_of(PAGE) && initrd + 5000 <= 48 << 20, "{initrd:#x}");
        assert!(loaded(&image, initrd).starts_with(&[9; 5000]));
        // Nothing reaches into the next one.
        let ends = image.pieces.iter().map(|piece| piece.address + piece.sectors * 512);
        for (end, next) in ends.zip(&image.pieces[1..]) {
            assert!(end <= next.address, "{:?}", image.pieces);
        }
        assert_eq!(image.end_sector() * SECTOR as u64, image.bytes.len() as u64);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(compose(b"MZ", &[], &orders(""), 64).is_err());
        assert!(compose(&kernel(&[])[..5 * SECTOR], &[], &orders(""), 64).is_err());
        assert!(
            compose(&kernel(&[1]), &[], &orders(&"x".repeat(CMDLINE_CAPACITY as usize)), 64)
                .is_err()
        );
        assert!(compose(&kernel(&[1]), &vec![0; 50 << 20], &orders(""), 64).is_err());
        let mut large = kernel(&[1; 200 * SECTOR]);
        large[header::SETUP_SECTS] = 150;
        assert!(compose(&large, &[], &orders(""), 64).is_err());
    }
}
