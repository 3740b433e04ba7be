// SPDX-License-Identifier: Apache-2.0
//! The emulated host: a machine with KVM, SVM and nested paging, emulated in software by QEMU,
//! for machines whose own KVM cannot run Linux, and for tests that must find the same machine
//! everywhere. Everything in it works; its timings are emulation and no measurements.
//!
//! A test kernel starts with one initrd, made in memory: this very program as PID 1
//! ([`init`]), busybox, `schedvmm`, the test kernel again as `/bzImage`, and what the caller
//! adds. Four virtio-serial ports ([`protocol`]) connect PID 1 with [`TestHost::run`]; the
//! serial console is for the kernel's last words. All channels are anonymous descriptors:
//! nothing is left on the disk, and QEMU dies with us.
//!
//! The same host can be had in another machine, a [`Simulated`] one: slower, one whose times are
//! numbers, and Intel's.

pub mod accident;
mod channels;
pub mod init;
mod initrd;
pub mod ports;
pub mod protocol;
mod qemu;
mod session;
mod signals;
mod simulated;
mod tsc;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use protocol::Ended;
pub use session::Stream;
pub use signals::Interrupted;
pub use simulated::bochs::{Smt, Vendor};

use channels::Channels;
use protocol::Kind;
use simulated::bochs;

use crate::{artifacts, kernel, setup};

/// Memory of an emulated host for which nothing else is said.
const MEMORY_MIB: u32 = 6000;
/// Memory of a simulated one, and what it can have: the kernel and its initrd take the least of it,
/// and above the most are addresses of devices.
const SIMULATED_MEMORY_MIB: u32 = 1500;
const MIN_SIMULATED_MEMORY_MIB: u32 = 256;
const MAX_SIMULATED_MEMORY_MIB: u32 = 2040;

/// From QEMU's start to the first sign of our PID 1: two seconds on an idle machine.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// From Bochs' start to there: ten seconds on an idle machine, and one that hangs is found out
/// sooner.
const SIMULATED_BOOT_DEADLINE: Duration = Duration::from_secs(900);

/// Commands without a time limit of their own get this one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// An emulated host to be, with sensible defaults for all that is not said.
#[derive(Clone, Debug)]
pub struct TestHost {
    cpus: u32,
    memory_mib: Option<u32>,
    simulated: Option<Simulated>,
    kernel: Option<PathBuf>,
    xtask: Option<PathBuf>,
    schedvmm: Option<PathBuf>,
    additions: Vec<Addition>,
    out: Option<PathBuf>,
    timeout: Duration,
    silence: Option<Duration>,
    forward_signals: bool,
}

/// A simulated machine instead of the emulated one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulated {
    /// Whose CPUs.
    pub vendor: Vendor,
    /// Cores and hyperthreads.
    pub smt: Smt,
    /// Instructions of each CPU in a second of the machine's own time: more of them make latencies
    /// shorter, and the run longer.
    pub ips: u32,
    /// What the random numbers of its kernel begin with: two runs with the same are the same.
    pub seed: u64,
    /// Bochs.
    pub program: PathBuf,
    /// None of the machine's ticks has passed for this long: it hangs.
    pub tick_timeout: Duration,
}

impl Default for Simulated {
    fn default() -> Self {
        Self {
            vendor: Vendor::default(),
            smt: Smt::default(),
            ips: 50_000_000,
            seed: 0,
            program: setup::BOCHS.into(),
            tick_timeout: Duration::from_secs(60),
        }
    }
}

/// Something the caller puts into the host.
#[derive(Clone, Debug)]
struct Addition {
    guest: String,
    host: PathBuf,
    how: Taken,
}

/// How a file is taken along.
#[derive(Clone, Copy, Debug)]
enum Taken {
    AsIs,
    /// An executable, with the shared libraries that it needs.
    WithLibraries,
    /// An executable of this workspace, without its debug information.
    Stripped,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct HostRun {
    /// The command's end.
    pub ended: Ended,
    /// The folder that now has what the command wrote to `/out`, if one was given.
    pub out: Option<PathBuf>,
    /// Ticks of the simulated machine's clock, to some millions.
    pub ticks: Option<u64>,
}

impl TestHost {
    /// A host with 4 CPUs for the command, 6000 MiB, the 6.12 test kernel, and `schedvmm` as it is
    /// built now.
    pub fn builder() -> Self {
        Self {
            cpus: 4,
            memory_mib: None,
            simulated: None,
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

    /// Number of CPUs for the command, from CPU 1 on; at least 2, for with one the emulation of
    /// nested guests hangs. CPU 0 is the host's own (`qemu::Machine`).
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Memory of the host in MiB. Its files (and so the initrd and `/out`) live in it too.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = Some(memory_mib);
        self
    }

    /// A simulated machine instead. Its CPUs are counted by its cores and threads, and 1500 MiB of
    /// memory are its default.
    pub fn simulated(mut self, machine: Simulated) -> Self {
        self.simulated = Some(machine);
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
        self.add(guest, host.into(), Taken::AsIs)
    }

    /// Adds an executable of this machine together with the shared libraries it needs.
    pub fn executable(self, guest: &str, host: impl Into<PathBuf>) -> Self {
        self.add(guest, host.into(), Taken::WithLibraries)
    }

    /// Adds an executable of this workspace, which needs no shared libraries.
    pub fn own_executable(self, guest: &str, host: impl Into<PathBuf>) -> Self {
        self.add(guest, host.into(), Taken::Stripped)
    }

    fn add(mut self, guest: &str, host: PathBuf, how: Taken) -> Self {
        self.additions.push(Addition { guest: guest.into(), host, how });
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
        let kind = if self.simulated.is_some() { Kind::Simulated } else { Kind::Emulated };
        let job = protocol::Job::new(kind, &argv)?;
        match &self.simulated {
            Some(machine) => setup::ensure_bochs(&machine.program)?,
            None if self.cpus < 2 => {
                bail!("an emulated host of {} CPU hangs with guests in it; give it 2", self.cpus)
            }
            None => setup::ensure_qemu()?,
        }
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
        .with_context(|| format!("composing the initrd of the {kind}"))?;

        let signals = self.forward_signals.then(signals::Signals::catch).transpose()?;
        let limits = session::Limits {
            boot: if self.simulated.is_some() { SIMULATED_BOOT_DEADLINE } else { BOOT_DEADLINE },
            command: self.timeout,
            silence: self.silence.unwrap_or(self.timeout),
        };
        let channels = self.start(&kernel, &initrd)?;
        let mut session = session::Session::new(channels, limits, signals)?;
        let finished = session.drive(&job, &mut on_output)?;
        if let Some(dir) = &self.out {
            unpack(finished.out, dir)?;
        }
        Ok(HostRun { ended: finished.ended, out: self.out.clone(), ticks: finished.ticks })
    }

    /// Starts the machine.
    fn start(&self, kernel: &Path, initrd: &[u8]) -> Result<Channels> {
        let Some(Simulated { vendor, smt, ips, seed, program, tick_timeout }) = &self.simulated
        else {
            let memory_mib = self.memory_mib.unwrap_or(MEMORY_MIB);
            return qemu::start(&qemu::Machine { cpus: self.cpus, memory_mib, kernel }, initrd);
        };
        let memory_mib = self.memory_mib.unwrap_or(SIMULATED_MEMORY_MIB);
        if !(MIN_SIMULATED_MEMORY_MIB..=MAX_SIMULATED_MEMORY_MIB).contains(&memory_mib) {
            bail!(
                "a simulated host has {MIN_SIMULATED_MEMORY_MIB} to {MAX_SIMULATED_MEMORY_MIB} MiB of \
                 memory, not {memory_mib}; `--memory {SIMULATED_MEMORY_MIB}` is its default"
            );
        }
        let machine = bochs::Machine {
            program,
            vendor: *vendor,
            smt: *smt,
            ips: *ips,
            memory_mib,
            seed: *seed,
            kernel,
            tick_timeout: *tick_timeout,
        };
        bochs::start(&machine, initrd)
    }
}

/// Unpacks the contents of `/out` into `dir`, which is made if it is missing.
fn unpack(archive: std::fs::File, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let mut archive = tar::Archive::new(std::io::BufReader::new(archive));
    archive.set_preserve_mtime(false);
    archive.unpack(dir).with_context(|| format!("cannot write to `{}`", dir.display()))
}

/// For [`TestHost::run`]: passes output on at once, each stream to ours of its name. A
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
