// SPDX-License-Identifier: Apache-2.0
//! Bochs' options, and its process.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::MemfdFlags;
use rustix::pty::{self, OpenptFlags};

use super::bridge::{self, Ends};
use super::{DISK_SECTORS, OUTBOX_SECTOR, image, rom};
use crate::host::channels::{Channels, pass_on};
use crate::process::{KillOnDrop, end_with_parent};

/// What the machine's kernel is told beside its clock's frequency: nothing else knows that, since
/// the CPU models claim that of their originals. `idle=halt`: with MWAIT, kernels on more than two
/// CPUs hang. What ends the kernel ends in a triple fault at once, and that ends Bochs.
/// `clearcpuid`: Bochs makes random numbers from this machine's time, and without them two runs are
/// the same; KVM hides from its guests what its own kernel does not use. In their place is a seed of
/// ours.
const KERNEL_WORDS: &str = "console=ttyS0,115200 quiet reboot=t panic=-1 tsc=reliable idle=halt \
                            clearcpuid=rdrand,rdseed";

/// Files of Debian's packages.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const DISPLAY_BIOS: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
/// Seconds since 1970 at power-on: the same in each run.
const START_TIME: u32 = 946_681_200;
/// Instructions of one CPU before it is the next one's turn.
const QUANTUM: u32 = 16;
/// How often Bochs says how far it is, in millions of ticks.
const PROGRESS_INTERVAL: &str = "5";
/// Sectors and heads of the disk; nobody asks.
const SECTORS_PER_TRACK: u64 = 63;
const HEADS: u64 = 16;

/// Whose virtualization the CPUs have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Vendor {
    /// VMX.
    #[default]
    Intel,
    /// SVM.
    Amd,
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intel => "intel",
            Self::Amd => "amd",
        })
    }
}

impl Vendor {
    /// The model of Bochs 2.7: of Intel's the newest that Linux was seen to come up on; of AMD's
    /// one with SVM, which nothing is tested on.
    fn model(self) -> &'static str {
        match self {
            Self::Intel => "corei7_skylake_x",
            Self::Amd => "ryzen",
        }
    }
}

/// Cores, and hyperthreads of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Smt {
    /// Cores, 1 or more.
    pub cores: u32,
    /// Threads of each, 1 or 2.
    pub threads: u32,
}

impl Default for Smt {
    fn default() -> Self {
        Self { cores: 2, threads: 2 }
    }
}

impl std::str::FromStr for Smt {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parsed = text.split_once('x').and_then(|(cores, threads)| {
            Some(Self { cores: cores.parse().ok()?, threads: threads.parse().ok()? })
        });
        parsed
            .filter(|smt| (1..=MAX_CORES).contains(&smt.cores) && matches!(smt.threads, 1 | 2))
            .ok_or_else(|| format!("expected CORESxTHREADS, up to {MAX_CORES}x2, for example 2x2"))
    }
}

impl fmt::Display for Smt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.cores, self.threads)
    }
}

/// More were not seen to come up.
const MAX_CORES: u32 = 4;

/// The machine to simulate.
pub(in crate::host) struct Machine<'a> {
    pub program: &'a Path,
    pub vendor: Vendor,
    pub smt: Smt,
    /// Instructions of each CPU in a second of the machine's own time.
    pub ips: u32,
    pub memory_mib: u32,
    /// What random numbers of its kernel begin with.
    pub seed: u64,
    pub kernel: &'a Path,
    /// None of its ticks has passed for this long: it hangs.
    pub tick_timeout: Duration,
}

/// Starts the machine.
pub(in crate::host) fn start(machine: &Machine, initrd: &[u8]) -> Result<Channels> {
    let kernel = std::fs::read(machine.kernel)
        .with_context(|| format!("cannot read `{}`", machine.kernel.display()))?;
    let words = format!("{KERNEL_WORDS} tsc_early_khz={}", machine.ips / 1000);
    let orders = image::Orders { cmdline: &words, seed: machine.seed };
    let image = image::compose(&kernel, initrd, &orders, machine.memory_mib)?;
    ensure!(image.end_sector() <= OUTBOX_SECTOR, "kernel and initrd are larger than 512 MiB");
    let disk = unnamed("disk", &image.bytes)?;
    disk.set_len(DISK_SECTORS * image::SECTOR as u64).context("no memory for the disk")?;
    let rom = unnamed("rom", &rom::build(&image.pieces)?)?;
    let log = unnamed("log", &[])?;
    let (terminal, line) = terminal()?;
    let options = options(machine, &disk, &rom, &log, &line);
    let options = unnamed("options", options.as_bytes())?;
    // The debugger that Debian's Bochs comes with waits for this word.
    let script = unnamed("script", b"c\n")?;

    let (output, output_write) = std::io::pipe().context("cannot make a pipe")?;
    let output_write_too = output_write.try_clone().context("cannot share a pipe")?;
    let mut command = Command::new(machine.program);
    command
        .args(["-q", "-f", &path(&options), "-rc", &path(&script)])
        .args(["-dumpstats", PROGRESS_INTERVAL])
        // The display is drawn with whatever this terminal can, which is read by nobody.
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .stdout(output_write)
        .stderr(output_write_too);
    let theirs = [&disk, &rom, &log, &options, &script, &line];
    pass_on(&mut command, theirs.map(AsRawFd::as_raw_fd).to_vec());
    let process = end_with_parent(&mut command, libc::SIGKILL)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{}`", machine.program.display()))?;
    bridge::start(Ends {
        process: KillOnDrop(process),
        output: OwnedFd::from(output).into(),
        terminal,
        disk,
        log,
        tick_timeout: machine.tick_timeout,
    })
}

/// What Bochs reads at its start.
fn options(machine: &Machine, disk: &File, rom: &File, log: &File, line: &File) -> String {
    let Machine { vendor, smt, ips, memory_mib, .. } = machine;
    let cylinders = DISK_SECTORS / (SECTORS_PER_TRACK * HEADS);
    let ports = "unmapped=0, biosdev=1, speaker=0, extfpuirq=0, parallel=0, gameport=0, iodebug=0, serial=1";
    let model = vendor.model();
    let Smt { cores, threads } = smt;
    let lines = [
        "config_interface: textconfig".to_owned(),
        "display_library: term".to_owned(),
        format!("plugin_ctrl: {ports}"),
        format!("megs: {memory_mib}"),
        format!("romimage: file={BIOS}"),
        format!("vgaromimage: file={DISPLAY_BIOS}"),
        format!("optromimage1: file={}, address={:#x}", path(rom), rom::ADDRESS),
        // By the machine's own clock.
        "vga: update_freq=1, realtime=0".to_owned(),
        format!(
            "cpu: model={model}, count=1:{cores}:{threads}, ips={ips}, quantum={QUANTUM}, \
             reset_on_triple_fault=0"
        ),
        format!(
            "ata0-master: type=disk, path={}, mode=flat, cylinders={cylinders}, heads={HEADS}, \
             spt={SECTORS_PER_TRACK}",
            path(disk)
        ),
        "boot: disk".to_owned(),
        format!("clock: sync=none, time0={START_TIME}"),
        format!("com1: enabled=1, mode=term, dev={}", path(line)),
        "sound: waveoutdrv=dummy, waveindrv=dummy".to_owned(),
        format!("log: {}", path(log)),
        "panic: action=fatal".to_owned(),
        "error: action=ignore".to_owned(),
    ];
    lines.map(|line| line + "\n").concat()
}

/// The name under which a child that has the file open finds it.
fn path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A file in memory that begins with these bytes.
fn unnamed(what: &str, bytes: &[u8]) -> Result<File> {
    let file = rustix::fs::memfd_create(what, MemfdFlags::CLOEXEC)
        .with_context(|| format!("cannot make a file in memory for the {what}"))?;
    let mut file = File::from(file);
    file.write_all(bytes)
        .and_then(|()| file.rewind())
        .with_context(|| format!("no memory for the {what}"))?;
    Ok(file)
}

/// A pseudo-terminal for the serial line: our end, and the other.
fn terminal() -> Result<(File, File)> {
    let ours = pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("cannot make a pseudo-terminal")?;
    pty::grantpt(&ours)?;
    pty::unlockpt(&ours)?;
    let theirs = pty::ioctl_tiocgptpeer(
        &ours,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .context("cannot open the other end of a pseudo-terminal")?;
    Ok((File::from(ours), File::from(theirs)))
}
