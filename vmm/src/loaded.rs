// SPDX-License-Identifier: Apache-2.0
//! A kernel and an initrd in the memory of a machine that does not exist yet, and what the kernel
//! tells of itself.

use linux_loader::loader::bootparam::setup_header;

use crate::boot_ram::BootRam;
use crate::config::Transport;
use crate::load_error::{LoadError, too_small};
use crate::x86_64::lint::{self, Lint, LintError, Wanted};
use crate::x86_64::{layout, notes, zero_page::InitrdPlace};

const PAGE: u64 = 4096;

/// Memory with a kernel and an initrd in it ([`load::fill`](crate::load::fill)).
pub struct Loaded {
    pub(crate) ram: BootRam,
    pub(crate) kernel: LoadedKernel,
    pub(crate) initrd: InitrdPlace,
    pub(crate) transport: Transport,
}

impl Loaded {
    /// The kernel as it was loaded.
    pub fn kernel(&self) -> &LoadedKernel {
        &self.kernel
    }

    /// What the kernel tells about itself.
    ///
    /// # Errors
    /// It lacks what the machine wants.
    pub fn lint(&self, wanted: Wanted<'_>) -> Result<Lint, LintError> {
        self.kernel.lint(&self.ram, wanted)
    }

    /// How it reaches its devices.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The kernel's build ID in hexadecimal digits, where it is unpacked and has one.
    pub fn build_id(&self) -> Option<String> {
        self.kernel.build_id(&self.ram)
    }

    /// Whether `text` is in the unpacked kernel; `None` where it is entered packed.
    pub fn kernel_has(&self, text: &[u8]) -> Option<bool> {
        self.kernel.has(&self.ram, text)
    }
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

    /// The transport for it: the one that is asked for, or the one that is listed for it, unless the
    /// kernel shows that the list is not its own, or the first that it has a driver for. A kernel
    /// that tells of none, as one that is entered packed, gets the one that is listed or the default.
    pub fn transport(
        &self,
        ram: &BootRam,
        asked: Option<Transport>,
        listed: Option<Transport>,
    ) -> Transport {
        if let Some(asked) = asked {
            return asked;
        }
        let told = self.memory(ram).and_then(|kernel| {
            listed.filter(|one| lint::may_have(*one, kernel)).or_else(|| lint::choose(kernel))
        });
        told.or(listed).unwrap_or_default()
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

    /// Where an initrd of `len` bytes goes.
    ///
    /// # Errors
    /// It does not fit beside the kernel.
    pub fn place_initrd(&self, len: u64, ram: &BootRam) -> Result<InitrdPlace, LoadError> {
        let reach =
            self.header.map_or(u64::from(u32::MAX), |header| u64::from(header.initrd_addr_max));
        let top = ram.low_end().min(reach.max(layout::IDENTITY_MAP_END.0 - 1) + 1);
        let start = top.saturating_sub(len) & !(PAGE - 1);
        if start < self.range.1 {
            let needed = (self.range.1 + len + PAGE).div_ceil(1 << 20);
            return Err(too_small(ram, needed));
        }
        Ok(InitrdPlace { start: to_u32(start), len: to_u32(len) })
    }

    /// The kernel's memory; `None` for a stub, whose kernel is still packed.
    fn memory<'a>(&self, ram: &'a BootRam) -> Option<&'a [u8]> {
        (self.entered != Entered::Stub).then(|| ram.low_between(self.range))
    }
}

/// An address below the MMIO gap, and thus below 4 GiB.
fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
