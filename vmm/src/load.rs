// SPDX-License-Identifier: Apache-2.0
//! Kernel, initrd and command line into guest RAM.

use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;
use vm_memory::Bytes;

use crate::boot_ram::BootRam;
use crate::config::{BootMethod, Transport};
use crate::memory::GuestRam;
use crate::x86_64::elf::{ElfKernel, parse_elf};
use crate::x86_64::image::{BzImage, KernelImage};
use crate::x86_64::image_error::ImageError;
use crate::x86_64::lint::{self, Lint, LintError, Wanted};
use crate::x86_64::payload::{self, PayloadError};
use crate::x86_64::{layout, notes, zero_page::InitrdPlace};

/// Offset of the 64-bit entry point in a bzImage's protected-mode part (boot.rst).
const STUB_ENTRY: u64 = 0x200;
const PAGE: u64 = 4096;

/// Why guest memory could not be filled.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel file is bad.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its payload is bad.
    #[error(transparent)]
    Payload(PayloadError),
    /// Kernel and initrd do not fit.
    #[error(
        "{memory_mib} MiB of memory are too small: kernel and initrd need {needed_mib} MiB; raise --memory"
    )]
    Memory {
        /// There is.
        memory_mib: u64,
        /// Least that works.
        needed_mib: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {len} bytes, this kernel takes {most}; shorten --append")]
    CmdlineLength {
        /// Its length.
        len: usize,
        /// The kernel's limit.
        most: usize,
    },
    /// The command line has bytes that no kernel takes.
    #[error("the kernel command line has the character {0:?}; use printable ASCII")]
    CmdlineCharacter(char),
    /// A write outside guest RAM.
    #[error("cannot write to guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}

/// Entry of the kernel in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// ELF entry of an unpacked bzImage.
    Payload,
    /// ELF entry of a vmlinux.
    Vmlinux,
    /// 64-bit entry of the bzImage's stub.
    Stub,
}

/// A kernel in guest RAM.
#[derive(Clone)]
pub struct LoadedKernel {
    /// First instruction.
    pub entry: u64,
    /// Memory from its start to its end, as the kernel will use it before it manages any.
    pub range: (u64, u64),
    /// Setup header for the zero page.
    pub header: Option<setup_header>,
    /// First guest physical address and bytes of its ELF notes, where they are known.
    pub notes: Option<(u64, u64)>,
    /// Entry of the kernel.
    pub entered: Entered,
    /// Why another way than the one asked for was taken.
    pub note: Option<String>,
}

impl LoadedKernel {
    /// Reads what the unpacked kernel tells about itself; nothing for a stub.
    ///
    /// # Errors
    /// The kernel lacks what the machine needs.
    pub fn lint(&self, ram: &BootRam, wanted: Wanted<'_>) -> Result<Lint, LintError> {
        let Some(kernel) = self.memory(ram) else { return Ok(Lint::default()) };
        let lint = lint::read(kernel);
        lint::check(&lint, kernel, wanted).map(|()| lint)
    }

    /// The transport for it: the one that is asked for, or the first that it has a driver for. A
    /// kernel that tells of none, as one that is entered packed, gets the default.
    pub fn transport(&self, ram: &BootRam, asked: Option<Transport>) -> Transport {
        asked.or_else(|| self.memory(ram).and_then(lint::choose)).unwrap_or_default()
    }

    /// The same of a kernel that need not run; nothing for a stub.
    pub fn says(&self, ram: &BootRam) -> Lint {
        self.memory(ram).map(lint::read).unwrap_or_default()
    }

    /// Whether `text` is in the unpacked kernel; `None` for a stub.
    pub fn has(&self, ram: &BootRam, text: &[u8]) -> Option<bool> {
        self.memory(ram).map(|kernel| memchr::memmem::find(kernel, text).is_some())
    }

    /// The kernel's build ID in hexadecimal digits, as `file` and perf have it; `None` for a stub,
    /// and for a kernel that was linked without.
    pub fn build_id(&self, ram: &BootRam) -> Option<String> {
        let (start, len) = self.notes?;
        let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
        notes::build_id(ram.low().get(start..)?.get(..len)?)
    }

    /// The kernel's memory; `None` for a stub, whose kernel is still packed.
    fn memory<'a>(&self, ram: &'a BootRam) -> Option<&'a [u8]> {
        let low = ram.low();
        (self.entered != Entered::Stub)
            .then(|| &low[clamp(self.range.0, low)..clamp(self.range.1, low)])
    }
}

/// A guest address as a place in low memory.
fn clamp(at: u64, low: &[u8]) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX).min(low.len())
}

/// Puts `image` into `ram`.
///
/// # Errors
/// The image or its payload is bad, or RAM is too small.
pub fn kernel(
    image: &KernelImage,
    method: BootMethod,
    ram: &mut BootRam,
) -> Result<LoadedKernel, LoadError> {
    match image {
        KernelImage::Vmlinux(bytes) => vmlinux(bytes, ram),
        KernelImage::BzImage(image) if method == BootMethod::Stub => stub(image, ram, None),
        KernelImage::BzImage(image) => match payload::unpack(image, ram.low_mut()) {
            Ok(kernel) => unpacked(image, &kernel),
            Err(error @ PayloadError::UnknownFormat(_)) => {
                stub(image, ram, Some(error.to_string()))
            }
            Err(PayloadError::TooLarge { needed_mib }) => Err(too_small(ram, needed_mib)),
            Err(error) => Err(LoadError::Payload(error)),
        },
    }
}

pub(crate) fn too_small(ram: &BootRam, needed_mib: u64) -> LoadError {
    LoadError::Memory { memory_mib: ram.low_end() >> 20, needed_mib }
}

/// Refuses a kernel that says it works in memory up to `end`, if no machine has it where a kernel
/// is entered.
fn within_reach(end: u64) -> Result<(), LoadError> {
    if end <= layout::IDENTITY_MAP_END.0 {
        return Ok(());
    }
    let text = format!("its header claims memory up to {end:#x}, beyond 1 GiB");
    Err(ImageError::Damaged(text).into())
}

fn unpacked(image: &BzImage, kernel: &ElfKernel) -> Result<LoadedKernel, LoadError> {
    let (start, end) = elf_range(kernel);
    let (preferred, init_size) = (image.header.pref_address, image.header.init_size);
    let end = end.max(preferred.saturating_add(u64::from(init_size)));
    within_reach(end)?;
    Ok(LoadedKernel {
        entry: kernel.entry,
        range: (start, end),
        header: Some(image.header),
        notes: kernel.notes,
        entered: Entered::Payload,
        note: None,
    })
}

fn elf_range(kernel: &ElfKernel) -> (u64, u64) {
    let start = kernel.segments.first().map_or(0, |segment| segment.address);
    (start, kernel.segments.last().map_or(0, |segment| segment.end()))
}

fn vmlinux(bytes: &[u8], ram: &mut BootRam) -> Result<LoadedKernel, LoadError> {
    let kernel = parse_elf(bytes)?;
    let range = elf_range(&kernel);
    if range.1 > ram.low_end() {
        return Err(too_small(ram, range.1.div_ceil(1 << 20)));
    }
    let low = ram.low_mut();
    for segment in &kernel.segments {
        // `parse_elf` has checked them against the file, and the last one's end lies in RAM.
        #[allow(clippy::cast_possible_truncation)]
        let [from, to, len, end] =
            [segment.offset, segment.address, segment.file_len, segment.end()].map(|n| n as usize);
        low[to..to + len].copy_from_slice(&bytes[from..from + len]);
        low[to + len..end].fill(0);
    }
    Ok(LoadedKernel {
        entry: kernel.entry,
        range,
        header: None,
        notes: kernel.notes,
        entered: Entered::Vmlinux,
        note: None,
    })
}

fn stub(
    image: &BzImage,
    ram: &mut BootRam,
    note: Option<String>,
) -> Result<LoadedKernel, LoadError> {
    let load = layout::HIGH_RAM_START;
    let (preferred, init_size) = (image.header.pref_address, image.header.init_size);
    // The stub unpacks to its preferred address and works in the `init_size` bytes there.
    let end = preferred.max(load.0).saturating_add(u64::from(init_size));
    let protected = image.protected();
    let end = end.max(load.0 + protected.len() as u64);
    within_reach(end)?;
    if end > ram.low_end() {
        return Err(too_small(ram, end.div_ceil(1 << 20)));
    }
    // It lies below 1 GiB, as does its end.
    #[allow(clippy::cast_possible_truncation)]
    ram.low_mut()[load.0 as usize..][..protected.len()].copy_from_slice(protected);
    Ok(LoadedKernel {
        entry: load.0 + STUB_ENTRY,
        range: (load.0, end),
        header: Some(image.header),
        notes: None,
        entered: Entered::Stub,
        note,
    })
}

/// Puts `initrd` as high as the kernel can reach, out of its way.
///
/// # Errors
/// It does not fit beside the kernel.
pub fn initrd(
    initrd: &[u8],
    kernel: &LoadedKernel,
    ram: &mut BootRam,
) -> Result<InitrdPlace, LoadError> {
    let place = place_initrd(initrd.len() as u64, kernel, ram)?;
    ram.low_mut()[place.start as usize..][..initrd.len()].copy_from_slice(initrd);
    Ok(place)
}

/// Where an initrd of `len` bytes goes.
///
/// # Errors
/// It does not fit beside the kernel.
pub fn place_initrd(
    len: u64,
    kernel: &LoadedKernel,
    ram: &BootRam,
) -> Result<InitrdPlace, LoadError> {
    let reach =
        kernel.header.map_or(u64::from(u32::MAX), |header| u64::from(header.initrd_addr_max));
    let top = ram.low_end().min(reach.max(layout::IDENTITY_MAP_END.0 - 1) + 1);
    let start = top.saturating_sub(len) & !(PAGE - 1);
    if start < kernel.range.1 {
        let needed = (kernel.range.1 + len + PAGE).div_ceil(1 << 20);
        return Err(too_small(ram, needed));
    }
    Ok(InitrdPlace { start: to_u32(start), len: to_u32(len) })
}

/// An address below the MMIO gap, and thus below 4 GiB.
fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Puts the command line in place and returns its length.
///
/// # Errors
/// It is too long for this kernel, or not printable ASCII.
pub fn cmdline(text: &str, kernel: &LoadedKernel, ram: &GuestRam) -> Result<usize, LoadError> {
    let announced = kernel.header.map_or(0, |header| header.cmdline_size as usize);
    let most = match announced {
        0 => layout::CMDLINE_CAPACITY - 1,
        size => size.min(layout::CMDLINE_CAPACITY - 1),
    };
    if text.len() > most {
        return Err(LoadError::CmdlineLength { len: text.len(), most });
    }
    if let Some(bad) = text.chars().find(|c| !matches!(c, ' '..='~')) {
        return Err(LoadError::CmdlineCharacter(bad));
    }
    let line: Vec<u8> = text.bytes().chain([0]).collect();
    ram.write_slice(&line, layout::CMDLINE)?;
    Ok(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::elf::flat_kernel;
    use crate::x86_64::image::tests as images;

    fn loaded(memory_mib: u64) -> (BootRam, LoadedKernel) {
        let mut ram = BootRam::allocate(memory_mib).expect("memory");
        let image = KernelImage::parse(flat_kernel(0x100_0000, &[0xf4; 64])).expect("image");
        let kernel = kernel(&image, BootMethod::Payload, &mut ram).expect("loads");
        (ram, kernel)
    }

    #[test]
    fn vmlinux_lands_at_its_address() {
        let (ram, kernel) = loaded(64);
        assert_eq!((kernel.entry, kernel.range), (0x100_0000, (0x100_0000, 0x100_0040)));
        assert_eq!(ram.low()[0x0ff_ffff..0x100_0001], [0, 0xf4]);
        assert_eq!(ram.low()[0x100_003f..0x100_0041], [0xf4, 0]);
    }

    #[test]
    fn initrd_lies_at_the_end_and_off_the_kernel() {
        let (mut ram, kernel) = loaded(64);
        let place = initrd(&[1; 5000], &kernel, &mut ram).expect("fits");
        assert_eq!(place, InitrdPlace { start: (64 << 20) - 8192, len: 5000 });
        assert_eq!(ram.low()[place.start as usize - 1..][..5002][4999..], [1, 1, 0]);
        let (mut ram, kernel) = loaded(32);
        let error = initrd(&vec![1; 17 << 20], &kernel, &mut ram).expect_err("too large");
        assert!(matches!(error, LoadError::Memory { memory_mib: 32, needed_mib: 34 }), "{error}");
    }

    #[test]
    fn unknown_payload_falls_back_to_the_stub() {
        let mut bytes = images::bzimage(b"BZh9 xxxxxxxxxxx");
        bytes[0x211] = 1;
        bytes[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
        let image = KernelImage::parse(bytes).expect("image");
        let mut ram = BootRam::allocate(64).expect("memory");
        let kernel = kernel(&image, BootMethod::Payload, &mut ram).expect("loads");
        assert_eq!((kernel.entered, kernel.entry), (Entered::Stub, 0x10_0200));
        // What follows the setup sectors lies at 1 MiB, whatever follows the payload in the file.
        assert_eq!(ram.low()[0x10_0000..][..17], *b"BZh9 xxxxxxxxxxx\0");
        assert!(kernel.note.expect("note").contains("compression"));
    }

    #[test]
    fn what_no_memory_is_enough_for_asks_for_none() {
        /// Offset of init_size in a bzImage (boot.rst).
        const INIT_SIZE: usize = 0x260;
        let mut bytes = images::bzimage(b"BZh9 xxxxxxxxxxx");
        bytes[INIT_SIZE..][..4].fill(0xff);
        let image = KernelImage::parse(bytes).expect("image");
        let mut ram = BootRam::allocate(64).expect("memory");
        for method in [BootMethod::Payload, BootMethod::Stub] {
            let text = kernel(&image, method, &mut ram).err().expect("damaged").to_string();
            assert!(text.contains("damaged") && text.contains("beyond 1 GiB"), "{text}");
        }
    }

    #[test]
    fn command_lines_are_checked() {
        let (ram, kernel) = loaded(64);
        let ram = ram.into_inner();
        assert_eq!(cmdline("quiet -- x", &kernel, &ram).expect("fits"), 10);
        let long = "x".repeat(2048);
        let error = cmdline(&long, &kernel, &ram).expect_err("too long");
        assert!(matches!(error, LoadError::CmdlineLength { len: 2048, most: 2047 }));
        assert!(cmdline("a\nb", &kernel, &ram).is_err());
        assert!(cmdline("ü", &kernel, &ram).is_err());
    }
}
