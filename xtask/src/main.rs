// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: everything around the product, one verb each.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::host::{EmulatedHost, Stream, init};
use xtask::kernel::{self, Version};

/// What `xtask` itself ends with when it fails; outside the range of what it runs for others.
const OWN_FAILURE: u8 = 202;

/// Set-up, test kernels, the emulated host, tests and benchmarks of schedvmm.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build a test kernel, unless the cache has it, and print where it is.
    Kernel {
        /// 6.12 (EEVDF) or 6.1 (CFS).
        #[arg(default_value_t)]
        version: Version,
    },
    /// Run a command in the emulated host; its exit status becomes ours.
    Host(HostOptions),
}

#[derive(clap::Args)]
struct HostOptions {
    /// Where the files go that the command leaves in its working directory, /out.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// CPUs of the host.
    #[arg(long, value_name = "N", default_value_t = 4)]
    cpus: u32,
    /// Memory of the host in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 6000)]
    memory: u32,
    /// Kernel of the host, also found in it as /bzImage; the 6.12 test kernel without this.
    #[arg(long, value_name = "BZIMAGE")]
    kernel: Option<PathBuf>,
    /// How long the command may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
    /// A file of this machine to have in the host too.
    #[arg(long = "file", value_name = "GUEST=HOST", value_parser = parse_pair)]
    files: Vec<(String, PathBuf)>,
    /// The command and its arguments, passed on as they are. busybox's commands are there.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    if init::is_our_role() {
        init::main();
    }
    let result = match Options::parse().verb {
        Verb::Kernel { version } => show_kernel(version),
        Verb::Host(options) => host(options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(OWN_FAILURE)
    })
}

fn show_kernel(version: Version) -> Result<ExitCode> {
    println!("{}", kernel::ensure(version)?.display());
    Ok(ExitCode::SUCCESS)
}

fn host(options: HostOptions) -> Result<ExitCode> {
    let mut host = EmulatedHost::builder()
        .xtask(std::env::current_exe()?)
        .cpus(options.cpus)
        .memory_mib(options.memory)
        .timeout(Duration::from_secs(options.timeout))
        .forward_signals();
    if let Some(kernel) = options.kernel {
        host = host.kernel(kernel);
    }
    if let Some(out) = options.out {
        host = host.out(out);
    }
    for (guest, file) in options.files {
        host = host.file(&guest, file);
    }
    let run = host.run(options.command, show)?;
    Ok(ExitCode::from(run.ended.code()))
}

/// Passes output on at once. A reader that has gone away does not end the command.
fn show(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Stdout => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
        Stream::Stderr => std::io::stderr().lock().write_all(bytes),
    };
}

fn parse_pair(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((guest, host)) if !guest.is_empty() && !host.is_empty() => {
            Ok((guest.into(), host.into()))
        }
        _ => Err("expected GUEST=HOST, for example /etc/hosts=./hosts".into()),
    }
}
