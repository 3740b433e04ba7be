// SPDX-License-Identifier: Apache-2.0
//! One build of a kernel, from its sources to the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::offers::Offer;
use super::{IMAGE, OWN_CMDLINE_IMAGE, config};
use crate::process;

/// A build takes about six minutes on two cores; slower machines exist.
pub(super) const BUILD_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// What makes a kernel run with a command line of its own, whatever its boot loader says.
const OWN_CMDLINE: &str = "CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE_OVERRIDE=y\n\
                           CONFIG_CMDLINE=\"console=hvc0 panic=-1\"\n";
/// Where a build leaves its image.
const BUILT_IMAGE: &str = "arch/x86/boot/bzImage";

/// One build.
pub(super) struct Build<'a> {
    pub(super) offer: &'a Offer,
    pub(super) cache: &'a Path,
    pub(super) home: &'a Path,
    pub(super) fragment: &'a str,
}

impl Build<'_> {
    pub(super) fn run(&self) -> Result<()> {
        remove_abandoned(self.cache)?;
        let start = Instant::now();
        let Offer { series, version, .. } = self.offer;
        let log = self.cache.join(format!("build-{series}.log"));
        // A log that is not there is as good as a removed one.
        let _ = fs::remove_file(&log);
        eprintln!(
            "kernel {version}: building, about six minutes on two cores; log: {}",
            log.display()
        );
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(self.cache)
            .context("cannot make a folder for the build")?;
        let work = Work { build: self, tree: work.path(), log: &log };
        let kept = work.make_folder("kept")?;
        work.unpack()?;
        work.make(&["tinyconfig"])?;
        work.compile(self.fragment)?;
        for (from, to) in [(BUILT_IMAGE, IMAGE), ("vmlinux", "vmlinux"), (".config", "config")] {
            work.keep(from, &kept.join(to))?;
        }
        fs::copy(kept.join("config"), work.tree.join(".config"))
            .context("cannot copy the configuration")?;
        // In the same tree that takes seconds.
        work.compile(OWN_CMDLINE)?;
        work.keep(BUILT_IMAGE, &kept.join(OWN_CMDLINE_IMAGE))?;
        fs::rename(&log, kept.join("build.log")).context("cannot keep the log")?;
        self.publish(&kept)?;
        eprintln!("kernel {version}: built in {} s", start.elapsed().as_secs());
        Ok(())
    }

    /// Moves the results into the cache, all of them at once.
    fn publish(&self, kept: &Path) -> Result<()> {
        if self.home.exists() {
            bail!("`{}` holds no bzImage; remove it", self.home.display());
        }
        fs::rename(kept, self.home)
            .with_context(|| format!("cannot make `{}`", self.home.display()))
    }
}

/// The tree that is built in, with its log.
struct Work<'a> {
    build: &'a Build<'a>,
    tree: &'a Path,
    log: &'a Path,
}

impl Work<'_> {
    /// A folder that sources have none of.
    fn make_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.tree.join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        Ok(folder)
    }

    fn unpack(&self) -> Result<()> {
        let package = self.make_folder("package")?;
        let archive = self.build.offer.tarball(&package, self.log)?;
        let mut tar = Command::new("tar");
        tar.args(["--strip-components=1", "-C"]).arg(self.tree).arg("-xf").arg(&archive);
        self.run(tar, &format!("unpacking {}", archive.display()))?;
        fs::remove_dir_all(&package).context("cannot remove the unpacked package")
    }

    /// Adds options to the configuration and builds the image.
    fn compile(&self, fragment: &str) -> Result<()> {
        fs::write(self.tree.join("test.config"), fragment)
            .context("cannot write the configuration")?;
        let mut merge = Command::new("scripts/kconfig/merge_config.sh");
        merge.args(["-m", ".config", "test.config"]).current_dir(self.tree);
        self.run(merge, "merging the configuration")?;
        self.make(&["olddefconfig"])?;
        let config = fs::read_to_string(self.tree.join(".config"))
            .context("cannot read the configuration")?;
        config::verify(self.build.offer.series, fragment, &config)?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        self.make(&[&format!("-j{jobs}"), "bzImage"])
    }

    fn make(&self, arguments: &[&str]) -> Result<()> {
        let mut make = Command::new("make");
        // The image says who built it and when; the same for all gives the same image.
        make.args(arguments)
            .current_dir(self.tree)
            .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
            .env("KBUILD_BUILD_USER", "schedvmm")
            .env("KBUILD_BUILD_HOST", "xtask")
            // Cargo's own jobserver is not meant for it.
            .env_remove("MAKEFLAGS");
        self.run(make, &format!("kernel {} {}", self.build.offer.series, arguments.join(" ")))
    }

    fn run(&self, mut command: Command, what: &str) -> Result<()> {
        process::run_logged(&mut command, self.log, what, BUILD_DEADLINE)
    }

    fn keep(&self, from: &str, to: &Path) -> Result<()> {
        fs::rename(self.tree.join(from), to).with_context(|| format!("the build left no `{from}`"))
    }
}

/// Removes what interrupted builds left: we hold the lock, so none of it is in use.
fn remove_abandoned(cache: &Path) -> Result<()> {
    let entries = fs::read_dir(cache).context("cannot read the cache")?;
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("work-") {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}
