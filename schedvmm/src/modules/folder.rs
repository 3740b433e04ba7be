// SPDX-License-Identifier: Apache-2.0
//! A folder of modules.
//!
//! ```text
//!  /lib/modules/RELEASE   modules.builtin, kernel/**/NAME.ko[.gz|.xz|.zst]
//!  an unpacked package    [usr/]lib/modules/RELEASE, as above
//!  a build tree           modules.builtin, **/NAME.ko
//! ```

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::ModulesError;
use super::lists::Lists;
use crate::kernel_files::{BUILTIN, SUFFIXES, name_of};
use crate::plain_file;

/// Most files and folders that are looked at: a build tree has about 200,000 of them.
const MAX_ENTRIES: usize = 1_000_000;
/// No name of a release is longer.
const MAX_RELEASE_BYTES: u64 = 4096;
/// Where modules are installed, below a root or in a package.
const ROOTS: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// A folder of modules, and its lists.
#[derive(Debug)]
pub struct Folder {
    pub path: PathBuf,
    pub lists: Lists,
    /// All modules, once they have been looked for.
    files: OnceCell<BTreeMap<String, PathBuf>>,
}

impl Folder {
    /// A folder with these lists, which need not be all that it has.
    pub fn new(path: PathBuf, lists: Lists) -> Self {
        Self { path, lists, files: OnceCell::new() }
    }

    fn open(path: &Path) -> Result<Self, ModulesError> {
        Ok(Self::new(path.to_owned(), Lists::read(path)?))
    }

    /// The folder of modules that is meant by one that the user has named: itself, or one below it.
    ///
    /// # Errors
    /// It, or a list in it, cannot be read, or it has the modules of other kernels than `release`; of
    /// several, where the kernel does not tell which it is.
    pub fn named(path: &Path, release: Option<&str>) -> Result<Self, ModulesError> {
        fs::read_dir(path).map_err(|source| unread(source, path))?;
        let installed = installed(path);
        let Some(ours) = release else {
            return match installed.as_slice() {
                [] => Self::open(path),
                [one] => Self::open(one),
                several => {
                    let list: Vec<_> =
                        several.iter().map(|one| one.display().to_string()).collect();
                    let list = list.join(", ");
                    Err(ModulesError::Several { folder: path.to_owned(), list })
                }
            };
        };
        if installed.is_empty() {
            return match own_release(path).filter(|theirs| theirs != ours) {
                None => Self::open(path),
                Some(theirs) => Err(foreign(theirs, ours, path)),
            };
        }
        let theirs: Vec<_> = installed.iter().filter_map(|one| last_name(one)).collect();
        match theirs.iter().position(|name| name == ours).and_then(|at| installed.get(at)) {
            Some(one) => Self::open(one),
            // Their lists are believed where no module of them is loaded.
            None => Err(foreign(theirs.join(", "), ours, path)),
        }
    }

    /// The folder of modules of a kernel whose file lies in the root or the package where they are
    /// installed, in its build tree, or beside their lists; or else that of `root` for its release.
    pub fn beside(root: &Path, kernel: &Path, release: Option<&str>) -> Option<PathBuf> {
        let kernel = kernel.canonicalize().ok()?;
        // A build tree has those of its last build, which need not be the kernel's.
        let own = kernel
            .parent()
            .filter(|folder| folder.join(BUILTIN).is_file() && built_release(folder).is_err());
        let found = own.map(Path::to_owned);
        let found = found
            .or_else(|| kernel.ancestors().skip(1).find_map(|folder| of_release(folder, release)));
        found.or_else(|| of_release(root, release))
    }

    /// The file of this module.
    ///
    /// # Errors
    /// The folder cannot be read, or there is no end to it.
    pub fn find(&self, module: &str) -> Result<Option<PathBuf>, ModulesError> {
        // Lists name all that a build has made: a folder of thousands need not be gone through.
        if self.lists.deny(module) {
            return Ok(None);
        }
        if let Some(listed) = self.lists.path(module) {
            let mut paths =
                SUFFIXES.iter().map(|suffix| self.path.join(format!("{listed}{suffix}")));
            if let Some(path) = paths.find(|path| path.is_file()) {
                return Ok(Some(path));
            }
        }
        Ok(self.files()?.get(module).cloned())
    }

    /// Whether there is no module in it.
    ///
    /// # Errors
    /// As for [`find`](Self::find).
    pub fn is_empty(&self) -> Result<bool, ModulesError> {
        Ok(self.files()?.is_empty())
    }

    fn files(&self) -> Result<&BTreeMap<String, PathBuf>, ModulesError> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let files = walk(&self.path)?;
        Ok(self.files.get_or_init(|| files))
    }
}

fn unread(source: std::io::Error, path: &Path) -> ModulesError {
    ModulesError::Read { path: path.to_owned(), source }
}

fn foreign(theirs: String, ours: &str, path: &Path) -> ModulesError {
    let module = format!("what is in {}", path.display());
    ModulesError::Foreign { module, theirs, ours: ours.to_owned() }
}

fn last_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// The release that a folder of modules is of, where its place or its files tell: where it is
/// installed, or a build tree.
fn own_release(folder: &Path) -> Option<String> {
    let place = folder.canonicalize().ok()?;
    if place.parent().is_some_and(|parent| parent.ends_with(ROOTS[0])) {
        return last_name(&place);
    }
    built_release(&place).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn built_release(folder: &Path) -> Result<String, std::io::Error> {
    plain_file::read_text(&folder.join("include/config/kernel.release"), MAX_RELEASE_BYTES)
}

fn of_release(folder: &Path, release: Option<&str>) -> Option<PathBuf> {
    let release = release?;
    let installed = ROOTS.map(|modules| folder.join(modules).join(release));
    let found = installed.into_iter().find(|folder| folder.is_dir());
    found.or_else(|| {
        built_release(folder).is_ok_and(|text| text.trim() == release).then(|| folder.to_owned())
    })
}

/// Folders `lib/modules/RELEASE` below a root or a package.
fn installed(root: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for modules in ROOTS {
        let Ok(entries) = fs::read_dir(root.join(modules)) else { continue };
        let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        // The same where /lib is a link to usr/lib.
        found.extend(folders.filter_map(|path| path.canonicalize().ok()));
    }
    found.into_iter().collect()
}

/// All modules below a folder, by name. Links are not followed: `build` and `source` lead to other
/// trees.
fn walk(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ModulesError> {
    let (mut files, mut entries_seen) = (BTreeMap::new(), 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).map_err(|source| unread(source, &next))? {
            let entry = entry.map_err(|source| unread(source, &next))?;
            entries_seen += 1;
            if entries_seen > MAX_ENTRIES {
                let folder = folder.to_owned();
                return Err(ModulesError::Endless { folder, most: MAX_ENTRIES });
            }
            let kind = entry.file_type().map_err(|source| unread(source, &next))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
                files.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    Ok(files)
}
