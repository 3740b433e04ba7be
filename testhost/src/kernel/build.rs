// SPDX-License-Identifier: Apache-2.0
//! One build of a kernel, from its sources to the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::offers::Offer;
use super::variant::{Edit, Image, Recipe};
use super::{IMAGE, config};
use crate::process;

/// How long to wait for builds of others: one takes some minutes, a defconfig three times as many. On a
/// machine that does much else a build may take longer than that: then the next call finds it done.
pub(super) const BUILD_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Options that are merged into a configuration.
const FRAGMENT: &str = "schedvmm.config";
/// Where a build leaves its image.
const BUILT_IMAGE: &str = "arch/x86/boot/bzImage";

/// One build.
pub(super) struct Build<'a> {
    pub(super) offer: &'a Offer,
    pub(super) cache: &'a Path,
    pub(super) recipe: &'a Recipe,
}

impl Build<'_> {
    pub(super) fn run(&self) -> Result<()> {
        remove_abandoned(self.cache)?;
        let start = Instant::now();
        let Offer { series, version, .. } = self.offer;
        let log = self.cache.join(format!("build-{series}.log"));
        // A log that is not there is as good as a removed one.
        let _ = fs::remove_file(&log);
        let Recipe { variant, base, images, .. } = self.recipe;
        eprintln!(
            "kernel {version} ({variant}): building, {} on two cores; log: {}",
            time_of(base),
            log.display()
        );
        let work = tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(self.cache)
            .context("cannot make a folder for the build")?;
        let work = Work { build: self, tree: work.path(), log: &log };
        let kept = work.make_folder("kept")?;
        work.unpack()?;
        self.recipe.edits.iter().try_for_each(|edit| work.edit(edit))?;
        work.make(&[base])?;
        for image in images {
            work.compile(&image.fragment, image.has_modules)?;
            work.keep_all(image, &kept.join(image.variant.name()))?;
        }
        for variant in self.recipe.variants() {
            let kept = kept.join(variant.name());
            fs::copy(&log, kept.join("build.log")).context("cannot keep the log")?;
            self.publish(&kept, &self.recipe.home_of(variant, self.cache, version))?;
        }
        fs::remove_file(&log).context("cannot remove the log")?;
        eprintln!("kernel {version} ({variant}): built in {} s", start.elapsed().as_secs());
        Ok(())
    }

    /// Moves the results of a variant into the cache, all of them at once.
    fn publish(&self, kept: &Path, home: &Path) -> Result<()> {
        if home.join(IMAGE).exists() {
            // Made by an earlier build that was for another variant, whose kernel is gone.
            return Ok(());
        }
        if home.exists() {
            bail!("`{}` holds no bzImage; remove it", home.display());
        }
        fs::rename(kept, home).with_context(|| format!("cannot make `{}`", home.display()))
    }
}

/// How long a build takes that begins with this target.
fn time_of(base: &str) -> &'static str {
    if base == "defconfig" { "about twenty minutes" } else { "about six minutes" }
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

    /// Changes the sources.
    fn edit(&self, edit: &Edit) -> Result<()> {
        let path = self.tree.join(edit.file);
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read `{}`", path.display()))?;
        fs::write(&path, edit.made(&text)?)
            .with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// Adds options to the configuration and builds the image, and its modules.
    fn compile(&self, fragment: &str, with_modules: bool) -> Result<()> {
        fs::write(self.tree.join(FRAGMENT), fragment).context("cannot write the configuration")?;
        let mut merge = Command::new("scripts/kconfig/merge_config.sh");
        merge.args(["-m", ".config", FRAGMENT]).current_dir(self.tree);
        self.run(merge, "merging the configuration")?;
        self.make(&["olddefconfig"])?;
        let config = fs::read_to_string(self.tree.join(".config"))
            .context("cannot read the configuration")?;
        config::verify(self.build.offer.series, fragment, &config)?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let targets = if with_modules { &["bzImage", "modules"][..] } else { &["bzImage"] };
        let jobs = format!("-j{jobs}");
        self.make(&[&[jobs.as_str()], targets].concat())
    }

    /// Copies an image to the folder that becomes its variant's home. What lies beside an image is
    /// of the first one there.
    fn keep_all(&self, image: &Image, folder: &Path) -> Result<()> {
        let is_first = !folder.exists();
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make `{}`", folder.display()))?;
        self.keep(BUILT_IMAGE, &folder.join(image.name))?;
        if is_first {
            self.keep("vmlinux", &folder.join("vmlinux"))?;
            self.keep(".config", &folder.join("config"))?;
        }
        if image.has_modules {
            let root = format!("INSTALL_MOD_PATH={}", folder.display());
            // As packages have them: no modules.dep, which takes a program of its own.
            self.make(&["modules_install", "INSTALL_MOD_STRIP=1", "DEPMOD=true", &root])?;
            self.keep_no_links(&folder.join("lib/modules"))?;
        }
        Ok(())
    }

    /// Removes the links to this tree, which goes away.
    fn keep_no_links(&self, modules: &Path) -> Result<()> {
        for release in fs::read_dir(modules).context("the build left no modules")? {
            let release = release.context("cannot read the modules")?.path();
            for link in ["build", "source"] {
                // Which of them there are depends on the version.
                let _ = fs::remove_file(release.join(link));
            }
        }
        Ok(())
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
        process::run_logged(&mut command, self.log, what, process::BUILD_SILENCE)
    }

    fn keep(&self, from: &str, to: &Path) -> Result<()> {
        fs::copy(self.tree.join(from), to)
            .map(|_| ())
            .with_context(|| format!("the build left no `{from}`"))
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
