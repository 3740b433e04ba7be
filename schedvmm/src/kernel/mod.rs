// SPDX-License-Identifier: Apache-2.0
//! The kernel under test: from whatever the user named it by to the image, and what is known of
//! how it was configured.

mod config;
mod folder;
mod name;
mod packaged;

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vmm::config::Transport;
use vmm::x86_64::elf;
use vmm::x86_64::image::KernelImage;
use vmm::x86_64::image_error::ImageError;
use vmm::x86_64::lint::Lint;
use vmm::x86_64::magic::MAX_IMAGE_BYTES;
use vmm::x86_64::wrapped;

pub use self::config::{Configuration, Source};
pub use self::folder::kernel as in_folder;
pub use self::name::is_bare_name;

use crate::modules::{Lists, Packed, Tree};
use crate::package::{Package, PackageError};
use crate::status::Failure;
use crate::status::Owned;

/// First version that can be told the frequency of its TSC (`tsc_early_khz`, x86/tsc of 5.8).
pub const TELLS_TSC: (u32, u32) = (5, 8);

/// A kernel that cannot be had by that name, or a kernel file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelFileError {
    /// It cannot be read.
    #[error("cannot read kernel {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// There is nothing of that name.
    #[error(
        "there is no kernel {}; name a file, a folder, a package, the release of an installed \
         kernel, or `running`", .0.display()
    )]
    NotThere(PathBuf),
    /// This user may not read it.
    #[error(
        "cannot read kernel {}: its mode is {mode:04o}, which leaves this user out; copy it with \
         `sudo install -m 644 {} NEW` and give NEW",
        .path.display(), quoted(.path)
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// This user may not look into a folder.
    #[error(
        "cannot look for a kernel in {}: its mode is {mode:04o}, which leaves this user out; copy \
         the kernel out of it with `sudo install -m 644 {} NEW` and give NEW",
        .path.display(), quoted(.kernel)
    )]
    FolderMode {
        /// The folder.
        path: PathBuf,
        /// The kernel in it, as far as that is known.
        kernel: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no plain file.
    #[error("kernel {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is a folder without a kernel.
    #[error("kernel {} is a folder: give the bzImage, vmlinuz or vmlinux in it", .0.display())]
    Folder(PathBuf),
    /// It is a folder without a kernel, and with packages.
    #[error(
        "kernel {} is a folder of packages: name the one with the kernel (linux-image-*, \
         linux-binary-*, kernel-core-*)",
        .0.display()
    )]
    Packages(PathBuf),
    /// Nothing was built yet.
    #[error(
        "kernel {} is a build tree without a bzImage: run `make bzImage` there (with `make O=DIR`, \
         give DIR)",
        .0.display()
    )]
    NotBuilt(PathBuf),
    /// It is not clear which one is meant.
    #[error(
        "{} has several kernels: {kernels}; name one of them (unpack a package first)",
        .path.display()
    )]
    Several {
        /// The folder or the package.
        path: PathBuf,
        /// Their names.
        kernels: String,
    },
    /// It is not there.
    #[error(
        "no kernel {version} is installed here: looked for {looked}; name a file, a build tree, a \
         package or a folder that one was unpacked into"
    )]
    NotInstalled {
        /// Its release.
        version: String,
        /// Where it might be.
        looked: String,
    },
    /// A package of something else, or of modules, or one that only depends on others.
    #[error(
        "package {} has no kernel in it: {holds}; give the package with boot/vmlinuz-* or \
         lib/modules/*/vmlinuz (of Debian: linux-image-*, from Linux 6.19 on linux-binary-*; of \
         Fedora and its like: kernel-core)",
        .path.display()
    )]
    NoKernel {
        /// The package.
        path: PathBuf,
        /// What is in it.
        holds: String,
    },
    /// A package that does not unpack.
    #[error(transparent)]
    Package(PackageError),
    /// It cannot be told how fast its TSC is.
    #[error(
        "kernel {} is Linux {}.{}, and --pv off needs {}.{} or later: without KVM's clock a guest \
         must be told its TSC's frequency (tsc_early_khz); take --pv clock",
        .path.display(), .version.0, .version.1, TELLS_TSC.0, TELLS_TSC.1
    )]
    NoClock {
        /// The file.
        path: PathBuf,
        /// Version and patch level.
        version: (u32, u32),
    },
    /// It is larger than any kernel.
    #[error("kernel {} has {len} bytes, more than any kernel; give a bzImage, or `strip` it of what is for debuggers", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// It is no kernel for us.
    #[error("kernel {}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    // What no shell can be given has a NUL in it, as no path has.
    shlex::try_quote(&path).map_or_else(|_| path.to_string(), |quoted| quoted.into_owned())
}

/// An error of the kernel file's contents, with the file's name before it.
pub fn unusable(path: &Path, error: impl Error + Send + Sync + 'static) -> KernelFileError {
    KernelFileError::Unusable { path: path.to_owned(), source: Box::new(error) }
}

/// A kernel, and where it came from.
#[derive(Debug)]
pub struct Kernel {
    /// Its image, its headers checked.
    pub image: KernelImage,
    /// The file that was read.
    pub path: PathBuf,
    /// Where in that file it was: its path in a package, what it was unpacked from.
    pub inside: Vec<String>,
    /// As `uname -r` will have it, where the image tells.
    pub release: Option<String>,
    /// Its modules, where there are any, or lists of them.
    pub tree: Option<Tree>,
    /// What its configuration is by a file beside it.
    config: Option<Configuration>,
    /// What whoever reads a result should know of it.
    notes: Vec<String>,
}

/// A kernel's bytes, and what lay beside them.
#[derive(Debug, Default)]
struct Found {
    path: PathBuf,
    /// The path in the package.
    member: Option<String>,
    bytes: Vec<u8>,
    config: Option<Configuration>,
    /// The package, and the release that it has the kernel under.
    package: Option<(Packed, String)>,
    notes: Vec<String>,
}

/// Facts about a kernel without booting it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// "Linux version …".
    pub banner: Option<String>,
    /// As `uname -r` will have it.
    pub release: Option<String>,
    /// Version and patch level.
    pub version: Option<(u32, u32)>,
    /// In hexadecimal digits.
    pub build_id: Option<String>,
    /// Its configuration.
    pub config: Option<Configuration>,
    /// Which drivers it has as modules.
    pub modules: Option<Lists>,
    /// Modules that a run loads first.
    pub loaded: Vec<String>,
    /// The only transport that will do, where one is asked for.
    pub asked: Option<Transport>,
    /// Remark for the reader of all this.
    pub notes: Vec<String>,
}

/// Finds the kernel that `named` means, reads it and checks its headers; `modules` are folders and
/// packages that the user has named for its modules, which else are looked for beside it.
///
/// # Errors
/// One that is not there is a mistake in the request; one that is bad cannot be tested. The same of
/// its modules.
pub fn open(named: &Path, modules: &[PathBuf]) -> Result<Kernel, Failure> {
    open_below(Path::new("/"), named, modules)
}

/// The same on a machine that has its kernels below `root`, as in tests.
fn open_below(root: &Path, named: &Path, modules: &[PathBuf]) -> Result<Kernel, Failure> {
    let path = name::file(root, named)?;
    let found = read(&path)?;
    let (bytes, wrappings) =
        wrapped::unwrap(found.bytes).map_err(|error| refused(error, &found.path))?;
    let image = KernelImage::parse(bytes).map_err(|error| refused(error, &found.path))?;
    let release = image.release();
    let beside = match found.package {
        Some((package, release)) => Some(Tree::of_package(package, &release)?),
        None => Tree::beside(root, &found.path, release.as_deref()),
    };
    let named = (!modules.is_empty())
        .then(|| Tree::named(modules, release.as_deref(), beside.as_ref()))
        .transpose()?;
    let mut notes = found.notes;
    let (config, told) = match found.config {
        Some(config) => (Some(config), Vec::new()),
        None => config::around(
            (root, &found.path),
            release.as_deref(),
            [&named, &beside].into_iter().flatten(),
        ),
    };
    notes.extend(told);
    notes.extend(folder::staleness(&found.path));
    let tree = named.or(beside);
    notes.extend(tree.iter().flat_map(Tree::notes).cloned());
    let (config, told) = match (config, &tree) {
        (None, Some(tree)) => config::in_module(tree, release.as_deref()),
        (config, _) => (config, None),
    };
    notes.extend(told);
    let inside = found.member.into_iter().chain(wrappings.iter().map(ToString::to_string));
    Ok(Kernel { image, path: found.path, inside: inside.collect(), release, tree, config, notes })
}

fn refused(error: ImageError, path: &Path) -> Failure {
    Failure::new(error.owner(), unusable(path, error))
}

/// The bytes of a kernel file, or of the one kernel in a package.
fn read(path: &Path) -> Result<Found, KernelFileError> {
    let metadata = fs::metadata(path).map_err(|error| denied(path, error))?;
    if !metadata.is_file() {
        return Err(KernelFileError::NotAFile(path.to_owned()));
    }
    if let Some(package) = Package::open(path).map_err(|error| denied(path, error))? {
        return packaged::kernel(package);
    }
    let len = metadata.len();
    let file = File::open(path).map_err(|error| denied(path, error))?;
    let wanted = if len > MAX_IMAGE_BYTES { loaded_len(&file) } else { len };
    if wanted > MAX_IMAGE_BYTES {
        return Err(KernelFileError::TooLarge { path: path.to_owned(), len });
    }
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes).map_err(|error| denied(path, error))?;
    Ok(Found { path: path.to_owned(), bytes, ..Found::default() })
}

/// How much of a large file is loaded: a vmlinux may be mostly for debuggers. All of it, where that
/// cannot be told.
fn loaded_len(mut file: &File) -> u64 {
    const HEADERS_BYTES: usize = 4096;
    let mut begin = [0; HEADERS_BYTES];
    let read = file.read_exact(&mut begin).and_then(|()| file.rewind());
    read.ok().and_then(|()| elf::loaded_len(&begin)).unwrap_or(u64::MAX)
}

/// Why a file that is there cannot be read.
fn denied(path: &Path, source: io::Error) -> KernelFileError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        if let Some(mode) = mode(path) {
            return KernelFileError::Mode { path: path.to_owned(), mode };
        }
        if let Some((folder, mode)) = barring(path) {
            return KernelFileError::FolderMode { path: folder, kernel: path.to_owned(), mode };
        }
    }
    match source.kind() {
        io::ErrorKind::NotFound => KernelFileError::NotThere(path.to_owned()),
        _ => KernelFileError::Read { path: path.to_owned(), source },
    }
}

/// Permission bits, where they can be seen.
fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o7777)
}

/// The same of a kernel that may be at `path`, for all that can be seen.
fn barred(path: &Path) -> Option<KernelFileError> {
    let (folder, mode) = barring(path)?;
    let kernel = folder.join("KERNEL");
    Some(KernelFileError::FolderMode { path: folder, kernel, mode })
}

/// The folder that keeps this user from looking at `path`, if that is why it cannot be looked at: the
/// last one on the way there that can be seen; and its permission bits.
fn barring(path: &Path) -> Option<(PathBuf, u32)> {
    let error = fs::metadata(path).err()?;
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    path.ancestors().skip(1).find_map(|folder| {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Some((folder.to_owned(), mode(folder)?))
    })
}

impl Kernel {
    /// Puts together what is known beside the image, what the unpacked image tells of itself, its
    /// build ID, and the modules that a run loads first.
    ///
    /// Where the image carries a configuration and a file beside it has another, the image knows
    /// better: the file may be of the next build, or of another kernel with this release.
    pub fn known(&self, lint: Lint, build_id: Option<String>, loaded: &[&str]) -> Known {
        let mut notes = self.notes.clone();
        let own = lint.config.map(|options| Configuration { options, source: Source::Image });
        let config = match (&self.config, own) {
            (Some(beside), Some(own)) if beside.options != own.options => {
                notes.push(format!(
                    "{} is not the configuration that the kernel itself carries, which counts",
                    beside.source
                ));
                Some(own)
            }
            (Some(beside), _) => Some(beside.clone()),
            (None, own) => own,
        };
        Known {
            banner: lint.banner,
            release: self.release.clone(),
            version: self.image.version(),
            build_id,
            config,
            loaded: loaded.iter().map(|name| (*name).to_owned()).collect(),
            asked: None,
            modules: self.tree.as_ref().map(|tree| tree.lists().clone()),
            notes,
        }
    }

    /// Whether a file beside it tells that it can draw on a screen in memory before it has a
    /// console.
    pub fn can_draw(&self) -> bool {
        let options = self.config.as_ref().map(|config| &config.options);
        options.and_then(|options| options.get("CONFIG_EARLY_PRINTK")).is_some_and(|is| is == "y")
    }

    /// Where it came from: the file, and where in it.
    pub fn place(&self) -> String {
        let path = self.path.display();
        match self.inside.as_slice() {
            [] => path.to_string(),
            inside => format!("{path} ({})", inside.join(", ")),
        }
    }
}

impl Known {
    /// `CONFIG_X` to its value, where the configuration is known.
    pub fn options(&self) -> Option<&HashMap<String, String>> {
        self.config.as_ref().map(|config| &config.options)
    }

    /// Where the configuration was found, for a reader.
    pub fn config_place(&self) -> String {
        self.config
            .as_ref()
            .map_or_else(|| "not known".to_owned(), |config| config.source.to_string())
    }

    /// The choice, in a line.
    pub fn line(&self, kernel: &Kernel) -> String {
        let release = self.release.as_deref().unwrap_or("of a release that it does not tell");
        format!(
            "kernel {}: Linux {release}; configuration: {}",
            kernel.place(),
            self.config_place()
        )
    }
}

#[cfg(test)]
mod tests;
