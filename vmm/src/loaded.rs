// SPDX-License-Identifier: Apache-2.0
//! A machine's memory with a kernel and an initrd in it, before there is a machine.

use crate::boot_ram::BootRam;
use crate::config::{Config, Transport};
use crate::error::BuildError;
use crate::load::{self, LoadedKernel};
use crate::shared::{SharedInitrd, SharedKernel};
use crate::x86_64::image::KernelImage;
use crate::x86_64::lint::{Lint, LintError, Wanted};
use crate::x86_64::zero_page::InitrdPlace;

/// Where the kernel comes from.
#[derive(Clone, Copy, Debug)]
pub enum Kernel<'a> {
    /// A kernel file, unpacked for this machine.
    Image(&'a KernelImage),
    /// One that was unpacked for many machines, its pages shared by all until they are written.
    Shared(&'a SharedKernel),
    /// The same, with pages of this machine's own: more memory, and huge pages.
    Copied(&'a SharedKernel),
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

/// Memory with a kernel and an initrd in it.
pub struct Loaded {
    pub(crate) ram: BootRam,
    pub(crate) kernel: LoadedKernel,
    pub(crate) initrd: InitrdPlace,
    pub(crate) transport: Transport,
}

impl Loaded {
    /// Fills the memory of a machine.
    ///
    /// # Errors
    /// What the configuration, the kernel file or this host's memory makes impossible.
    pub fn new(
        config: &Config,
        kernel: Kernel<'_>,
        initrd: Initrd<'_>,
    ) -> Result<Self, BuildError> {
        config.validate()?;
        let mut ram = BootRam::allocate(config.memory_mib)?;
        let (kernel, transport) = match kernel {
            Kernel::Image(image) => {
                let kernel = load::kernel(image, config.boot, &mut ram)?;
                let transport = kernel.transport(&ram, config.transport);
                (kernel, transport)
            }
            // Chosen when it was unpacked, by whoever has unpacked it.
            Kernel::Shared(kernel) => (kernel.map(&mut ram)?, kernel.transport()),
            Kernel::Copied(kernel) => (kernel.copy(&mut ram)?, kernel.transport()),
        };
        let initrd = match initrd {
            Initrd::Bytes(bytes) => load::initrd(bytes, &kernel, &mut ram)?,
            Initrd::Shared(initrd) => initrd.map(&kernel, &mut ram)?,
            Initrd::Copied(initrd) => initrd.copy(&kernel, &mut ram)?,
        };
        Ok(Self { ram, kernel, initrd, transport })
    }

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

    /// The kernel's build ID in hexadecimal digits, where it is unpacked and has one.
    pub fn build_id(&self) -> Option<String> {
        self.kernel.build_id(&self.ram)
    }

    /// Whether `text` is in the unpacked kernel; `None` where it is entered packed.
    pub fn kernel_has(&self, text: &[u8]) -> Option<bool> {
        self.kernel.has(&self.ram, text)
    }
}
