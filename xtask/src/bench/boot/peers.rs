// SPDX-License-Identifier: Apache-2.0
//! The two monitors of the comparison and how each is called.

use std::path::Path;

use anyhow::{Context, Result, bail};
use initrd_builder::Archive;

/// Guest memory of both, in MiB.
pub(super) const MEMORY_MIB: u32 = 512;

/// Where QEMU lies in the emulated host, and the firmware of its microvm machine: where
/// Debian's QEMU looks for it.
pub(super) const QEMU_PATH: &str = "/bin/qemu-system-x86_64";
pub(super) const QEMU_FIRMWARE: &[&str] =
    &["/usr/share/seabios/bios-microvm.bin", "/usr/share/qemu/linuxboot_dma.bin"];

const SCHEDVMM_PATH: &str = "/bin/schedvmm";
const KERNEL_PATH: &str = "/bzImage";
const INITRD_PATH: &str = "/tmp/bench-initrd";

/// A monitor.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub name: &'static str,
    pub command: Vec<String>,
}

/// Ours: boots to its agent as PID 1, which ends the machine at once.
pub(super) fn schedvmm() -> Peer {
    let memory = format!("{MEMORY_MIB}M");
    let words = [SCHEDVMM_PATH, "boot", "--kernel", KERNEL_PATH, "--memory", &memory];
    Peer { name: "schedvmm", command: words.map(String::from).to_vec() }
}

/// QEMU's microvm, without the devices that it can leave out and Linux can do without: slower
/// with them, and ours has none of them either.
pub(super) fn qemu() -> Result<Peer> {
    std::fs::write(INITRD_PATH, initrd()?)
        .with_context(|| format!("cannot write `{INITRD_PATH}`"))?;
    let memory = MEMORY_MIB.to_string();
    let words = [
        &[QEMU_PATH, "-accel", "kvm", "-cpu", "host", "-m", &memory][..],
        &["-M", "microvm,pit=off,pic=off,rtc=off,isa-serial=off", "-smp", "4,cores=2,threads=2"],
        &["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        &["-kernel", KERNEL_PATH, "-initrd", INITRD_PATH],
        &["-append", "quiet reboot=t panic=-1 rdinit=/bin/reboot -- -f"],
    ];
    Ok(Peer { name: "QEMU", command: words.concat().into_iter().map(String::from).collect() })
}

/// An initrd as large as the one that `schedvmm` makes from itself: busybox, whose `reboot`
/// is PID 1, and a file that fills the rest.
fn initrd() -> Result<Vec<u8>> {
    let size = |path: &str| {
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot read `{path}`"))?;
        usize::try_from(metadata.len()).context("an executable too large to be true")
    };
    let (ours, busybox) = (size(SCHEDVMM_PATH)?, size("/bin/busybox")?);
    let Some(filling) = ours.checked_sub(busybox) else {
        bail!("busybox ({busybox} bytes) is larger than schedvmm ({ours}): no initrd of one size");
    };
    let mut archive = Archive::new();
    archive.standard_nodes()?;
    archive.add_executable("/bin/reboot", Path::new("/bin/busybox"))?;
    archive.file("/filling", 0o644, vec![0; filling])?;
    Ok(archive.finish())
}
