// SPDX-License-Identifier: Apache-2.0
//! The emulated host: a machine with KVM, SVM and nested paging, emulated in software by QEMU,
//! for machines whose own KVM cannot run Linux, and for tests that must find the same machine
//! everywhere. Everything in it works; its timings are emulation and no measurements.
//!
//! A test kernel starts with one initrd, made in memory: this very program as PID 1
//! ([`init`]), busybox, `schedvmm`, the test kernel again as `/bzImage`, and what the caller
//! adds. Four virtio-serial ports ([`protocol`]) connect PID 1 with [`EmulatedHost::run`]; the
//! serial console is for the kernel's last words. All channels are anonymous descriptors:
//! nothing is left on the disk, and QEMU dies with us.

pub mod accident;
pub mod init;
mod initrd;
pub mod ports;
pub mod protocol;
mod qemu;
mod session;
mod signals;
mod tsc;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use protocol::Ended;
pub use session::Stream;
pub use signals::Interrupted;

use crate::{artifacts, kernel, setup};

/// From QEMU's start to the first sign of our PID 1: two seconds on an idle machine.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// Commands without a time limit of their own get this one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// An emulated host to be, with sensible defaults for all that is not said.
#[derive(Clone, Debug)]
pub struct EmulatedHost {
    cpus: u32,
    memory_mib: u32,
    kernel: Option<PathBuf>,
    xtask: Option<PathBuf>,
    schedvmm: Option<PathBuf>,
    additions: Vec<Addition>,
    out: Option<PathBuf>,
    timeout: Duration,
    silence: Option<Duration>,
    forward_signals: bool,
}

/// Something the caller puts into the host.
#[derive(Clone, Debug)]
struct Addition {
    guest: String,
    host: PathBuf,
    /// Whether the shared libraries it needs come along.
    with_libraries: bool,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct HostRun {
    /// The command's end.
    pub ended: Ended,
    /// The folder that now has what the command wrote to `/out`, if one was given.
    pub out: Option<PathBuf>,
}

impl EmulatedHost {
    /// A host with 4 CPUs for the command, 6000 MiB, the 6.12 test kernel, and `schedvmm` as it is
    /// built now.
    pub fn builder() -> Self {
        Self {
            cpus: 4,
            memory_mib: 6000,
            kernel: None,
            xtask: None,
            schedvmm: None,
            additions: Vec::new(),
            out: None,
            timeout: DEFAULT_TIMEOUT,
            silence: None,
            forward_signals: false,
        }
    }

    /// Number of CPUs for the command, from CPU 1 on; at least 2, for with one the emulation of nested
    /// guests hangs. CPU 0 is the host's own (`qemu::Machine`).
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Memory of the host in MiB. Its files (and so the initrd and `/out`) live in it too.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// The kernel of the host, also found in it as `/bzImage`.
    pub fn kernel(mut self, image: impl Into<PathBuf>) -> Self {
        self.kernel = Some(image.into());
        self
    }

    /// The executable of this program; without it, cargo is asked to build it.
    pub fn xtask(mut self, executable: impl Into<PathBuf>) -> Self {
        self.xtask = Some(executable.into());
        self
    }

    /// The executable that becomes `/bin/schedvmm`; without it, cargo is asked to build it.
    pub fn schedvmm(mut self, executable: impl Into<PathBuf>) -> Self {
        self.schedvmm = Some(executable.into());
        self
    }

    /// Adds a file of this machine under a path of the host.
    pub fn file(self, guest: &str, host: impl Into<PathBuf>) -> Self {
        self.add(guest, host.into(), false)
    }

    /// Adds an executable of this machine together with the shared libraries it needs.
    pub fn executable(self, guest: &str, host: impl Into<PathBuf>) -> Self {
        self.add(guest, host.into(), true)
    }

    fn add(mut self, guest: &str, host: PathBuf, with_libraries: bool) -> Self {
        self.additions.push(Addition { guest: guest.into(), host, with_libraries });
        self
    }

    /// Where everything goes that the command leaves in its working directory `/out`.
    pub fn out(mut self, dir: impl Into<PathBuf>) -> Self {
        self.out = Some(dir.into());
        self
    }

    /// How long the command may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long the command may be silent: a host that stands still is found out early.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = Some(silence);
        self
    }

    /// Hands SIGINT and SIGTERM on to the command, so that it can end in its own way; a second
    /// one ends the host. Only for programs whose main thread runs the host.
    pub fn forward_signals(mut self) -> Self {
        self.forward_signals = true;
        self
    }

    /// Boots the host, runs the command in it to its end, and fetches `/out`. The command's
    /// output goes to `on_output` as it comes. [`HostLost`](accident::HostLost) is the error of a
    /// host that came to an end, or to a standstill, before the command.
    pub fn run<S: Into<OsString>>(
        &self,
        command: impl IntoIterator<Item = S>,
        mut on_output: impl FnMut(Stream, &[u8]),
    ) -> Result<HostRun> {
        let argv: Vec<OsString> = command.into_iter().map(Into::into).collect();
        let job = protocol::Job::new(&argv)?;
        if self.cpus < 2 {
            bail!("an emulated host of {} CPU hangs with guests in it; give it 2", self.cpus);
        }
        setup::ensure_qemu()?;
        let kernel = match &self.kernel {
            Some(path) => path.clone(),
            None => kernel::ensure(kernel::Wanted::default())?,
        };
        if !kernel.is_file() {
            bail!("no kernel at `{}`", kernel.display());
        }
        let initrd = initrd::compose(&initrd::Contents {
            xtask: &self.xtask.clone().map_or_else(artifacts::xtask, Ok)?,
            schedvmm: &self.schedvmm.clone().map_or_else(artifacts::schedvmm, Ok)?,
            busybox: &setup::ensure_busybox()?,
            kernel: &kernel,
            job: &job,
            additions: &self.additions,
        })
        .context("composing the initrd of the emulated host")?;

        let signals = self.forward_signals.then(signals::Signals::catch).transpose()?;
        let machine =
            qemu::Machine { cpus: self.cpus, memory_mib: self.memory_mib, kernel: &kernel };
        let limits = session::Limits {
            boot: BOOT_DEADLINE,
            command: self.timeout,
            silence: self.silence.unwrap_or(self.timeout),
        };
        let mut session = session::Session::start(&machine, &initrd, limits, signals)?;
        let finished = session.drive(&job, &mut on_output)?;
        if let Some(dir) = &self.out {
            unpack(finished.out, dir)?;
        }
        Ok(HostRun { ended: finished.ended, out: self.out.clone() })
    }
}

/// Unpacks the contents of `/out` into `dir`, which is made if it is missing.
fn unpack(archive: std::fs::File, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let mut archive = tar::Archive::new(std::io::BufReader::new(archive));
    archive.set_preserve_mtime(false);
    archive.unpack(dir).with_context(|| format!("cannot write to `{}`", dir.display()))
}

/// For [`EmulatedHost::run`]: passes output on at once, each stream to ours of its name. A
/// reader that has gone away does not end the command.
pub fn show(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Stream::Stderr => std::io::stderr().lock().write_all(bytes),
    };
}
