// SPDX-License-Identifier: Apache-2.0
//! Set-up: what a machine lacks is installed with apt, each change announced before it is made.

mod archive;
mod backports;
mod bochs;
mod packages;
mod qemu;
mod sources;
mod tools;

pub use archive::{Archive, Offered};
pub(crate) use bochs::BOCHS;
pub use bochs::ensure_bochs;
pub use packages::{ensure, installed_version};
pub use qemu::QEMU;
pub use qemu::ensure_qemu;
pub use tools::{DENY, TYPOS, Tool};

use std::path::{Path, PathBuf};

use anyhow::Result;

/// What a kernel build needs beside its sources.
pub const KERNEL_BUILD: &[&str] = &[
    "bc",
    "bison",
    "flex",
    "gcc",
    "libc6-dev",
    "libelf-dev",
    "libssl-dev",
    "lz4",
    "make",
    "xz-utils",
];

/// Programs that read what we write, in tests: the readers of trace.dat and of protocol buffers.
pub const TEST_READERS: &[&str] = &["protobuf-compiler", "trace-cmd"];

/// The machine's busybox; installed if there is none.
pub fn ensure_busybox() -> Result<PathBuf> {
    let known = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    if let Some(path) = known.iter().find(|path| path.exists()) {
        return Ok(path.to_path_buf());
    }
    ensure(&["busybox-static"])?;
    Ok(known[0].into())
}
