// SPDX-License-Identifier: Apache-2.0
//! Where things are: the sources, and the cache that all clones share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of the workspace's `Cargo.toml`, as it was when this was built.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// `schedvmm` in the user's cache folder (`XDG_CACHE_HOME`, or `~/.cache`); made if missing.
pub fn cache_dir() -> Result<PathBuf> {
    let base = absolute_path("XDG_CACHE_HOME")
        .or_else(|| absolute_path("HOME").map(|home| home.join(".cache")))
        .context("no place for the cache: set HOME or XDG_CACHE_HOME to an absolute path")?;
    let dir = base.join("schedvmm");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    Ok(dir)
}

fn absolute_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
