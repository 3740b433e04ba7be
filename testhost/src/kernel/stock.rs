// SPDX-License-Identifier: Apache-2.0
//! Kernels as a distribution ships them: looked up in the package archives, unpacked in our cache,
//! not installed.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::build::BUILD_DEADLINE;
use super::series::{Series, Wanted};
use crate::lock::Lock;
use crate::project;
use crate::setup::{Archive, Offered};

/// Debian's package of a kernel, before its release. Up to 6.18 all is in it; later ones depend on
/// three with the parts.
const IMAGE: &str = "linux-image-";
/// What shows that a kernel comes in parts.
const BINARY: &str = "linux-binary-";
/// The other parts: modules; the configuration and what depmod needs.
const PARTS: [&str; 2] = ["linux-modules-", "linux-base-"];
/// Only what is whole has this file.
const STAMP: &str = "unpacked";

/// A distribution's kernel in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stock {
    /// Its `uname -r`.
    pub release: String,
    /// The folder into which its packages are unpacked.
    pub folder: PathBuf,
    /// Its image.
    pub image: PathBuf,
}

impl Stock {
    fn found(release: &str, folder: &Path) -> Result<Self> {
        // Up to 7.1 in /boot.
        let places =
            [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        let image = places.iter().map(|place| folder.join(place)).find(|path| path.is_file());
        let image = image.with_context(|| format!("no kernel in `{}`", folder.display()))?;
        Ok(Self { release: release.to_owned(), folder: folder.to_owned(), image })
    }
}

/// A kernel that the archives offer whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockOffer {
    /// Its `uname -r`.
    pub release: String,
    /// Its flavour: `generic`, `cloud`, `rt`.
    pub flavour: String,
    packages: Vec<Offered>,
}

impl StockOffer {
    /// Its series.
    pub fn series(&self) -> Option<Series> {
        Series::of_version(&self.release)
    }

    /// Its folder in the cache, whether or not it is there.
    fn folder(&self) -> Result<PathBuf> {
        let version = self.packages.first().map_or("", |package| &package.version);
        let name = format!("{}_{version}", self.release).replace([':', '/'], "_");
        Ok(cache()?.join(name))
    }

    /// True if the cache has it.
    pub fn is_cached(&self) -> bool {
        self.folder().is_ok_and(|folder| folder.join(STAMP).exists())
    }

    /// It, downloaded first if the cache has none.
    ///
    /// # Errors
    /// The archive no longer has it, or there is no room.
    pub fn fetch(&self) -> Result<Stock> {
        let (cache, folder) = (cache()?, self.folder()?);
        if folder.join(STAMP).exists() {
            return Stock::found(&self.release, &folder);
        }
        let busy = "another download of a kernel";
        let _lock = Lock::take(&cache.join("lock"), BUILD_DEADLINE, busy)?;
        if !folder.join(STAMP).exists() {
            // What was left half done is in the way.
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make `{}`", folder.display()))?;
            let archive = Archive::open()?;
            for package in &self.packages {
                archive.unpack(package, &folder, &log_of(&folder))?;
            }
            Stock::found(&self.release, &folder)?;
            fs::write(folder.join(STAMP), "").context("cannot mark the kernel as whole")?;
        }
        Stock::found(&self.release, &folder)
    }
}

impl Stock {
    /// Takes it out of the cache.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> Result<()> {
        // First the mark: what is half removed is not whole.
        let removed = fs::remove_file(self.folder.join(STAMP))
            .and_then(|()| fs::remove_dir_all(&self.folder))
            .and_then(|()| fs::remove_file(log_of(&self.folder)));
        removed.with_context(|| format!("cannot remove `{}`", self.folder.display()))
    }
}

/// Where distributions' kernels are kept; made if missing.
fn cache() -> Result<PathBuf> {
    let cache = project::cache_dir()?.join("stock");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
    Ok(cache)
}

/// What was said while a kernel was downloaded.
fn log_of(folder: &Path) -> PathBuf {
    let mut log = folder.as_os_str().to_owned();
    log.push(".log");
    log.into()
}

/// Debian's kernel of this flavour, such as `cloud`, downloaded first if the cache has none.
///
/// # Errors
/// The archives offer none, or cannot be asked.
pub fn stock(wanted: Wanted, flavour: &str) -> Result<Stock> {
    let offers = whole(&offered()?).into_iter().filter(|offer| offer.flavour == flavour);
    let offer = pick(offers.collect(), wanted)
        .with_context(|| format!("the package archives offer no {flavour} kernel {wanted}"))?;
    offer.fetch()
}

/// The newest kernel of each series and flavour that the archives offer whole, oldest first.
///
/// # Errors
/// The archives cannot be asked.
pub fn stock_offers() -> Result<Vec<StockOffer>> {
    Ok(newest_of_each(whole(&offered()?)))
}

/// Packages that are kernels, or parts of them.
fn offered() -> Result<Vec<Offered>> {
    let archive = Archive::open()?;
    let mut offered = Vec::new();
    for prefix in [IMAGE, BINARY].into_iter().chain(PARTS) {
        offered.extend(archive.offers(prefix)?);
    }
    Ok(offered)
}

/// What a kernel of this release is for, in a word: its own but for those without one.
fn flavour_of(release: &str) -> Option<&str> {
    let rest = release.strip_suffix("-amd64")?;
    let last = rest.rsplit('-').next()?;
    let is_word = last.starts_with(|letter: char| letter.is_ascii_alphabetic());
    Some(if is_word { last } else { "generic" })
}

/// Kernels whose packages are all there, oldest first.
fn whole(offered: &[Offered]) -> Vec<StockOffer> {
    let mut offers = Vec::new();
    for package in offered {
        let Some(release) = package.package.strip_prefix(IMAGE) else { continue };
        // `cloud-amd64` alone follows whatever is newest; `-unsigned` is a twin.
        let Some(flavour) = flavour_of(release).filter(|_| numbers(release).len() > 1) else {
            continue;
        };
        let mut packages = vec![package.clone()];
        if let Some(binary) = find_package(format!("{BINARY}{release}"), offered) {
            packages.push(binary);
            let parts = PARTS.map(|part| find_package(format!("{part}{release}"), offered));
            let Some(parts) = parts.into_iter().collect::<Option<Vec<_>>>() else { continue };
            packages.extend(parts);
        }
        let (release, flavour) = (release.to_owned(), flavour.to_owned());
        offers.push(StockOffer { release, flavour, packages });
    }
    // A meta package `6.12-cloud-amd64` has the fewest numbers, and comes before those it follows.
    offers.sort_by_key(|offer| numbers(&offer.release));
    offers
}

fn find_package(name: String, offered: &[Offered]) -> Option<Offered> {
    offered.iter().find(|package| package.package == name).cloned()
}

/// Of each series and flavour the last one.
fn newest_of_each(offers: Vec<StockOffer>) -> Vec<StockOffer> {
    let mut kept: Vec<StockOffer> = Vec::new();
    for offer in offers {
        kept.retain(|other| kind(other) != kind(&offer));
        kept.push(offer);
    }
    kept
}

fn kind(offer: &StockOffer) -> (Option<Series>, String) {
    (offer.series(), offer.flavour.clone())
}

/// The newest of a series, the newest of the oldest series, or the newest of all.
fn pick(offers: Vec<StockOffer>, wanted: Wanted) -> Option<StockOffer> {
    let series = StockOffer::series;
    let of = match wanted {
        Wanted::Series(series) => Some(series),
        Wanted::Oldest => series(offers.first()?),
        Wanted::Newest => series(offers.last()?),
    };
    let mut offers: Vec<_> = offers.into_iter().filter(|offer| series(offer) == of).collect();
    offers.sort_by_key(|offer| Reverse(numbers(&offer.release)));
    offers.into_iter().next()
}

/// The numbers of a release before its first word: 6.12.107+deb13 is 6, 12, 107, 13.
fn numbers(release: &str) -> Vec<u64> {
    let version = release.split("-cloud").next().unwrap_or(release);
    let version = version.trim_end_matches("-amd64").trim_end_matches("-rt");
    version
        .split(|char: char| !char.is_ascii_digit())
        .filter_map(|text| text.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flavour_is_a_word() {
        for (release, flavour) in [
            ("6.1.0-56-amd64", Some("generic")),
            ("7.3-amd64", Some("generic")),
            ("7.3-cloud-amd64", Some("cloud")),
            ("6.12.107+deb13-rt-amd64", Some("rt")),
            ("6.12.107+deb13-amd64-unsigned", None),
            ("amd64", None),
        ] {
            assert_eq!(flavour_of(release), flavour, "{release}");
        }
    }

    fn offered(names: &[&str]) -> Vec<Offered> {
        let offered = |name: &&str| Offered {
            package: (*name).into(),
            version: "1".into(),
            suite: "stable".into(),
        };
        names.iter().map(offered).collect()
    }

    #[test]
    fn only_kernels_whose_parts_are_all_there_can_be_had() {
        let offered = offered(&[
            "linux-image-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.12.94+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.107+deb13-cloud-amd64-unsigned",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-amd64",
            "linux-image-7.0.4+deb13-cloud-amd64",
            "linux-binary-7.0.4+deb13-cloud-amd64",
            "linux-image-7.2.9+deb13-cloud-amd64",
            "linux-binary-7.2.9+deb13-cloud-amd64",
            "linux-modules-7.2.9+deb13-cloud-amd64",
            "linux-base-7.2.9+deb13-cloud-amd64",
        ]);
        let cloud = |wanted| {
            let cloud = whole(&offered).into_iter().filter(|offer| offer.flavour == "cloud");
            pick(cloud.collect(), wanted)
        };
        let of = |wanted| cloud(wanted).expect("offered");
        assert_eq!(of(Wanted::Oldest).release, "6.1.0-56-cloud-amd64");
        assert_eq!(of(Wanted::default()).release, "6.12.107+deb13-cloud-amd64");
        let newest = of(Wanted::Newest);
        assert_eq!(
            (newest.release.as_str(), newest.packages.len()),
            ("7.2.9+deb13-cloud-amd64", 4)
        );
        assert_eq!(cloud(Wanted::Series(Series::new(7, 0))), None);
        let each = newest_of_each(whole(&offered));
        let each: Vec<_> = each.iter().map(|offer| offer.release.as_str()).collect();
        let expected = [
            "6.1.0-56-cloud-amd64",
            "6.1.0-57-amd64",
            "6.12.107+deb13-cloud-amd64",
            "7.2.9+deb13-cloud-amd64",
        ];
        assert_eq!(each, expected);
    }
}
