// SPDX-License-Identifier: Apache-2.0
//! Configuration of a kernel, by a file beside it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmm::x86_64::lint;

use super::folder;
use crate::kernel_files::MAX_CONFIG_BYTES;
use crate::modules::Tree;
use crate::plain_file;

/// Where a configuration was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The image itself carries it.
    Image,
    /// A file.
    File(PathBuf),
    /// A file in the package of the kernel.
    Package(PathBuf, String),
    /// The module `configs`, in this file.
    Module(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("image (IKCONFIG)"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Package(path, member) => write!(f, "{}: {member}", path.display()),
            Self::Module(file) => write!(f, "{file} (IKCONFIG)"),
        }
    }
}

/// A kernel's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// `CONFIG_X` to its value.
    pub options: HashMap<String, String>,
    /// Where it was found.
    pub source: Source,
}

impl Configuration {
    /// Reads the text of a .config of a kernel of this release.
    ///
    /// # Errors
    /// It is none, or it says that it is for another version.
    pub fn parse(text: &str, source: Source, release: Option<&str>) -> Result<Self, String> {
        let options = lint::options(text);
        if options.is_empty() {
            return Err(format!("{source} has no CONFIG_ lines, and is left out"));
        }
        // What a fragment, or a defconfig, says nothing of is not off.
        if !options.contains_key("CONFIG_64BIT") {
            return Err(format!(
                "{source} is no whole configuration of a kernel for x86-64 (it has no \
                 CONFIG_64BIT=y), and is left out"
            ));
        }
        match (release.and_then(series), text.lines().take(8).find_map(of_header)) {
            (Some(kernel), Some(config)) if kernel != config => {
                Err(format!("{source} is for Linux {}.{}, and is left out", config.0, config.1))
            }
            _ => Ok(Self { options, source }),
        }
    }
}

impl Configuration {
    /// What an option is, named without `CONFIG_`; `None` where it is off.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.get(&format!("CONFIG_{name}")).map(String::as_str)
    }
}

/// Version and patch level of a release.
fn series(release: &str) -> Option<(u32, u32)> {
    let mut numbers =
        release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The same of the line that `conf` writes: `# Linux/x86 6.12.9 Kernel Configuration`.
fn of_header(line: &str) -> Option<(u32, u32)> {
    let rest = line.strip_prefix("# Linux/")?.strip_suffix(" Kernel Configuration")?;
    series(rest.split_once(' ')?.1)
}

/// The configuration in packages that have been read for the kernel's modules, or beside `kernel`,
/// on a machine that has its files below `root`; and what is to be said of files that looked like
/// it.
pub fn around<'a>(
    (root, kernel): (&Path, &Path),
    release: Option<&str>,
    trees: impl IntoIterator<Item = &'a Tree>,
) -> (Option<Configuration>, Vec<String>) {
    let mut notes = Vec::new();
    for (package, (member, text)) in trees.into_iter().filter_map(Tree::config) {
        let source = Source::Package(package, member.clone());
        match Configuration::parse(text, source, release) {
            Ok(config) => return (Some(config), notes),
            Err(why) => notes.push(why),
        }
    }
    let (config, more) = beside(root, kernel, release);
    notes.extend(more);
    (config, notes)
}

/// The configuration in a module of the kernel, where neither a file nor the image has one; and why
/// it cannot be had from a module that is there.
pub fn in_module(tree: &Tree, release: Option<&str>) -> (Option<Configuration>, Option<String>) {
    match tree.configs(release) {
        Ok(found) => {
            let found = found
                .map(|(file, options)| Configuration { options, source: Source::Module(file) });
            (found, None)
        }
        Err(error) => (None, Some(format!("no configuration is taken from a module: {error}"))),
    }
}

/// The configuration beside `kernel`, on a machine that has its files below `root`; and what is
/// to be said of files that looked like it.
fn beside(
    root: &Path,
    kernel: &Path,
    release: Option<&str>,
) -> (Option<Configuration>, Vec<String>) {
    let mut notes = Vec::new();
    let mut all = places(root, kernel, release);
    // The file that a link leads to has its configuration beside it, as well.
    for path in target(kernel).iter().flat_map(|target| places(root, target, release)) {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    for path in all {
        if path.is_dir() {
            continue;
        }
        let text = match plain_file::read_text(&path, MAX_CONFIG_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                notes.push(format!("{} is left out: {error}", path.display()));
                continue;
            }
        };
        match Configuration::parse(&text, Source::File(path.clone()), release) {
            Ok(config) => {
                notes.extend(newer(&path, kernel));
                return (Some(config), notes);
            }
            Err(why) => notes.push(why),
        }
    }
    (None, notes)
}

/// What `kernel` is a link to, if it is one.
fn target(kernel: &Path) -> Option<PathBuf> {
    fs::read_link(kernel).and_then(|_| kernel.canonicalize()).ok()
}

/// Where it may be: in the build tree, beside the file, in the package's other folders, and where
/// this machine keeps those of installed kernels.
fn places(root: &Path, kernel: &Path, release: Option<&str>) -> Vec<PathBuf> {
    let folder = kernel.parent().unwrap_or(Path::new(""));
    let mut places: Vec<_> =
        folder::tree_of(kernel).into_iter().map(|tree| tree.join(".config")).collect();
    let name = kernel.file_name().unwrap_or_default().to_string_lossy();
    let suffix = ["vmlinuz-", "vmlinux-", "bzImage-"].iter().find_map(|it| name.strip_prefix(it));
    places.extend(suffix.map(|suffix| folder.join(format!("config-{suffix}"))));
    if suffix.is_none() {
        places.push(folder.join("config"));
    }
    let package = folder::package_root(kernel);
    places.extend(package.iter().flat_map(|(root, release)| installed(root, release)));
    places.extend(release.into_iter().flat_map(|release| installed(root, release)));
    places
}

fn installed(root: &Path, release: &str) -> [PathBuf; 3] {
    [
        root.join(format!("boot/config-{release}")),
        root.join(format!("usr/lib/modules/{release}/config")),
        root.join(format!("lib/modules/{release}/config")),
    ]
}

/// A .config that was changed after the build may be that of the next one.
fn newer(config: &Path, kernel: &Path) -> Option<String> {
    let is_tree = config.file_name().is_some_and(|name| name == ".config");
    (is_tree && modified(config)? > modified(kernel)?).then(|| {
        format!(
            "{} is newer than {}, and may be of a build to come",
            config.display(),
            kernel.display()
        )
    })
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|it| it.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    const OURS: &str = "CONFIG_64BIT=y\nCONFIG_HZ=250\n";

    /// The configuration found for a file of a folder with these files, as it is named there.
    fn found(files: &[(&str, &str)], kernel: &str, release: Option<&str>) -> Option<String> {
        let (here, root) =
            (tree(files), tree(&[("boot/config-6.12.9", "CONFIG_64BIT=y\nCONFIG_HZ=1000\n")]));
        let (config, _) = beside(root.path(), &here.path().join(kernel), release);
        let Source::File(path) = config?.source else { panic!("no file") };
        let path = path.canonicalize().expect("a file");
        let here = here.path().canonicalize().expect("a folder");
        Some(path.strip_prefix(here).map_or("installed".into(), |it| it.display().to_string()))
    }

    #[test]
    fn each_kind_of_place_has_its_configuration() {
        let bzimage = "arch/x86/boot/bzImage";
        let tree = [(".config", OURS), (bzimage, ""), ("arch/x86/boot/config", "CONFIG_A=y")];
        assert_eq!(found(&tree, bzimage, None).as_deref(), Some(".config"));
        let boot = [("vmlinuz-6.1", ""), ("config-6.1", OURS), ("config-6.12", "CONFIG_A=y")];
        assert_eq!(found(&boot, "vmlinuz-6.1", None).as_deref(), Some("config-6.1"));
        let own = [("bzImage", ""), ("config", OURS)];
        assert_eq!(found(&own, "bzImage", None).as_deref(), Some("config"));
        // Of a package in three parts, unpacked into one folder.
        let parts = [("usr/lib/modules/7.1/vmlinuz", ""), ("boot/config-7.1", OURS)];
        let taken = found(&parts, "usr/lib/modules/7.1/vmlinuz", None);
        assert_eq!(taken.as_deref(), Some("boot/config-7.1"));
        let parts = [("boot/vmlinuz-7.1", ""), ("lib/modules/7.1/config", OURS)];
        let taken = found(&parts, "boot/vmlinuz-7.1", None);
        assert_eq!(taken.as_deref(), Some("lib/modules/7.1/config"));
    }

    #[test]
    fn a_link_to_the_kernel_has_the_configuration_of_that() {
        let here = tree(&[("boot/vmlinuz-6.1", ""), ("boot/config-6.1", OURS), ("d/config", OURS)]);
        let source = |link: &str| {
            let link = here.path().join(link);
            std::os::unix::fs::symlink(here.path().join("boot/vmlinuz-6.1"), &link)
                .expect("linked");
            let (config, _) = beside(Path::new("/none"), &link, None);
            let Source::File(path) = config.expect("one").source else { panic!("no file") };
            let here = here.path().canonicalize().expect("a folder");
            path.canonicalize().expect("a file").strip_prefix(here).expect("in it").to_owned()
        };
        assert_eq!(source("vmlinuz"), Path::new("boot/config-6.1"));
        // What lies beside the link was put there.
        assert_eq!(source("d/bzImage"), Path::new("d/config"));
    }

    #[test]
    fn an_installed_one_is_looked_for_last() {
        let alone = [("bzImage", "")];
        let installed = found(&alone, "bzImage", Some("6.12.9"));
        assert_eq!(installed.as_deref(), Some("installed"));
        assert_eq!(found(&alone, "bzImage", Some("6.12.8")), None);
        assert_eq!(found(&alone, "bzImage", None), None);
    }

    #[test]
    fn what_is_of_another_version_is_left_out_and_told() {
        let text = "#\n# Automatically generated file; DO NOT EDIT.\n\
                    # Linux/x86 6.12.9 Kernel Configuration\n#\nCONFIG_64BIT=y\n";
        let here = tree(&[("bzImage", ""), ("config", text)]);
        let beside = |release| beside(Path::new("/none"), &here.path().join("bzImage"), release);
        for release in [None, Some("6.12.9"), Some("6.12.0-56-amd64")] {
            let (config, notes) = beside(release);
            assert!(config.is_some() && notes.is_empty(), "{release:?}: {notes:?}");
        }
        let (config, notes) = beside(Some("7.3.0-rc7"));
        assert!(config.is_none() && notes[0].contains("is for Linux 6.12"), "{notes:?}");
        let part = Configuration::parse("CONFIG_HZ=250\n", Source::Image, None);
        assert!(part.expect_err("a fragment").contains("is no whole configuration"));
        let none = Configuration::parse("text\n", Source::Image, None).expect_err("no lines");
        assert!(none.contains("no CONFIG_ lines"), "{none}");
    }

    #[test]
    fn a_changed_configuration_is_told() {
        let here = tree(&[("arch/x86/boot/bzImage", ""), (".config", OURS)]);
        let image = here.path().join("arch/x86/boot/bzImage");
        let notes = || beside(Path::new("/none"), &image, None).1;
        let hour = std::time::Duration::from_secs(3600);
        let file = fs::File::options().write(true).open(&image).expect("opened");
        file.set_modified(std::time::SystemTime::now() - hour).expect("set");
        assert!(notes()[0].contains("may be of a build to come"), "{:?}", notes());
        file.set_modified(std::time::SystemTime::now() + hour).expect("set");
        assert!(notes().is_empty(), "{:?}", notes());
    }
}
