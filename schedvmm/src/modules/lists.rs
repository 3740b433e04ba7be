// SPDX-License-Identifier: Apache-2.0
//! Which drivers are in a kernel, and which beside it, by the lists that its build makes.
//!
//! Source: Linux Documentation/kbuild/kbuild.rst, "modules.order", "modules.builtin".

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::ModulesError;
use crate::kernel_files::{BUILTIN, MAX_LIST_BYTES, ORDER, module_name};
use crate::plain_file;

/// The same, as depmod lists them, with what each depends on.
const DEP: &str = "modules.dep";

/// What is told of a kernel's modules. Where there is no list, that part is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Where it was found.
    pub place: String,
    builtin: Option<BTreeSet<String>>,
    /// With their paths, without what the names of their files end in.
    loadable: Option<BTreeMap<String, String>>,
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
    /// Nobody lists what is in the kernel, either.
    NotTold,
}

impl Lists {
    /// From the texts of these files, where there are any.
    pub fn new(place: String, builtin: Option<&str>, loadable: Option<&str>) -> Self {
        Self {
            place,
            builtin: builtin.map(|text| text.lines().filter_map(self::path).map(name).collect()),
            loadable: loadable.map(|text| {
                text.lines()
                    .filter_map(|line| path(line).map(|path| (name(path), path.to_owned())))
                    .collect()
            }),
        }
    }

    /// Those in a folder.
    ///
    /// # Errors
    /// One is there and cannot be read: without it a driver would be taken for what it is not.
    pub fn read(folder: &Path) -> Result<Self, ModulesError> {
        let builtin = list_text(&folder.join(BUILTIN))?;
        let loadable = [list_text(&folder.join(ORDER))?, list_text(&folder.join(DEP))?];
        let loadable: Vec<_> = loadable.into_iter().flatten().collect();
        let loadable = (!loadable.is_empty()).then(|| loadable.join("\n"));
        Ok(Self::new(folder.display().to_string(), builtin.as_deref(), loadable.as_deref()))
    }

    /// These, and where one of them is missing that of `other`.
    pub fn or(self, other: &Self) -> Self {
        let place = if self.is_empty() { other.place.clone() } else { self.place };
        Self {
            place,
            builtin: self.builtin.or_else(|| other.builtin.clone()),
            loadable: self.loadable.or_else(|| other.loadable.clone()),
        }
    }

    /// True if there is no list at all.
    pub fn is_empty(&self) -> bool {
        self.builtin.is_none() && self.loadable.is_none()
    }

    /// True if what is built in is listed.
    pub fn tell_builtin(&self) -> bool {
        self.builtin.is_some()
    }

    /// What the driver of this module is, named with underscores.
    pub fn driver(&self, module: &str) -> Driver {
        let is_builtin = self.builtin.as_ref().map(|builtin| builtin.contains(module));
        match (is_builtin, &self.loadable) {
            (Some(true), _) => Driver::BuiltIn,
            (_, Some(loadable)) if loadable.contains_key(module) => Driver::Module,
            (Some(false), Some(_)) => Driver::Absent,
            (Some(false), None) => Driver::NotBuiltIn,
            (None, _) => Driver::NotTold,
        }
    }

    /// Where the file of this module is listed, from the lists' folder on and up to the first dot
    /// of its name; `None` where no list has it.
    pub fn path(&self, module: &str) -> Option<&str> {
        self.loadable.as_ref()?.get(module).map(String::as_str)
    }

    /// True if modules are listed, and this one is not among them.
    pub fn deny(&self, module: &str) -> bool {
        self.loadable.as_ref().is_some_and(|loadable| !loadable.contains_key(module))
    }
}

/// What is to be said of lists in `place` that have these drivers built in, of which the image has
/// none.
pub fn belied(place: &str, drivers: &str) -> String {
    format!(
        "the lists in {place} have {drivers} built in, and this kernel has not: they are of another \
         build, and so may be the modules"
    )
}

fn list_text(path: &Path) -> Result<Option<String>, ModulesError> {
    match plain_file::read_text(path, MAX_LIST_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ModulesError::List { path: path.to_owned(), source }),
    }
}

/// The path in a line such as `kernel/arch/x86/kvm/kvm-intel.ko.xz: …`, or
/// `arch/x86/kvm/kvm-intel.o` in a build tree, without what the name of the file ends in.
fn path(line: &str) -> Option<&str> {
    let path = line.split([':', ' ']).next()?;
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let end = path[name..].find(".ko").or_else(|| path[name..].find(".o"))?;
    Some(&path[..name + end])
}

/// The name of the module at this path.
fn name(path: &str) -> String {
    module_name(path.rsplit('/').next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "kernel/drivers/virtio/virtio_mmio.ko\nkernel/drivers/tty/hvc/hvc-x.ko\n";

    #[test]
    fn drivers_are_found_by_their_modules_names() {
        let lists = |builtin, loadable| Lists::new("here".into(), builtin, loadable);
        let all = lists(Some(LISTED), Some("arch/x86/kvm/kvm-intel.o\n"));
        assert_eq!(all.driver("virtio_mmio"), Driver::BuiltIn);
        assert_eq!(all.driver("hvc_x"), Driver::BuiltIn);
        assert_eq!(all.driver("kvm_intel"), Driver::Module);
        assert_eq!(all.driver("kvm"), Driver::Absent);
        assert_eq!(all.path("kvm_intel"), Some("arch/x86/kvm/kvm-intel"));
        assert!(all.deny("kvm") && !all.deny("kvm_intel"));
        let builtin = lists(Some(LISTED), None);
        assert_eq!(builtin.driver("kvm"), Driver::NotBuiltIn);
        assert!(!builtin.deny("kvm"));
        let dep = "kernel/arch/x86/kvm/kvm-amd.ko.xz: kernel/arch/x86/kvm/kvm.ko.xz\n";
        let dep = lists(None, Some(dep));
        assert_eq!(dep.driver("kvm_amd"), Driver::Module);
        assert_eq!(dep.driver("kvm"), Driver::NotTold);
        // Each list where it is found first.
        let both = builtin.clone().or(&dep);
        assert_eq!(both.driver("hvc_x"), Driver::BuiltIn);
        assert_eq!(both.driver("kvm_amd"), Driver::Module);
    }
}
