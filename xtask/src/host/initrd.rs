// SPDX-License-Identifier: Apache-2.0
//! What lies in the emulated host at its start.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use initrd_builder::Archive;

use super::Addition;
use super::protocol::{JOB_PATH, Job, OUT_DIR};
use crate::process;

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
    for Addition { guest, host, with_libraries } in contents.additions {
        if *with_libraries {
            archive.add_executable(guest, host)?;
        } else {
            archive.file_from(guest, mode(host)?, host)?;
        }
    }
    Ok(archive.finish())
}

/// The commands busybox has, itself not included.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = process::output(Command::new(busybox).arg("--list"))?;
    if !output.status.success() {
        bail!("`{} --list` failed: {}", busybox.display(), output.status);
    }
    let text = String::from_utf8(output.stdout).context("busybox lists what is no text")?;
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
    strip.arg("-o").arg(&small).arg(executable);
    let source = match process::output(&mut strip) {
        Ok(output) if output.status.success() => &small,
        _ => executable,
    };
    std::fs::read(source).with_context(|| format!("cannot read `{}`", source.display()))
}
