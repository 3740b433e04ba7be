// SPDX-License-Identifier: Apache-2.0
//! KVM's own statistics of a virtual machine, from debugfs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// One folder a machine, named by process and descriptor.
const KVM_DEBUGFS: &str = "/sys/kernel/debug/kvm";

/// From a monitor's start to its `KVM_CREATE_VM`.
const CREATE_DEADLINE: Duration = Duration::from_secs(30);

/// Exits from guest to host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    /// All of them.
    pub all: u64,
    /// Those for a port.
    pub io: u64,
    /// Those for an address without memory.
    pub mmio: u64,
    /// Those that put a vCPU to sleep.
    pub halt: u64,
    /// Those for an interrupt of the host.
    pub irq: u64,
}

impl Exits {
    /// Increase since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            all: self.all.saturating_sub(before.all),
            io: self.io.saturating_sub(before.io),
            mmio: self.mmio.saturating_sub(before.mmio),
            halt: self.halt.saturating_sub(before.halt),
            irq: self.irq.saturating_sub(before.irq),
        }
    }

    /// Names and numbers for a table, beside those of another machine.
    pub(crate) fn rows(&self, other: &Self) -> [(&'static str, u64, u64); 5] {
        [
            ("exits, all", self.all, other.all),
            ("  for a port", self.io, other.io),
            ("  for MMIO", self.mmio, other.mmio),
            ("  to halt", self.halt, other.halt),
            ("  by the host's interrupts", self.irq, other.irq),
        ]
    }
}

/// The open statistics of one machine. KVM keeps the machine as long as they are open, so
/// they can be read after the monitor has ended.
#[derive(Debug)]
pub(crate) struct OpenStats {
    all: File,
    io: File,
    mmio: File,
    halt: File,
    irq: File,
}

impl OpenStats {
    /// Waits until process `pid` has a virtual machine, and opens its statistics.
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        let start = Instant::now();
        loop {
            // The folder is there before its files are.
            if let Some(folder) = find(Path::new(KVM_DEBUGFS), pid)
                && let Ok(stats) = Self::open(&folder)
            {
                return Ok(stats);
            }
            if start.elapsed() > CREATE_DEADLINE {
                bail!(
                    "process {pid} has made no virtual machine with statistics within {} s",
                    CREATE_DEADLINE.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn open(folder: &Path) -> Result<Self> {
        Ok(Self {
            all: open_figure("exits", folder)?,
            io: open_figure("io_exits", folder)?,
            mmio: open_figure("mmio_exits", folder)?,
            halt: open_figure("halt_exits", folder)?,
            irq: open_figure("irq_exits", folder)?,
        })
    }

    /// What they say now. Each file is read once in its life: it answers only then.
    pub(crate) fn read(self) -> Result<Exits> {
        Ok(Exits {
            all: read_figure(self.all)?,
            io: read_figure(self.io)?,
            mmio: read_figure(self.mmio)?,
            halt: read_figure(self.halt)?,
            irq: read_figure(self.irq)?,
        })
    }
}

fn open_figure(name: &str, folder: &Path) -> Result<File> {
    let path = folder.join(name);
    File::open(&path).with_context(|| format!("cannot open `{}`", path.display()))
}

fn read_figure(mut file: File) -> Result<u64> {
    let mut text = String::new();
    file.read_to_string(&mut text).context("cannot read KVM's statistics")?;
    text.trim().parse().with_context(|| format!("KVM's statistics say `{text}`"))
}

fn find(folder: &Path, pid: u32) -> Option<PathBuf> {
    let prefix = format!("{pid}-");
    let machine = std::fs::read_dir(folder)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))?;
    Some(machine.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_found_by_its_process_and_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("123-9")).unwrap();
        let machine = dir.path().join("12-9");
        std::fs::create_dir(&machine).unwrap();
        let values = [("exits", 9), ("io_exits", 4), ("mmio_exits", 2), ("halt_exits", 1)];
        for (name, value) in values.into_iter().chain([("irq_exits", 0)]) {
            std::fs::write(machine.join(name), format!("{value}\n")).unwrap();
        }
        assert_eq!(find(dir.path(), 12), Some(machine.clone()));
        assert_eq!(find(dir.path(), 1), None);
        let exits = OpenStats::open(&machine).unwrap().read().unwrap();
        assert_eq!(exits, Exits { all: 9, io: 4, mmio: 2, halt: 1, irq: 0 });
    }
}
