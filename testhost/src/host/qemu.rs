// SPDX-License-Identifier: Apache-2.0
//! QEMU's command line, and its process.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::channels::{Channels, pass_on};
use super::protocol::{OUT_PORT, STATUS_PORT, STDERR_PORT, STDOUT_PORT};
use super::tsc;
use crate::process::{KillOnDrop, end_with_parent};
use crate::setup::QEMU;

/// `reboot=t` and `panic=-1`: whatever ends the kernel ends in a triple fault at once, which
/// `-no-reboot` turns into the end of QEMU. `tsc=reliable`: no watchdog compares the counter
/// with emulated timers, which run late.
const KERNEL_WORDS: &str = "console=ttyS0 quiet reboot=t panic=-1 tsc=reliable";

/// The emulated CPU's model, with what spares a guest that has guests of its own five of seven
/// exits for each of theirs: the virtual global interrupt flag, and virtual VMLOAD and VMSAVE. QEMU
/// emulates these two (target/i386/tcg/system/svm_helper.c) but hides them from the guest, unless
/// it is told to show all that is asked for.
const CPU: &str = "EPYC,+svm,+npt,+vgif,+v-vmsave-vmload,x-force-features=on";
/// Then what the model has and the emulation does not must be taken away by name. QEMU 10.0 warns
/// of all of them but `sha-ni`, which is for those before 8.2.
const NOT_EMULATED: [&str; 11] = [
    "fxsr-opt",
    "misalignsse",
    "osvw",
    "topoext",
    "perfctr-core",
    "clzero",
    "ibpb",
    "nrip-save",
    "xsavec",
    "xsaves",
    "sha-ni",
];

/// The machine to emulate.
pub(super) struct Machine<'a> {
    /// CPUs on which guests may run. The machine has one more, its first, which is for the host
    /// alone: each CPU of QEMU (10.0.2) that loads a floating point state without an exception
    /// pending clears a flag of the *first* CPU's (`cpu_clear_ignne` in
    /// target/i386/tcg/system/fpu_helper.c), without a lock, in a word in which that CPU notes
    /// whether nested paging is on as it enters and leaves a guest. An update that is lost there
    /// leaves the CPU in the page tables of the other side, and a triple fault ends the guest, or
    /// the host.
    pub cpus: u32,
    pub memory_mib: u32,
    pub kernel: &'a Path,
}

/// Starts the machine.
pub(super) fn start(machine: &Machine, initrd: &[u8]) -> Result<Channels> {
    let initrd = anonymous_file(initrd)?;
    let mut command = Command::new(QEMU);
    let cpu = NOT_EMULATED.iter().fold(CPU.to_owned(), |cpu, feature| cpu + ",-" + feature);
    command
        // Multi-threaded: with one thread for all CPUs every guest of several CPUs hung.
        .args(["-accel", "tcg,thread=multi", "-cpu", &cpu])
        .args(["-smp", &(machine.cpus + 1).to_string(), "-m", &machine.memory_mib.to_string()])
        .args(["-M", "microvm,acpi=off,isa-serial=on", "-nodefaults", "-nographic"])
        .args(["-no-reboot", "-serial", "stdio", "-append"])
        .arg(format!("{KERNEL_WORDS} tsc_early_khz={}", tsc::khz()))
        .arg("-kernel")
        .arg(machine.kernel)
        .args(["-initrd", &format!("/proc/self/fd/{}", initrd.as_raw_fd())])
        .args(["-device", "virtio-serial-device,max_ports=8"]);
    let mut theirs: Vec<OwnedFd> = vec![initrd.into()];
    let mut port = |name: &str| -> Result<UnixStream> {
        let (our_end, their_end) = UnixStream::pair().context("cannot make a socket pair")?;
        let fd = their_end.as_raw_fd();
        command
            .args(["-chardev", &format!("socket,id={name},fd={fd}")])
            .args(["-device", &format!("virtserialport,chardev={name},name={name}")]);
        theirs.push(their_end.into());
        Ok(our_end)
    };
    let (stdout, stderr) = (port(STDOUT_PORT)?, port(STDERR_PORT)?);
    let (out, status) = (port(OUT_PORT)?, port(STATUS_PORT)?);

    pass_on(&mut command, theirs.iter().map(AsRawFd::as_raw_fd).collect());
    let (console, console_write) = std::io::pipe().context("cannot make a pipe")?;
    let console_write_too = console_write.try_clone().context("cannot share a pipe")?;
    command.stdin(Stdio::null()).stdout(console_write).stderr(console_write_too);
    let process = KillOnDrop(
        end_with_parent(&mut command, libc::SIGKILL)
            // Ctrl-C is ours to hand on; it must not reach QEMU from the terminal.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{QEMU}`"))?,
    );
    Ok(Channels {
        console: OwnedFd::from(console).into(),
        stdout,
        stderr,
        out,
        status,
        process: Box::new(process),
    })
}

/// A file without a name that holds `bytes`.
fn anonymous_file(bytes: &[u8]) -> Result<File> {
    let mut file = tempfile::tempfile().context("cannot make a temporary file for the initrd")?;
    file.write_all(bytes).and_then(|()| file.rewind()).context("cannot write the initrd")?;
    Ok(file)
}
