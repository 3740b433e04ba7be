// SPDX-License-Identifier: Apache-2.0
//! The trace without sending it: the kernel has its ring buffers in a piece of its memory that it
//! was told to set aside, and they are read there when the machine has stopped, for whatever
//! reason.

use std::io;
use std::path::Path;

use ftrace::dump::DumpWriter;
use ftrace::{FtraceError, PersistentRings};
use protocol::message::TraceRing;
use protocol::names::TRACE_INSTANCE;

/// The kernels whose layout [`PersistentRings`] knows. Those before have no such instances.
const VERSION: (u32, u32) = (6, 12);

/// All memory is at least this many times as much as is set aside: the load needs some, too.
const MIN_SHARE: u64 = 4;

/// What each CPU's ring has beside its pages: the description, 4 bytes a page, and the way to the
/// next page.
const OVERHEAD_KIB: u64 = 16;
/// A ring has this part of its size in addition: 4 bytes for each page of 4 KiB.
const PAGES_PART: u64 = 1024;

/// Memory that a kernel is to set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceMemory {
    kib: u64,
}

impl TraceMemory {
    /// For a kernel of this version, with rings of `buffer_kib` in a machine of `memory_mib`;
    /// `None` where the trace has to be sent.
    pub fn choose(
        version: (u32, u32),
        buffer_kib: u32,
        cpus: u32,
        memory_mib: u64,
    ) -> Option<Self> {
        let buffer_kib = u64::from(buffer_kib);
        let each = buffer_kib + buffer_kib / PAGES_PART + OVERHEAD_KIB;
        let kib = (each * u64::from(cpus)).next_multiple_of(4);
        (version == VERSION && kib * MIN_SHARE <= memory_mib << 10).then_some(Self { kib })
    }

    /// Its length in bytes.
    pub fn bytes(self) -> u64 {
        self.kib << 10
    }

    /// Words of the kernel's command line (Documentation/admin-guide/kernel-parameters.txt): memory
    /// by a name, and an instance in it that does not trace yet.
    pub fn words(self) -> [String; 2] {
        let name = TRACE_INSTANCE;
        [
            format!("reserve_mem={}K:4096:{name}", self.kib),
            format!("trace_instance={name}^traceoff@{name}"),
        ]
    }
}

/// The ring buffers of a guest, which may lie in all it says of them.
pub struct GuestRings<'a> {
    /// Where the guest says they are.
    pub ring: TraceRing,
    /// So many bytes of them are believed, at most.
    pub most_bytes: u64,
    /// Each of so many CPUs has one.
    pub cpus: u32,
    /// Reads the guest's memory.
    pub read_ram: &'a dyn Fn(u64, &mut [u8]) -> io::Result<()>,
}

impl GuestRings<'_> {
    /// Whether they can be read, for which tracing has to have stopped.
    ///
    /// # Errors
    /// They are not what they should be.
    pub fn check(&self) -> Result<(), FtraceError> {
        self.find(|_| Ok(()))
    }

    /// Goes on with the dump in `raw`, of which the guest has sent all but the pages: those of the
    /// CPUs in `first` come first. Its length in bytes.
    ///
    /// # Errors
    /// They are not what they should be; or the file's.
    pub fn append(&self, raw: &Path, first: &[u32]) -> Result<u64, FtraceError> {
        self.find(|rings| {
            let mut dump = DumpWriter::resume(raw)?;
            let mut cpus: Vec<u32> = (0..rings.cpus()).collect();
            cpus.sort_by_key(|cpu| !first.contains(cpu));
            for cpu in cpus {
                dump.pages(cpu, &mut rings.pages(cpu))?;
            }
            Ok(dump.finish()?)
        })
    }

    fn find<T>(
        &self,
        then: impl FnOnce(PersistentRings<'_>) -> Result<T, FtraceError>,
    ) -> Result<T, FtraceError> {
        then(PersistentRings::find(
            &|offset: u64, buffer: &mut [u8]| {
                let address = self.ring.address.checked_add(offset);
                (self.read_ram)(
                    address.ok_or_else(|| io::Error::other("beyond all memory"))?,
                    buffer,
                )
            },
            self.ring.bytes.min(self.most_bytes),
            self.cpus,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_set_aside_where_the_kernel_can_and_there_is_enough() {
        let memory = TraceMemory::choose((6, 12), 4096, 4, 4096).expect("it can");
        assert_eq!(memory.bytes(), (4096 + 4 + 16) * 4 * 1024);
        assert_eq!(
            memory.words().join(" "),
            "reserve_mem=16464K:4096:schedvmm trace_instance=schedvmm^traceoff@schedvmm"
        );
        for version in [(6, 1), (6, 11), (6, 13), (7, 0)] {
            assert_eq!(TraceMemory::choose(version, 4096, 4, 4096), None);
        }
        assert_eq!(TraceMemory::choose((6, 12), 4096, 4, 64), None);
        assert_eq!(TraceMemory::choose((6, 12), u32::MAX, 254, 4096), None);
    }

    #[test]
    fn a_ring_that_lies_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read = |_: u64, buffer: &mut [u8]| {
            buffer.fill(0xff);
            Ok(())
        };
        for ring in [(0, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX - 3, 4096)] {
            let ring = TraceRing { address: ring.0, bytes: ring.1 };
            let rings = GuestRings { ring, most_bytes: 1 << 20, cpus: 1, read_ram: &read };
            rings.check().expect_err("no ring");
            rings.append(file.path(), &[]).expect_err("no ring");
        }
    }
}
