// SPDX-License-Identifier: Apache-2.0
//! What lies in the emulated host at its start.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use initrd_builder::Archive;

use super::protocol::{JOB_PATH, Job, OUT_DIR};
use super::{Addition, Taken};
use crate::process;

/// The small tools used here take a fraction of a second.
const TOOL_DEADLINE: Duration = Duration::from_secs(30);

/// The parts.
pub(super) struct Contents<'a> {
    pub xtask: &'a Path,
    pub schedvmm: &'a Path,
    pub busybox: &'a Path,
    pub kernel: &'a Path,
    pub job: &'a Job,
    pub additions: &'a [Addition],
}

/// Composes the archive.
pub(super) fn compose(contents: &Contents) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.standard_nodes()?;
    archive.dir(OUT_DIR, 0o755)?;
    archive.file("/init", 0o755, stripped(contents.xtask)?)?;
    archive.symlink("/bin/xtask", "/init")?;
    archive.add_executable("/bin/schedvmm", contents.schedvmm)?;
    archive.file_from("/bzImage", 0o644, contents.kernel)?;
    archive.file(JOB_PATH, 0o644, serde_json::to_vec(contents.job)?)?;
    archive.add_executable("/bin/busybox", contents.busybox)?;
    for applet in applets(contents.busybox)? {
        archive.symlink(&format!("/bin/{applet}"), "busybox")?;
    }
    for Addition { guest, host, how } in contents.additions {
        match how {
            Taken::WithLibraries => archive.add_executable(guest, host)?,
            Taken::AsIs => archive.file_from(guest, mode(host)?, host)?,
            Taken::Stripped => archive.file(guest, 0o755, stripped(host)?)?,
        }
    }
    Ok(archive.finish())
}

/// The commands busybox has, itself not included.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let mut list = Command::new(busybox);
    let (status, text) = process::capture(list.arg("--list"), TOOL_DEADLINE)?;
    if !status.success() {
        bail!("`{} --list` failed: {status}", busybox.display());
    }
    Ok(text.lines().filter(|name| *name != "busybox").map(String::from).collect())
}

/// Executable for all if it is so for its owner here, readable for all in any case.
fn mode(host: &Path) -> Result<u32> {
    let metadata =
        std::fs::metadata(host).with_context(|| format!("cannot read `{}`", host.display()))?;
    Ok(if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 })
}

/// An executable without its debug information: ten times smaller, and the emulated machine
/// unpacks every byte of it. `strip` is there wherever a linker is; without it, all is taken.
fn stripped(executable: &Path) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().context("cannot make a temporary folder")?;
    let small = dir.path().join("init");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&small).arg(executable).stderr(Stdio::null());
    let source = match process::capture(&mut strip, TOOL_DEADLINE) {
        Ok((status, _)) if status.success() => &small,
        _ => executable,
    };
    std::fs::read(source).with_context(|| format!("cannot read `{}`", source.display()))
}
