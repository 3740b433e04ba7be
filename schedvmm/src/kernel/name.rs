// SPDX-License-Identifier: Apache-2.0
//! Names for kernels: a file, a folder with one in it, the release of an installed one, `running`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{KernelFileError, barred, denied, folder};
use crate::plain_file;

/// The kernel that runs here.
const RUNNING: &str = "running";
const OSRELEASE: &str = "proc/sys/kernel/osrelease";

/// Whether this is no path, but `running` or a release such as `6.12.9-amd64`. A file or a folder
/// of that name goes before it.
pub fn is_bare_name(named: &Path) -> bool {
    let mut components = named.components();
    let (Some(Component::Normal(word)), None) = (components.next(), components.next()) else {
        return false;
    };
    let word = word.to_string_lossy();
    // `./6.12` is a path.
    named.as_os_str() == &*word
        && (word == RUNNING || word.starts_with(|c: char| c.is_ascii_digit()))
}

/// The file that `named` means, on a machine that has its files below `root`.
///
/// # Errors
/// There is none, or there are several.
pub fn file(root: &Path, named: &Path) -> Result<PathBuf, KernelFileError> {
    match fs::metadata(named) {
        Ok(metadata) if metadata.is_dir() => folder::kernel(named),
        Ok(_) => Ok(named.to_owned()),
        Err(_) if is_bare_name(named) => installed(root, &named.to_string_lossy()),
        Err(error) => Err(denied(named, error)),
    }
}

/// An installed kernel, by its release.
fn installed(root: &Path, name: &str) -> Result<PathBuf, KernelFileError> {
    let version = if name == RUNNING {
        let path = root.join(OSRELEASE);
        let read = fs::read_to_string(&path);
        read.map_err(|source| KernelFileError::Read { path, source })?.trim().to_owned()
    } else {
        name.to_owned()
    };
    let places = [
        root.join(format!("boot/vmlinuz-{version}")),
        root.join(format!("usr/lib/modules/{version}/vmlinuz")),
        root.join(format!("lib/modules/{version}/vmlinuz")),
    ];
    // Some distributions keep the one of /boot from users other than root.
    let opens = places.iter().find(|path| plain_file::open(path).is_ok());
    opens.or(places.iter().find(|path| path.is_file())).cloned().ok_or_else(|| {
        if let Some(barred) = places.iter().find_map(|path| barred(path)) {
            return barred;
        }
        let looked: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        KernelFileError::NotInstalled { version, looked: looked.join(", ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    #[test]
    fn releases_are_told_from_paths() {
        for name in ["running", "6.12", "6.1.0-56-cloud-amd64", "7"] {
            assert!(is_bare_name(Path::new(name)), "{name}");
        }
        for path in ["bzImage", "./running", "./6.12", "boot/6.12", "/6.12", ".", "..", "vmlinuz-6"]
        {
            assert!(!is_bare_name(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn an_installed_kernel_has_one_of_three_places() {
        let root = tree(&[
            ("proc/sys/kernel/osrelease", "6.12.9-amd64\n"),
            ("boot/vmlinuz-6.12.9-amd64", "a"),
            ("usr/lib/modules/6.12.9-amd64/vmlinuz", "b"),
            ("usr/lib/modules/7.2.1-arch1/vmlinuz", "c"),
            ("lib/modules/5.14.0/vmlinuz", "d"),
            ("lib/modules/6.6.0/kernel/nothing.ko", ""),
        ]);
        let text = |name: &str| {
            let path = file(root.path(), Path::new(name)).map_err(|error| error.to_string())?;
            fs::read_to_string(path).map_err(|error| error.to_string())
        };
        let found = ["running", "6.12.9-amd64", "7.2.1-arch1", "5.14.0"].map(text);
        assert_eq!(found, ["a", "a", "c", "d"].map(|text| Ok(text.to_owned())));
        let error = text("6.6.0").expect_err("modules only");
        assert!(error.contains("no kernel 6.6.0 is installed here"), "{error}");
        assert!(error.contains("boot/vmlinuz-6.6.0, "), "{error}");
        // A container has no kernel of its own, and knows which one runs.
        fs::remove_dir_all(root.path().join("boot")).expect("removed");
        fs::remove_dir_all(root.path().join("usr")).expect("removed");
        let error = text("running").expect_err("none");
        assert!(error.contains("no kernel 6.12.9-amd64"), "{error}");
    }
}
