// SPDX-License-Identifier: Apache-2.0
//! Cargo's tools that Debian has no package of: built once with `cargo install`, into our cache.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lock::Lock;
use crate::{artifacts, process, project};

/// A build takes some minutes.
const BUILD_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A tool, and the version that is known to read its configuration.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The crate.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its executable.
    pub executable: &'static str,
}

/// Licences, sources and versions of dependencies, as `deny.toml` allows them.
pub const DENY: Tool = Tool { package: "cargo-deny", version: "0.20.2", executable: "cargo-deny" };

/// Spelling, with the exceptions in `.typos.toml`.
pub const TYPOS: Tool = Tool { package: "typos-cli", version: "1.52.0", executable: "typos" };

impl Tool {
    /// Its executable, built first if the cache has none.
    ///
    /// # Errors
    /// It does not build; the log says why.
    pub fn ensure(self) -> Result<PathBuf> {
        let cache = project::cache_dir()?.join("tools");
        fs::create_dir_all(&cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
        let root = cache.join(format!("{}-{}", self.package, self.version));
        let executable = root.join("bin").join(self.executable);
        if executable.exists() {
            return Ok(executable);
        }
        let _lock = Lock::take(&cache.join("lock"), BUILD_DEADLINE, "another build of a tool")?;
        if !executable.exists() {
            let log = cache.join(format!("{}.log", self.package));
            eprintln!(
                "{} {}: building, some minutes on two cores; log: {}",
                self.package,
                self.version,
                log.display()
            );
            // Not in the project, whose configuration is not meant for it either.
            let mut install = artifacts::cargo();
            install.current_dir(&cache);
            install.args(["install", self.package, "--version", self.version, "--locked"]);
            install.args(["--no-track", "--root"]).arg(&root);
            // Those of the build that started us are not meant for it.
            install.env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS");
            process::run_logged(&mut install, &log, "building a tool", process::BUILD_SILENCE)?;
        }
        Ok(executable)
    }
}
