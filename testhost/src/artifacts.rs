// SPDX-License-Identifier: Apache-2.0
//! The executables of this workspace, built by the cargo that runs us.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{process, project};

/// Names the executable of this program to the tests it starts.
pub const XTASK_ENV: &str = "SCHEDVMM_XTASK";

/// A release build from nothing takes two minutes on two cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Cargo: the one that started us, else the one in the path.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(project::root());
    command
}

/// The release build of `schedvmm`.
pub fn schedvmm() -> Result<PathBuf> {
    build("schedvmm", &["--package", "schedvmm", "--release"])
}

/// `schedvmm` with shared libraries, as a user's own `cargo install` makes it. Built in a hurry:
/// whether it runs is asked of it, not how fast.
pub fn dynamic_schedvmm() -> Result<PathBuf> {
    let folder = project::root().join("target/dynamic");
    let mut command = cargo();
    // The variable takes the place of the flags in .cargo/config.toml, which link statically.
    command.env("RUSTFLAGS", "-C target-feature=-crt-static");
    for (setting, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1")] {
        command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    command.arg("build").arg("--target-dir").arg(folder);
    executable_of(command, "schedvmm", &["--package", "schedvmm", "--release"])
}

/// This program itself, for callers that are another one: the integration tests. Where
/// `cargo xtask test` started them, it has said where it is.
pub fn xtask() -> Result<PathBuf> {
    std::env::var_os(XTASK_ENV)
        .map_or_else(|| build("xtask", &["--package", "xtask"]), |path| Ok(path.into()))
}

/// What benchmarks run inside the emulated host.
///
/// # Errors
/// It cannot be built.
pub fn bench_in_host() -> Result<PathBuf> {
    build("bench-in-host", &["--package", "benches"])
}

/// Builds an executable and finds out from cargo where it is.
fn build(executable: &str, options: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command.arg("build");
    executable_of(command, executable, options)
}

/// What cargo says of a target that it has built; its other messages have no target.
#[derive(Deserialize)]
struct Message {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// The same with a cargo that has been told to build, and how.
fn executable_of(mut command: Command, executable: &str, options: &[&str]) -> Result<PathBuf> {
    command.args(["--quiet", "--message-format=json-render-diagnostics", "--bin"]);
    command.arg(executable).args(options);
    let line = process::command_line(&command);
    let (status, text) = process::capture(&mut command, BUILD_DEADLINE)?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    text.lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.target.name == executable)
        .find_map(|message| message.executable)
        .with_context(|| format!("`{line}` named no executable"))
}
