// SPDX-License-Identifier: Apache-2.0
//! Packages of one kernel: distributions cut it into several, which lie where they were downloaded.

use std::fs;
use std::path::{Path, PathBuf};

/// More parts than any kernel comes in.
const MAX_SIBLINGS: usize = 16;
/// In names of packages that have no module to load: what is left out of them, and large.
const OTHERS: [&str; 6] = ["dbg", "debuginfo", "debugsource", "devel", "doc", "headers"];

/// Packages in the folder of `package` that are, by their names, of the same build of the kernel
/// `release`, the smallest first: lists are in small ones.
pub fn siblings(package: &Path, release: &str) -> Vec<PathBuf> {
    let Some(name) = package.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let Some((_, suffix)) = name.rsplit_once('.') else { return Vec::new() };
    let folder = match package.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let related = entries.filter_map(|entry| {
        let other = entry.file_name().into_string().ok()?;
        let is_related = other != name
            && other.ends_with(&format!(".{suffix}"))
            && is_of(&other, release)
            && build(&other) == build(name);
        let metadata = fs::metadata(entry.path()).ok()?;
        (is_related && metadata.is_file()).then(|| (metadata.len(), package.with_file_name(other)))
    });
    let mut related: Vec<_> = related.collect();
    related.sort();
    related.truncate(MAX_SIBLINGS);
    related.into_iter().map(|(_, path)| path).collect()
}

/// Whether a package of this name is a part of the kernel `release`:
/// `linux-modules-RELEASE_VERSION`, `kernel-modules-RELEASE.rpm`. Of a kernel that is another flavour
/// of its version, `VERSION+FLAVOUR`, RPM's packages have the flavour in front:
/// `kernel-FLAVOUR-modules-VERSION.rpm`.
fn is_of(name: &str, release: &str) -> bool {
    let (version, flavour) = match release.split_once('+') {
        Some((version, flavour)) if name.ends_with(".rpm") => (version, flavour),
        _ => (release, ""),
    };
    let Some((before, after)) = name.split_once(version) else { return false };
    let is_whole = before.ends_with('-') && after.starts_with(['_', '.']);
    let is_flavour = flavour.is_empty() || before.contains(&format!("-{flavour}-"));
    is_whole && is_flavour && !before.split('-').any(|word| OTHERS.contains(&word))
}

/// Version and architecture in a name of Debian, `PACKAGE_VERSION_ARCHITECTURE.deb`: two builds may
/// have one release.
fn build(name: &str) -> Option<&str> {
    name.split_once('_').filter(|_| name.ends_with(".deb")).map(|(_, build)| build)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    fn found(files: &[&str], package: &str, release: &str) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|file| (*file, &"longer"[..file.len() % 7])).collect();
        let folder = tree(&files);
        let mut found: Vec<_> = siblings(&folder.path().join(package), release)
            .into_iter()
            .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        found.sort();
        found
    }

    #[test]
    fn parts_of_one_build_are_found() {
        let debian = [
            "linux-binary-7.3-amd64_7.3-1_amd64.deb",
            "linux-modules-7.3-amd64_7.3-1_amd64.deb",
            "linux-base-7.3-amd64_7.3-1_amd64.deb",
            // Of another build, another flavour, without modules, no package.
            "linux-modules-7.3-amd64_7.3-2_amd64.deb",
            "linux-modules-7.3-amd64-cloud_7.3-1_amd64.deb",
            "linux-modules-17.3-amd64_7.3-1_amd64.deb",
            "linux-headers-7.3-amd64_7.3-1_amd64.deb",
            "linux-modules-7.3-amd64_7.3-1_amd64.deb.part",
        ];
        let parts = found(&debian, debian[0], "7.3-amd64");
        assert_eq!(parts, [debian[2], debian[1]]);
        let fedora = [
            "kernel-core-6.17.1-300.fc43.x86_64.rpm",
            "kernel-modules-6.17.1-300.fc43.x86_64.rpm",
            "kernel-modules-core-6.17.1-300.fc43.x86_64.rpm",
            "kernel-devel-6.17.1-300.fc43.x86_64.rpm",
            "kernel-modules-6.17.2-300.fc43.x86_64.rpm",
        ];
        let parts = found(&fedora, fedora[0], "6.17.1-300.fc43.x86_64");
        assert_eq!(parts, [fedora[1], fedora[2]]);
        assert_eq!(found(&debian, "none", "7.3-amd64"), [""; 0]);
    }

    #[test]
    fn flavours_of_rpm_are_in_front() {
        let core = "kernel-rt-core-5.14.0-503.el9.x86_64.rpm";
        let files = [
            core,
            "kernel-rt-modules-core-5.14.0-503.el9.x86_64.rpm",
            "kernel-rt-modules-5.14.0-503.el9.x86_64.rpm",
            // Of the plain kernel, of another version, of no module.
            "kernel-modules-5.14.0-503.el9.x86_64.rpm",
            "kernel-rt-modules-5.14.0-504.el9.x86_64.rpm",
            "kernel-rt-devel-5.14.0-503.el9.x86_64.rpm",
        ];
        let parts = found(&files, core, "5.14.0-503.el9.x86_64+rt");
        assert_eq!(parts, [files[2], files[1]]);
        let debug = ["kernel-debug-core-6.1-1.rpm", "kernel-debug-modules-6.1-1.rpm"];
        assert_eq!(found(&debug, debug[0], "6.1-1+debug"), [debug[1]]);
        // In Debian's names it stands where it is in the release.
        let debian = ["a-6.12.9+deb13-amd64_1_amd64.deb", "b-6.12.9+deb13-amd64_1_amd64.deb"];
        assert_eq!(found(&debian, debian[0], "6.12.9+deb13-amd64"), [debian[1]]);
    }

    #[test]
    fn small_ones_come_first() {
        let folder = tree(&[("a-1_1.deb", ""), ("b-1_1.deb", "xx"), ("c-1_1.deb", "x")]);
        let found = siblings(&folder.path().join("a-1_1.deb"), "1");
        assert_eq!(found, ["c-1_1.deb", "b-1_1.deb"].map(|name| folder.path().join(name)));
    }
}
