// SPDX-License-Identifier: Apache-2.0
//! Which kernels can be built: what the package archives offer, and what is installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::series::{Series, Wanted};
use crate::setup::{self, Archive, Offered};

/// How Debian's packages of kernel sources are called, before the series.
const PACKAGE: &str = "linux-source-";
/// Where they put the sources, as `linux-source-SERIES.tar.xz`.
const SOURCES: &str = "usr/src";

/// Sources of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Their series.
    pub series: Series,
    /// The package's version.
    pub version: String,
    /// Where they come from: the archive, or this machine.
    origin: Option<Offered>,
}

impl Offer {
    /// Where it comes from, in a word: a suite of the archive, or `installed`.
    pub fn from(&self) -> &str {
        self.origin.as_ref().map_or("installed", |offered| &offered.suite)
    }

    /// The packed sources; in `work` where they have to be fetched.
    pub(super) fn tarball(&self, work: &Path, log: &Path) -> Result<PathBuf> {
        let root = match &self.origin {
            None => Path::new("/"),
            Some(offered) => {
                Archive::open()?.unpack(offered, work, log)?;
                work
            }
        };
        Ok(root.join(SOURCES).join(format!("{PACKAGE}{}.tar.xz", self.series)))
    }
}

/// What is offered for `wanted`. A series that is installed needs no archive.
pub(super) fn find(wanted: Wanted) -> Result<Offer> {
    if let Wanted::Series(series) = wanted
        && let Some(offer) = installed(series)
    {
        return Ok(offer);
    }
    let offers = all()?;
    let known = offers.iter().map(|offer| offer.series.to_string()).collect::<Vec<_>>().join(", ");
    pick(offers, wanted)
        .with_context(|| format!("the package archives offer no kernel {wanted}, only: {known}"))
}

fn pick(offers: Vec<Offer>, wanted: Wanted) -> Option<Offer> {
    let mut offers = offers.into_iter();
    match wanted {
        Wanted::Oldest => offers.next(),
        Wanted::Newest => offers.next_back(),
        Wanted::Series(series) => offers.find(|offer| offer.series == series),
    }
}

/// One offer for each series, in ascending order.
pub(super) fn all() -> Result<Vec<Offer>> {
    let offers = by_series(Archive::open()?.offers(PACKAGE)?);
    if offers.is_empty() {
        bail!("the package sources of this machine offer no package {PACKAGE}*");
    }
    Ok(offers)
}

/// Those of the packages that hold the sources of a series, and no patches or variants of it. Before
/// [`Series::CFS`] there are none of test kernels, which core scheduling is measured with.
fn by_series(packages: Vec<Offered>) -> Vec<Offer> {
    let mut offers = BTreeMap::new();
    for offered in packages {
        let named = offered.package.strip_prefix(PACKAGE).and_then(|rest| rest.parse().ok());
        if let Some(Wanted::Series(series)) = named
            && series >= Series::CFS
        {
            let version = offered.version.clone();
            offers.insert(series, Offer { series, version, origin: Some(offered) });
        }
    }
    offers.into_values().collect()
}

fn installed(series: Series) -> Option<Offer> {
    let version = setup::installed_version(&format!("{PACKAGE}{series}"))?;
    Some(Offer { series, version, origin: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(package: &str, version: &str) -> Offered {
        Offered { package: package.into(), version: version.into(), suite: "sid".into() }
    }

    #[test]
    fn series_are_in_the_order_of_their_numbers() {
        let offers = by_series(vec![
            offered("linux-source-6.12", "6.12.107-1"),
            offered("linux-source-7.3", "7.3~rc7-1"),
            offered("linux-source-6.1", "6.1.176-1"),
            offered("linux-source-5.10", "5.10.223-1"),
            offered("linux-source-6.12-rt", "6.12.107-1"),
            offered("linux-source-oldest", "1"),
        ]);
        let series: Vec<_> = offers.iter().map(|offer| offer.series.to_string()).collect();
        assert_eq!(series, ["6.1", "6.12", "7.3"]);
        let version = |wanted| pick(offers.clone(), wanted).map(|offer| offer.version);
        assert_eq!(version(Wanted::Oldest).as_deref(), Some("6.1.176-1"));
        assert_eq!(version(Wanted::Newest).as_deref(), Some("7.3~rc7-1"));
        assert_eq!(version(Wanted::default()).as_deref(), Some("6.12.107-1"));
        assert_eq!(version(Wanted::Series(Series::new(6, 18))), None);
        assert_eq!(offers[0].from(), "sid");
    }
}
