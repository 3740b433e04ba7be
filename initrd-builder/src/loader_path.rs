// SPDX-License-Identifier: Apache-2.0
//! The directories the dynamic loader searches without being told by the executable.
//!
//! The files behind `ld.so.cache` are read, not the cache: it is derived from them, and its
//! format is glibc's own affair.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Built into the loader, so a guest without `ld.so.cache` has them too. A distribution's
/// loader knows either the first four (Debian) or the last four (the others).
const STANDARD: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];

/// Nested `include` lines deeper than this are a loop.
const MAX_INCLUDES: u32 = 16;

/// The directories named in `/etc/ld.so.conf`, then the standard ones.
pub(crate) fn directories() -> Vec<PathBuf> {
    let mut configured = Vec::new();
    read_config(Path::new("/etc/ld.so.conf"), MAX_INCLUDES, &mut configured);
    let mut seen = HashSet::new();
    configured
        .into_iter()
        .chain(STANDARD.map(PathBuf::from))
        .filter(|directory| seen.insert(directory.clone()))
        .collect()
}

/// Whether a guest's loader looks into `directory` by itself.
pub(crate) fn is_standard(directory: &Path) -> bool {
    STANDARD.iter().any(|standard| directory == Path::new(standard))
}

/// Where the guest's loader finds a library that lies elsewhere on this machine: the standard
/// directory that this machine keeps its C library in.
pub(crate) fn home_in_guest() -> &'static Path {
    let home = STANDARD.iter().find(|directory| Path::new(directory).join("libc.so.6").exists());
    Path::new(home.unwrap_or(&STANDARD[0]))
}

/// Collects the directories of one configuration file and of those it includes.
fn read_config(path: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    // A machine without the file, or with an unreadable one, has the standard directories.
    let Ok(text) = std::fs::read_to_string(path) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.split_once(char::is_whitespace) {
            Some(("include", patterns)) if depth > 0 => {
                for pattern in patterns.split_whitespace() {
                    let pattern = path.parent().unwrap_or(Path::new("/")).join(pattern);
                    for file in expand(&pattern) {
                        read_config(&file, depth - 1, found);
                    }
                }
            }
            _ if line.starts_with('/') => found.push(PathBuf::from(line)),
            _ => {}
        }
    }
}

/// The files matching a pattern with at most one `*`, in its last component: what
/// distributions write (`/etc/ld.so.conf.d/*.conf`).
fn expand(pattern: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy();
    let Some((start, end)) = name.split_once('*') else { return vec![pattern.into()] };
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end))
        })
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use super::*;

    #[test]
    fn includes_are_followed_and_loops_end() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("ld.so.conf");
        write(&config, "include conf.d/*.conf\n# /not/this\n/last\n").unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        write(dir.path().join("conf.d/b.conf"), "/b # remark\n").unwrap();
        write(dir.path().join("conf.d/a.conf"), "/a\n").unwrap();
        write(dir.path().join("conf.d/c.txt"), "/c\n").unwrap();
        let mut found = Vec::new();
        read_config(&config, MAX_INCLUDES, &mut found);
        assert_eq!(found, ["/a", "/b", "/last"].map(PathBuf::from));

        write(&config, format!("include {}\n/x\n", config.display())).unwrap();
        found.clear();
        read_config(&config, 3, &mut found);
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn standard_directories_are_always_searched() {
        let directories = directories();
        assert!(STANDARD.iter().all(|standard| directories.contains(&PathBuf::from(standard))));
        assert!(is_standard(home_in_guest()));
    }
}
