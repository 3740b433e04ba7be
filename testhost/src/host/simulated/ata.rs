// SPDX-License-Identifier: Apache-2.0
//! The inner end of the simulated machine's disk: a few lines of driver in user space, so that any
//! kernel will do as the host's, with drivers for disks or without.
//!
//! The kernel's sysfs lets root reach the ports of a PCI device; the disk's controller (Intel
//! PIIX3) then fetches what is to be written from memory by itself: 64 KiB take some forty system
//! calls where a serial line took half a million interrupts.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mm::{MapFlags, ProtFlags};

use super::image::SECTOR;
use super::outbox;

/// Where the kernel lists PCI devices.
const DEVICES: &str = "/sys/bus/pci/devices";
/// Class of a device: a controller of IDE disks, whatever its programming interface.
const IDE_CLASS: &str = "0x0101";

/// Registers of the disk, in the first range of ports.
mod disk {
    pub const SECTOR_COUNT: u64 = 2;
    pub const LBA: u64 = 3;
    pub const DEVICE: u64 = 6;
    pub const STATUS: u64 = 7;
    pub const COMMAND: u64 = 7;
    pub const BUSY: u8 = 0x80;
    pub const ERROR: u8 = 0x21;
    pub const FIRST_DISK_BY_LBA: u8 = 0xe0;
    pub const WRITE_DMA: u8 = 0xca;
}

/// Registers of the controller that fetches, in the fifth.
mod fetch {
    pub const COMMAND: u64 = 0;
    pub const STATUS: u64 = 2;
    pub const TABLE: u64 = 4;
    pub const START: u8 = 1;
    pub const ACTIVE: u8 = 1;
    pub const ERROR: u8 = 2;
    pub const CLEAR: u8 = 6;
}

/// `Command` of the PCI configuration: ports, memory, and access to memory of its own accord.
const PCI_COMMAND: u64 = 4;
const PCI_ENABLE: u16 = 7;

const PAGE: usize = 4096;
const PAGE_BYTES: u32 = 4096;
/// Pages of a record.
const DATA_PAGES: usize = outbox::MAX_RECORD.div_ceil(PAGE);
/// The last entry of the controller's table.
const LAST: u32 = 1 << 31;

/// A write takes microseconds of the machine's own time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the disk is asked whether it is done.
const POLL_INTERVAL: Duration = Duration::from_micros(100);

/// The disk, and the memory that it is written from.
pub(super) struct Disk {
    ports: File,
    fetch: File,
    pagemap: File,
    memory: Memory,
}

impl Disk {
    /// Finds it.
    ///
    /// # Errors
    /// This machine has none, or the kernel keeps its ports from us.
    pub(super) fn open() -> Result<Self> {
        let device = find(Path::new(DEVICES))?;
        ensure!(
            !device.join("driver").exists(),
            "a driver of this kernel has the disk; take a kernel without ATA_PIIX"
        );
        let config = open(&device.join("config"))?;
        config
            .write_all_at(&PCI_ENABLE.to_le_bytes(), PCI_COMMAND)
            .context("cannot switch on the disk's controller")?;
        let pagemap = File::open("/proc/self/pagemap").context("this kernel has no pagemap")?;
        let memory = Memory::new().context("no memory to write from")?;
        let ports = open(&device.join("resource0"))?;
        let fetch = open(&device.join("resource4"))?;
        Ok(Self { ports, fetch, pagemap, memory })
    }

    /// Where the next record is laid out.
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.memory.bytes()[PAGE..]
    }

    /// Writes the first `len` bytes of the buffer, whole sectors, from this sector on.
    pub(super) fn write(&mut self, sector: u64, len: usize) -> Result<()> {
        let sectors = u8::try_from(len / SECTOR).context("a record of too many sectors")?;
        let table = self.describe(len)?;
        self.wait()?;
        ensure!(sector + u64::from(sectors) <= super::DISK_SECTORS, "the disk is full");
        let lba = u32::try_from(sector)?.to_le_bytes();
        self.fetch.write_all_at(&table.to_le_bytes(), fetch::TABLE)?;
        // From memory to the disk; what an earlier write has left is cleared.
        self.fetch.write_all_at(&[0], fetch::COMMAND)?;
        self.fetch.write_all_at(&[fetch::CLEAR], fetch::STATUS)?;
        self.ports.write_all_at(&[disk::FIRST_DISK_BY_LBA | lba[3]], disk::DEVICE)?;
        self.ports.write_all_at(&[sectors], disk::SECTOR_COUNT)?;
        for (at, byte) in (disk::LBA..).zip(&lba[..3]) {
            self.ports.write_all_at(&[*byte], at)?;
        }
        self.ports.write_all_at(&[disk::WRITE_DMA], disk::COMMAND)?;
        self.fetch.write_all_at(&[fetch::START], fetch::COMMAND)?;
        self.wait()
    }

    /// Waits until neither disk nor controller is at work.
    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let (mut disk_status, mut fetch_status) = ([0], [0]);
            self.ports.read_exact_at(&mut disk_status, disk::STATUS)?;
            self.fetch.read_exact_at(&mut fetch_status, fetch::STATUS)?;
            let ([disk_status], [fetch_status]) = (disk_status, fetch_status);
            if disk_status & disk::BUSY == 0 && fetch_status & fetch::ACTIVE == 0 {
                ensure!(
                    disk_status & disk::ERROR == 0 && fetch_status & fetch::ERROR == 0,
                    "the disk failed: status {disk_status:#x}, controller {fetch_status:#x}"
                );
                return Ok(());
            }
            if start.elapsed() > WRITE_TIMEOUT {
                bail!("the disk hangs: status {disk_status:#x}, controller {fetch_status:#x}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Writes the controller's table of `len` bytes, and says where in memory it is. Pages may have
    /// moved since the last time.
    fn describe(&mut self, len: usize) -> Result<u32> {
        let pages = len.div_ceil(PAGE);
        let addresses = (0..=pages)
            .map(|page| physical(&self.pagemap, self.memory.address() + page * PAGE))
            .collect::<Result<Vec<u32>>>()?;
        let mut left = u32::try_from(len)?;
        for (index, address) in addresses[1..].iter().enumerate() {
            let bytes = left.min(PAGE_BYTES);
            left -= bytes;
            let last = if left == 0 { LAST } else { 0 };
            let entry = u64::from(*address) | u64::from(bytes | last) << 32;
            self.memory.bytes()[index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
        }
        Ok(addresses[0])
    }
}

fn open(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open `{}`", path.display()))
}

/// The folder of the first controller of disks.
fn find(devices: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(devices).context("this kernel has no PCI")?;
    let mut found = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|device| {
        fs::read_to_string(device.join("class")).is_ok_and(|class| class.starts_with(IDE_CLASS))
    });
    found.next().with_context(|| format!("no controller of disks in `{}`", devices.display()))
}

/// The physical address of a page of ours.
fn physical(pagemap: &File, address: usize) -> Result<u32> {
    /// Bits of an entry: the page is in memory; its number.
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let mut entry = [0; 8];
    pagemap
        .read_exact_at(&mut entry, (address / PAGE * size_of::<u64>()) as u64)
        .context("cannot read the pagemap")?;
    let entry = u64::from_le_bytes(entry);
    ensure!(entry & PRESENT != 0 && entry & FRAME != 0, "a page without an address: {entry:#x}");
    u32::try_from((entry & FRAME) * PAGE as u64).context("a page above 4 GiB")
}

/// Pages that stay in memory: one for the controller's table, the others for a record.
struct Memory(*mut u8);

// SAFETY: the pointer is to a mapping of this value's own, which is the same in all threads.
unsafe impl Send for Memory {}

impl Memory {
    const LEN: usize = (1 + DATA_PAGES) * PAGE;

    fn new() -> Result<Self> {
        // Shared: what is private may be put into huge pages meanwhile, and would move.
        // SAFETY: a new mapping at an address of the kernel's choice overlaps no other.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                Self::LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
            )
        }?;
        let memory = Self(start.cast());
        // SAFETY: the range is the mapping that was just made.
        unsafe { rustix::mm::mlock(start, Self::LEN) }?;
        Ok(memory)
    }

    fn address(&self) -> usize {
        self.0.addr()
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is LEN bytes, zeroed by the kernel, and lives as long as this value,
        // of which the slice is the only borrow. The disk reads it only while `write` waits for it.
        unsafe { std::slice::from_raw_parts_mut(self.0, Self::LEN) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it outlives this value. That it cannot be
        // unmapped has no remedy.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), Self::LEN) };
    }
}
