// SPDX-License-Identifier: Apache-2.0
//! Kernel modules: loaded by PID 1 before anything else, since the way to the host may be one.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use thiserror::Error;

/// How a packed module begins (gzip, RFC 1952). One that begins otherwise is as the kernel takes it.
pub const PACKED: [u8; 3] = [0x1f, 0x8b, 8];

/// A module that the kernel does not take.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// It cannot be read.
    #[error("the modules in {} cannot be read", folder.display())]
    Read {
        /// Where they are.
        folder: PathBuf,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// It is refused.
    #[error("module {name} cannot be loaded: {}{}", reason(error), in_its_words(log))]
    Refused {
        /// Its name.
        name: String,
        /// What the kernel returned.
        error: io::Error,
        /// What it said of it in its log.
        log: Vec<String>,
    },
}

/// Why, by the kernel's errors (kernel/module/main.c, `load_module`).
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel takes no modules (CONFIG_MODULES)".into(),
        Some(libc::ENOEXEC) => "it is of another kernel or another configuration".into(),
        Some(libc::ENOENT) => "the kernel has no symbol that it needs".into(),
        Some(libc::EKEYREJECTED | libc::ENOKEY | libc::EBADMSG) => {
            "the kernel takes no module without a signature that it knows \
             (CONFIG_MODULE_SIG_FORCE), or this was changed after it was signed"
                .into()
        }
        Some(libc::EPERM) => {
            "the kernel takes no module, or none without a signature (its lockdown, modules_disabled)"
                .into()
        }
        _ => error.to_string(),
    }
}

fn in_its_words(log: &[String]) -> String {
    let words = log.join("; ");
    if words.is_empty() { words } else { format!(" (the kernel: {words})") }
}

/// Names and files of the modules in a folder, in order; none where there is no such folder.
///
/// # Errors
/// The folder is there and cannot be read.
pub fn files(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    let named = paths.into_iter().filter_map(|path| {
        let name = path.file_stem()?.to_str()?.split_once('-')?.1.to_owned();
        Some((name, path))
    });
    Ok(named.collect())
}

/// Loads the modules in a folder, one after the other, and says which they are.
///
/// # Errors
/// The first that the kernel does not take.
pub fn load_all(folder: &Path) -> Result<Vec<String>, ModuleError> {
    let mut loaded = Vec::new();
    for (name, path) in files(folder).map_err(|source| unread(source, folder))? {
        let file = fs::read(&path).map_err(|source| unread(source, folder))?;
        let module = unpacked(&file).map_err(|source| unread(source, folder))?;
        match load(&module) {
            Ok(()) => {}
            // Built in, or loaded by the kernel itself meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => {
                let log = said_of(&name, &kernel_log());
                return Err(ModuleError::Refused { name, error, log });
            }
        }
        loaded.push(name);
    }
    Ok(loaded)
}

fn unread(source: io::Error, folder: &Path) -> ModuleError {
    ModuleError::Read { folder: folder.to_owned(), source }
}

/// What the kernel takes of a module that may be packed: kernels that unpack modules themselves
/// (`MODULE_DECOMPRESS`) are few.
fn unpacked(file: &[u8]) -> io::Result<Cow<'_, [u8]>> {
    if !file.starts_with(&PACKED) {
        return Ok(file.into());
    }
    let mut module = Vec::new();
    GzDecoder::new(file).read_to_end(&mut module)?;
    Ok(module.into())
}

/// init_module(2), without parameters.
fn load(module: &[u8]) -> io::Result<()> {
    Ok(rustix::system::init_module(module, c"")?)
}

/// The end of the kernel's log; empty where it cannot be read.
fn kernel_log() -> String {
    /// SYSLOG_ACTION_READ_ALL (include/linux/syslog.h).
    const READ_ALL: libc::c_int = 3;
    const MAX_BYTES: usize = 16 << 10;
    let mut buffer = vec![0u8; MAX_BYTES];
    // SAFETY: the kernel writes at most as many bytes as it is told that there is room for.
    let read = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), 16 << 10) };
    buffer.truncate(usize::try_from(read).unwrap_or(0));
    String::from_utf8_lossy(&buffer).into_owned()
}

/// Lines of the log that begin with a module's name, and the last one that says of none by name why
/// it was refused, without their level and time.
fn said_of(name: &str, log: &str) -> Vec<String> {
    let lines = log.lines().map(|line| line.rsplit_once("] ").map_or(line, |(_, text)| text));
    let refusal = lines.clone().rfind(|text| is_refusal(text));
    lines
        .filter(|text| text.starts_with(&format!("{name}: ")))
        .chain(refusal)
        .map(str::to_owned)
        .collect()
}

/// Whether this is how signatures are told of (kernel/module/signing.c), or the kernel's lockdown
/// (security/lockdown/lockdown.c).
fn is_refusal(text: &str) -> bool {
    text.starts_with("Loading of ") && text.ends_with(" is rejected")
        || text.starts_with("Lockdown: ") && text.contains("module loading is restricted")
}

#[cfg(test)]
mod tests {
    use protocol::names::module_file;

    use super::*;

    #[test]
    fn the_order_of_names_is_the_order_to_load() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["virtio_ring", "virtio", "virtio_mmio"];
        for (place, name) in names.iter().enumerate() {
            fs::write(folder.path().join(module_file(place, name)), name).unwrap();
        }
        let found = files(folder.path()).unwrap();
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(files(&folder.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_refusal_names_the_module_and_what_the_kernel_said() {
        let log = "<6>[    0.9] Run /init\n<3>[    1.0] kvm: disagrees about version of symbol \
                   module_layout\n<3>[    1.1] kvm_amd: other\n";
        let log = said_of("kvm", log);
        assert_eq!(log, ["kvm: disagrees about version of symbol module_layout"]);
        let error = io::Error::from_raw_os_error(libc::ENOEXEC);
        let error = ModuleError::Refused { name: "kvm".into(), error, log };
        let text = error.to_string();
        assert!(text.starts_with("module kvm cannot be loaded: it is of another kernel"), "{text}");
        assert!(
            text.ends_with("(the kernel: kvm: disagrees about version of symbol module_layout)")
        );
    }

    #[test]
    fn a_packed_module_is_unpacked_and_a_plain_one_is_not() {
        let plain = b"\x7fELF and more";
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut packer, plain).unwrap();
        let packed = packer.finish().unwrap();
        assert!(packed.starts_with(&PACKED));
        assert_eq!(*unpacked(&packed).unwrap(), *plain);
        assert_eq!(*unpacked(plain).unwrap(), *plain);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(module_file(0, "short")), &packed[..packed.len() - 4])
            .unwrap();
        let error = load_all(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(" cannot be read"), "{error}");
    }

    #[test]
    fn what_is_no_module_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load_all(folder.path()).unwrap(), Vec::<String>::new());
        fs::write(folder.path().join(module_file(0, "bad")), b"no ELF").unwrap();
        let error = load_all(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("module bad cannot be loaded: "), "{error}");
    }

    /// As the kernels of distributions say it, which take what they have signed.
    #[test]
    fn a_refusal_has_the_kernels_words_on_signatures_and_symbols() {
        let said = |errno, log: &str| {
            let log = said_of("virtio_mmio", log);
            let error = io::Error::from_raw_os_error(errno);
            ModuleError::Refused { name: "virtio_mmio".into(), error, log }.to_string()
        };
        for (errno, words, reason) in [
            (libc::ENOENT, "virtio_mmio: Unknown symbol vring_new (err -2)", "no symbol that it"),
            (libc::EKEYREJECTED, "Loading of unsigned module is rejected", "without a signature"),
            (
                libc::EPERM,
                "Lockdown: init: unsigned module loading is restricted; see man kernel_lockdown.7",
                "its lockdown",
            ),
        ] {
            let log = format!("<6>[    0.9] Run /init\n<5>[    1.0] {words}\n<6>[    1.1] x: y\n");
            let text = said(errno, &log);
            assert!(text.starts_with("module virtio_mmio cannot be loaded: the kernel "), "{text}");
            assert!(text.contains(reason), "{text}");
            assert!(text.ends_with(&format!("(the kernel: {words})")), "{text}");
        }
    }
}
