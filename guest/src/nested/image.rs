// SPDX-License-Identifier: Apache-2.0
//! Kernel and initrd of all virtual machines: prepared once, shared by all of them.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd},
    path::Path,
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    NestedError,
    link::{PREPARE_COMMAND, PrepareSpec},
};
use crate::job::{L2_KERNEL_PATH, NestedSpec};

/// For unpacking the kernel: some hundred milliseconds, in an emulated machine seconds.
const PREPARED: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// Longest text of the process that prepares, which has one only when it fails.
const MOST_TEXT_BYTES: u64 = 16 << 10;

/// Two memory files that stay as long as this value.
#[derive(Debug)]
pub struct Images {
    kernel: File,
    initrd: File,
}

impl Images {
    /// Has another process of the running program fill them: it knows kernels.
    pub fn prepare(executable: &Path, spec: &NestedSpec) -> Result<Self, NestedError> {
        let this = Self { kernel: memory_file(c"l2-kernel")?, initrd: memory_file(c"l2-initrd")? };
        let text = |error: serde_json::Error| NestedError::Prepare(error.to_string());
        let orders = PrepareSpec {
            kernel: L2_KERNEL_PATH.into(),
            kernel_image: this.kernel(),
            initrd: this.initrd(),
            memory_mib: spec.memory_mib,
            cpus: spec.vcpus,
            transport: spec.transport,
            job: serde_json::to_string(&spec.job).map_err(text)?,
        };
        let orders = serde_json::to_string(&orders).map_err(text)?;
        let mut command = Command::new(executable);
        command.arg(PREPARE_COMMAND).arg(orders).stdin(Stdio::null()).stderr(Stdio::piped());
        let failed = |error: io::Error| NestedError::Prepare(error.to_string());
        let mut child = command.spawn().map_err(failed)?;
        let deadline = Instant::now() + PREPARED;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if Instant::now() >= deadline {
                // It may have ended meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                return Err(NestedError::Prepare(format!("not done within {PREPARED:?}")));
            }
            thread::sleep(LOOK);
        };
        if status.success() {
            return Ok(this);
        }
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            // Its status tells if its words do not.
            let _ = stderr.take(MOST_TEXT_BYTES).read_to_string(&mut said);
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

fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd())
}

fn memory_file(name: &std::ffi::CStr) -> Result<File, NestedError> {
    // SAFETY: the name is a NUL-terminated constant.
    let fd =
        unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(NestedError::Memfd(io::Error::last_os_error()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}
