// SPDX-License-Identifier: Apache-2.0
//! Kernel, initrd and command line into guest RAM.

use std::io::Cursor;

use linux_loader::cmdline::Cmdline;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage as BzImageLoader, Elf, KernelLoader, load_cmdline};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::config::BootMethod;
use crate::memory::{self, GuestRam};
use crate::x86_64::image::{BzImage, ElfKernel, ImageError, KernelImage, parse_elf};
use crate::x86_64::lint::{self, Lint, LintError};
use crate::x86_64::payload::{self, PayloadError};
use crate::x86_64::{layout, zero_page::InitrdPlace};

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
    /// The rust-vmm builder refused it.
    #[error("the kernel command line is malformed: {0}")]
    Cmdline(linux_loader::cmdline::Error),
    /// The rust-vmm loader refused what our own checks let pass.
    #[error("cannot load the kernel: {0}")]
    Loader(linux_loader::loader::Error),
    /// A write outside guest RAM.
    #[error("cannot write to guest memory")]
    Write(#[from] vm_memory::GuestMemoryError),
}

/// How the kernel is entered in the end.
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
    /// How it is entered.
    pub entered: Entered,
    /// Why another way than the one asked for was taken.
    pub note: Option<String>,
}

impl LoadedKernel {
    /// Reads what the unpacked kernel tells about itself; nothing for a stub.
    ///
    /// # Errors
    /// The kernel lacks what the machine needs.
    pub fn lint(&self, ram: &GuestRam, cpus: u32) -> Result<Lint, LintError> {
        let read = self.with_memory(ram, |kernel| {
            let lint = lint::read(kernel);
            lint::check(&lint, kernel, cpus).map(|()| lint)
        });
        read.unwrap_or_else(|| Ok(Lint::default()))
    }

    /// Whether `text` is in the unpacked kernel; `None` for a stub.
    pub fn has(&self, ram: &GuestRam, text: &[u8]) -> Option<bool> {
        self.with_memory(ram, |kernel| memchr::memmem::find(kernel, text).is_some())
    }

    fn with_memory<T>(&self, ram: &GuestRam, f: impl FnOnce(&[u8]) -> T) -> Option<T> {
        (self.entered != Entered::Stub).then(|| {
            with_low_ram(ram, |low_ram| {
                let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(low_ram.len());
                f(&low_ram[clamp(self.range.0)..clamp(self.range.1)])
            })
        })
    }
}

/// Gives `f` the RAM from address 0 to the MMIO gap. Only while no vCPU runs.
pub(crate) fn with_low_ram<T>(ram: &GuestRam, f: impl FnOnce(&mut [u8]) -> T) -> T {
    let Some(region) = ram.iter().next() else { return f(&mut []) };
    let len = usize::try_from(memory::low_end(ram)).unwrap_or(0);
    // SAFETY: the region is mapped for `len` bytes; callers run before any vCPU thread and
    // any device worker exists, so nobody else reads or writes it, and `f` cannot keep it.
    f(unsafe { std::slice::from_raw_parts_mut(region.as_ptr(), len) })
}

/// Puts `image` into `ram`.
///
/// # Errors
/// The image or its payload is bad, or RAM is too small.
pub fn kernel(
    image: &KernelImage,
    method: BootMethod,
    ram: &GuestRam,
) -> Result<LoadedKernel, LoadError> {
    match image {
        KernelImage::Vmlinux(bytes) => vmlinux(bytes, ram),
        KernelImage::BzImage(image) if method == BootMethod::Stub => stub(image, ram, None),
        KernelImage::BzImage(image) => match with_low_ram(ram, |low| payload::unpack(image, low)) {
            Ok(kernel) => Ok(unpacked(image, &kernel)),
            Err(error @ PayloadError::UnknownFormat(_)) => {
                stub(image, ram, Some(error.to_string()))
            }
            Err(PayloadError::TooLarge { needed_mib }) => Err(too_small(ram, needed_mib)),
            Err(error) => Err(LoadError::Payload(error)),
        },
    }
}

pub(crate) fn too_small(ram: &GuestRam, needed_mib: u64) -> LoadError {
    LoadError::Memory { memory_mib: memory::low_end(ram) >> 20, needed_mib }
}

fn unpacked(image: &BzImage, kernel: &ElfKernel) -> LoadedKernel {
    let (start, end) = elf_range(kernel);
    let (preferred, init_size) = (image.header.pref_address, image.header.init_size);
    let end = end.max(preferred.saturating_add(u64::from(init_size)));
    LoadedKernel {
        entry: kernel.entry,
        range: (start, end),
        header: Some(image.header),
        entered: Entered::Payload,
        note: None,
    }
}

fn elf_range(kernel: &ElfKernel) -> (u64, u64) {
    let start = kernel.segments.first().map_or(0, |segment| segment.address);
    (start, kernel.segments.last().map_or(0, |segment| segment.end()))
}

fn vmlinux(bytes: &[u8], ram: &GuestRam) -> Result<LoadedKernel, LoadError> {
    let kernel = parse_elf(bytes)?;
    let range = elf_range(&kernel);
    if range.1 > memory::low_end(ram) {
        return Err(too_small(ram, range.1.div_ceil(1 << 20)));
    }
    Elf::load(ram, None, &mut Cursor::new(bytes), Some(layout::HIGH_RAM_START))
        .map_err(LoadError::Loader)?;
    Ok(LoadedKernel {
        entry: kernel.entry,
        range,
        header: None,
        entered: Entered::Vmlinux,
        note: None,
    })
}

fn stub(image: &BzImage, ram: &GuestRam, note: Option<String>) -> Result<LoadedKernel, LoadError> {
    let load = layout::HIGH_RAM_START;
    let (preferred, init_size) = (image.header.pref_address, image.header.init_size);
    // The stub unpacks to its preferred address and works in the `init_size` bytes there.
    let end = preferred.max(load.0).saturating_add(u64::from(init_size));
    let file_end = load.0 + image.bytes.len() as u64;
    let end = end.max(file_end);
    if end > memory::low_end(ram).min(layout::IDENTITY_MAP_END.0) {
        return Err(too_small(ram, end.div_ceil(1 << 20)));
    }
    let mut file = Cursor::new(&image.bytes);
    let loaded = BzImageLoader::load(ram, Some(load), &mut file, Some(layout::HIGH_RAM_START))
        .map_err(LoadError::Loader)?;
    Ok(LoadedKernel {
        entry: loaded.kernel_load.0 + STUB_ENTRY,
        range: (load.0, end),
        header: Some(image.header),
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
    ram: &GuestRam,
) -> Result<InitrdPlace, LoadError> {
    let place = place_initrd(initrd.len() as u64, kernel, ram)?;
    ram.write_slice(initrd, GuestAddress(place.start.into()))?;
    Ok(place)
}

/// Where an initrd of `len` bytes goes.
///
/// # Errors
/// It does not fit beside the kernel.
pub fn place_initrd(
    len: u64,
    kernel: &LoadedKernel,
    ram: &GuestRam,
) -> Result<InitrdPlace, LoadError> {
    let reach =
        kernel.header.map_or(u64::from(u32::MAX), |header| u64::from(header.initrd_addr_max));
    let top = memory::low_end(ram).min(reach.max(layout::IDENTITY_MAP_END.0 - 1) + 1);
    let start = top.saturating_sub(len) & !(PAGE - 1);
    if start < kernel.range.1 {
        let needed = (kernel.range.1 + len + PAGE).div_ceil(1 << 20);
        return Err(too_small(ram, needed));
    }
    // Below the MMIO gap, which lies below 4 GiB.
    let to_u32 = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(InitrdPlace { start: to_u32(start), len: to_u32(len) })
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
    // Cmdline's own check does not cover a text taken as a whole.
    if let Some(bad) = text.chars().find(|c| !matches!(c, ' '..='~')) {
        return Err(LoadError::CmdlineCharacter(bad));
    }
    let cmdline = Cmdline::try_from(text, layout::CMDLINE_CAPACITY).map_err(LoadError::Cmdline)?;
    load_cmdline(ram, layout::CMDLINE, &cmdline).map_err(LoadError::Loader)?;
    Ok(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::image::{flat_kernel, tests as images};

    fn loaded(memory_mib: u64) -> (GuestRam, LoadedKernel) {
        let ram = memory::allocate(memory_mib).expect("memory");
        let image = KernelImage::parse(flat_kernel(0x100_0000, &[0xf4; 64])).expect("image");
        let kernel = kernel(&image, BootMethod::Payload, &ram).expect("loads");
        (ram, kernel)
    }

    #[test]
    fn vmlinux_lands_at_its_address() {
        let (ram, kernel) = loaded(64);
        assert_eq!((kernel.entry, kernel.range), (0x100_0000, (0x100_0000, 0x100_0040)));
        let byte: u8 = ram.read_obj(GuestAddress(0x100_003f)).expect("in RAM");
        assert_eq!(byte, 0xf4);
    }

    #[test]
    fn initrd_lies_at_the_end_and_off_the_kernel() {
        let (ram, kernel) = loaded(64);
        let place = initrd(&[1; 5000], &kernel, &ram).expect("fits");
        assert_eq!(place, InitrdPlace { start: (64 << 20) - 8192, len: 5000 });
        let (ram, kernel) = loaded(32);
        let error = initrd(&vec![1; 17 << 20], &kernel, &ram).expect_err("too large");
        assert!(matches!(error, LoadError::Memory { memory_mib: 32, needed_mib: 34 }), "{error}");
    }

    #[test]
    fn unknown_payload_falls_back_to_the_stub() {
        let mut bytes = images::bzimage(b"BZh9 xxxxxxxxxxx");
        bytes[0x211] = 1;
        bytes[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
        let image = KernelImage::parse(bytes).expect("image");
        let ram = memory::allocate(64).expect("memory");
        let kernel = kernel(&image, BootMethod::Payload, &ram).expect("loads");
        assert_eq!((kernel.entered, kernel.entry), (Entered::Stub, 0x10_0200));
        assert!(kernel.note.expect("note").contains("compression"));
    }

    #[test]
    fn command_lines_are_checked() {
        let (ram, kernel) = loaded(64);
        assert_eq!(cmdline("quiet -- x", &kernel, &ram).expect("fits"), 10);
        let long = "x".repeat(2048);
        let error = cmdline(&long, &kernel, &ram).expect_err("too long");
        assert!(matches!(error, LoadError::CmdlineLength { len: 2048, most: 2047 }));
        assert!(cmdline("a\nb", &kernel, &ram).is_err());
        assert!(cmdline("ü", &kernel, &ram).is_err());
    }
}
