// SPDX-License-Identifier: Apache-2.0
//! The kernels of the matrix.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use testhost::kernel::{self, Series, StockOffer, Variant, Wanted};

/// Kernels that are built here.
const BUILT: [(Wanted, Variant); 7] = [
    (Wanted::Series(Series::CFS), Variant::Test),
    (Wanted::Series(Series::HOST), Variant::Test),
    (Wanted::Newest, Variant::Test),
    (Wanted::Series(Series::HOST), Variant::Redhat),
    (Wanted::Series(Series::HOST), Variant::Pci),
    (Wanted::Newest, Variant::Defconfig),
    (Wanted::Newest, Variant::Fragment),
];

/// A kernel, and what is run on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) source: Source,
    /// Two virtual machines in the virtual machine.
    pub(super) nested: bool,
}

/// Where a kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A distribution.
    Stock {
        offer: StockOffer,
        /// Whether it was there before this run.
        was_cached: bool,
    },
    /// Sources.
    Built { wanted: Wanted, variant: Variant },
    /// A folder that its package was unpacked into.
    Folder(PathBuf),
}

impl Entry {
    /// What it is called.
    pub(super) fn name(&self) -> String {
        let kernel = match &self.source {
            Source::Stock { offer, .. } => offer.release.clone(),
            Source::Built { wanted, variant } => format!("{wanted} {variant}"),
            Source::Folder(folder) => {
                folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
            }
        };
        if self.nested { kernel + ", nested" } else { kernel }
    }

    /// The folder with the kernel and its modules, downloaded or built first if the cache has none.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        match &self.source {
            Source::Stock { offer, .. } => Ok(offer.fetch()?.folder),
            Source::Built { wanted, variant } => {
                let image = kernel::ensure_variant(*wanted, *variant)?;
                image.parent().map(Path::to_owned).context("an image without a folder")
            }
            Source::Folder(folder) => std::path::absolute(folder).context("no current folder"),
        }
    }
}

/// Some kernels, or every one that can be had.
pub(super) fn all(every: bool) -> Result<Vec<Entry>> {
    let offers = kernel::stock_offers()?;
    let nested = [of_cfs(&offers)?, last(&offers, "generic")?].map(|it| it.release.clone());
    let stock = if every { offers } else { some(&offers)? };
    let mut entries = Vec::new();
    for offer in stock {
        let is_nested = nested.contains(&offer.release);
        let was_cached = offer.is_cached();
        add(&mut entries, Source::Stock { offer, was_cached }, is_nested);
    }
    for (wanted, variant) in BUILT {
        // The recommended way to a kernel of one's own has to do for virtual machines, too.
        add(&mut entries, Source::Built { wanted, variant }, variant == Variant::Fragment);
    }
    Ok(entries)
}

fn add(entries: &mut Vec<Entry>, source: Source, is_nested: bool) {
    entries.push(Entry { source: source.clone(), nested: false });
    if is_nested {
        entries.push(Entry { source, nested: true });
    }
}

/// The oldest that is made for virtual machines, that of the first series with all that is measured,
/// and the newest of each flavour.
fn some(offers: &[StockOffer]) -> Result<Vec<StockOffer>> {
    let mut some = vec![one(offers.iter(), "cloud")?.clone()];
    let newest = ["cloud", "generic", "rt"].map(|flavour| last(offers, flavour));
    for offer in [of_cfs(offers)].into_iter().chain(newest) {
        let offer = offer?;
        if !some.contains(offer) {
            some.push(offer.clone());
        }
    }
    Ok(some)
}

fn of_cfs(offers: &[StockOffer]) -> Result<&StockOffer> {
    one(offers.iter().filter(|offer| offer.series() == Some(Series::CFS)), "cloud")
}

fn last<'a>(offers: &'a [StockOffer], flavour: &str) -> Result<&'a StockOffer> {
    one(offers.iter().rev(), flavour)
}

/// The first one of a flavour.
fn one<'a>(
    mut offers: impl Iterator<Item = &'a StockOffer>,
    flavour: &str,
) -> Result<&'a StockOffer> {
    match offers.find(|offer| offer.flavour == flavour) {
        Some(offer) => Ok(offer),
        None => bail!("the package archives offer no {flavour} kernel with all of its packages"),
    }
}
