// SPDX-License-Identifier: Apache-2.0
//! What of a kernel's folder goes into the emulated host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Beginnings of the names of files that are of no use to a boot, and large.
const USELESS: [&str; 3] = ["System.map", "vmlinux", "build.log"];

/// The files of a folder that a kernel's package was unpacked into, or that a build has left, by
/// their places in it: its image, its configuration, all of its modules. Links lead to other trees,
/// and are left out.
///
/// # Errors
/// The folder cannot be read.
pub fn boot_files(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| unread(&next))? {
            let entry = entry.with_context(|| unread(&next))?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(|| unread(&next))?);
            let name = entry.file_name();
            let is_useless = USELESS.iter().any(|start| name.to_string_lossy().starts_with(start));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && !is_useless {
                files.push((path.strip_prefix(folder)?.to_owned(), path));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn unread(next: &Path) -> String {
    format!("cannot read `{}`", next.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_boots_is_taken_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("lib/modules/6.1/kernel");
        fs::create_dir_all(&modules).unwrap();
        for file in ["bzImage", "vmlinux", "config", "lib/modules/6.1/kernel/a.ko.xz"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("/", dir.path().join("lib/modules/6.1/build")).unwrap();
        let files = boot_files(dir.path()).unwrap();
        let places: Vec<_> = files.iter().map(|(place, _)| place.to_str().unwrap()).collect();
        assert_eq!(places, ["bzImage", "config", "lib/modules/6.1/kernel/a.ko.xz"]);
        assert!(files.iter().all(|(place, path)| dir.path().join(place) == *path));
    }
}
