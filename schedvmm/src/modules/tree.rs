// SPDX-License-Identifier: Apache-2.0
//! All modules of a kernel: in a folder, or in packages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use vmm::x86_64::lint;

use super::file::{self, Found};
use super::folder::Folder;
use super::lists::{Driver, Lists};
use super::packed::Packed;
use super::{CONFIGS, ModulesError};
use crate::package::{self, Package};
use crate::status::chain;

/// The file of the module `configs`, and the options in it.
pub type Configs = (String, HashMap<String, String>);

/// A kernel's modules.
#[derive(Debug)]
pub struct Tree {
    places: Vec<Place>,
    lists: Lists,
    /// What a reader should know of what was left out.
    notes: Vec<String>,
    /// True if the user has named it. Where it was only found, it may as well have none: a kernel
    /// with all drivers built in needs none.
    pub(super) is_named: bool,
}

/// Where modules are.
#[derive(Debug)]
enum Place {
    Folder(Folder),
    Package(Packed),
}

impl Tree {
    /// Modules of the kernel `release` in the folders and packages that the user has named. Where
    /// none of them has lists, those beside the kernel count.
    ///
    /// # Errors
    /// One of them cannot be read, is neither, or has the modules of several kernels.
    pub fn named(
        named: &[PathBuf],
        release: Option<&str>,
        beside: Option<&Self>,
    ) -> Result<Self, ModulesError> {
        let places =
            named.iter().map(|path| open_place(path, release)).collect::<Result<Vec<_>, _>>()?;
        for place in &places {
            if let Place::Folder(folder) = place
                && folder.lists.is_empty()
                && folder.is_empty()?
            {
                return Err(ModulesError::None(folder.path.display().to_string()));
            }
        }
        Self::of(places, beside.map(|tree| &tree.lists), true)
    }

    /// Modules of the kernel in `package`, and of packages of its release in the same folder. Nobody
    /// has named those: one that cannot be opened is left out, and noted.
    ///
    /// # Errors
    /// One of these is damaged.
    pub fn of_package(package: Packed, release: &str) -> Result<Self, ModulesError> {
        let siblings = package::siblings(package.path(), release);
        let mut places = vec![Place::Package(package)];
        let mut notes = Vec::new();
        for path in siblings {
            match Package::open(&path) {
                Ok(Some(package)) => {
                    places.push(Place::Package(Packed::new(package, Some(release), false)));
                }
                Ok(None) => notes.push(format!("{} is left out: it is no package", path.display())),
                Err(error) => notes.push(format!("{} is left out: {error}", path.display())),
            }
        }
        Ok(Self { notes, ..Self::of(places, None, false)? })
    }

    /// The modules of a kernel whose file lies in the root or the package where they are installed,
    /// in its build tree, or with their lists; or else those that are installed below `root`. A list
    /// that cannot be read is noted.
    pub fn beside(root: &Path, kernel: &Path, release: Option<&str>) -> Option<Self> {
        let path = Folder::beside(root, kernel, release)?;
        // Nobody has named them: without its lists the kernel itself tells what is built in.
        let (lists, notes) = match Lists::read(&path) {
            Ok(lists) => (lists, Vec::new()),
            Err(error) => (Lists::default(), vec![chain(error)]),
        };
        let folder = Folder::new(path, lists.clone());
        Some(Self { lists, places: vec![Place::Folder(folder)], notes, is_named: false })
    }

    fn of(
        places: Vec<Place>,
        beside: Option<&Lists>,
        is_named: bool,
    ) -> Result<Self, ModulesError> {
        let mut lists = Lists::default();
        let folders = places.iter().filter_map(|place| match place {
            Place::Folder(folder) => Some(&folder.lists),
            Place::Package(_) => None,
        });
        lists = folders.chain(beside).fold(lists, Lists::or);
        for place in &places {
            // A package of a hundred megabytes is not read for what is known.
            if lists.tell_builtin() {
                break;
            }
            if let Place::Package(package) = place {
                lists = lists.or(&package.lists()?);
            }
        }
        Ok(Self { places, lists, notes: Vec::new(), is_named })
    }

    /// What a reader should know of what was left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The configuration in the module `configs` of a kernel that has it as one (`IKCONFIG=m`), and
    /// the file of that; `None` where no list has it.
    ///
    /// # Errors
    /// The module cannot be read, or is of another kernel than `release`.
    pub fn configs(&self, release: Option<&str>) -> Result<Option<Configs>, ModulesError> {
        if self.lists.driver(CONFIGS) != Driver::Module {
            return Ok(None);
        }
        let mut files = self.files(&BTreeSet::from([CONFIGS.to_owned()]))?;
        let Some(found) = files.remove(CONFIGS) else { return Ok(None) };
        let described = file::describe(CONFIGS, &found.file, found.bytes)?;
        described.check(release, &found.file)?;
        Ok(lint::config(&described.module.bytes).map(|options| (found.file, options)))
    }

    /// Listed modules.
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// True if this one is built into the kernel.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.lists.driver(name) == Driver::BuiltIn
    }

    /// Where all this is, for a reader.
    pub fn place(&self) -> String {
        self.places
            .iter()
            .map(|place| match place {
                Place::Folder(folder) => folder.path.display().to_string(),
                Place::Package(package) => package.path().display().to_string(),
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Where all this is, if the user has named it.
    pub fn named_place(&self) -> Option<String> {
        self.is_named.then(|| self.place())
    }

    /// Path and text of the configuration in the packages that have been read.
    pub fn config(&self) -> Option<(PathBuf, &(String, String))> {
        self.places.iter().find_map(|place| match place {
            Place::Folder(_) => None,
            Place::Package(package) => {
                let config = package.known()?.config.as_ref()?;
                Some((package.path().to_owned(), config))
            }
        })
    }

    /// Whether there is no module at all.
    pub(super) fn is_empty(&self) -> Result<bool, ModulesError> {
        for place in &self.places {
            let is_empty = match place {
                Place::Folder(folder) => folder.is_empty()?,
                Place::Package(package) => package.is_empty()?,
            };
            if !is_empty {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The files of these modules, as far as they are there.
    pub(super) fn files(
        &self,
        wanted: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Found>, ModulesError> {
        let mut wanted: BTreeSet<_> =
            wanted.iter().filter(|name| self.places_tell(name)).cloned().collect();
        let mut found = BTreeMap::new();
        for place in &self.places {
            if wanted.is_empty() {
                break;
            }
            match place {
                Place::Folder(folder) => {
                    for name in &wanted {
                        if let Some(path) = folder.find(name)? {
                            let bytes = super::file::packed(&path)?;
                            let file = path.display().to_string();
                            let place = folder.path.display().to_string();
                            found.insert(name.clone(), Found { file, place, bytes });
                        }
                    }
                }
                Place::Package(package) => found.extend(package.files(&wanted)?),
            }
            wanted.retain(|name| !found.contains_key(name));
        }
        Ok(found)
    }

    /// True if it is worth looking for this one: where there are packages, what no list has is not
    /// looked for in them.
    fn places_tell(&self, name: &str) -> bool {
        !self.lists.deny(name)
            || !self.places.iter().any(|place| matches!(place, Place::Package(_)))
    }
}

fn open_place(path: &Path, release: Option<&str>) -> Result<Place, ModulesError> {
    if fs::metadata(path).map_err(|source| unread(source, path))?.is_dir() {
        return Folder::named(path, release).map(Place::Folder);
    }
    let package = Package::open(path).map_err(|source| unread(source, path))?;
    let package = package.ok_or_else(|| ModulesError::NeitherOf(path.to_owned()))?;
    Ok(Place::Package(Packed::new(package, release, true)))
}

fn unread(source: std::io::Error, path: &Path) -> ModulesError {
    ModulesError::Read { path: path.to_owned(), source }
}
