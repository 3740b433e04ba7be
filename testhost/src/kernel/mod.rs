// SPDX-License-Identifier: Apache-2.0
//! Test kernels: built once from Debian's source packages with our own configuration, and
//! kept in the cache for every clone of the project.

mod build;
mod config;
mod folder;
mod offers;
mod series;
mod stock;
mod variant;

pub use config::known_absent;
pub use folder::boot_files;
pub use offers::Offer;
pub use series::{Series, Wanted};
pub use stock::{Stock, StockOffer, stock, stock_offers};
pub use variant::Variant;

use std::fmt;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use self::build::{BUILD_DEADLINE, Build};
use self::variant::Recipe;
use crate::lock::Lock;
use crate::{project, setup};

/// What a build is for, in the folder of a kernel.
const IMAGE: &str = "bzImage";
/// The same kernel with a command line that no boot loader changes (CONFIG_CMDLINE_OVERRIDE).
const OWN_CMDLINE_IMAGE: &str = "bzImage-own-cmdline";

/// The bzImage of a test kernel, built first if the cache has none. Beside it lie `vmlinux` and
/// `config`, and `bzImage-own-cmdline`, the same kernel with CONFIG_CMDLINE_OVERRIDE.
///
/// A series is built once: what is in the cache stays good when the archive has a later
/// version of it. The newest kernel is looked up each time.
///
/// # Errors
/// No archive offers it, or it does not build.
pub fn ensure(wanted: Wanted) -> Result<PathBuf> {
    ensure_variant(wanted, Variant::Test)
}

/// The same of a kernel that is configured so. Beside the image of [`Variant::Redhat`] its modules
/// are installed, in `lib/modules`.
///
/// # Errors
/// No archive offers it, or it does not build.
pub fn ensure_variant(wanted: Wanted, variant: Variant) -> Result<PathBuf> {
    let recipe = Recipe::read(variant)?;
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
        Build { offer: &offer, cache: &cache, recipe: &recipe }.run()?;
    }
    Ok(image)
}

/// A series that can be built, and the image of it where it has been.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Offered versions.
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
    let recipe = Recipe::read(Variant::Test)?;
    let cache = project::cache_dir()?.join("kernels");
    Ok(offers::all()?
        .into_iter()
        .map(|offer| {
            let built =
                Some(recipe.home(&cache, &offer.version).join(IMAGE)).filter(|i| i.exists());
            Listed { offer, built }
        })
        .collect())
}
