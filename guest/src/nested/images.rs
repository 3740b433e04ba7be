// SPDX-License-Identifier: Apache-2.0
//! Kernel and initrd of all virtual machines: prepared once, shared by all of them.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use protocol::job::NestedSpec;
use protocol::launcher::{PREPARE_COMMAND, PrepareSpec};
use protocol::names::L2_KERNEL_PATH;
use rustix::fs::{MemfdFlags, memfd_create};

use super::NestedError;

/// For unpacking the kernel: some hundred milliseconds, in an emulated VM seconds.
const PREPARED: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Longest text of the process that prepares, which has one only when it fails.
const MAX_TEXT_BYTES: u64 = 16 << 10;

/// Two memory files that stay as long as this value.
#[derive(Debug)]
pub struct Images {
    kernel: File,
    initrd: File,
}

impl Images {
    /// Has another process of the running program fill them: it knows kernels.
    pub fn prepare(executable: &Path, spec: &NestedSpec) -> Result<Self, NestedError> {
        let this = Self { kernel: memory_file("l2-kernel")?, initrd: memory_file("l2-initrd")? };
        let spec = PrepareSpec {
            kernel: L2_KERNEL_PATH.into(),
            kernel_image: this.kernel(),
            initrd: this.initrd(),
            memory_mib: spec.memory_mib,
            cpus: spec.vcpus,
            transport: spec.transport,
            job: spec.job.clone(),
        };
        let spec = serde_json::to_string(&spec).map_err(cannot_prepare)?;
        let mut command = Command::new(executable);
        command.arg(PREPARE_COMMAND).arg(spec).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot_prepare)?;
        let deadline = Instant::now() + PREPARED;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(cannot_prepare)? {
                break status;
            }
            if Instant::now() >= deadline {
                // It may have ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return Err(NestedError::Prepare(format!("not done within {PREPARED:?}")));
            }
            thread::sleep(POLL_INTERVAL);
        };
        if status.success() {
            return Ok(this);
        }
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            // Its status tells if its words do not.
            let _ = stderr.take(MAX_TEXT_BYTES).read_to_string(&mut said);
        }
        let said = said.trim();
        Err(NestedError::Prepare(if said.is_empty() { status.to_string() } else { said.into() }))
    }

    /// Where another process finds the kernel.
    pub fn kernel(&self) -> String {
        path(&self.kernel)
    }

    /// Where another process finds the initrd.
    pub fn initrd(&self) -> String {
        path(&self.initrd)
    }
}

fn cannot_prepare(error: impl std::fmt::Display) -> NestedError {
    NestedError::Prepare(error.to_string())
}

fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd())
}

fn memory_file(name: &str) -> Result<File, NestedError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(name, flags).map_err(|error| NestedError::Memfd(error.into()))?;
    Ok(file.into())
}
