// SPDX-License-Identifier: Apache-2.0
//! The modules in a package that was not unpacked.
//!
//! A package is read from its beginning to its end, which takes seconds where it is large. So it is
//! read only once something is wanted of it, and the modules that a machine usually wants are kept
//! in memory on the way. One that those need beside is kept by another reading.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::file::Found;
use super::{LIKELY, Lists, ModulesError};
use crate::package::{Contents, Package, PackageError, Release};

/// A package of modules.
#[derive(Debug)]
pub struct Packed {
    package: Package,
    /// The kernel's; `None` where it does not tell.
    release: Option<String>,
    /// What it has of that kernel, once it was read.
    index: OnceCell<Release>,
    /// True if the user has named it for its modules.
    is_named: bool,
}

/// True if a machine usually wants this module.
pub fn is_likely(module: &str) -> bool {
    LIKELY.contains(&module)
}

impl Packed {
    /// A package with modules of the kernel `release`, which is read when something is wanted of
    /// it.
    pub fn new(package: Package, release: Option<&str>, is_named: bool) -> Self {
        let release = release.map(str::to_owned);
        Self { package, release, index: OnceCell::new(), is_named }
    }

    /// A package that was read for its kernel.
    pub fn read_before(package: Package, release: &str, index: Release) -> Self {
        let release = Some(release.to_owned());
        Self { package, release, index: OnceCell::from(index), is_named: false }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        self.package.path()
    }

    /// What it has of the kernel, if it has been read.
    pub fn known(&self) -> Option<&Release> {
        self.index.get()
    }

    /// Its lists, which may be empty.
    ///
    /// # Errors
    /// It is damaged, or has the modules of other kernels only.
    pub fn lists(&self) -> Result<Lists, ModulesError> {
        let index = self.index()?;
        let place = self.path().display().to_string();
        Ok(Lists::new(place, index.builtin.as_deref(), index.order.as_deref()))
    }

    /// Whether there is no module in it.
    ///
    /// # Errors
    /// As for [`lists`](Self::lists).
    pub fn is_empty(&self) -> Result<bool, ModulesError> {
        Ok(self.index()?.modules.is_empty())
    }

    /// Of these modules those that are in it: where, and the bytes of their files.
    ///
    /// # Errors
    /// As for [`lists`](Self::lists).
    pub fn files(
        &self,
        wanted: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Found>, ModulesError> {
        let index = self.index()?;
        let there: Vec<_> =
            index.modules.iter().filter(|(name, _)| wanted.contains(*name)).collect();
        let mut read = BTreeMap::new();
        if !there.iter().all(|(name, _)| index.kept.contains_key(*name)) {
            let contents = self
                .package
                .contents(|name| wanted.contains(name) && !index.kept.contains_key(name))?;
            read = self.pick(contents)?.kept;
        }
        Ok(there
            .into_iter()
            .filter_map(|(name, member)| {
                let bytes = index.kept.get(name).cloned().or_else(|| read.remove(name))?;
                let place = self.path().display().to_string();
                Some((name.clone(), Found { file: format!("{place}: {member}"), place, bytes }))
            })
            .collect())
    }

    fn index(&self) -> Result<&Release, ModulesError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let index = self.pick(self.package.contents(is_likely)?)?;
        Ok(self.index.get_or_init(|| index))
    }

    /// Files of the kernel that is meant, in a package.
    fn pick(&self, mut contents: Contents) -> Result<Release, ModulesError> {
        let names: Vec<_> = contents
            .releases
            .iter()
            .filter(|(_, of)| !of.modules.is_empty())
            .map(|(name, _)| name.as_str())
            .collect();
        match &self.release {
            Some(ours) if contents.releases.contains_key(ours) => {}
            Some(ours) if self.is_named && !names.is_empty() => {
                let module = format!("package {}", self.path().display());
                let (theirs, ours) = (names.join(", "), ours.clone());
                return Err(ModulesError::Foreign { module, theirs, ours });
            }
            None if names.len() > 1 => {
                let (folder, list) = (self.path().to_owned(), names.join(", "));
                return Err(ModulesError::Several { folder, list });
            }
            _ => {}
        }
        let release = self.release.clone().or_else(|| names.first().map(|name| (*name).to_owned()));
        Ok(release.and_then(|release| contents.releases.remove(&release)).unwrap_or_default())
    }
}

impl From<PackageError> for ModulesError {
    fn from(error: PackageError) -> Self {
        Self::Package(error)
    }
}
