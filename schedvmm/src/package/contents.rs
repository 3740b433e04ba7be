// SPDX-License-Identifier: Apache-2.0
//! What a package has of a kernel, found in one reading of it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use vmm::x86_64::magic::MAX_IMAGE_BYTES;

use super::invalid;
use crate::kernel_files::{
    BUILTIN, MAX_CONFIG_BYTES, MAX_LIST_BYTES, MAX_MODULE_BYTES, ORDER, name_of,
};

/// The kernel's name in a folder of its release.
pub const KERNEL: &str = "vmlinuz";
/// What is kept beside the kernel has no more in all; a bound for hostile packages.
const MAX_KEPT_BYTES: usize = 256 << 20;
/// A file of which no more is kept than its path takes so much memory beside that.
const ENTRY_BYTES: usize = 128;

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
                name_of(file).map(|_| Self::Module(release, file))
            }
        }
    }
}

/// What was found in a package.
#[derive(Debug, Default)]
pub struct Contents {
    /// Those that differ.
    pub kernels: Vec<Kernel>,
    /// What else there is of a kernel, by its release.
    pub releases: BTreeMap<String, Release>,
    /// How many files there are.
    files: usize,
    kept_bytes: usize,
}

/// A kernel in a package, and its copies there.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Releases by the names of all of them.
    pub releases: Vec<String>,
    /// Path of the first one.
    pub path: String,
    /// What is in it; nothing, if it is not the first kernel.
    pub bytes: Vec<u8>,
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
            Some(Member::Kernel(release)) => self.kernel(release, path, file)?,
            Some(Member::Config(release)) => {
                let text = self.text(path, file, MAX_CONFIG_BYTES)?;
                self.of(release).config = Some((path.to_owned(), text));
            }
            Some(Member::Builtin(release)) => {
                let text = self.text(path, file, MAX_LIST_BYTES)?;
                self.of(release).builtin = Some(text);
            }
            Some(Member::Order(release)) => {
                let text = self.text(path, file, MAX_LIST_BYTES)?;
                self.of(release).order = Some(text);
            }
            Some(Member::Module(release, _)) => {
                self.module(release, path, file, is_wanted)?;
            }
            None => {}
        }
        Ok(())
    }

    /// Copies of one kernel are one, whatever they are called, and two builds of one release are two.
    fn kernel(&mut self, release: &str, path: &str, file: &mut dyn Read) -> io::Result<()> {
        self.count(2 * path.len() + ENTRY_BYTES)?;
        let (releases, path) = (vec![release.to_owned()], path.to_owned());
        let Some(first) = self.kernels.first_mut() else {
            let bytes = read(&path, file, MAX_IMAGE_BYTES)?;
            self.kernels.push(Kernel { releases, path, bytes });
            return Ok(());
        };
        if has_only(&first.bytes, file)? {
            first.releases.extend(releases);
        } else {
            self.kernels.push(Kernel { releases, path, bytes: Vec::new() });
        }
        Ok(())
    }

    fn module(
        &mut self,
        release: &str,
        path: &str,
        file: &mut dyn Read,
        is_wanted: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        let file_name = path.rsplit('/').next().unwrap_or(path);
        let Some(name) = name_of(file_name) else { return Ok(()) };
        self.count(name.len() + path.len() + ENTRY_BYTES)?;
        let kept = is_wanted(&name).then(|| self.keep(path, file, MAX_MODULE_BYTES)).transpose()?;
        let of = self.of(release);
        if let Some(bytes) = kept {
            // One without a byte in it, too: that it is damaged is for its reader to say.
            of.kept.entry(name.clone()).or_insert(bytes);
        }
        of.modules.entry(name).or_insert_with(|| path.to_owned());
        Ok(())
    }

    /// A text file.
    fn text(&mut self, path: &str, file: &mut dyn Read, most_bytes: u64) -> io::Result<String> {
        let bytes = self.keep(path, file, most_bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All of a file that has at most `most_bytes`.
    fn keep(&mut self, path: &str, file: &mut dyn Read, most_bytes: u64) -> io::Result<Vec<u8>> {
        let bytes = read(path, file, most_bytes)?;
        self.count(path.len() + bytes.len() + ENTRY_BYTES)?;
        Ok(bytes)
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        self.kept_bytes += bytes;
        if self.kept_bytes > MAX_KEPT_BYTES {
            let most = MAX_KEPT_BYTES >> 20;
            return Err(invalid(format!("what is wanted of it has over {most} MiB")));
        }
        Ok(())
    }

    fn of(&mut self, release: &str) -> &mut Release {
        self.releases.entry(release.to_owned()).or_default()
    }

    /// Whether it has modules of this kernel, or lists of them.
    pub fn has_modules(&self, release: &str) -> bool {
        let of = self.releases.get(release);
        of.is_some_and(|of| !of.modules.is_empty() || of.builtin.is_some() || of.order.is_some())
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

/// All of a file that has at most `most_bytes`.
fn read(path: &str, file: &mut dyn Read, most_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more shows that there are more.
    file.take(most_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        let most = most_bytes >> 20;
        return Err(invalid(format!(
            "its {path} has over {most} MiB, more than any file of its kind"
        )));
    }
    Ok(bytes)
}

/// Whether these bytes are all that is in a file.
fn has_only(mut bytes: &[u8], file: &mut dyn Read) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        match bytes.strip_prefix(&buffer[..read]) {
            _ if read == 0 => return Ok(bytes.is_empty()),
            Some(rest) => bytes = rest,
            None => return Ok(false),
        }
    }
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

    #[test]
    fn what_is_kept_is_bounded() {
        const MIB: u64 = 1 << 20;
        let mut contents =
            Contents { kept_bytes: MAX_KEPT_BYTES - (5 << 20), ..Contents::default() };
        let mut take = |path: &str, bytes: u64| {
            let taken = contents.take(path, &mut io::repeat(b'x').take(bytes), |_| true);
            taken.map_err(|error| error.to_string())
        };
        for path in
            ["boot/config-1", "lib/modules/1/modules.order", "lib/modules/1/modules.builtin"]
        {
            assert_eq!(take(path, MIB), Ok(()), "{path}");
        }
        assert_eq!(take("lib/modules/1/kernel/a.ko", MIB), Ok(()));
        for path in ["boot/config-2", "lib/modules/2/modules.order", "lib/modules/2/kernel/a.ko"] {
            let error = take(path, MIB).expect_err(path);
            assert!(error.contains("what is wanted of it has over 256 MiB"), "{path}: {error}");
        }
        // None is cut, and the rest of it taken for all.
        let mut contents = Contents::default();
        let mut long = io::repeat(b'x').take(MAX_CONFIG_BYTES + 1);
        let error =
            contents.take("boot/config-1", &mut long, |_| true).expect_err("long").to_string();
        assert!(error.contains("its boot/config-1 has over 4 MiB"), "{error}");
    }

    /// However little each of them has.
    #[test]
    fn many_small_files_are_bounded_too() {
        let mut contents = Contents { kept_bytes: MAX_KEPT_BYTES - 9000, ..Contents::default() };
        let mut names = (0..100).map(|n| format!("lib/modules/{n}/kernel/a.ko"));
        let full = names.find(|name| contents.take(name, &mut io::empty(), |_| false).is_err());
        assert!(full.is_some());
    }
}
