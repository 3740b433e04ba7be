// SPDX-License-Identifier: Apache-2.0
//! Test kernels: built once from Debian's source packages with our own configuration, and
//! kept in the cache for every clone of the project.

mod build;
mod config;
mod offers;
mod series;
mod stock;

pub use config::known_absent;
pub use offers::Offer;
pub use series::{Series, Wanted};
pub use stock::{Stock, stock};

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::build::{BUILD_DEADLINE, Build};
use crate::lock::Lock;
use crate::{project, setup};

/// What a build is for.
const IMAGE: &str = "bzImage";
/// The same kernel with a command line that no boot loader changes (CONFIG_CMDLINE_OVERRIDE).
const OWN_CMDLINE_IMAGE: &str = "bzImage-own-cmdline";

/// Raised when the build itself changes, so that kernels built the older way are not reused.
const RECIPE: &str = "1";

/// The bzImage of a test kernel, built first if the cache has none. Beside it lie `vmlinux` and
/// `config`, and `bzImage-own-cmdline`, the same kernel with CONFIG_CMDLINE_OVERRIDE.
///
/// A series is built once: what is in the cache stays good when the archive has a later
/// version of it. The newest kernel is looked up each time.
///
/// # Errors
/// No archive offers it, or it does not build.
pub fn ensure(wanted: Wanted) -> Result<PathBuf> {
    let recipe = Recipe::read()?;
    let cache = project::cache_dir()?.join("kernels");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
    if let Wanted::Series(series) = wanted
        && let Some(image) = recipe.built(&cache, series)
    {
        return Ok(image);
    }
    let offer = offers::find(wanted)?;
    let home = recipe.home(&cache, &offer.version);
    let image = home.join(IMAGE);
    if image.exists() {
        return Ok(image);
    }
    let _lock = Lock::take(&cache.join("lock"), BUILD_DEADLINE, "another kernel build")?;
    // Whoever held the lock may have built what we need.
    if !image.exists() {
        setup::ensure(setup::KERNEL_BUILD)?;
        Build { offer: &offer, cache: &cache, home: &home, fragment: &recipe.fragment }.run()?;
    }
    Ok(image)
}

/// A series that can be built, and the image of it where it has been.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What is offered.
    pub offer: Offer,
    /// Its bzImage, if the cache has one of this version.
    pub built: Option<PathBuf>,
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let built = self.built.as_ref().map_or("not built".into(), |path| path.to_string_lossy());
        let Offer { series, version, .. } = &self.offer;
        write!(f, "{:<8}{version:<22}{:<20}{built}", series.to_string(), self.offer.from())
    }
}

/// Every series that is offered, oldest first.
///
/// # Errors
/// The archives cannot be asked.
pub fn list() -> Result<Vec<Listed>> {
    let recipe = Recipe::read()?;
    let cache = project::cache_dir()?.join("kernels");
    let listed = |offer: Offer| {
        let built = Some(recipe.home(&cache, &offer.version).join(IMAGE)).filter(|i| i.exists());
        Listed { offer, built }
    };
    Ok(offers::all()?.into_iter().map(listed).collect())
}

/// How kernels are built: whatever changes it makes another kernel of the same sources.
struct Recipe {
    fragment: String,
    hash: String,
}

impl Recipe {
    fn read() -> Result<Self> {
        let path = project::root().join("xtask/kernel/test.config");
        let fragment = fs::read_to_string(&path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        let hash = format!("{:016x}", hash(&format!("{RECIPE}\n{fragment}")));
        Ok(Self { fragment, hash })
    }

    /// Where the cache keeps the kernel of this version.
    fn home(&self, cache: &Path, version: &str) -> PathBuf {
        cache.join(format!("{version}-{}", self.hash).replace([':', '/'], "_"))
    }

    /// The image of this series that was built last.
    fn built(&self, cache: &Path, series: Series) -> Option<PathBuf> {
        let images = fs::read_dir(cache).ok()?.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name();
            let version = name.to_str()?.strip_suffix(&self.hash)?.strip_suffix('-')?;
            let image = entry.path().join(IMAGE);
            let built = fs::metadata(&image).ok()?.modified().ok()?;
            (Series::of_version(version) == Some(series)).then_some((built, image))
        });
        images.max().map(|(_, image)| image)
    }
}

/// FNV-1a, 64 bits: the same in every build of this program, which std's hasher is not.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_last_build_of_a_series_is_found_by_its_recipe() {
        let cache = tempfile::tempdir().unwrap();
        let recipe = |hash: &str| Recipe { fragment: String::new(), hash: hash.into() };
        let ours = recipe("0123456789abcdef");
        let build = |recipe: &Recipe, version: &str, age: u64| {
            let home = recipe.home(cache.path(), version);
            fs::create_dir(&home).unwrap();
            let image = fs::File::create(home.join(IMAGE)).unwrap();
            image.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            home.join(IMAGE)
        };
        assert_eq!(ours.built(cache.path(), Series::HOST), None);
        build(&recipe("fedcba9876543210"), "6.12.99-1", 0);
        build(&ours, "6.1.176-1", 0);
        build(&ours, "6.12.95-1~bpo12+1", 60);
        let last = build(&ours, "6.12.107-1", 30);
        fs::create_dir(ours.home(cache.path(), "6.12.108-1")).unwrap();
        assert_eq!(ours.built(cache.path(), Series::HOST), Some(last));
        assert_eq!(ours.built(cache.path(), Series::new(7, 3)), None);
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the algorithm's authors.
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
