// SPDX-License-Identifier: Apache-2.0
//! A benchmark against QEMU: both monitors in one emulated host, driven there by `bench-in-host`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::IN_HOST;
use super::boot::peers;
use testhost::host::{Ended, Stream, TestHost};
use testhost::{artifacts, setup};

/// Runs `words` in an emulated host that has both monitors and `files`; what they left in `/out` as
/// `report`.
pub(super) fn run<T: DeserializeOwned>(
    words: &[&str],
    timeout: Duration,
    report: &str,
    files: Vec<(String, PathBuf)>,
) -> Result<T> {
    setup::ensure_qemu()?;
    let out = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut host = TestHost::builder()
        .xtask(std::env::current_exe()?)
        .schedvmm(artifacts::schedvmm()?)
        .own_executable(IN_HOST, artifacts::bench_in_host()?)
        .executable(peers::QEMU_PATH, find_in_path(setup::QEMU)?)
        .out(out.path())
        .timeout(timeout)
        .forward_signals();
    for firmware in peers::QEMU_FIRMWARE {
        host = host.file(firmware, firmware);
    }
    for (there, here) in files {
        host = host.file(&there, here);
    }
    let mut complaints = Vec::new();
    let run = host.run(words, |stream, bytes| match stream {
        Stream::Stdout => complaints.extend_from_slice(bytes),
        Stream::Stderr => testhost::host::show(stream, bytes),
    })?;
    if run.ended != Ended::Exited(0) {
        bail!("the benchmark failed in the emulated host{}", String::from_utf8_lossy(&complaints));
    }
    let report = std::fs::read(out.path().join(report)).context("the host left no report")?;
    serde_json::from_slice(&report).context("cannot understand the report")
}

/// Where the shell would find a program.
fn find_in_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("no `{program}` in PATH"))
}
