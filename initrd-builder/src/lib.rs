// SPDX-License-Identifier: Apache-2.0
//! Composes an initial RAM file system in memory: a newc cpio archive, and the shared
//! libraries that a dynamically linked executable needs beside it.
//!
//! ```
//! # fn main() -> Result<(), initrd_builder::InitrdError> {
//! let mut archive = initrd_builder::Archive::new();
//! archive.standard_nodes()?;
//! archive.file("/init", 0o755, b"#!/bin/sh\n")?;
//! let initrd: Vec<u8> = archive.finish();
//! # assert_eq!(initrd.len() % 512, 0);
//! # Ok(())
//! # }
//! ```

mod archive;
mod closure;
mod elf;
mod error;
mod header;
mod loader_path;

pub use archive::Archive;
pub use closure::{Library, closure};
pub use error::InitrdError;
