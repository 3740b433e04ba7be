// SPDX-License-Identifier: Apache-2.0
//! The kernel in a folder: a build tree, a folder that a package was unpacked into, a root file
//! system, /boot, or just a folder with a kernel in it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vmm::x86_64::magic::MAX_IMAGE_BYTES;

use super::KernelFileError;
use crate::{package, plain_file};

/// Where a build leaves it. The second is a link to the first.
const BUILT: [&str; 2] = ["arch/x86/boot/bzImage", "arch/x86_64/boot/bzImage"];
/// Its names in a folder of its own.
const PLAIN: [&str; 3] = ["bzImage", "vmlinuz", "vmlinux"];
/// Folders with kernels by release, in a root file system and in itself.
const BY_RELEASE: [&str; 4] = ["boot", "usr/lib/modules", "lib/modules", ""];

/// The kernel in `folder`.
///
/// # Errors
/// There is none, or there are several.
pub fn kernel(folder: &Path) -> Result<PathBuf, KernelFileError> {
    if let Some(path) = first_file(&BUILT, folder) {
        return Ok(path);
    }
    if is_build_tree(folder) {
        let barred = out_of_sight(&BUILT, folder);
        return Err(barred.unwrap_or_else(|| KernelFileError::NotBuilt(folder.to_owned())));
    }
    if let Some(path) = first_file(&PLAIN, folder) {
        return Ok(path);
    }
    let mut found = by_release(folder);
    if found.len() > 1 {
        found = of_one_content_each(readable(found));
    }
    match found.len() {
        0 => Err(out_of_sight(&BUILT, folder)
            .or_else(|| out_of_sight(&PLAIN, folder))
            .or_else(|| unlisted(folder))
            .unwrap_or_else(|| none(folder))),
        1 => Ok(found.remove(0).1),
        _ => {
            let names: Vec<_> = found.iter().map(|(_, path)| path.display().to_string()).collect();
            let kernels = names.join(", ");
            Err(KernelFileError::Several { path: folder.to_owned(), kernels })
        }
    }
}

fn first_file(names: &[&str], folder: &Path) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// True if kernels are built there.
fn is_build_tree(folder: &Path) -> bool {
    // A home has a folder of the name .config.
    folder.join(".config").is_file()
        || folder.join("include/config/auto.conf").is_file()
        || (folder.join("Kconfig").is_file() && folder.join("Makefile").is_file())
}

/// Why there may be one of these files all the same: the first folder that this user may not look
/// into.
fn out_of_sight(names: &[&str], folder: &Path) -> Option<KernelFileError> {
    names.iter().find_map(|name| super::barred(&folder.join(name)))
}

/// The same of kernels by their releases.
fn unlisted(folder: &Path) -> Option<KernelFileError> {
    BY_RELEASE.iter().find_map(|place| {
        let place = folder.join(place);
        super::barred(&place.join(package::KERNEL)).or_else(|| unlisted_names(&place))
    })
}

/// A folder whose names cannot be read, or one in it that cannot be looked into.
fn unlisted_names(place: &Path) -> Option<KernelFileError> {
    match fs::read_dir(place) {
        Ok(entries) => {
            entries.flatten().find_map(|entry| super::barred(&entry.path().join(package::KERNEL)))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mode = super::mode(place)?;
            let kernel = place.join("KERNEL");
            Some(KernelFileError::FolderMode { path: place.to_owned(), kernel, mode })
        }
        Err(_) => None,
    }
}

/// There is none; there may be packages with one.
fn none(folder: &Path) -> KernelFileError {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut packages = entries.filter(|entry| package::is_name(&entry.file_name()));
    match packages.next() {
        Some(_) => KernelFileError::Packages(folder.to_owned()),
        None => KernelFileError::Folder(folder.to_owned()),
    }
}

/// Without those that this user may not read, where another place of their release has one: some
/// distributions keep the one of /boot from users other than root.
fn readable(found: Vec<(String, PathBuf)>) -> Vec<(String, PathBuf)> {
    let opens: Vec<_> = found.iter().map(|(_, path)| plain_file::open(path).is_ok()).collect();
    let releases: BTreeSet<_> = found
        .iter()
        .zip(&opens)
        .filter(|(_, opens)| **opens)
        .map(|((it, _), _)| it.clone())
        .collect();
    let kept = found.into_iter().zip(opens);
    kept.filter(|((release, _), opens)| *opens || !releases.contains(release))
        .map(|(found, _)| found)
        .collect()
}

/// Of kernels that are the same to the byte, whatever their names say, the first. One release is not
/// enough: the build before it may lie beside it.
fn of_one_content_each(found: Vec<(String, PathBuf)>) -> Vec<(String, PathBuf)> {
    let mut kept: Vec<(String, PathBuf)> = Vec::new();
    for one in found {
        // Two that differ are enough to ask which one is meant.
        if kept.len() > 1 || !kept.iter().any(|other| is_same(&other.1, &one.1)) {
            kept.push(one);
        }
    }
    kept
}

/// Their lengths tell nearly always.
fn is_same(one: &Path, other: &Path) -> bool {
    let (Ok(a), Ok(b)) = (fs::metadata(one), fs::metadata(other)) else { return false };
    // Of one file a user need not be able to read what is in it.
    (a.dev(), a.ino()) == (b.dev(), b.ino())
        || a.len() == b.len() && a.len() > 0 && have_same_content(one, other).unwrap_or(false)
}

/// Whether two files of one length are the same, read side by side up to where they differ.
fn have_same_content(one: &Path, other: &Path) -> io::Result<bool> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut files = [plain_file::open(one)?, plain_file::open(other)?];
    for _ in 0..MAX_IMAGE_BYTES / PIECE_BYTES {
        let mut pieces = [Vec::new(), Vec::new()];
        for (file, piece) in files.iter_mut().zip(&mut pieces) {
            file.take(PIECE_BYTES).read_to_end(piece)?;
        }
        if pieces[0] != pieces[1] || pieces[0].is_empty() {
            return Ok(pieces[0] == pieces[1]);
        }
    }
    // More than any kernel has.
    Ok(false)
}

/// The build tree whose bzImage, or vmlinux, this is, or what the link leads to.
pub fn tree_of(kernel: &Path) -> Option<PathBuf> {
    tree_around(kernel).or_else(|| tree_around(&kernel.canonicalize().ok()?))
}

fn tree_around(kernel: &Path) -> Option<PathBuf> {
    let folder = kernel.parent().unwrap_or(Path::new(""));
    let built = BUILT.iter().find_map(|built| {
        // Three folders up: arch/x86/boot.
        kernel.ends_with(built).then(|| folder.join("../../.."))
    });
    built.into_iter().chain([folder.to_owned()]).find(|tree| is_build_tree(tree))
}

/// The root of the file system, or of the unpacked package, that `kernel` has its usual place in,
/// and the release that the place is for.
pub fn package_root(kernel: &Path) -> Option<(PathBuf, String)> {
    let folder = kernel.parent()?;
    let name = kernel.file_name()?.to_str()?;
    if let Some(release) = name.strip_prefix("vmlinuz-") {
        let root = folder.parent().filter(|_| last_name(folder).as_deref() == Some("boot"))?;
        return Some((root.to_owned(), release.to_owned()));
    }
    let release = last_name(folder)?;
    let root = folder.ancestors().find_map(|above| {
        let ends = above.ends_with("lib/modules");
        let lib = above.parent().and_then(Path::parent).filter(|_| ends)?;
        Some(if lib.ends_with("usr") { lib.parent()?.to_owned() } else { lib.to_owned() })
    })?;
    Some((root, release))
}

fn last_name(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

/// What is wrong with the age of a kernel in a build tree.
pub fn staleness(kernel: &Path) -> Option<String> {
    let vmlinux = tree_of(kernel)?.join("vmlinux");
    (modified(&vmlinux)? > modified(kernel)?).then(|| {
        format!(
            "{} is older than the tree's vmlinux: `make bzImage` brings it up to date",
            kernel.display()
        )
    })
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|it| it.modified()).ok()
}

/// Kernels with the releases of their names.
fn by_release(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for place in BY_RELEASE {
        let place = folder.join(place);
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort_unstable();
        for name in names {
            let name = name.to_string_lossy();
            let (release, path) = match name.strip_prefix("vmlinuz-") {
                Some(release) => (release, place.join(&*name)),
                None => (&*name, place.join(&*name).join(package::KERNEL)),
            };
            if path.is_file() {
                found.push((release.to_owned(), path));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::testing::{made, tree};

    /// The file that is taken from a folder, as it is named there, or why none is.
    fn taken(files: &[&str]) -> Result<String, String> {
        let files: Vec<_> = files.iter().map(|file| (*file, *file)).collect();
        let root = tree(&files);
        let path = kernel(root.path()).map_err(|error| error.to_string())?;
        Ok(path.strip_prefix(root.path()).expect("in it").display().to_string())
    }

    #[test]
    fn a_build_tree_has_its_bzimage() {
        let built = [".config", "Makefile", "Kconfig", "vmlinux", BUILT[0], "boot/vmlinuz-1"];
        assert_eq!(taken(&built).as_deref(), Ok(BUILT[0]));
        for tree in [&[".config", "vmlinux"][..], &["Kconfig", "Makefile"]] {
            let error = taken(tree).expect_err("not built");
            assert!(error.contains("build tree without a bzImage: run `make bzImage`"), "{error}");
        }
    }

    #[test]
    fn a_folder_of_its_own_has_one_kernel() {
        assert_eq!(taken(&["vmlinux", "bzImage", "config"]).as_deref(), Ok("bzImage"));
        assert_eq!(taken(&["vmlinuz", "modules.builtin"]).as_deref(), Ok("vmlinuz"));
        let error = taken(&["notes.txt"]).expect_err("no kernel");
        assert!(error.contains("is a folder: give the bzImage"), "{error}");
    }

    #[test]
    fn an_unpacked_package_has_its_kernel_by_release() {
        let debian = ["boot/vmlinuz-6.1.0-56", "boot/config-6.1.0-56", "lib/modules/6.1.0-56/x"];
        assert_eq!(taken(&debian).as_deref(), Ok("boot/vmlinuz-6.1.0-56"));
        let merged = "usr/lib/modules/7.3/vmlinuz";
        assert_eq!(taken(&[merged, "usr/lib/modules/7.3/config"]).as_deref(), Ok(merged));
        assert_eq!(taken(&["lib/modules/5.14/vmlinuz"]).as_deref(), Ok("lib/modules/5.14/vmlinuz"));
        // As /boot itself.
        assert_eq!(taken(&["vmlinuz-6.12", "initrd.img-6.12"]).as_deref(), Ok("vmlinuz-6.12"));
    }

    /// Of one file by two ways, as where /lib is a link to usr/lib, too.
    #[test]
    fn copies_of_one_release_are_one_and_two_builds_of_it_are_two() {
        let (boot, installed) = ("boot/vmlinuz-6.17", "usr/lib/modules/6.17/vmlinuz");
        let root = tree(&[(boot, "one"), (installed, "one")]);
        std::os::unix::fs::symlink("usr/lib", root.path().join("lib")).expect("linked");
        assert_eq!(kernel(root.path()).expect("one"), root.path().join(boot));
        fs::write(root.path().join(installed), "two").expect("written");
        let error = kernel(root.path()).expect_err("two builds").to_string();
        assert!(error.contains("several kernels: ") && error.contains(installed), "{error}");
    }

    #[test]
    fn a_home_with_a_kernel_in_it_is_no_build_tree() {
        let root = tree(&[(".config/user-dirs.dirs", ""), ("bzImage", "")]);
        assert_eq!(kernel(root.path()).expect("one"), root.path().join("bzImage"));
    }

    #[test]
    fn of_a_folder_of_packages_one_is_to_be_named() {
        for package in ["linux-image-6.12_1_amd64.deb", "kernel-core-6.12.rpm"] {
            let error = taken(&[package, "notes.txt"]).expect_err("a package");
            assert!(error.contains("is a folder of packages: name the one"), "{error}");
        }
    }

    #[test]
    fn copies_of_one_kernel_under_two_names_are_one() {
        let root = tree(&[("boot/vmlinuz-linux", ""), ("usr/lib/modules/7.2.1-arch1/vmlinuz", "")]);
        let put = |path: &str, release: &str, text: &str| {
            fs::write(root.path().join(path), made::vmlinux(release, text)).expect("written");
        };
        put("usr/lib/modules/7.2.1-arch1/vmlinuz", "7.2.1-arch1", "one");
        put("boot/vmlinuz-linux", "7.2.1-arch1", "one");
        let taken = kernel(root.path()).expect("one kernel");
        assert_eq!(taken, root.path().join("boot/vmlinuz-linux"));
        // Another build of one release.
        put("boot/vmlinuz-linux", "7.2.1-arch1", "two");
        let error = kernel(root.path()).expect_err("two").to_string();
        assert!(error.contains("several kernels") && error.contains("vmlinuz-linux"), "{error}");
    }

    #[test]
    fn several_kernels_are_named() {
        let files = ["boot/vmlinuz-6.12", "boot/vmlinuz-6.1", "usr/lib/modules/7.3/vmlinuz"];
        let error = taken(&files).expect_err("three");
        assert!(error.contains("has several kernels: "), "{error}");
        assert!(files.iter().all(|file| error.contains(file)), "{error}");
    }

    #[test]
    fn a_usual_place_tells_root_and_release() {
        let root = |path: &str| {
            package_root(Path::new(path)).map(|(root, it)| (root.display().to_string(), it))
        };
        let is = |root: &str, release: &str| Some((root.to_owned(), release.to_owned()));
        assert_eq!(root("/d/boot/vmlinuz-6.1"), is("/d", "6.1"));
        assert_eq!(root("/boot/vmlinuz-6.1"), is("/", "6.1"));
        assert_eq!(root("/d/usr/lib/modules/7.2/vmlinuz"), is("/d", "7.2"));
        assert_eq!(root("d/lib/modules/7.2/vmlinuz"), is("d", "7.2"));
        for other in ["/d/vmlinuz-6.1", "bzImage", "/d/modules/7/vmlinuz"] {
            assert_eq!(root(other), None, "{other}");
        }
    }

    #[test]
    fn an_old_bzimage_is_told() {
        let root = tree(&[(".config", ""), ("vmlinux", ""), (BUILT[0], "")]);
        let image = root.path().join(BUILT[0]);
        let age = |path: &Path, seconds: u64| {
            let file = fs::File::options().write(true).open(path).expect("opened");
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("set");
        };
        age(&image, 60);
        assert!(staleness(&image).expect("older").contains("make bzImage"));
        age(&root.path().join("vmlinux"), 90);
        assert_eq!(staleness(&image), None);
        assert_eq!(staleness(&root.path().join("vmlinux")), None);
    }
}
