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
    /// What `uname -r` says in it.
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
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    release: String,
    packages: Vec<Offered>,
}

/// Debian's kernel of this flavour, such as `cloud`, downloaded first if the cache has none.
///
/// # Errors
/// The archives offer none, or cannot be asked.
pub fn stock(wanted: Wanted, flavour: &str) -> Result<Stock> {
    let archive = Archive::open()?;
    let mut offered = Vec::new();
    for prefix in [IMAGE, BINARY].into_iter().chain(PARTS) {
        offered.extend(archive.offers(prefix)?);
    }
    let offer = pick(whole(&offered, flavour), wanted)
        .with_context(|| format!("the package archives offer no {flavour} kernel {wanted}"))?;
    let cache = project::cache_dir()?.join("stock");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
    let version = offer.packages.first().map_or("", |package| &package.version);
    let name = format!("{}_{version}", offer.release).replace([':', '/'], "_");
    let folder = cache.join(&name);
    if folder.join(STAMP).exists() {
        return Stock::found(&offer.release, &folder);
    }
    let _lock = Lock::take(&cache.join("lock"), BUILD_DEADLINE, "another download of a kernel")?;
    if !folder.join(STAMP).exists() {
        // What was left half done is in the way.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make `{}`", folder.display()))?;
        let log = cache.join(format!("{name}.log"));
        for package in &offer.packages {
            archive.unpack(package, &folder, &log)?;
        }
        Stock::found(&offer.release, &folder)?;
        fs::write(folder.join(STAMP), "").context("cannot mark the kernel as whole")?;
    }
    Stock::found(&offer.release, &folder)
}

/// Kernels of a flavour whose packages are all there, oldest first.
fn whole(offered: &[Offered], flavour: &str) -> Vec<Offer> {
    let find = |name: String| offered.iter().find(|package| package.package == name).cloned();
    let mut offers = Vec::new();
    for package in offered {
        let release = package.package.strip_prefix(IMAGE).filter(|release| {
            // `cloud-amd64` alone follows whatever is newest; `-unsigned` is a twin.
            release.ends_with(&format!("-{flavour}-amd64")) && numbers(release).len() > 1
        });
        let Some(release) = release else { continue };
        let mut packages = vec![package.clone()];
        if let Some(binary) = find(format!("{BINARY}{release}")) {
            packages.push(binary);
            let parts = PARTS.map(|part| find(format!("{part}{release}")));
            let Some(parts) = parts.into_iter().collect::<Option<Vec<_>>>() else { continue };
            packages.extend(parts);
        }
        offers.push(Offer { release: release.to_owned(), packages });
    }
    // A meta package `6.12-cloud-amd64` has the fewest numbers, and comes before those it follows.
    offers.sort_by_key(|offer| numbers(&offer.release));
    offers
}

/// The newest of a series, the newest of the oldest series, or the newest of all.
fn pick(offers: Vec<Offer>, wanted: Wanted) -> Option<Offer> {
    let series = |offer: &Offer| Series::of_version(&offer.release);
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
        let of = |wanted| pick(whole(&offered, "cloud"), wanted).expect("offered");
        assert_eq!(of(Wanted::Oldest).release, "6.1.0-56-cloud-amd64");
        assert_eq!(of(Wanted::default()).release, "6.12.107+deb13-cloud-amd64");
        let newest = of(Wanted::Newest);
        assert_eq!(
            (newest.release.as_str(), newest.packages.len()),
            ("7.2.9+deb13-cloud-amd64", 4)
        );
        assert_eq!(pick(whole(&offered, "cloud"), Wanted::Series(Series::new(7, 0))), None);
    }
}
