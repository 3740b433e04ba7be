// SPDX-License-Identifier: Apache-2.0
//! A kernel that was unpacked once, and an initrd, in files that many machines map.
//!
//! Machines that boot the same kernel hold most of its pages unchanged. Each maps the file
//! privately over its own RAM: what a guest only reads is one page for all of them, what it
//! writes becomes a page of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::boot_params;
use rustix::fs::{self, SealFlags};
use thiserror::Error;
use vm_memory::ByteValued;

use crate::boot_ram::{BootRam, without_zeros};
use crate::config::Transport;
use crate::load_error::{LoadError, too_small};
use crate::loaded::{Entered, LoadedKernel};
use crate::memory;
use crate::x86_64::lint::LintError;
use crate::x86_64::zero_page::InitrdPlace;

const PAGE: u64 = 4096;
/// First word of a file of ours: "vmm-krn1".
const MAGIC: u64 = u64::from_le_bytes(*b"vmm-krn1");
/// The facts, the setup header in a page of its own, then the kernel's memory.
const MEMORY_OFFSET: u64 = 2 * PAGE;
/// Words in the first page.
const FACTS: usize = 6;

/// Why there is nothing to share.
#[derive(Debug, Error)]
pub enum SharedError {
    /// The kernel cannot be unpacked.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It lacks what the machine needs.
    #[error(transparent)]
    Lint(#[from] LintError),
    /// No memory to unpack it in.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// The file cannot be read or written.
    #[error("the shared kernel or initrd cannot be {0}")]
    File(&'static str, #[source] io::Error),
    /// The file is none of ours.
    #[error("the shared kernel is damaged: {0}")]
    Damaged(&'static str),
}

/// A kernel in a file, as it lies in guest RAM.
#[derive(Debug)]
pub struct SharedKernel {
    file: File,
    facts: [u64; FACTS],
}

impl SharedKernel {
    /// Writes a kernel that was unpacked in `ram`, for machines with this transport, into `file`,
    /// an empty memfd, and seals that.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(
        kernel: &LoadedKernel,
        ram: &BootRam,
        transport: Transport,
        file: &File,
    ) -> Result<(), SharedError> {
        let start = kernel.range.0 & !(PAGE - 1);
        let memory = ram.low_between((start, kernel.range.1));
        // What is zero at the end is so in every machine's own memory, too.
        let used = without_zeros(memory).len() as u64;
        let len = used.next_multiple_of(PAGE).min(memory.len() as u64);
        file.write_all_at(ram.low_between((start, start + len)), MEMORY_OFFSET)
            .map_err(cannot_write)?;
        let mut page = boot_params::default();
        let has_header = kernel.header.map(|header| page.hdr = header).is_some();
        file.write_all_at(page.as_slice(), PAGE).map_err(cannot_write)?;
        let kind = u64::from(transport == Transport::Pci) << 2
            | u64::from(kernel.entered == Entered::Stub) << 1
            | u64::from(has_header);
        let facts = [MAGIC, kernel.entry, kernel.range.0, kernel.range.1, len, kind];
        let words: Vec<u8> = facts.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all_at(&words, 0).map_err(cannot_write)?;
        seal(file)
    }

    /// Takes a file that [`load::share`](crate::load::share) has filled.
    ///
    /// # Errors
    /// It is none.
    pub fn open(file: File) -> Result<Self, SharedError> {
        let mut words = [0; FACTS * 8];
        file.read_exact_at(&mut words, 0).map_err(|source| SharedError::File("read", source))?;
        let (words, _) = words.as_chunks::<8>();
        let mut facts = [0; FACTS];
        facts.iter_mut().zip(words).for_each(|(fact, word)| *fact = u64::from_le_bytes(*word));
        if facts[0] != MAGIC {
            return Err(SharedError::Damaged("it does not begin as one"));
        }
        require_seals(&file)?;
        Ok(Self { file, facts })
    }

    /// The transport that its machines have.
    pub(crate) fn transport(&self) -> Transport {
        let [.., kind] = self.facts;
        if kind & 4 == 0 { Transport::Mmio } else { Transport::Pci }
    }

    /// Maps the kernel into `ram`, which nothing has been written to where it goes.
    pub(crate) fn map(&self, ram: &mut BootRam) -> Result<LoadedKernel, SharedError> {
        let (kernel, start, len) = self.facts(ram)?;
        map_over(ram, start, &self.file, MEMORY_OFFSET, len)?;
        Ok(kernel)
    }

    /// Copies the kernel into `ram`.
    pub(crate) fn copy(&self, ram: &mut BootRam) -> Result<LoadedKernel, SharedError> {
        let (kernel, start, len) = self.facts(ram)?;
        copy_to(ram, start, &self.file, MEMORY_OFFSET, len)?;
        Ok(kernel)
    }

    /// The kernel as it will lie in `ram`, and which bytes of that are in the file.
    fn facts(&self, ram: &BootRam) -> Result<(LoadedKernel, u64, u64), SharedError> {
        let [_, entry, start, end, len, kind] = self.facts;
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or(0)];
        self.file
            .read_exact_at(&mut page, PAGE)
            .map_err(|source| SharedError::File("read", source))?;
        let params = boot_params::from_slice(&page).map(|params| params.hdr);
        if end > ram.low_end() {
            return Err(too_small(ram, end.div_ceil(1 << 20)).into());
        }
        let kernel = LoadedKernel {
            entry,
            range: (start, end),
            header: params.filter(|_| kind & 1 != 0),
            notes: None,
            entered: if kind & 2 == 0 { Entered::Payload } else { Entered::Stub },
            note: None,
        };
        Ok((kernel, start & !(PAGE - 1), len))
    }
}

fn cannot_write(source: io::Error) -> SharedError {
    SharedError::File("written", source)
}

/// An initrd in a file.
#[derive(Debug)]
pub struct SharedInitrd {
    file: File,
    len: u64,
}

impl SharedInitrd {
    /// Writes `initrd` into `file`, an empty memfd, and seals that.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn prepare(initrd: &[u8], file: &File) -> Result<(), SharedError> {
        file.write_all_at(initrd, 0).map_err(|source| SharedError::File("written", source))?;
        seal(file)
    }

    /// Takes a file that [`SharedInitrd::prepare`] has filled.
    ///
    /// # Errors
    /// Its length cannot be found.
    pub fn open(file: File) -> Result<Self, SharedError> {
        require_seals(&file)?;
        let len = file.metadata().map_err(|source| SharedError::File("read", source))?.len();
        Ok(Self { file, len })
    }

    /// Maps the initrd into `ram`.
    pub(crate) fn map(
        &self,
        kernel: &LoadedKernel,
        ram: &mut BootRam,
    ) -> Result<InitrdPlace, SharedError> {
        let place = kernel.place_initrd(self.len, ram)?;
        map_over(ram, place.start.into(), &self.file, 0, self.len)?;
        Ok(place)
    }

    /// Copies the initrd into `ram`.
    pub(crate) fn copy(
        &self,
        kernel: &LoadedKernel,
        ram: &mut BootRam,
    ) -> Result<InitrdPlace, SharedError> {
        let place = kernel.place_initrd(self.len, ram)?;
        copy_to(ram, place.start.into(), &self.file, 0, self.len)?;
        Ok(place)
    }
}

/// Nobody changes the file any more: a machine may rely on what it maps.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// A file that somebody can change is not mapped over memory that is read as a slice.
fn require_seals(file: &File) -> Result<(), SharedError> {
    // What can have no seals answers with an error.
    if fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(());
    }
    Err(SharedError::Damaged("it is not sealed"))
}

fn seal(file: &File) -> Result<(), SharedError> {
    fs::fcntl_add_seals(file, SEALS).map_err(|error| SharedError::File("sealed", error.into()))
}

/// Copies `len` bytes of a file, from an offset on, into RAM at `gpa`.
fn copy_to(
    ram: &mut BootRam,
    gpa: u64,
    file: &File,
    offset: u64,
    len: u64,
) -> Result<(), SharedError> {
    let place = ram.low_between_mut((gpa, gpa.saturating_add(len)));
    file.read_exact_at(place, offset).map_err(|source| SharedError::File("read", source))
}

/// Maps `len` bytes of a file, from an offset on, privately over RAM at `gpa`.
fn map_over(
    ram: &mut BootRam,
    gpa: u64,
    file: &File,
    offset: u64,
    len: u64,
) -> Result<(), SharedError> {
    if !gpa.is_multiple_of(PAGE) {
        return Err(SharedError::Damaged("it does not lie on a page boundary"));
    }
    let pages = usize::try_from(len.next_multiple_of(PAGE)).unwrap_or(usize::MAX);
    ram.map_over(gpa, file, offset, pages).map_err(|source| SharedError::File("mapped", source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;
    use crate::x86_64::elf::flat_kernel;
    use crate::x86_64::image::KernelImage;
    use crate::x86_64::lint::Wanted;

    fn memfd() -> File {
        fs::memfd_create("test", fs::MemfdFlags::ALLOW_SEALING).expect("a memory file").into()
    }

    /// Passes the linter by its texts.
    fn image() -> KernelImage {
        let mut code = vec![0xf4; 6000];
        code.extend_from_slice(b"LNRO0005 virtio_console Initramfs unpacking failed ");
        code.extend_from_slice(b"Linux version 6.12 SMP\n");
        KernelImage::parse(flat_kernel(0x100_0000, &code)).expect("image")
    }

    #[test]
    fn machines_share_what_they_do_not_write() {
        let (kernel, initrd) = (memfd(), memfd());
        load::share(&image(), 64, Wanted::default(), &kernel).expect("prepared");
        SharedInitrd::prepare(&[7; 5000], &initrd).expect("prepared");
        kernel.write_all_at(b"x", 0).expect_err("sealed");
        let shared = SharedKernel::open(kernel).expect("ours");
        let initrd = SharedInitrd::open(initrd).expect("ours");
        let mut machines = [(); 2].map(|()| {
            let mut ram = BootRam::allocate(64).expect("memory");
            let loaded = shared.map(&mut ram).expect("mapped");
            assert_eq!((loaded.entry, loaded.range.0), (0x100_0000, 0x100_0000));
            let place = initrd.map(&loaded, &mut ram).expect("mapped");
            assert_eq!(place.len, 5000);
            assert_eq!(ram.low()[place.start as usize + 4999], 7);
            ram
        });
        let mut copied = BootRam::allocate(64).expect("memory");
        let loaded = shared.copy(&mut copied).expect("copied");
        let place = initrd.copy(&loaded, &mut copied).expect("copied");
        assert_eq!(copied.low()[place.start as usize + 4999..][..2], [7, 0]);
        assert_eq!(copied.low()[0x100_0000], 0xf4);
        machines[0].low_mut()[0x100_0000] = 1;
        assert_eq!(machines[1].low()[0x100_0000], 0xf4);
    }

    #[test]
    fn the_transport_is_chosen_once_and_kept() {
        let prepared = |text: &str, asked| {
            let file = memfd();
            let code =
                format!("{text} virtio_console Initramfs unpacking failed Linux version 6 SMP\n");
            let image = flat_kernel(0x100_0000, code.as_bytes());
            let image = KernelImage::parse(image).expect("image");
            let wanted = Wanted { cpus: 2, transport: asked, modules: &[] };
            load::share(&image, 64, wanted, &file)?;
            Ok::<_, SharedError>(SharedKernel::open(file).expect("ours").transport())
        };
        let (mmio, pci, both) = ("LNRO0005", "virtio-pci\0", "LNRO0005 virtio-pci\0");
        for (text, asked, taken) in [
            (mmio, None, Transport::Mmio),
            (pci, None, Transport::Pci),
            (both, None, Transport::Mmio),
            (both, Some(Transport::Pci), Transport::Pci),
        ] {
            assert_eq!(prepared(text, asked).expect("prepared"), taken, "{text:?}");
        }
        let error = prepared(mmio, Some(Transport::Pci)).expect_err("no driver").to_string();
        assert!(error.contains("--transport pci"), "{error}");
    }

    #[test]
    fn false_files_and_small_machines_are_refused() {
        assert!(matches!(SharedKernel::open(memfd()), Err(SharedError::File("read", _))));
        let other = memfd();
        other.write_all_at(&[1; 4096], 0).expect("written");
        assert!(matches!(SharedKernel::open(other), Err(SharedError::Damaged(_))));
        let open = memfd();
        open.write_all_at(&MAGIC.to_le_bytes(), 0).expect("written");
        open.set_len(4096).expect("longer");
        let error = SharedKernel::open(open).expect_err("anybody can write it");
        assert!(error.to_string().contains("not sealed"), "{error}");
        let file = memfd();
        load::share(&image(), 64, Wanted::default(), &file).expect("prepared");
        let mut ram = BootRam::allocate(1).expect("memory");
        let shared = SharedKernel::open(file).expect("ours");
        let error = shared.map(&mut ram).err().expect("too small");
        assert!(error.to_string().contains("raise --memory"), "{error}");
    }
}
