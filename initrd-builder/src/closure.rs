// SPDX-License-Identifier: Apache-2.0
//! The shared libraries an executable needs, found the way the dynamic loader finds them.
//!
//! The order is that of ld.so(8): the needing file's DT_RPATH and those of the files that
//! brought it in (unless it has a DT_RUNPATH), its DT_RUNPATH, then the loader's own
//! directories. `LD_LIBRARY_PATH` is left out: it belongs to a process, not to an executable.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::elf::Dynamic;
use crate::{InitrdError, loader_path};

/// One file of a closure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where the guest's loader will look for it.
    pub guest: PathBuf,
    /// Where it lies on this machine.
    pub host: PathBuf,
}

/// A file whose needs are not met yet.
struct Pending {
    host: PathBuf,
    dynamic: Dynamic,
    /// DT_RPATH of the files that led here, nearest first.
    inherited: Vec<PathBuf>,
}

/// The interpreter and all shared libraries of `executable`, itself not included; nothing for
/// a statically linked one.
///
/// A library from a directory that only this machine's `ld.so.cache` or a search path in the
/// executable knows moves to a standard directory in the guest, where its loader looks last.
pub fn closure(executable: impl AsRef<Path>) -> Result<Vec<Library>, InitrdError> {
    let host = executable.as_ref().to_path_buf();
    let dynamic = Dynamic::read(&host)?;
    let Some(interpreter) = dynamic.interpreter.clone() else { return Ok(Vec::new()) };
    let defaults = loader_path::directories();

    // The loader is in memory before anything else, and answers to its name as a library.
    let mut seen: HashSet<String> = HashSet::new();
    seen.extend(interpreter.file_name().map(|name| name.to_string_lossy().into_owned()));
    let mut libraries = vec![Library { guest: interpreter.clone(), host: interpreter.clone() }];
    if !interpreter.exists() {
        return Err(InitrdError::MissingLibrary {
            name: interpreter.display().to_string(),
            needed_by: host,
            searched: vec!["its own path".into()],
        });
    }

    let mut pending = vec![Pending { host, dynamic, inherited: Vec::new() }];
    while let Some(file) = pending.pop() {
        let search = file.search_path(&defaults);
        for name in file.dynamic.needed.iter().filter(|name| seen.insert((*name).clone())) {
            let (host, dynamic) =
                find(name, &search).ok_or_else(|| InitrdError::MissingLibrary {
                    name: name.clone(),
                    needed_by: file.host.clone(),
                    searched: search.iter().map(|path| path.display().to_string()).collect(),
                })?;
            libraries.push(Library { guest: guest_path(&host), host: host.clone() });
            pending.push(Pending { host, dynamic, inherited: file.rpath_chain() });
        }
    }
    Ok(libraries)
}

impl Pending {
    /// All directories to search for what this file needs, in order.
    fn search_path(&self, defaults: &[PathBuf]) -> Vec<PathBuf> {
        let own = match &self.dynamic.runpath {
            Some(runpath) => self.expand(runpath),
            None => self.rpath_chain(),
        };
        own.into_iter().chain(defaults.iter().cloned()).collect()
    }

    /// The DT_RPATH that counts for this file and for all it brings in.
    fn rpath_chain(&self) -> Vec<PathBuf> {
        let own = match &self.dynamic.runpath {
            Some(_) => Vec::new(),
            None => self.expand(&self.dynamic.rpath),
        };
        own.into_iter().chain(self.inherited.iter().cloned()).collect()
    }

    /// Puts the file's own directory in place of `$ORIGIN`.
    fn expand(&self, directories: &[String]) -> Vec<PathBuf> {
        let real = self.host.canonicalize().unwrap_or_else(|_| self.host.clone());
        let origin = real.parent().unwrap_or(Path::new("/")).display().to_string();
        directories
            .iter()
            .map(|path| path.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into())
            .collect()
    }
}

/// The first library of that name for this architecture. Like the loader, passes over files
/// of another one (32-bit libraries, linker scripts).
fn find(name: &str, search: &[PathBuf]) -> Option<(PathBuf, Dynamic)> {
    // A name with a slash is a path; joined to a directory, an absolute one replaces it.
    search.iter().find_map(|directory| {
        let path = directory.join(name);
        Dynamic::read(&path).ok().map(|dynamic| (path, dynamic))
    })
}

/// Keeps a library where the guest's loader looks by itself, and moves any other there.
fn guest_path(host: &Path) -> PathBuf {
    match (host.parent(), host.file_name()) {
        (Some(directory), Some(name)) if !loader_path::is_standard(directory) => {
            loader_path::home_in_guest().join(name)
        }
        _ => host.to_path_buf(),
    }
}

#[cfg(test)]
#[path = "closure_tests.rs"]
mod tests;
