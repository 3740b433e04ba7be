// SPDX-License-Identifier: Apache-2.0
//! Test kernels: built once from Debian's source packages with our own configuration, and
//! kept in the cache for every clone of the project.

mod config;
mod lock;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{process, project, setup};

/// Raised when the build itself changes, so that kernels built the older way are not reused.
const RECIPE: &str = "1";

/// A build takes about six minutes on two cores; slower machines exist.
const BUILD_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// The kernels we test with: one with EEVDF, one with CFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// Linux 6.1, whose fair scheduler is CFS.
    V6_1,
    /// Linux 6.12, whose fair scheduler is EEVDF.
    #[default]
    V6_12,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::V6_1, Self::V6_12]
            .into_iter()
            .find(|version| version.to_string() == text)
            .ok_or_else(|| format!("no test kernel `{text}`; there are 6.1 and 6.12"))
    }
}

/// The bzImage of a test kernel, built first if the cache has none. Beside it lie `vmlinux`
/// and `config`.
pub fn ensure(version: Version) -> Result<PathBuf> {
    let package = format!("linux-source-{version}");
    setup::ensure(&[&package])?;
    let package_version = setup::installed_version(&package)
        .with_context(|| format!("package `{package}` is installed, but dpkg has no version"))?;
    let fragment_path = project::root().join("xtask/kernel/test.config");
    let fragment = std::fs::read_to_string(&fragment_path)
        .with_context(|| format!("cannot read `{}`", fragment_path.display()))?;

    let cache = project::cache_dir()?.join("kernels");
    let key = format!("{package_version}-{:016x}", hash(&format!("{RECIPE}\n{fragment}")));
    let home = cache.join(key.replace([':', '/'], "_"));
    let image = home.join("bzImage");
    if image.exists() {
        return Ok(image);
    }
    std::fs::create_dir_all(&cache)
        .with_context(|| format!("cannot make `{}`", cache.display()))?;
    let _lock = lock::Lock::take(&cache.join("lock"), BUILD_DEADLINE, "another kernel build")?;
    // Whoever held the lock may have built what we need.
    if !image.exists() {
        setup::ensure(setup::KERNEL_BUILD)?;
        Build { version, cache: &cache, home: &home, fragment: &fragment }.run()?;
    }
    Ok(image)
}

/// One build, from the unpacked source to the cache.
struct Build<'a> {
    version: Version,
    cache: &'a Path,
    home: &'a Path,
    fragment: &'a str,
}

impl Build<'_> {
    fn run(&self) -> Result<()> {
        remove_abandoned(self.cache)?;
        let start = Instant::now();
        let log = self.cache.join(format!("build-{}.log", self.version));
        // A log that is not there is as good as a removed one.
        let _ = std::fs::remove_file(&log);
        eprintln!(
            "kernel {}: building, about six minutes on two cores; log: {}",
            self.version,
            log.display()
        );
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(self.cache)
            .context("cannot make a folder for the build")?;
        self.compile(work.path(), &log)?;
        self.keep(work.path(), &log)?;
        eprintln!("kernel {}: built in {} s", self.version, start.elapsed().as_secs());
        Ok(())
    }

    /// Unpacks, configures and compiles in `work`.
    fn compile(&self, work: &Path, log: &Path) -> Result<()> {
        let archive = format!("/usr/src/linux-source-{}.tar.xz", self.version);
        let what = format!("unpacking {archive}");
        let mut tar = Command::new("tar");
        tar.args(["--strip-components=1", "-xf", &archive, "-C"]).arg(work);
        process::run_logged(&mut tar, log, &what, BUILD_DEADLINE)?;

        std::fs::write(work.join("test.config"), self.fragment)
            .context("cannot write the configuration")?;
        self.make(work, log, &["tinyconfig"])?;
        let mut merge = Command::new("scripts/kconfig/merge_config.sh");
        merge.args(["-m", ".config", "test.config"]).current_dir(work);
        process::run_logged(&mut merge, log, "merging the configuration", BUILD_DEADLINE)?;
        self.make(work, log, &["olddefconfig"])?;
        let config = std::fs::read_to_string(work.join(".config"))
            .context("cannot read the configuration")?;
        config::verify(self.version, self.fragment, &config)?;

        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        self.make(work, log, &[&format!("-j{jobs}"), "bzImage"])
    }

    fn make(&self, work: &Path, log: &Path, arguments: &[&str]) -> Result<()> {
        let mut make = Command::new("make");
        // The image says who built it and when; the same for all gives the same image.
        make.args(arguments)
            .current_dir(work)
            .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
            .env("KBUILD_BUILD_USER", "schedvmm")
            .env("KBUILD_BUILD_HOST", "xtask")
            // Cargo's own jobserver is not meant for it.
            .env_remove("MAKEFLAGS");
        let what = format!("kernel {} {}", self.version, arguments.join(" "));
        process::run_logged(&mut make, log, &what, BUILD_DEADLINE)
    }

    /// Moves what was asked for into the cache, all of it at once.
    fn keep(&self, work: &Path, log: &Path) -> Result<()> {
        let kept = work.join("kept");
        std::fs::create_dir(&kept).context("cannot make a folder for the results")?;
        let results =
            [("arch/x86/boot/bzImage", "bzImage"), ("vmlinux", "vmlinux"), (".config", "config")];
        for (from, to) in results {
            std::fs::rename(work.join(from), kept.join(to))
                .with_context(|| format!("the build left no `{from}`"))?;
        }
        std::fs::rename(log, kept.join("build.log")).context("cannot keep the log")?;
        if self.home.exists() {
            bail!("`{}` holds no bzImage; remove it", self.home.display());
        }
        std::fs::rename(&kept, self.home)
            .with_context(|| format!("cannot make `{}`", self.home.display()))
    }
}

/// Removes what interrupted builds left: we hold the lock, so none of it is in use.
fn remove_abandoned(cache: &Path) -> Result<()> {
    let entries = std::fs::read_dir(cache).context("cannot read the cache")?;
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("work-") {
            std::fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}

/// FNV-1a, 64 bits: the same in every build of this program, which std's hasher is not.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_they_print() {
        assert_eq!("6.1".parse(), Ok(Version::V6_1));
        assert_eq!("6.12".parse(), Ok(Version::V6_12));
        assert!("6.13".parse::<Version>().unwrap_err().contains("6.13"));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the algorithm's authors.
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
