// SPDX-License-Identifier: Apache-2.0
//! Kernel modules that a guest needs before it can do its job: found in folders and packages, put
//! into an order in which they load, and unpacked.
//!
//! - `lists`: what is built in, and what is a module
//! - `folder`, `packed`: a folder of modules, as it is installed, unpacked or built; a package
//! - `tree`: all modules of a kernel
//! - `closure`: those that are needed, in order
//! - `drivers`: which way to its devices takes fewest
//! - `file`: one module's file

mod closure;
mod drivers;
mod file;
mod folder;
mod lists;
mod packed;
mod tree;

use std::cell::OnceCell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use guest::modules::PACKED;
use initrd_builder::{Archive, InitrdError};
use protocol::names::module_file;
use vmm::config::Transport;

pub use self::drivers::Drivers;
pub use self::lists::{Driver, Lists, belied};
pub use self::packed::{Packed, is_likely};
pub use self::tree::Tree;
use crate::package::PackageError;

/// The console's driver. Together with the transport's it is the guest's way to its host.
pub const CONSOLE: &str = "virtio_console";
/// What carries the configuration of a kernel with `IKCONFIG=m`.
const CONFIGS: &str = "configs";
/// What a machine may want to load, with what these need in the kernels that were looked at. Others
/// are found, too, by another reading of their package.
const LIKELY: [&str; 13] = [
    CONFIGS,
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_pci",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    CONSOLE,
    "irqbypass",
    "ccp",
    "kvm",
    "kvm_amd",
    "kvm_intel",
];
/// Of gzip, for modules in an initrd. Zstandard's packer would be half a megabyte in each initrd.
const LEVEL: u32 = 6;

/// Modules that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The folder or package cannot be read.
    #[error("the kernel modules in {} cannot be read", .path.display())]
    Read {
        /// The folder, or what is in it.
        path: PathBuf,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// A list of them is there, and cannot be read.
    #[error(
        "the list of modules {} cannot be read; let this user read it, or make it anew (depmod makes \
         modules.dep, the kernel's build the others)", .path.display()
    )]
    List {
        /// The list.
        path: PathBuf,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// A package cannot be read.
    #[error(transparent)]
    Package(PackageError),
    /// It is a file of something else.
    #[error(
        "{} is neither a folder nor a package (.deb, .rpm) of modules; give --modules a folder like \
         /lib/modules/RELEASE, a package, or the kernel's build tree", .0.display()
    )]
    NeitherOf(PathBuf),
    /// There are none.
    #[error(
        "there is no kernel module in {0}; give --modules a folder like /lib/modules/RELEASE, the \
         package with the modules or a folder into which it was unpacked, or the kernel's build tree"
    )]
    None(String),
    /// Those of several kernels are there.
    #[error("modules of several kernels are in {}; give --modules one of {list}", .folder.display())]
    Several {
        /// The folder or the package.
        folder: PathBuf,
        /// What it could have been.
        list: String,
    },
    /// There is no end to it.
    #[error(
        "over {most} files and folders are in {}; give --modules the modules' own folder",
        .folder.display()
    )]
    Endless {
        /// The folder.
        folder: PathBuf,
        /// Most that are looked at.
        most: usize,
    },
    /// It cannot be unpacked, or is no module.
    #[error("module {module} is damaged: {reason}; install or build it again")]
    Damaged {
        /// Its file.
        module: String,
        /// What is wrong.
        reason: String,
    },
    /// It is another kernel's.
    #[error(
        "{module} is of kernel {theirs}, and the kernel to be booted is {ours}; give \
         --modules of the same build"
    )]
    Foreign {
        /// What it is, with its file, or the folder or the package of all of them.
        module: String,
        /// The release it was built for.
        theirs: String,
        /// The kernel's.
        ours: String,
    },
    /// A module that another one needs is not there.
    #[error(
        "module {needed}, which {by} needs, is neither in {place} nor built in; install all of the \
         kernel's modules, or give all of its packages to --modules"
    )]
    Missing {
        /// Its name.
        needed: String,
        /// Who needs it.
        by: String,
        /// Where it was looked for.
        place: String,
    },
}

/// Modules in the order in which they load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    list: Vec<Module>,
    /// Where they were found; `None` in a guest, which was given them.
    from: Option<String>,
}

/// A module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// What the kernel takes, its signature at the end included; in a guest, which hands it on, as
    /// the initrd has it.
    bytes: Vec<u8>,
    /// The same packed, once it is wanted.
    packed: OnceCell<Vec<u8>>,
}

impl Module {
    /// One of these bytes.
    pub fn new(name: String, bytes: Vec<u8>) -> Self {
        Self { name, bytes, packed: OnceCell::new() }
    }

    /// As it lies in an initrd, for PID 1 to unpack.
    fn packed(&self) -> &[u8] {
        if self.bytes.starts_with(&PACKED) {
            return &self.bytes;
        }
        // One that does not pack is taken as it is.
        let pack = || pack(&self.bytes).unwrap_or_else(|_| self.bytes.clone());
        self.packed.get_or_init(pack)
    }
}

fn pack(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    packer.write_all(bytes)?;
    packer.finish()
}

impl Modules {
    /// The same again, as [`add_to`](Self::add_to) has laid them down.
    ///
    /// # Errors
    /// A file cannot be read. A folder that is not there has none.
    pub fn read(folder: &Path) -> io::Result<Self> {
        guest::modules::files(folder)?
            .into_iter()
            .map(|(name, path)| Ok(Module::new(name, fs::read(path)?)))
            .collect::<io::Result<_>>()
            .map(|list| Self { list, from: None })
    }

    /// Puts them into an initrd, for the agent to load.
    ///
    /// # Errors
    /// The archive takes no more.
    pub fn add_to(&self, archive: &mut Archive, folder: &str) -> Result<(), InitrdError> {
        for (place, module) in self.list.iter().enumerate() {
            let path = format!("{folder}/{}", module_file(place, &module.name));
            archive.file(&path, 0o644, module.packed())?;
        }
        Ok(())
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the guest's way to its host is among them: it has no voice until it has loaded
    /// these.
    pub fn bring_console(&self) -> bool {
        self.has(CONSOLE) || Transport::ALL.iter().any(|transport| self.has(transport.module()))
    }

    /// Whether this one is among them.
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|module| module.name == name)
    }

    /// What a reader of the figures should know: which they are, and where they come from.
    pub fn note(&self) -> Option<String> {
        let (names, from) = (self.names().join(", "), self.from()?);
        Some(format!("the kernel loads {names} first, from {from}"))
    }

    /// Where they come from.
    pub fn from(&self) -> Option<&str> {
        self.from.as_deref().filter(|_| !self.is_empty())
    }

    /// What they are called, in order.
    pub fn names(&self) -> Vec<&str> {
        self.list.iter().map(|module| module.name.as_str()).collect()
    }

    /// Of all of them, unpacked.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(|module| module.bytes.len()).sum()
    }

    /// What they take of an initrd, each with its name.
    pub fn packed_bytes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.list.iter().map(|module| (module.name.as_str(), module.packed().len()))
    }
}

#[cfg(test)]
mod tests;
