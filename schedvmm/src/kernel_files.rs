// SPDX-License-Identifier: Apache-2.0
//! What the files of a kernel are called and how large they may be, for whoever finds them: in
//! folders, in build trees or in packages.

/// No .config is larger; a bound for what is none.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// No module is larger: the largest of a distribution has some 10 MiB.
pub const MAX_MODULE_BYTES: u64 = 128 << 20;
/// No list of modules is larger: those of distributions have some hundred kilobytes.
pub const MAX_LIST_BYTES: u64 = 16 << 20;

/// Drivers that are built in (Documentation/kbuild/kbuild.rst).
pub const BUILTIN: &str = "modules.builtin";
/// Drivers that are modules, as the build lists them.
pub const ORDER: &str = "modules.order";
/// Suffixes of a module's file (scripts/Makefile.modinst).
pub const SUFFIXES: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// The module that a file is called after.
pub fn name_of(file: &str) -> Option<String> {
    let stem = SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix))?;
    Some(module_name(stem))
}

/// Names in files have dashes or underscores, names of loaded modules underscores.
pub fn module_name(name: &str) -> String {
    name.replace('-', "_")
}
