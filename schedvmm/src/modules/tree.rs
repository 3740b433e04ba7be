// SPDX-License-Identifier: Apache-2.0
//! A folder of modules.
//!
//! ```text
//!  /lib/modules/RELEASE   modules.builtin, kernel/**/NAME.ko[.gz|.xz|.zst]
//!  an unpacked package    [usr/]lib/modules/RELEASE, as above
//!  a build tree           modules.builtin, **/NAME.ko
//! ```
//!
//! Which module needs which is read from the modules themselves: packages have no modules.dep, which
//! depmod makes where they are installed.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::file::{self, Described, module_name};
use super::{Module, Modules, ModulesError};

/// Most files and folders that are looked at: a build tree has about 200,000 of them.
const MOST_ENTRIES: usize = 1_000_000;
/// Where modules are installed, below a root or in a package.
const ROOTS: [&str; 2] = ["lib/modules", "usr/lib/modules"];
/// Suffixes of a module's file (scripts/Makefile.modinst).
const SUFFIXES: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// The modules in a folder.
#[derive(Debug)]
pub struct Tree {
    folder: PathBuf,
    /// `None` where there is no list of what is built in.
    builtin: Option<BTreeSet<String>>,
    /// Whether the user has named it. Where it was only found, it may as well have none: a kernel
    /// with all drivers built in needs none.
    is_named: bool,
    /// Once they have been looked for.
    files: OnceCell<BTreeMap<String, PathBuf>>,
}

impl Tree {
    /// The folder that the user has named.
    ///
    /// # Errors
    /// It cannot be read, or has the modules of several kernels.
    pub fn open(folder: &Path) -> Result<Self, ModulesError> {
        let unread = |source| ModulesError::Read { path: folder.to_owned(), source };
        fs::read_dir(folder).map_err(unread)?;
        match installed(folder).as_slice() {
            [] => Ok(Self::of(folder, true)),
            [one] => Ok(Self::of(one, true)),
            several => {
                let list: Vec<_> = several.iter().map(|one| one.display().to_string()).collect();
                let list = list.join(", ");
                Err(ModulesError::Several { folder: folder.to_owned(), list })
            }
        }
    }

    /// The modules of a kernel whose file lies in the root or the package where they are installed,
    /// or in its build tree.
    pub fn beside(kernel: &Path, release: &str) -> Option<Self> {
        let kernel = kernel.canonicalize().ok()?;
        let is_release = |folder: &Path| {
            let built = fs::read_to_string(folder.join("include/config/kernel.release"));
            built.is_ok_and(|text| text.trim() == release)
        };
        kernel.ancestors().skip(1).find_map(|folder| {
            let installed = ROOTS.map(|modules| folder.join(modules).join(release));
            let found = installed.into_iter().find(|folder| folder.is_dir());
            let found = found.or_else(|| is_release(folder).then(|| folder.to_owned()));
            found.map(|folder| Self::of(&folder, false))
        })
    }

    fn of(folder: &Path, is_named: bool) -> Self {
        let builtin = fs::read_to_string(folder.join("modules.builtin")).ok().map(|builtin| {
            builtin.lines().filter_map(|line| name_of(line.rsplit('/').next()?)).collect()
        });
        Self { folder: folder.to_owned(), builtin, is_named, files: OnceCell::new() }
    }

    /// Whether this one is built into the kernel.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.as_ref().is_some_and(|builtin| builtin.contains(name))
    }

    /// Of these modules those that are not built in, each after the ones it needs. One that is not
    /// there at all is left out: whether the kernel can do without it is not for its modules to tell.
    ///
    /// # Errors
    /// There are no modules at all in a folder that was named; one of them, or one that it needs, is damaged or missing, or of
    /// another kernel than `release`.
    pub fn closure(
        &self,
        wanted: impl IntoIterator<Item = impl AsRef<str>>,
        release: Option<&str>,
    ) -> Result<Modules, ModulesError> {
        let wanted: Vec<_> =
            wanted.into_iter().filter(|name| !self.is_builtin(name.as_ref())).collect();
        if wanted.is_empty() {
            // A build tree of 200,000 files is not looked through for nothing.
            return Ok(Modules::default());
        }
        if self.files.get().is_none() {
            // Nobody else can have set it meanwhile.
            let _ = self.files.set(walk(&self.folder)?);
        }
        let files = self.files.get_or_init(BTreeMap::new);
        if files.is_empty() && self.builtin.is_none() && self.is_named {
            return Err(ModulesError::None(self.folder.clone()));
        }
        let mut loading =
            Loading { tree: self, files, release, seen: BTreeSet::new(), order: Vec::new() };
        for name in wanted {
            if files.contains_key(name.as_ref()) {
                loading.add(name.as_ref())?;
            }
        }
        Ok(Modules { list: loading.order, folder: Some(self.folder.clone()) })
    }
}

/// A closure under way.
struct Loading<'a> {
    tree: &'a Tree,
    files: &'a BTreeMap<String, PathBuf>,
    release: Option<&'a str>,
    seen: BTreeSet<String>,
    order: Vec<Module>,
}

impl Loading<'_> {
    /// Adds a module that has a file, after all that it needs. In a circle, which depmod refuses,
    /// the kernel says what is missing.
    fn add(&mut self, name: &str) -> Result<(), ModulesError> {
        // Each is put off until those it needs are in order: a stack of its own, since a chain may
        // be as long as the files make it.
        let mut stack = vec![Step::Read(name.to_owned(), None)];
        while let Some(step) = stack.pop() {
            let (name, by) = match step {
                Step::Done(module) => {
                    self.order.push(module);
                    continue;
                }
                Step::Read(name, by) => (name, by),
            };
            if self.tree.is_builtin(&name) || !self.seen.insert(name.clone()) {
                continue;
            }
            let Some(path) = self.files.get(&name) else {
                let folder = self.tree.folder.clone();
                return Err(ModulesError::Missing {
                    needed: name,
                    by: by.unwrap_or_default(),
                    folder,
                });
            };
            let Described { module, depends, release } = file::read(&name, path)?;
            if let Some(ours) = self.release.filter(|ours| *ours != release) {
                let (path, ours) = (path.clone(), ours.to_owned());
                return Err(ModulesError::Foreign { path, theirs: release, ours });
            }
            stack.push(Step::Done(module));
            stack.extend(depends.into_iter().map(|needed| Step::Read(needed, Some(name.clone()))));
        }
        Ok(())
    }
}

/// What is left to do.
enum Step {
    /// Read this one, which another needs.
    Read(String, Option<String>),
    /// All that it needs is in order.
    Done(Module),
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
        let unread = |source| ModulesError::Read { path: next.clone(), source };
        for entry in fs::read_dir(&next).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            entries_seen += 1;
            if entries_seen > MOST_ENTRIES {
                let folder = folder.to_owned();
                return Err(ModulesError::Endless { folder, most: MOST_ENTRIES });
            }
            let kind = entry.file_type().map_err(unread)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
                files.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    Ok(files)
}

/// The module that a file is called after.
fn name_of(file: &str) -> Option<String> {
    let stem = SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix))?;
    Some(module_name(stem))
}
