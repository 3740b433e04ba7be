// SPDX-License-Identifier: Apache-2.0
//! A kernel that was unpacked for a machine, kept for those that are built after it in the same
//! process. [`crate::shared`] is for machines of other processes.

use std::fmt;

use crate::boot_ram::{BootRam, without_zeros};
use crate::config::Transport;
use crate::load_error::{LoadError, too_small};
use crate::loaded::{Loaded, LoadedKernel};

/// A kernel as it lay in the memory of a machine before its first instruction.
#[derive(Clone)]
pub struct Unpacked {
    kernel: LoadedKernel,
    /// From the kernel's start on; what is zero at its end is left out.
    memory: Vec<u8>,
    transport: Transport,
}

impl fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = self.kernel.range;
        f.debug_struct("Unpacked").field("range", &(start..end)).finish_non_exhaustive()
    }
}

impl Unpacked {
    /// The one in a machine's memory.
    pub fn of(loaded: &Loaded) -> Self {
        let memory = without_zeros(loaded.ram.low_between(loaded.kernel.range));
        Self { kernel: loaded.kernel.clone(), memory: memory.to_vec(), transport: loaded.transport }
    }

    /// The transport that its machines have.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Copies the kernel into `ram`, in which nothing has been written where it goes.
    pub(crate) fn copy(&self, ram: &mut BootRam) -> Result<LoadedKernel, LoadError> {
        let (_, end) = self.kernel.range;
        if end > ram.low_end() {
            return Err(too_small(ram, end.div_ceil(1 << 20)));
        }
        let place = ram.low_between_mut(self.kernel.range);
        place[..self.memory.len()].copy_from_slice(&self.memory);
        Ok(self.kernel.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Topology};
    use crate::load::{Initrd, Kernel, fill};
    use crate::x86_64::elf::flat_kernel;
    use crate::x86_64::image::KernelImage;

    fn config(memory_mib: u64) -> Config {
        Config::new(Topology { cpus: 2, threads_per_core: 1 }, memory_mib)
    }

    #[test]
    fn a_kernel_is_unpacked_once_for_many_machines() {
        let mut code = vec![0xf4; 6000];
        code.extend_from_slice(&[0; 5000]);
        let image = KernelImage::parse(flat_kernel(0x300_0000, &code)).expect("an image");
        let first =
            fill(&config(64), Kernel::Image(&image), Initrd::Bytes(&[7; 100])).expect("loaded");
        let unpacked = Unpacked::of(&first);
        assert_eq!(unpacked.memory.len(), 6000, "no zeros, and no initrd");
        let kernel = Kernel::Unpacked(&unpacked);
        let again = fill(&config(64), kernel, Initrd::Bytes(&[9; 100])).expect("loaded");
        assert_eq!(first.kernel.range, again.kernel.range);
        assert_eq!(first.kernel.entry, again.kernel.entry);
        let (start, end) = (0x300_0000, 0x300_0000 + code.len());
        assert_eq!(first.ram.low()[start..end], again.ram.low()[start..end]);
        assert_eq!(again.ram.low()[again.initrd.start as usize], 9);
        let small = fill(&config(32), kernel, Initrd::Bytes(&[])).err().expect("too small");
        assert!(small.to_string().contains("raise --memory"), "{small}");
    }
}
