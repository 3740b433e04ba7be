// SPDX-License-Identifier: Apache-2.0
//! One module's file: unpacked, and what it says of itself.

use std::io::Read;
use std::path::Path;

use object::{Object, ObjectSection};

use super::{Module, ModulesError};
use crate::kernel_files::{MAX_MODULE_BYTES, module_name};
use crate::plain_file;

/// The file of a module.
pub struct Found {
    /// Its name, for a reader.
    pub file: String,
    /// The folder or the package that it is in.
    pub place: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Memory that the xz decoder may use.
const XZ_MEMORY_LIMIT: u64 = 128 << 20;

/// A module with what its section `.modinfo` says (include/linux/moduleinfo.h and module.h,
/// `MODULE_INFO`: texts `key=value`, each with a NUL at its end).
#[derive(Debug)]
pub struct Described {
    /// What is loaded.
    pub module: Module,
    /// Names of the modules that have to be there before it.
    pub depends: Vec<String>,
    /// Release of the kernel that it is for: the first word of `vermagic`.
    pub release: String,
}

impl Described {
    /// # Errors
    /// It, in the file `module`, is of another kernel than `release`.
    pub fn check(&self, release: Option<&str>, module: &str) -> Result<(), ModulesError> {
        match release.filter(|ours| *ours != self.release) {
            None => Ok(()),
            Some(ours) => Err(ModulesError::Foreign {
                module: format!("module {module}"),
                theirs: self.release.clone(),
                ours: ours.to_owned(),
            }),
        }
    }
}

/// The bytes of a module's file, which may be packed.
///
/// # Errors
/// It cannot be read, or is no module.
pub fn packed(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let mut packed = Vec::new();
    // One byte more than a module has shows one that is too large.
    let mut file =
        plain_file::open(path).map_err(|source| unread(source, path))?.take(MAX_MODULE_BYTES + 1);
    file.read_to_end(&mut packed).map_err(|source| unread(source, path))?;
    Ok(packed)
}

fn unread(source: std::io::Error, path: &Path) -> ModulesError {
    ModulesError::Read { path: path.to_owned(), source }
}

/// Unpacks the module `name`, which `place` names for a reader, and reads what it says of itself.
///
/// # Errors
/// It cannot be unpacked, or is no module.
pub fn describe(name: &str, place: &str, packed: Vec<u8>) -> Result<Described, ModulesError> {
    let most = MAX_MODULE_BYTES >> 20;
    if packed.len() as u64 > MAX_MODULE_BYTES {
        return Err(damaged(format!("it has over {most} MiB, more than any module"), place));
    }
    let bytes =
        unpack(packed).map_err(|error| damaged(format!("it does not unpack: {error}"), place))?;
    let info = info(&bytes).map_err(|reason| damaged(reason, place))?;
    let depends = info_value("depends", &info).split(',').filter(|name| !name.is_empty());
    let depends = depends.map(module_name).collect();
    let release = info_value("vermagic", &info).split(' ').next().unwrap_or_default().to_owned();
    if release.is_empty() {
        return Err(damaged("it does not say which kernel it is for (vermagic)".into(), place));
    }
    Ok(Described { module: Module::new(name.to_owned(), bytes), depends, release })
}

fn damaged(reason: String, place: &str) -> ModulesError {
    ModulesError::Damaged { module: place.to_owned(), reason }
}

fn info_value<'a>(key: &str, info: &'a [&'a str]) -> &'a str {
    let text = info.iter().find_map(|text| text.strip_prefix(key)?.strip_prefix('='));
    text.unwrap_or_default()
}

/// By its first bytes: a name may lie, and MODULE_COMPRESS gives each its own suffix.
fn unpack(packed: Vec<u8>) -> Result<Vec<u8>, String> {
    match packed.as_slice() {
        [0x1f, 0x8b, ..] => {
            read_limited(&mut flate2::bufread::MultiGzDecoder::new(packed.as_slice()))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_LIMIT, 0)
                .map_err(|error| error.to_string())?;
            read_limited(&mut liblzma::bufread::XzDecoder::new_stream(packed.as_slice(), stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed.as_slice());
            let decoder = decoder.as_mut().map_err(|error| error.to_string())?;
            read_limited(decoder)
        }
        _ => Ok(packed),
    }
}

fn read_limited(reader: &mut dyn std::io::Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = reader
        .take(MAX_MODULE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if read as u64 > MAX_MODULE_BYTES {
        return Err(format!("it comes to more than {} MiB", MAX_MODULE_BYTES >> 20));
    }
    Ok(bytes)
}

/// The texts of `.modinfo`.
fn info(bytes: &[u8]) -> Result<Vec<&str>, String> {
    if bytes.is_empty() {
        return Err("it is empty".into());
    }
    let file = object::File::parse(bytes).map_err(|error| format!("it is no ELF file: {error}"))?;
    let machine = file.architecture();
    if machine != object::Architecture::X86_64 {
        return Err(format!("it is for {machine:?}, not x86-64"));
    }
    let section = file.section_by_name(".modinfo").ok_or("it has no section .modinfo")?;
    let data = section.data().map_err(|error| format!("its .modinfo cannot be read: {error}"))?;
    Ok(data.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok()).collect())
}
