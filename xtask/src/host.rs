// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask host`: a command in the emulated or the simulated host, or on this machine with the
//! same words.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use testhost::host::{self, Ended, Simulated, TestHost};
use testhost::venue::{MachineOptions, Place};
use testhost::{artifacts, process};

/// CPUs of an emulated host for the command.
const CPUS: u32 = 4;

/// The verb's options.
#[derive(clap::Args)]
pub struct HostOptions {
    #[command(flatten)]
    machine: MachineOptions,
    /// Where the files go that the command leaves in its working directory, /out.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// CPUs of the emulated host for the command, 4 without this; it has one more, its first, for
    /// itself.
    #[arg(long, value_name = "N", conflicts_with = "smt")]
    cpus: Option<u32>,
    /// Memory of the host in MiB: without this 6000, and 1500 in the simulated host.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Kernel of the host, also found in it as /bzImage; the 6.12 test kernel without this.
    #[arg(long, value_name = "BZIMAGE")]
    kernel: Option<PathBuf>,
    /// A schedvmm to take instead of building it.
    #[arg(long, value_name = "EXE")]
    schedvmm: Option<PathBuf>,
    /// How long the command may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
    /// A file of this machine to have in the host too.
    #[arg(long = "file", value_name = "GUEST=HOST", value_parser = parse_pair)]
    files: Vec<(String, PathBuf)>,
    /// An executable of this machine to have in the host too, with its shared libraries.
    #[arg(long = "executable", value_name = "GUEST=HOST", value_parser = parse_pair)]
    executables: Vec<(String, PathBuf)>,
    /// The command and its arguments, passed on as they are. busybox's commands are there.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl HostOptions {
    /// Runs the command; what it ended with.
    ///
    /// # Errors
    /// The host cannot be had, or ended before the command.
    pub fn run(self) -> Result<ExitCode> {
        let place = self.machine.venue.unwrap_or(Place::Emulated);
        let simulated = self.machine.simulated(place)?;
        if place == Place::This {
            return self.run_here();
        }
        let run = self.host(simulated)?.run(self.command, host::show)?;
        if let Some(ticks) = run.ticks {
            eprintln!("simulated host: {} million ticks", ticks / 1_000_000);
        }
        Ok(ExitCode::from(run.ended.code()))
    }

    /// The host, with all that is to be in it.
    fn host(&self, simulated: Option<Simulated>) -> Result<TestHost> {
        let mut host = TestHost::builder()
            .xtask(std::env::current_exe()?)
            .timeout(Duration::from_secs(self.timeout))
            .forward_signals();
        match simulated {
            Some(machine) if self.cpus.is_none() => host = host.simulated(machine),
            Some(_) => bail!("the simulated host's CPUs are cores and threads; use `--smt`"),
            None => host = host.cpus(self.cpus.unwrap_or(CPUS)),
        }
        if let Some(memory) = self.memory {
            host = host.memory_mib(memory);
        }
        if let Some(kernel) = &self.kernel {
            host = host.kernel(kernel);
        }
        if let Some(schedvmm) = &self.schedvmm {
            host = host.schedvmm(schedvmm);
        }
        if let Some(out) = &self.out {
            host = host.out(out);
        }
        for (guest, file) in &self.files {
            host = host.file(guest, file);
        }
        for (guest, executable) in &self.executables {
            host = host.executable(guest, executable);
        }
        Ok(host)
    }

    /// The command on this machine, in the folder for its files, with our `schedvmm` before others.
    fn run_here(self) -> Result<ExitCode> {
        ensure!(
            self.files.is_empty()
                && self.executables.is_empty()
                && self.kernel.is_none()
                && self.cpus.is_none()
                && self.memory.is_none(),
            "`--file`, `--executable`, `--kernel`, `--cpus` and `--memory` make a host what it is, and \
             this machine is as it is; leave them out, or use another `--venue`"
        );
        let schedvmm = self.schedvmm.map_or_else(artifacts::schedvmm, Ok)?;
        let schedvmm = std::path::absolute(schedvmm).context("no current folder")?;
        let folder = schedvmm.parent().context("an executable without a folder")?;
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            std::iter::once(folder.to_owned()).chain(std::env::split_paths(&others)),
        )?;
        let (program, arguments) = self.command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", path);
        if let Some(out) = self.out {
            std::fs::create_dir_all(&out)
                .with_context(|| format!("cannot make `{}`", out.display()))?;
            command.current_dir(out);
        }
        let limit = Duration::from_secs(self.timeout);
        let status = process::run_until(&mut command, "the command", limit)?;
        Ok(ExitCode::from(Ended::from(status).code()))
    }
}

fn parse_pair(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((guest, host)) if !guest.is_empty() && !host.is_empty() => {
            Ok((guest.into(), host.into()))
        }
        _ => Err("expected GUEST=HOST, for example /etc/hosts=./hosts".into()),
    }
}
