// SPDX-License-Identifier: Apache-2.0
//! Which drivers are in a kernel, and which beside it.
//!
//! Source: Linux Documentation/kbuild/kbuild.rst, "modules.order", "modules.builtin".

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::folder;

/// Drivers that are built in.
pub const BUILTIN: &str = "modules.builtin";
/// Drivers that are modules, as the build lists them.
pub const ORDER: &str = "modules.order";
/// The same, as depmod lists them, with what each depends on.
const DEP: &str = "modules.dep";

/// What is told of a kernel's modules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// Where it was found.
    pub place: String,
    builtin: HashSet<String>,
    loadable: Option<HashSet<String>>,
}

/// What a driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// In the kernel.
    BuiltIn,
    /// A file beside it.
    Module,
    /// Neither.
    Absent,
    /// Not in the kernel, and nobody lists the modules.
    NotBuiltIn,
}

impl Modules {
    /// From the texts of these files; those of modules where there are any.
    pub fn new(place: String, builtin: &str, loadable: Option<&str>) -> Self {
        let all = |text: &str| text.lines().filter_map(module).collect();
        Self { place, builtin: all(builtin), loadable: loadable.map(all) }
    }

    /// What the driver of this module is, named with underscores.
    pub fn driver(&self, module: &str) -> Driver {
        match &self.loadable {
            _ if self.builtin.contains(module) => Driver::BuiltIn,
            Some(loadable) if loadable.contains(module) => Driver::Module,
            Some(_) => Driver::Absent,
            None => Driver::NotBuiltIn,
        }
    }

    /// From a folder with these files.
    fn read(folder: &Path) -> Option<Self> {
        let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let lists: Vec<_> = [ORDER, DEP].into_iter().filter_map(text).collect();
        let loadable = (!lists.is_empty()).then(|| lists.join("\n"));
        Some(Self::new(folder.display().to_string(), &text(BUILTIN)?, loadable.as_deref()))
    }
}

/// The name of the module in a line such as `kernel/arch/x86/kvm/kvm-intel.ko.xz: …`, or
/// `arch/x86/kvm/kvm-intel.o` in a build tree.
fn module(line: &str) -> Option<String> {
    let path = line.split([':', ' ']).next()?;
    let name = path.rsplit('/').next()?;
    let stem = name.split_once(".ko").or_else(|| name.split_once(".o"))?.0;
    Some(stem.replace('-', "_"))
}

/// The root of the file system, or of the unpacked package, that `kernel` has its usual place in,
/// and the release that the place is for.
pub fn package_root(kernel: &Path) -> Option<(PathBuf, String)> {
    let folder = kernel.parent()?;
    let name = kernel.file_name()?.to_str()?;
    let last = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    if let Some(release) = name.strip_prefix("vmlinuz-") {
        let root = folder.parent().filter(|_| last(folder).as_deref() == Some("boot"))?;
        return Some((root.to_owned(), release.to_owned()));
    }
    let release = last(folder)?;
    let root = folder.ancestors().find_map(|above| {
        let ends = above.ends_with("lib/modules");
        let lib = above.parent().and_then(Path::parent).filter(|_| ends)?;
        Some(if lib.ends_with("usr") { lib.parent()?.to_owned() } else { lib.to_owned() })
    })?;
    Some((root, release))
}

/// What is told of modules beside `kernel`, on a machine that has its files below `root`.
pub fn beside(root: &Path, kernel: &Path, release: Option<&str>) -> Option<Modules> {
    let mut places: Vec<_> = folder::tree_of(kernel).into_iter().collect();
    places.extend(kernel.parent().map(Path::to_owned));
    let package = package_root(kernel);
    let installed = |root: &Path, release: &str| {
        ["usr/lib/modules", "lib/modules"].map(|it| root.join(it).join(release))
    };
    places.extend(package.iter().flat_map(|(root, release)| installed(root, release)));
    places.extend(release.into_iter().flat_map(|release| installed(root, release)));
    places.iter().find_map(|place| Modules::read(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    const LISTED: &str = "kernel/drivers/virtio/virtio_mmio.ko\nkernel/drivers/tty/hvc/hvc-x.ko\n";

    #[test]
    fn drivers_are_found_by_their_modules_names() {
        let all = Modules::new("here".into(), LISTED, Some("arch/x86/kvm/kvm-intel.o\n"));
        assert_eq!(all.driver("virtio_mmio"), Driver::BuiltIn);
        assert_eq!(all.driver("hvc_x"), Driver::BuiltIn);
        assert_eq!(all.driver("kvm_intel"), Driver::Module);
        assert_eq!(all.driver("kvm"), Driver::Absent);
        let builtin = Modules::new("here".into(), LISTED, None);
        assert_eq!(builtin.driver("kvm"), Driver::NotBuiltIn);
        let dep = "kernel/arch/x86/kvm/kvm-amd.ko.xz: kernel/arch/x86/kvm/kvm.ko.xz\n";
        let dep = Modules::new("here".into(), "", Some(dep));
        assert_eq!(dep.driver("kvm_amd"), Driver::Module);
    }

    #[test]
    fn lists_lie_in_the_tree_beside_the_kernel_or_in_the_package() {
        let place = |files: &[(&str, &str)], kernel: &str, release: Option<&str>| {
            let (here, root) = (tree(files), tree(&[("lib/modules/6.12.9/modules.builtin", "")]));
            let found = beside(root.path(), &here.path().join(kernel), release)?;
            let path = PathBuf::from(found.place).canonicalize().expect("a folder");
            let here = here.path().canonicalize().expect("a folder");
            Some(path.strip_prefix(here).map_or("installed".into(), |it| it.display().to_string()))
        };
        let image = "arch/x86/boot/bzImage";
        let built = [(".config", ""), (BUILTIN, LISTED), (image, "")];
        assert_eq!(place(&built, image, None).as_deref(), Some(""));
        let merged =
            [("usr/lib/modules/7.2/modules.builtin", ""), ("usr/lib/modules/7.2/vmlinuz", "")];
        let found = place(&merged, "usr/lib/modules/7.2/vmlinuz", None);
        assert_eq!(found.as_deref(), Some("usr/lib/modules/7.2"));
        let boot = [("lib/modules/6.1/modules.builtin", ""), ("boot/vmlinuz-6.1", "")];
        assert_eq!(place(&boot, "boot/vmlinuz-6.1", None).as_deref(), Some("lib/modules/6.1"));
        let alone = [("bzImage", "")];
        assert_eq!(place(&alone, "bzImage", Some("6.12.9")).as_deref(), Some("installed"));
        assert_eq!(place(&alone, "bzImage", None), None);
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
}
