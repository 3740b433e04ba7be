// SPDX-License-Identifier: Apache-2.0
//! The monitors of the comparison and how each is called.

use std::path::Path;

use anyhow::{Context, Result};
use initrd_builder::Archive;

/// Guest memory of all, in MiB.
pub(crate) const MEMORY_MIB: u32 = 512;

/// Where QEMU lies in the emulated host, and the firmware of its microvm machine: where
/// Debian's QEMU looks for it.
pub(crate) const QEMU_PATH: &str = "/bin/qemu-system-x86_64";
pub(crate) const QEMU_FIRMWARE: &[&str] =
    &["/usr/share/seabios/bios-microvm.bin", "/usr/share/qemu/linuxboot_dma.bin"];

pub(crate) const SCHEDVMM_PATH: &str = "/bin/schedvmm";
pub(crate) const KERNEL_PATH: &str = "/bzImage";
const INITRD_PATH: &str = "/tmp/bench-initrd";

/// A monitor.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub name: &'static str,
    pub command: Vec<String>,
}

/// What PID 1 is told in all, after `rdinit`: end the machine at once, without a farewell to
/// processes that are not there.
const INIT_WORDS: &str = "rdinit=/bin/reboot -- -f";

/// Ours, as it is by default: over virtio-mmio, for which the test kernel has a driver.
pub(crate) fn schedvmm() -> Peer {
    ours("schedvmm", &[])
}

/// Ours over virtio-pci.
pub(crate) fn schedvmm_pci() -> Peer {
    ours("schedvmm over PCI", &["--transport", "pci"])
}

fn ours(name: &'static str, options: &[&str]) -> Peer {
    let memory = format!("{MEMORY_MIB}M");
    let words = [
        &[SCHEDVMM_PATH, "boot", "--memory", &memory, "--pin", "none"][..],
        options,
        &["--kernel", KERNEL_PATH, "--initrd", INITRD_PATH, "--append", INIT_WORDS],
    ];
    Peer { name, command: words.concat().into_iter().map(String::from).collect() }
}

/// QEMU's microvm, without the devices that it can leave out and Linux can do without: slower
/// with them, and ours has none of them either.
pub(crate) fn qemu() -> Peer {
    let memory = MEMORY_MIB.to_string();
    let append = format!("quiet reboot=t panic=-1 {INIT_WORDS}");
    let words = [
        &[QEMU_PATH, "-accel", "kvm", "-cpu", "host", "-m", &memory][..],
        &["-M", "microvm,pit=off,pic=off,rtc=off,isa-serial=off", "-smp", "4,cores=2,threads=2"],
        &["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        &["-kernel", KERNEL_PATH, "-initrd", INITRD_PATH, "-append", &append],
    ];
    Peer { name: "QEMU", command: words.concat().into_iter().map(String::from).collect() }
}

/// Makes the initrd of all: busybox, whose `reboot` is PID 1, and a file that makes it as
/// large as the one of `schedvmm`'s main job, which has its own executable in it.
pub(crate) fn make_initrd() -> Result<()> {
    let filling = file_size(SCHEDVMM_PATH)?.saturating_sub(file_size("/bin/busybox")?);
    let mut archive = Archive::new();
    archive.standard_nodes()?;
    archive.add_executable("/bin/reboot", Path::new("/bin/busybox"))?;
    archive.file("/filling", 0o644, vec![0; filling])?;
    std::fs::write(INITRD_PATH, archive.finish())
        .with_context(|| format!("cannot write `{INITRD_PATH}`"))
}

fn file_size(path: &str) -> Result<usize> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read `{path}`"))?;
    usize::try_from(metadata.len()).context("an executable too large to be true")
}
