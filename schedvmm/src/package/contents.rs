// SPDX-License-Identifier: Apache-2.0
//! What a package has of a kernel, found in one reading of it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use vmm::x86_64::magic::MAX_IMAGE_BYTES;

use super::invalid;
use crate::kernel::MAX_CONFIG_BYTES;
use crate::modules::{self, BUILTIN, MAX_MODULE_BYTES, ORDER};

/// The kernel's name in a folder of its release.
pub const KERNEL: &str = "vmlinuz";
/// Modules whose bytes are kept have no more together; a bound for hostile packages.
const MAX_KEPT_BYTES: usize = 256 << 20;

/// A file of a kernel's package, by its path there; each with the kernel's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member<'a> {
    /// The kernel.
    Kernel(&'a str),
    /// Its configuration.
    Config(&'a str),
    /// The list of what is built in.
    Builtin(&'a str),
    /// The list of modules.
    Order(&'a str),
    /// A module, in a file of this name.
    Module(&'a str, &'a str),
}

impl<'a> Member<'a> {
    /// What is at `path`, from the root; `None` for what is of no use here.
    fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("usr/").unwrap_or(path);
        if let Some(name) = path.strip_prefix("boot/") {
            let kernel = name.strip_prefix("vmlinuz-").map(Self::Kernel);
            return kernel.or_else(|| name.strip_prefix("config-").map(Self::Config));
        }
        let (release, name) = path.strip_prefix("lib/modules/")?.split_once('/')?;
        match name {
            KERNEL => Some(Self::Kernel(release)),
            "config" => Some(Self::Config(release)),
            BUILTIN => Some(Self::Builtin(release)),
            ORDER => Some(Self::Order(release)),
            _ => {
                let file = name.rsplit('/').next()?;
                modules::name_of(file).map(|_| Self::Module(release, file))
            }
        }
    }
}

/// What was found in a package.
#[derive(Debug, Default)]
pub struct Contents {
    /// Release, path and bytes; bytes of the first one only.
    pub kernels: Vec<(String, String, Vec<u8>)>,
    /// What else there is of a kernel, by its release.
    pub releases: BTreeMap<String, Release>,
    /// How many files there are.
    files: usize,
    kept_bytes: usize,
}

/// What a package has of one kernel, beside the kernel.
#[derive(Debug, Default)]
pub struct Release {
    /// Path and text of the configuration.
    pub config: Option<(String, String)>,
    /// The list of what is built in.
    pub builtin: Option<String>,
    /// The list of modules.
    pub order: Option<String>,
    /// Modules that are there, by name, with their paths.
    pub modules: BTreeMap<String, String>,
    /// Bytes of some of them as they lie there.
    pub kept: BTreeMap<String, Vec<u8>>,
}

impl Contents {
    /// Looks at one regular file of the package.
    ///
    /// # Errors
    /// It cannot be read, or what is kept grows too large.
    pub fn take(
        &mut self,
        path: &str,
        file: &mut dyn Read,
        is_wanted: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        self.files += 1;
        match Member::of(path) {
            Some(Member::Kernel(release)) => {
                // One package has copies of one kernel.
                if self.kernels.iter().any(|(other, ..)| other == release) {
                    return Ok(());
                }
                let mut bytes = Vec::new();
                if self.kernels.is_empty() {
                    file.take(MAX_IMAGE_BYTES).read_to_end(&mut bytes)?;
                }
                self.kernels.push((release.to_owned(), path.to_owned(), bytes));
            }
            Some(Member::Config(release)) => {
                self.of(release).config = Some((path.to_owned(), text(file)?));
            }
            Some(Member::Builtin(release)) => self.of(release).builtin = Some(text(file)?),
            Some(Member::Order(release)) => self.of(release).order = Some(text(file)?),
            Some(Member::Module(release, name)) => {
                self.module(release, name, path, file, is_wanted)?
            }
            None => {}
        }
        Ok(())
    }

    fn module(
        &mut self,
        release: &str,
        name: &str,
        path: &str,
        file: &mut dyn Read,
        is_wanted: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        let Some(name) = modules::name_of(name) else { return Ok(()) };
        let mut kept = None;
        if is_wanted(&name) {
            let mut bytes = Vec::new();
            // One byte more than a module has shows one that is too large.
            file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes)?;
            self.kept_bytes += bytes.len();
            if self.kept_bytes > MAX_KEPT_BYTES {
                let most = MAX_KEPT_BYTES >> 20;
                return Err(invalid(format!("the modules wanted of it have over {most} MiB")));
            }
            kept = Some(bytes);
        }
        let of = self.of(release);
        if let Some(bytes) = kept {
            // One without a byte in it, too: that it is damaged is for its reader to say.
            of.kept.entry(name.clone()).or_insert(bytes);
        }
        of.modules.entry(name).or_insert_with(|| path.to_owned());
        Ok(())
    }

    fn of(&mut self, release: &str) -> &mut Release {
        self.releases.entry(release.to_owned()).or_default()
    }

    /// What is in it, for whoever looked for something else.
    pub fn summary(&self) -> String {
        let modules: usize = self.releases.values().map(|release| release.modules.len()).sum();
        match (self.files, modules) {
            (0, _) => "it is empty".to_owned(),
            (1, 0) => "1 file, and that is no module either".to_owned(),
            (files, 0) => format!("{files} files, and no module either"),
            (_, 1) => "1 module".to_owned(),
            (_, modules) => format!("{modules} modules"),
        }
    }
}

/// A text file of a package.
fn text(file: &mut dyn Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_what_a_member_is() {
        use Member::{Builtin, Config, Kernel, Module, Order};
        for (path, member) in [
            ("boot/vmlinuz-6.1", Some(Kernel("6.1"))),
            ("lib/modules/6.1/vmlinuz", Some(Kernel("6.1"))),
            ("usr/lib/modules/6.1/config", Some(Config("6.1"))),
            ("usr/lib/modules/6.1/modules.builtin", Some(Builtin("6.1"))),
            ("lib/modules/6.1/modules.order", Some(Order("6.1"))),
            ("lib/modules/6.1/kernel/fs/x.ko.xz", Some(Module("6.1", "x.ko.xz"))),
            ("usr/lib/modules/6.1/extra/y.ko", Some(Module("6.1", "y.ko"))),
            ("boot/System.map-6.1", None),
            ("lib/modules/6.1/modules.builtin.modinfo", None),
            ("usr/lib/debug/boot/vmlinux-6.1", None),
            ("", None),
        ] {
            assert_eq!(Member::of(path), member, "{path}");
        }
    }
}
