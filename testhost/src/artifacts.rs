// SPDX-License-Identifier: Apache-2.0
//! The executables of this workspace, built by the cargo that runs us.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

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
    build("schedvmm", &["--release"])
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
    executable_of(command, "schedvmm", &["--release"])
}

/// This program itself, for callers that are another one: the integration tests. Where
/// `cargo xtask test` started them, it has said where it is.
pub fn xtask() -> Result<PathBuf> {
    std::env::var_os(XTASK_ENV).map_or_else(|| build("xtask", &[]), |path| Ok(path.into()))
}

/// Builds the executable of a package and finds out from cargo where it is.
fn build(package: &str, options: &[&str]) -> Result<PathBuf> {
    let mut command = cargo();
    command.arg("build");
    executable_of(command, package, options)
}

/// The same with a cargo that has been told to build, and how.
fn executable_of(mut command: Command, package: &str, options: &[&str]) -> Result<PathBuf> {
    command.args(["--quiet", "--message-format=json-render-diagnostics", "--bin"]);
    command.args([package, "--package", package]).args(options);
    let line = process::command_line(&command);
    let (status, text) = process::capture(&mut command, BUILD_DEADLINE)?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == package)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("`{line}` named no executable"))
}
