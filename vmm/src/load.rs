// SPDX-License-Identifier: Apache-2.0
//! Kernel, initrd and command line into guest RAM.

use std::fs::File;

use vm_memory::Bytes;

use crate::boot_ram::BootRam;
use crate::config::{BootMethod, Config};
use crate::error::BuildError;
use crate::load_error::too_small;
use crate::loaded::{Entered, Loaded, LoadedKernel};
use crate::memory::GuestRam;
use crate::shared::{SharedError, SharedInitrd, SharedKernel};
use crate::unpacked::Unpacked;
use crate::x86_64::elf::{ElfKernel, parse_elf};
use crate::x86_64::image::{BzImage, KernelImage};
use crate::x86_64::image_error::ImageError;
use crate::x86_64::lint::Wanted;
use crate::x86_64::payload::{self, PayloadError};
use crate::x86_64::{layout, zero_page::InitrdPlace};

pub use crate::load_error::LoadError;

/// Offset of the 64-bit entry point in a bzImage's protected-mode part (boot.rst).
const STUB_ENTRY: u64 = 0x200;

/// Where the kernel comes from.
#[derive(Clone, Copy, Debug)]
pub enum Kernel<'a> {
    /// A kernel file, unpacked for this machine.
    Image(&'a KernelImage),
    /// One that was unpacked for many machines, its pages shared by all until they are written.
    Shared(&'a SharedKernel),
    /// The same, with pages of this machine's own: more memory, and huge pages.
    Copied(&'a SharedKernel),
    /// One that was unpacked for an earlier machine of this process.
    Unpacked(&'a Unpacked),
}

/// Where the initrd comes from.
#[derive(Clone, Copy, Debug)]
pub enum Initrd<'a> {
    /// Copied into this machine's memory.
    Bytes(&'a [u8]),
    /// Mapped by many machines.
    Shared(&'a SharedInitrd),
    /// The same, copied into this machine's memory.
    Copied(&'a SharedInitrd),
}

/// Fills the memory of a machine.
///
/// # Errors
/// What the configuration, the kernel file or this host's memory makes impossible.
pub fn fill(config: &Config, kernel: Kernel<'_>, initrd: Initrd<'_>) -> Result<Loaded, BuildError> {
    config.validate()?;
    let mut ram = BootRam::allocate(config.memory_mib)?;
    let (kernel, transport) = match kernel {
        Kernel::Image(image) => {
            let kernel = self::kernel(image, config.boot, &mut ram)?;
            let transport = kernel.transport(&ram, config.transport, config.listed_transport);
            (kernel, transport)
        }
        // Chosen when it was unpacked, by whoever has unpacked it.
        Kernel::Shared(kernel) => (kernel.map(&mut ram)?, kernel.transport()),
        Kernel::Copied(kernel) => (kernel.copy(&mut ram)?, kernel.transport()),
        Kernel::Unpacked(kernel) => (kernel.copy(&mut ram)?, kernel.transport()),
    };
    let initrd = match initrd {
        Initrd::Bytes(bytes) => self::initrd(bytes, &kernel, &mut ram)?,
        Initrd::Shared(initrd) => initrd.map(&kernel, &mut ram)?,
        Initrd::Copied(initrd) => initrd.copy(&kernel, &mut ram)?,
    };
    Ok(Loaded { ram, kernel, initrd, transport })
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
        let [from, to, len] =
            [segment.offset, segment.address, segment.file_len].map(|n| n as usize);
        low[to..to + len].copy_from_slice(&bytes[from..from + len]);
        // Behind it memory is zero: nothing has run in it.
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
    let place = kernel.place_initrd(initrd.len() as u64, ram)?;
    ram.low_mut()[place.start as usize..][..initrd.len()].copy_from_slice(initrd);
    Ok(place)
}

/// Unpacks `image` for machines of `memory_mib` that want this of it, with the transport that
/// is asked for or, if none is, one that it has a driver for; writes it into `file`, an empty
/// memfd, and seals that, for a [`SharedKernel`].
///
/// # Errors
/// The image is bad, lacks what the machine needs, or does not fit.
pub fn share(
    image: &KernelImage,
    memory_mib: u64,
    wanted: Wanted<'_>,
    file: &File,
) -> Result<(), SharedError> {
    let mut ram = BootRam::allocate(memory_mib)?;
    let kernel = kernel(image, BootMethod::Payload, &mut ram)?;
    kernel.lint(&ram, wanted)?;
    let transport = kernel.transport(&ram, wanted.transport, None);
    SharedKernel::write(&kernel, &ram, transport, file)
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
    use crate::config::Transport;
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
    fn a_list_of_another_build_does_not_choose_the_transport() {
        let taken = |text: &str, asked, listed| {
            let mut ram = BootRam::allocate(64).expect("memory");
            let image = KernelImage::parse(flat_kernel(0x100_0000, text.as_bytes()));
            let image = image.expect("image");
            let kernel = kernel(&image, BootMethod::Payload, &mut ram).expect("loads");
            kernel.transport(&ram, asked, listed)
        };
        let (mmio, pci, both) = ("LNRO0005", "virtio-pci\0", "LNRO0005 virtio-pci\0");
        for (text, asked, listed, is) in [
            (pci, None, Some(Transport::Mmio), Transport::Pci),
            (mmio, None, Some(Transport::Pci), Transport::Mmio),
            (both, None, Some(Transport::Pci), Transport::Pci),
            (both, None, None, Transport::Mmio),
            // What the kernel does not tell, the list may.
            ("neither", None, Some(Transport::Pci), Transport::Pci),
            (mmio, Some(Transport::Pci), Some(Transport::Mmio), Transport::Pci),
        ] {
            assert_eq!(taken(text, asked, listed), is, "{text:?}, {asked:?}, {listed:?}");
        }
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
